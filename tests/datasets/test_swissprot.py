"""Proteins: AlphaFold DB's tars and folders of structures, the split by seed, filters, and faults by name."""

from __future__ import annotations

import gzip
import re
import tarfile
from collections import Counter
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from inrflow_core.datasets import _archives, swissprot
from inrflow_core.datasets._contract import Item
from inrflow_core.errors import MissingError, UnreadableItemError
from inrflow_core.feature_networks import _contract
from inrflow_core.preparation import job as preparation_job
from inrflow_core.preparation import pipeline
from inrflow_core.preparation.job import resolve_job
from inrflow_core.proteins import residues, structure_writer
from inrflow_core.proteins.structure import Structure
from inrflow_core.shards import manifest, shard_dataset
from tests import protein_files
from tests.datasets import raw
from tests.feature_networks import test_esm2

pytest.importorskip("biotite")

NAMES = [f"AF-P{number:05d}-F1" for number in range(30)]


def sequence(number: int) -> str:
    return "".join(np.random.default_rng(number).choice(list(residues.LETTERS), 8 + number % 5))


def made(number: int) -> Structure:
    return protein_files.structure(sequence(number), seed=number)


def files(kind: str = "pdb", numbers: range = range(30), version: int = 4) -> dict[str, bytes]:
    """Members as AlphaFold DB names and packs them."""
    members = {}
    for number in numbers:
        if kind == "pdb":
            content = protein_files.pdb(protein_files.pdb_lines(made(number), factor=60 + number))
        else:
            content = structure_writer.cif_text([made(number)], {}).encode()
        members[f"{NAMES[number]}-model_v{version}.{kind}.gz"] = gzip.compress(content)
    return members


def laid(folder: Path, content: Mapping[str, bytes]) -> Path:
    for name, data in content.items():
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        (folder / name).write_bytes(data)
    return folder


def config(**settings: Any) -> swissprot.Config:
    return swissprot.Config(**{"embedder": "one-hot", **settings})


def names(source: Path, **settings: Any) -> dict[str, list[str]]:
    splits = swissprot.scan(source, config(**settings)).splits
    return {split: [item.name.partition("-model")[0] for item in items] for split, items in splits.items()}


def items(source: Path, **settings: Any) -> list[Item]:
    return [item for split in swissprot.scan(source, config(**settings)).splits.values() for item in split]


def test_a_tar_a_folder_of_tars_and_a_folder_of_files_give_the_same(tmp_path: Path) -> None:
    tar = raw.tarred(tmp_path / "swissprot_pdb_v4.tar", files())
    halves = tmp_path / "halves"
    raw.tarred(halves / "a.tar", files(numbers=range(13)))
    raw.tarred(halves / "b.tar", files(numbers=range(13, 30)))
    (halves / "image.png").write_bytes(b"")
    plain = {f"{name[4:6]}/{name}": content for name, content in files().items()}
    loose = laid(tmp_path / "loose", plain | {"README.md": b"x"})
    unpacked = laid(tmp_path / "unpacked", {name[:-3]: gzip.decompress(data) for name, data in files().items()})
    expected = [swissprot.read(item, config()) for item in items(tar)]
    assert len(expected) == 30
    for source in (halves, loose, unpacked):
        examples = [swissprot.read(item, config()) for item in items(source)]
        for one, other in zip(expected, examples, strict=True):
            assert one.name == other.name and re.fullmatch(r"AF-P\d+-F1-model_v4", one.name)
            np.testing.assert_array_equal(one.values, other.values)
            np.testing.assert_array_equal(one.variable_length["residues"], other.variable_length["residues"])


def test_members_of_archives_of_one_name_in_two_folders_are_all_read(tmp_path: Path) -> None:
    text = structure_writer.cif_text([made(0)], {}).encode()
    for folder in ("a", "b"):
        (tmp_path / folder).mkdir()
        raw.tarred(tmp_path / folder / "x.tar", {"p.cif": text})
    assert [item.name for item in items(tmp_path)] == ["a/x/p", "b/x/p"]


