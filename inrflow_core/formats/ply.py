"""PLY: one cloud or one mesh in a file, binary (little endian) or text, with normals and colors; the origin is in comments.

1,000,000 points are written in well under a second: the rows are one NumPy structure. `geometry.ply_reader` reads them.
"""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import BinaryIO

import numpy as np
from jaxtyping import Float, UInt8

from inrflow_core.errors import UsageError
from inrflow_core.geometry import mesh
from inrflow_core.geometry.mesh import Mesh
from inrflow_core.geometry.ply_reader import COLORS, is_far
from inrflow_core.storage import atomic_write

SUFFIXES = (".ply",)
HOLDS_MANY = False


def write(
    path: Path,
    sample: Float[np.ndarray, "N C"] | Mesh,
    *,
    origin: Mapping[str, str],
    is_text: bool = False,
    has_normals: bool = False,
    has_colors: bool | None = None,
) -> None:
    """Write positions as float32 (as double those of a cloud far from the origin), and on request estimated unit normals,
    and colors as bytes; of a mesh also its triangles and its own normals.

    `has_colors` None keeps the colors of clouds (channels 3 to 5, in [-1, 1]) and meshes that have them.

    Raises:
        UsageError: `has_colors`, and there are none.
    """
    points, colors = _points_and_colors(sample)
    if has_colors and colors is None:
        raise UsageError("the cloud has no colors to write", hint="leave the colors out")
    kind = "<f8" if points.dtype == np.float64 and is_far(points) else "<f4"
    columns = {name: points[:, axis].astype(kind) for axis, name in enumerate("xyz")}
    normals = sample.normals if isinstance(sample, Mesh) else None
    if has_normals and normals is None:
        normals = mesh.normals(points.astype(np.float64))
    if normals is not None:
        columns |= {name: normals[:, axis].astype("<f4") for axis, name in enumerate(("nx", "ny", "nz"))}
    if colors is not None and has_colors is not False:
        columns |= {name: colors[:, axis] for axis, name in enumerate(COLORS)}
    rows = np.empty(len(points), dtype=[(name, column.dtype) for name, column in columns.items()])
    for name, column in columns.items():
        rows[name] = column
    faces = _face_rows(sample)
    header = _header(rows, faces, origin, is_text)
    num_bytes = len(header) + rows.nbytes + (0 if faces is None else faces.nbytes)
    with atomic_write.atomic_write(path, None if is_text else num_bytes) as beside, beside.open("wb") as file:
        file.write(header)
        for table in (rows,) if faces is None else (rows, faces):
            _write_text(file, table) if is_text else file.write(table.tobytes())


def _points_and_colors(
    sample: Float[np.ndarray, "N C"] | Mesh,
) -> tuple[Float[np.ndarray, "N 3"], UInt8[np.ndarray, "N 3"] | None]:
    if isinstance(sample, Mesh):
        return sample.vertices, sample.colors
    return sample[:, :3], mesh.colors_to_bytes(sample) if sample.shape[1] >= 6 else None


def _face_rows(sample: Float[np.ndarray, "N C"] | Mesh) -> np.ndarray | None:
    """The triangles of a mesh as rows of a list property; None for a cloud."""
    if not isinstance(sample, Mesh):
        return None
    names = ("a", "b", "c")
    rows = np.empty(len(sample.faces), dtype=[("count", "u1"), *((name, "<i4") for name in names)])
    rows["count"] = 3
    for corner, name in enumerate(names):
        rows[name] = sample.faces[:, corner]
    return rows


def _header(rows: np.ndarray, faces: np.ndarray | None, origin: Mapping[str, str], is_text: bool) -> bytes:
    kinds = {"f4": "float", "f8": "double", "u1": "uchar"}
    assert rows.dtype.names is not None
    triangles = [] if faces is None else [f"element face {len(faces)}", "property list uchar int vertex_indices"]
    lines = [
        "ply",
        f"format {'ascii' if is_text else 'binary_little_endian'} 1.0",
        *(f"comment {key}: {' '.join(value.split())}" for key, value in origin.items()),
        f"element vertex {len(rows)}",
        *(f"property {kinds[rows.dtype[name].str[1:]]} {name}" for name in rows.dtype.names),
        *triangles,
        "end_header",
    ]
    return ("\n".join(lines) + "\n").encode("ascii", "replace")


def _write_text(file: BinaryIO, rows: np.ndarray) -> None:
    """Nine significant digits restore every float32 exactly, 17 every double."""
    names = rows.dtype.names or ()
    digits = {"f4": "%.9g", "f8": "%.17g", "u1": "%d", "i4": "%d"}
    form = " ".join(digits[rows.dtype[name].str[1:]] for name in names) + "\n"
    for start in range(0, len(rows), 1 << 16):
        part = rows[start : start + (1 << 16)]
        file.write("".join([form % row for row in part.tolist()]).encode("ascii"))
