"""What the metrics of pairs of pictures share."""

from __future__ import annotations

import numpy as np
from jaxtyping import Float64

from inrflow_core.errors import UsageError
from inrflow_core.metrics._inputs import MetricInputs, Pairs, jackknife_groups


def checked(evidence: MetricInputs) -> Pairs:
    """The same pairs.

    Raises:
        UsageError: there are fewer than two, or samples and reference differ in number, size or channels.
    """
    assert isinstance(evidence, Pairs)
    samples, reference = evidence.samples.shape, evidence.reference.shape
    if samples != reference:
        told = (
            f"{count} of {height} x {width} x {channels}" for count, height, width, channels in (samples, reference)
        )
        raise UsageError(
            "samples are {}, the reference {}".format(*told), hint="each sample needs its own, equally large"
        )
    if samples[0] < 2:
        raise UsageError(f"{samples[0]} pairs are too few", hint="at least 2 are needed")
    return evidence


def means_without_each(values: Float64[np.ndarray, " N"], parts: int) -> Float64[np.ndarray, " P"]:
    """The mean of the values without each part."""
    owners = jackknife_groups(len(values), parts)
    return np.array([values[owners != part].mean() for part in range(parts)])
