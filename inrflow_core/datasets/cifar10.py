"""CIFAR-10: 60,000 small photographs, from the python or the binary version, unpacked or as the tar.gz.

Source: Krizhevsky 2009. The python version is a pickle, which could run code: only arrays of numbers and plain
lists are read from it (`_array_pickle`).
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from inrflow_core.datasets import _archives, _array_pickle
from inrflow_core.datasets._contract import DatasetIndex, Example, Item, source_not_found
from inrflow_core.datasets._image_decoding import PIXELS, pixel_centers
from inrflow_core.errors import IntegrityError
from inrflow_core.storage.source_files import fingerprint, list_files

DOMAIN = "image"
NEEDS_SOURCE = True
DESCRIPTION = "`cifar-10-batches-py`, `cifar-10-batches-bin`, or their tar.gz -> RGB 32 x 32, 10 classes"
IS_READ_BY_SCAN = True
CLASSES = ("airplane", "automobile", "bird", "cat", "deer", "dog", "frog", "horse", "ship", "truck")
SIDE, CHANNELS = 32, 3
PIXEL_BYTES = CHANNELS * SIDE * SIDE
LARGEST = 64 << 20
"""Bytes of one batch; the real ones have 31 million."""
BATCHES = {**{f"data_batch_{number}": "train" for number in range(1, 6)}, "test_batch": "val"}
Batch = tuple[np.ndarray, np.ndarray]
"""Images (n 32 32 3) and labels (n)."""


@dataclass(frozen=True)
class Config:
    """CIFAR-10 has no settings."""


def scan(source: Path, config: Config) -> DatasetIndex:
    """The five training batches as `train`, the test batch as `val`.

    Raises:
        MissingError: a batch is missing.
        IntegrityError: a batch is damaged, or a pickle asks for more than arrays.
    """
    files = _files(source)
    splits: dict[str, list[Item]] = {"train": [], "val": []}
    for name, split in BATCHES.items():
        file = name if name in files else f"{name}.bin"
        images, labels = (_from_pickle if file == name else _from_binary)(file, files[file])
        splits[split] += [
            Item(f"{split}/{name}/{number:05d}", int(label), image)
            for number, (image, label) in enumerate(zip(images, labels, strict=True))
        ]
    return DatasetIndex(
        splits,
        shape=(SIDE, SIDE, CHANNELS),
        dtype="uint8",
        fingerprint=fingerprint((name, len(content)) for name, content in files.items()),
        classes=CLASSES,
        normalization=PIXELS,
        coordinates=pixel_centers(SIDE),
    )


def read(item: Item, config: Config) -> Example:
    """The image that the scan found."""
    return Example(item.location, item.label, item.name)


def _files(source: Path) -> dict[str, bytes]:
    """The content of the six batches by file name, from the first version that is complete."""
    files = list_files(source) if source.is_dir() else [(source.name, source.stat().st_size)]
    folder = source if source.is_dir() else source.parent
    for ending in ("", ".bin"):
        batches = {f"{name}{ending}" for name in BATCHES}
        loose = {name.rpartition("/")[2]: name for name, size in files if size <= LARGEST}
        if batches <= set(loose):
            return {name: (folder / loose[name]).read_bytes() for name in sorted(batches)}
        for name, _ in files:
            if name.endswith((".tar.gz", ".tgz", ".tar")) and "cifar" in name.lower():
                with (folder / name).open("rb") as file:
                    packed = _archives.read_members(file, folder / name, batches, largest=LARGEST)
                if batches <= set(packed):
                    return packed
    raise source_not_found(
        "cifar10", source, f"{', '.join(f'`{name}`' for name in BATCHES)} (or with .bin), or `cifar-10-*.tar.gz`", files
    )


def _from_binary(name: str, content: bytes) -> Batch:
    if len(content) % (1 + PIXEL_BYTES):
        raise _damaged(name, f"{len(content):,} bytes are not a whole number of records")
    records = np.frombuffer(content, np.uint8).reshape(-1, 1 + PIXEL_BYTES)
    return _checked(name, records[:, 1:], records[:, 0])


def _from_pickle(name: str, content: bytes) -> Batch:
    try:
        batch = {
            key.decode() if isinstance(key, bytes) else key: value for key, value in _array_pickle.load(content).items()
        }
        return _checked(name, _numbers(batch["data"]), _numbers(batch["labels"]))
    except _array_pickle.BROKEN as error:
        raise _damaged(name, str(error) or type(error).__name__) from error


def _numbers(value: Any) -> np.ndarray:
    """An array, or a flat list of integers: nested lists can refer to each other and be endless."""
    if isinstance(value, _array_pickle.PickledArray):
        return value.to_numpy()
    if not isinstance(value, list) or not all(type(each) is int for each in value):
        raise ValueError(f"a {type(value).__name__} is neither an array nor a list of integers")
    return np.asarray(value)


def _checked(name: str, pixels: np.ndarray, labels: np.ndarray) -> Batch:
    """Planes of color, row by row, as images; with labels that are classes."""
    if pixels.dtype != np.uint8 or pixels.ndim != 2 or pixels.shape[1] != PIXEL_BYTES:
        raise _damaged(name, f"its images are {pixels.dtype} of shape {pixels.shape}")
    if labels.dtype.kind not in "iu" or labels.shape != pixels.shape[:1]:
        raise _damaged(name, f"{labels.shape} labels for {len(pixels)} images")
    if len(labels) and not 0 <= labels.min() <= labels.max() < len(CLASSES):
        raise _damaged(name, f"a label is not one of {len(CLASSES)} classes")
    return np.ascontiguousarray(pixels.reshape(-1, CHANNELS, SIDE, SIDE).transpose(0, 2, 3, 1)), labels


def _damaged(name: str, what: str) -> IntegrityError:
    return IntegrityError(f"`{name}` is not a batch of CIFAR-10: {what}", hint="copy or download it again")
