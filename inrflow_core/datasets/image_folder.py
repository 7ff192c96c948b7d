"""Any folder of images, at one resolution.

`train`, `val` and `test` (also `valid`, `validation`) side by side are splits, else a share `val` by content; with `classes`, the
folder below the splits (or at the top) is the class.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from inrflow_core.datasets import _archives, _image_decoding, _splits
from inrflow_core.datasets._archives import Entry
from inrflow_core.datasets._contract import DatasetIndex, Example, Item, notes_on_others, source_not_found
from inrflow_core.errors import UsageError

DOMAIN = "image"
NEEDS_SOURCE = True
IS_READ_BY_SCAN = False
DESCRIPTION = (
    "any folder, zip or tar of images, with or without `train` and `val` -> RGB or gray, a share held out with `val`; with "
    "--classes the sub-folders' names"
)


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
    val: float | None = None
    """Share of the images that is held out where the source has no folders `train` and `val`; by their content alone. None: all
    are `train`."""
    background: str | None = None
    """Color behind transparent pixels, as `black` or `#ff8800`; None is white."""

    def __post_init__(self) -> None:
        _image_decoding.check_resolution(self.resolution)
        _image_decoding.check_background(self.background)
        _splits.check_share(self.val)
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
        raise source_not_found("image-folder", source, "image files", [(entry.name, entry.size) for entry in entries])
    inside = _archives.below(image_files, _splits.root_of(_archives.common_root(image_files)))
    folders = _splits.in_folders([entry.name for entry in inside])
    splits = {"train": list(inside)} if folders is None else _in_folders(inside, folders)
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
    notes_on_share: tuple[str, ...] = ()
    if folders is not None and config.val is not None:
        notes_on_share = (f"`val={config.val:g}` changes nothing: the source has folders for its splits",)
    if folders is None and config.val is not None:
        items = {
            split: [item._replace(name=f"{split}/{item.name.removeprefix('train/')}") for item in part]
            for split, part in _splits.by_share(items["train"], _splits.identity_of, config.val).items()
        }
    return _image_decoding.plan(
        items,
        config.resolution,
        channels=config.channels,
        classes=names,
        sources=sources,
        background=config.background,
        notes=notes_on_others(_archives.others(entries)) + notes_on_share,
    )


def read(item: Item, config: Config) -> Example:
    """One image."""
    return _image_decoding.example(
        item, config.resolution, channels=config.channels, upright=config.upright, background=config.background
    )


def _in_folders(inside: Sequence[Entry], folders: Mapping[str, Sequence[str]]) -> dict[str, list[Entry]]:
    """The images of each split, named below its folder."""
    by_name = {entry.name: entry for entry in inside}
    return {
        split: [by_name[name]._replace(name=name.partition("/")[2]) for name in names]
        for split, names in folders.items()
    }


def _class(entry: Entry) -> str:
    folder, slash, _ = entry.name.partition("/")
    if not slash:
        raise UsageError(
            f"classes are requested, and `{entry.name}` is not in a sub-folder",
            hint="leave `--classes` out, or put every image into the folder of its class",
        )
    return folder
