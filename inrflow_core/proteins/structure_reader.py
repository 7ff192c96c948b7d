"""Read protein structures from PDB, mmCIF and BinaryCIF files, by Biotite.

The first model of a file is read, or every model, and one chain of it: the first of amino acids, or the one named.
Of alternate locations in a residue, the letter with the highest occupancy is read. A modified residue is read as its
parent in the component dictionary, by the atoms that both have; a file is rejected if that is none of the 20. Hydrogens,
OXT, caps, ligands and water are left out. Residues without positions (SEQRES alone) are left out too: such a chain has
a gap.
"""

from __future__ import annotations

import gzip
import io
import struct
import warnings
import zlib
from collections.abc import Iterator, Mapping
from functools import cache
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from inrflow_core.errors import IntegrityError, MissingError, UnreadableItemError, UsageError
from inrflow_core.proteins import residues
from inrflow_core.proteins.structure import Structure

KINDS = {".pdb": "pdb", ".ent": "pdb", ".cif": "cif", ".mmcif": "cif", ".bcif": "bcif"}
"""Suffixes that are read, before a `.gz`."""
LARGEST = 1 << 28
"""Most bytes of an unpacked file, some 3 million atoms; reading needs a multiple of it in memory."""
LONGEST_BOND = 2.0
"""Largest distance in Angstrom between C and the next N of a bond; it is 1.33 in a peptide."""
MISSING_VALUES = ("", ".", "?", " ")
SELENIUM_SUBSTITUTES = {"MET": "SD", "CYS": "SG"}
"""The sulfur atom that SE of a modified residue replaces."""
UNREADABLE = (
    ArithmeticError, AssertionError, AttributeError, EOFError, LookupError, MemoryError, OSError, RuntimeError,
    TypeError, ValueError, struct.error, zlib.error,
)  # fmt: skip
"""Exceptions that the parsers raise on broken content, besides Biotite's own."""
ATOM_INDEX = [{name: index for index, name in enumerate(atoms)} for atoms in residues.ATOMS]


class Group(NamedTuple):
    """Atoms that follow one another in a file and have the same chain and residue number."""

    chain: str
    number: int
    name: str
    is_hetero: bool
    rows: np.ndarray
    """Rows of the table of atoms."""
    atom_rows: Mapping[str, int]
    """Row of each atom by its name."""


def is_structure(file: str) -> bool:
    """Whether a file's name has the suffix of a structure."""
    return _kind(file) is not None


def structure_name(file: str) -> str:
    """A file's name without the suffixes of its format and compression."""
    bare = file[:-3] if file.lower().endswith(".gz") else file
    return bare[: -len(Path(bare).suffix)] if _kind(file) else file


def read(path: Path, chain: str | None = None) -> Structure:
    """One chain of the first model of a file, named after it.

    Raises:
        MissingError: there is no such file.
        UsageError: its name has none of the suffixes of `KINDS`.
        IntegrityError: it is damaged or of another format, has no such chain, or a residue that is none of the 20.
    """
    [first] = _read(path, chain, is_first_alone=True)
    return first


def read_models(path: Path, chain: str | None = None) -> list[Structure]:
    """One chain of every model of a file, in their order; raises as `read` does."""
    return _read(path, chain, is_first_alone=False)


def parse(content: bytes, file: str, chain: str | None = None) -> Structure:
    """One chain of the first model of a file's content; the format is that of its name.

    Raises:
        UnreadableItemError: as the IntegrityError of `read`.
    """
    [first] = _parsed(content, file, chain, is_first_alone=True)
    return first


def parse_models(content: bytes, file: str, chain: str | None = None) -> list[Structure]:
    """One chain of every model of a file's content, in their order; raises as `parse` does."""
    return _parsed(content, file, chain, is_first_alone=False)


def _kind(file: str) -> str | None:
    return KINDS.get(Path(file.lower().removesuffix(".gz")).suffix)


def _unpacked(content: bytes, file: str) -> bytes:
    text = content
    if file.lower().endswith(".gz"):
        with gzip.GzipFile(fileobj=io.BytesIO(content)) as packed:
            text = packed.read(LARGEST + 1)
    if len(text) > LARGEST:
        raise UnreadableItemError(
            f"it is larger than {LARGEST >> 20} MiB" + ("" if text is content else " when unpacked")
        )
    return text


