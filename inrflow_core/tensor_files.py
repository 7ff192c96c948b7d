"""Safetensors files written one tensor at a time, so that saving takes no second copy of a model.

The format (8 bytes of header length, a JSON header, then the tensors' bytes end to end) is the safetensors project's;
its own writer wants all tensors in memory at once. Reading goes through that project's library, which maps the file.
"""

from __future__ import annotations

import hashlib
import json
import os
import struct
from collections.abc import Iterable, Mapping
from pathlib import Path

import torch
from torch import Tensor

from inrflow_core import outputs

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
BLOCK = 1 << 22


def layout(tensors: Mapping[str, Tensor]) -> dict[str, tuple[torch.dtype, tuple[int, ...]]]:
    """The layout of tensors that are at hand."""
    return {name: (tensor.dtype, tuple(tensor.shape)) for name, tensor in tensors.items()}


def write(path: Path, planned: Layout, values: Iterable[Tensor], metadata: Mapping[str, str]) -> str:
    """Write tensors as they come, in the layout's order, beside `path` and rename; the file's SHA-256 comes back.

    Raises:
        OutOfMemory, UsageError: see `outputs.written`.
    """
    header = json.dumps(_header(planned, metadata), separators=(",", ":")).encode()
    header += b" " * (-len(header) % 8)
    digest = hashlib.sha256()
    size = 8 + len(header) + sum(_bytes(dtype, shape) for dtype, shape in planned.values())
    with outputs.written(path, size) as beside, beside.open("wb") as file:
        for piece in (struct.pack("<Q", len(header)), header):
            digest.update(piece)
            file.write(piece)
        for (name, (dtype, shape)), value in zip(planned.items(), values, strict=True):
            assert value.dtype == dtype and tuple(value.shape) == shape, f"{name} is {value.dtype} {tuple(value.shape)}"
            flat = value.detach().cpu().contiguous().reshape(-1).view(torch.uint8).numpy().data
            digest.update(flat)
            file.write(flat)
    return digest.hexdigest()


def digest(path: Path) -> str:
    """SHA-256 of a file, read in blocks from the disk and not from the system's memory of what was written."""
    found = hashlib.sha256()
    with path.open("rb") as file:
        if hasattr(os, "posix_fadvise"):
            os.posix_fadvise(file.fileno(), 0, 0, os.POSIX_FADV_DONTNEED)
        while block := file.read(BLOCK):
            found.update(block)
    return found.hexdigest()


def _header(planned: Layout, metadata: Mapping[str, str]) -> dict[str, object]:
    header: dict[str, object] = {"__metadata__": dict(metadata)} if metadata else {}
    start = 0
    for name, (dtype, shape) in planned.items():
        end = start + _bytes(dtype, shape)
        header[name] = {"dtype": NAMES[dtype], "shape": list(shape), "data_offsets": [start, end]}
        start = end
    return header


def _bytes(dtype: torch.dtype, shape: tuple[int, ...]) -> int:
    return torch.Size(shape).numel() * dtype.itemsize
