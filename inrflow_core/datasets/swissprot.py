"""Proteins: AlphaFold-DB's Swiss-Prot as its tars, and any folder of PDB, mmCIF and BinaryCIF files.

Only the headers of a tar's members are read, once; a worker then reads a member in place, and nothing is unpacked. The
split is the paper's: random proteins for training and for the test (10,000 and 512, INRFlow A.3 and G). Each protein
has a number that depends only on its name and the seed, not on other files; the smallest numbers are the test.
"""

from __future__ import annotations

import hashlib
import re
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Literal, NamedTuple

import numpy as np

from inrflow_core import registry
from inrflow_core.datasets import _archives, _stored_features
from inrflow_core.datasets._contract import DatasetIndex, Example, Item, source_not_found
from inrflow_core.errors import MissingError, UnreadableItemError
from inrflow_core.proteins import residues, structure_reader
from inrflow_core.proteins.structure import Structure
from inrflow_core.proteins.structure_reader import LONGEST_BOND
from inrflow_core.storage.source_files import fingerprint, list_files

DOMAIN = "protein"
NEEDS_SOURCE = True
IS_READ_BY_SCAN = False
DESCRIPTION = (
    "swissprot_{pdb,cif}_v4.tar (AlphaFold DB, not unpacked), or any folder of .pdb, .cif and .bcif, with or without "
    ".gz -> heavy atoms of one chain each with its residues, 10,000 train and 512 test by seed"
)
AFDB = re.compile(r"(AF-[A-Z0-9]+-F\d+)-model_v(\d+)")
"""Names of AlphaFold DB: protein and fragment, version of the model."""
FORMATS = (".bcif", ".cif", ".mmcif", ".pdb", ".ent")
"""Formats in the order of preference if a structure has several; a file without `.gz` is preferred."""
PACKED = (".tar.gz", ".tgz", ".tar.bz2", ".tar.xz")
GUESS = 2048
"""Estimated atoms of a chain, to size shards: about 8 for each residue."""
LONGEST_STEP = 4.5
"""Largest distance in Angstrom of neighboring C-alpha atoms; it is 3.8 in a chain."""


@dataclass(frozen=True)
class Config:
    """Which proteins, how many, and the features of their sequences."""

    train: int = 10_000
    """Number of training proteins, at random; fewer if the source has fewer."""
    test: int = 512
    """Proteins for the test; at most a tenth of all."""
    seed: int = 0
    """Seed of the split."""
    chain: str | None = None
    """The chain read from each file; None takes the first one of amino acids."""
    shortest: int | None = None
    """Smallest number of residues."""
    longest: int | None = None
    """Largest number of residues."""
    plddt: float | None = None
    """Least mean pLDDT, 0 to 100. None by default: experimental files have temperature factors in its place."""
    missing: float = 0.0
    """Largest share of a chain's heavy atoms that may be absent; they are stored as unknown."""
    dedup: bool = False
    """Read one structure of each sequence."""
    embedder: str = "esm2"
    """The network that encodes the residues; `one-hot` is a placeholder without weights."""
    features: Literal["stored", "online"] = "stored"
    """`stored` writes the tokens into the shards; `online` computes them in training."""
    weights: str | None = field(default=None, metadata={"is_path": True})
    """Folder of the embedder's weights. Default: `weights/NAME`."""

    def __post_init__(self) -> None:
        for name, least in (("train", 1), ("test", 0)):
            if getattr(self, name) < least:
                raise ValueError(f"`{name}` is {getattr(self, name)}: at least {least}")
        if not 0 <= self.missing < 1:
            raise ValueError(f"`missing` is {self.missing}: from 0 to below 1")
        if self.plddt is not None and not 0 <= self.plddt <= 100:
            raise ValueError(f"`plddt` is {self.plddt}: from 0 to 100")
        if (self.shortest or 0) > (self.longest or float("inf")):
            raise ValueError(f"`shortest` is {self.shortest}: at most `longest`, {self.longest}")
        _stored_features.check(self.embedder, "sequence", "`esm2` and `one-hot`")

    @property
    def filters(self) -> bool:
        """Whether files must be read to select the proteins."""
        return self.dedup or (self.shortest, self.longest, self.plddt) != (None, None, None)


