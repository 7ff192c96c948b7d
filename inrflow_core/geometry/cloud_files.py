"""Files of point clouds: the positions in .ply, .npy, .npz, .xyz and .pcd, with a reason for whatever is not a cloud.

On request with the colors of .ply and .pcd files, and of .npz files that inrflow wrote: further columns of other arrays and of texts can be
normals as well. Normals and other columns are not read. Nothing is unpickled.
"""

from __future__ import annotations

import functools
import math
import re
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import NamedTuple, TypeVar

import numpy as np
from jaxtyping import Float, Float32, Float64, Num

from inrflow_core.errors import IntegrityError, MissingError, UnreadableItemError, UsageError
from inrflow_core.geometry import pcd_reader, ply_reader
from inrflow_core.storage import array_file
from inrflow_core.storage.plain_file import read_plain_file

SUFFIXES = (".ply", ".npy", ".npz", ".xyz", ".pcd")
ARRAYS = (".npy", ".npz")
UNREAD = re.compile(r"\.(las|laz|e57|pts|ptx|asc|txt|csv|copc|rcp|fls|(ply|xyz|pcd|npy)\.gz)$", re.IGNORECASE)
"""Endings of files that may be clouds in formats that are not read: counted and named rather than left out."""
NAME = "points"
"""The array of an .npz file that is read where several could be."""
MOST_COLUMNS = 9
"""Columns of an array of points: positions, and colors and normals, which are left out."""
LARGEST = 1 << 30
"""Bytes of the largest file that is not an array."""
LARGEST_TEXT = 1 << 28
"""Bytes of the largest text."""
MOST_CLOUDS = 1_000_000
"""Clouds of one array."""
COMMENTS = (b"#", b"//")
PROVENANCE = "origin"
"""The array beside the points of samples, which have colors from -1 to 1 in columns 4 to 6."""
OCCUPANCIES = "occupancies"
"""An array beside the points of an Occupancy Networks `points.npz`, which are no cloud."""
MARK = b"\xef\xbb\xbf"
"""The byte order mark that some editors begin a text with."""
HINT = "a cloud is a row x, y, z for each point; copy or save it again"
T = TypeVar("T")


class Location(NamedTuple):
    """A file below a folder; of an array of several clouds the row."""

    folder: str
    name: str
    row: int | None = None


def read(location: Location, *, with_colors: bool = False) -> Float[np.ndarray, "N C"]:
    """The positions of a cloud, float32 or float64; with `with_colors` colors in [-1, 1] follow, if the file has some.

    Raises:
        UnreadableItemError: the file cannot be read, or is not a cloud: with what it holds and what is expected.
    """
    suffix = Path(location.name).suffix.lower()
    path = Path(location.folder, location.name)
    try:
        if suffix in ARRAYS:
            points = _array(path, location.row, with_colors=with_colors)
        else:
            points = TEXTS[suffix](_content(path), with_colors=with_colors)
    except (ValueError, KeyError, IndexError, OverflowError) as error:
        raise UnreadableItemError(f"it cannot be read as a {suffix} file: {error}") from error
    if not len(points):
        raise UnreadableItemError("it has no points")
    broken = int((~np.isfinite(points)).any(1).sum())
    if broken:
        raise UnreadableItemError(f"{broken:,} of its {len(points):,} points are not finite numbers")
    is_single = points.dtype.kind == "f" and points.dtype.itemsize == 4
    return np.ascontiguousarray(points, dtype=np.float32 if is_single else np.float64)


def rows(folder: Path, name: str) -> list[Location]:
    """The clouds of a file: one, or those of an array (clouds, points, columns); reads headers alone.

    A file that cannot be read is one cloud, which `read` refuses with the reason.
    """
    single = [Location(str(folder), name)]
    if not name.lower().endswith(ARRAYS):
        return single
    try:
        shape, _ = _header(folder / name)
    except UnreadableItemError:
        return single
    if len(shape) != 3 or 0 in shape or shape[0] > MOST_CLOUDS:
        return single
    return [Location(str(folder), name, row) for row in range(shape[0])]