def _read(path: Path, chain: str | None, *, is_first_alone: bool) -> list[Structure]:
    if _kind(path.name) is None:
        allowed = ", ".join(f"`{suffix}`" for suffix in KINDS)
        raise UsageError(
            f"`{path}` is not a structure file by its name", hint=f"allowed are {allowed}, each with or without `.gz`"
        )
    if not path.is_file():
        raise MissingError(f"`{path}` does not exist", hint="name a file of a protein structure")
    try:
        return _parsed(path.read_bytes(), path.name, chain, is_first_alone=is_first_alone)
    except UnreadableItemError as bad:
        raise IntegrityError(f"`{path}` cannot be read: {bad.reason}", hint="copy it again, or leave it out") from bad


def _parsed(content: bytes, file: str, chain: str | None, *, is_first_alone: bool) -> list[Structure]:
    try:
        with warnings.catch_warnings(action="ignore"):  # Biotite's, of columns that it does not need
            tables, is_experimental = _tables(_unpacked(content, file), _kind(file) or "pdb", is_first_alone)
    except _unreadable() as error:
        raise UnreadableItemError(
            f"it cannot be read as a {Path(structure_name(file)).name and file[len(structure_name(file)) :]} file"
        ) from error
    return [_structure(atoms, Path(structure_name(file)).name, chain, is_experimental) for atoms in tables]


def _structure(atoms: Any, name: str, chain: str | None, is_experimental: bool) -> Structure:
    """One chain of a table of atoms."""
    groups = list(_groups(atoms))
    selected = _select_chain([group for group in groups if _is_amino_acid(group)], groups, atoms.coord, chain)
    codes = np.array([_code(group) for group in selected], dtype=np.uint8)
    residue, _ = residues.atom_layout(codes)
    starts = np.searchsorted(residue, np.arange(len(selected)))
    rows = np.full(len(residue), -1)
    for start, code, group in zip(starts.tolist(), codes.tolist(), selected, strict=True):
        for atom, row in group.atom_rows.items():
            parent = SELENIUM_SUBSTITUTES.get(residues.NAMES[code], atom) if atom == "SE" else atom
            if parent in ATOM_INDEX[code]:
                rows[start + ATOM_INDEX[code][parent]] = row
    is_known = rows >= 0
    positions = np.where(is_known[:, None], atoms.coord[rows], 0).astype(np.float32)
    if not np.isfinite(positions).all():
        raise UnreadableItemError("it has positions that are not finite numbers")
    numbers = np.array([group.number for group in selected], dtype=np.int64)
    factors = atoms.b_factor[rows[starts + 1][is_known[starts + 1]]]
    plddt = None if is_experimental else _confidence(factors)
    return Structure(name, codes, positions, is_known, numbers, plddt)


def _unreadable() -> tuple[type[Exception], ...]:
    """All exceptions that the parsers raise on broken content."""
    from biotite import DeserializationError, InvalidFileError
    from biotite.structure import BadStructureError

    return (*UNREADABLE, DeserializationError, InvalidFileError, BadStructureError)


def _tables(content: bytes, kind: str, is_first_alone: bool) -> tuple[list[Any], bool]:
    """Biotite's atoms of the first or of every model, with all alternate locations; whether the file is experimental."""
    from biotite.structure.io import pdb, pdbx

    options: Any = {"altloc": "all", "extra_fields": ["occupancy", "b_factor"]}
    if kind == "pdb":
        text = content.decode("utf-8", "replace")
        file = pdb.PDBFile.read(io.StringIO(text))
        methods = [line for line in text.splitlines() if line.startswith("EXPDTA") and "THEORETICAL" not in line]
        count = 1 if is_first_alone else file.get_model_count()
        return [file.get_structure(model=model, **options) for model in range(1, count + 1)], bool(methods)
    if kind == "cif":
        blocks: Any = pdbx.CIFFile.read(io.StringIO(content.decode("utf-8", "replace")))
    else:
        blocks = pdbx.BinaryCIFFile.read(io.BytesIO(content))
    [block, *_] = [block for block in blocks.values() if "atom_site" in block]
    methods = block["exptl"]["method"].as_array(str).tolist() if "exptl" in block else []
    is_experimental = any(method not in MISSING_VALUES and "THEORETICAL" not in method.upper() for method in methods)
    count = 1 if is_first_alone else pdbx.get_model_count(block)
    tables = [pdbx.get_structure(block, model=model, include_bonds=False, **options) for model in range(1, count + 1)]
    return tables, is_experimental


