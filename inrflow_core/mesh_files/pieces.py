"""What a mesh file holds: pieces of one appearance each, as triangles, and the color of every place on them."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from jaxtyping import Float, Float64, Int, Int64

from inrflow_core.errors import UnreadableItemError
from inrflow_core.geometry.color_scales import linear_to_srgb, srgb_to_linear
from inrflow_core.mesh_files.textures import Texture

GRAY = 190.0
"""Of what has no colors where other pieces or vertices have some."""
NO_CORNERS = "its faces refer to vertices that do not exist"
NO_MATERIALS = "its material file is not below the source"


@dataclass(frozen=True)
class Skin:
    """The colors of a piece: what is given of faces, vertices, a texture and a factor is multiplied."""

    of_faces: Float64[np.ndarray, "F 3"] | None = None
    """In [0, 255]."""
    of_vertices: Float64[np.ndarray, "V 3"] | None = None
    """In [0, 255]."""
    texture: Texture | None = None
    factor: tuple[float, float, float] = (1.0, 1.0, 1.0)
    is_linear: bool = False
    """Whether all but the texture are in proportion to light, as in glTF; else all are sRGB."""


@dataclass(frozen=True)
class Piece:
    """Triangles of one appearance, placed as the file says."""

    vertices: Float64[np.ndarray, "V 3"]
    faces: Int64[np.ndarray, "F 3"]
    skin: Skin | None = None
    """None where the file gives no colors."""

    def colors(self, faces: Int[np.ndarray, " N"], weights: Float[np.ndarray, "N 3"]) -> Float64[np.ndarray, "N 3"]:
        """RGB (sRGB) in [0, 255] at places given by faces and weights of their corners; the piece has a skin."""
        skin, corners = self.skin, self.faces[faces]
        assert skin is not None
        factors = [] if skin.of_faces is None else [skin.of_faces[faces]]
        if skin.of_vertices is not None:
            factors.append(np.einsum("nk,nkd->nd", weights, skin.of_vertices[corners]))
        if skin.texture is not None:
            texture = skin.texture.at(corners, weights)
            factors.append(255 * srgb_to_linear(texture / 255) if skin.is_linear else texture)
        product = np.multiply(factors[0] if factors else np.full((len(faces), 3), 255.0), skin.factor)
        for factor in factors[1:]:
            product = product * (factor / 255)
        product = 255 * linear_to_srgb(product / 255) if skin.is_linear else product
        return product.clip(0, 255)


def split_corners(
    vertices: Float64[np.ndarray, "V 3"], faces: Int64[np.ndarray, "F 3"]
) -> tuple[Float64[np.ndarray, "3*F 3"], Int64[np.ndarray, "F 3"]]:
    """The same triangles with vertices of their own, for values that each corner has."""
    return vertices[faces.reshape(-1)], np.arange(faces.size, dtype=np.int64).reshape(-1, 3)


def strip(corners: Int64[np.ndarray, " n"]) -> Int64[np.ndarray, "F 3"]:
    """The triangles of a strip, each turned as the first, without those of two equal corners."""
    odd = (np.arange(max(len(corners) - 2, 0)) % 2)[:, None]
    faces = np.stack([corners[:-2], corners[1:-1], corners[2:]], axis=1) if len(odd) else np.zeros((0, 3), np.int64)
    faces = np.where(odd, faces[:, [1, 0, 2]], faces)
    return faces[(faces != np.roll(faces, 1, axis=1)).all(axis=1)]


def check_corners(faces: Int[np.ndarray, "*shape"], count: int) -> None:
    """Raise UnreadableItemError unless all indices are those of `count` vertices."""
    if faces.size and not 0 <= int(faces.min()) <= int(faces.max()) < count:
        raise UnreadableItemError(NO_CORNERS)


def check_finite(points: Float[np.ndarray, "N _"]) -> None:
    """Check that all numbers are finite.

    Raises:
        UnreadableItemError: some are not.
    """
    broken = int((~np.isfinite(points)).any(1).sum())
    if broken:
        raise UnreadableItemError(f"{broken:,} of its {len(points):,} points are not finite numbers")
