"""Safetensors files written one tensor at a time, so that saving takes no second copy of a model.

The format (8 bytes of header length, a JSON header, then the tensors' bytes end to end) is the safetensors project's;
its own writer wants all tensors in memory at once. Reading goes through that project's library, which maps the file.
"""

from __future__ import annotations

import hashlib
import json
import os
import re
import struct
from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import safetensors
import torch
from torch import Tensor

from inrflow_core.errors import IntegrityError
from inrflow_core.storage import atomic_write, typed_json
from inrflow_core.storage.plain_file import BLOCK, open_plain_file

Layout = Mapping[str, tuple[torch.dtype, tuple[int, ...]]]
"""Type and shape of every tensor of a file, in the order in which they are written."""

NAMES = {
    torch.float64: "F64",
    torch.float32: "F32",
    torch.float16: "F16",
    torch.bfloat16: "BF16",
    torch.int64: "I64",
    torch.int32: "I32",
    torch.int16: "I16",
    torch.int8: "I8",
    torch.uint8: "U8",
    torch.bool: "BOOL",
}
DIGEST_KEY = "seal"
"""Metadata key of the SHA-256 of the whole file, computed with 64 zeros in place of the digest."""
LFS_POINTER = b"version "
"""How a text begins that Git LFS leaves in the place of a file."""
MAX_HEADER = 64 << 20
"""Bytes of the longest header: enough for a million tensors."""
_AGAIN = "copy it again, or make it again with the command that wrote it"
DIGEST_PATTERN = re.compile(rb'"seal":"([0-9a-f]{64})"')
DAMAGED_KEY = re.compile(rb'"(.eal|s.al|se.l|sea.)":"[0-9a-f]{64}"', re.DOTALL)
"""A digest whose key has one changed byte: the file had a digest, and must not pass for one without."""


def layout(tensors: Mapping[str, Tensor]) -> dict[str, tuple[torch.dtype, tuple[int, ...]]]:
    """The layout of tensors."""
    return {name: (tensor.dtype, tuple(tensor.shape)) for name, tensor in tensors.items()}


def write(path: Path, planned: Layout, values: Iterable[Tensor], metadata: Mapping[str, str]) -> str:
    """Write tensors one at a time, in the layout's order, atomically; returns the SHA-256 of the file.

    Raises:
        OutOfMemory, UsageError: see `atomic_write.atomic_write`.
    """
    digest = hashlib.sha256()
    with atomic_write.atomic_write(path, size(planned, metadata)) as beside, beside.open("wb") as file:
        for piece in _pieces(planned, values, metadata):
            digest.update(piece)
            file.write(piece)
    return digest.hexdigest()


def write_with_digest(
    path: Path, planned: Layout, values: Callable[[], Iterable[Tensor]], metadata: Mapping[str, str]
) -> str:
    """Write tensors as `write`, with the file's own digest inside, for a file without a manifest. Calls `values` twice.

    Raises:
        OutOfMemory, UsageError: see `atomic_write.atomic_write`.
    """
    digest = hashlib.sha256()
    for piece in _pieces(planned, values(), {**metadata, DIGEST_KEY: "0" * 64}):
        digest.update(piece)
    return write(path, planned, values(), {**metadata, DIGEST_KEY: digest.hexdigest()})


@contextmanager
def open_tensors(path: Path, *, framework: str = "pt", device: str = "cpu", hint: str | None = None) -> Iterator[Any]:
    """A memory-mapped safetensors file: `keys()`, `get_tensor(name)`, `get_slice(name)`.

    Raises:
        MissingError: there is no such file.
        IntegrityError: it is not a whole safetensors file, or lacks a tensor that the block reads.
    """
    read_metadata(path, hint=hint)
    try:
        with safetensors.safe_open(path, framework=framework, device=device) as file:
            yield file
    except (safetensors.SafetensorError, OSError) as error:
        raise IntegrityError(f"`{path}` is not a whole safetensors file: {error}", hint=hint) from error


