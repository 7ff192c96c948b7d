"""Structures as PDB and mmCIF text: chain A, residues numbered from 1, and only atoms with known positions."""

from __future__ import annotations

import hashlib
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from inrflow_core.errors import UsageError
from inrflow_core.proteins import residues
from inrflow_core.proteins.structure import Structure
from inrflow_core.storage.plain_file import read_plain_file

LARGEST = 1 << 29
"""Most bytes of a file that is compared with new samples, twice what `structure_reader` reads."""
PDB_WIDTH, CIF_WIDTH = 69, 118
"""Most letters in a line of the origin."""
PDB_DIGEST, CIF_DIGEST = "REMARK   3 digest:", "# digest:"
"""Beginnings of the line with the digest of all others."""
WIDEST, MOST_RESIDUES, MOST_ATOMS = 999.0, 9_999, 99_999
"""Limits of the columns of a PDB file: Angstrom, residues, atoms."""


def pdb_text(structures: Sequence[Structure], origin: Mapping[str, str]) -> str:
    """A PDB file of structures with one sequence: several become its models; the origin is in REMARK 3.

    Raises:
        UsageError: they differ in their sequence, or are larger than the format's columns.
    """
    _check_one_sequence(structures)
    largest = max(float(np.abs(one.positions).max()) for one in structures)
    codes = structures[0].codes
    if len(codes) > MOST_RESIDUES or len(structures[0].positions) >= MOST_ATOMS or not largest <= WIDEST:
        raise UsageError(
            f"{len(codes):,} residues, {len(structures[0].positions):,} atoms and {largest:,.0f} Angstrom from the "
            "origin are more than a `.pdb` file can hold",
            hint="write a `.cif` file",
        )
    lines = [f"REMARK   3 {line}" for line in _origin_lines(origin, PDB_WIDTH)]
    names = [residues.NAMES[code] for code in codes]
    for number, start in enumerate(range(0, len(names), 13), 1):
        lines.append(f"SEQRES {number:3d} A {len(names):4d}  {' '.join(names[start : start + 13])}")
    for model, one in enumerate(structures, 1):
        atoms = [
            f"ATOM  {serial:5d} {name if len(name) == 4 else ' ' + name:<4} {residue:>3} A{number:4d}    "
            f"{x:8.3f}{y:8.3f}{z:8.3f}  1.00  0.00          {element:>2}"
            for serial, (name, element, residue, number, (x, y, z)) in enumerate(_atoms(one), 1)
        ]
        end = f"TER   {len(atoms) + 1:5d}      {names[-1]:>3} A{len(names):4d}"
        model_lines = [*atoms, end]
        lines += model_lines if len(structures) == 1 else [f"MODEL     {model:4d}", *model_lines, "ENDMDL"]
    count = len(_origin_lines(origin, PDB_WIDTH))
    return _sealed([f"{line:<80}" for line in [*lines, "END"]] + [""], count, PDB_DIGEST, 80)


def cif_text(structures: Sequence[Structure], origin: Mapping[str, str]) -> str:
    """An mmCIF file of structures with one sequence: several become its models; the origin is in comments.

    Raises:
        UsageError: they differ in their sequence.
    """
    _check_one_sequence(structures)
    names = [residues.NAMES[code] for code in structures[0].codes]
    rows = [
        f"ATOM {serial} {element} {name} . {residue} A 1 {number} ? {x:.3f} {y:.3f} {z:.3f} 1.00 0.00 {number} "
        f"{residue} A {name} {model}"
        for serial, (model, (name, element, residue, number, (x, y, z))) in enumerate(
            ((model, atom) for model, one in enumerate(structures, 1) for atom in _atoms(one)), 1
        )
    ]
    letters = structures[0].sequence
    wrapped = "\n".join(letters[start : start + 80] for start in range(0, len(letters), 80))
    blocks = [
        "data_sample",
        *(f"# {line}" for line in _origin_lines(origin, CIF_WIDTH)),
        "#\n_entry.id sample",
        "#\n_entity.id 1\n_entity.type polymer\n_entity.pdbx_description 'generated structure'",
        "#\n_struct_asym.id A\n_struct_asym.entity_id 1",
        "#\n_entity_poly.entity_id 1\n_entity_poly.type polypeptide(L)\n_entity_poly.pdbx_strand_id A",
        f"_entity_poly.pdbx_seq_one_letter_code\n;{wrapped}\n;",
        f"_entity_poly.pdbx_seq_one_letter_code_can\n;{wrapped}\n;",
        _loop("entity_poly_seq", "entity_id num mon_id", (f"1 {n} {name}" for n, name in enumerate(names, 1))),
        _loop("atom_site", ATOM_SITE, rows),
    ]
    text = "\n".join([*blocks, "#", ""])
    return _sealed(text.split("\n"), 1 + len(_origin_lines(origin, CIF_WIDTH)), CIF_DIGEST)


