"""LSUN Church: outdoor churches, as the LMDB of the download or as folders exported from it.

The keys of the LMDB are names, its values encoded images (JPEG or WebP, by content). Exported folders may be nested
to any depth; images below a folder with `val` in its name are held out. Where a folder holds several categories,
only those with `church` in the path are read.
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from inrflow_core.datasets import _archives, _image_decoding, _lmdb_pages
from inrflow_core.datasets._contract import DatasetIndex, Example, Item, source_not_found
from inrflow_core.storage.source_files import list_files

DOMAIN = "image"
NEEDS_SOURCE = True
IS_READ_BY_SCAN = False
DESCRIPTION = "`church_outdoor_{train,val}_lmdb/data.mdb`, or folders exported from it, at any depth -> RGB"
DATABASE = "data.mdb"
VAL = re.compile(r"(^|[^a-z])val", re.IGNORECASE)


@dataclass(frozen=True)
class Config:
    """How images become examples."""

    resolution: int = 256
    """Rows and columns."""

    def __post_init__(self) -> None:
        _image_decoding.check_resolution(self.resolution)


def scan(source: Path, config: Config) -> DatasetIndex:
    """The images of `train` and `val`.

    Raises:
        MissingError: there are no images and no database.
        IntegrityError: the database is damaged.
    """
    files = list_files(source) if source.is_dir() else []
    databases = _churches([name for name, _ in files if name.rpartition("/")[2] == DATABASE])
    if databases:
        return _plan_lmdb(source, databases, dict(files), config)
    entries = _archives.listing(source)
    churches = set(_churches([entry.name for entry in _archives.images(entries)]))
    image_files = [entry for entry in entries if entry.name in churches]
    if not image_files:
        raise source_not_found(
            "lsun-church", source, f"`{DATABASE}` or exported images", [(entry.name, entry.size) for entry in entries]
        )
    splits: dict[str, list[Item]] = {"train": [], "val": []}
    for entry in image_files:
        splits["val" if _is_val(entry.name) else "train"].append(_image_decoding.item(entry))
    return _image_decoding.plan(splits, config.resolution, sources=[(entry.name, entry.size) for entry in image_files])


def read(item: Item, config: Config) -> Example:
    """One image."""
    return _image_decoding.example(item, config.resolution)


def _plan_lmdb(source: Path, databases: Sequence[str], sizes: dict[str, int], config: Config) -> DatasetIndex:
    splits: dict[str, list[Item]] = {"train": [], "val": []}
    sources = []
    for name in databases:
        folder = str((source / name).parent)
        split = "val" if _is_val(name) or VAL.search(Path(folder).name) else "train"
        names = [
            (f"{split}/{key.decode(errors='replace')}", record) for key, record in _lmdb_pages.records(source / name)
        ]
        splits[split] += [Item(key, -1, record) for key, record in names]
        sources += [(key, 0) for key, _ in names] + [(f"{split}.mdb", sizes[name])]
    if not any(splits.values()):
        raise source_not_found("lsun-church", source, f"images inside `{databases[0]}`")
    return _image_decoding.plan(splits, config.resolution, sources=sources)


def _churches(names: list[str]) -> list[str]:
    churches = [name for name in names if "church" in name.lower()]
    return churches or names


def _is_val(name: str) -> bool:
    return any(VAL.search(folder) for folder in name.split("/")[:-1])
