"""Read PLY files, binary or text: clouds, and the elements and lists of meshes; `formats/ply.py` writes clouds.

1,000,000 points are read in well under a second: the rows are one NumPy structure. Nothing is allocated before the counts
of the header have been compared with the bytes that follow it.
"""

from __future__ import annotations

import io
import warnings
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np
from jaxtyping import Bool, Float, Float32, Float64, Int64, Num

from inrflow_core.errors import IntegrityError, UnreadableItemError
from inrflow_core.geometry.color_scales import colors_to_255
from inrflow_core.storage.plain_file import read_plain_file

TYPES = {
    "char": "i1", "int8": "i1", "uchar": "u1", "uint8": "u1", "short": "i2", "int16": "i2", "ushort": "u2",
    "uint16": "u2", "int": "i4", "int32": "i4", "uint": "u4", "uint32": "u4", "float": "f4", "float32": "f4",
    "double": "f8", "float64": "f8",
}  # fmt: skip
ORDERS = {"ascii": "=", "binary_little_endian": "<", "binary_big_endian": ">"}
COLORS = ("red", "green", "blue")
COLOR_NAMES = (COLORS, ("diffuse_red", "diffuse_green", "diffuse_blue"), ("r", "g", "b"))
"""Names that programs give the colors of vertices and faces."""
WORDS = {"format": 2, "element": 3, "property": 3}
"""Fewest words in a line of the header."""
LONGEST_HEADER = 1 << 20
MAX_BYTES = 1 << 32
FARTHEST = 128
"""Cloud sizes from the origin within which float32 keeps the places of its points to 1/65,536 of its size."""
MOST = float(np.finfo(np.float32).max) / 2
"""Largest coordinate of a cloud in float32, so that its extent is a number of float32 too."""
BEYOND = "its size or position is beyond single precision"
HINT_BEYOND = "scale its coordinates to numbers such as -1 to 1"
HINT = "give a .ply file whose vertices have x, y and z"


@dataclass(frozen=True)
class Lists:
    """A list property: what all rows hold, one after the other, and how many each has."""

    counts: Int64[np.ndarray, " N"]
    values: Num[np.ndarray, " K"]


Columns = dict[str, np.ndarray | Lists]
"""The properties of an element by name, in the types of the file."""


@dataclass(frozen=True)
class Property:
    """Its name, its type, and for a list the type of its length."""

    name: str
    kind: str
    length: str | None = None


@dataclass
class Element:
    name: str
    count: int
    properties: list[Property] = field(default_factory=list)


@dataclass(frozen=True)
class Contents:
    """What a PLY file holds."""

    elements: Mapping[str, Columns]
    comments: list[str]


def read_points(path: Path) -> Float32[np.ndarray, "N C"]:
    """The positions of the vertices, followed by colors in [-1, 1] if the file has some; faces are not read.

    A cloud of doubles or integers that lies so far from the origin that float32 would merge its points is centered.

    Raises:
        IntegrityError: it is not a whole PLY file, a position is not finite or too large for float32, or its colors have no range.
    """
    return read_cloud(path)[0]


def read_cloud(path: Path) -> tuple[Float32[np.ndarray, "N C"], Float64[np.ndarray, " 3"]]:
    """The points of `read_points`, and the center that was taken off their positions: 0 for most.

    Raises:
        IntegrityError: as `read_points`.
    """
    columns = read_columns(path)
    if not {"x", "y", "z"} <= columns.keys():
        raise IntegrityError(f"the vertices of `{path}` have no x, y and z", hint=HINT)
    positions = np.stack([columns[name] for name in "xyz"], axis=1)
    if not len(positions):
        raise IntegrityError(f"`{path}` has no points", hint=HINT)
    if not np.isfinite(positions).all():
        raise IntegrityError(f"`{path}` has positions that are not finite numbers", hint="remove those points")
    points, center = single_cloud(path, positions)
    try:
        colors = colors_of(columns)
    except UnreadableItemError as error:
        raise IntegrityError(f"`{path}` cannot be read: {error.reason}", hint="scale them to [0, 255]") from error
    if colors is not None:
        points = np.concatenate([points, (colors.astype(np.float32) * np.float32(2 / 255) - 1)], axis=1)
    return points, center