def tensor_shapes(path: Path, *, hint: str | None = None) -> dict[str, list[int]]:
    """The shape of every tensor of a safetensors file, by name; reads its header alone.

    Raises:
        MissingError, IntegrityError: as `open_tensors`.
    """
    with open_tensors(path, hint=hint) as file:
        names: list[str] = file.keys()
        return {name: file.get_slice(name).get_shape() for name in names}


def read_metadata(path: Path, *, hint: str | None = None) -> dict[str, str]:
    """The metadata of a safetensors file, without its tensors; empty where it has none.

    Raises:
        MissingError: there is no such file.
        IntegrityError: it is not a plain file, or its header is cut off, too large, not JSON, or has metadata that are not
            texts.
    """
    hint = hint or "copy or export it again"
    where = f"the header of `{path}`"
    with open_plain_file(path, hint=hint) as file:
        start = file.read(8)
        if start == LFS_POINTER:
            raise IntegrityError(
                f"`{path}` is a pointer of Git LFS, not the file itself", hint="fetch it with `git lfs pull`"
            )
        length = int.from_bytes(start, "little")
        size = os.fstat(file.fileno()).st_size
        if not 0 < length <= min(MAX_HEADER, size - 8):
            raise IntegrityError(
                f"`{path}` is not a whole safetensors file: its header would have {length:,} bytes", hint=hint
            )
        header = typed_json.typed(typed_json.parse_json(file.read(length), where, hint=hint), dict[str, Any], where)
    metadata = header.get("__metadata__")
    return (
        {} if metadata is None else typed_json.typed(metadata, dict[str, str], f"`__metadata__` of `{path}`", hint=hint)
    )


def check_digest(path: Path) -> None:
    """Raise IntegrityError unless a file matches its own digest, or has none."""
    has_digest = DIGEST_KEY in read_metadata(path)
    with path.open("rb") as file:
        length = file.read(8)
        header = file.read(min(int.from_bytes(length, "little"), path.stat().st_size))
        # Search the bytes: with a damaged key `__metadata__` the metadata are lost, and the digest is still there.
        match = DIGEST_PATTERN.search(header)
        if match is None:
            if has_digest or DAMAGED_KEY.search(header):
                raise IntegrityError(f"`{path}` is damaged: its `{DIGEST_KEY}` is not a digest", hint=_AGAIN)
            return
        hashed = hashlib.sha256(length + header[: match.start(1)] + b"0" * 64 + header[match.end(1) :])
        while block := file.read(BLOCK):
            hashed.update(block)
    stated = match[1].decode()
    if hashed.hexdigest() != stated:
        raise IntegrityError(
            f"`{path}` is damaged: its digest is {hashed.hexdigest()[:8]}..., it states {stated[:8]}...",
            hint=_AGAIN,
        )


def size(planned: Layout, metadata: Mapping[str, str]) -> int:
    """Bytes of a file."""
    return 8 + len(_header(planned, metadata)) + sum(_bytes(dtype, shape) for dtype, shape in planned.values())


def _pieces(planned: Layout, values: Iterable[Tensor], metadata: Mapping[str, str]) -> Iterator[Any]:
    """A file's bytes, one tensor after the other."""
    header = _header(planned, metadata)
    yield struct.pack("<Q", len(header))
    yield header
    for (name, (dtype, shape)), value in zip(planned.items(), values, strict=True):
        assert value.dtype == dtype and tuple(value.shape) == shape, f"{name} is {value.dtype} {tuple(value.shape)}"
        yield value.detach().cpu().contiguous().reshape(-1).view(torch.uint8).numpy().data


def _header(planned: Layout, metadata: Mapping[str, str]) -> bytes:
    table: dict[str, object] = {"__metadata__": dict(metadata)} if metadata else {}
    start = 0
    for name, (dtype, shape) in planned.items():
        end = start + _bytes(dtype, shape)
        table[name] = {"dtype": NAMES[dtype], "shape": list(shape), "data_offsets": [start, end]}
        start = end
    header = json.dumps(table, separators=(",", ":")).encode()
    return header + b" " * (-len(header) % 8)


def _bytes(dtype: torch.dtype, shape: tuple[int, ...]) -> int:
    return torch.Size(shape).numel() * dtype.itemsize
