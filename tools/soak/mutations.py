"""Damage of every kind for a file: flipped bits, cut ends, zeroed and swapped blocks, inflated lengths, hostile values.

`mutate` also repacks what a checksum would catch: a header of safetensors with its length, an array inside an .npz, a
JSON table with its own digest, an array of an HDF5 file. Such a file is hostile, not damaged: no digest can find it.
"""

from __future__ import annotations

import json
import os
import random
import re
import shutil
import struct
import zipfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import h5py

from inrflow_core.shards import manifest

LENGTHS = (0, 1, 0x7FFF, 0xFFFF, 10**9, 0x7FFFFFFF, 0x80000000, 0xFFFFFFFF, 1 << 40, (1 << 63) - 1, (1 << 64) - 1)
"""Values that are written over a length."""
NUMBERS = ("-1", "0", "1e308", "nan", "inf", "2000000000", "9" * 5000, "1e-400", "²", "0x10")
"""Texts that are written over a number."""
VALUES: tuple[Any, ...] = (
    *(None, True, -1, 0, 2_000_000_000, 1 << 70, 1e308, "", "²", "\x00", "../../x", [], {}, [[]]),
    *("x" * 300, [1, 2, 3], {"": 0}, "9" * 5000),
)
"""Values that are written over one of a JSON table."""
DEEP = 20_000
"""Brackets inside each other."""
Mutation = Callable[[bytearray, random.Random], str]


def mutate(file: Path, rng: random.Random) -> tuple[str, bool]:
    """Damage a file in one way; says how, and whether a digest of its own was made to fit."""
    kinds: list[Callable[[Path, random.Random], str]] = [_in_file_system] if rng.random() < 0.08 else []
    if not kinds and rng.random() < 0.35:
        kinds = [repack for endings, repack in REPACKED.items() if file.name.endswith(endings)]
    for kind in kinds:
        try:
            return kind(file, rng), True
        except (ValueError, OSError, KeyError, zipfile.BadZipFile):
            continue
    content = bytearray(file.read_bytes())
    mutation = rng.choice(TEXT if _is_text(content) and rng.random() < 0.6 else BYTES)
    description = mutation(content, rng)
    file.write_bytes(content)
    return description, False


def flip(content: bytearray, rng: random.Random) -> str:
    """Flip one to three bits."""
    positions = [_near(content, rng) for _ in range(rng.choice((1, 1, 1, 2, 3)))]
    for position in positions:
        content[position] ^= 1 << rng.randrange(8)
    return f"bits flipped in the bytes {positions}"


def cut(content: bytearray, rng: random.Random) -> str:
    """Cut the end off."""
    position = rng.choice((0, rng.randrange(len(content)), _near(content, rng)))
    del content[position:]
    return f"cut to {position} bytes"


def zero(content: bytearray, rng: random.Random) -> str:
    """Zero a block."""
    start, size = _near(content, rng), rng.choice((4, 64, 512, 4096))
    size = min(size, len(content) - start)
    content[start : start + size] = bytes(size)
    return f"{size} bytes zeroed at {start}"


