"""Images and clouds in the report: galleries, and samples with their nearest training items.

The embedded data is limited by `_limits`, PIXELS, POINTS and MOST_NEAREST; the page says how many items it shows.
"""

from __future__ import annotations

import base64
import io
import math
from collections.abc import Sequence
from html import escape

import numpy as np
from PIL import Image

from inrflow_core.domains._contract import CLOUD_GALLERY, IMAGE_GALLERY
from inrflow_core.domains._contract import Gallery as Limits
from inrflow_core.report import number_format, plots
from inrflow_core.report.content import Gallery, ImageConditionedGallery, NearestNeighborsPanel
from inrflow_core.visualization import image_grid, point_rendering

MOST_NEAREST = 5
PIXELS = 2**20
"""Pixels of a side of a gallery, and of all neighbors: at most 4 MB for RGB noise, half of that for photos."""
MOST_SIDE, NEIGHBOR_SIDE = 256, 128
"""Maximum side of an image, in a gallery and beside its neighbors; larger ones are reduced."""
POINTS = 2**18
"""Points of a gallery, and of all neighbors; each takes 8 bytes (12 with colors)."""
STATIC, STATIC_ALONE = 168, 480
"""Side of a cloud's image for browsers without scripts: among several, and alone."""
REACH = 3.0
"""Positions have 16 bits over this many radii of the cloud to either side; points farther away are moved to the edge."""


def gallery(content: Gallery) -> str:
    """Samples beside as many of the reference."""
    are_images = _are_images(content.samples)
    counts = [_shown(content.samples)]
    if content.reference is not None:
        counts.append(min(counts[0], _shown(content.reference)))
    sides = _side("Samples", content.samples, content.sample_names, counts[0], sum(counts))
    if content.reference is not None:
        sides += _side("Reference", content.reference, content.reference_names, counts[1], sum(counts))
    return (
        f'<section class="gallery {_css_class(content.samples)}"><h2>{escape(content.title)}</h2>'
        f"\n{_turning(sum(counts), are_images=are_images)}"
        f'<div class="sides">{sides}</div></section>'
    )


def photos(content: ImageConditionedGallery) -> str:
    """Rows of an image, the cloud sampled from it, and the object's cloud."""
    rows = min(len(content.samples), CLOUD_GALLERY.tiles)
    strips = ""
    for row in range(rows):
        name = content.names[row]
        image = _tile(content.images[row], "image", name, 2 * rows, NEIGHBOR_SIDE)
        tile = _tile(content.samples[row], f"sampled from the image of {name}", "drawn", 2 * rows)
        own = _tile(content.reference[row], f"the object {name}", "the object", 2 * rows)
        strips += f'<div class="strip">{image}{tile}{own}</div>'
    return (
        f'<section class="photos points"><h2>{escape(content.title)}, sampled from images</h2>\n<p class="says">Each row: an'
        " image, the cloud that was sampled from it, and the object's own cloud, both turned about the upright axis to the"
        f" image's camera (shown: {_of(rows, content.count)}).</p>{_turning(2 * rows, are_images=False)}"
        f'<div class="strips">{strips}</div></section>'
    )