def _groups(atoms: Any) -> Iterator[Group]:
    """The residues of a table of atoms, with one location for each atom."""
    keys = (atoms.chain_id, atoms.res_id, atoms.ins_code)
    changes = np.any([key[1:] != key[:-1] for key in keys], axis=0)
    bounds = [0, *(np.flatnonzero(changes) + 1).tolist(), len(atoms)]
    has_letter = ~np.isin(atoms.altloc_id, MISSING_VALUES)
    for first, last in zip(bounds, bounds[1:], strict=False):
        rows = np.arange(first, last)
        if has_letter[first:last].any():
            rows = rows[_best(atoms.altloc_id[rows], atoms.occupancy[rows])]
        rows = rows[atoms.res_name[rows] == atoms.res_name[rows[0]]]
        names = atoms.atom_name[rows].tolist()
        atom_rows = dict(zip(reversed(names), reversed(rows.tolist()), strict=True))  # the first atom of a name counts
        one = rows[0]
        yield Group(
            str(atoms.chain_id[one]), int(atoms.res_id[one]), str(atoms.res_name[one]), bool(atoms.hetero[one]),
            rows, atom_rows,
        )  # fmt: skip


def _best(letters: np.ndarray, occupancy: np.ndarray) -> np.ndarray:
    """Which atoms of a residue to keep: those without a letter, and those of the letter with the highest occupancy."""
    totals = {
        letter: float(occupancy[letters == letter].sum())
        for letter in sorted(set(letters.tolist()) - {*MISSING_VALUES})
    }
    best = max(totals, key=lambda letter: totals[letter])  # of equals the first
    return (letters == best) | np.isin(letters, MISSING_VALUES)


def _is_amino_acid(group: Group) -> bool:
    """Whether a residue is one of the 20, or has an amino acid's backbone."""
    return group.name in residues.NAMES or {"N", "CA", "C"} <= group.atom_rows.keys()


def _select_chain(
    candidates: list[Group], groups: list[Group], positions: np.ndarray, chain: str | None
) -> list[Group]:
    """The residues of the requested chain.

    A residue in HETATM lines is part of a chain if it is bonded to a neighbor in the file; else it is a ligand.
    """
    after = {group.rows[0]: following for group, following in zip(groups, groups[1:], strict=False)}
    before = {group.rows[0]: preceding for preceding, group in zip(groups, groups[1:], strict=False)}
    selected = [
        group
        for group in candidates
        if not group.is_hetero
        or _are_bonded(before.get(group.rows[0]), group, positions)
        or _are_bonded(group, after.get(group.rows[0]), positions)
    ]
    chains = list(dict.fromkeys(group.chain for group in selected))
    if not chains:
        raise UnreadableItemError("it has no chain of amino acids")
    requested = chains[0] if chain is None else chain
    if requested not in chains:
        raise UnreadableItemError(
            f"it has no chain `{requested}` of amino acids; it has {', '.join(f'`{one}`' for one in chains)}"
        )
    return [group for group in selected if group.chain == requested]


def _are_bonded(one: Group | None, other: Group | None, positions: np.ndarray) -> bool:
    """Whether C of a residue is bonded to N of the next."""
    if one is None or other is None or "C" not in one.atom_rows or "N" not in other.atom_rows:
        return False
    return float(np.linalg.norm(positions[one.atom_rows["C"]] - positions[other.atom_rows["N"]])) < LONGEST_BOND


def _code(group: Group) -> int:
    name = group.name if group.name in residues.NAMES else _parent(group.name)
    if name is None:
        raise UnreadableItemError(f"residue {group.number} is `{group.name}`, which is none of the 20 amino acids")
    return residues.NAMES.index(name)


@cache
def _parent(name: str) -> str | None:
    """The parent of a modified amino acid in the component dictionary; None if it is none of the 20.

    The first call in a process loads the dictionary: one to four seconds.
    """
    from biotite.structure import info

    columns = [info.get_from_ccd("chem_comp", name, item) for item in ("type", "mon_nstd_parent_comp_id")]
    kind, parent = ("" if column is None else str(column.as_array(str)[0]) for column in columns)
    return parent if parent in residues.NAMES and not kind.upper().startswith("D-") else None


def _confidence(factors: np.ndarray) -> float | None:
    """Mean of B factors as pLDDT from 0 to 100, scaled if they are from 0 to 1; None if they cannot be pLDDT."""
    if (
        not len(factors)
        or not np.isfinite(factors).all()
        or factors.min() < 0
        or factors.max() > 100
        or factors.max() == 0
    ):
        return None
    return float(factors.mean() * (100 if factors.max() <= 1 else 1))
