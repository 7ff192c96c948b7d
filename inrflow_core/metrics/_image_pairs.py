"""Pairs of images: a sample and the reference image that it should equal, and what the metrics of pairs share."""

from __future__ import annotations

from collections.abc import Hashable
from dataclasses import dataclass

import numpy as np
from jaxtyping import Float64, UInt8

from inrflow_core.errors import UsageError
from inrflow_core.metrics._inputs import (
    GatherContext,
    InputSpec,
    Items,
    ItemsT,
    MatchedBy,
    MetricInputs,
    ReferenceStats,
    items_of,
    jackknife_groups,
    remaining,
)


@dataclass(frozen=True)
class ImagePairSpec(InputSpec):
    """Images whose reference is the one of the same name or index."""

    @property
    def matched_by(self) -> MatchedBy:
        return "name"

    def key(self) -> Hashable:
        return ("image pairs",)

    def gather(self, samples: ItemsT, reference: ItemsT | ReferenceStats, context: GatherContext[ItemsT]) -> Pairs:
        items = items_of(reference)

        def read() -> Pairs:
            context.verify(samples)
            context.verify(items)
            return pair_by_name(samples, items)

        return context.once(self.key(), read)


@dataclass(frozen=True)
class Pairs(MetricInputs):
    """Images and what they should be, one by one."""

    samples: UInt8[np.ndarray, "N H W C"]
    reference: UInt8[np.ndarray, "N H W C"]

    def counts(self) -> tuple[int, int]:
        return len(self.samples), len(self.reference)

    def num_independent(self) -> int:
        return min(self.counts())

    def leave_out(self, part: int, parts: int) -> Pairs:
        """Without the pairs of one group."""
        return Pairs(*(images[remaining(len(images), part, parts)] for images in (self.samples, self.reference)))


def pair_by_name(samples: Items, reference: Items) -> Pairs:
    """Images and the references of their names where all have one, else of their indices.

    Raises:
        UsageError: they cannot be paired, or the samples come from a model.
    """
    mine = samples.read(range(samples.count))
    if len(mine.seeds):
        raise UsageError(
            f"{samples.display_name} holds samples of a model, which have no reference image",
            hint="leave PSNR and SSIM out, or compare images that were made from the reference's",
        )
    theirs = reference.read(range(reference.count))
    indices = {name: index for index, name in enumerate(theirs.names)}
    if len(indices) == len(theirs.names) and set(mine.names) <= set(indices):
        return Pairs(mine.values, theirs.values[[indices[name] for name in mine.names]])
    if len(mine.values) != len(theirs.values):
        raise UsageError(
            f"{len(mine.values):,} samples cannot be paired with {len(theirs.values):,} references of other names",
            hint="give as many references in the same order, or files of the same names",
        )
    return Pairs(mine.values, theirs.values)


def checked(inputs: MetricInputs) -> Pairs:
    """The pairs.

    Raises:
        UsageError: there are fewer than two, or samples and reference differ in number, size or channels.
    """
    assert isinstance(inputs, Pairs)
    samples, reference = inputs.samples.shape, inputs.reference.shape
    if samples != reference:
        shapes = (
            f"{count} of {height} x {width} x {channels}" for count, height, width, channels in (samples, reference)
        )
        raise UsageError(
            "samples are {}, the reference {}".format(*shapes), hint="each sample needs its own, equally large"
        )
    if samples[0] < 2:
        raise UsageError(f"{samples[0]} pairs are too few", hint="at least 2 are needed")
    return inputs


def means_without_each(values: Float64[np.ndarray, " N"], parts: int) -> Float64[np.ndarray, " P"]:
    """The mean of the values without each jackknife group."""
    owners = jackknife_groups(len(values), parts)
    return np.array([values[owners != part].mean() for part in range(parts)])
