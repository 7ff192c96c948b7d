"""PDB: structures of one sequence, several as the models of one file; the origin is in REMARK lines.

Atoms, residues and their names follow from the sequence; positions have three decimals and are written as given, not
superposed.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path

from inrflow_core.proteins import structure_writer
from inrflow_core.proteins.structure import Structure
from inrflow_core.storage import atomic_write

SUFFIXES = (".pdb",)
HOLDS_MANY = True
HOLDS_MODELS = True


def write(path: Path, structures: Sequence[Structure], *, origin: Mapping[str, str]) -> None:
    """One model of each structure.

    Raises:
        UsageError: the sequences differ, or are longer than the format's columns (9,999 residues).
    """
    text = structure_writer.pdb_text(structures, origin)
    with atomic_write.atomic_write(path) as beside:
        beside.write_text(text, encoding="ascii")
