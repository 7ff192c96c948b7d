"""Rendered views of scenes beside the real ones: inputs of the novel-view metrics, and their mean over scenes.

Protocol `view-64-or-middle`: the model reads view number 64 of a scene, counted from 0, or the middle one (number V // 2 of V)
of a scene with fewer, and renders all others with their cameras. The measure of each view is averaged over the views of a
scene, then over scenes.
"""

from __future__ import annotations

from collections.abc import Collection, Hashable, Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
from jaxtyping import Float64, Int64, UInt8

from inrflow_core.errors import UsageError
from inrflow_core.geometry import cameras
from inrflow_core.metrics._image_pairs import Pairs, means_without_each, psnr_of_each
from inrflow_core.metrics._inputs import (
    Cost,
    CostTimer,
    GatherContext,
    InputSpec,
    ItemsT,
    MatchedBy,
    MeasureOfPairs,
    MetricInputs,
    ReferenceStats,
    items_of,
    rows_in_groups,
)
from inrflow_core.metrics._ssim import ssim_of_each

PROTOCOLS = (cameras.SUPPORT,)
MIN_ITEMS = 1


def psnr(samples: UInt8[np.ndarray, "N H W C"], reference: UInt8[np.ndarray, "N H W C"]) -> Float64[np.ndarray, " N"]:
    """PSNR of each pair, in dB (`_image_pairs.psnr_of_each`)."""
    return psnr_of_each(Pairs(samples, reference))


def ssim(samples: UInt8[np.ndarray, "N H W C"], reference: UInt8[np.ndarray, "N H W C"]) -> Float64[np.ndarray, " N"]:
    """SSIM of each pair, by the protocol `inside`."""
    return ssim_of_each(Pairs(samples, reference), "inside")


MEASURES: Mapping[str, MeasureOfPairs] = {"psnr": psnr, "ssim": ssim}


@dataclass(frozen=True)
class ViewSpec(InputSpec):
    """A measure of each view that samples show of a scene of the reference, and of that scene's real view."""

    measure: str
    """One of `MEASURES`."""

    @property
    def matched_by(self) -> MatchedBy:
        return "view"

    def key(self) -> Hashable:
        return "views", self.measure

    def gather(self, samples: ItemsT, reference: ItemsT | ReferenceStats, context: GatherContext[ItemsT]) -> ViewScores:
        items = items_of(reference)
        return context.once(self.key(), lambda: context.compare_views(samples, items, MEASURES[self.measure]))

    def estimate(self, num_samples: int, num_points: int | None, timer: CostTimer[Any]) -> list[Cost]:
        return [timer.views(MEASURES[self.measure], num_samples)]


@dataclass(frozen=True)
class ViewScores(MetricInputs):
    """A number for each view, with its scene."""

    values: Float64[np.ndarray, " N"]
    scenes: Int64[np.ndarray, " N"]
    """The scene of each view, as an index into `names`."""
    names: tuple[str, ...]

    def per_scene(self) -> dict[str, float]:
        """The mean over the views of each scene, by its name.

        Raises:
            UsageError: there are no views.
        """
        if not len(self.values):
            raise UsageError("there are no views to compare", hint="give scenes of two views or more")
        found, index = np.unique(self.scenes, return_inverse=True)
        means = np.bincount(index.reshape(-1), self.values) / np.bincount(index.reshape(-1))
        return {self.names[scene]: float(mean) for scene, mean in zip(found, means, strict=True)}

    def counts(self) -> tuple[int, int]:
        count = len(np.unique(self.scenes))
        return count, count

    def select_groups(self, groups: Collection[int], num_groups: int) -> ViewScores:
        """The views of some groups of scenes."""
        rows = rows_in_groups(len(self.scenes), groups, num_groups, self.scenes)
        return ViewScores(self.values[rows], self.scenes[rows], self.names)


def compute(inputs: ViewScores, protocol: str) -> float:
    """The mean over scenes of the mean over their views; raises UsageError without views."""
    return float(np.mean([*inputs.per_scene().values()]))


def jackknife_values(inputs: ViewScores, protocol: str, parts: int) -> Float64[np.ndarray, " P"]:
    """The mean without each group of scenes, at the cost of one."""
    return means_without_each(np.array([*inputs.per_scene().values()]), parts)


def remark(inputs: ViewScores, protocol: str) -> str:
    """How many views of a scene are compared."""
    counts = np.unique(inputs.scenes, return_counts=True)[1]
    views = f"{counts.min():,}" if counts.min() == counts.max() else f"{counts.min():,} to {counts.max():,}"
    return f"mean over the {views} compared views of a scene, then over {len(counts):,} scene{'s' * (len(counts) != 1)}"
