"""Handwritten digits, 8 x 8, that come with scikit-learn: nothing to download.

Source: Alpaydin and Kaynak, Optical Recognition of Handwritten Digits (UCI), the test part; 1,797 images of 17 gray
levels. Every sixth is held out, so that both splits have all writers and classes.
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

import numpy as np

from inrflow_core.datasets._contract import DatasetIndex, Example, Item
from inrflow_core.datasets._image_decoding import PIXELS, pixel_centers
from inrflow_core.storage.source_files import fingerprint

DOMAIN = "image"
DESCRIPTION = "the 1,797 digits inside scikit-learn, no source needed -> gray 8 x 8, 10 classes, train and val"
NEEDS_SOURCE = False
IS_READ_BY_SCAN = True
HELD_OUT_EVERY = 6
WHITE = 16
"""The largest gray level of the source."""


@dataclass(frozen=True)
class Config:
    """The digits have no settings."""


def scan(source: Path, config: Config) -> DatasetIndex:
    """The digits of the installed scikit-learn; `source` is ignored."""
    from sklearn.datasets import load_digits

    images, labels = load_digits(return_X_y=True)
    pixels = np.round(images * (255 / WHITE)).astype(np.uint8).reshape(-1, 8, 8, 1)
    items = [
        Item(f"{number:04d}", int(label), image)
        for number, (image, label) in enumerate(zip(pixels, labels, strict=True))
    ]
    held_out = items[HELD_OUT_EVERY - 1 :: HELD_OUT_EVERY]
    train = [item for number, item in enumerate(items, start=1) if number % HELD_OUT_EVERY]
    return DatasetIndex(
        {"train": train, "val": held_out},
        shape=(8, 8, 1),
        dtype="uint8",
        fingerprint=fingerprint([("digits.csv.gz", pixels.nbytes)]),
        classes=tuple("0123456789"),
        normalization=PIXELS,
        coordinates=pixel_centers(8),
    )


def read(item: Item, config: Config) -> Example:
    """The digit that the scan found."""
    return Example(item.location, item.label, item.name)
