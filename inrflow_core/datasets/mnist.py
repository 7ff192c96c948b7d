"""MNIST: 70,000 handwritten digits, from its four idx files."""

from __future__ import annotations

from pathlib import Path

from inrflow_core.datasets._contract import DatasetIndex, Example, Item
from inrflow_core.datasets._idx_files import Config, idx_plan

DOMAIN = "image"
NEEDS_SOURCE = True
DESCRIPTION = "`train-images-idx3-ubyte` and the other three files, with or without .gz -> gray 28 x 28, 10 classes"
IS_READ_BY_SCAN = True
KIN = ("fashion", "kmnist", "emnist", "qmnist")
"""Data sets whose files have the same names, and which torchvision puts beside MNIST's."""


def scan(source: Path, config: Config) -> DatasetIndex:
    """The images of `train` and, if they exist, of the test files as `val`; see `_idx_files.idx_plan`."""
    return idx_plan(
        "mnist", source, config, tuple("0123456789"), lambda file: not any(kin in file.lower() for kin in KIN)
    )


def read(item: Item, config: Config) -> Example:
    """The image that the scan found."""
    return Example(item.location, item.label, item.name)
