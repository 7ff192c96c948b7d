"""Pictures for people: sheets of images, shaded clouds, curves. No display and no GPU are needed."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence

import numpy as np
from jaxtyping import Float, UInt8
from PIL import Image, ImageDraw, ImageFont

PAPER = (255, 255, 255)
INK = (70, 74, 82)
TILE = 64
"""Images of a sheet are magnified by a whole number until they are at least this many pixels high."""
LIGHT = np.array([0.55, -0.30, 0.78])
"""Towards the light: up, right, to the viewer; nearly of length 1."""
RAINBOW = np.array([(0.20, 0.33, 0.80), (0.16, 0.66, 0.78), (0.36, 0.70, 0.34), (0.95, 0.74, 0.22), (0.84, 0.25, 0.20)])
"""Colours along a protein, from its N to its C end."""
STEPS = 24
"""Places drawn between two residues of a protein."""


def sheet(
    images: UInt8[np.ndarray, "B H W C"], *, columns: int | None = None, captions: Sequence[str] = ()
) -> Image.Image:
    """The images side by side on white, each pixel a sharp square; one image alone is itself, pixel for pixel."""
    if len(images) == 1 and not captions:
        return picture(images[0])
    scale = max(1, math.ceil(TILE / images.shape[1]))
    tiles = [_magnified(picture(image), scale) for image in images]
    return arranged(tiles, columns=columns, captions=captions)


def comparison(rows: Mapping[str, UInt8[np.ndarray, "B _ _ _"]], *, tile: int = 96) -> Image.Image:
    """Rows of images under one another, each with its name at the left; all are shown `tile` pixels high.

    Rows are equally long and may differ in resolution: coarser ones are magnified without smoothing, so that their pixels are seen.
    """
    tiles = [
        picture(image).resize((round(tile * image.shape[1] / image.shape[0]), tile), Image.Resampling.NEAREST)
        for row in rows.values()
        for image in row
    ]
    columns = len(next(iter(rows.values())))
    assert all(len(row) == columns for row in rows.values()), "rows of one length"
    return arranged(tiles, columns=columns, names=list(rows))


def clouds(
    points: Float[np.ndarray, "B N C"],
    *,
    columns: int | None = None,
    size: int = 256,
    captions: Sequence[str] = (),
    azimuth: float = 35.0,
    elevation: float = 24.0,
) -> Image.Image:
    """The clouds side by side, each drawn by `cloud` and `size` pixels high."""
    tiles = [cloud(each, size=size, azimuth=azimuth, elevation=elevation) for each in points]
    return tiles[0] if len(tiles) == 1 and not captions else arranged(tiles, columns=columns, captions=captions, gap=0)


def cloud(
    points: Float[np.ndarray, "N C"], *, size: int = 256, azimuth: float = 35.0, elevation: float = 24.0
) -> Image.Image:
    """A cloud as small lit balls, darker in its hollows, seen from the front, right and above; y is up.

    The view fits the cloud. Colours are its own (channels 3 to 5, in [-1, 1]) where it has them, else they follow the
    place, which tells front from back. Angles are in degrees.
    """
    side = 2 * size
    colours = _colours(points)
    placed = _placed(points[:, :3].astype(np.float64), side, azimuth, elevation)
    radius = max(1.0, 0.52 * side / math.sqrt(len(points)))
    depth, owner, light = _splat(placed, side, radius)
    seen = np.isfinite(depth)
    canvas = np.ones((side, side, 3))
    shade = light * _hollows(depth, side)
    canvas[seen] = colours[owner[seen]] * shade[seen][:, None]
    pixels = np.clip(canvas.reshape(size, 2, size, 2, 3).mean((1, 3)) * 255, 0, 255).round().astype(np.uint8)
    return Image.fromarray(pixels)


def proteins(
    traces: Sequence[Float[np.ndarray, "_ 3"]],
    *,
    columns: int | None = None,
    size: int = 256,
    captions: Sequence[str] = (),
    is_one_view: bool = False,
) -> Image.Image:
    """Proteins side by side, each drawn by `protein`, from its own best side or all as the first is seen."""
    views = [_view(traces[0] if is_one_view else trace) for trace in traces]
    tiles = [protein(trace, size=size, view=view) for trace, view in zip(traces, views, strict=True)]
    return tiles[0] if len(tiles) == 1 and not captions else arranged(tiles, columns=columns, captions=captions, gap=0)


def protein(
    trace: Float[np.ndarray, "L 3"], *, size: int = 256, view: Float[np.ndarray, "3 3"] | None = None
) -> Image.Image:
    """A protein as a lit tube through its C-alphas, blue at the N end and red at the C end, paler towards the back.

    Args:
        view: rows point right, up and to the viewer; None looks at the trace where it is widest.
    """
    side = 2 * size
    fine = _smooth(trace.astype(np.float64))
    placed = _placed((fine - fine.mean(0)) @ (_view(trace) if view is None else view).T, side, 0.0, 0.0)
    step = float(np.median(np.linalg.norm(np.diff(placed, axis=0), axis=1))) if len(placed) > 1 else 1.0
    radius = float(np.clip(0.22 * STEPS * step, 2.0, side / 40))
    depth, owner, light = _splat(placed, side, radius)
    seen = np.isfinite(depth)
    along = np.linspace(0, len(RAINBOW) - 1, len(fine))
    colours = np.stack([np.interp(along, range(len(RAINBOW)), channel) for channel in RAINBOW.T], axis=1)
    near = (placed[:, 2] - placed[:, 2].min()) / max(float(np.ptp(placed[:, 2])), 1e-12)
    faded = colours + (1 - colours) * 0.5 * (1 - near[:, None])
    canvas = np.ones((side, side, 3))
    canvas[seen] = faded[owner[seen]] * (light * _hollows(depth, side))[seen][:, None]
    pixels = np.clip(canvas.reshape(size, 2, size, 2, 3).mean((1, 3)) * 255, 0, 255).round().astype(np.uint8)
    return Image.fromarray(pixels)


def curves(
    series: Mapping[str, tuple[Sequence[float], Sequence[float]]],
    *,
    x_label: str = "step",
    y_label: str = "loss",
    is_logarithmic: bool = False,
) -> Image.Image:
    """Named lines over a common axis, as training curves are."""
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure

    figure = Figure(figsize=(6.4, 3.6), dpi=120, layout="constrained")
    canvas = FigureCanvasAgg(figure)
    axes = figure.subplots()
    for name, (x, y) in series.items():
        axes.plot(x, y, label=name, linewidth=1.2)
    axes.set(xlabel=x_label, ylabel=y_label)
    axes.spines[["top", "right"]].set_visible(False)
    axes.grid(alpha=0.25)
    if is_logarithmic:
        axes.set_yscale("log")
    if len(series) > 1:
        axes.legend(frameon=False)
    canvas.draw()
    return Image.fromarray(np.asarray(canvas.buffer_rgba())[..., :3].copy())


def picture(pixels: UInt8[np.ndarray, "H W C"]) -> Image.Image:
    """One image, pixel for pixel: grey, RGB or RGBA by its channels."""
    return Image.fromarray(np.ascontiguousarray(pixels[..., 0] if pixels.shape[-1] == 1 else pixels))


def arranged(
    tiles: Sequence[Image.Image],
    *,
    columns: int | None = None,
    captions: Sequence[str] = (),
    names: Sequence[str] = (),
    gap: int = 4,
) -> Image.Image:
    """Tiles of one size on white paper, row by row, with a caption above each or a name left of each row."""
    columns = columns or near_square(len(tiles))
    rows = math.ceil(len(tiles) / columns)
    width, height = tiles[0].size
    letters = max(11, min(18, height // 8))
    font = ImageFont.load_default(letters)
    margin = max((math.ceil(font.getlength(name)) + 12 for name in names), default=0)
    head = math.ceil(letters * 1.5) if captions else 0
    step_x, step_y = width + gap, height + head + gap
    mode = "RGBA" if tiles[0].mode == "RGBA" else "RGB"
    page = Image.new(mode, (margin + columns * step_x + gap, rows * step_y + gap), PAPER)
    pen = ImageDraw.Draw(page)
    for index, tile in enumerate(tiles):
        row, column = divmod(index, columns)
        x, y = margin + gap + column * step_x, gap + row * step_y
        page.paste(tile.convert(mode), (x, y + head))
        if index < len(captions):
            text = _fitting(captions[index], font, width)
            pen.text((x + width / 2, y + head / 2), text, fill=INK, font=font, anchor="mm")
    for row, name in enumerate(names):
        pen.text((margin - 6, gap + row * step_y + height / 2), name, fill=INK, font=font, anchor="rm")
    return page


def near_square(count: int) -> int:
    """Columns for `count` tiles: rows that come out even where some number up to twice the root divides it."""
    root = math.ceil(math.sqrt(count))
    return next((columns for columns in range(root, 2 * root + 1) if count % columns == 0), root)


def _fitting(text: str, font: ImageFont.ImageFont | ImageFont.FreeTypeFont, width: int) -> str:
    """The text, cut with three dots where it is wider than its tile."""
    if font.getlength(text) <= width:
        return text
    return next(
        (f"{text[:end]}..." for end in range(len(text) - 1, 0, -1) if font.getlength(text[:end] + "...") <= width), ""
    )


def _magnified(image: Image.Image, scale: int) -> Image.Image:
    return image.resize((image.width * scale, image.height * scale), Image.Resampling.NEAREST)


def _colours(points: np.ndarray) -> np.ndarray:
    """The cloud's own colours, else muted ones that change along its three axes; RGB in [0, 1]."""
    if points.shape[1] >= 6:
        return np.clip((points[:, 3:6].astype(np.float64) + 1) / 2, 0, 1)
    low, high = points.min(0), points.max(0)
    place = (points - low) / max(float((high - low).max()), 1e-12)
    return np.stack([0.36 + 0.60 * place[:, 0], 0.46 + 0.42 * place[:, 1], 0.92 - 0.44 * place[:, 2]], axis=1)


