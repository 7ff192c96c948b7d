"""PLY: one cloud in a file, binary (little endian) or text, with normals and colors; the origin is in comments.

1,000,000 points are written in well under a second: the rows are one NumPy structure. `geometry.ply_reader` reads them.
"""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import BinaryIO

import numpy as np
from jaxtyping import Float

from inrflow_core.errors import UsageError
from inrflow_core.geometry import mesh
from inrflow_core.geometry.ply_reader import COLORS, is_far
from inrflow_core.storage import atomic_write

SUFFIXES = (".ply",)
HOLDS_MANY = False


def write(
    path: Path,
    points: Float[np.ndarray, "N C"],
    *,
    origin: Mapping[str, str],
    is_text: bool = False,
    has_normals: bool = False,
    has_colors: bool | None = None,
) -> None:
    """Write positions as float32 (as double those of a cloud far from the origin), and on request estimated unit normals, and colors as bytes.

    `has_colors` None keeps the colors (channels 3 to 5, in [-1, 1]) of clouds that have them.

    Raises:
        UsageError: `has_colors`, and the cloud has none.
    """
    if has_colors and points.shape[1] < 6:
        raise UsageError("the cloud has no colors to write", hint="leave the colors out")
    kind = "<f8" if points.dtype == np.float64 and is_far(points[:, :3]) else "<f4"
    columns = {name: points[:, axis].astype(kind) for axis, name in enumerate("xyz")}
    if has_normals:
        normals = mesh.normals(points[:, :3].astype(np.float64))
        columns |= {name: normals[:, axis].astype("<f4") for axis, name in enumerate(("nx", "ny", "nz"))}
    if points.shape[1] >= 6 and has_colors is not False:
        pixels = mesh.colors_to_bytes(points)
        columns |= {name: pixels[:, axis] for axis, name in enumerate(COLORS)}
    rows = np.empty(len(points), dtype=[(name, column.dtype) for name, column in columns.items()])
    for name, column in columns.items():
        rows[name] = column
    header = _header(rows, origin, is_text)
    with (
        atomic_write.atomic_write(path, None if is_text else len(header) + rows.nbytes) as beside,
        beside.open("wb") as file,
    ):
        file.write(header)
        _write_text(file, rows) if is_text else file.write(rows.tobytes())


def _header(rows: np.ndarray, origin: Mapping[str, str], is_text: bool) -> bytes:
    kinds = {"f4": "float", "f8": "double", "u1": "uchar"}
    assert rows.dtype.names is not None
    lines = [
        "ply",
        f"format {'ascii' if is_text else 'binary_little_endian'} 1.0",
        *(f"comment {key}: {' '.join(value.split())}" for key, value in origin.items()),
        f"element vertex {len(rows)}",
        *(f"property {kinds[rows.dtype[name].str[1:]]} {name}" for name in rows.dtype.names),
        "end_header",
    ]
    return ("\n".join(lines) + "\n").encode("ascii", "replace")


def _write_text(file: BinaryIO, rows: np.ndarray) -> None:
    """Nine significant digits restore every float32 exactly, 17 every double."""
    names = rows.dtype.names or ()
    digits = {"f4": "%.9g", "f8": "%.17g", "u1": "%d"}
    form = " ".join(digits[rows.dtype[name].str[1:]] for name in names) + "\n"
    for start in range(0, len(rows), 1 << 16):
        part = rows[start : start + (1 << 16)]
        file.write("".join([form % row for row in part.tolist()]).encode("ascii"))
