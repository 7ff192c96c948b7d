"""CelebA-HQ: 30,000 faces, in the layouts of its several hosts.

Layouts: `{train,val,test}/` with or without `{female,male}/` (StarGAN v2), `CelebA-HQ-img/0.jpg` ... (CelebAMask-HQ),
`data128x128/*.jpg`, and any flat folder. Without splits, every tenth image is held out, by number.
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Literal

from inrflow_core.datasets import _archives, _image_decoding
from inrflow_core.datasets._archives import Entry
from inrflow_core.datasets._contract import DatasetIndex, Example, Item, source_not_found
from inrflow_core.errors import UsageError
from inrflow_core.visualization import image_io

DOMAIN = "image"
NEEDS_SOURCE = True
IS_READ_BY_SCAN = False
DESCRIPTION = (
    "`{train,val}/{female,male}/*`, `CelebA-HQ-img/*`, `data128x128/*` or one flat folder -> RGB; with --classes "
    "female and male; without a split every tenth is val"
)
PREFERRED = ("CelebA-HQ-img/", "data1024x1024/", "data512x512/", "data256x256/", "data128x128/")
"""Folders of images, preferred to other forms beside them (masks, other sizes), best first."""
CLASSES = ("female", "male")
HELD_OUT_EVERY = 10


@dataclass(frozen=True)
class Config:
    """How images become examples."""

    resolution: int = 64
    """Rows and columns."""
    classes: bool = False
    """Label by the folders `female` and `male`."""
    reduction: Literal["adm", "bilinear"] = "adm"
    """`adm` as for all images; `bilinear` takes the image at 128 pixels, and of it the linear interpolation of the four nearest
    pixels without antialiasing, as INRCT and Functa do."""
    held_out: Literal["tenth", "last"] = "tenth"
    """What is `val` without folders of splits: every tenth image, or the last tenth (INRCT: 27,000 and 3,000)."""

    def __post_init__(self) -> None:
        _image_decoding.check_resolution(self.resolution)


def scan(source: Path, config: Config) -> DatasetIndex:
    """The images by split.

    Raises:
        MissingError: there are no images.
        UsageError: `classes` is set, and an image is in neither folder.
    """
    entries = _archives.listing(source)
    selected = _select_folder(_archives.images(entries))
    if not selected:
        raise source_not_found("celeba-hq", source, "images", [(entry.name, entry.size) for entry in entries])
    root = _archives.common_root(selected)
    inside = sorted((entry._replace(name=entry.name[len(root) :]) for entry in selected), key=_order)
    has_splits = any({"train", "val", "test"} & set(entry.name.split("/")[:-1]) for entry in selected)
    splits: dict[str, list[Item]] = {"train": [], "val": []}
    for number, entry in enumerate(inside, start=1):
        folders = set(f"{root}{entry.name}".split("/")[:-1])
        is_val = bool({"val", "test"} & folders) if has_splits else _is_held_out(number, len(inside), config)
        label = _label(entry, folders) if config.classes else -1
        splits["val" if is_val else "train"].append(_image_decoding.item(entry, label))
    sources = [(entry.name, entry.size) for entry in inside]
    return _image_decoding.plan(splits, config.resolution, classes=CLASSES if config.classes else (), sources=sources)


def read(item: Item, config: Config) -> Example:
    """One image."""
    if config.reduction == "adm":
        return _image_decoding.example(item, config.resolution)
    image = _image_decoding.example(item, image_io.BILINEAR_FROM)
    return replace(image, values=image_io.interpolate(image.values, config.resolution))


def _is_held_out(number: int, count: int, config: Config) -> bool:
    """Whether the image of a number, from 1, is in `val`."""
    if config.held_out == "last":
        return number > count - count // HELD_OUT_EVERY
    return number % HELD_OUT_EVERY == 0


def _select_folder(image_files: Sequence[Entry]) -> list[Entry]:
    for folder in PREFERRED:
        inside_folder = [entry for entry in image_files if folder in entry.name]
        if inside_folder:
            return inside_folder
    return list(image_files)


def _order(entry: Entry) -> tuple[str, int, str]:
    """By folder, then by the number in the name, so that 2 comes before 10."""
    folder, _, name = entry.name.rpartition("/")
    match = re.match(r"\D*(\d+)", name)
    return folder, int(match[1]) if match else -1, name


def _label(entry: Entry, folders: set[str]) -> int:
    for number, name in enumerate(CLASSES):
        if name in folders:
            return number
    raise UsageError(
        f"classes are requested, and `{entry.name}` is in neither of the folders {', '.join(CLASSES)}",
        hint="leave `--classes` out, or sort the images into such folders",
    )
