"""The distance of each sample to the one reference that it should be, beside that to all the others.

For clouds that were drawn from pictures: the reference is the object of the picture. Its distance means little without
the other: a model that draws one average cloud whatever it is shown is as near to the right object as to the wrong ones,
and finds it as often as chance does.
"""

from __future__ import annotations

from dataclasses import replace

import numpy as np
from jaxtyping import Float64

from inrflow_core.evidence import DistanceNeed, Distances
from inrflow_core.metrics import _clouds, mmd
from inrflow_core.metrics._pictures import means_without_each

TITLE = "distance to the right one"
DOMAIN = "points"
PROTOCOLS = _clouds.PROTOCOLS
HIGHER_IS_BETTER = False
LEAST = _clouds.LEAST


def unit(protocol: str) -> str:
    """That of MMD: 10^-3 or 10^-2."""
    return mmd.unit(protocol)


def need(protocol: str) -> DistanceNeed:
    """Distances across samples and reference, and which of these is each sample's own."""
    return replace(_clouds.need(protocol, is_within=False), is_paired=True)


def compute(evidence: Distances, protocol: str) -> float:
    """The mean over samples of the distance to the right reference, in its unit.

    Raises:
        UsageError: there are fewer than two samples or references.
    """
    return float(to_right(evidence).mean() * factor(protocol))


def left_out(evidence: Distances, protocol: str, parts: int) -> Float64[np.ndarray, " P"]:
    """The mean without each part of the samples, at the price of one."""
    return means_without_each(to_right(evidence) * factor(protocol), parts)


def note(evidence: Distances, protocol: str) -> str | None:
    """The mean distance to the others, and of how many samples the right one is the nearest of all references."""
    samples, references = evidence.across.shape
    found = 100 * found_by(evidence).mean()
    return (
        f"to the {references - 1:,} others {to_others(evidence).mean() * factor(protocol):.4g}; the right one is the nearest "
        f"of {found:.1f} % of {samples:,} samples, by chance of {100 / references:.2g} %"
    )


def to_right(evidence: Distances) -> Float64[np.ndarray, " N"]:
    """Of each sample; raises as `compute`."""
    assert evidence.own is not None
    return _clouds.across(evidence)[np.arange(len(evidence.own)), evidence.own]


def to_others(evidence: Distances) -> Float64[np.ndarray, " N"]:
    """The mean over all other references, which is what a random other one gives in the mean."""
    return (evidence.across.sum(1) - to_right(evidence)) / (evidence.across.shape[1] - 1)


def found_by(evidence: Distances) -> Float64[np.ndarray, " N"]:
    """1 where no other reference is as near as the right one, a share of it where several are equally near, else 0."""
    nearest = evidence.across.min(1)
    ties = (evidence.across == nearest[:, None]).sum(1)
    return (to_right(evidence) == nearest) / ties


def factor(protocol: str) -> float:
    """From a distance to the unit."""
    return 10.0 ** mmd.FACTORS[need(protocol).distance]
