"""Textures of mesh files: decoded by the one reader of images, without transparency and EXIF orientation."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Literal

import numpy as np
from jaxtyping import Float, Float64, Int, Int64, UInt8

from inrflow_core.errors import UnreadableItemError
from inrflow_core.visualization import image_io

Wrap = Literal["repeat", "clamp", "mirror"]
"""What a texture shows beyond its sides."""
Fetch = Callable[[str], bytes]
"""The bytes of a file that a mesh names; FileNotFoundError where it is not below the source."""
NO_TEXTURE = "its texture is not below the source"


@dataclass(frozen=True)
class Texture:
    """An image on a piece, and where each vertex lies in it."""

    pixels: UInt8[np.ndarray, "H W 3"]
    coordinates: Float64[np.ndarray, "V 2"]
    """Of each vertex: to the right and down, in units of the sides."""
    wraps: tuple[Wrap, Wrap] = ("repeat", "repeat")
    """To the right and down."""

    def at(self, corners: Int[np.ndarray, "N 3"], weights: Float[np.ndarray, "N 3"]) -> Float64[np.ndarray, "N 3"]:
        """The pixel that lies at places given by three vertices and their weights, in [0, 255]."""
        places = np.einsum("nk,nkd->nd", weights, self.coordinates[corners])
        column, row = (_pixels(places[:, axis], self.pixels.shape[1 - axis], self.wraps[axis]) for axis in range(2))
        return self.pixels[row, column].astype(np.float64)


def read_texture(name: str, fetch: Fetch) -> UInt8[np.ndarray, "H W 3"]:
    """The pixels of an image file that a mesh names.

    Raises:
        UnreadableItemError: it is not below the source, or cannot be read as an image.
    """
    try:
        content = fetch(name)
    except FileNotFoundError as error:
        raise UnreadableItemError(NO_TEXTURE) from error
    return decode_texture(content)


def decode_texture(content: bytes) -> UInt8[np.ndarray, "H W 3"]:
    """The pixels of an encoded image.

    Raises:
        UnreadableItemError: it cannot be read as an image.
    """
    try:
        image = image_io.decode_image(content, "RGBA", is_upright=False)
    except UnreadableItemError as error:
        raise UnreadableItemError("its texture cannot be read") from error
    return np.asarray(image)[..., :3]


def _pixels(places: Float[np.ndarray, " N"], side: int, wrap: Wrap) -> Int64[np.ndarray, " N"]:
    """The number of the pixel at places in units of the side; both ends of the first turn belong to it."""
    if wrap == "clamp":
        inside = places.clip(0, 1)
    else:
        turn = np.where((places >= 0) & (places <= 1), 0, np.floor(places))
        inside = places - turn
        inside = np.where(turn % 2 == 1, 1 - inside, inside) if wrap == "mirror" else inside
    return np.minimum((inside * side).astype(np.int64), side - 1)