def _placed(points: np.ndarray, side: int, azimuth: float, elevation: float) -> np.ndarray:
    """Row, column and nearness of each point in pixels: seen in mild perspective, filling the square.

    The middle 99 percent along each axis set the view: stray points of a sample must not shrink it.
    """
    low, high = np.quantile(points, [0.005, 0.995], axis=0)
    centred = points - (low + high) / 2
    turn, tilt = math.radians(azimuth), math.radians(elevation)
    x = centred[:, 0] * math.cos(turn) - centred[:, 2] * math.sin(turn)
    forward = centred[:, 0] * math.sin(turn) + centred[:, 2] * math.cos(turn)
    y = centred[:, 1] * math.cos(tilt) - forward * math.sin(tilt)
    near = centred[:, 1] * math.sin(tilt) + forward * math.cos(tilt)
    reach = max(float(np.quantile(np.hypot(x, y), 0.995)), 1e-12)
    perspective = 1 / (1 - 0.2 * np.clip(near / reach, -2, 2))
    scale = 0.40 * side / reach
    return np.stack([side / 2 - y * scale * perspective, side / 2 + x * scale * perspective, near * scale], axis=1)


def _smooth(trace: np.ndarray) -> np.ndarray:
    """`STEPS` places for each residue on a curve through all of them (Catmull-Rom)."""
    if len(trace) < 2:
        return trace
    padded = np.concatenate([2 * trace[:1] - trace[1:2], trace, 2 * trace[-1:] - trace[-2:-1]])
    before, first, second, after = (padded[place : len(padded) - 3 + place, None] for place in range(4))
    t = np.linspace(0, 1, STEPS, endpoint=False)[:, None]
    bend = 2 * before - 5 * first + 4 * second - after
    twist = 3 * first - before - 3 * second + after
    between = first + 0.5 * t * (second - before + t * (bend + t * twist))
    return np.concatenate([between.reshape(-1, 3), trace[-1:]])