def swap(content: bytearray, rng: random.Random) -> str:
    """Exchange two blocks."""
    size = min(rng.choice((4, 64, 512)), len(content) // 2)
    one, other = sorted(rng.randrange(len(content) - size + 1) for _ in range(2))
    part = content[one : one + size]
    content[one : one + size] = content[other : other + size]
    content[other : other + size] = part[: len(content) - other]
    return f"{size} bytes at {one} and {other} exchanged"


def inflate(content: bytearray, rng: random.Random) -> str:
    """Write a large number over a length."""
    size, value = rng.choice((2, 4, 4, 8)), rng.choice(LENGTHS)
    value &= (1 << 8 * size) - 1
    order = rng.choice(("little", "big"))
    start = _near(content, rng)
    content[start : start + size] = value.to_bytes(size, order)  # type: ignore[arg-type]
    return f"{value:#x} in {size} bytes ({order}) at {start}"


def insert(content: bytearray, rng: random.Random) -> str:
    """Insert random bytes, or a copy of a block."""
    start, size = _near(content, rng), rng.choice((1, 8, 300))
    content[start:start] = rng.randbytes(size) if rng.random() < 0.5 else content[start : start + size]
    return f"{size} bytes inserted at {start}"


def remove(content: bytearray, rng: random.Random) -> str:
    """Remove a block."""
    start, size = _near(content, rng), rng.choice((1, 8, 300))
    del content[start : start + size]
    return f"{size} bytes removed at {start}"


def renumber(content: bytearray, rng: random.Random) -> str:
    """Write another number in a text."""
    found = list(re.finditer(rb"-?\d+(?:\.\d+)?", bytes(content[: 1 << 20])))
    if not found:
        return flip(content, rng)
    match, number = rng.choice(found), rng.choice(NUMBERS)
    content[match.start() : match.end()] = number.encode()
    return f"the number at {match.start()} is {number[:20]}"


def nest(content: bytearray, rng: random.Random) -> str:
    """Put many brackets before a value in a text."""
    bracket = rng.choice((b"[", b'{"a":', b"(", b"{a="))
    found = [match.end() for match in re.finditer(rb"[:=\[] ?", bytes(content[: 1 << 20]))] or [0]
    start = rng.choice(found)
    content[start:start] = bracket * DEEP
    return f"{DEEP:,} x {bracket.decode()} at {start}"


def not_text(content: bytearray, rng: random.Random) -> str:
    """Insert bytes that are not UTF-8, or a zero."""
    start = rng.randrange(len(content))
    content[start:start] = rng.choice((b"\xff", b"\x00", b"\xf7\xbf", "²".encode(), b"\r"))
    return f"bytes that are not text at {start}"


BYTES: tuple[Mutation, ...] = (flip, flip, cut, zero, swap, inflate, inflate, insert, remove)
TEXT: tuple[Mutation, ...] = (renumber, renumber, nest, not_text, flip)


def _near(content: bytearray, rng: random.Random) -> int:
    """A position, every other time among the first or last 512 bytes, where headers and indexes are."""
    last = max(len(content) - 1, 0)
    return rng.choice((rng.randint(0, last), rng.randint(0, min(last, 512)), rng.randint(max(last - 512, 0), last)))


def _is_text(content: bytearray) -> bool:
    return not content[:2000].translate(None, bytes([*range(32, 127), 9, 10, 13]))


def _in_file_system(file: Path, rng: random.Random) -> str:
    """A pipe, a folder, a loop of links or a hole in place of the file."""
    size = file.stat().st_size
    file.unlink()
    kind = rng.choice(("pipe", "folder", "loop", "gone", "hole"))
    if kind == "pipe":
        os.mkfifo(file)
    elif kind == "folder":
        file.mkdir()
    elif kind == "loop":
        file.symlink_to(file.name)
    elif kind == "hole":
        with file.open("wb") as empty:
            empty.truncate(max(size, rng.choice((size, 6 << 30))))
    return f"a {kind} in its place" if kind != "gone" else "it is gone"


def _header(file: Path, rng: random.Random) -> str:
    """Another header of a safetensors file, with its length, without its digest."""
    content = file.read_bytes()
    (length,) = struct.unpack("<Q", content[:8])
    header = bytearray(re.sub(rb',?"seal":"[0-9a-f]{64}"', b"", content[8 : 8 + length]))
    description = rng.choice((renumber, renumber, nest, not_text, remove))(header, rng)
    file.write_bytes(struct.pack("<Q", len(header)) + header + content[8 + length :])
    return f"its header: {description}"


def _archive(file: Path, rng: random.Random) -> str:
    """A zip with one member damaged and its checksum right, or with a name twice."""
    with zipfile.ZipFile(file) as archive:
        members = [(info.filename, archive.read(info)) for info in archive.infolist()]
    name, content = rng.choice(members)
    changed = bytearray(content)
    description = rng.choice((flip, cut, inflate, renumber, remove))(changed, rng) if content else "nothing"
    with zipfile.ZipFile(file, "w", rng.choice((0, 8))) as archive:
        for other, whole in members:
            archive.writestr(other, bytes(changed) if other == name else whole)
    return f"its member {name}: {description}"


def _table(file: Path, rng: random.Random) -> str:
    """A JSON table with another value somewhere, and with its own digest where it has one."""
    table = json.loads(file.read_text())
    at, parent, path = table, table, []
    while isinstance(at, dict | list) and at and (not path or rng.random() < 0.8):
        key = rng.choice(list(at) if isinstance(at, dict) else list(range(len(at))))
        path.append(key)
        parent, at = at, at[key]
    if not path:
        raise ValueError("an empty table")
    parent[path[-1]] = value = rng.choice(VALUES)
    if isinstance(table, dict) and table.pop("digest", None) is not None:
        table["digest"] = manifest._own_digest(table)  # pyright: ignore[reportPrivateUsage]
    file.write_text(json.dumps(table, indent=1) + "\n")
    return f"{path} is {value!r:.40}"


def _array(file: Path, rng: random.Random) -> str:
    """An HDF5 file with another array: of a billion rows, of texts, of another type, or a link."""
    with h5py.File(file, "r+") as content:
        names: list[str] = []
        content.visititems(lambda name, item: names.append(name) if isinstance(item, h5py.Dataset) else None)
        name = rng.choice(names)
        shape, dtype = content[name].shape, content[name].dtype  # pyright: ignore
        del content[name]
        kind = rng.choice(("rows", "gzip", "text", "type", "link", "gone"))
        many = (10**9, *shape[1:])
        if kind in ("rows", "gzip"):
            options = {"chunks": (1 << 10, *shape[1:]), "compression": "gzip"} if kind == "gzip" else {}
            content.create_dataset(name, shape=many, dtype=dtype, **options)
        elif kind == "text":
            content.create_dataset(name, data=["a", "b"])
        elif kind == "type":
            content.create_dataset(name, shape=shape, dtype=rng.choice(("f8", "i1", "S3", "c8")))
        elif kind == "link":
            content[name] = h5py.ExternalLink("/etc/passwd", "x")
    return f"its array {name}: {kind}"


REPACKED: dict[tuple[str, ...], Callable[[Path, random.Random], str]] = {
    (".safetensors",): _header,
    (".npz", ".zip"): _archive,
    (".json",): _table,
    (".h5", ".hdf5"): _array,
}
"""Repacking by the ends of names."""


def copy(whole: Path, to: Path) -> None:
    """A copy of a file or a folder."""
    to.parent.mkdir(parents=True, exist_ok=True)
    if whole.is_dir():
        shutil.copytree(whole, to, symlinks=True)
    else:
        shutil.copyfile(whole, to)
