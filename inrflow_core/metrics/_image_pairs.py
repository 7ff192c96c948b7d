"""Pairs of a sample and its reference image: their inputs, PSNR of single pairs, and helpers of PSNR and SSIM."""

from __future__ import annotations

from collections.abc import Callable, Collection, Hashable, Sequence
from dataclasses import dataclass, field

import numpy as np
from jaxtyping import Float64, UInt8

from inrflow_core.domains import _contract
from inrflow_core.errors import UsageError
from inrflow_core.metrics._inputs import (
    GatherContext,
    InputSpec,
    Items,
    ItemsT,
    MatchedBy,
    MetricInputs,
    ReferenceStats,
    all_of,
    assign_groups,
    by_name,
    items_of,
    rows_in_groups,
)

MIN_ITEMS = 1
"""A mean over images needs one; metrics of distributions need two."""


@dataclass(frozen=True)
class ImagePairSpec(InputSpec):
    """Images, each with the reference image of the same name or index."""

    are_reconstructions: bool = False
    """Whether they are reference images that a model encoded and evaluated again."""

    @property
    def matched_by(self) -> MatchedBy:
        return "reconstruction" if self.are_reconstructions else "name"

    def key(self) -> Hashable:
        return "image pairs", self.are_reconstructions

    def gather(self, samples: ItemsT, reference: ItemsT | ReferenceStats, context: GatherContext[ItemsT]) -> Pairs:
        items = items_of(reference)

        def read() -> Pairs:
            context.verify(samples)
            context.verify(items)
            return pair_by_name(samples, items)

        return context.once(self.key(), read)


@dataclass(frozen=True)
class Pairs(MetricInputs):
    """Images and their references, one by one."""

    samples: UInt8[np.ndarray, "N *size C"]
    reference: UInt8[np.ndarray, "N *size C"]
    names: Sequence[str] = field(default=(), kw_only=True)
    """Of the samples."""
    cached_values: dict[str, Float64[np.ndarray, " N"]] = field(default_factory=dict, kw_only=True)

    def each(self, name: str, measure: Callable[[], Float64[np.ndarray, " N"]]) -> Float64[np.ndarray, " N"]:
        """A measure of every pair, computed once under its name."""
        if name not in self.cached_values:
            self.cached_values[name] = measure()
        return self.cached_values[name]

    def counts(self) -> tuple[int, int]:
        return len(self.samples), len(self.reference)

    def select_groups(self, groups: Collection[int], num_groups: int) -> Pairs:
        """The pairs of some groups."""
        rows = rows_in_groups(len(self.samples), groups, num_groups)
        names = all_of(self.names, rows) if self.names else ()
        return Pairs(self.samples[rows], self.reference[rows], names=names)


def pair_by_name(samples: Items, reference: Items) -> Pairs:
    """Images with the references of their names if all have one, else in order.

    Raises:
        UsageError: they cannot be paired, or are samples of a model.
    """
    images = samples.read(range(samples.count))
    if len(images.seeds):
        raise UsageError(
            f"{samples.display_name} holds samples of a model, which have no reference image",
            hint="leave PSNR and SSIM out, or compare reconstructions of the reference images",
        )
    references = reference.read(range(reference.count))
    indices = {name: index for index, name in enumerate(references.names)}
    if len(indices) == len(references.names) and set(images.names) <= set(indices):
        return Pairs(images.values, references.values[[indices[name] for name in images.names]], names=images.names)
    if len(images.values) != len(references.values):
        raise UsageError(
            f"{len(images.values):,} samples cannot be paired with {len(references.values):,} references of other names",
            hint="give as many references in the same order, or files of the same names",
        )
    return Pairs(images.values, references.values, names=images.names)


def checked(inputs: Pairs) -> Pairs:
    """The pairs.

    Raises:
        UsageError: there is none, or samples and reference differ in number, size or channels.
    """
    samples, reference = inputs.samples.shape, inputs.reference.shape
    if samples != reference:
        shapes = (f"{count} of {' x '.join(map(str, size))}" for count, *size in (samples, reference))
        raise UsageError(
            "samples are {}, the reference {}".format(*shapes), hint="each sample needs a reference of its size"
        )
    if samples[0] < MIN_ITEMS:
        raise UsageError("there are no pairs of images", hint="give samples and the reference of each")
    return inputs


def means_without_each(values: Float64[np.ndarray, " N"], parts: int) -> Float64[np.ndarray, " P"]:
    """The mean of the values without each jackknife group."""
    groups = assign_groups(len(values), parts)
    return np.array([values[groups != part].mean() for part in range(parts)])


def psnr_of_each(pairs: Pairs) -> Float64[np.ndarray, " N"]:
    """PSNR of each pair, in dB; equal images count as if one number differed by one level."""
    return _contract.psnr_of_each(pairs.samples, pairs.reference)


def psnr_by_name(inputs: Pairs, protocol: str) -> dict[str, float]:
    """PSNR of each pair, by the name of the sample; raises UsageError as `checked`."""
    return by_name(inputs.names, psnr_of_each(checked(inputs)))
