"""Scales of colors: ranges of files that state none, and sRGB against light."""

from __future__ import annotations

import numpy as np
from jaxtyping import Float, Float64

from inrflow_core.errors import UnreadableItemError

RANGES = {"f": (1.0, 255.0, 65535.0), "i": (255.0, 65535.0), "u": (255.0, 65535.0)}
"""Of floating-point numbers and integers; of unsigned ones of 8 and 16 bits the type is the range."""


def colors_to_255(colors: np.ndarray) -> Float64[np.ndarray, "N 3"]:
    """Colors of PLY, OBJ and OFF files, which state no range, in [0, 255].

    The range of `uchar` is 255, that of `ushort` 65,535. Other types have the smallest of 1 (floating-point alone), 255
    and 65,535 that holds all colors of the file.

    Raises:
        UnreadableItemError: a color is not finite, negative or above 65,535.
    """
    values = colors.astype(np.float64)
    if not np.isfinite(values).all() or (values < 0).any():
        raise UnreadableItemError("it has colors that are negative or not finite")
    most = float(values.max(initial=0))
    ranges = (65535.0,) if colors.dtype.kind == "u" and colors.dtype.itemsize == 2 else RANGES[colors.dtype.kind]
    if most > ranges[-1]:
        raise UnreadableItemError("it has colors above 65,535")
    top = next(top for top in ranges if most <= top)
    return values if top == 255 else values * (255 / top)


def srgb_to_linear(values: Float[np.ndarray, "*shape"]) -> Float[np.ndarray, "*shape"]:
    """Light of sRGB values, both in [0, 1] (IEC 61966-2-1)."""
    return np.where(values <= 0.04045, values / 12.92, ((np.maximum(values, 0) + 0.055) / 1.055) ** 2.4)


def linear_to_srgb(values: Float[np.ndarray, "*shape"]) -> Float[np.ndarray, "*shape"]:
    """sRGB values of light, both in [0, 1] (IEC 61966-2-1)."""
    return np.where(values <= 0.0031308, values * 12.92, 1.055 * np.maximum(values, 0) ** (1 / 2.4) - 0.055)
