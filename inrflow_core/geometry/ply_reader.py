"""Read the vertices of PLY files, binary or text; `formats/ply.py` writes them.

1,000,000 points are read in well under a second: the rows are one NumPy structure.
"""

from __future__ import annotations

import os
from pathlib import Path
from typing import BinaryIO

import numpy as np
from jaxtyping import Float32

from inrflow_core.errors import IntegrityError
from inrflow_core.storage.plain_file import open_plain_file

TYPES = {
    "char": "i1", "int8": "i1", "uchar": "u1", "uint8": "u1", "short": "i2", "int16": "i2", "ushort": "u2",
    "uint16": "u2", "int": "i4", "int32": "i4", "uint": "u4", "uint32": "u4", "float": "f4", "float32": "f4",
    "double": "f8", "float64": "f8",
}  # fmt: skip
ORDERS = {"ascii": "=", "binary_little_endian": "<", "binary_big_endian": ">"}
COLORS = ("red", "green", "blue")
WORDS = {"format": 2, "element": 3, "property": 3}
"""Fewest words in a line of the header."""
LONGEST_HEADER = 1 << 20
HINT = "give a .ply file whose vertices have x, y and z"


def read_points(path: Path) -> Float32[np.ndarray, "N C"]:
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
    if set(COLORS) <= columns.keys():
        colors = np.stack([columns[name] for name in COLORS], axis=1)
        top = 255.0 if colors.dtype.kind in "iu" else 1.0
        points = np.concatenate([points, (colors.astype(np.float32) * (2 / top) - 1).astype(np.float32)], axis=1)
    return points


def read_columns(path: Path) -> dict[str, np.ndarray]:
    """Every property of the vertices by name, in the types of the file.

    Raises:
        MissingError: there is no such file.
        IntegrityError: it is not a whole PLY file.
    """
    try:
        with open_plain_file(path, hint=HINT) as file:
            order, elements = _read_header(file)
            before, count, fields = _until_vertices(elements)
            rows = np.dtype([(name, order + kind) for name, kind in fields])
            if order == "=":
                return _read_text(file, before, count, rows)
            if before + count * rows.itemsize > os.fstat(file.fileno()).st_size - file.tell():
                raise IntegrityError(
                    f"`{path}` ends early: its header promises {count:,} vertices", hint="copy it again"
                )
            file.seek(before, 1)
            data = file.read(count * rows.itemsize)
    except (ValueError, KeyError, IndexError) as error:
        raise IntegrityError(f"`{path}` cannot be read as a PLY file: {error}", hint=HINT) from error
    vertices = np.frombuffer(data, dtype=rows, count=count)
    return {name: vertices[name] for name, _ in fields}


def _read_header(file: BinaryIO) -> tuple[str, list[tuple[str, int, list[tuple[str, str]]]]]:
    """The byte order, and each element's name, count and properties; a list property has the type `list`."""
    if file.readline(16).rstrip() != b"ply":
        raise ValueError("it does not begin with `ply`")
    order, elements = "", []
    while True:
        line = file.readline(LONGEST_HEADER)
        words = line.decode("ascii", "replace").split()
        if words and len(words) < WORDS.get(words[0], 0):
            raise ValueError(f"a line of its header is cut off: {' '.join(words)}")
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
        if count < 0:
            raise ValueError(f"its element `{name}` has a negative number of entries")
        if any(kind == "list" for _, kind in fields):
            raise ValueError(f"its element `{name}` holds lists before or among the vertices")
        if name == "vertex":
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
