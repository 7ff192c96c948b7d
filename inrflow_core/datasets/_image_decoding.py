"""Shared by the image data sets: the index of encoded images, decoding by content, ADM's center crop."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import numpy as np
from jaxtyping import Float32, UInt8
from PIL import ImageColor
from PIL.Image import Image

from inrflow_core.datasets._archives import Entry
from inrflow_core.datasets._contract import DatasetIndex, Example, Item
from inrflow_core.errors import UnreadableItemError
from inrflow_core.storage.source_files import fingerprint
from inrflow_core.visualization.image_io import BACKGROUND, center_crop, decode_image

Pixels = UInt8[np.ndarray, "R R C"]
PIXELS = {"kind": "pixels", "to_unit": "v / 127.5 - 1"}
"""Normalization of uint8 images: the domain's map from a stored value to [-1, 1]."""
LARGEST = 8192
"""Rows and columns of the largest images that are prepared."""


def plan(
    splits: Mapping[str, Sequence[Item]],
    resolution: int,
    *,
    channels: int = 3,
    classes: Sequence[str] = (),
    sources: Sequence[tuple[str, int]],
    background: str | None = None,
    notes: tuple[str, ...] = (),
) -> DatasetIndex:
    """The index of images that become R x R; `sources` are the names and sizes of the raw files.

    A `background` other than white is recorded, so that models read images as they were trained.
    """
    return DatasetIndex(
        {name: items for name, items in splits.items() if len(items)},
        shape=(resolution, resolution, channels),
        dtype="uint8",
        fingerprint=fingerprint(sources),
        classes=tuple(classes),
        normalization=PIXELS if background is None else {**PIXELS, "background": background},
        coordinates=pixel_centers(resolution),
        notes=notes,
    )


def item(entry: Entry, label: int = -1) -> Item:
    """The item of an encoded image."""
    return Item(entry.name, label, entry.location)


def example(
    item: Item, resolution: int, *, channels: int = 3, upright: bool = False, background: str | None = None
) -> Example:
    """An encoded image as an example, with a remark if it is smaller than R x R.

    Raises:
        UnreadableItemError: it cannot be decoded.
    """
    image = _decoded(item.location.read(), channels, upright, background)
    is_small = min(image.size) < resolution
    remarks = (f"smaller than {resolution} pixels along a side, and enlarged",) if is_small else ()
    return Example(_cropped(image, resolution), item.label, item.name, remarks=remarks)


def check_resolution(resolution: int) -> None:
    """Check the resolution in the settings of a data set.

    Raises:
        ValueError: the resolution is out of range.
    """
    if not 1 <= resolution <= LARGEST:
        raise ValueError(f"`resolution` is {resolution}: from 1 to {LARGEST}")


def check_background(background: str | None) -> None:
    """Check the setting `background`.

    Raises:
        ValueError: it is not a color.
    """
    try:
        is_color = background is None or len(ImageColor.getrgb(background)) == 3
    except ValueError:
        is_color = False
    if not is_color:
        raise ValueError(f"`background` is {background!r}: a color by name, as `black`, or as `#ff8800`")


def pixels(content: bytes, resolution: int, *, channels: int = 3, upright: bool = False) -> Pixels:
    """An encoded image as uint8 (R R C): converted by content (`visualization.image_io`; gray with one channel), cropped as ADM does.

    `upright` rotates photographs by their EXIF orientation, unlike the benchmarks' own pipelines.

    Raises:
        UnreadableItemError: the content is empty, damaged, or of a format that is not read.
    """
    return _cropped(_decoded(content, channels, upright, None), resolution)


def _decoded(content: bytes, channels: int, upright: bool, background: str | None) -> Image:
    mode = "L" if channels == 1 else "RGB"
    return decode_image(content, mode, is_upright=upright, background=background or BACKGROUND)


def _cropped(image: Image, resolution: int) -> Pixels:
    try:
        return center_crop(image, resolution)
    except MemoryError as error:
        raise UnreadableItemError("out of memory while resizing it") from error


def pixel_centers(resolution: int) -> Float32[np.ndarray, "R R 2"]:
    """Coordinates of the pixels, float32 (R R 2), (row, column), at (2i + 1) / R - 1."""
    axis = (2 * np.arange(resolution) + 1) / resolution - 1
    return np.stack(np.meshgrid(axis, axis, indexing="ij"), -1).astype(np.float32)