def test_an_example_is_the_chain_centered(tmp_path: Path) -> None:
    source = raw.tarred(tmp_path / "a.tar", files())
    for item in items(source):
        example = swissprot.read(item, config())
        own = made(NAMES.index(item.name.partition("-model")[0]))
        assert set(example.variable_length) == {"residues", "is_known"}
        assert example.variable_length["residues"].dtype == example.variable_length["is_known"].dtype == np.uint8
        assert residues.to_letters(example.variable_length["residues"]) == own.sequence
        np.testing.assert_allclose(example.values, own.positions - own.positions.mean(0), atol=2e-3)
        assert np.abs(example.values.mean(0)).max() < 1e-4


def test_formats_of_one_entry_give_the_same_example(tmp_path: Path) -> None:
    pdb, cif = (laid(tmp_path / kind, files(kind)) for kind in ("pdb", "cif"))
    for one, other in zip(items(pdb), items(cif), strict=True):
        first, second = swissprot.read(one, config()), swissprot.read(other, config())
        np.testing.assert_array_equal(first.values, second.values)
        np.testing.assert_array_equal(first.variable_length["residues"], second.variable_length["residues"])


def test_of_versions_and_formats_of_a_protein_one_is_read_and_the_newest(tmp_path: Path) -> None:
    source = tmp_path / "source"
    raw.tarred(source / "old.tar", files("cif", version=3))
    raw.tarred(source / "both.tar", files("pdb", version=4) | files("cif", version=4, numbers=range(10)))
    laid(source, {"more/x.pdb": b"", "more/x.cif.gz": b"", "more/x.cif": b"", "other/x.pdb": b""})
    locations = {item.name: item.location.file.name for item in items(source)}
    assert len(locations) == 32
    kinds = Counter(re.sub(r"^both/AF-P\d+-F1", "", location) for location in locations.values())
    assert kinds == {"-model_v4.cif.gz": 10, "-model_v4.pdb.gz": 20, "more/x.cif": 1, "other/x.pdb": 1}


def many(kind: str, numbers: range) -> dict[str, bytes]:
    """Names of AlphaFold DB without content: a scan without filters reads none."""
    return {f"{kind}{number:04d}-F1-model_v4.cif": b"" for number in numbers}


def test_the_split_depends_on_names_and_seed_alone(tmp_path: Path) -> None:
    whole = names(raw.tarred(tmp_path / "a.tar", many("AF-A", range(1000))))
    assert 70 < len(whole["test"]) < 130 and 70 < len(whole["val"]) < 130
    assert sum(map(len, whole.values())) == 1000 == len(set(sum(whole.values(), [])))
    backwards = dict(reversed(many("AF-A", range(1000)).items()))
    assert names(raw.tarred(tmp_path / "b.tar", backwards)) == whole
    assert names(tmp_path / "a.tar", seed=1)["test"] != whole["test"]
    fewer = names(tmp_path / "a.tar", train=10, val=5, test=2)
    assert [len(fewer[split]) for split in ("train", "val", "test")] == [10, 5, 2]
    assert all(set(fewer[split]) < set(whole[split]) for split in whole)
    without = names(tmp_path / "a.tar", test=0, val=0)
    assert {split: len(of) for split, of in without.items()} == {"train": 1000}


def test_no_protein_changes_its_side_however_the_source_is_named_and_whatever_else_lies_there(tmp_path: Path) -> None:
    one, other = many("AF-A", range(300)), many("AF-B", range(900))
    raw.tarred(tmp_path / "deep/er/a.tar", one)
    alone = names(tmp_path / "deep/er/a.tar")
    raw.tarred(tmp_path / "deep/er/b.tar", other)
    laid(tmp_path / "deep/loose", dict.fromkeys(many("AF-C", range(50)), b""))
    for source in ("deep/er", "deep", ""):
        beside = names(tmp_path / source)
        for split, of in alone.items():
            assert set(of) <= set(beside[split]), f"{split} of {source}"
    plain = {f"{name[4:]}.pdb": b"" for name in one}
    laid(tmp_path / "plain/of/a", plain)
    sides = {Path(name).name: split for split, of in names(tmp_path / "plain/of/a").items() for name in of}
    for source in ("plain", "plain/of"):
        found = {Path(name).name: split for split, of in names(tmp_path / source).items() for name in of}
        assert found == sides


