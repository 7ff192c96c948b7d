"""AFHQ, first and second version: animal faces in class folders.

Source: Choi et al. 2020 (StarGAN v2). The held-out part is called `test` in one version and `val` in the other.
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from inrflow_core.datasets import _archives, _image_decoding
from inrflow_core.datasets._contract import DatasetIndex, Example, Item, source_not_found

DOMAIN = "image"
NEEDS_SOURCE = True
IS_READ_BY_SCAN = False
DESCRIPTION = "`{train,test,val}/{cat,dog,wild}/*` in a folder or a zip, or `{cat,dog,wild}/*` -> RGB, 3 classes"
ANIMALS = ("cat", "dog", "wild")


@dataclass(frozen=True)
class Config:
    """How images become examples."""

    resolution: int = 256
    """Rows and columns."""
    animals: tuple[str, ...] = ANIMALS
    """The classes to read, numbered in this order."""

    def __post_init__(self) -> None:
        _image_decoding.check_resolution(self.resolution)
        if not self.animals or not set(self.animals) <= set(ANIMALS) or len(set(self.animals)) < len(self.animals):
            raise ValueError(f"`animals` is {list(self.animals)}: some of {', '.join(ANIMALS)}, each once")


def scan(source: Path, config: Config) -> DatasetIndex:
    """The images by split and animal.

    Raises:
        MissingError: there are no folders of animals.
    """
    entries = _archives.listing(source)
    splits: dict[str, list[Item]] = {"train": [], "val": []}
    sources = []
    for entry in _archives.images(entries):
        folders = entry.name.split("/")[:-1]
        animal = next((folder for folder in reversed(folders) if folder in config.animals), None)
        if animal is None:
            continue
        split = "val" if {"test", "val"} & set(folders) else "train"
        name = f"{split}/{animal}/{entry.name.rpartition('/')[2]}"
        splits[split].append(_image_decoding.item(entry._replace(name=name), config.animals.index(animal)))
        sources.append((name, entry.size))
    if not sources:
        raise source_not_found(
            "afhq", source, f"folders {', '.join(config.animals)}", [(entry.name, entry.size) for entry in entries]
        )
    return _image_decoding.plan(splits, config.resolution, classes=config.animals, sources=sources)


def read(item: Item, config: Config) -> Example:
    """One image."""
    return _image_decoding.example(item, config.resolution)