def read_input(path: Path) -> tuple[Float32[np.ndarray, "N C"], Float64[np.ndarray, " 3"]]:
    """A cloud that a model encodes, and the center that was taken off its positions: 0 for most (`ply_reader.read_cloud`).

    The colors of `read` follow the positions.

    Raises:
        MissingError: there is no such file.
        IntegrityError: it cannot be read, or is not a cloud: with what it holds and what is expected.
        UsageError: it holds several clouds.
    """
    if path.suffix.lower() == ".ply":
        return ply_reader.read_cloud(path)
    locations = rows(path.parent, path.name)
    if len(locations) > 1:
        raise UsageError(
            f"`{path}` holds {len(locations):,} clouds, and a model encodes one",
            hint="write one of them into a file of its own, of shape (N, 3)",
        )
    try:
        points = read(locations[0], with_colors=True)
    except UnreadableItemError as error:
        raise IntegrityError(f"`{path}` cannot be read as a cloud: {error.reason}", hint=HINT) from error
    positions, center = ply_reader.single_cloud(path, points[:, :3])
    return np.concatenate([positions, points[:, 3:].astype(np.float32)], axis=1), center


def _content(path: Path) -> bytes:
    try:
        return read_plain_file(path, LARGEST)
    except (IntegrityError, MissingError) as error:
        raise UnreadableItemError(
            f"it is not a plain file, cannot be opened, or has more than {LARGEST:,} bytes"
        ) from error


def _array(path: Path, row: int | None, *, with_colors: bool) -> Num[np.ndarray, "N C"]:
    shape, name = _header(path)
    stated = shape if row is None else shape[1:]
    if len(stated) != 2 or not 3 <= stated[1] <= MOST_COLUMNS:
        raise UnreadableItemError(
            f"it is an array of shape {shape}, not points (N, 3) or clouds of them (B, N, 3); up to {MOST_COLUMNS} columns are "
            "allowed, of which the first three are read"
        )
    values = _plainly(lambda: _loaded(path, name, path.stat().st_mtime_ns))
    if values.dtype.kind not in "fiu":
        raise UnreadableItemError(f"its numbers are {values.dtype}, not floating-point numbers or integers")
    columns = 6 if with_colors and stated[1] == 6 and name == NAME and _is_ours(path) else 3
    points = np.array(values[..., :columns] if row is None else values[row, :, :columns])
    points[:, 3:] = points[:, 3:].clip(-1, 1)  # samples exceed the range of colors a little
    return points


def _is_ours(path: Path) -> bool:
    """Whether inrflow wrote an .npz file: with its provenance."""
    return PROVENANCE in _plainly(lambda: array_file.array_shapes(path))


@functools.lru_cache(maxsize=2)
def _loaded(path: Path, name: str, changed: int) -> np.ndarray:
    """The array of a file that changed at that time; a worker reads the clouds of one file one after the other."""
    return array_file.read_array(path, name)


def _header(path: Path) -> tuple[tuple[int, ...], str]:
    """The shape of the array of clouds in a file, and its name in an .npz file: `points`, or the only one that can be points.

    Raises:
        UnreadableItemError: it cannot be read, or has several arrays of which none or more than one can be points.
    """
    shapes = _plainly(lambda: array_file.array_shapes(path))
    if OCCUPANCIES in shapes:
        raise UnreadableItemError(
            "it holds queries with their occupancies, not a cloud: `inrflow prepare occupancy` reads it"
        )
    fitting = [name for name, shape in shapes.items() if len(shape) in (2, 3) and shape[-1] == 3]
    if not shapes:
        raise UnreadableItemError("it has no arrays")
    candidates = [NAME] if NAME in shapes else fitting if len(shapes) > 1 else list(shapes)
    if len(candidates) != 1:
        arrays = ", ".join(f"`{name}` {shape}" for name, shape in list(shapes.items())[:5])
        raise UnreadableItemError(
            f"it has the arrays {arrays}: one called `{NAME}`, or a single one of shape (N, 3) or (B, N, 3) is expected"
        )
    [name] = candidates
    return shapes[name], name


