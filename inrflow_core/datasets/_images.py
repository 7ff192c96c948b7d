"""What the image data sets share: finding images, decoding them by content, and ADM's centre crop."""

from __future__ import annotations

import io
import os
import struct
import warnings
import zlib
from collections.abc import Iterable
from pathlib import Path
from typing import NamedTuple

import numpy as np
from PIL import Image, ImageOps

from inrflow_core.examples import BadItem, Item

SUFFIXES = (".jpg", ".jpeg", ".png", ".webp", ".bmp", ".gif", ".tif", ".tiff", ".ppm", ".pgm")
FORMATS = ("JPEG", "PNG", "WEBP", "BMP", "GIF", "TIFF", "PPM")
"""Formats that are decoded; whatever the name says, the content decides. None of them runs anything."""
PIXELS = {"kind": "pixels", "to_unit": "v / 127.5 - 1"}
"""Normalisation of uint8 images: what the domain makes of a stored value."""

NOT_READABLE = (OSError, SyntaxError, ValueError, EOFError, struct.error, zlib.error, Image.DecompressionBombError)
"""What Pillow raises on content that is broken."""


class Blob(NamedTuple):
    """Where the encoded bytes of an image lie: a file, or a part of one (a member of a tar)."""

    path: str
    offset: int = 0
    size: int | None = None

    def read(self) -> bytes:
        """The bytes.

        Raises:
            BadItem: they cannot be read.
        """
        try:
            with open(self.path, "rb", buffering=0) as file:
                if self.size is None:
                    return file.read()
                content = os.pread(file.fileno(), self.size, self.offset)
        except OSError as error:
            raise BadItem(f"it cannot be opened: {error.strerror}") from error
        if len(content) < self.size:
            raise BadItem("the archive ends before it")
        return content


def is_image(name: str) -> bool:
    """Whether a file's name says that it is an image."""
    return name.lower().endswith(SUFFIXES)


def items(root: Path, names: Iterable[str], labels: Iterable[int] | None = None) -> list[Item]:
    """Items of image files, in order; without labels they have none."""
    chosen = list(names)
    numbers: Iterable[int] = [-1] * len(chosen) if labels is None else labels
    return [Item(name, number, Blob(os.path.join(root, name))) for name, number in zip(chosen, numbers, strict=True)]


def pixels(content: bytes, resolution: int, *, channels: int = 3, upright: bool = False) -> np.ndarray:
    """An encoded image as uint8 (R R C): converted by content, cropped as ADM does.

    Grey, palette, CMYK and 16-bit images become RGB (or grey, with one channel); what is transparent shows white.
    `upright` turns photographs as their EXIF says, which the benchmarks' own pipelines do not.

    Raises:
        BadItem: the content is empty, broken, or of no known format.
    """
    if not content:
        raise BadItem("it is empty")
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # Pillow remarks on odd metadata; the pixels are what counts
            with Image.open(io.BytesIO(content), formats=FORMATS) as image:
                image.load()
                turned = ImageOps.exif_transpose(image) if upright else image
                return centre_crop(_converted(turned, "L" if channels == 1 else "RGB"), resolution)
    except Image.UnidentifiedImageError as error:
        raise BadItem("its content is no " + ", ".join(FORMATS[:-1]) + f" or {FORMATS[-1]}") from error
    except NOT_READABLE as error:
        raise BadItem(f"it cannot be decoded: {str(error).partition(chr(10))[0]}") from error


def centre_crop(image: Image.Image, resolution: int) -> np.ndarray:
    """The middle square at R x R, uint8 (R R C), as ADM (Dhariwal and Nichol 2021) makes ImageNet's.

    The image is halved with a box filter while its shorter side is at least 2 R, brought to a shorter side of R with
    a bicubic one, and cut.
    """
    while min(image.size) >= 2 * resolution:
        image = image.resize((image.width // 2, image.height // 2), Image.Resampling.BOX)
    scale = resolution / min(image.size)
    image = image.resize((round(image.width * scale), round(image.height * scale)), Image.Resampling.BICUBIC)
    left, top = (image.width - resolution) // 2, (image.height - resolution) // 2
    cut = np.asarray(image.crop((left, top, left + resolution, top + resolution)))
    return cut.reshape(resolution, resolution, -1)


def pixel_centres(resolution: int) -> np.ndarray:
    """Coordinates of the pixels, float32 (R R 2), (row, column), at (2i + 1) / R - 1."""
    axis = (2 * np.arange(resolution) + 1) / resolution - 1
    return np.stack(np.meshgrid(axis, axis, indexing="ij"), -1).astype(np.float32)


def _converted(image: Image.Image, mode: str) -> Image.Image:
    if image.mode == mode:
        return image
    if image.mode.startswith("I;16"):  # Pillow would cut 16 bits off at 255
        deep = np.asarray(image).astype(np.uint32)
        image = Image.fromarray(((deep * 255 + 32767) // 65535).astype(np.uint8))
    if image.has_transparency_data:
        clear = image.convert("RGBA")
        image = Image.alpha_composite(Image.new("RGBA", clear.size, "white"), clear)
    return image.convert(mode)
