"""Samples of proteins as files, through the one call that writes samples."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from inrflow_core.errors import UsageError
from inrflow_core.formats import cif, pdb
from inrflow_core.proteins import structure_reader
from inrflow_core.sample_files import writer
from tests import protein_files

pytest.importorskip("biotite")


@pytest.mark.parametrize("module", [pdb, cif], ids=["pdb", "cif"])
def test_a_file_holds_what_was_written_and_where_it_comes_from(module, tmp_path: Path) -> None:
    path = tmp_path / f"out{module.SUFFIXES[0]}"
    assert writer.exporter_for(path, "protein") is module
    assert writer.files(path, 3) == [path]
    made = [protein_files.structure(seed=seed) for seed in range(3)]
    module.write(path, made, origin={"checkpoint": "abc", "seed": "1 2 3"})
    result = structure_reader.read(path)
    np.testing.assert_array_equal(result.positions, made[0].positions)
    assert result.sequence == made[0].sequence and result.plddt is None
    text = path.read_text()
    assert "checkpoint: abc" in text and "seed: 1 2 3" in text
    assert [other for other in tmp_path.iterdir() if other != path] == []


def test_a_file_that_cannot_be_written_whole_is_not_begun(tmp_path: Path) -> None:
    with pytest.raises(UsageError, match="differ in their sequence"):
        pdb.write(tmp_path / "a.pdb", [protein_files.structure("GA"), protein_files.structure("AG")], origin={})
    assert not list(tmp_path.iterdir())
    with pytest.raises(UsageError, match="no format of the domain `points` writes `.pdb`"):
        writer.exporter_for(tmp_path / "a.pdb", "points")