def test_files_of_one_name_in_two_folders_are_two_examples_of_one_side(tmp_path: Path) -> None:
    laid(tmp_path, {f"{folder}/p{number}.pdb": b"" for folder in "abc" for number in range(40)})
    splits = names(tmp_path)
    assert sum(map(len, splits.values())) == 120
    owners = [{name.rpartition("/")[2] for name in of} for of in splits.values()]
    assert len(splits) == 3 and sum(map(len, owners)) == len(set.union(*owners)) == 40


def test_of_isoforms_and_fragments_the_newest_version_is_read_and_one_protein_is_on_one_side(tmp_path: Path) -> None:
    accessions = [f"AF-Q{number:05d}" for number in range(60)]
    suffixes = ("-F1-model_v4", "-F1-model_v6", "-2-F1-model_v4", "-2-F1-model_v6", "-F2-model_v4")
    laid(tmp_path, {f"{of}{suffix}.cif": b"" for of in accessions for suffix in suffixes})
    laid(tmp_path, {f"AF-{number:016d}-model_v{version}.cif": b"" for number in range(9) for version in (1, 2)})
    plan = swissprot.scan(tmp_path, config())
    assert plan.notes == ("129 files are older versions or other forms of a structure that is read from another file",)
    splits = {split: [item.name for item in of] for split, of in plan.splits.items()}
    found = set(sum(splits.values(), []))
    newest = ("-F1-model_v6", "-2-F1-model_v6", "-F2-model_v4")
    assert found == {f"{of}{suffix}" for of in accessions for suffix in newest} | {
        f"AF-{n:016d}-model_v2" for n in range(9)
    }
    owners = [{name.split("-")[1] for name in of} for of in splits.values()]
    assert len(splits) == 3 and sum(map(len, owners)) == len(set.union(*owners)) == 69


def test_another_file_in_the_folder_does_not_make_shards_of_another_job(tmp_path: Path) -> None:
    source = laid(tmp_path / "source", files())
    job = preparation_job.resolve_job("swissprot", source, tmp_path / "out", config())
    pipeline.prepare(job, workers=1)
    laid(source, {"NOTES.txt": b"a line", "AF-P00000-F1-predicted_aligned_error_v4.json": b"[]"})
    assert pipeline.prepare(job, workers=1).num_written == 0


def test_filters_count_and_name_what_they_leave_out(tmp_path: Path) -> None:
    source = raw.tarred(tmp_path / "a.tar", files())
    lengths = {name: len(sequence(number)) for number, name in enumerate(NAMES)}
    filtered = names(source, shortest=9, longest=11)
    assert sorted(sum(filtered.values(), [])) == [name for name in NAMES if 9 <= lengths[name] <= 11]
    left_out = swissprot.scan(source, config(shortest=9, longest=11)).left_out
    assert {setting: left.count for setting, left in left_out.items()} == {"`longest=11`": 6, "`shortest=9`": 6}
    assert {lengths[name.partition("-model")[0]] for name in left_out["`longest=11`"].names} == {12}
    assert sorted(sum(names(source, plddt=75).values(), [])) == NAMES[15:]
    limited = swissprot.scan(source, config(longest=11, train=5, test=2, val=1))
    assert {split: len(of) for split, of in limited.splits.items()} == {"train": 5, "val": 1, "test": 2}
    item = next(item for item in items(source) if lengths[item.name.partition("-model")[0]] == 12)
    with pytest.raises(UnreadableItemError, match="it has 12 residues"):
        swissprot.read(item, config(longest=11))
    dark = laid(tmp_path / "dark", files("cif"))
    [*_, item] = items(dark)
    with pytest.raises(UnreadableItemError, match="it has no pLDDT"):
        swissprot.read(item, config(plddt=50))
    assert list(swissprot.scan(dark, config(plddt=50)).left_out) == ["`plddt=50`, without a pLDDT"]


