"""Prepare clouds for comparison: check them, subsample them to one number of points, normalize them for a protocol.

Subsampling comes first, so that a box is the box of the points that are compared. The protocols are defined in
docs/metrics-clouds.md.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from jaxtyping import Float, Float64

from inrflow_core.errors import IntegrityError, UsageError, did_you_mean
from inrflow_core.numerics import keyed_random

BOX = "inrflow"
"""Each cloud in its own box; `lion-global` and `pointflow` compare in the units of the source."""
SPHERE = "ddmi"
"""Each cloud in its own sphere, around the center of its box; of meshes, 2,048 points of each."""
PROTOCOLS = (BOX, "lion-global", "pointflow", SPHERE)
PER_ITEM = ("shape", "unit-cube")
"""Kinds of normalization whose offset and scale are stored with each item."""
MIN_POINTS = 2
SUBSAMPLE_KEY = "evaluation points"


@dataclass(frozen=True)
class SourceUnits:
    """Offset and scale from stored values to the units of the source: `values * scale + offset`."""

    offset: np.ndarray
    """(3,), or one row for each cloud."""
    scale: np.ndarray
    """(), or one number for each cloud: (N,) or (N, 1)."""


SOURCE = SourceUnits(np.zeros(3), np.ones(()))
"""For clouds that are in the units of their source already."""


def boxed(values: Float[np.ndarray, "N Q C"], points: int) -> Float[np.ndarray, "N P 3"]:
    """Positions of clouds subsampled to `points` points, each in its own box, in float32."""
    thinned = np.stack(subsample(list(values[..., :3]), points, range(len(values))))
    return normalize(thinned, BOX, None).astype(np.float32)


def units(normalization: Mapping[str, Any], condition: Mapping[str, np.ndarray]) -> SourceUnits | None:
    """The units of the source, from a shard's header (`normalisation`) and the arrays of each cloud (`condition`).

    None if unknown: clouds in their own boxes without stored offset and scale, such as samples of a model trained on
    such clouds.
    """
    kind = normalization.get("kind")
    if kind == "global":
        return SourceUnits(np.array(normalization["offset"], np.float64), np.array(normalization["scale"], np.float64))
    if kind in PER_ITEM and {"offset", "scale"} <= condition.keys():
        return SourceUnits(*(condition[name].astype(np.float64) for name in ("offset", "scale")))
    return None


def stack_checked(
    clouds: Sequence[np.ndarray], *, what: str, names: Sequence[str] | None = None, may_be_empty: bool = False
) -> Float64[np.ndarray, "N P 3"]:
    """Positions of clouds of equal size as one array; `what` they are (`samples`) and their names go into messages. Clouds that
    `may_be_empty` may have all their points in one place.

    Raises:
        UsageError: fewer than two, or of unequal sizes.
        IntegrityError: a cloud has no points, one point or only equal points, or a number that is not finite.
    """
    if len(clouds) < MIN_POINTS:
        raise UsageError(
            f"the {what} are too few: {len(clouds)}",
            hint=f"metrics of clouds take {MIN_POINTS} at least, papers 405 to 1000",
        )
    for index, cloud in enumerate(clouds):
        _check(cloud, _name(what, index, names), may_be_empty=may_be_empty)
    sizes = [len(cloud) for cloud in clouds]
    if len(set(sizes)) > 1:
        other = next(index for index, size in enumerate(sizes) if size != sizes[0])
        raise UsageError(
            f"the {what} are of unequal sizes: {sizes[0]:,} points in {_name(what, 0, names)}, "
            f"{sizes[other]:,} in {_name(what, other, names)}",
            hint=f"request one number of points, at most {min(sizes):,}",
        )
    return np.stack([np.asarray(cloud)[:, :3].astype(np.float64) for cloud in clouds])


def subsample(
    clouds: Sequence[np.ndarray], count: int, keys: Sequence[int], *, what: str = "clouds"
) -> Sequence[np.ndarray]:
    """`count` points of each cloud, in their order, selected by the cloud's key; all if the cloud has `count`.

    The selection depends on key, size and `count` alone, not on the other clouds.

    Raises:
        UsageError: a cloud has fewer points.
    """
    assert len(keys) == len(clouds)
    smaller = []
    for index, (cloud, key) in enumerate(zip(clouds, keys, strict=True)):
        if len(cloud) < count:
            raise UsageError(
                f"{_name(what, index, None)} has {len(cloud):,} points, fewer than the {count:,} requested",
                hint=f"request {min(len(c) for c in clouds):,} or fewer, or make the {what} with more points",
            )
        if len(cloud) > count:
            subset = keyed_random.subset(torch.tensor([key]), len(cloud), count, purpose=SUBSAMPLE_KEY)[0].numpy()
            cloud = cloud[np.sort(subset)]
        smaller.append(cloud)
    return smaller


def normalize(
    clouds: Float[np.ndarray, "N P 3"], protocol: str, units: SourceUnits | None, *, what: str = "clouds"
) -> Float64[np.ndarray, "N P 3"]:
    """Clouds as a protocol compares them, in float64.

    `inrflow`: each cloud's bounding box is centered at 0 and its longest side is 1, whatever its units; a cloud without
    extent is put at 0. `ddmi`: the box is centered at 0 and the point farthest from there is at distance 1. `lion-global` and `pointflow`: in the units of the source.

    Raises:
        UsageError: there is no such protocol, or it needs units that are unknown.
    """
    if protocol not in PROTOCOLS:
        raise UsageError(f"no protocol for clouds is called `{protocol}`", hint=did_you_mean(protocol, PROTOCOLS))
    values = clouds.astype(np.float64)
    if protocol == BOX:
        low, high = values.min(1, keepdims=True), values.max(1, keepdims=True)
        longest = (high - low).max(2, keepdims=True)
        return (values - (low + high) / 2) / np.where(longest > 0, longest, 1)
    if protocol == SPHERE:
        values -= (values.min(1, keepdims=True) + values.max(1, keepdims=True)) / 2
        farthest = np.linalg.norm(values, axis=2, keepdims=True).max(1, keepdims=True)
        return values / np.where(farthest > 0, farthest, 1)
    if units is None:
        raise UsageError(
            f"the protocol `{protocol}` compares in the units of the source, and those of the {what} are unknown: "
            "each cloud was put into its own box",
            hint="use the protocol `inrflow`, or a model trained on data prepared with `--set normalization=global`",
        )
    return values * units.scale.reshape(-1, 1, 1) + units.offset.reshape(-1, 1, 3)


def _check(cloud: np.ndarray, name: str, *, may_be_empty: bool) -> None:
    if cloud.ndim != 2 or not len(cloud) or cloud.shape[1] < 3:
        raise IntegrityError(f"{name} is not a cloud: an array of shape {cloud.shape}", hint="points are rows x, y, z")
    broken = int((~np.isfinite(cloud)).any(1).sum())
    if broken:
        raise IntegrityError(
            f"{name} is damaged: {broken:,} of its {len(cloud):,} points are not finite numbers",
            hint="generate or copy it again, or leave it out",
        )
    if not may_be_empty and (cloud[:, :3] == cloud[0, :3]).all():
        whole = "has one point" if len(cloud) == 1 else f"has all its {len(cloud):,} points in one place"
        raise IntegrityError(f"{name} {whole}", hint="it has no shape to compare; leave it out")


def _name(what: str, index: int, names: Sequence[str] | None) -> str:
    name = names[index] if names and names[index] else ""
    return f"`{name}` of the {what}" if name else f"number {index} of the {what}"
