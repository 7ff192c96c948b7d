"""Proteins that are exported: every heavy atom under its name, from shards, from samples and from structure files."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from inrflow_cli.app import run
from inrflow_core.datasets import swissprot
from inrflow_core.errors import UsageError
from inrflow_core.preparation import pipeline
from inrflow_core.preparation.job import resolve_job
from inrflow_core.proteins import structure_reader
from inrflow_core.proteins.structure import Structure
from inrflow_core.sample_files import item_selection, writer
from inrflow_core.shards.batch import ALL, ConditionSelection
from inrflow_core.shards.shard_dataset import ShardDataset
from tests import protein_files

pytest.importorskip("biotite")

SEQUENCES = {"a": "GAGWM", "b": "GAGWM", "c": "RHKDE"}


@pytest.fixture(scope="module")
def shards(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("proteins")
    (folder / "raw").mkdir()
    for seed, (name, sequence) in enumerate(SEQUENCES.items()):
        lines = protein_files.pdb_lines(protein_files.structure(sequence, seed=seed))
        (folder / "raw" / f"{name}.pdb").write_bytes(protein_files.pdb(lines))
    config = swissprot.Config(embedder="one-hot", test=0, val=0)
    pipeline.prepare(resolve_job("swissprot", folder / "raw", folder / "shards", config), workers=1)
    return folder / "shards"


def centered(name: str) -> Structure:
    number = list(SEQUENCES).index(name)
    one = protein_files.structure(SEQUENCES[name], seed=number)
    return Structure(name, one.codes, one.positions - one.positions.mean(0), one.is_known, one.numbers)


def assert_is(path: Path, *names: str) -> None:
    for result, name in zip(structure_reader.read_models(path), names, strict=True):
        assert result.sequence == SEQUENCES[name]
        np.testing.assert_allclose(result.positions, centered(name).positions, atol=2e-3)


@pytest.mark.parametrize("suffix", ["pdb", "cif"])
def test_proteins_of_several_sequences_become_numbered_structures(suffix: str, shards: Path, tmp_path: Path) -> None:
    assert run(["export", str(shards), str(tmp_path / f"out.{suffix}")]) == 0
    assert sorted(path.name for path in tmp_path.iterdir()) == [f"out-{number:03d}.{suffix}" for number in range(3)]
    for number, name in enumerate(SEQUENCES):
        assert_is(tmp_path / f"out-{number:03d}.{suffix}", name)
        assert f"name: {name}" in (tmp_path / f"out-{number:03d}.{suffix}").read_text()


def test_proteins_of_one_sequence_are_the_models_of_one_file(shards: Path, tmp_path: Path) -> None:
    assert run(["export", str(shards), str(tmp_path / "out.cif"), "--items", "0-1"]) == 0
    assert_is(tmp_path / "out.cif", "a", "b")
    assert run(["export", str(tmp_path / "out.cif"), str(tmp_path / "again.pdb")]) == 0
    assert_is(tmp_path / "again.pdb", "a", "b")
    assert run(["export", str(tmp_path / "out.cif"), str(tmp_path / "second.pdb"), "--items", "1"]) == 0
    assert_is(tmp_path / "second.pdb", "b")


def test_proteins_are_drawn_as_the_trace_of_their_chain(shards: Path, tmp_path: Path) -> None:
    assert run(["export", str(shards), str(tmp_path / "out.png"), "--size", "64"]) == 0
    writer.write(tmp_path / "traces.png", [centered(name) for name in SEQUENCES], "protein", origin={}, size=64)
    result, expected = (np.asarray(Image.open(tmp_path / name)) for name in ("out.png", "traces.png"))
    np.testing.assert_array_equal(result, expected)


def test_proteins_are_read_without_their_embeddings(shards: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    read, names = ShardDataset.read, []

    def noted(self, *words, conditions: ConditionSelection = ALL, **options):
        names.append(conditions.names)
        return read(self, *words, conditions=conditions, **options)

    monkeypatch.setattr(ShardDataset, "read", noted)
    assert item_selection.read(shards).total == 3
    assert names == [(), ("residues", "is_known")]


def test_files_that_hold_no_proteins_and_raw_units_are_refused(shards: Path, tmp_path: Path) -> None:
    for name in ("out.npz", "out.ply", "out.glb"):
        assert run(["export", str(shards), str(tmp_path / name)]) == 2
    with pytest.raises(UsageError, match="do not record their source units"):
        item_selection.read(shards, is_raw=True)
    assert not list(tmp_path.iterdir())


def test_chains_that_are_not_written_are_noted(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    lines = [protein_files.pdb_lines(protein_files.structure("GAG"), chain=chain) for chain in "AB"]
    (tmp_path / "a.pdb").write_bytes(protein_files.pdb(sum(lines, [])))
    assert run(["export", str(tmp_path / "a.pdb"), str(tmp_path / "b.cif")]) == 0
    assert "has several chains: the first is written" in capsys.readouterr().err.replace("\n", " ")


def test_no_structure_replaces_another(shards: Path, tmp_path: Path) -> None:
    (tmp_path / "out-001.pdb").write_text("mine")
    assert run(["export", str(shards), str(tmp_path / "out.pdb")]) == 2
    assert [path.name for path in tmp_path.iterdir()] == ["out-001.pdb"]
    assert run(["export", str(shards), str(tmp_path / "out.pdb"), "--overwrite"]) == 0
    assert_is(tmp_path / "out-001.pdb", "b")