def test_what_filters_leave_out_is_in_the_report_and_the_manifest(tmp_path: Path) -> None:
    source = raw.tarred(tmp_path / "a.tar", files())
    job = preparation_job.resolve_job("swissprot", source, tmp_path / "out", config(plddt=75))
    for _ in range(2):  # the second finds it all there
        report = pipeline.prepare(job, workers=1)
        assert {setting: left.count for setting, left in report.left_out.items()} == {"`plddt=75`": 15}
    assert manifest.load(tmp_path / "out").left_out["`plddt=75`"].count == 15
    laid(tmp_path / "torn", files() | {"empty.pdb": b""})
    torn = preparation_job.resolve_job("swissprot", tmp_path / "torn", tmp_path / "none", config(plddt=95))
    with pytest.raises(
        MissingError, match="none of the 1 items of .* can be used, and `plddt=95` leaves out 30 others"
    ):
        pipeline.prepare(torn, workers=1)
    none = preparation_job.resolve_job("swissprot", source, tmp_path / "none", config(plddt=95))
    with pytest.raises(MissingError, match="the settings leave out all items of .*: 30 by `plddt=95`"):
        pipeline.prepare(none, workers=1)


def test_structures_in_formats_that_are_not_read_are_named(tmp_path: Path) -> None:
    others = ("a.mmtf", "b.pdb.bz2", "more.tar.gz", "c/d.pdbqt")
    source = laid(tmp_path, files(numbers=range(3)) | dict.fromkeys((*others, "NOTES.txt", "x_pae.json"), b""))
    [note] = swissprot.scan(source, config()).notes
    assert note == "4 files are of formats that are not read: `a.mmtf`, `b.pdb.bz2`, `c/d.pdbqt`, ..."


def test_a_plddt_below_one_says_that_it_leaves_out_nothing(tmp_path: Path) -> None:
    source = raw.tarred(tmp_path / "a.tar", files())
    assert swissprot.scan(source, config(plddt=75)).notes == ()
    [note] = swissprot.scan(source, config(plddt=0.7)).notes
    assert note == "`plddt=0.7` leaves out nothing: pLDDT is from 0 to 100 (`--set plddt=70`)"


def test_dedup_keeps_one_structure_of_each_sequence(tmp_path: Path) -> None:
    again = {name.replace("AF-P", "AF-Q"): content for name, content in files(numbers=range(10)).items()}
    source = raw.tarred(tmp_path / "a.tar", files() | again)
    assert len(items(source)) == 40
    examples = [swissprot.read(item, config()) for item in items(source, dedup=True)]
    sequences = [example.variable_length["residues"].tobytes() for example in examples]
    assert len(examples) == 30 == len(set(sequences))


def test_faults_are_named_and_no_reason_to_stop(tmp_path: Path) -> None:
    faults = {
        "absent.pdb": protein_files.pdb(protein_files.pdb_lines(protein_files.structure("GAG"))[:-1]),
        "empty.pdb": b"",
        "gap.pdb": protein_files.pdb(
            [line for line in protein_files.pdb_lines(protein_files.structure("GAGAG")) if " GLY A   3 " not in line]
        ),
        "strange.pdb": protein_files.pdb(
            [line.replace("ALA", "UNK") for line in protein_files.pdb_lines(protein_files.structure("GAG"))]
        ),
        "torn.cif.gz": gzip.compress(b"data_x")[:-4],
    }
    source = laid(tmp_path / "source", files() | faults)
    job = preparation_job.resolve_job("swissprot", source, tmp_path / "out", config())
    report = pipeline.prepare(job, workers=1)
    assert {bad.name: bad.reason for bad in report.skipped} == {
        "absent": "1 of its 13 heavy atoms are absent",
        "empty": "it cannot be read as a .pdb file: it is empty",
        "gap": "its chain has a gap between residues 2 and 4",
        "strange": "residue 2 is `UNK`, which is none of the 20 amino acids",
        "torn": "it cannot be read as a .cif.gz file: its gzip is damaged",
    }
    assert sum(report.splits.values()) == 30


def test_absent_atoms_may_be_let_pass_and_are_marked(tmp_path: Path) -> None:
    lines = protein_files.pdb_lines(protein_files.structure("GAG"))
    source = laid(tmp_path, {"a.pdb": protein_files.pdb([*lines[:8], *lines[9:]])})
    [item] = items(source)
    with pytest.raises(UnreadableItemError, match="1 of its 13 heavy atoms are absent"):
        swissprot.read(item, config(missing=0.05))
    example = swissprot.read(item, config(missing=0.1))
    assert example.variable_length["is_known"].tolist() == [1] * 8 + [0] + [1] * 4
    assert not example.values[8].any()
    assert np.abs(example.values.mean(0)).max() < 1e-4


