"""ImageNet (ILSVRC 2012), in any of its common layouts.

Layouts: class folders (`train/<class>/*.JPEG`, `val/<class>/*.JPEG`), the Kaggle tree (`ILSVRC/Data/CLS-LOC/`, a flat
`val` whose classes are in `LOC_val_solution.csv`), the two original tars with the development kit, and the zip of
StyleGAN and EDM (`dataset.json`). The label is the rank of the class folder's name, as is usual; the
numbers of the development kit are mapped to names first. Images are cropped as in ADM
(`image_io.center_crop`).
"""

from __future__ import annotations

import csv
import io
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from inrflow_core.datasets import _archives, _image_decoding, _matlab_synsets
from inrflow_core.datasets._archives import Entry
from inrflow_core.datasets._contract import DatasetIndex, Example, Item, source_not_found
from inrflow_core.datasets._edm_archive import edm_plan
from inrflow_core.errors import IntegrityError, MissingError, UnreadableItemError

DOMAIN = "image"
NEEDS_SOURCE = True
IS_READ_BY_SCAN = False
DESCRIPTION = (
    "class folders `train/<class>`, `val/<class>`; the Kaggle tree; ILSVRC2012_img_{train,val}.tar with the "
    "development kit; an EDM zip -> RGB, ADM's center crop, classes by the rank of their folder"
)
LOOKED_FOR = "`train/<class>/*.JPEG`, `ILSVRC/Data/CLS-LOC`, `ILSVRC2012_img_train.tar`, or a zip with `dataset.json`"
TRAIN_TAR, VAL_TAR = "ILSVRC2012_img_train.tar", "ILSVRC2012_img_val.tar"
CSV, TRUTH, META = "LOC_val_solution.csv", "ILSVRC2012_validation_ground_truth.txt", "meta.mat"
WORDNET = re.compile(r"n\d{8}")


@dataclass(frozen=True)
class Config:
    """How images become examples."""

    resolution: int = 256
    """Rows and columns."""

    def __post_init__(self) -> None:
        _image_decoding.check_resolution(self.resolution)


def scan(source: Path, config: Config) -> DatasetIndex:
    """The images of `train` and `val` with their classes.

    Raises:
        MissingError: the source has none of these layouts, or `val` has no classes.
        IntegrityError: an archive or a table of classes is damaged.
    """
    tars = {path.name: path for path in sorted(source.rglob("ILSVRC2012_img_*.tar"))} if source.is_dir() else {}
    if TRAIN_TAR in tars:
        return _plan_tars(source, tars, config)
    entries = _archives.listing(source)
    edm = edm_plan(entries, config.resolution)
    if edm is not None:
        return edm
    image_files = _archives.images(entries)
    root = _archives.root_of(image_files, "train")
    if root is None:
        train, val = _only_classes(image_files), []
    else:
        inside = _archives.below(image_files, root)
        train, val = (_archives.below(inside, f"{split}/") for split in ("train", "val"))
    if not train or not all("/" in entry.name for entry in train):
        raise source_not_found("imagenet", source, LOOKED_FOR, [(entry.name, entry.size) for entry in entries])
    return _plan(source, train, val, entries, config)


def read(item: Item, config: Config) -> Example:
    """One image."""
    return _image_decoding.example(item, config.resolution)


def _only_classes(image_files: Sequence[Entry]) -> list[Entry]:
    """The images of class folders if `--source` is `train` itself; else none."""
    inside = _archives.below(image_files, _archives.common_root(image_files))
    return inside if all(WORDNET.fullmatch(entry.name.partition("/")[0]) for entry in inside) else []


