"""Arrange images in grids with captions, and draw training curves."""

from __future__ import annotations

import math
from collections.abc import Collection, Mapping, Sequence

import numpy as np
from jaxtyping import UInt8
from PIL import Image, ImageDraw, ImageFont

BACKGROUND = (255, 255, 255)
FOREGROUND = (70, 74, 82)
TILE = 64
"""Images of a grid are magnified by a whole number until they are at least this many pixels high."""
LEGIBLE = 96, 384
"""Least and most pixels of the height of an image beside a caption."""


def image_grid(
    images: UInt8[np.ndarray, "B H W C"], *, columns: int | None = None, captions: Sequence[str] = ()
) -> Image.Image:
    """The images side by side on white, each pixel a sharp square; one image alone is itself, pixel for pixel."""
    if len(images) == 1 and not captions:
        return to_image(images[0])
    scale = max(1, math.ceil(TILE / images.shape[1]))
    tiles = [_magnified(to_image(image), scale) for image in images]
    return tile_images(tiles, columns=columns, captions=captions)


def scene_grid(scenes: UInt8[np.ndarray, "B V H W C"], *, columns: int | None = None) -> Image.Image:
    """All views of scenes: a row for each scene, or single views in a grid."""
    num_views = scenes.shape[1]
    views = scenes.reshape(-1, *scenes.shape[2:])
    return image_grid(views, columns=columns or (num_views if num_views > 1 and len(scenes) > 1 else None))


def labeled_rows(rows: Mapping[str, UInt8[np.ndarray, "B _ _ _"]], *, tile: int = 96) -> Image.Image:
    """Rows of images under one another, each with its name at the left; all are shown `tile` pixels high.

    Rows are equally long and may differ in resolution: coarser ones are magnified without smoothing, so that their pixels are seen.
    """
    tiles = [
        to_image(image).resize((round(tile * image.shape[1] / image.shape[0]), tile), Image.Resampling.NEAREST)
        for row in rows.values()
        for image in row
    ]
    columns = len(next(iter(rows.values())))
    assert all(len(row) == columns for row in rows.values()), "rows of one length"
    return tile_images(tiles, columns=columns, names=list(rows))


def sheet(scenes: UInt8[np.ndarray, "B V H W C"], captions: Sequence[str]) -> Image.Image:
    """Single views in a grid with a caption above each, several views of each scene in a row with the caption at its left."""
    tiles = [_legible(view) for scene in scenes for view in scene]
    if scenes.shape[1] == 1:
        return tile_images(tiles, captions=captions)
    return tile_images(tiles, columns=scenes.shape[1], names=captions)


def _legible(pixels: UInt8[np.ndarray, "H W C"]) -> Image.Image:
    """An image magnified by a whole number, or reduced, to a height within `LEGIBLE`."""
    image, (least, most) = to_image(pixels), LEGIBLE
    if image.height > most:
        return image.resize((max(1, round(image.width * most / image.height)), most), Image.Resampling.LANCZOS)
    return _magnified(image, max(1, math.ceil(least / image.height)))


def to_image(pixels: UInt8[np.ndarray, "H W C"]) -> Image.Image:
    """One image, pixel for pixel: gray, RGB or RGBA by its channels."""
    return Image.fromarray(np.ascontiguousarray(pixels[..., 0] if pixels.shape[-1] == 1 else pixels))


def tile_images(
    tiles: Sequence[Image.Image],
    *,
    columns: int | None = None,
    captions: Sequence[str] = (),
    names: Sequence[str] = (),
    gap: int = 4,
) -> Image.Image:
    """Tiles of one size on white paper, row by row, with a caption above each or a name left of each row."""
    columns = columns or grid_columns(len(tiles))
    rows = math.ceil(len(tiles) / columns)
    width, height = tiles[0].size
    letters = max(11, min(18, height // 8))
    font = ImageFont.load_default(letters)
    margin = max((math.ceil(font.getlength(name)) + 12 for name in names), default=0)
    head = math.ceil(letters * 1.5) if captions else 0
    step_x, step_y = width + gap, height + head + gap
    mode = "RGBA" if tiles[0].mode == "RGBA" else "RGB"
    page = Image.new(mode, (margin + columns * step_x + gap, rows * step_y + gap), BACKGROUND)
    pen = ImageDraw.Draw(page)
    for index, tile in enumerate(tiles):
        row, column = divmod(index, columns)
        x, y = margin + gap + column * step_x, gap + row * step_y
        page.paste(tile.convert(mode), (x, y + head))
        if index < len(captions):
            text = _fitting(captions[index], font, width)
            pen.text((x + width / 2, y + head / 2), text, fill=FOREGROUND, font=font, anchor="mm")
    for row, name in enumerate(names):
        pen.text((margin - 6, gap + row * step_y + height / 2), name, fill=FOREGROUND, font=font, anchor="rm")
    return page


def grid_columns(count: int) -> int:
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


def curves(
    series: Mapping[str, tuple[Sequence[float], Sequence[float]]],
    *,
    x_label: str = "step",
    y_label: str = "loss",
    is_logarithmic: bool = False,
    dashed: Collection[str] = (),
) -> Image.Image:
    """Named lines over a common axis, as training curves are; `dashed` ones have the color of the line before them."""
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure

    figure = Figure(figsize=(6.4, 3.6), dpi=120, layout="constrained")
    canvas = FigureCanvasAgg(figure)
    axes = figure.subplots()
    for name, (x, y) in series.items():
        if name in dashed and axes.lines:
            axes.plot(x, y, label=name, linewidth=1.2, linestyle="--", marker=".", color=axes.lines[-1].get_color())
        else:
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