def _plainly(read: Callable[[], T]) -> T:
    """What `read` returns; its errors as reasons without paths."""
    try:
        return read()
    except (IntegrityError, MissingError) as error:
        reason = re.sub(r"^`[^`]*` (cannot be (read|opened): )?", "", error.message)
        raise UnreadableItemError(reason if "Python objects" in reason else f"it is damaged: {reason}") from error
    except OSError as error:
        raise UnreadableItemError("it cannot be read") from error


def _ply(content: bytes, *, with_colors: bool) -> Num[np.ndarray, "N C"]:
    vertices = ply_reader.parse(content, last="vertex").elements["vertex"]
    columns = [column for name in "xyz" if isinstance(column := vertices.get(name), np.ndarray)]
    if len(columns) < 3:
        raise UnreadableItemError(f"its vertices have {', '.join(vertices) or 'nothing'}, and not x, y and z")
    positions = np.stack(columns, axis=1)
    colors = ply_reader.colors_of(vertices) if with_colors else None
    if colors is None:
        return positions
    kind = np.result_type(positions.dtype, np.float32)
    return np.concatenate([positions.astype(kind), (colors / 127.5 - 1).astype(kind)], axis=1)


def _xyz(content: bytes, *, with_colors: bool) -> Num[np.ndarray, "N 3"]:
    """A point a line, its numbers separated by blanks, commas or semicolons; three more can be colors or normals and are left out.

    A first line with the number of points is left out, and so is one with the names of the columns, of which x, y and z are first.
    """
    if len(content) > LARGEST_TEXT:
        raise UnreadableItemError(f"it is a text of more than {LARGEST_TEXT >> 20} MiB; save it as .ply or .npy")
    lines = [
        line
        for raw in content.removeprefix(MARK).splitlines()
        if (line := raw.strip()) and not line.startswith(COMMENTS)
    ]
    if lines and lines[0] == b"%d" % (len(lines) - 1):
        lines = lines[1:]
    if not lines:
        raise UnreadableItemError("it has no points")
    separator = next((mark for mark in (b";", b",") if mark in lines[0]), None)
    if _is_head(lines[0].split(separator)):
        lines = lines[1:]
    if not lines:
        raise UnreadableItemError("it has no points")
    counts = [len(line.split(separator)) for line in lines]
    for number, count in enumerate(counts, start=1):
        if count < 3 or count != counts[0]:
            expected = "at least 3" if count < 3 else f"as many as line 1 has, {counts[0]}"
            raise UnreadableItemError(f"line {number} has {count} numbers: {expected} are expected")
    numbers = ply_reader.numbers_of(b" ".join(line.replace(separator or b" ", b" ") for line in lines))
    if len(numbers) != math.prod((len(lines), counts[0])):
        raise ValueError("its text has something other than numbers")
    return numbers.reshape(len(lines), counts[0])[:, :3]


def _is_head(words: Sequence[bytes]) -> bool:
    """Whether a line has the names of columns; raises UnreadableItemError where these do not begin with x, y and z."""
    names = [word.strip(b"\"' \t").lower() for word in words]
    if any(name[:1] in b"+-.0123456789" or name in (b"nan", b"inf") for name in names if name):
        return False
    if names[:3] != [b"x", b"y", b"z"]:
        listed = b" ".join(names[:8]).decode(errors="replace")
        raise UnreadableItemError(
            f"its first line is `{listed}`: numbers, or names of columns that begin with x, y, z, are expected"
        )
    return True


TEXTS: dict[str, Callable[..., np.ndarray]] = {".ply": _ply, ".xyz": _xyz, ".pcd": pcd_reader.parse}
"""Readers of files that are not arrays."""