def read_columns(path: Path) -> dict[str, np.ndarray]:
    """Every property of the vertices by name, in the types of the file; lists are left out.

    Raises:
        MissingError: there is no such file.
        IntegrityError: it is not a whole PLY file.
    """
    content = read_plain_file(path, MAX_BYTES, hint=HINT)
    try:
        vertices = parse(content, last="vertex").elements["vertex"]
    except (ValueError, KeyError, IndexError, OverflowError) as error:
        raise IntegrityError(f"`{path}` cannot be read as a PLY file: {error}", hint=HINT) from error
    return {name: column for name, column in vertices.items() if isinstance(column, np.ndarray)}


def colors_of(columns: Mapping[str, np.ndarray | Lists]) -> Float64[np.ndarray, "N 3"] | None:
    """The colors of vertices or faces in [0, 255]; see `colors_to_255`.

    Raises:
        UnreadableItemError: they are negative, not finite, or have no range.
    """
    for names in COLOR_NAMES:
        found = [column for name in names if isinstance(column := columns.get(name), np.ndarray)]
        if len(found) == 3:
            return colors_to_255(np.stack(found, axis=1))
    return None


def parse(content: bytes, last: str | None = None) -> Contents:
    """The elements of a file, up to the one named `last`.

    Raises:
        ValueError, KeyError, IndexError, OverflowError: it is not a whole PLY file.
    """
    file = io.BytesIO(content)
    order, elements, comments = _read_header(file)
    if last is not None and last not in (element.name for element in elements):
        raise ValueError("it has no vertices")
    body = memoryview(content)[file.tell() :]
    if order != "=":
        return Contents(_read_elements(body, elements, order, last), comments)
    try:
        numbers = numbers_of(bytes(body))
        return Contents(_read_elements(memoryview(numbers.tobytes()), elements, order, last), comments)
    except ValueError:
        trimmed = _trimmed(bytes(body), elements)
        return Contents(_read_elements(memoryview(trimmed.tobytes()), elements, order, last), comments)


def _trimmed(text: bytes, elements: list[Element]) -> Float64[np.ndarray, " N"]:
    """The numbers of a text whose lines hold more than the header says: of each line those that it says."""
    lines = (line.split() for line in text.splitlines() if line.strip())
    words: list[bytes] = []
    for element in elements:
        for _ in range(element.count):
            line, end = next(lines, []), 0
            for one in element.properties:
                end += 1 if one.length is None else 1 + int(b"".join(line[end : end + 1]))
            if not 0 <= end <= len(line):
                raise ValueError(f"it ends early: its header promises {element.count:,} entries of `{element.name}`")
            words += line[:end]
    return numbers_of(b" ".join(words))


def _read_elements(body: memoryview, elements: list[Element], order: str, last: str | None) -> dict[str, Columns]:
    """The elements that follow one another in `body`, up to the one named `last`."""
    found: dict[str, Columns] = {}
    for element in elements:
        columns, size = _read_element(body, element, order)
        body = body[size:]
        found.setdefault(element.name, columns)
        if element.name == last:
            break
    return found


def numbers_of(text: bytes) -> Float64[np.ndarray, " N"]:
    """Numbers with white space between them, in 8 bytes each: as words they would take many times the text.

    Raises:
        ValueError: something is not a number.
    """
    with warnings.catch_warnings():
        warnings.simplefilter("error", DeprecationWarning)
        try:
            return np.fromstring(text.decode("ascii"), dtype=np.float64, sep=" ")
        except (DeprecationWarning, ValueError) as error:
            raise ValueError("its text has something other than numbers") from error


def is_far(positions: Num[np.ndarray, "N 3"]) -> bool:
    """Whether a cloud lies so far from the origin that float32 would merge its points."""
    with np.errstate(all="ignore"):  # of positions that are not finite, which are refused elsewhere
        extent = float((positions.max(0) - positions.min(0)).max())
        return float(np.abs(positions).max()) > FARTHEST * extent > 0


