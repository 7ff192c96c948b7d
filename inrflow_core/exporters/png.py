"""PNG: one image pixel for pixel, several as a sheet, clouds drawn. The origin stands in text chunks."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

import numpy as np
from PIL import Image
from PIL.PngImagePlugin import PngInfo

from inrflow_core import outputs, pictures

SUFFIXES = (".png",)
DOMAINS = ("image", "points")
HOLDS_MANY = True


def write(
    path: Path, samples: np.ndarray, *, origin: Mapping[str, str], columns: int | None = None, size: int | None = None
) -> None:
    """One picture of all samples; `columns` of a sheet, `size` in pixels of each cloud drawn.

    A single image is written as it is, so that reading it gives the very same pixels.
    """
    drawn = pictures.sheet(samples, columns=columns) if _are_images(samples) else _clouds(samples, columns, size)
    save(path, drawn, origin=origin)


def picture(samples: np.ndarray, domain: str) -> Image.Image:
    """The picture that `write` would save."""
    return pictures.sheet(samples) if domain == "image" else _clouds(samples, None, None)


def save(path: Path, drawn: Image.Image, *, origin: Mapping[str, str]) -> None:
    """Write any picture as PNG with its origin inside."""
    texts = PngInfo()
    for key, value in origin.items():
        texts.add_text(key, value)
    with outputs.written(path) as beside:
        drawn.save(beside, format="PNG", pnginfo=texts)


def _are_images(samples: np.ndarray) -> bool:
    return samples.dtype == np.uint8


def _clouds(samples: np.ndarray, columns: int | None, size: int | None) -> Image.Image:
    return pictures.clouds(samples, columns=columns, size=size or (512 if len(samples) == 1 else 256))