def test_a_gap_is_detected_by_distance_and_else_by_number() -> None:
    whole = protein_files.structure("GAGAG")
    assert swissprot.fault(whole) is None
    numbers = np.array([1, 2, 5, 6, 7])
    assert swissprot.fault(Structure("a", whole.codes, whole.positions, whole.is_known, numbers)) is None
    known = whole.is_known.copy()
    known[[2, 6]] = False  # C of the first residue, C of the second
    at = np.where(known[:, None], whole.positions, 0)
    part = Structure("a", whole.codes, at, known, np.array([1, 2, 5, 6, 7]))
    assert swissprot.fault(part, 0.5) is None  # the C-alphas are near
    known[[5, 10]] = False  # C-alpha of the second and third
    part = Structure("a", whole.codes, np.where(known[:, None], whole.positions, 0), known, numbers)
    assert swissprot.fault(part, 0.5) == "its chain has a gap between residues 2 and 5"


def test_the_chain_is_the_first_the_longest_a_named_one_or_each(tmp_path: Path) -> None:
    one, two = (protein_files.pdb_lines(protein_files.structure(text), chain=chain) for text, chain in (("GAG", "A"), ("WWGG", "B")))  # fmt: skip
    source = laid(tmp_path, {"a.pdb": protein_files.pdb([*one, *two]), "bad.pdb": b""})
    choices = {
        None: ["GAG"],
        "first": ["GAG"],
        "A": ["GAG"],
        "B": ["WWGG"],
        "longest": ["WWGG"],
        "all": ["GAG", "WWGG"],
    }
    for chain, sequences in choices.items():
        *found, bad = items(source, chain=chain)
        assert bad.name == "bad"
        assert [item.name for item in found] == (["a_A", "a_B"] if chain == "all" else ["a"])
        examples = [swissprot.read(item, config(chain=chain)) for item in found]
        assert [residues.to_letters(example.variable_length["residues"]) for example in examples] == sequences
        with pytest.raises(UnreadableItemError):
            swissprot.read(bad, config(chain=chain))


def test_a_chain_without_a_name_is_one_of_all(tmp_path: Path) -> None:
    laid(tmp_path, {"a.pdb": protein_files.pdb(protein_files.pdb_lines(protein_files.structure("GAG"), chain=" "))})
    [item] = items(tmp_path, chain="all")
    assert len(swissprot.read(item, config(chain="all")).variable_length["residues"]) == 3


