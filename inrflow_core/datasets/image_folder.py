"""Any folder of images, at one resolution.

`train`, `val` and `test` (also `valid`, `validation`) side by side are splits; with `classes`, the folder below them
(or at the top) is the class.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from inrflow_core.datasets import _archives, _image_decoding
from inrflow_core.datasets._archives import Entry
from inrflow_core.datasets._contract import DatasetIndex, Example, Item, source_not_found
from inrflow_core.errors import UsageError

DOMAIN = "image"
NEEDS_SOURCE = True
IS_READ_BY_SCAN = False
DESCRIPTION = (
    "any folder, zip or tar of images, with or without `train` and `val` -> RGB or gray; with --classes the "
    "sub-folders' names"
)
SPLITS = {"train": "train", "val": "val", "valid": "val", "validation": "val", "test": "test"}


@dataclass(frozen=True)
class Config:
    """How images become examples."""

    resolution: int = 128
    """Rows and columns."""
    classes: bool = False
    """Label by sub-folder."""
    channels: int = 3
    """3 for RGB, 1 for gray."""
    upright: bool = True
    """Rotate photographs by their EXIF orientation."""

    def __post_init__(self) -> None:
        _image_decoding.check_resolution(self.resolution)
        if self.channels not in (1, 3):
            raise ValueError(f"`channels` is {self.channels}: 1 or 3")


def scan(source: Path, config: Config) -> DatasetIndex:
    """The images by split and, with `classes`, by sub-folder.

    Raises:
        MissingError: there are no images.
        UsageError: `classes` is set, and an image is not in a sub-folder.
    """
    entries = _archives.listing(source)
    image_files = _archives.images(entries)
    if not image_files:
        raise source_not_found("images", source, "image files", [(entry.name, entry.size) for entry in entries])
    splits = _splits(_archives.below(image_files, _root(image_files)))
    names: list[str] = []
    if config.classes:
        names = sorted({_class(entry) for part in splits.values() for entry in part})
    rank = {name: number for number, name in enumerate(names)}
    items = {
        split: [
            _image_decoding.item(
                entry._replace(name=f"{split}/{entry.name}"), rank[_class(entry)] if config.classes else -1
            )
            for entry in part
        ]
        for split, part in splits.items()
    }
    sources = [(f"{split}/{entry.name}", entry.size) for split, part in splits.items() for entry in part]
    return _image_decoding.plan(items, config.resolution, channels=config.channels, classes=names, sources=sources)


def read(item: Item, config: Config) -> Example:
    """One image."""
    return _image_decoding.example(item, config.resolution, channels=config.channels, upright=config.upright)


def _root(image_files: Sequence[Entry]) -> str:
    """The folder that holds all images; a folder that is itself a class or a split stays in the names."""
    root = _archives.common_root(image_files)
    parts = root.split("/")[:-1]
    if parts and parts[-1] in SPLITS:
        return "".join(f"{part}/" for part in parts[:-1])
    return root


def _splits(inside: Sequence[Entry]) -> dict[str, list[Entry]]:
    """The splits, if all folders at the top are names of splits; else all images in `train`."""
    top = {entry.name.partition("/")[0] for entry in inside}
    if "train" not in top or not top <= set(SPLITS):
        return {"train": list(inside)}
    parts: dict[str, list[Entry]] = {}
    for folder in sorted(top, key=list(SPLITS).index):
        parts.setdefault(SPLITS[folder], []).extend(_archives.below(inside, f"{folder}/"))
    return parts


def _class(entry: Entry) -> str:
    folder, slash, _ = entry.name.partition("/")
    if not slash:
        raise UsageError(
            f"classes are requested, and `{entry.name}` is not in a sub-folder",
            hint="leave `--classes` out, or put every image into the folder of its class",
        )
    return folder
