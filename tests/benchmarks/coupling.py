"""What couplings of sets cost in training, as a share of a step, and how near the blocked assignment comes to the exact one.

    python tests/benchmarks/coupling.py                       # solids-demo at 256 points, shapenet-b at 2,048: minutes
    python tests/benchmarks/coupling.py --presets solids-demo --batches 16 64

CPU seconds of one thread, fp32. The step is loss and backward pass of `--sets` sets of the preset, scaled to the batch; the
coupling includes the noise. Data are surfaces of boxes of random proportions. The exact assignment is measured on a few sets.
"""

from __future__ import annotations

import argparse
import sys
import time
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import torch

sys.path.insert(0, str(Path(__file__).resolve().parents[2]))

from inrflow_core import models
from inrflow_core.config.preset import load
from inrflow_core.methods import _set_coupling
from inrflow_core.methods._contract import StepState
from inrflow_core.numerics import noise_field
from inrflow_core.sets import CoordValueSet, TrainBatch

EXACT_SETS = {256: 16, 2048: 1}
"""Sets that the exact assignment is measured on, by their points."""


def main() -> None:
    """Print a table."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").partition("\n")[0])
    parser.add_argument("--presets", nargs="+", default=["solids-demo", "shapenet-b"])
    parser.add_argument("--batches", nargs="+", type=int, default=[16, 64])
    parser.add_argument("--sets", type=int, help="sets of the step; default: 16 of at most 256 points, else 1")
    arguments = parser.parse_args()
    torch.set_num_threads(1)
    print(
        "| preset | points | batch | coupling | CPU ms a set | CPU s a step without it | share of a step | mean square |"
    )
    print("| --- | ---: | ---: | --- | ---: | ---: | ---: | ---: |")
    for name in arguments.presets:
        model = models.build(load(name))
        points = model.domain.shape.num_queries
        count = arguments.sets or (16 if points <= 256 else 1)
        step = seconds(lambda built=model, number=count: one_step(built, number)) / count
        del model
        exact = boxes(name, EXACT_SETS.get(points, 1))
        least = squares(couple("assignment", exact))
        for coupling in ("assignment", "blocked-assignment"):
            ratio = 1.0 if coupling == "assignment" else squares(couple(coupling, exact)) / least
            for batch in arguments.batches:
                sets = exact if coupling == "assignment" else boxes(name, batch)
                each = seconds(lambda kind=coupling, some=sets: couple(kind, some)) / len(sets)
                print(
                    f"| {name} | {points} | {batch} | {coupling} | {1e3 * each:.1f} | {step * batch:.2f} | "
                    f"{100 * each / step:.1f} % | {ratio:.3f} |",
                    flush=True,
                )


def boxes(name: str, count: int) -> CoordValueSet:
    """Sets of a preset: surfaces of boxes."""
    domain = load(name).domain
    built = domain.module.Domain(domain.config)
    shape = (count, built.shape.num_queries, built.shape.value_size)
    generator = torch.Generator().manual_seed(0)
    points = 2 * torch.rand(shape, generator=generator) - 1
    sides = 0.1 + 0.9 * torch.rand((count, 1, shape[2]), generator=generator)
    values = domain.config.value_scale * sides * points / points.abs().amax(2, keepdim=True)
    return CoordValueSet(built.queries(), values, torch.arange(count))


def couple(coupling: str, sets: CoordValueSet) -> CoordValueSet:
    """The sets in the order that a coupling gives them."""
    config: Any = load("solids-demo", [f"method.coupling={coupling}"]).method.config
    return _set_coupling.couple(config, sets)


def squares(sets: CoordValueSet) -> float:
    """Mean squared distance of points and their noise."""
    noise = noise_field.normal(sets.seeds, sets.queries.noise_keys, purpose="noise", channels=sets.values.shape[-1])
    return float((noise - sets.values).square().sum(-1).mean())


def one_step(model: models.Model, count: int) -> None:
    """Loss and backward pass."""
    sets = model.domain.dummy_batch(count)
    if model.preset.condition is not None:
        sets = replace(sets, condition={"label": torch.zeros(count, dtype=torch.int64)})
    model.method.loss(TrainBatch.from_sets(sets), StepState("train", 0, 1)).mean().backward()


def seconds(call: Callable[[], object]) -> float:
    """CPU time of a call: the least of three, or the first where it takes over 10 s."""
    best = float("inf")
    for _ in range(3):
        start = time.process_time()
        call()
        best = min(best, time.process_time() - start)
        if best > 10:
            break
    return best


if __name__ == "__main__":
    main()
