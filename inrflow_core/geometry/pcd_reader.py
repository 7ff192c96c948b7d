"""Read PCD files, the point clouds of the Point Cloud Library: text, binary and compressed, versions 0.6 and 0.7.

Format: https://pointclouds.org/documentation/tutorials/pcd_file_format.html. Nothing is allocated before the counts of the
header have been compared with the bytes that follow it.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from jaxtyping import Float64, Num

from inrflow_core.geometry.ply_reader import numbers_of

TYPES = {"F": "f", "I": "i", "U": "u"}
SIZES = {"f": (4, 8), "i": (1, 2, 4, 8), "u": (1, 2, 4, 8)}
LONGEST_HEADER = 1 << 16
LISTS = ("FIELDS", "SIZE", "TYPE", "COUNT")
NEEDED = ("FIELDS", "SIZE", "TYPE", "POINTS", "DATA")
COLORS = ("rgb", "rgba")
"""Fields of packed colors."""
LARGEST_RATIO = 264
"""LZF writes at most 264 bytes for every three that it reads."""


@dataclass(frozen=True)
class Header:
    """The fields of a point, in their order, the number of points, and the encoding."""

    names: tuple[str, ...]
    types: tuple[np.dtype, ...]
    counts: tuple[int, ...]
    """Numbers of each field."""
    points: int
    data: str

    @property
    def columns(self) -> int:
        """Numbers of a point."""
        return sum(self.counts)

    @property
    def row_bytes(self) -> int:
        """Bytes of a point in a binary file."""
        return sum(kind.itemsize * count for kind, count in zip(self.types, self.counts, strict=True))


def parse(content: bytes, *, with_colors: bool = False) -> Num[np.ndarray, "N C"]:
    """The positions of a file, in the types of the file; those of text are doubles. With `with_colors` colors in [-1, 1] follow, if it
    has a field `rgb` or `rgba`. Other fields are not read.

    Raises:
        ValueError: it is not a whole PCD file, or its points have no x, y and z.
    """
    header, start = read_header(content)
    index = [header.names.index(name) for name in "xyz" if name in header.names]
    if len(index) < 3 or any(header.counts[i] != 1 for i in index):
        raise ValueError(f"its points have {', '.join(header.names)}, and not x, y and z of one number each")
    color = next((i for i, name in enumerate(header.names) if name in COLORS and _is_packed(header, i)), None)
    if not with_colors or color is None:
        return np.stack(_fields(content[start:], header, index), axis=1)
    *columns, packed = _fields(content[start:], header, [*index, color])
    positions = np.stack(columns, axis=1)
    colors = _unpacked(packed, header.types[color])
    kind = np.result_type(positions.dtype, np.float32)
    return np.concatenate([positions.astype(kind), colors.astype(kind)], axis=1)


def read_header(content: bytes) -> tuple[Header, int]:
    """The header, and the position of the first byte behind it.

    Raises:
        ValueError: it is not the header of a PCD file.
    """
    entries: dict[str, list[str]] = {}
    position = 0
    while "DATA" not in entries:
        end = content.find(b"\n", position, LONGEST_HEADER)
        if end < 0:
            raise ValueError("its header has no line `DATA`")
        words = content[position:end].decode("ascii", "replace").split()
        position = end + 1
        if words and not words[0].startswith("#"):
            entries[words[0].upper()] = words[1:]
    missing = [name for name in NEEDED if not entries.get(name)]
    if missing:
        raise ValueError(f"its header has no line `{missing[0]}`")
    entries.setdefault("COUNT", ["1"] * len(entries["FIELDS"]))
    if len({len(entries[name]) for name in LISTS}) != 1:
        raise ValueError("the lines FIELDS, SIZE, TYPE and COUNT of its header differ in length")
    types = tuple(_type(*of) for of in zip(entries["TYPE"], entries["SIZE"], strict=True))
    counts, points = tuple(int(word) for word in entries["COUNT"]), int(entries["POINTS"][0])
    data = entries["DATA"][0].lower()
    if points < 0 or min(counts) < 1 or sum(counts) > LONGEST_HEADER:
        raise ValueError("the counts of its header are out of range")
    if data not in ("ascii", "binary", "binary_compressed"):
        raise ValueError(f"its data are `{data}`: ascii, binary and binary_compressed are read")
    return Header(tuple(entries["FIELDS"]), types, counts, points, data), position


def _type(kind: str, size: str) -> np.dtype:
    letter = TYPES.get(kind.upper())
    if letter is None or int(size) not in SIZES[letter]:
        raise ValueError(f"its header has a field of type {kind} and size {size}")
    return np.dtype(f"<{letter}{size}")


def _fields(body: bytes, header: Header, index: list[int]) -> list[Num[np.ndarray, " N"]]:
    """The fields of `index`, each of one number, from the data behind the header."""
    if header.data == "ascii":
        numbers = numbers_of(body)
        if len(numbers) != header.points * header.columns:
            raise ValueError(
                f"it has {len(numbers):,} numbers, and its header promises {header.points:,} points of {header.columns}"
            )
        first = np.cumsum([0, *header.counts])
        return list(numbers.reshape(header.points, header.columns)[:, first[index]].T)
    if header.data == "binary_compressed":  # each field follows the one before with all its points
        content = _decompressed(body, header)
        sizes = [kind.itemsize * count * header.points for kind, count in zip(header.types, header.counts, strict=True)]
        starts = np.cumsum([0, *sizes])
        return [np.frombuffer(content, header.types[i], header.points, offset=int(starts[i])) for i in index]
    if len(body) < header.points * header.row_bytes:
        raise ValueError(f"it ends early: its header promises {header.points:,} points of {header.row_bytes} bytes")
    kinds = [(f"{i}", kind, (count,)) for i, (kind, count) in enumerate(zip(header.types, header.counts, strict=True))]
    rows = np.frombuffer(body, dtype=kinds, count=header.points)
    return [rows[f"{i}"][:, 0] for i in index]


def _is_packed(header: Header, i: int) -> bool:
    return header.counts[i] == 1 and header.types[i].itemsize == 4


def _unpacked(column: Num[np.ndarray, " N"], kind: np.dtype) -> Float64[np.ndarray, "N 3"]:
    """Colors in [-1, 1] from numbers whose 32 bits are alpha, red, green and blue, also where their type is a float.

    Raises:
        ValueError: it is a text whose number has no such bits.
    """
    if column.dtype != kind:  # text, as doubles
        if kind.kind == "f":
            has_bits = np.abs(column) <= np.finfo(kind).max
        else:
            has_bits = (column == np.round(column)) & (column >= -(2.0**31)) & (column < 2.0**32)
        if not has_bits.all():
            raise ValueError(f"its colors hold {column[~has_bits][0]:g}, which are not 32 bits")
        column = column.astype(kind) if kind.kind == "f" else column.astype(np.int64).astype(np.uint32)
    bits = np.ascontiguousarray(column).view("<u4")
    return np.stack([bits >> shift & 255 for shift in (16, 8, 0)], axis=1) / 127.5 - 1


def _decompressed(body: bytes, header: Header) -> bytes:
    """The data behind the two sizes, which are unsigned of 32 bits."""
    packed, size = (int(number) for number in np.frombuffer(body[:8].ljust(8, b"\0"), "<u4"))
    if size != header.points * header.row_bytes:
        raise ValueError(f"its data are {size:,} bytes, and its header promises {header.points * header.row_bytes:,}")
    if packed > len(body) - 8 or size > LARGEST_RATIO * packed:
        raise ValueError("it ends early: its compressed data are cut off")
    return lzf_decompress(body[8 : 8 + packed], size)


def lzf_decompress(packed: bytes, size: int) -> bytes:
    """The `size` bytes that LZF data stand for: runs of literal bytes, and copies of bytes before.

    A control byte below 32 is followed by one more literal bytes than its value. Others hold the length of a copy in the upper
    three bits (7: the next byte is added), and with the byte after them the distance.

    Raises:
        ValueError: they are not whole, or have another size.
    """
    out, position, end = bytearray(), 0, len(packed)
    while position < end and len(out) <= size:
        control = packed[position]
        position += 1
        if control < 32:
            out += packed[position : position + control + 1]
            position += control + 1
            continue
        length = control >> 5
        extra = 1 if length == 7 else 0
        if position + extra >= end:
            raise ValueError("its compressed data are cut off")
        length += packed[position] if extra else 0
        start = len(out) - ((control & 31) << 8) - packed[position + extra] - 1
        position += extra + 1
        if start < 0:
            raise ValueError("its compressed data are damaged")
        run = out[start : start + length + 2]
        out += (run * -(-(length + 2) // len(run)))[: length + 2]
    if position != end or len(out) != size:
        raise ValueError("its compressed data are damaged")
    return bytes(out)
