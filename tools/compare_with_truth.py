"""What a model draws from held-out photos or sequences beside the truth, as a sheet of pictures.

    python tools/compare_with_truth.py runs/objects-demo sheet.png --data shards/objects     # photo, sample, truth
    python tools/compare_with_truth.py runs/proteins-demo sheet.png --data shards/proteins   # sample, truth

The objects or proteins are spread evenly over the held-out split. Clouds are seen from the photo's side, and the Chamfer
distance to the right object stands above each sample beside its mean to the others; proteins lie on their truth, with
their lDDT.
"""

from __future__ import annotations

import argparse
import os
import sys
from pathlib import Path

os.environ.setdefault("OMP_NUM_THREADS", "1")
sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

import numpy as np
import torch
from jaxtyping import Float
from PIL import Image

from inrflow_cli import generation
from inrflow_core import asked, generate, items, pictures, registry, residue_pairs, structures
from inrflow_core.items import Items
from inrflow_core.models import Model
from inrflow_core.shards import Shards
from inrflow_core.structures import Structure

TILE = 160


def main() -> None:
    """Draw, and show."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("run")
    parser.add_argument("sheet", type=Path)
    parser.add_argument("--data", required=True, help="the shards that the run learned from")
    parser.add_argument("--num", type=int, default=12)
    parser.add_argument("--points", type=int, default=4096)
    parser.add_argument("--sampler")
    parser.add_argument("--steps", type=int)
    parser.add_argument("--set", action="append", metavar="sampler.KEY=VALUE")
    parser.add_argument("--elevation", type=float, default=20.0, help="of the photos' cameras, in degrees")
    parser.add_argument("--ema", type=float, help="decay of the averaged weights; 0 for the weights themselves")
    arguments = parser.parse_args()
    torch.set_num_threads(1)
    model = generate.load(arguments.run, ema=arguments.ema)
    split = model.preset.data.config.held_out or model.preset.data.config.train
    true = items.spread(items.open_items(Path(arguments.data), split), arguments.num)
    places = np.arange(true.count) if true.places is None else true.places
    draw = folds if model.domain.NAME == "protein" else objects
    tiles, captions, columns = draw(model, true, places.tolist(), arguments)
    pictures.arranged(tiles, columns=columns, captions=captions).save(arguments.sheet)


Sheet = tuple[list[Image.Image], list[str], int]


def objects(model: Model, true: Items, places: list[int], arguments: argparse.Namespace) -> Sheet:
    """Photo, sample and truth of each object, two objects to a row."""
    assert true.split is not None and true.fetch_pictures is not None
    condition = asked.of_items(model, Shards(true.source), true.split, places)
    request = generate.Request(places, size=arguments.points, condition=condition)
    drawn = np.concatenate([clouds for _, clouds in generate.samples(model, request, how(model, arguments))])
    clouds = true.read(range(true.count)).values[:, : arguments.points]
    photos = true.fetch_pictures(range(true.count), np.zeros(true.count))
    distance = registry.find("distances", "cd")
    between = np.array([[distance.between(*map(distance.prepare, (a, b))) for b in clouds] for a in drawn])
    tiles, captions = [], []
    for number, (photo, sample, truth) in enumerate(zip(photos, drawn, clouds, strict=True)):
        seen = {"size": TILE, "azimuth": 0.0, "elevation": arguments.elevation}
        others = np.delete(between[number], number).mean()
        tiles += [Image.fromarray(photo).resize((TILE, TILE), Image.Resampling.LANCZOS)]
        tiles += [pictures.cloud(sample, **seen), pictures.cloud(truth, **seen)]
        captions += ["photo", f"{between[number, number]:.3f} ({others:.2f})", "truth"]
    right = between.diagonal().mean()
    others = (between.sum() - between.trace()) / (between.size - len(between))
    print(f"Chamfer distance to the right object {right:.4f}, to the others {others:.4f}")
    return tiles, captions, 6


def folds(model: Model, true: Items, places: list[int], arguments: argparse.Namespace) -> Sheet:
    """Sample and truth of each protein, one on the other's place, three proteins to a row."""
    assert true.split is not None and true.structures is not None
    tiles, captions, scores = [], [], []
    for truth, place in zip(true.structures(range(true.count)), places, strict=True):
        condition = asked.of_items(model, Shards(true.source), true.split, [place])
        request = generate.Request([place], condition=condition)
        ((part, values),) = generate.samples(model, request, how(model, arguments))
        sample = generate.finished(model, request, part, values)[0]
        assert isinstance(sample, Structure)
        moved, score = laid(sample, truth)
        both = pictures.proteins([truth.ca[truth.ca_is_known], moved], columns=2, size=TILE, is_one_view=True)
        tiles += [both.crop((TILE, 0, 2 * TILE, TILE)), both.crop((0, 0, TILE, TILE))]
        captions += [f"lDDT {score:.2f}", truth.name]
        scores.append(score)
    print(f"C-alpha lDDT {np.mean(scores):.3f} over {len(scores)} proteins")
    return tiles, captions, 6


def laid(sample: Structure, truth: Structure) -> tuple[Float[np.ndarray, "L 3"], float]:
    """The C-alphas of a sample, laid on those of its truth that are known, and its lDDT by these."""
    both = residue_pairs.c_alphas(sample, truth, residue_pairs.paired(sample, truth, "number"))
    return structures.superpose(*both)(sample.ca), structures.lddt(*both)


def how(model: Model, arguments: argparse.Namespace):
    """The preset's way to draw, with another number of steps where one is given."""
    return generate.drawing(
        model,
        sampler=arguments.sampler,
        steps=arguments.steps,
        sampler_settings=generation.parse_settings(arguments.set),
    )


if __name__ == "__main__":
    main()
