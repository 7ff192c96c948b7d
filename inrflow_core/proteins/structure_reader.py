"""Read protein structures from PDB, mmCIF and BinaryCIF files.

The first model of a file is read, or every model, and one chain of it: the first of amino acids, the longest, or the one
named. Of alternate locations in a residue, the letter with the highest occupancy is read. A force field's name (HSD,
HIE, CYX ...) is read as the residue that its atoms are, another modified residue as its parent in the component
dictionary, by the atoms that both have; a file is rejected if that is none of the 20. Residues of one number are never
merged: mmCIF's own number tells them apart, else the file is rejected, as it is for a residue that is there twice.
Hydrogens, OXT, caps, ligands and water are left out. Residues without positions (SEQRES alone) are left out too: such a
chain has a gap.
"""

from __future__ import annotations

import gzip
import io
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from functools import cache
from pathlib import Path
from typing import NamedTuple

import numpy as np

from inrflow_core.errors import IntegrityError, MissingError, UnreadableItemError, UsageError
from inrflow_core.proteins import atom_tables, residues
from inrflow_core.proteins.atom_tables import MISSING_VALUES, AtomTable
from inrflow_core.proteins.structure import Structure
from inrflow_core.storage import plain_file

KINDS = {".pdb": "pdb", ".ent": "pdb", ".cif": "cif", ".mmcif": "cif", ".bcif": "bcif"}
"""Suffixes that are read, before a `.gz`."""
LARGEST = 1 << 28
"""Most bytes of an unpacked file, some 3 million atoms; reading needs a multiple of it in memory."""
LONGEST_BOND = 2.0
"""Largest distance in Angstrom between C and the next N of a bond; it is 1.33 in a peptide."""
SELENIUM_SUBSTITUTES = {"MET": "SD", "CYS": "SG"}
"""The sulfur atom that SE of a modified residue replaces."""
FORCE_FIELD_NAMES = {
    "ARG": "ARN ARGN",
    "ASP": "ASH ASPH ASPP",
    "CYS": "CYX CYM CYSH CYS1 CYS2",
    "GLU": "GLH GLUH GLUP",
    "HIS": "HSD HSE HSP HID HIE HIP HISA HISB HISD HISE HISH HISP HIS1 HIS2",
    "LYS": "LYN LYSH LSN",
    "TYR": "TYM",
}
"""Names that force fields give to protonation states, bridges and charges of the 20. Some are those of other components
of the dictionary too (HSE is homoserine there): the atoms decide."""
FORCE_FIELD_PARENTS = {name: parent for parent, names in FORCE_FIELD_NAMES.items() for name in names.split()}
FORCE_FIELD_ATOMS = {("ILE", "CD"): "CD1"} | {
    (name, atom): "O" for name in residues.NAMES for atom in ("OT1", "OC1", "O1")
}
"""Atoms that force fields name otherwise, by their residue."""
TERMINAL_OXYGENS = ("OXT", "OT2", "OC2", "O2")
ATOM_INDEX = [{name: index for index, name in enumerate(atoms)} for atoms in residues.ATOMS]


class Group(NamedTuple):
    """A residue: atoms that follow one another in a file and have the same chain and residue number."""

    chain: str
    strand: str
    identity: tuple[int, int, str]
    """The author's number, mmCIF's own, and the insertion code."""
    name: str
    is_hetero: bool
    row: int
    """Of its first atom."""
    atom_rows: Mapping[str, int]
    """Row of each atom by its name."""
    fault: str | None
    """Why it cannot be one residue; None if it can."""

    @property
    def number(self) -> int:
        """The author's number."""
        return self.identity[0]


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


def chain_names(content: bytes, file: str) -> list[str]:
    """The names of the chains of amino acids in the first model of a file's content; raises as `parse` does."""
    [table] = _tables(content, file, is_first_alone=True)[0]
    return list(_amino_acids(list(_groups(table)), table.positions))


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
        return _parsed(_content(path), path.name, chain, is_first_alone=is_first_alone)
    except UnreadableItemError as bad:
        raise IntegrityError(f"`{path}` cannot be read: {bad.reason}", hint="copy it again, or leave it out") from bad


def _content(path: Path) -> bytes:
    hint = f"give a file of at most {LARGEST >> 20} MiB, or leave it out"
    return plain_file.read_plain_file(path, LARGEST, hint=hint)


def _parsed(content: bytes, file: str, chain: str | None, *, is_first_alone: bool) -> list[Structure]:
    tables, is_experimental = _tables(content, file, is_first_alone=is_first_alone)
    return [_structure(atoms, Path(structure_name(file)).name, chain, is_experimental) for atoms in tables]


