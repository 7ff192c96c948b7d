"""The distance of each sample to its own reference; a remark compares it with the distance to all others.

For clouds sampled from images: the reference is the object in the image. Alone, the distance means little: a model that
samples one average cloud for every image is as near to the right object as to the others, and the right one is the
nearest as often as by chance.
"""

from __future__ import annotations

from dataclasses import replace

import numpy as np
from jaxtyping import Float64

from inrflow_core.metrics import _point_protocols
from inrflow_core.metrics._cloud_inputs import Distances, DistanceSpec
from inrflow_core.metrics._image_pairs import means_without_each
from inrflow_core.metrics._inputs import by_name

TITLE = "distance to the right one"
DOMAIN = "points"
PROTOCOLS = _point_protocols.PROTOCOLS
HIGHER_IS_BETTER = False
MIN_ITEMS = _point_protocols.MIN_ITEMS
unit = _point_protocols.distance_unit
unit_factor = _point_protocols.unit_factor


def inputs(protocol: str) -> DistanceSpec:
    """Distances between samples and reference, and each sample's own reference."""
    return replace(_point_protocols.inputs(protocol, is_within=False), is_paired=True)


def compute(inputs: Distances, protocol: str) -> float:
    """The mean over samples of the distance to the right reference, in its unit.

    Raises:
        UsageError: there are fewer than two samples or references.
    """
    return float(to_own_reference(inputs).mean() * unit_factor(protocol))


def item_values(inputs: Distances, protocol: str) -> dict[str, float]:
    """Of each sample by its name, in the unit; raises as `compute`."""
    return by_name(inputs.names, to_own_reference(inputs) * unit_factor(protocol))


def jackknife_values(inputs: Distances, protocol: str, parts: int) -> Float64[np.ndarray, " P"]:
    """The mean without each group of samples, at the cost of one."""
    return means_without_each(to_own_reference(inputs) * unit_factor(protocol), parts)


def remark(inputs: Distances, protocol: str) -> str | None:
    """The mean distance to the others, and the percentage of samples whose own reference is the nearest."""
    samples, references = inputs.across.shape
    rate = 100 * retrieval_rank_1(inputs).mean()
    others = to_other_references(inputs).mean() * unit_factor(protocol)
    return (
        f"to the {references - 1:,} others {others:.4g}; the right one is the nearest "
        f"of {rate:.1f} % of {samples:,} samples, by chance of {100 / references:.2g} %"
    )


def to_own_reference(inputs: Distances) -> Float64[np.ndarray, " N"]:
    """The distance of each sample to its own reference; raises as `compute`."""
    assert inputs.own_reference is not None
    return _point_protocols.sample_to_reference(inputs)[np.arange(len(inputs.own_reference)), inputs.own_reference]


def to_other_references(inputs: Distances) -> Float64[np.ndarray, " N"]:
    """Each sample's mean distance to all other references."""
    return (inputs.across.sum(1) - to_own_reference(inputs)) / (inputs.across.shape[1] - 1)


def retrieval_rank_1(inputs: Distances) -> Float64[np.ndarray, " N"]:
    """1 if a sample's own reference is the nearest, 1/n if it is one of n equally near ones, else 0."""
    nearest = inputs.across.min(1)
    ties = (inputs.across == nearest[:, None]).sum(1)
    return (to_own_reference(inputs) == nearest) / ties
