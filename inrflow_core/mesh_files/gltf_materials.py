"""Base colors of glTF: the factor, COLOR_0 and the texture of a primitive, whose product a viewer shows.

Factors and COLOR_0 are in proportion to light, textures are sRGB (glTF 2.0, 3.9.2 and 5.22). Transparency, gloss and light
that a material emits are not base colors and ignored.
"""

from __future__ import annotations

import base64
import binascii
import math
import urllib.parse
from typing import Any

import numpy as np
from jaxtyping import Float64, UInt8

from inrflow_core.errors import UnreadableItemError
from inrflow_core.mesh_files import gltf, textures
from inrflow_core.mesh_files.pieces import Skin
from inrflow_core.mesh_files.textures import Fetch, Texture, Wrap
from inrflow_core.storage import typed_json

WRAPS: dict[int, Wrap] = {10497: "repeat", 33071: "clamp", 33648: "mirror"}
SPECULAR = "KHR_materials_pbrSpecularGlossiness"
TRANSFORM = "KHR_texture_transform"
WEBP = "EXT_texture_webp"


class Materials:
    """The skins of the primitives of a document; each image is decoded once."""

    def __init__(self, document: gltf.Document, fetch: Fetch) -> None:
        self._document, self._fetch = document, fetch
        self._images: dict[int, UInt8[np.ndarray, "H W 3"]] = {}

    def of(self, primitive: gltf.Primitive, count: int) -> Skin | None:
        """The skin of a primitive of `count` vertices; None for one without a material and without colors.

        Raises:
            UnreadableItemError: it has colors that are not applied, or a texture cannot be read.
        """
        colors = None
        if "COLOR_0" in primitive.attributes:
            colors = self._fractions(primitive.attributes["COLOR_0"], ("VEC3", "VEC4"), count)[:, :3].clip(0, 1) * 255
        if primitive.material is None:
            return Skin(of_vertices=colors, is_linear=True) if colors is not None else None
        material = gltf.at(self._document.tables.materials, primitive.material)
        gltf.check_extensions(_table(material.get("extensions", {})))
        factor, info = _base_color(material)
        gltf.check_extensions(_table((info or {}).get("extensions", {})))
        texture = self._texture(info, primitive, count) if info is not None else None
        return Skin(of_vertices=colors, texture=texture, factor=factor, is_linear=True)

    def _fractions(self, accessor: int, kinds: tuple[str, ...], count: int) -> Float64[np.ndarray, "V _"]:
        """Numbers that are floating-point or normalized, one row for each vertex."""
        rows = self._document.numbers(accessor, *kinds)
        if rows.dtype.kind != "f" or not np.isfinite(rows).all():
            raise UnreadableItemError("it has colors of a type that glTF does not allow")
        return gltf.one_for_each(rows, count).astype(np.float64)

    def _texture(self, info: dict[str, Any], primitive: gltf.Primitive, count: int) -> Texture:
        transform = _table(_table(info.get("extensions", {})).get(TRANSFORM, {}))
        number = typed_json.typed(transform.get("texCoord", info.get("texCoord", 0)), int, "texCoord")
        if f"TEXCOORD_{number}" not in primitive.attributes:
            raise UnreadableItemError("it has a texture without coordinates")
        index = primitive.attributes[f"TEXCOORD_{number}"]
        rows = gltf.one_for_each(self._document.numbers(index, "VEC2"), count).astype(np.float64)
        if not np.isfinite(rows).all():
            raise UnreadableItemError("it has texture coordinates that are not finite")
        table = gltf.at(self._document.tables.textures, typed_json.typed(info.get("index"), int, "index"))
        sampler = table.get("sampler")
        wraps = (
            {}
            if sampler is None
            else gltf.at(self._document.tables.samplers, typed_json.typed(sampler, int, "sampler"))
        )
        across, down = WRAPS.get(wraps.get("wrapS", 10497)), WRAPS.get(wraps.get("wrapT", 10497))
        if across is None or down is None:
            raise UnreadableItemError("it has a texture that wraps in a way that glTF does not define")
        return Texture(self._image(table), _transformed(rows, transform), (across, down))

    def _image(self, texture: dict[str, Any]) -> UInt8[np.ndarray, "H W 3"]:
        extensions = _table(texture.get("extensions", {}))
        source = _table(extensions[WEBP]).get("source") if WEBP in extensions else texture.get("source")
        if source is None:
            raise UnreadableItemError(f"its texture is of {next(iter(extensions), 'no image')}")
        number = typed_json.typed(source, int, "source")
        if number not in self._images:
            image = gltf.at(self._document.tables.images, number)
            view = image.get("bufferView")
            if view is not None:
                table = gltf.at(self._document.tables.views, typed_json.typed(view, int, "bufferView"))
                self._images[number] = textures.decode_texture(bytes(self._document.bytes_of(table)))
            else:
                self._images[number] = self._named(typed_json.typed(image.get("uri"), str, "uri"))
        return self._images[number]

    def _named(self, uri: str) -> UInt8[np.ndarray, "H W 3"]:
        if not uri.startswith("data:"):
            return textures.read_texture(urllib.parse.unquote(uri), self._fetch)
        try:
            return textures.decode_texture(base64.b64decode(uri.partition(",")[2], validate=True))
        except binascii.Error as error:
            raise UnreadableItemError("its texture cannot be read") from error


def _base_color(material: dict[str, Any]) -> tuple[tuple[float, float, float], dict[str, Any] | None]:
    """The factor and the texture of a material, whose defaults are white and none."""
    extensions = _table(material.get("extensions", {}))
    if SPECULAR in extensions:
        table, names = _table(extensions[SPECULAR]), ("diffuseFactor", "diffuseTexture")
    else:
        table, names = _table(material.get("pbrMetallicRoughness", {})), ("baseColorFactor", "baseColorTexture")
    factor = typed_json.typed(table.get(names[0], [1.0] * 4), list[float], names[0])
    if len(factor) != 4 or not all(math.isfinite(part) for part in factor):
        raise UnreadableItemError("it has a material whose color is not given as RGBA")
    red, green, blue = (min(max(part, 0.0), 1.0) for part in factor[:3])
    return (red, green, blue), _table(table[names[1]]) if names[1] in table else None


def _transformed(rows: Float64[np.ndarray, "V 2"], transform: dict[str, Any]) -> Float64[np.ndarray, "V 2"]:
    """Texture coordinates after KHR_texture_transform: scaled, rotated counterclockwise as seen, moved."""
    offset, scale = (
        typed_json.typed(transform.get(name, [default] * 2), list[float], name)
        for name, default in (("offset", 0.0), ("scale", 1.0))
    )
    angle = typed_json.typed(transform.get("rotation", 0.0), float, "rotation")
    across, down = (rows * np.array(scale, dtype=np.float64)).T
    sine, cosine = math.sin(angle), math.cos(angle)
    turned = np.stack([cosine * across + sine * down, cosine * down - sine * across], axis=1)
    return turned + np.array(offset, dtype=np.float64)


def _table(value: Any) -> dict[str, Any]:
    return typed_json.typed(value, dict[str, Any], "its document")