def _tables(content: bytes, file: str, *, is_first_alone: bool) -> tuple[list[AtomTable], bool]:
    broken = f"it cannot be read as a {file[len(structure_name(file)) :]} file"
    try:
        unpacked = _unpacked(content, file)
    except atom_tables.unreadable() as error:
        raise UnreadableItemError(f"{broken}: {'its gzip is damaged' if content else 'it is empty'}") from error
    if not unpacked.strip():
        raise UnreadableItemError(f"{broken}: it is empty")
    try:
        return atom_tables.read_tables(unpacked, _kind(file) or "pdb", is_first_alone=is_first_alone)
    except UnreadableItemError as bad:
        raise UnreadableItemError(f"{broken}: {bad.reason}") from bad
    except atom_tables.unreadable() as error:
        raise UnreadableItemError(broken) from error


def _structure(atoms: AtomTable, name: str, chain: str | None, is_experimental: bool) -> Structure:
    """One chain of a table of atoms."""
    chains = _amino_acids(list(_groups(atoms)), atoms.positions)
    selected = _select_chain(chains, chain)
    codes = np.array([_code(group) for group in selected], dtype=np.uint8)
    _check_residues(selected)
    residue, _ = residues.atom_layout(codes)
    starts = np.searchsorted(residue, np.arange(len(selected)))
    rows = np.full(len(residue), -1)
    for start, code, group in zip(starts.tolist(), codes.tolist(), selected, strict=True):
        for atom, row in group.atom_rows.items():
            standard = _standard_atom(residues.NAMES[code], atom)
            if standard in ATOM_INDEX[code] and (atom == standard or standard not in group.atom_rows):
                rows[start + ATOM_INDEX[code][standard]] = row
    is_known = rows >= 0
    if not is_known.any():
        raise UnreadableItemError("none of its atoms has a name that the dictionary has for its residue, such as `CA`")
    positions = np.where(is_known[:, None], atoms.positions[rows], 0).astype(np.float32)
    if not np.isfinite(positions).all():
        raise UnreadableItemError("it has positions that are not finite numbers")
    numbers = np.array([group.number for group in selected], dtype=np.int64)
    factors = atoms.factor[rows[starts + 1][is_known[starts + 1]]]
    plddt = None if is_experimental else _confidence(factors)
    return Structure(name, codes, positions, is_known, numbers, plddt, len(chains) - 1)


def _standard_atom(residue: str, atom: str) -> str:
    """The name of an atom in the component dictionary."""
    if atom == "SE":
        return SELENIUM_SUBSTITUTES.get(residue, atom)
    return FORCE_FIELD_ATOMS.get((residue, atom), atom)


def _check_residues(chain: Sequence[Group]) -> None:
    """Raise UnreadableItemError if a residue of a chain is several, has no number, or is there twice."""
    if fault := next((group.fault for group in chain if group.fault), None):
        raise UnreadableItemError(fault)
    identity, count = Counter(group.identity for group in chain).most_common(1)[0]
    if count > 1:
        raise UnreadableItemError(
            f"residue {identity[0]}{identity[2]} of chain `{chain[0].chain}` is there {count} times"
        )


def _groups(atoms: AtomTable) -> Iterator[Group]:
    """The residues of a table of atoms, with one location for each atom."""
    has_letter = ~np.isin(atoms.letter, MISSING_VALUES)
    for first, last in atom_tables.bounds(atoms):
        rows = np.arange(first, last)
        if has_letter[first:last].any():
            rows = rows[_best(atoms, rows)]
        names = atoms.atom[rows].tolist()
        atom_rows = dict(zip(reversed(names), reversed(rows.tolist()), strict=True))  # the first atom of a name counts
        one = int(rows[0])
        identity = (int(atoms.number[one]), int(atoms.place[one]), str(atoms.insertion[one]))
        yield Group(
            str(atoms.chain[one]), str(atoms.strand[one]), identity, str(atoms.residue[one]), bool(atoms.is_hetero[one]),
            one, atom_rows, _fault(identity[0], atoms.residue[rows].tolist(), names),
        )  # fmt: skip


def _fault(number: int, residue_names: Sequence[str], names: Sequence[str]) -> str | None:
    """Why atoms of one residue number, without their other alternate locations, are not one residue."""
    if number == atom_tables.NO_NUMBER:
        return "its residues have no numbers"
    kinds = list(dict.fromkeys(residue_names))
    if len(kinds) > 1:
        return f"residue {number} is both `{kinds[0]}` and `{kinds[1]}`"
    if len(set(names)) < len(names):
        heavy = ATOM_INDEX[residues.NAMES.index(kinds[0])] if kinds[0] in residues.NAMES else ("N", "CA", "C")
        if twice := next((name for name, count in Counter(names).items() if count > 1 and name in heavy), None):
            return f"residue {number} has {names.count(twice)} atoms `{twice}`, so it is damaged or several residues in one"
    return None


