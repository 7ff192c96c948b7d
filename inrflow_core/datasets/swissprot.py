"""Proteins: AlphaFold-DB's Swiss-Prot as its tars, and any folder of PDB, mmCIF and BinaryCIF files.

Only the headers of a tar's members are read, once; a worker then reads a member in place, and nothing is unpacked. The
split is the paper's with a validation split: random proteins for training (10,000), for the choice of a checkpoint and
for the test (512 each; INRFlow A.3 and G). Each protein has a number from 0 to 1 that depends only on its own name and
the seed: it belongs to the test below 0.1, to `val` below 0.2, else to training, whatever else the source holds and
wherever in it the protein is.
"""

from __future__ import annotations

import hashlib
import itertools
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Literal, NamedTuple

import numpy as np

from inrflow_core import registry
from inrflow_core.datasets import _archives, _stored_features, _structure_files
from inrflow_core.datasets._contract import (
    DatasetIndex,
    Example,
    Item,
    LeftOutCounter,
    notes_on_unread,
    source_not_found,
)
from inrflow_core.errors import MissingError, UnreadableItemError
from inrflow_core.proteins import residues, structure_reader
from inrflow_core.proteins.structure import Structure
from inrflow_core.proteins.structure_reader import LONGEST_BOND
from inrflow_core.storage.source_files import fingerprint

DOMAIN = "protein"
NEEDS_SOURCE = True
IS_READ_BY_SCAN = False
DESCRIPTION = (
    "swissprot_{pdb,cif}_v4.tar (AlphaFold DB, not unpacked), or any folder of .pdb, .cif and .bcif, with or without "
    ".gz -> heavy atoms of one chain each with its residues, 10,000 train, 512 val and 512 test by seed"
)
SIDE = 0.1
"""Share of all proteins that belong to the test, and to `val`."""
GUESS = 2048
"""Estimated atoms of a chain, to size shards: about 8 for each residue."""
LONGEST_STEP = 4.5
"""Largest distance in Angstrom of neighboring C-alpha atoms; it is 3.8 in a chain."""


@dataclass(frozen=True)
class Config:
    """Which proteins, how many, and the features of their sequences."""

    train: int = 10_000
    """Number of training proteins, at random; fewer if the source has fewer."""
    val: int = 512
    """Proteins to choose a checkpoint by, of the tenth of all that belongs to them; 0 gives that tenth to training."""
    test: int = 512
    """Proteins for the test, of the tenth of all that belongs to it; 0 gives that tenth to training."""
    seed: int = 0
    """Seed of the split."""
    chain: str | None = None
    """The chain read from each file: `first` (the default), `longest`, `all` as an example each, or its name."""
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
        for name, least in (("train", 1), ("val", 0), ("test", 0)):
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
        """Whether files must be read to select the examples."""
        return self.dedup or self.chain == "all" or (self.shortest, self.longest, self.plddt) != (None, None, None)


class Location(NamedTuple):
    """A file of a protein, and the chain of it that is read; None for that of the settings."""

    file: _archives.Entry
    chain: str | None = None


def scan(source: Path, config: Config) -> DatasetIndex:
    """The proteins of each split, sorted by name.

    Only names are read, unless `shortest`, `longest`, `plddt`, `dedup` or all chains need the content: then proteins are
    read by increasing number until there are enough (about 20 ms each), and those that a filter rejects are counted.

    Raises:
        MissingError: there is none, or the embedder's weights are missing, which is checked before any file is read.
        IntegrityError: a tar or the weights are damaged.
    """
    normalization = {"kind": "centred", "unit": "Angstrom", **_stored_features.origin(config, "one-hot")}
    entries = _structure_files.entries(source)
    proteins = _structure_files.newest(entries)
    packed = [entry.name for entry in entries if entry.name.lower().endswith(_structure_files.PACKED)]
    if not proteins and packed:
        raise MissingError(
            f"`{source}` holds structures only in compressed tars, such as `{packed[0]}`",
            hint="unpack them first: `gunzip` makes a .tar of each, whose members are read in place",
        )
    if not proteins:
        raise source_not_found(
            "swissprot", source, "a .tar, .pdb, .cif or .bcif files (also .gz)", [(e.name, e.size) for e in entries]
        )
    left_out = LeftOutCounter()
    passing = _Filter(config, left_out)
    splits = {
        split: sorted(itertools.islice(passing(items) if config.filters else items, count), key=lambda item: item.name)
        for (split, items), count in zip(
            _by_side(proteins, config).items(), (config.test, config.val, config.train), strict=True
        )
    }
    return DatasetIndex(
        {split: splits[split] for split in ("train", "val", "test") if splits[split]},
        shape=(GUESS, 3),
        dtype="float32",
        fingerprint=fingerprint((protein.file.name, protein.file.size) for protein in proteins),
        normalization=normalization,
        is_ragged=True,
        condition_bytes=_condition_bytes(config),
        left_out=left_out.counts,
        notes=_notes(config, left_out, _structure_files.unread(entries))
        + _structure_files.notes_on_older(entries, proteins),
    )