ATOM_SITE = (
    "group_PDB id type_symbol label_atom_id label_alt_id label_comp_id label_asym_id label_entity_id label_seq_id "
    "pdbx_PDB_ins_code Cartn_x Cartn_y Cartn_z occupancy B_iso_or_equiv auth_seq_id auth_comp_id auth_asym_id "
    "auth_atom_id pdbx_PDB_model_num"
)


def has_provenance(path: Path, origin: Mapping[str, str]) -> bool:
    """Whether a file that this module wrote has exactly this origin, and a digest.

    Raises:
        IntegrityError: the file is larger than any that is written.
    """
    text = read_plain_file(path, LARGEST).decode("ascii", "replace")
    digests = [line for line in text.splitlines() if line.startswith((PDB_DIGEST, CIF_DIGEST))]
    if len(digests) != 1:
        return False
    lines = [line.rstrip() for line in text.splitlines() if line not in digests]
    pdb = [f"REMARK   3 {line}".rstrip() for line in _origin_lines(origin, PDB_WIDTH)]
    cif = ["data_sample", *(f"# {line}".rstrip() for line in _origin_lines(origin, CIF_WIDTH)), "#"]
    remarks = [line for line in lines if line.startswith("REMARK   3")]
    return remarks == pdb or lines[: len(cif)] == cif


def is_damaged(path: Path) -> bool:
    """Whether a file that this module wrote does not match the digest in it; one without a digest is of no known
    origin (`has_provenance`).

    Raises:
        IntegrityError: the file is larger than any that is written.
    """
    lines = read_plain_file(path, LARGEST).decode("ascii", "replace").split("\n")
    digests = [index for index, line in enumerate(lines) if line.startswith((PDB_DIGEST, CIF_DIGEST))]
    if not digests:
        return False
    recorded = lines.pop(digests[0]).partition("digest:")[2].strip()
    return recorded != _digest(lines)


def _sealed(lines: list[str], index: int, prefix: str, width: int = 0) -> str:
    """The text of lines, with their digest as line `index`."""
    return "\n".join([*lines[:index], f"{prefix} {_digest(lines)}".ljust(width), *lines[index:]])


def _digest(lines: Sequence[str]) -> str:
    """Half of the sha256 of lines, which fits into one line of a PDB file."""
    return hashlib.sha256("\n".join(lines).encode("utf-8")).hexdigest()[:32]


def _loop(category: str, items: str, rows: Any) -> str:
    return "\n".join(["#", "loop_", *(f"_{category}.{item}" for item in items.split()), *rows])


def _atoms(structure: Structure) -> Iterator[tuple[str, str, str, int, list[float]]]:
    """Name, element, residue, residue number (from 1) and position of each known atom."""
    residue, index = residues.atom_layout(structure.codes)
    codes = structure.codes[residue]
    positions = structure.positions.astype(np.float64).tolist()
    for row in np.flatnonzero(structure.is_known).tolist():
        code, at = codes[row], index[row]
        number = int(residue[row]) + 1
        yield residues.ATOMS[code][at], residues.ELEMENTS[code][at], residues.NAMES[code], number, positions[row]


def _origin_lines(origin: Mapping[str, str], width: int) -> list[str]:
    """The origin as lines of printable ASCII, wrapped at `width`."""
    lines = []
    for key, value in origin.items():
        text = f"{key}: {' '.join(value.split())}".encode("ascii", "replace").decode()
        lines += [text[start : start + width] for start in range(0, len(text), width)]
    return lines


def _check_one_sequence(structures: Sequence[Structure]) -> None:
    assert structures, "at least one structure"
    if len({one.sequence for one in structures}) > 1:
        raise UsageError("the structures differ in their sequence", hint="write each sequence to a file of its own")
