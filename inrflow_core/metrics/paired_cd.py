"""The distance of each sample to the one reference that it should be, beside that to all the others.

For clouds that were drawn from images: the reference is the object of the image. Its distance means little without
the other: a model that draws one average cloud whatever it is shown is as near to the right object as to the wrong ones,
and finds it as often as chance does.
"""

from __future__ import annotations

from dataclasses import replace

import numpy as np
from jaxtyping import Float64

from inrflow_core.metrics import _point_protocols
from inrflow_core.metrics._cloud_inputs import Distances, DistanceSpec
from inrflow_core.metrics._image_pairs import means_without_each

TITLE = "distance to the right one"
DOMAIN = "points"
PROTOCOLS = _point_protocols.PROTOCOLS
HIGHER_IS_BETTER = False
MIN_ITEMS = _point_protocols.MIN_ITEMS
unit = _point_protocols.distance_unit
unit_factor = _point_protocols.unit_factor


def inputs(protocol: str) -> DistanceSpec:
    """Distances across samples and reference, and which of these is each sample's own."""
    return replace(_point_protocols.inputs(protocol, is_within=False), is_paired=True)


def compute(inputs: Distances, protocol: str) -> float:
    """The mean over samples of the distance to the right reference, in its unit.

    Raises:
        UsageError: there are fewer than two samples or references.
    """
    return float(to_own_reference(inputs).mean() * unit_factor(protocol))


def jackknife_values(inputs: Distances, protocol: str, parts: int) -> Float64[np.ndarray, " P"]:
    """The mean without each part of the samples, at the price of one."""
    return means_without_each(to_own_reference(inputs) * unit_factor(protocol), parts)


def remark(inputs: Distances, protocol: str) -> str | None:
    """The mean distance to the others, and of how many samples the right one is the nearest of all references."""
    samples, references = inputs.across.shape
    found = 100 * retrieval_rank_1(inputs).mean()
    others = to_other_references(inputs).mean() * unit_factor(protocol)
    return (
        f"to the {references - 1:,} others {others:.4g}; the right one is the nearest "
        f"of {found:.1f} % of {samples:,} samples, by chance of {100 / references:.2g} %"
    )


def to_own_reference(inputs: Distances) -> Float64[np.ndarray, " N"]:
    """Of each sample; raises as `compute`."""
    assert inputs.own_reference is not None
    return _point_protocols.sample_to_reference(inputs)[np.arange(len(inputs.own_reference)), inputs.own_reference]


def to_other_references(inputs: Distances) -> Float64[np.ndarray, " N"]:
    """The mean over all other references, which is what a random other one gives in the mean."""
    return (inputs.across.sum(1) - to_own_reference(inputs)) / (inputs.across.shape[1] - 1)


def retrieval_rank_1(inputs: Distances) -> Float64[np.ndarray, " N"]:
    """1 where no other reference is as near as the right one, a share of it where several are equally near, else 0."""
    nearest = inputs.across.min(1)
    ties = (inputs.across == nearest[:, None]).sum(1)
    return (to_own_reference(inputs) == nearest) / ties
