"""LSUN Church: outdoor churches, as the LMDB of the download or as folders exported from it.

The keys of the LMDB are names, its values encoded images (JPEG or WebP, by content). Exported folders may be nested
to any depth; images below a folder with `val` in its name are held out. Where a folder holds several categories,
only those with `church` in the path are read.
"""

from __future__ import annotations

import functools
import re
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NamedTuple

from inrflow_core.datasets import _archives, _image_decoding
from inrflow_core.datasets._contract import DatasetIndex, Example, Item, source_not_found
from inrflow_core.errors import IntegrityError, MissingError, UnreadableItemError
from inrflow_core.storage.source_files import list_files

DOMAIN = "image"
NEEDS_SOURCE = True
IS_READ_BY_SCAN = False
DESCRIPTION = (
    "`church_outdoor_{train,val}_lmdb/data.mdb` (with the extra `lmdb`), or folders exported from it, at any depth "
    "-> RGB"
)
DATABASE = "data.mdb"
VAL = re.compile(r"(^|[^a-z])val", re.IGNORECASE)


@dataclass(frozen=True)
class Config:
    """How images become examples."""

    resolution: int = 256
    """Rows and columns."""

    def __post_init__(self) -> None:
        _image_decoding.check_resolution(self.resolution)


class Record(NamedTuple):
    """A value of an LMDB."""

    folder: str
    key: bytes

    def read(self) -> bytes:
        """The bytes.

        Raises:
            UnreadableItemError: the key is gone, or its page is damaged.
        """
        import lmdb

        try:
            with _environment(self.folder).begin(buffers=False) as transaction:
                content = transaction.get(self.key)
        except lmdb.Error as error:
            raise UnreadableItemError("its page of the database is damaged") from error
        if content is None:
            raise UnreadableItemError("the database has no such key")
        return content


def scan(source: Path, config: Config) -> DatasetIndex:
    """The images of `train` and `val`.

    Raises:
        MissingError: there are no images and no database, or the package `lmdb` is not installed.
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
        keys = list(_keys(folder))
        splits[split] += [Item(f"{split}/{key.decode(errors='replace')}", -1, Record(folder, key)) for key in keys]
        sources += [(f"{split}/{key.decode(errors='replace')}", 0) for key in keys] + [(f"{split}.mdb", sizes[name])]
    if not any(splits.values()):
        raise source_not_found("lsun-church", source, f"images inside `{databases[0]}`")
    return _image_decoding.plan(splits, config.resolution, sources=sources)


def _churches(names: list[str]) -> list[str]:
    churches = [name for name in names if "church" in name.lower()]
    return churches or names


def _is_val(name: str) -> bool:
    return any(VAL.search(folder) for folder in name.split("/")[:-1])


def _keys(folder: str) -> Iterator[bytes]:
    environment = _environment(folder)
    import lmdb

    try:
        with environment.begin() as transaction:
            yield from transaction.cursor().iternext(keys=True, values=False)
    except lmdb.Error as error:
        raise IntegrityError(
            f"`{folder}` is not a complete database: {error}", hint="copy or download it again"
        ) from error


@functools.cache
def _environment(folder: str) -> Any:
    """A database, opened once in each process."""
    try:
        import lmdb
    except ImportError as error:
        raise MissingError(
            f"`{folder}` is an LMDB, and the package `lmdb` is not installed",
            hint="`pip install 'inrflow[lmdb]'`, or export the images into folders first",
        ) from error
    try:
        return lmdb.open(folder, readonly=True, lock=False, readahead=False, max_readers=1)
    except lmdb.Error as error:
        raise IntegrityError(
            f"`{folder}` is not a complete database: {error}", hint="copy or download it again"
        ) from error
