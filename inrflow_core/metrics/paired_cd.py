"""The distance of each sample to the one reference that it should be, beside that to all the others.

For clouds that were drawn from pictures: the reference is the object of the picture. Its distance means little without
the other: a model that draws one average cloud whatever it is shown is as near to the right object as to the wrong ones,
and finds it as often as chance does.
"""

from __future__ import annotations

from dataclasses import replace

import numpy as np
from jaxtyping import Float64

from inrflow_core.metrics import _point_protocols, mmd
from inrflow_core.metrics._image_pairs import means_without_each
from inrflow_core.metrics._inputs import Distances, DistanceSpec

TITLE = "distance to the right one"
DOMAIN = "points"
PROTOCOLS = _point_protocols.PROTOCOLS
HIGHER_IS_BETTER = False
MIN_ITEMS = _point_protocols.MIN_ITEMS


def unit(protocol: str) -> str:
    """That of MMD: 10^-3 or 10^-2."""
    return mmd.unit(protocol)


def inputs(protocol: str) -> DistanceSpec:
    """Distances across samples and reference, and which of these is each sample's own."""
    return replace(_point_protocols.inputs(protocol, is_within=False), is_paired=True)


def compute(evidence: Distances, protocol: str) -> float:
    """The mean over samples of the distance to the right reference, in its unit.

    Raises:
        UsageError: there are fewer than two samples or references.
    """
    return float(to_own_reference(evidence).mean() * unit_factor(protocol))


def jackknife_values(evidence: Distances, protocol: str, parts: int) -> Float64[np.ndarray, " P"]:
    """The mean without each part of the samples, at the price of one."""
    return means_without_each(to_own_reference(evidence) * unit_factor(protocol), parts)


def remark(evidence: Distances, protocol: str) -> str | None:
    """The mean distance to the others, and of how many samples the right one is the nearest of all references."""
    samples, references = evidence.across.shape
    found = 100 * retrieval_rank_1(evidence).mean()
    return (
        f"to the {references - 1:,} others {to_other_references(evidence).mean() * unit_factor(protocol):.4g}; the right one is the nearest "
        f"of {found:.1f} % of {samples:,} samples, by chance of {100 / references:.2g} %"
    )


def to_own_reference(evidence: Distances) -> Float64[np.ndarray, " N"]:
    """Of each sample; raises as `compute`."""
    assert evidence.own is not None
    return _point_protocols.sample_to_reference(evidence)[np.arange(len(evidence.own)), evidence.own]


def to_other_references(evidence: Distances) -> Float64[np.ndarray, " N"]:
    """The mean over all other references, which is what a random other one gives in the mean."""
    return (evidence.across.sum(1) - to_own_reference(evidence)) / (evidence.across.shape[1] - 1)


def retrieval_rank_1(evidence: Distances) -> Float64[np.ndarray, " N"]:
    """1 where no other reference is as near as the right one, a share of it where several are equally near, else 0."""
    nearest = evidence.across.min(1)
    ties = (evidence.across == nearest[:, None]).sum(1)
    return (to_own_reference(evidence) == nearest) / ties


def unit_factor(protocol: str) -> float:
    """From a distance to the unit."""
    return 10.0 ** mmd.FACTORS[inputs(protocol).distance]
