"""The typical size of a training set that a run is planned for: that of its data, where sets differ in size.

Proteins pass the network in buckets of similar sizes, padded to the largest of each. A micro-batch is simulated: sets are
drawn at random, put into buckets and padded. FLOPs are planned for the mean of these micro-batches, memory for the
largest.
"""

from __future__ import annotations

import math
from dataclasses import replace

import numpy as np
from jaxtyping import Int64

from inrflow_core.config.preset import Part, Preset
from inrflow_core.methods._ragged_batches import bucket_by_size

NUM_DRAWS = 256
"""Simulated micro-batches; the largest of them is exceeded about once in as many steps."""
MAX_DRAWN = 2048
"""Sets of a simulated micro-batch; a larger one is planned as if it consisted of such, so that time is bounded."""


def padded_pairs(sizes: Int64[np.ndarray, " N"], micro: int) -> tuple[float, float]:
    """Pairs of a set with padding: the mean over micro-batches of `micro` sets, and that of the largest micro-batch."""
    micro = min(micro, MAX_DRAWN)
    rng = np.random.default_rng(0)
    totals = []
    for _ in range(NUM_DRAWS):
        drawn = rng.choice(sizes, micro).tolist()
        totals.append(sum(len(bucket) * drawn[bucket[0]] for bucket in bucket_by_size(drawn)))
    return float(np.mean(totals)) / micro, max(totals) / micro


def presets_of_data(preset: Preset, sizes: Int64[np.ndarray, " N"] | None, micro: int) -> tuple[Preset, Preset]:
    """The preset with sets of the mean size of the data, for FLOPs, and with those of the largest micro-batch, for memory.

    Both are the preset itself where all sets have one size (`sizes` is None).
    """
    if sizes is None or not len(sizes):
        return preset, preset
    mean, largest = padded_pairs(sizes, micro)
    return _with_size(preset, mean), _with_size(preset, largest)


def _with_size(preset: Preset, pairs: float) -> Preset:
    part = preset.domain
    config = part.module.Domain(part.config).config_for_size(math.ceil(pairs))
    return replace(preset, domain=Part(part.kind, part.name, config))
