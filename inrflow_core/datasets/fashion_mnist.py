"""Fashion-MNIST: 70,000 pieces of clothing, from four idx files, named like MNIST's."""

from __future__ import annotations

from pathlib import Path

from inrflow_core.datasets._contract import DatasetIndex, Example, Item
from inrflow_core.datasets._idx_files import Config, idx_plan

DOMAIN = "image"
NEEDS_SOURCE = True
DESCRIPTION = "`train-images-idx3-ubyte` and the other three files, with or without .gz -> gray 28 x 28, 10 classes"
IS_READ_BY_SCAN = True
CLASSES = ("T-shirt", "trouser", "pullover", "dress", "coat", "sandal", "shirt", "sneaker", "bag", "ankle boot")


def scan(source: Path, config: Config) -> DatasetIndex:
    """The images of `train` and, if they exist, of the test files as `val`; see `_idx_files.idx_plan`.

    In a folder that also holds MNIST (as torchvision's does) only paths with `fashion` are read.
    """
    has_both = source.is_dir() and any("fashion" in path.name.lower() for path in source.iterdir())
    return idx_plan("fashion-mnist", source, config, CLASSES, lambda file: not has_both or "fashion" in file.lower())


def read(item: Item, config: Config) -> Example:
    """The image that the scan found."""
    return Example(item.location, item.label, item.name)