def read(item: Item, config: Config) -> Example:
    """The atoms of one chain, centered on the mean of those that are known.

    Raises:
        UnreadableItemError: the file cannot be read, a filter rejects it, its chain has a gap, or too many atoms are
            absent.
    """
    structure = _structure(item, config)
    rejected = _rejection(structure, config)
    reason = rejected[1] if rejected else fault(structure, config.missing)
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


def _by_side(proteins: Sequence[_structure_files.Protein], config: Config) -> dict[str, list[Item]]:
    """The items of `test`, `val` and `train` by increasing number; proteins of one name are on one side."""
    numbered = sorted((_number(config.seed, protein.name), protein.file.name, protein) for protein in proteins)
    sides: dict[str, list[Item]] = {"test": [], "val": [], "train": []}
    for number, _, protein in numbered:
        side = ("test", "val", "train")[min(int(number / SIDE), 2)]
        if side != "train" and not getattr(config, side):
            side = "train"
        sides[side].append(Item(protein.item, -1, Location(protein.file)))
    return sides


def _number(seed: int, name: str) -> float:
    """A number from 0 to 1, uniform over names."""
    digest = hashlib.sha256(f"swissprot {seed} {name}".encode(errors="surrogateescape")).digest()
    return int.from_bytes(digest[:8], "big") / 2**64


class _Filter:
    """The examples that pass the filters; unreadable files are kept, so that `read` reports them."""

    def __init__(self, config: Config, left_out: LeftOutCounter) -> None:
        self.config, self.left_out = config, left_out
        self.seen: set[str] = set()

    def __call__(self, items: Sequence[Item]) -> Iterator[Item]:
        for item in itertools.chain.from_iterable(map(self._chains, items)):
            try:
                structure = _structure(item, self.config)
            except UnreadableItemError:
                yield item
                continue
            rejected = _rejection(structure, self.config)
            if rejected is None and self.config.dedup and structure.sequence in self.seen:
                rejected = "`dedup`", "it has the sequence of another"
            if rejected is not None:
                self.left_out.add(rejected[0], item.name)
                continue
            self.seen.add(structure.sequence)
            yield item

    def _chains(self, item: Item) -> list[Item]:
        """An item for each chain of a file, where all are read."""
        if self.config.chain != "all":
            return [item]
        file = item.location.file
        try:
            names = structure_reader.chain_names(file.location.read(), file.name)
        except UnreadableItemError:
            return [item]
        return [Item(f"{item.name}_{name}", -1, Location(file, name)) for name in names]


def _rejection(structure: Structure, config: Config) -> tuple[str, str] | None:
    """The filter that rejects a structure and why; None if it passes."""
    length, plddt = len(structure.codes), structure.plddt
    if config.shortest is not None and length < config.shortest:
        return f"`shortest={config.shortest}`", f"it has {length:,} residues"
    if config.longest is not None and length > config.longest:
        return f"`longest={config.longest}`", f"it has {length:,} residues"
    if config.plddt is not None and plddt is None:
        return f"`plddt={config.plddt:g}`, without a pLDDT", "it has no pLDDT"
    if config.plddt is not None and plddt is not None and plddt < config.plddt:
        return f"`plddt={config.plddt:g}`", f"its mean pLDDT is {plddt:.1f}"
    return None


def _notes(config: Config, left_out: LeftOutCounter, unread: Sequence[str]) -> tuple[str, ...]:
    """What a user should know: files that are not read, and a setting without effect."""
    notes = [*notes_on_unread(unread)]
    if config.plddt is not None and 0 < config.plddt <= 1 and f"`plddt={config.plddt:g}`" not in left_out.counts:
        percent = f"`--set plddt={100 * config.plddt:g}`"
        notes.append(f"`plddt={config.plddt:g}` leaves out nothing: pLDDT is from 0 to 100 ({percent})")
    return tuple(notes)


def _structure(item: Item, config: Config) -> Structure:
    location: Location = item.location
    file = location.file
    chain = config.chain if location.chain is None else location.chain  # a PDB file may have a chain without a name
    return structure_reader.parse(file.location.read(), file.name, chain)


def _condition_bytes(config: Config) -> int:
    """Bytes of the residues, marks and embeddings of a chain of `GUESS` atoms."""
    is_stored = config.features == "stored" and not registry.find("feature_networks", config.embedder).IS_PLACEHOLDER
    width = _stored_features.embedder(config).width if is_stored else 0
    return GUESS + GUESS // 8 * (1 + 2 * width)
