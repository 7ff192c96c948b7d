"""The typical size of a training set that a run is planned for: that of its data, where sets differ in size.

Proteins pass the network in buckets of similar sizes, padded to the largest of each. A micro-batch is simulated: sets are
drawn at random, put into buckets and padded. FLOPs are planned for the mean over these micro-batches, memory for the
largest.
"""

from __future__ import annotations

import math
from dataclasses import dataclass, replace

import numpy as np
from jaxtyping import Int64

from inrflow_core.config.preset import Part, Preset
from inrflow_core.methods._contract import Stage
from inrflow_core.methods._ragged_batches import bucket_by_size
from inrflow_core.planning import plan
from inrflow_core.planning.plan import Plan, Planner
from inrflow_core.runtime.distributed import World

Sizes = Int64[np.ndarray, " N"]
"""Pairs of each set."""
NUM_DRAWS = 256
"""Simulated micro-batches; the largest of them is exceeded about once in as many steps."""
MAX_DRAWN = 2048
"""Sets of a simulated micro-batch; a larger one is planned as if it consisted of such, so that time is bounded."""
LEAST_DRAWN = 4096
"""Sets that are simulated at least, in more micro-batches if need be, for the mean."""


@dataclass(frozen=True)
class PaddedSizes:
    """Pairs of the sets of simulated micro-batches, with padding."""

    mean: float
    deviation: float
    """Over all sets."""
    largest: float
    """Mean of the largest micro-batch."""


def padded_pairs(sizes: Sizes, micro: int) -> PaddedSizes:
    """Simulate micro-batches of `micro` sets."""
    micro = min(micro, MAX_DRAWN)
    rng = np.random.default_rng(0)
    batches = []
    for _ in range(max(NUM_DRAWS, LEAST_DRAWN // micro)):
        drawn = rng.choice(sizes, micro).tolist()
        batches.append([drawn[bucket[0]] for bucket in bucket_by_size(drawn) for _ in bucket])
    padded = np.array(batches, dtype=np.float64)
    return PaddedSizes(float(padded.mean()), float(padded.std()), float(padded[:NUM_DRAWS].mean(axis=1).max()))


def presets_of_data(preset: Preset, sizes: Sizes | None, micro: int) -> tuple[list[Preset], Preset]:
    """The presets whose mean FLOPs are those of the data, and the one with sets of the largest micro-batch, for memory.

    FLOPs are a polynomial of degree two of the size of a set, and their mean over all sets is the mean of those at a deviation
    below and above the mean size. All are the preset itself where all sets have one size (`sizes` is None).
    """
    if sizes is None or not len(sizes):
        return [preset], preset
    padded = padded_pairs(sizes, micro)
    ends = {padded.mean - padded.deviation, padded.mean + padded.deviation}
    return [_with_size(preset, end) for end in sorted(ends)], _with_size(preset, padded.largest)


def predict(preset: Preset, sizes: Sizes | None, world: World, *, precision: str, micro: int, stage: Stage) -> Plan:
    """The plan of a stage for sets of these sizes.

    Raises:
        UsageError: the preset's ZeRO stage cannot train the method.
    """
    return predict_with_planner(preset, sizes, world, precision=precision, micro=micro, stage=stage)[0]


def predict_with_planner(
    preset: Preset, sizes: Sizes | None, world: World, *, precision: str, micro: int, stage: Stage
) -> tuple[Plan, Planner]:
    """The plan of `predict`, and the planner that made it: that of `planner_of_largest`.

    Raises:
        UsageError: the preset's ZeRO stage cannot train the method.
    """
    typical, largest = presets_of_data(preset, sizes, micro)
    equal = typical == [largest]
    planner = plan.planner_of(largest, world, precision, stage, has_equal_sizes=equal)
    predicted = planner.plan(micro)
    if equal:
        return predicted, planner
    costs = [plan.predict(each, world, precision=precision, micro=micro, stage=stage) for each in typical]
    predicted = replace(
        predicted,
        flops=_mean([each.flops for each in costs]),
        executed=_mean([each.executed for each in costs]),
    )
    return predicted, planner


def _mean(tables: list[dict[str, float]]) -> dict[str, float]:
    return {name: sum(table[name] for table in tables) / len(tables) for name in tables[0]}


def planner_of_largest(
    preset: Preset, sizes: Sizes | None, world: World, *, precision: str, micro: int, stage: Stage
) -> Planner:
    """A planner of the largest micro-batch, for its memory under other settings."""
    typical, largest = presets_of_data(preset, sizes, micro)
    return plan.planner_of(largest, world, precision, stage, has_equal_sizes=typical == [largest])


def _with_size(preset: Preset, pairs: float) -> Preset:
    part = preset.domain
    config = part.module.Domain(part.config).config_for_size(math.ceil(pairs))
    return replace(preset, domain=Part(part.kind, part.name, config))
