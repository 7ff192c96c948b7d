"""Commands on the structures and sequences of the reported cases, where these are beside the checkout."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path

import pytest

from inrflow_cli import console
from inrflow_cli.app import run
from inrflow_core.proteins import structure_reader
from inrflow_core.shards.shard_dataset import ShardDataset
from tests import test_case_files as truth
from tests import tiny

pytestmark = pytest.mark.slow
Case = Callable[[str], Path]
INCOMPLETE = {
    "p_microhet": "gap between residues 4 and 5",
    "zd_models_uneven": "heavy atoms",
    "zn_nonloop": "heavy atoms",
}
"""Structures that are read, and that training skips."""
VERSIONS = {
    "a_versions": ({"AF-P00001-F1-model_v6"}, set()),
    "b_isoform": ({"AF-P00001-2-F1-model_v6", "AF-P00001-F1-model_v6"}, set()),
    "c_new_ids": ({"AF-0000000012345678-model_v2"}, set()),
    "d_tar": ({"AF-P00001-F1-model_v4"}, {"AF-P00002-F1-model_v4", "AF-P00003-F1-model_v4"}),
    "g_model_pdbs": ({"rank_001_model_1", "sub-x"}, set()),
}
"""What folders of case 24 have, and what is skipped there."""
SEQUENCES = {
    "a_plain": ["MKTAYIAKQR", "ACDEF"], "b_lower_star_crlf": ["MKTAYIAKQR"], "c_wrapped": ["MKTAYIAKQR"],
    "d_cr_only": ["MKTAYIAKQR", "ACD"], "e_gz": ["MKTAYIAKQR"], "p_bom8": ["MKTAYIAKQR"], "y_nel": ["MKTAYIAKQR"],
    "h_uniprot": ["MKTAYIAKQR", "ACD"], "za_gt_in_header": ["MKTAYIAKQR"], "zd_space_header": ["MKTAYIAKQR"],
}  # fmt: skip
FASTA_REFUSED = ("j_numbers", "k_star_inside", "l_gap", "m_x", "o_bom16", "u_empty", "w_dna", "x_fastq", "zb_nbsp")


@pytest.fixture(autouse=True)
def _working_folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.chdir(tmp_path)
    console.stderr.cache_clear()
    yield
    console.stderr.cache_clear()


def command(*words: object) -> int:
    return run([str(word) for word in words])


def prepared(source: Path) -> tuple[dict[str, int], dict[str, str]]:
    """The numbers of residues by name, and the reasons of what is skipped."""
    code = command(
        *("prepare", "swissprot", "--source", source, "--workers", 1, "--out", "shards", "--set", "embedder=one-hot")
    )
    shards = ShardDataset("shards")
    lengths = {}
    for split in shards.splits:
        batch = shards.read(split, range(shards.count(split)), with_names=True)
        lengths |= {
            Path(name).name: len(row) for name, row in zip(batch.names, batch.condition["residues"], strict=True)
        }
    skipped = {Path(item.name).name: item.reason for item in shards.manifest.skipped}
    assert code == (6 if skipped else 0)
    return lengths, skipped


@pytest.mark.parametrize("name", truth.STRUCTURES_REFUSED)
def test_prepare_stores_every_structure_or_names_the_reason(case: Case, name: str) -> None:
    lengths, skipped = prepared(case(name))
    stems = {file.name.partition(".")[0] for file in case(name).iterdir()}
    assert set(lengths) | set(skipped) == stems and not set(lengths) & set(skipped)
    assert set(skipped) == set(truth.STRUCTURES_REFUSED[name]) | (stems & set(INCOMPLETE))
    assert all(INCOMPLETE[stem] in skipped[stem] for stem in stems & set(INCOMPLETE))
    for file in case(name).iterdir():
        stem = file.name.partition(".")[0]
        if stem in lengths:
            assert structure_reader.read(file).sequence == truth.SEQUENCES.get(stem, "MKHSWYH"), stem


@pytest.mark.parametrize("name", VERSIONS)
def test_prepare_takes_the_newest_version_of_each_protein(case: Case, name: str) -> None:
    lengths, skipped = prepared(case("24_afdb") / name)
    assert (set(lengths), set(skipped)) == VERSIONS[name]


def scores(samples: Path | str, reference: Path | str) -> dict[str, float]:
    words = ["--samples", samples, "--reference", reference, "--metrics", "lddt,tm-score,rmsd", "--out", "scores"]
    assert command("eval", *words, "--overwrite") == 0
    metrics = json.loads(Path("scores/metrics.json").read_text())
    return {score["metric"].partition(":")[0]: score["value"] for score in metrics["results"][0]["scores"]}


@pytest.mark.parametrize("name", ["same", "hse", "renumbered", "no_ins"])
def test_eval_of_other_names_and_numbers_is_eval_of_the_same_structure(case: Case, name: str) -> None:
    folder = case("36_eval_protein")
    assert scores(folder / name, folder / "ref") == pytest.approx({"lddt": 1, "tm-score": 1, "rmsd": 0}, abs=1e-6)


@pytest.mark.parametrize("name", ["same_number", "all_one"])
def test_eval_refuses_several_residues_of_one_number(case: Case, name: str, capsys: pytest.CaptureFixture[str]) -> None:
    folder = case("36_eval_protein")
    assert command("eval", "--samples", folder / name, "--reference", folder / "ref", "--out", "scores") == 4
    assert "x.pdb` cannot be read: residue" in " ".join(capsys.readouterr().err.split())


@pytest.mark.parametrize("name", ["20_pdb", "21_cif"])
def test_eval_of_every_spelling_of_one_structure_scores_it_as_the_same(case: Case, name: str) -> None:
    moved = {"o_altloc", "zi_tab", *truth.SEQUENCES, *truth.STRUCTURES_REFUSED[name], *INCOMPLETE}
    plain = case(name) / ("a_plain.pdb" if name == "20_pdb" else "a_plain.cif")
    for folder in ("samples", "reference"):
        Path(folder).mkdir()
    for file in sorted(case(name).iterdir()):
        stem = file.name.partition(".")[0]
        if stem not in moved:
            (Path("samples") / file.name.lower()).write_bytes(file.read_bytes())
            (Path("reference") / f"{stem}{plain.suffix}").write_bytes(plain.read_bytes())
    assert len(list(Path("samples").iterdir())) > 30
    assert scores("samples", "reference") == pytest.approx({"lddt": 1, "tm-score": 1, "rmsd": 0}, abs=1e-5)


def test_sample_folds_the_sequences_of_every_fasta_file_or_refuses_it(
    case: Case, capsys: pytest.CaptureFixture[str]
) -> None:
    tiny.run_folder(Path("proteins"), tiny.PROTEIN)
    for file in sorted(case("23_fasta").iterdir()):
        stem = file.name.partition(".")[0]
        if stem in SEQUENCES:
            assert command("sample", "--fasta", file, stem, "--run", "proteins") == 0, stem
            folded = [structure_reader.read(path).sequence for path in Path(stem).iterdir()]
            assert sorted(folded) == sorted(SEQUENCES[stem]), stem
        elif stem in FASTA_REFUSED:
            capsys.readouterr()
            assert command("sample", "--fasta", file, stem, "--run", "proteins") in (2, 4), stem
            said = " ".join(capsys.readouterr().err.split())
            assert file.name in said and "Traceback" not in said, stem