def centered(positions: Num[np.ndarray, "N 3"]) -> tuple[Float32[np.ndarray, "N 3"], Float64[np.ndarray, " 3"]]:
    """Positions in float32, and the center that was taken off those that lie too far from the origin for it."""
    center = np.zeros(3)
    if positions.dtype.kind != "f" or positions.dtype.itemsize > 4:
        positions = positions.astype(np.float64)
        if is_far(positions):
            center = (positions.min(0) + positions.max(0)) / 2
            positions = positions - center
    with np.errstate(over="ignore"):
        return positions.astype(np.float32), center


def single_cloud(
    path: Path, positions: Num[np.ndarray, "N 3"]
) -> tuple[Float32[np.ndarray, "N 3"], Float64[np.ndarray, " 3"]]:
    """`centered`, for the cloud of a file; raises IntegrityError where its numbers are beyond single precision."""
    points, center = centered(positions)
    if np.abs(points).max() > MOST:
        raise IntegrityError(f"`{path}` cannot be read as a cloud: {BEYOND}", hint=HINT_BEYOND)
    return points, center


def single_precision(clouds: np.ndarray) -> tuple[np.ndarray, Bool[np.ndarray, " B"]]:
    """Clouds (B N C) as float32, and which of them lie too far from the origin for it: these are centered first."""
    with np.errstate(over="ignore"):  # values too large for float32 become infinite, which `eval` rejects
        values = clouds.astype(np.float32)
    far = np.array([clouds.dtype.itemsize > 4 and is_far(cloud[:, :3]) for cloud in clouds], dtype=bool)
    for row in np.flatnonzero(far):
        values[row, :, :3] = centered(clouds[row, :, :3])[0]
    return values, far


def read_in_place(path: Path) -> Float[np.ndarray, "N C"]:
    """The points of `read_points`, but those of a cloud far from the origin where they are, in float64.

    Raises:
        IntegrityError: as `read_points`.
    """
    points, center = read_cloud(path)
    return np.concatenate([points[:, :3] + center, points[:, 3:]], axis=1) if center.any() else points


def _read_header(file: io.BytesIO) -> tuple[str, list[Element], list[str]]:
    """The byte order, the elements, and the comments."""
    if file.readline(16).rstrip() != b"ply":
        raise ValueError("it does not begin with `ply`")
    order, elements, comments = "", list[Element](), list[str]()
    while True:
        line = file.readline(LONGEST_HEADER)
        words = line.decode("utf-8", "replace").split()
        if words and len(words) < WORDS.get(words[0], 0):
            raise ValueError(f"a line of its header is cut off: {' '.join(words)}")
        if not line or file.tell() > LONGEST_HEADER:
            raise ValueError("its header has no end")
        if words[:1] == ["end_header"]:
            return ORDERS[order], elements, comments
        if words[:1] == ["comment"]:
            comments.append(line.decode("utf-8", "replace").strip()[len("comment") :].strip())
        elif words[:1] == ["format"]:
            order = words[1]
        elif words[:1] == ["element"]:
            elements.append(Element(words[1], int(words[2])))
            if elements[-1].count < 0:
                raise ValueError(f"its element `{words[1]}` has a negative number of entries")
        elif words[:1] == ["property"] and elements:
            elements[-1].properties.append(_property(words))


def _property(words: list[str]) -> Property:
    if words[1] != "list":
        return Property(words[-1], TYPES[words[1]])
    if len(words) != 5 or TYPES[words[2]].startswith("f"):
        raise ValueError(f"a line of its header is not a list: {' '.join(words)}")
    return Property(words[4], TYPES[words[3]], TYPES[words[2]])