def _plan_tars(source: Path, tars: Mapping[str, Path], config: Config) -> DatasetIndex:
    train = sorted(_archives.tar_members(tars[TRAIN_TAR], inside=".tar"))
    val = sorted(_archives.tar_members(tars[VAL_TAR])) if VAL_TAR in tars else []
    if not train:
        raise source_not_found("imagenet", source, f"the class tars inside `{TRAIN_TAR}`", [])
    around = [
        Entry(path.name, path.stat().st_size, _archives.Blob(str(path)))
        for path in sorted(source.rglob("*"))
        if path.name in (CSV, TRUTH, META) or path.name.startswith("ILSVRC2012_devkit")
        if path.is_file()
    ]
    return _plan(source, train, val, around, config)


def _plan(source: Path, train: list[Entry], val: list[Entry], around: Sequence[Entry], config: Config) -> DatasetIndex:
    """Classes of `train` by its folders, of `val` by its folders or by a table beside it."""
    folders = {entry: entry.name.partition("/")[0] for entry in train}
    if all("/" in entry.name for entry in val):
        val_classes = {entry: entry.name.partition("/")[0] for entry in val}
    else:
        table = _val_classes(source, around)
        val_classes = {entry: table.get(Path(entry.name).stem, "") for entry in val}
    classes = sorted({*folders.values(), *val_classes.values()})
    if "" in classes:
        nameless = next(entry.name for entry in val if not val_classes[entry])
        raise IntegrityError(f"the table of classes has no entry for `{nameless}`", hint="use the complete table")
    rank = {name: number for number, name in enumerate(classes)}
    splits = {
        split: [
            _image_decoding.item(entry._replace(name=f"{split}/{entry.name}"), rank[name])
            for entry, name in known.items()
        ]
        for split, known in (("train", folders), ("val", val_classes))
    }
    sources = [
        (f"{split}/{entry.name}", entry.size) for split, known in (("train", train), ("val", val)) for entry in known
    ]
    return _image_decoding.plan(splits, config.resolution, classes=classes, sources=sources)


def _val_classes(source: Path, around: Sequence[Entry]) -> dict[str, str]:
    """The class folder's name of each image of a flat `val`."""
    by_name = {Path(entry.name).name: entry for entry in around}
    if CSV in by_name:
        return _from_csv(_content(by_name[CSV]))
    kit = {name: _content(by_name[name]) for name in (TRUTH, META) if name in by_name}
    for name, entry in by_name.items():
        if name.startswith("ILSVRC2012_devkit") and len(kit) < 2:
            kit = _archives.read_members(io.BytesIO(_content(entry)), name, (TRUTH, META))
    if len(kit) < 2:
        raise MissingError(
            f"`{source}` has a flat `val` without classes: looked for `{CSV}` and `ILSVRC2012_devkit_t12.tar.gz`",
            hint="put one of them beside it, or put the images of `val` into class folders",
        )
    return _from_truth(kit[TRUTH], kit[META])


def _content(entry: Entry) -> bytes:
    """The bytes of a table of classes; IntegrityError where it cannot be read."""
    try:
        return entry.location.read()
    except UnreadableItemError as error:
        raise IntegrityError(f"`{entry.name}` cannot be read: {error.reason}", hint="copy it again") from error


def _from_csv(content: bytes) -> dict[str, str]:
    """Image names to class folders, from Kaggle's table."""
    lines = content.decode(errors="replace").splitlines()
    try:
        rows = list(csv.reader(lines))
    except csv.Error as error:
        raise IntegrityError(f"`{CSV}` is damaged: {error}", hint="copy it again") from error
    return {row[0]: row[1].split(" ")[0] for row in rows if len(row) == 2 and row[0] != "ImageId"}


def _from_truth(truth: bytes, meta: bytes) -> dict[str, str]:
    """Image names to class folders, through the development kit's own class numbers."""
    try:
        folders = _matlab_synsets.synset_names(meta)
        numbers = [int(line) for line in truth.split()]
        return {f"ILSVRC2012_val_{position:08d}": folders[number] for position, number in enumerate(numbers, start=1)}
    except (ValueError, KeyError, IntegrityError) as error:
        raise IntegrityError(
            f"the development kit's `{META}` or `{TRUTH}` is damaged: {error}", hint="copy it again"
        ) from error
