"""Whether solids that a model draws from texts have the proportions that the texts say.

    python tests/benchmarks/texts.py RUN --shards shards/solids-text --num 8 --guidance 1 3 5

For each word of each class (`inrflow_core/datasets/_solid_captions.py`) it draws the shapes of `a WORD CLASS` at the seeds 0 ... num - 1,
and for each class those of `a CLASS`. It prints for each scale of guidance the share of the former

    class       whose nearest held-out shape by Chamfer distance (512 points of each) is of the class
    agrees      whose own proportion, measured on its surface points, is beyond the word's threshold

beside the share of the latter that is beyond it by chance. An empty shape counts as neither.
"""

from __future__ import annotations

import argparse
import sys
from pathlib import Path
from typing import NamedTuple

import numpy as np
import torch

sys.path.insert(0, str(Path(__file__).resolve().parents[2]))

from inrflow_core import models
from inrflow_core.conditioners.text import TextInput
from inrflow_core.datasets._solid_captions import PROPORTIONS, Proportion
from inrflow_core.distances import cd
from inrflow_core.metrics._class_inputs import class_of_nearest
from inrflow_core.models import Model
from inrflow_core.runs import run
from inrflow_core.sampling import condition_inputs, sample
from inrflow_core.sampling.options import sampling_options
from inrflow_core.sampling.request import SampleRequest
from inrflow_core.shards.shard_dataset import ShardDataset

POINTS = 512


class Drawn(NamedTuple):
    """Shapes of one text."""

    ratios: dict[str, np.ndarray]
    """Their proportions by name, not a number of an empty shape."""
    classes: np.ndarray
    """The class of the nearest held-out shape; -1 of an empty one."""


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("run", type=Path)
    parser.add_argument("--shards", type=Path, default=Path("shards/solids-text"))
    parser.add_argument("--num", type=int, default=8)
    parser.add_argument("--guidance", type=float, nargs="+", default=[1.0, 3.0, 5.0])
    arguments = parser.parse_args()
    torch.set_num_threads(1)
    model, shards = models.load(run.resolve_weights(arguments.run)), ShardDataset(arguments.shards)
    for guidance in arguments.guidance:
        report(model, shards, arguments.num, guidance)


def report(model: Model, shards: ShardDataset, num: int, guidance: float) -> None:
    """Print the shares at one scale, over all words and of each."""
    held_out = shards.read("val", range(shards.count("val")))
    lines, totals = [], []
    for label, name in enumerate(shards.classes):
        rules = PROPORTIONS[name]
        plain = draw(model, f"a {name}", num, guidance, held_out.values, held_out.labels) if rules else None
        for rule in rules:
            for word in (rule.low_word, rule.high_word):
                drawn = draw(model, f"a {word} {name}", num, guidance, held_out.values, held_out.labels)
                assert plain is not None
                shares = (drawn.classes == label).mean(), agrees(drawn, rule, word), agrees(plain, rule, word)
                totals.append(shares)
                lines.append(
                    f"  a {word} {name}: class {shares[0]:.0%}, agrees {shares[1]:.0%}, by chance {shares[2]:.0%}"
                )
    right, agreed, chance = np.mean(totals, axis=0)
    print(
        f"guidance {guidance:g}: class {right:.1%}, agrees {agreed:.1%}, by chance {chance:.1%}, of {num} x {len(totals)}"
    )
    print("\n".join(lines), flush=True)


def agrees(drawn: Drawn, rule: Proportion, word: str) -> float:
    """The share of shapes beyond the threshold of a word."""
    ratios = drawn.ratios[rule.of]
    return float((ratios < rule.low if word == rule.low_word else ratios > rule.high).mean())


def draw(model: Model, text: str, num: int, guidance: float, real: np.ndarray, labels: np.ndarray) -> Drawn:
    """The shapes of a text at the seeds 0 ... num - 1."""
    row = condition_inputs.condition_from_input(model, "text", TextInput((text,)))
    request = SampleRequest(range(num), size=4 * POINTS, condition=condition_inputs.repeat_condition(row, num))
    options = sampling_options(model, guidance=guidance)
    clouds = np.concatenate([values for _, values in sample.iter_samples(model, request, options)])
    ratios: dict[str, list[float]] = {"height": [], "rise": [], "width": []}
    nearest = []
    others = [cd.prepare(points[:POINTS]) for points in real]
    for cloud in clouds:
        height, longer, shorter = measured(cloud) if cloud.any() else (np.nan,) * 3
        for name, ratio in (("height", height / longer), ("rise", height / shorter), ("width", shorter / longer)):
            ratios[name].append(ratio)
        distances = np.array([[cd.distance(cd.prepare(cloud[:POINTS]), other) for other in others]])
        nearest.append(class_of_nearest(distances, labels)[0] if cloud.any() else -1)
    return Drawn({name: np.array(values) for name, values in ratios.items()}, np.array(nearest))


def measured(points: np.ndarray) -> tuple[float, float, float]:
    """The height of a body, along y, and the sides of the smallest rectangle around its outline from above, longer first."""
    angles = np.linspace(0, np.pi / 2, 181)[:, None]
    along = np.cos(angles) * points[:, 0] + np.sin(angles) * points[:, 2]
    across = np.cos(angles) * points[:, 2] - np.sin(angles) * points[:, 0]
    sides = np.stack([np.ptp(along, axis=1), np.ptp(across, axis=1)], 1)
    best = sides[sides.prod(1).argmin()]
    return float(np.ptp(points[:, 1])), float(best.max()), float(best.min())


if __name__ == "__main__":
    main()