def _best(atoms: AtomTable, rows: np.ndarray) -> np.ndarray:
    """Which atoms of a residue to keep: those of the letter with the highest occupancy, and those without a letter.

    Where an atom is there without a letter too, that is another alternate location of these atoms.
    """
    letters, names, occupancy = atoms.letter[rows], atoms.atom[rows], atoms.occupancy[rows]
    is_plain = np.isin(letters, MISSING_VALUES)
    totals = {letter: float(occupancy[letters == letter].sum()) for letter in sorted({*letters[~is_plain].tolist()})}
    best = max(totals, key=lambda letter: totals[letter])  # of equals the first
    doubled = is_plain & np.isin(names, names[letters == best])
    if (
        doubled.any()
        and occupancy[doubled].sum() >= occupancy[(letters == best) & np.isin(names, names[doubled])].sum()
    ):
        return is_plain | ((letters == best) & ~np.isin(names, names[doubled]))
    return (letters == best) | (is_plain & ~doubled)


def _is_amino_acid(group: Group) -> bool:
    """Whether a residue is one of the 20, or has an amino acid's backbone."""
    return group.name in residues.NAMES or {"N", "CA", "C"} <= group.atom_rows.keys()


def _amino_acids(groups: Sequence[Group], positions: np.ndarray) -> dict[str, list[Group]]:
    """The residues of every chain of amino acids.

    A residue in HETATM lines is part of a chain if it is bonded to a neighbor in the file; else it is a ligand.

    Raises:
        UnreadableItemError: there is none.
    """
    after = {group.row: following for group, following in zip(groups, groups[1:], strict=False)}
    before = {group.row: preceding for preceding, group in zip(groups, groups[1:], strict=False)}
    selected = [
        group
        for group in groups
        if _is_amino_acid(group)
        and (
            not group.is_hetero
            or _are_bonded(before.get(group.row), group, positions)
            or _are_bonded(group, after.get(group.row), positions)
        )
    ]
    if not selected:
        raise UnreadableItemError("it has no chain of amino acids")
    return _chains(selected, positions)


def _select_chain(chains: Mapping[str, list[Group]], chain: str | None) -> list[Group]:
    """The residues of the requested chain."""
    if chain == "longest":
        return max(chains.values(), key=len)  # of equals the first
    requested = next(iter(chains)) if chain in (None, "first") else chain
    if requested not in chains:
        raise UnreadableItemError(
            f"it has no chain `{requested}` of amino acids; it has {', '.join(f'`{one}`' for one in chains)}"
        )
    return chains[requested]


def _chains(groups: Sequence[Group], positions: np.ndarray) -> dict[str, list[Group]]:
    """Residues by chain, in the order of the file: the author's letter, and from the second of a letter on its number.

    Residues of one letter are several chains where mmCIF's own names differ and no peptide bond joins them.
    """
    by_letter: dict[str, list[list[Group]]] = {}
    for group in groups:
        chains = by_letter.setdefault(group.chain, [])
        joined = (one for one in chains if one[-1].strand == group.strand or _are_bonded(one[-1], group, positions))
        if (chain := next(joined, None)) is None:
            chains.append([group])
        else:
            chain.append(group)
    return {
        letter if number == 1 else f"{letter}.{number}": chain
        for letter, chains in by_letter.items()
        for number, chain in enumerate(chains, 1)
    }


def _are_bonded(one: Group | None, other: Group | None, positions: np.ndarray) -> bool:
    """Whether C of a residue is bonded to N of the next."""
    if one is None or other is None or "C" not in one.atom_rows or "N" not in other.atom_rows:
        return False
    return float(np.linalg.norm(positions[one.atom_rows["C"]] - positions[other.atom_rows["N"]])) < LONGEST_BOND


def _code(group: Group) -> int:
    name = group.name
    if name not in residues.NAMES:
        name = _force_field_parent(group) or _parent(name)
    if name is None:
        raise UnreadableItemError(f"residue {group.number} is `{group.name}`, which is none of the 20 amino acids")
    return residues.NAMES.index(name)


def _force_field_parent(group: Group) -> str | None:
    """The amino acid that a force field's name means, if the residue has no heavy atom that it lacks."""
    parent = FORCE_FIELD_PARENTS.get(group.name)
    if parent is None:
        return None
    heavy = [atom for atom in group.atom_rows if atom.lstrip("0123456789")[:1] not in ("H", "D")]
    known = {*ATOM_INDEX[residues.NAMES.index(parent)], *TERMINAL_OXYGENS}
    return parent if all(_standard_atom(parent, atom) in known for atom in heavy) else None


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