def test_absent_weights_are_reported_before_anything_is_read(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    source = raw.tarred(tmp_path / "a.tar", files())
    monkeypatch.setattr(_archives, "listing", lambda source: pytest.fail("the source is read"))
    monkeypatch.setenv("INRFLOW_WEIGHTS", str(tmp_path / "none"))
    with pytest.raises(MissingError, match="the weights of `esm2` are absent") as caught:
        swissprot.scan(source, swissprot.Config())
    assert "--set embedder=one-hot" in str(caught.value.hint)
    monkeypatch.undo()
    assert swissprot.scan(source, swissprot.Config(features="online")).normalization == {
        "kind": "centred", "unit": "Angstrom",
    }  # fmt: skip


def test_the_error_of_another_source_names_the_expected_files(tmp_path: Path) -> None:
    with pytest.raises(MissingError, match=r"looked for a \.tar, \.pdb, \.cif or \.bcif"):
        swissprot.scan(laid(tmp_path / "a", {"x.txt": b""}), config())
    with pytest.raises(MissingError, match="structures only in compressed tars, such as `x.tar.gz`"):
        swissprot.scan(laid(tmp_path / "b", {"x.tar.gz": b""}), config())


@pytest.mark.parametrize(
    ("settings", "said"),
    [
        ({"train": 0}, "`train` is 0"), ({"missing": 1.0}, "`missing` is 1.0"), ({"plddt": 101}, "`plddt` is 101"),
        ({"embedder": "patches"}, "which reads"), ({"shortest": 9, "longest": 8}, "`shortest` is 9"),
    ],
)  # fmt: skip
def test_settings_that_cannot_be_honoured_are_errors(settings: dict[str, Any], said: str) -> None:
    with pytest.raises(ValueError, match=said):
        config(**settings)


@pytest.mark.slow
def test_shards_hold_chains_of_unequal_length_with_their_embedding(tmp_path: Path) -> None:
    weights = test_esm2.published(tmp_path / "esm2")
    source = raw.tarred(tmp_path / "a.tar", files(numbers=range(12)))
    before = sorted(tmp_path.rglob("*"))
    settings = swissprot.Config(weights=str(weights), test=0, val=0)
    pipeline.prepare(resolve_job("swissprot", source, tmp_path / "out", settings), workers=1)
    opened = shard_dataset.ShardDataset(tmp_path / "out")
    assert opened.manifest.normalization["embedder"] == "esm2"
    assert opened.manifest.normalization["embedder_digest"] == _contract.load("esm2", weights).digest
    assert "weights" not in opened.manifest.settings
    batch = opened.read("train", np.arange(12), with_names=True)
    assert batch.sizes is not None
    plan = swissprot.scan(source, settings)
    atoms, rows = int(batch.sizes.sum()), {name: int(counts.sum()) for name, counts in batch.condition_lengths.items()}
    real = sum(count * batch.condition[name][0, 0].nbytes for name, count in rows.items()) / atoms
    assert plan.condition_bytes / plan.shape[0] == pytest.approx(real, rel=0.1), "embeddings size the shards"
    for row, name in enumerate(batch.names):
        own = made(NAMES.index(name.partition("-model")[0]))
        count = len(own.codes)
        assert batch.sizes[row] == len(own.positions) and batch.condition_lengths["residues"][row] == count
        np.testing.assert_array_equal(batch.condition["residues"][row, :count], own.codes)
        [tokens] = _contract.load("esm2", weights)([own.sequence])
        assert batch.condition["embedding"].dtype == np.float16
        np.testing.assert_allclose(batch.condition["embedding"][row, :count], tokens, atol=2e-3)
        assert batch.condition["is_known"][row, : len(own.positions)].all()
    made_new = set(tmp_path.rglob("*")) - set(before)
    assert {path.suffix for path in made_new} <= {"", ".h5", ".json"}  # no member was unpacked


@pytest.mark.slow
def test_any_number_of_workers_writes_the_same_bytes(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    source = raw.tarred(tmp_path / "a.tar", files())
    monkeypatch.setattr(preparation_job, "MIN_ITEMS", 8)
    for workers in (1, 2):
        pipeline.prepare(resolve_job("swissprot", source, tmp_path / str(workers), config()), workers=workers)
    one, two = ({path.name: path.read_bytes() for path in (tmp_path / str(n)).glob("*.h5")} for n in (1, 2))
    assert one == two and len(one) > 2


def test_real_tars_of_both_formats_and_all_versions_are_read(real_data) -> None:
    real_items = items(real_data("proteins/afdb_swissprot_layout"))
    assert len(real_items) == 38 + 6
    assert sum(item.name.endswith("_v2") for item in real_items) == 6
    for item in real_items[::6]:
        example = swissprot.read(item, config(plddt=20))
        assert example.variable_length["is_known"].all()
        assert len(example.values) == len(residues.atom_layout(example.variable_length["residues"])[0])


@pytest.mark.slow
def test_faults_of_real_experiments_are_reported_by_name(real_data, tmp_path: Path) -> None:
    with tarfile.open(real_data("proteins/db55_single_chains/db55_bound_single_chains.tar.gz")) as archive:
        archive.extractall(tmp_path, filter="data")
    faults = Counter()
    for item in items(tmp_path):
        try:
            swissprot.read(item, config())
        except UnreadableItemError as bad:
            faults[re.sub(r"[-0-9,]+", "N", bad.reason)] += 1
    assert faults == {
        "N of its N heavy atoms are absent": 86,
        "its chain has a gap between residues N and N": 36,
    }
