"""Closed outlines as images: the share of each pixel that they enclose, in closed form.

No samples are taken: the outline is cut at the sides of the pixels and each piece adds the area between it and the right side of
its pixel (Green's theorem). So the mean over a block of pixels is the coverage of the larger pixel, whatever the resolution.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from jaxtyping import Float64, Int64

Outline = Float64[np.ndarray, "_ 2"]
"""Corners (x to the right, y down) of a closed polygon; the last is joined to the first."""


def coverage(outlines: Sequence[Outline], resolution: int) -> Float64[np.ndarray, "R R"]:
    """The winding number of the outlines, averaged over each pixel of the unit square; its rows go down.

    That is the enclosed share of the pixel where outlines do not overlap, outer ones turn clockwise on the screen and the holes
    in them the other way round. All corners lie inside the unit square.
    """
    starts = np.concatenate(outlines) * resolution
    ends = np.concatenate([np.roll(outline, -1, axis=0) for outline in outlines]) * resolution
    assert min(starts.min(), resolution - starts.max()) >= 0, "an outline leaves the unit square"
    firsts, seconds = _cut(starts, ends)
    columns, rows = np.minimum(np.floor((firsts + seconds) / 2).astype(np.int64), resolution - 1).T
    heights = seconds[:, 1] - firsts[:, 1]
    beyond = (firsts[:, 0] + seconds[:, 0]) / 2 - columns
    # What an edge adds holds for all pixels to its right, so the sums along a row are taken at the end.
    width = resolution + 1
    index = rows * width + columns
    added = np.bincount(index, -heights * (1 - beyond), resolution * width)
    added += np.bincount(index + 1, -heights * beyond, resolution * width)
    return np.cumsum(added.reshape(resolution, width), axis=1)[:, :-1]


def flatten(
    starts: Float64[np.ndarray, "N 2"],
    controls: Float64[np.ndarray, "N 2"],
    ends: Float64[np.ndarray, "N 2"],
    tolerance: float,
) -> Outline:
    """Quadratic Bezier curves in a row as one polygon whose chords are at most `tolerance` away from them.

    A chord over the share 1 / n of the parameter is `|start - 2 control + end| / (4 n^2)` away at most.
    """
    bends = np.linalg.norm(starts - 2 * controls + ends, axis=1)
    counts = np.maximum(1, np.ceil(np.sqrt(bends / (4 * tolerance)))).astype(np.int64)
    curves, numbers = _counted(counts)
    t = (numbers / counts[curves])[:, None]
    return (1 - t) ** 2 * starts[curves] + 2 * t * (1 - t) * controls[curves] + t**2 * ends[curves]


def _cut(starts: Float64[np.ndarray, "N 2"], ends: Float64[np.ndarray, "N 2"]) -> tuple[Outline, Outline]:
    """The edges, cut where they cross whole numbers of either coordinate."""
    edges, shares = [np.arange(len(starts))], [np.zeros(len(starts))]
    for first, second in zip(starts.T, ends.T, strict=True):
        low, high = np.minimum(first, second), np.maximum(first, second)
        crossed, numbers = _counted(np.maximum(np.ceil(high) - np.floor(low) - 1, 0).astype(np.int64))
        edges.append(crossed)
        shares.append((np.floor(low)[crossed] + 1 + numbers - first[crossed]) / (second - first)[crossed])
    edge, share = np.concatenate(edges), np.concatenate(shares)
    order = np.lexsort((share, edge))
    edge, share = edge[order], share[order, None]
    until = np.append(share[1:], [[0.0]], axis=0)
    until[np.append(edge[1:] != edge[:-1], True)] = 1
    span = (ends - starts)[edge]
    return starts[edge] + share * span, starts[edge] + until * span


def _counted(counts: Int64[np.ndarray, " N"]) -> tuple[Int64[np.ndarray, " T"], Int64[np.ndarray, " T"]]:
    """Each index as often as its count says, and the numbers from 0 to below the count."""
    indices = np.repeat(np.arange(len(counts)), counts)
    return indices, np.arange(len(indices)) - np.repeat(np.cumsum(counts) - counts, counts)