class Rank(NamedTuple):
    """The preference for a file of a protein; the largest is read."""

    version: int
    format: int
    is_plain: bool
    name: str


def scan(source: Path, config: Config) -> DatasetIndex:
    """Every protein of the source, split by its number.

    Only names are read, unless `shortest`, `longest`, `plddt` or `dedup` need the content: then proteins are read by
    increasing number until there are enough (about 20 ms each), and those that a filter rejects are skipped.

    Raises:
        MissingError: there is none, or the embedder's weights are missing, which is checked before any file is read.
        IntegrityError: a tar or the weights are damaged.
    """
    normalization = {"kind": "centred", "unit": "Angstrom", **_stored_features.origin(config, "one-hot")}
    entries = _entries(source)
    ranked: dict[str, tuple[Rank, _archives.Entry]] = {}
    for entry in entries:
        if structure_reader.is_structure(entry.name):
            key, rank = _identity(entry.name)
            ranked[key] = max(ranked.get(key, (rank, entry)), (rank, entry), key=lambda pair: pair[0])
    packed = [entry.name for entry in entries if entry.name.lower().endswith(PACKED)]
    if not ranked and packed:
        raise MissingError(
            f"`{source}` holds structures only in compressed tars, such as `{packed[0]}`",
            hint="unpack them first: `gunzip` makes a .tar of each, whose members are read in place",
        )
    if not ranked:
        raise source_not_found(
            "swissprot", source, "a .tar, .pdb, .cif or .bcif files (also .gz)", [(e.name, e.size) for e in entries]
        )
    order = sorted(ranked, key=lambda key: _number(config.seed, key))
    items = [Item(_name(ranked[key][1].name), -1, ranked[key][1]) for key in order]
    few = min(config.test, len(items) // 10)
    limit = few + config.train
    selected = list(_passing(items, config, limit)) if config.filters else items[:limit]
    few = min(few, len(selected) // 10) if len(selected) < limit else few
    splits = {"train": selected[few:], "test": selected[:few]}
    return DatasetIndex(
        {name: sorted(split, key=lambda item: item.name) for name, split in splits.items() if split},
        shape=(GUESS, 3),
        dtype="float32",
        fingerprint=fingerprint((entry.name, entry.size) for entry in entries),
        normalization=normalization,
        is_ragged=True,
        condition_bytes=_condition_bytes(config),
    )


def read(item: Item, config: Config) -> Example:
    """The atoms of one chain, centered on the mean of those that are known.

    Raises:
        UnreadableItemError: the file cannot be read, a filter rejects it, its chain has a gap, or too many atoms are
            absent.
    """
    structure = _structure(item, config)
    reason = _refused(structure, config) or fault(structure, config.missing)
    if reason:
        raise UnreadableItemError(reason)
    known = structure.is_known[:, None]
    center = structure.positions[structure.is_known].astype(np.float64).mean(0)
    values = np.where(known, structure.positions - center, 0).astype(np.float32)
    ragged = {"residues": structure.codes, "is_known": structure.is_known.astype(np.uint8)}
    if config.features == "stored" and not registry.find("feature_networks", config.embedder).IS_PLACEHOLDER:
        [tokens] = _stored_features.embedder(config)([structure.sequence])
        ragged["embedding"] = tokens.astype(np.float16)
    return Example(values, name=item.name, variable_length=ragged)


def fault(structure: Structure, missing: float = 0.0) -> str | None:
    """Why a chain cannot be used; None if it can.

    A gap is where two residues that follow one another are not bonded: by the distance from C to N, else that of the
    C-alphas, else by their numbers.
    """
    absent = 1 - float(structure.is_known.mean())
    if absent > missing:
        count = int((~structure.is_known).sum())
        return f"{count:,} of its {len(structure.is_known):,} heavy atoms are absent"
    starts = np.cumsum(sizes := residues.SIZES[structure.codes]) - sizes
    far = np.full(len(starts) - 1, False)
    decided = far.copy()
    for one, other, most in ((2, 0, LONGEST_BOND), (1, 1, LONGEST_STEP)):
        first, second = starts[:-1] + one, starts[1:] + other
        apart = np.linalg.norm(structure.positions[first] - structure.positions[second], axis=1)
        both = structure.is_known[first] & structure.is_known[second] & ~decided
        far |= both & (apart > most)
        decided |= both
    far |= ~decided & (np.diff(structure.numbers) != 1)
    if far.any():
        gap = int(np.argmax(far))
        return f"its chain has a gap between residues {structure.numbers[gap]} and {structure.numbers[gap + 1]}"
    return None


def _entries(source: Path) -> list[_archives.Entry]:
    """Every file of a source and of the archives in it; of several archives, each member below its archive's name."""
    if not source.is_dir():
        return _archives.listing(source)
    files = list_files(source)
    archives = [name for name, _ in files if name.lower().endswith(_archives.ARCHIVES)]
    entries = [
        _archives.Entry(name, size, _archives.Blob(str(source / name))) for name, size in files if name not in archives
    ]
    for name in archives:
        above = f"{Path(name).with_suffix('')}/" if len(archives) > 1 else ""
        entries += [entry._replace(name=above + entry.name) for entry in _archives.listing(source / name)]
    return entries


def _identity(name: str) -> tuple[str, Rank]:
    """The key of a protein, and the rank of one file of it.

    Files of AlphaFold DB by accession and fragment, in any folder; others by their path without the suffix.
    """
    stem = structure_reader.structure_name(name)
    suffix = name[len(stem) :].lower()
    match = AFDB.fullmatch(stem.rpartition("/")[2])
    kind = -FORMATS.index(suffix.removesuffix(".gz"))
    rank = Rank(int(match[2]) if match else 0, kind, not suffix.endswith(".gz"), name)
    return (match[1] if match else stem), rank


def _name(file: str) -> str:
    """The name of an item: for AlphaFold DB the entry and version, else the path without the suffix."""
    stem = structure_reader.structure_name(file)
    own = stem.rpartition("/")[2]
    return own if AFDB.fullmatch(own) else stem


def _number(seed: int, key: str) -> bytes:
    return hashlib.sha256(f"swissprot {seed} {key}".encode(errors="surrogateescape")).digest()


def _passing(items: Sequence[Item], config: Config, limit: int) -> Iterator[Item]:
    """Items that pass the filters, until there are enough; also unreadable ones, so that `read` reports them."""
    seen: set[str] = set()
    count = 0
    for item in items:
        if count == limit:
            return
        try:
            structure = _structure(item, config)
        except UnreadableItemError:
            yield item
            continue
        if _refused(structure, config) or (config.dedup and structure.sequence in seen):
            continue
        seen.add(structure.sequence)
        count += 1
        yield item


def _refused(structure: Structure, config: Config) -> str | None:
    """The reason of the filter that rejects a structure; None if it passes."""
    length = len(structure.codes)
    if length < (config.shortest or 0) or length > (config.longest or length):
        return f"it has {length:,} residues"
    if config.plddt is not None and structure.plddt is None:
        return "it has no pLDDT"
    if config.plddt is not None and structure.plddt is not None and structure.plddt < config.plddt:
        return f"its mean pLDDT is {structure.plddt:.1f}"
    return None


def _structure(item: Item, config: Config) -> Structure:
    entry: _archives.Entry = item.location
    return structure_reader.parse(entry.location.read(), entry.name, config.chain)


def _condition_bytes(config: Config) -> int:
    """Bytes of the residues, marks and embeddings of a chain of `GUESS` atoms."""
    is_stored = config.features == "stored" and not registry.find("feature_networks", config.embedder).IS_PLACEHOLDER
    width = _stored_features.embedder(config).width if is_stored else 0
    return GUESS + GUESS // 8 * (1 + 2 * width)
