"""Structures of two folders are matched by one rule, and items without a partner are named."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from inrflow_core.datasets import swissprot
from inrflow_core.errors import IntegrityError, UsageError
from inrflow_core.evaluation import protein_matching
from inrflow_core.preparation import job, pipeline
from inrflow_core.proteins import structure_writer
from inrflow_core.sample_files import collection, readers
from tests.protein_examples import helix, part, shaken, write

SEQUENCES = {"one": "MKTAYIAKQRGPLDEG", "two": "SWNVFHCIPAEKMMKTA"}


def folders(
    root: Path, *samples: str, references: tuple[str, ...] = ("one", "two")
) -> tuple[collection.SampleCollection, collection.SampleCollection]:
    """Folders of predictions and references; a sample's noise follows its index, its sequence its name."""
    for index, name in enumerate(samples):
        owner = "two" if "two" in name else "one"
        write(root / "samples" / f"{name}.pdb", shaken(helix(SEQUENCES[owner]), 0.2 * (index + 1), index))
    for name in references:
        write(root / "references" / f"{name}.pdb", helix(SEQUENCES["two" if "two" in name else "one"]))
    return readers.open_collection(root / "samples"), readers.open_collection(root / "references")


def test_names_find_their_reference_whole_or_without_their_number():
    matched = protein_matching.match(["a-1", "a-1-0", "b/3", "b", "a", "c-x", "b-2/1"], ["a", "a-1", "b", "d"])
    assert matched.samples == {0: [4], 1: [0, 1], 2: [2, 3]}
    assert matched.unsampled == ["d"] and matched.unmatched == ["c-x", "b-2/1"]
    assert protein_matching.match(["x"], ["y"]).samples == {0: [0]}
    assert protein_matching.match(["x-0", "x-1"], ["y"]).samples == {0: [0, 1]}
    assert protein_matching.match(["x-0", "z-1"], ["y"]).samples == {}


def test_folders_give_proteins_with_all_their_samples(tmp_path: Path):
    samples, references = folders(tmp_path, "one-0", "one-1", "two/0", "two/7", "two")
    assert (samples.domain, samples.count, references.count, samples.shape) == ("protein", 5, 2, ())
    matched = protein_matching.load_matched(samples, references, "auto")
    assert [(p.name, [s.name for s in p.samples]) for p in matched.proteins] == [
        ("one", ["one-0", "one-1"]),
        ("two", ["two", "two/0", "two/7"]),
    ]
    assert matched.note == "" and [one.reference.sequence for one in matched.proteins] == list(SEQUENCES.values())


def test_chains_that_are_not_compared_are_noted(tmp_path: Path):
    samples, references = folders(tmp_path, "one", "two")
    path = tmp_path / "samples" / "one.pdb"
    lines = path.read_text().splitlines(keepends=True)
    second = [line[:21] + "B" + line[22:] for line in lines if line.startswith("ATOM")]
    path.write_text("".join([*(line for line in lines if line.startswith("ATOM")), *second]))
    note = protein_matching.load_matched(samples, references, "auto").note
    assert note == "1 samples and 0 references have several chains: the first of each is compared"


def test_items_without_a_partner_are_named(tmp_path: Path):
    samples, references = folders(tmp_path, "one", "other", "stray-0", references=("one", "two", "lonely"))
    note = protein_matching.load_matched(samples, references, "auto").note
    assert "without a reference, and left out: 2 samples, `other`, `stray-0`" in note
    assert "without a sample, and left out: 2 references, `lonely`, `two`" in note
    alone = samples.select(np.array([1, 2]))
    with pytest.raises(
        UsageError, match="no sample of .* has the name of a reference: `other`, `stray-0`; .* has `lonely`, `one`"
    ):
        protein_matching.load_matched(alone, references, "auto")


def test_numbers_that_differ_and_missing_residues_are_reported(tmp_path: Path):
    _, references = folders(tmp_path, "one", references=("one", "two"))
    short = part(helix(SEQUENCES["one"]), 0, 12)
    write(tmp_path / "samples" / "one.pdb", replace(short, numbers=short.numbers + 40))
    matched = protein_matching.load_matched(readers.open_collection(tmp_path / "samples"), references, "auto")
    assert "residues of 1 of 1 samples are aligned by sequence" in matched.note
    assert "`one`, has 75 % of them" in matched.note
    assert matched.proteins[0].pairs[0].tolist() == [[index, index] for index in range(12)]


def test_one_file_is_evaluated_by_one_file(tmp_path: Path):
    folders(tmp_path, "one", references=("one-measured",))
    sample, reference = tmp_path / "samples" / "one.pdb", tmp_path / "references" / "one-measured.pdb"
    matched = protein_matching.load_matched(readers.open_collection(sample), readers.open_collection(reference), "auto")
    assert [(one.name, len(one.samples)) for one in matched.proteins] == [("one-measured", 1)]


@pytest.mark.parametrize("kind", ["pdb", "cif"])
def test_every_model_of_a_file_is_a_sample_and_the_first_of_a_reference_counts(tmp_path: Path, kind: str):
    made = [shaken(helix(SEQUENCES["one"]), 0.2 * (number + 1), number) for number in range(3)]
    text = structure_writer.pdb_text(made, {}) if kind == "pdb" else structure_writer.cif_text(made, {})
    (tmp_path / f"drawn.{kind}").write_text(text)
    write(tmp_path / "samples" / "one.pdb", made[0])
    samples = readers.open_collection(tmp_path / f"drawn.{kind}", all_models=True)
    assert samples.item_names() == ["drawn-0", "drawn-1", "drawn-2"]
    matched = protein_matching.load_matched(samples, readers.open_collection(tmp_path / "samples"), "auto").proteins
    assert [len(one.samples) for one in matched] == [3]
    for sample, expected in zip(matched[0].samples, made, strict=True):
        np.testing.assert_allclose(sample.positions, expected.positions, atol=6e-4)
    assert readers.open_collection(tmp_path / f"drawn.{kind}").count == 1
    alone = readers.open_collection(tmp_path / "samples", all_models=True)
    assert alone.item_names() == ["one"]


def test_two_files_of_one_name_and_damaged_ones_are_named(tmp_path: Path):
    samples, references = folders(tmp_path, "one")
    (tmp_path / "samples" / "one.cif").write_text("data_nothing\n")
    with pytest.raises(UsageError, match="several files that are called `one`"):
        readers.open_collection(tmp_path / "samples")
    (tmp_path / "samples" / "one.pdb").unlink()
    with pytest.raises(IntegrityError, match=r"one\.cif` cannot be read"):
        protein_matching.load_matched(readers.open_collection(tmp_path / "samples"), references, "auto")


def test_proteins_of_shards_are_those_of_the_files_they_were_made_of(tmp_path: Path):
    names = [f"one-{number}" for number in range(6)]
    files, _ = folders(tmp_path, *names)
    config = swissprot.Config(train=5, test=1, embedder="one-hot", missing=0.9)
    pipeline.prepare(job.resolve_job("swissprot", tmp_path / "samples", tmp_path / "shards", config), workers=1)
    for split in readers.split_names(tmp_path / "shards"):
        stored = readers.open_collection(tmp_path / "shards", split)
        assert stored.domain == "protein"
        for name, structure in zip(stored.item_names(), stored.structures(range(stored.count)), strict=True):
            (original,) = files.structures([files.item_names().index(name)])
            assert structure.name == name and structure.sequence == original.sequence
            np.testing.assert_array_equal(structure.is_known, original.is_known)
            moved = structure.positions - original.positions
            np.testing.assert_allclose(moved[structure.is_known].std(0), 0, atol=1e-4)
