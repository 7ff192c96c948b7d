"""mmCIF: structures of one sequence of any length, several as the models of one file; the origin stands in comments.

The sequence is written as that of the one entity. The models lie as they are given.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path

from inrflow_core.proteins import structure_writer
from inrflow_core.proteins.structure import Structure
from inrflow_core.storage import atomic_write

SUFFIXES = (".cif",)
HOLDS_MANY = True


def write(path: Path, structures: Sequence[Structure], *, origin: Mapping[str, str]) -> None:
    """One model of each structure.

    Raises:
        UsageError: the sequences differ.
    """
    text = structure_writer.cif_text(structures, origin)
    with atomic_write.atomic_write(path) as beside:
        beside.write_text(text, encoding="ascii")
