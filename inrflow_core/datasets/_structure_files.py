"""The files of protein structures in a source and its archives, and which of several files of one protein is read."""

from __future__ import annotations

import re
from collections.abc import Sequence
from pathlib import Path
from typing import NamedTuple

from inrflow_core.datasets import _archives
from inrflow_core.proteins import structure_reader
from inrflow_core.storage.source_files import list_files

AFDB = re.compile(r"(AF-[A-Z0-9]+)((?:-[0-9]+)?(?:-F[0-9]+)?)-model_v([0-9]+)")
"""Names of AlphaFold DB: protein; isoform and fragment; version of the model."""
FORMATS = (".bcif", ".cif", ".mmcif", ".pdb", ".ent")
"""Formats in the order of preference if a structure has several; a file without `.gz` is preferred."""
PACKED = (".tar.gz", ".tgz", ".tar.bz2", ".tar.xz")
UNREAD = re.compile(
    r"\.(mmtf|pdbqt|pqr|gro|fcz|xyz|mol2|sdf)(\.gz)?$|\.(pdb|ent|cif|mmcif|bcif)\.(bz2|xz|zst|zip|z)$"
    r"|\.(tgz|tar\.(gz|bz2|xz|zst))$",
    re.IGNORECASE,
)
"""Names of other formats of structures, and of other packings of these."""


class Rank(NamedTuple):
    """The preference for a file of a protein; the largest is read."""

    version: int
    format: int
    is_plain: bool
    name: str


class Protein(NamedTuple):
    """One structure, and the file that is read."""

    name: str
    """Its own name, which decides the split: AlphaFold DB's accession, else the name of the file. No folder is in it."""
    item: str
    """The name of its example: for AlphaFold DB the entry and version, else the path without the suffix."""
    file: _archives.Entry


def entries(source: Path) -> list[_archives.Entry]:
    """Every file of a source and of the archives in it; of several archives, each member below its archive's name."""
    if not source.is_dir():
        return _archives.listing(source)
    files = list_files(source)
    archives = [name for name, _ in files if name.lower().endswith(_archives.ARCHIVES)]
    found = [
        _archives.Entry(name, size, _archives.Blob(str(source / name))) for name, size in files if name not in archives
    ]
    for name in archives:
        above = f"{Path(name).with_suffix('')}/" if len(archives) > 1 else ""
        found += [entry._replace(name=above + entry.name) for entry in _archives.listing(source / name)]
    return found


def newest(files: Sequence[_archives.Entry]) -> list[Protein]:
    """One file of every structure among some files.

    Files of AlphaFold DB are of one structure by accession, isoform and fragment, in any folder: the newest version is
    read. Others are of one structure if they differ in the suffix alone. Files of one name in two folders are two
    structures; as their own names are equal, they are on the same side of the split.
    """
    ranked: dict[str, tuple[Rank, _archives.Entry]] = {}
    for file in files:
        if structure_reader.is_structure(file.name):
            key, rank = _ranked(file.name)
            ranked[key] = max(ranked.get(key, (rank, file)), (rank, file), key=lambda pair: pair[0])
    return [Protein(*_names(file.name), file) for _, file in ranked.values()]


def notes_on_older(files: Sequence[_archives.Entry], read: Sequence[Protein]) -> tuple[str, ...]:
    """One note on files of structures that `newest` passes over, or none where it reads all."""
    count = sum(structure_reader.is_structure(file.name) for file in files) - len(read)
    if not count:
        return ()
    what = (
        "1 file is an older version or another form"
        if count == 1
        else f"{count:,} files are older versions or other forms"
    )
    return (f"{what} of a structure that is read from another file",)


def unread(files: Sequence[_archives.Entry]) -> list[str]:
    """The names of files that may hold structures and are not read."""
    return [file.name for file in files if UNREAD.search(file.name)]


def _ranked(file: str) -> tuple[str, Rank]:
    """The key of a structure, and the rank of one file of it."""
    stem = structure_reader.structure_name(file)
    suffix = file[len(stem) :].lower()
    match = AFDB.fullmatch(stem.rpartition("/")[2])
    kind = -FORMATS.index(suffix.removesuffix(".gz"))
    rank = Rank(int(match[3]) if match else 0, kind, not suffix.endswith(".gz"), file)
    return (match[1] + match[2] if match else stem), rank


def _names(file: str) -> tuple[str, str]:
    """The own name of a file's protein, and the name of its example.

    Isoforms and fragments share the name of the first fragment, so that one protein is on one side of the split.
    """
    stem = structure_reader.structure_name(file)
    own = stem.rpartition("/")[2]
    match = AFDB.fullmatch(own)
    return (f"{match[1]}-F1", own) if match else (own, stem)