def neighbors(content: NearestNeighborsPanel) -> str:
    """The memorization check: samples with their nearest training items, and the distances of held-out data."""
    are_images = _are_images(content.samples)
    count = min(content.nearest.shape[1], MOST_NEAREST)
    rows = min(len(content.samples), _limits(content.samples).rows)
    if are_images:
        rows = max(1, min(rows, PIXELS // ((count + 1) * _pixels(content.samples, NEIGHBOR_SIDE))))
    order = np.argsort(content.distances[:, 0], kind="stable")[:rows]
    together = rows * (count + 1)
    of = f": {content.name}" if content.name else ""
    looked = f" The search covered {content.searched} training items." if content.searched else ""
    strips = "".join(_strip(content, row, count, together) for row in order.tolist())
    return (
        f'<section id="neighbors" class="{_css_class(content.samples)}"><h2>Nearest in the training set{escape(of)}</h2>\n{_verdict(content)}'
        f'<p class="says">Each row: a sample, then the training items nearest to it with their distance'
        f" ({escape(content.measure)}); the nearest samples come first"
        f" (shown: {_of(rows, len(content.sample_distances))}).{looked}</p>{_turning(together, are_images=are_images)}"
        f'<div class="strips">{strips}</div></section>'
    )


def _verdict(content: NearestNeighborsPanel) -> str:
    """The distribution of the distances, and how to read it."""
    values = {"samples": content.sample_distances}
    limit, text = None, ""
    if content.held_out_distances is not None and len(content.held_out_distances):
        values["held-out data"] = content.held_out_distances
        limit = float(np.quantile(content.held_out_distances, 0.01))
        # Items at the limit count: for repeated data it is 0, and copies are not below it.
        sampled, held_out = (_share(each, limit) for each in (content.sample_distances, content.held_out_distances))
        text = (
            f"<strong>{sampled} of the samples</strong> lie within {number_format.format_compact(limit)} of the training set (the upright"
            f" line); of the {len(content.held_out_distances):,} held-out items, {held_out} do. Samples much nearer"
            " to the training set than held-out data are memorized, not generated."
        )
    else:
        text = (
            "Samples at almost no distance from a training item are memorized, not generated."
            " Held-out data, which are not given, would show how near is too near."
        )
        if not _are_images(content.samples):
            text += " Two random point clouds of one surface are not at distance 0 either."
    histogram = plots.histogram(values, content.measure, "distances to the nearest training item", limit=limit)
    return (
        f'<div class="verdict"><figure class="plot"><figcaption>Distance to the nearest training item</figcaption>{histogram}'
        f"{plots.legend(plots.legend_with_counts(values), mark='area')}</figure><p>{text}</p></div>"
    )


def _share(distances: np.ndarray, limit: float) -> str:
    return f"{100 * float(np.mean(distances <= limit)):.1f}\N{NO-BREAK SPACE}%"


def _strip(content: NearestNeighborsPanel, row: int, count: int, together: int) -> str:
    first = _tile(content.samples[row], "sample", "sample", together, NEIGHBOR_SIDE)
    others = "".join(
        _tile(
            content.nearest[row, rank],
            f"training item at {number_format.format_compact(float(content.distances[row, rank]))}",
            number_format.format_compact(float(content.distances[row, rank])),
            together,
            NEIGHBOR_SIDE,
        )
        for rank in range(count)
    )
    return f'<div class="strip">{first}{others}</div>'


def _side(title: str, items: np.ndarray, names: Sequence[str], count: int, together: int) -> str:
    tiles = "".join(
        _tile(item, f"{title.lower()} {index + 1}", names[index] if index < len(names) else "", together)
        for index, item in enumerate(items[:count])
    )
    size = "one" if count == 1 else "small" if _are_images(items) and max(items.shape[1:3]) < 48 else "large"
    return (
        f'<div class="side"><h3>{title}<span class="count">{_of(count, len(items))}</span></h3>'
        f'<div class="tiles {size}">{tiles}</div></div>'
    )


def _shown(items: np.ndarray) -> int:
    """How many items of a side are embedded."""
    most = _limits(items).tiles
    most = min(most, PIXELS // _pixels(items, MOST_SIDE)) if _are_images(items) else most
    return min(len(items), max(1, most))


def _tile(item: np.ndarray, label: str, name: str, together: int, side: int = MOST_SIDE) -> str:
    """An image or a cloud with its name; `together` clouds share the embedded points."""
    label = f"{label}: {name}" if name and name not in label else label
    caption = f"<figcaption>{escape(name)}</figcaption>" if name else ""
    inner = _image(item, label, side) if item.ndim == 3 else _cloud(item, label, together)
    return f'<figure class="tile">{inner}{caption}</figure>'


def _image(pixels: np.ndarray, label: str, side: int) -> str:
    image = image_grid.to_image(pixels)
    if max(image.size) > side:
        image.thumbnail((side, side), Image.Resampling.LANCZOS)
    sharp = ' class="sharp"' if max(image.size) < 100 else ""
    return f'<img{sharp} width="{image.width}" height="{image.height}" alt="{escape(label)}" src="{_embedded(image)}">'


def _cloud(points: np.ndarray, label: str, together: int) -> str:
    """A cloud's image, and its points for the script that rotates it."""
    size, most = STATIC if together > 1 else STATIC_ALONE, POINTS // together
    points = points[np.isfinite(points).all(1)]
    if len(points) > most:
        points = points[np.sort(np.random.default_rng(0).permutation(len(points))[:most])]
    if not len(points):
        return f'<div class="cloud"><p>{escape(label)}: no finite point</p></div>'
    image = point_rendering.cloud(points, size=size).quantize(
        64, method=Image.Quantize.MEDIANCUT, dither=Image.Dither.NONE
    )
    low, high = np.quantile(points[:, :3], [0.005, 0.995], axis=0)
    centered = points[:, :3].astype(np.float64) - (low + high) / 2
    radius = max(float(np.quantile(np.linalg.norm(centered, axis=1), 0.995)), 1e-12)
    positions = np.clip(np.round((centered / radius / REACH + 1) / 2 * 65535), 0, 65535).astype("<u2")
    data = f' data-points="{_base64(positions.tobytes())}"'
    if points.shape[1] >= 6:
        colors = np.clip(np.round((points[:, 3:6] + 1) * 127.5), 0, 255).astype(np.uint8)
        data += f' data-colors="{_base64(colors.tobytes())}"'
    return (
        f'<div class="cloud"{data}><img width="{size}" height="{size}" alt="{escape(label)}, {len(points):,} points"'
        f' src="{_embedded(image)}"></div>'
    )


def _embedded(image: Image.Image) -> str:
    file = io.BytesIO()
    image.save(file, "PNG", optimize=True)
    return f"data:image/png;base64,{_base64(file.getvalue())}"


def _base64(content: bytes) -> str:
    return base64.b64encode(content).decode("ascii")


def _turning(together: int, *, are_images: bool) -> str:
    """How to rotate clouds; the script that rotates them shows it."""
    if are_images:
        return ""
    return (
        '<div class="turning" hidden><p class="says">Drag a cloud to turn it; or choose one with Tab and use the arrow'
        " keys, + and \N{MINUS SIGN} to zoom, 0 to reset. On a touch screen, tap it first.</p>"
        f'<label{"" if together > 1 else " hidden"}><input type="checkbox"> turn all together</label></div>'
    )


def _of(shown: int, count: int) -> str:
    return f"{count:,}" if shown == count else f"{shown:,} of {count:,}"


def _are_images(items: np.ndarray) -> bool:
    """Whether a domain's thumbnails are images, uint8 (N H W C), and not clouds, float32 (N P C)."""
    return items.ndim == 4


def _css_class(items: np.ndarray) -> str:
    return "image" if _are_images(items) else "points"


def _limits(items: np.ndarray) -> Limits:
    """Tiles and rows: a page with 96 small images or 16 clouds stays quick."""
    return IMAGE_GALLERY if _are_images(items) else CLOUD_GALLERY


def _pixels(images: np.ndarray, side: int) -> int:
    """Pixels of an image that is reduced to at most `side`."""
    height, width = images.shape[1:3]
    scale = min(1.0, side / max(height, width))
    return math.ceil(height * scale) * math.ceil(width * scale)
