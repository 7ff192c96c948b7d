"""mmCIF: structures of one sequence of any length, several as the models of one file; the origin is in comments.

The file has one entity with the sequence. Positions are written as given, not superposed.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path

from inrflow_core.proteins import structure_writer
from inrflow_core.proteins.structure import Structure
from inrflow_core.storage import atomic_write

SUFFIXES = (".cif",)
HOLDS_MANY = True
HOLDS_MODELS = True


def write(path: Path, structures: Sequence[Structure], *, origin: Mapping[str, str]) -> None:
    """One model of each structure.

    Raises:
        UsageError: the sequences differ.
    """
    text = structure_writer.cif_text(structures, origin)
    with atomic_write.atomic_write(path) as beside:
        beside.write_text(text, encoding="ascii")
