"""FFHQ: 70,000 faces, as the full images, as any resized copies, or as the zip of StyleGAN and EDM.

The first 60,000 are `train`, the last 10,000 `val`, by the number in the name (Karras et al. 2019).
"""

from __future__ import annotations

import re
from dataclasses import dataclass
from pathlib import Path

from inrflow_core.datasets import _archives, _image_decoding
from inrflow_core.datasets._contract import DatasetIndex, Example, Item, source_not_found

DOMAIN = "image"
NEEDS_SOURCE = True
IS_READ_BY_SCAN = False
DESCRIPTION = (
    "`images1024x1024/00000/00000.png` ..., resized copies in any folder, or an EDM zip -> RGB; the first 60,000 "
    "train, the others val"
)
FIRST_OF_VAL = 60_000
LESSER = ("thumbnails128x128/", "in-the-wild-images/")
"""Folders of the same images in another form; read only if there are no others."""


@dataclass(frozen=True)
class Config:
    """How images become examples."""

    resolution: int = 256
    """Rows and columns."""
    all_train: bool = False
    """Put all 70,000 into `train`, as StyleGAN does; there is then no `val`."""

    def __post_init__(self) -> None:
        _image_decoding.check_resolution(self.resolution)


def scan(source: Path, config: Config) -> DatasetIndex:
    """The images by number.

    Raises:
        MissingError: no image has a number as its name.
    """
    entries = _archives.listing(source)
    image_files = _archives.images(entries)
    whole = [entry for entry in image_files if not any(folder in entry.name for folder in LESSER)]
    numbered = {entry: number for entry in whole or image_files if (number := _number(entry.name)) is not None}
    if not numbered:
        raise source_not_found(
            "ffhq", source, "images named by number, as `00000.png`", [(entry.name, entry.size) for entry in entries]
        )
    selected = sorted(numbered, key=lambda entry: (numbered[entry], entry.name))
    root = _archives.common_root(selected)
    splits: dict[str, list[Item]] = {"train": [], "val": []}
    for entry in selected:
        is_train = config.all_train or numbered[entry] < FIRST_OF_VAL
        splits["train" if is_train else "val"].append(
            _image_decoding.item(entry._replace(name=entry.name[len(root) :]))
        )
    sources = [(entry.name[len(root) :], entry.size) for entry in selected]
    return _image_decoding.plan(splits, config.resolution, sources=sources)


def read(item: Item, config: Config) -> Example:
    """One image."""
    return _image_decoding.example(item, config.resolution)


def _number(name: str) -> int | None:
    """The number in a file's name: `00000.png`, or `img00000000.png` in archives of EDM."""
    match = re.fullmatch(r"(?:img)?(\d{5,8})", Path(name).stem)
    return int(match[1]) if match else None
