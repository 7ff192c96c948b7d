"""STL, binary and text: triangles, with the colors that Materialise and VisCAM put into the attribute of each."""

from __future__ import annotations

import re
import struct

import numpy as np
from jaxtyping import Float64, UInt16

from inrflow_core.errors import UnreadableItemError
from inrflow_core.geometry.ply_reader import numbers_of
from inrflow_core.mesh_files import pieces
from inrflow_core.mesh_files.pieces import Piece, Skin
from inrflow_core.mesh_files.textures import Fetch

HEADER, RECORD = 84, np.dtype([("normal", "<f4", 3), ("corners", "<f4", (3, 3)), ("attribute", "<u2")])
VERTEX, FACET = re.compile(rb"^\s*vertex\s+(.*)$", re.I | re.M), re.compile(rb"^\s*facet\s", re.I | re.M)
MARK = b"COLOR="
"""In a binary header: Materialise's color of the whole, RGBA, which the attributes of faces replace."""


def read(content: bytes, fetch: Fetch | None) -> list[Piece]:
    """One piece; without `fetch` it is without colors.

    Bytes behind the triangles that a binary header promises are ignored.

    Raises:
        UnreadableItemError: it is cut off, or its header does not say how many triangles follow.
        ValueError: it has something else where a number belongs.
    """
    count = struct.unpack_from("<I", content, 80)[0] if len(content) >= HEADER else 0
    is_exact = len(content) >= HEADER and len(content) == HEADER + count * RECORD.itemsize
    if not is_exact and content.lstrip()[:5].lower() == b"solid" and b"facet" in content.lower():
        triangles, skin = _text_triangles(content), None
    elif len(content) < HEADER:
        raise UnreadableItemError("it is cut off: it is shorter than the header of an STL file")
    else:
        rows = _records(content, count)
        triangles = rows["corners"].astype(np.float64)
        skin = _skin(content[:80], rows["attribute"]) if fetch is not None else None
    if not len(triangles):
        return []
    vertices, faces = triangles.reshape(-1, 3), np.arange(3 * len(triangles), dtype=np.int64).reshape(-1, 3)
    return [Piece(vertices, faces, skin)]


def _records(content: bytes, count: int) -> np.ndarray:
    there = (len(content) - HEADER) // RECORD.itemsize
    if count > there:
        raise UnreadableItemError("it is cut off: its header promises more triangles than follow")
    if count == 0 and there:
        raise UnreadableItemError("its header promises no triangles, and some follow")
    return np.frombuffer(content, RECORD, count, HEADER)


def _text_triangles(content: bytes) -> Float64[np.ndarray, "F 3 3"]:
    """The corners of all facets of all solids."""
    lines, lower = VERTEX.findall(content), content.lower()
    facets, ends = len(FACET.findall(content)), lower.count(b"endfacet")
    if not facets == ends == lower.count(b"endloop") or 3 * facets != len(lines):
        raise UnreadableItemError("it has facets that are not three corners, or is cut off")
    if lower.rfind(b"endsolid") < lower.rfind(b"endfacet"):
        raise UnreadableItemError("it is cut off: it has no `endsolid` at its end")
    return numbers_of(b" ".join(lines)).reshape(-1, 3, 3)


def _skin(header: bytes, attributes: UInt16[np.ndarray, " F"]) -> Skin | None:
    """Colors of 5 bits: Materialise's begin with red, and a face without bit 15 has one; VisCAM's are the reverse."""
    has_bit = attributes >> 15 == 1
    fives = np.stack([attributes & 31, attributes >> 5 & 31, attributes >> 10 & 31], axis=1) * (255 / 31)
    mark = header.find(MARK)
    if 0 <= mark <= len(header) - len(MARK) - 4:
        whole = np.frombuffer(header, np.uint8, 3, mark + len(MARK)).astype(np.float64)
        return Skin(of_faces=np.where(has_bit[:, None], whole, fives))
    if has_bit.any():
        return Skin(of_faces=np.where(has_bit[:, None], fives[:, ::-1], pieces.GRAY))
    return None