def _read_element(body: memoryview, element: Element, order: str) -> tuple[Columns, int]:
    """The columns of an element at the beginning of `body`, and the bytes that it takes. Numbers of text are doubles."""
    kinds = {
        one.name: (np.dtype(order + one.kind), np.dtype(order + one.length) if one.length else None)
        for one in element.properties
    }
    if len(kinds) != len(element.properties):
        raise ValueError(f"its element `{element.name}` has two properties of one name")
    stored = {
        name: (np.dtype("f8"), np.dtype("f8") if length is not None else None) if order == "=" else (kind, length)
        for name, (kind, length) in kinds.items()
    }
    least = sum((length or kind).itemsize for kind, length in stored.values())
    if element.count * least > len(body):
        raise ValueError(f"it ends early: its header promises {element.count:,} entries of `{element.name}`")
    if not element.count or not least:
        empty = {name: np.zeros(0, kind) for name, (kind, _) in kinds.items()}
        lists = {name: Lists(np.zeros(0, np.int64), empty[name]) for name, (_, length) in kinds.items() if length}
        return empty | lists, 0
    columns = _rows_of_one_length(body, element.count, stored)
    if columns is None:
        columns = _rows(body, element.count, stored)
    found, size = columns
    return {name: _typed(column, kinds[name][0]) for name, column in found.items()}, size


Kinds = dict[str, tuple[np.dtype, np.dtype | None]]
"""The type of each property, and for a list that of its length."""


def _rows_of_one_length(body: memoryview, count: int, kinds: Kinds) -> tuple[Columns, int] | None:
    """The columns, if all rows have lists as long as those of the first; else None."""
    fields, position = [], 0
    for number, (kind, length) in enumerate(kinds.values()):
        if length is None:
            fields.append((f"{number}", kind))
            position += kind.itemsize
        else:
            size = _length(body, position, length)
            fields += [(f"{number} length", length), (f"{number}", kind, (size,))]
            position += length.itemsize + size * kind.itemsize
    if count * position > len(body):
        return None
    rows = np.frombuffer(body, dtype=fields, count=count)
    columns: Columns = {}
    for number, (name, (_, length)) in enumerate(kinds.items()):
        columns[name] = column = rows[f"{number}"]
        if length is not None:
            lengths = rows[f"{number} length"]
            if (lengths != lengths[0]).any():
                return None
            columns[name] = Lists(lengths.astype(np.int64), column.reshape(-1))
    return columns, count * position


def _rows(body: memoryview, count: int, kinds: Kinds) -> tuple[Columns, int]:
    """The columns of rows whose lists differ in length: found one after the other, then gathered."""
    starts = {name: np.zeros(count, np.int64) for name in kinds}
    lengths = {name: np.ones(count, np.int64) for name in kinds}
    position, end = 0, len(body)
    for row in range(count):
        for name, (kind, length) in kinds.items():
            if length is not None:
                lengths[name][row] = _length(body, position, length)
                position += length.itemsize
            starts[name][row] = position
            position += int(lengths[name][row]) * kind.itemsize
            if position > end:
                raise ValueError("it ends early: its lists are longer than what is there")
    content, columns = np.frombuffer(body, np.uint8), dict[str, np.ndarray | Lists]()
    for name, (kind, length) in kinds.items():
        ends = np.cumsum(lengths[name])
        first = np.repeat(starts[name] - (ends - lengths[name]) * kind.itemsize, lengths[name])
        places = first + np.arange(len(first)) * kind.itemsize
        values = content[places[:, None] + np.arange(kind.itemsize)].reshape(-1).view(kind)
        columns[name] = values if length is None else Lists(lengths[name], values)
    return columns, position


def _length(body: memoryview, position: int, kind: np.dtype) -> int:
    if position + kind.itemsize > len(body):
        raise ValueError("it ends early: its lists are longer than what is there")
    length = np.frombuffer(body, kind, 1, position)[0]
    if not length >= 0 or length != int(length):
        raise ValueError("it has a list of negative length")
    return int(length)


def _typed(column: np.ndarray | Lists, kind: np.dtype) -> np.ndarray | Lists:
    """A column in the type of the header, which numbers of text are cast to."""
    if isinstance(column, Lists):
        return Lists(column.counts, np.asarray(_typed(column.values, kind)))
    if column.dtype == kind:
        return column
    with np.errstate(all="ignore"):
        cast = column.astype(kind)
    if kind.kind in "iu" and not np.array_equal(cast, column):
        raise ValueError("it has numbers that do not fit the types of its header")
    return cast
