"""PLY: one cloud in a file, binary (little endian) or text, with normals and colors; the origin is in comments.

1,000,000 points are written and read in well under a second: header and rows are one NumPy structure each way.
"""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import BinaryIO

import numpy as np
from jaxtyping import Float, Float32

from inrflow_core.errors import IntegrityError, UsageError
from inrflow_core.geometry import mesh
from inrflow_core.storage import atomic_write

SUFFIXES = (".ply",)
HOLDS_MANY = False

TYPES = {
    "char": "i1", "int8": "i1", "uchar": "u1", "uint8": "u1", "short": "i2", "int16": "i2", "ushort": "u2",
    "uint16": "u2", "int": "i4", "int32": "i4", "uint": "u4", "uint32": "u4", "float": "f4", "float32": "f4",
    "double": "f8", "float64": "f8",
}  # fmt: skip
ORDERS = {"ascii": "=", "binary_little_endian": "<", "binary_big_endian": ">"}
COLOURS = ("red", "green", "blue")
LONGEST_HEADER = 1 << 20
HINT = "give a .ply file whose vertices have x, y and z"


def write(
    path: Path,
    points: Float[np.ndarray, "N C"],
    *,
    origin: Mapping[str, str],
    is_text: bool = False,
    has_normals: bool = False,
    has_colors: bool | None = None,
) -> None:
    """Write positions as float32, and on request estimated unit normals, and colors as bytes.

    `has_colors` None keeps the colours (channels 3 to 5, in [-1, 1]) of clouds that have them.

    Raises:
        UsageError: `has_colors`, and the cloud has none.
    """
    if has_colors and points.shape[1] < 6:
        raise UsageError("the cloud has no colours to write", hint="leave the colours out")
    columns = {name: points[:, axis].astype("<f4") for axis, name in enumerate("xyz")}
    if has_normals:
        normals = mesh.normals(points[:, :3].astype(np.float64))
        columns |= {name: normals[:, axis].astype("<f4") for axis, name in enumerate(("nx", "ny", "nz"))}
    if points.shape[1] >= 6 and has_colors is not False:
        pixels = mesh.colors_to_bytes(points)
        columns |= {name: pixels[:, axis] for axis, name in enumerate(COLOURS)}
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


def read(path: Path) -> Float32[np.ndarray, "N C"]:
    """The positions of the vertices, followed by colors in [-1, 1] if the file has some; faces are not read.

    Raises:
        IntegrityError: it is not a whole PLY file, or a position is not finite.
    """
    columns = read_columns(path)
    if not {"x", "y", "z"} <= columns.keys():
        raise IntegrityError(f"the vertices of `{path}` have no x, y and z", hint=HINT)
    points = np.stack([columns[name] for name in "xyz"], axis=1).astype(np.float32)
    if not len(points):
        raise IntegrityError(f"`{path}` has no points", hint=HINT)
    if not np.isfinite(points).all():
        raise IntegrityError(f"`{path}` has positions that are not finite numbers", hint="remove those points")
    if set(COLOURS) <= columns.keys():
        colours = np.stack([columns[name] for name in COLOURS], axis=1)
        top = 255.0 if colours.dtype.kind in "iu" else 1.0
        points = np.concatenate([points, (colours.astype(np.float32) * (2 / top) - 1).astype(np.float32)], axis=1)
    return points


def read_columns(path: Path) -> dict[str, np.ndarray]:
    """Every property of the vertices by name, in the types of the file.

    Raises:
        IntegrityError: it is not a whole PLY file.
    """
    try:
        with path.open("rb") as file:
            order, elements = _read_header(file)
            before, count, fields = _until_vertices(elements)
            rows = np.dtype([(name, order + kind) for name, kind in fields])
            if order == "=":
                return _read_text(file, before, count, rows)
            file.seek(before, 1)
            data = file.read(count * rows.itemsize)
    except (ValueError, KeyError, UnicodeDecodeError) as error:
        raise IntegrityError(f"`{path}` cannot be read as a PLY file: {error}", hint=HINT) from error
    if len(data) < count * rows.itemsize:
        raise IntegrityError(f"`{path}` ends early: its header promises {count:,} vertices", hint="copy it again")
    table = np.frombuffer(data, dtype=rows, count=count)
    return {name: table[name] for name, _ in fields}


def _header(rows: np.ndarray, origin: Mapping[str, str], is_text: bool) -> bytes:
    kinds = {"f": "float", "u": "uchar"}
    assert rows.dtype.names is not None
    lines = [
        "ply",
        f"format {'ascii' if is_text else 'binary_little_endian'} 1.0",
        *(f"comment {key}: {' '.join(value.split())}" for key, value in origin.items()),
        f"element vertex {len(rows)}",
        *(f"property {kinds[rows.dtype[name].kind]} {name}" for name in rows.dtype.names),
        "end_header",
    ]
    return ("\n".join(lines) + "\n").encode("ascii", "replace")


def _write_text(file: BinaryIO, rows: np.ndarray) -> None:
    """Nine significant digits restore every float32 exactly."""
    names = rows.dtype.names or ()
    form = " ".join("%.9g" if rows.dtype[name].kind == "f" else "%d" for name in names) + "\n"
    for start in range(0, len(rows), 1 << 16):
        part = rows[start : start + (1 << 16)]
        file.write("".join([form % row for row in part.tolist()]).encode("ascii"))


def _read_header(file: BinaryIO) -> tuple[str, list[tuple[str, int, list[tuple[str, str]]]]]:
    """The byte order, and each element's name, count and properties; a list property has the type `list`."""
    if file.readline(16).rstrip() != b"ply":
        raise ValueError("it does not begin with `ply`")
    order, elements = "", []
    while True:
        line = file.readline(LONGEST_HEADER)
        words = line.decode("ascii", "replace").split()
        if not line or file.tell() > LONGEST_HEADER:
            raise ValueError("its header has no end")
        if words[:1] == ["end_header"]:
            return ORDERS[order], elements
        if words[:1] == ["format"]:
            order = words[1]
        elif words[:1] == ["element"]:
            elements.append((words[1], int(words[2]), []))
        elif words[:1] == ["property"] and elements:
            elements[-1][2].append((words[-1], "list" if words[1] == "list" else TYPES[words[1]]))


def _until_vertices(elements: list[tuple[str, int, list[tuple[str, str]]]]) -> tuple[int, int, list[tuple[str, str]]]:
    """Bytes before the vertices, the number of vertices, and their properties."""
    before = 0
    for name, count, fields in elements:
        if any(kind == "list" for _, kind in fields):
            raise ValueError(f"its element `{name}` holds lists before or among the vertices")
        if name == "vertex":
            if count < 0:
                raise ValueError("it has a negative number of vertices")
            return before, count, fields
        before += count * np.dtype([(field, kind) for field, kind in fields]).itemsize
    raise ValueError("it has no vertices")


def _read_text(file: BinaryIO, before: int, count: int, rows: np.dtype) -> dict[str, np.ndarray]:
    if before:
        raise ValueError("its vertices do not come first")
    lines = [line for _, line in zip(range(count), file, strict=False)]
    names = rows.names or ()
    table = np.array(b" ".join(lines).split(), dtype=np.float64)
    if table.size != count * len(names):
        raise ValueError(f"it promises {count:,} vertices of {len(names)} numbers and has {table.size:,} numbers")
    table = table.reshape(count, len(names))
    return {name: table[:, column].astype(rows[name]) for column, name in enumerate(names)}
