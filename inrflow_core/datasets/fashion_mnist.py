"""Fashion-MNIST: 70,000 pieces of clothing, from four idx files that are called like MNIST's."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from inrflow_core.datasets._contract import DatasetIndex, Example, Item
from inrflow_core.datasets._idx_files import idx_plan

DOMAIN = "image"
NEEDS_SOURCE = True
DESCRIPTION = "`train-images-idx3-ubyte` and its three fellows, with or without .gz -> gray 28 x 28, 10 classes"
IS_READ_BY_SCAN = True
CLASSES = ("T-shirt", "trouser", "pullover", "dress", "coat", "sandal", "shirt", "sneaker", "bag", "ankle boot")


@dataclass(frozen=True)
class Config:
    """There is nothing to choose."""


def scan(source: Path, config: Config) -> DatasetIndex:
    """The images of `train` and, where they are there, of the test files as `val`; see `_idx_files.idx_plan`.

    A folder that also holds MNIST (as torchvision's does) is searched for `fashion` in the path alone.
    """
    has_both = source.is_dir() and any("fashion" in path.name.lower() for path in source.iterdir())
    return idx_plan("fashion-mnist", source, CLASSES, lambda file: not has_both or "fashion" in file.lower())


def read(item: Item, config: Config) -> Example:
    """The image that the scan found."""
    return Example(item.location, item.label, item.name)
