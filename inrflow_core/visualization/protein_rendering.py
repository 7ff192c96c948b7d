"""Render protein backbones as images."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from jaxtyping import Float
from PIL import Image

from inrflow_core.proteins import structure
from inrflow_core.visualization.image_grid import tile_images
from inrflow_core.visualization.point_rendering import ambient_occlusion, project_points, splat_balls

RAINBOW = np.array([(0.20, 0.33, 0.80), (0.16, 0.66, 0.78), (0.36, 0.70, 0.34), (0.95, 0.74, 0.22), (0.84, 0.25, 0.20)])
"""Colors along a protein, from its N to its C end."""
STEPS = 24
"""Points drawn between two residues of a protein."""


def render_proteins(
    traces: Sequence[Float[np.ndarray, "_ 3"]],
    *,
    columns: int | None = None,
    size: int = 256,
    captions: Sequence[str] = (),
    is_one_view: bool = False,
) -> Image.Image:
    """Proteins side by side, each drawn by `protein`, from its own best side or all as the first is seen."""
    views = [structure.principal_axes(traces[0] if is_one_view else trace) for trace in traces]
    tiles = [protein(trace, size=size, view=view) for trace, view in zip(traces, views, strict=True)]
    return (
        tiles[0] if len(tiles) == 1 and not captions else tile_images(tiles, columns=columns, captions=captions, gap=0)
    )


def protein(
    trace: Float[np.ndarray, "L 3"], *, size: int = 256, view: Float[np.ndarray, "3 3"] | None = None
) -> Image.Image:
    """A protein as a lit tube through its C-alphas, blue at the N end and red at the C end, paler towards the back.

    Args:
        view: rows point right, up and to the viewer; None looks at the trace where it is widest.
    """
    side = 2 * size
    fine = _smooth(trace.astype(np.float64))
    placed = project_points(
        (fine - fine.mean(0)) @ (structure.principal_axes(trace) if view is None else view).T, side, 0.0, 0.0
    )
    step = float(np.median(np.linalg.norm(np.diff(placed, axis=0), axis=1))) if len(placed) > 1 else 1.0
    radius = float(np.clip(0.22 * STEPS * step, 2.0, side / 40))
    depth, owner, light = splat_balls(placed, side, radius)
    seen = np.isfinite(depth)
    colors = _colors(np.linspace(0, 1, len(fine)))
    near = (placed[:, 2] - placed[:, 2].min()) / max(float(np.ptp(placed[:, 2])), 1e-12)
    faded = colors + (1 - colors) * 0.5 * (1 - near[:, None])
    canvas = np.ones((side, side, 3))
    canvas[seen] = faded[owner[seen]] * (light * ambient_occlusion(depth, side))[seen][:, None]
    pixels = np.clip(canvas.reshape(size, 2, size, 2, 3).mean((1, 3)) * 255, 0, 255).round().astype(np.uint8)
    return Image.fromarray(pixels)


def tube_points(
    traces: Sequence[Float[np.ndarray, "_ 3"]], along: Sequence[Float[np.ndarray, " _"]] | None = None
) -> Float[np.ndarray, "P 6"]:
    """Curves through the C-alphas of proteins as one colored cloud, seen where the first is widest, in float32.

    Args:
        along: for each residue its place in the color scale, from 0 (blue) to 1 (red). Default: from the N to the C end.
    """
    view, center = structure.principal_axes(traces[0]), traces[0].mean(0)
    clouds = []
    for index, trace in enumerate(traces):
        fine = (_smooth(trace.astype(np.float64)) - center) @ view.T
        scale = np.linspace(0, 1, len(trace)) if along is None else along[index]
        at = np.interp(np.linspace(0, len(trace) - 1, len(fine)), range(len(trace)), scale)
        clouds.append(np.concatenate([fine, 2 * _colors(at) - 1], axis=1))
    return np.concatenate(clouds).astype(np.float32)


def _colors(along: np.ndarray) -> np.ndarray:
    """RGB in [0, 1] of places in the color scale, from 0 to 1."""
    return np.stack([np.interp(along * (len(RAINBOW) - 1), range(len(RAINBOW)), one) for one in RAINBOW.T], axis=1)


def _smooth(trace: np.ndarray) -> np.ndarray:
    """`STEPS` places for each residue on a curve through all of them (Catmull-Rom)."""
    if len(trace) < 2:
        return trace
    padded = np.concatenate([2 * trace[:1] - trace[1:2], trace, 2 * trace[-1:] - trace[-2:-1]])
    before, first, second, after = (padded[start : len(padded) - 3 + start, None] for start in range(4))
    t = np.linspace(0, 1, STEPS, endpoint=False)[:, None]
    bend = 2 * before - 5 * first + 4 * second - after
    twist = 3 * first - before - 3 * second + after
    between = first + 0.5 * t * (second - before + t * (bend + t * twist))
    return np.concatenate([between.reshape(-1, 3), trace[-1:]])
