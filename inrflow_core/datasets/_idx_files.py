"""The idx files of MNIST and its kin: a big-endian header, then bytes; packed with gzip or not.

Source: http://yann.lecun.com/exdb/mnist, "File formats". The header must agree with the
length of the file.
"""

from __future__ import annotations

import gzip
import struct
import zlib
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from inrflow_core.datasets._contract import DatasetIndex, Item, source_not_found
from inrflow_core.datasets._image_decoding import PIXELS, pixel_centers
from inrflow_core.errors import IntegrityError
from inrflow_core.storage.source_files import fingerprint, list_files
from inrflow_core.visualization import image_io

SIDE, MOST_SIDE = image_io.BLOCKS_FROM, 64
MOST = 10_000_000
"""Images in one file; a header with more is an error."""
IMAGES, LABELS = 0x803, 0x801
"""The first four bytes of a file: unsigned bytes in three axes, or in one."""
SPLITS = {"train": "train", "val": "t10k"}


@dataclass(frozen=True)
class Config:
    """The size of the images."""

    resolution: int | None = None
    """Rows and columns. Default: the 28 of the files. Smaller images are means of blocks after a black margin that makes the side a
    multiple of theirs (16: means of 2 x 2 pixels of 32 x 32); larger ones, up to 64, have a margin alone."""

    def __post_init__(self) -> None:
        if not 1 <= self.side <= MOST_SIDE:
            raise ValueError(f"`resolution` is {self.resolution}: from 1 to {MOST_SIDE}")

    @property
    def side(self) -> int:
        """Rows and columns."""
        return SIDE if self.resolution is None else self.resolution


def idx_plan(
    name: str, source: Path, config: Config, classes: Sequence[str], is_ours: Callable[[str], bool]
) -> DatasetIndex:
    """The index of the four files below `source` (of those whose path `is_ours`), with the examples in memory.

    Raises:
        MissingError: the two files of `train` do not exist.
        IntegrityError: a header is wrong, or images and labels do not match.
    """
    sizes = {file: size for file, size in list_files(source) if is_ours(file)} if source.is_dir() else {}
    splits: dict[str, list[Item]] = {}
    used = []
    for split, prefix in SPLITS.items():
        images, labels = (_find(list(sizes), f"{prefix}-{what}") for what in ("images", "labels"))
        if images is None or labels is None:
            if split == "train":
                looked_for = f"`{prefix}-images-idx3-ubyte` and `{prefix}-labels-idx1-ubyte`, with or without .gz"
                raise source_not_found(name, source, looked_for)
            continue
        pixels, numbers = _read(source / images, IMAGES), _read(source / labels, LABELS)
        _check(source / labels, pixels, numbers, len(classes))
        splits[split] = [
            Item(f"{split}/{index:05d}", int(number), image[..., None])
            for index, (image, number) in enumerate(
                zip(image_io.block_means(pixels, config.side), numbers, strict=True)
            )
        ]
        used += [(f"{prefix}-images", pixels.nbytes), (f"{prefix}-labels", numbers.nbytes)]
    return DatasetIndex(
        splits,
        shape=(config.side, config.side, 1),
        dtype="uint8",
        fingerprint=fingerprint(used),
        classes=tuple(classes),
        normalization=PIXELS if config.side == SIDE else {**PIXELS, "reduction": "blocks"},
        coordinates=pixel_centers(config.side),
    )


def _find(files: Sequence[str], start: str) -> str | None:
    """The topmost file whose name starts with `start`; unpacked before packed."""
    mine = [file for file in files if file.rpartition("/")[2].startswith(start)]
    return min(mine, key=lambda file: (file.count("/"), file.endswith(".gz"), file), default=None)


def _read(path: Path, magic: int) -> np.ndarray:
    """The bytes after a header, in its shape."""
    axes = magic & 0xFF
    try:
        with gzip.open(path) if path.suffix == ".gz" else path.open("rb") as file:
            start = file.read(4)
            if len(start) == 4 and start != magic.to_bytes(4, "big"):
                raise _wrong(path, f"it begins with {int.from_bytes(start, 'big'):#x}, not {magic:#x}")
            header = file.read(4 * axes)
            if len(header) < 4 * axes:
                raise _wrong(path, "it ends inside its header")
            shape = struct.unpack(f">{axes}I", header)
            if shape[0] > MOST or any(side != SIDE for side in shape[1:]):
                raise _wrong(path, f"it says {' x '.join(map(str, shape))}")
            count = int(np.prod(shape, dtype=np.int64))
            content = file.read(count + 1)
    except (OSError, EOFError, zlib.error) as error:
        raise _wrong(path, f"it cannot be unpacked: {error}") from error
    if len(content) != count:
        more = "more" if len(content) > count else f"{len(content):,}"
        raise _wrong(path, f"its header says {count:,} bytes, it has {more}")
    return np.frombuffer(content, np.uint8).reshape(shape)


def _check(path: Path, images: np.ndarray, labels: np.ndarray, classes: int) -> None:
    if len(images) != len(labels):
        raise _wrong(path, f"it has {len(labels):,} labels for {len(images):,} images")
    if len(labels) and labels.max() >= classes:
        raise _wrong(path, f"it holds the label {labels.max()}, and there are {classes} classes")


def _wrong(path: Path, what: str) -> IntegrityError:
    return IntegrityError(f"`{path}` is not a complete idx file: {what}", hint="copy or download it again")