def _view(trace: np.ndarray) -> np.ndarray:
    """Rows right, up and to the viewer that show a trace where it is widest; never its mirror image."""
    centred = trace.astype(np.float64) - trace.mean(0)
    _, axes = np.linalg.eigh(centred.T @ centred)
    right, up = axes[:, 2], axes[:, 1]
    right, up = (axis * (1.0 if ((centred @ axis) ** 3).sum() >= 0 else -1.0) for axis in (right, up))
    return np.stack([right, up, np.cross(right, up)])


def _splat(placed: np.ndarray, side: int, radius: float) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Draw each point as a ball: at every pixel the nearness of the nearest surface, whose it is, and its light."""
    reach = math.ceil(radius)
    depth = np.full(side * side, -np.inf)
    owner = np.zeros(side * side, dtype=np.int64)
    light = np.zeros(side * side)
    whole = np.floor(placed[:, :2]).astype(np.int64)
    for row in range(-reach, reach + 1):
        for column in range(-reach, reach + 1):
            offset = np.array([row, column]) / radius
            height = 1 - float(offset @ offset)
            if height < 0:
                continue
            normal = np.array([-offset[0], offset[1], math.sqrt(height)])
            at = whole + (row, column)
            inside = np.flatnonzero(((at >= 0) & (at < side)).all(1))
            cells = at[inside, 0] * side + at[inside, 1]
            nearness = placed[inside, 2] + radius * math.sqrt(height)
            np.maximum.at(depth, cells, nearness)
            won = depth[cells] == nearness
            owner[cells[won]] = inside[won]
            light[cells[won]] = 0.68 + 0.42 * max(0.0, float(normal @ LIGHT))
    return depth.reshape(side, side), owner.reshape(side, side), light.reshape(side, side)


def _hollows(depth: np.ndarray, side: int) -> np.ndarray:
    """A factor in (0, 1] that darkens what lies behind its surroundings (eye-dome lighting)."""
    shade = np.zeros((side, side))
    behind = np.where(np.isfinite(depth), depth, -1e9)
    for reach in (side // 128 + 1, side // 40 + 1):
        padded = np.pad(behind, reach, constant_values=-1e9)
        for row, column in ((0, 1), (1, 0), (0, -1), (-1, 0), (1, 1), (1, -1), (-1, 1), (-1, -1)):
            top, left = reach + row * reach, reach + column * reach
            shade += np.clip((padded[top : top + side, left : left + side] - behind) / (0.08 * side), 0, 1)
    return np.exp(-0.09 * shade)
