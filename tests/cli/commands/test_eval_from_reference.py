"""`inrflow eval --run` of models that draw from what the reference shows: pictures of objects, sequences of proteins."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest

from inrflow_cli import console
from inrflow_cli.app import run
from inrflow_core.evaluation import sample_matching
from inrflow_core.models import Model
from inrflow_core.proteins import structure_reader
from inrflow_core.sample_files import collection, readers, writer
from inrflow_core.sample_files.sample_shard import SampleShard
from inrflow_core.sampling import condition_inputs, sample
from inrflow_core.sampling.request import SampleRequest
from inrflow_core.shards.shard_dataset import ShardDataset
from tests import conditioned, tiny


class Place:
    """Shards and models, made once."""

    def __init__(self, parent: Path) -> None:
        self.objects = conditioned.objects(parent / "objects", {"train": 8, "val": 6})
        self.proteins = conditioned.proteins(parent / "proteins")
        self.picture, self.sequence = parent / "picture.safetensors", parent / "sequence.safetensors"
        told = {"normalization": {"embedder_digest": conditioned.DIGEST}}
        self.drawing: Model = conditioned.weights(self.picture, "picture", **told)
        self.folding: Model = conditioned.weights(self.sequence, "sequence")
        tiny.run_folder(parent / "clouds", tiny.POINTS)
        self.clouds = parent / "clouds"


@pytest.fixture(scope="module")
def place(tmp_path_factory: pytest.TempPathFactory) -> Place:
    return Place(tmp_path_factory.mktemp("from-reference"))


@pytest.fixture(autouse=True)
def _working_folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.chdir(tmp_path)
    console.stderr.cache_clear()
    yield
    console.stderr.cache_clear()


def evaluate(*words: object) -> int:
    return run(["eval", "--workers", "1", *map(str, words)])


def result(out: str) -> dict:
    (found,) = json.loads((Path(out) / "metrics.json").read_text())["results"]
    return found


def scores(out: str) -> dict[str, dict]:
    return {score["metric"]: score for score in result(out)["scores"]}


def pictures(place: Place, *words: object, out: str = "out") -> int:
    return evaluate("--run", place.picture, "--reference", place.objects, "--out", out, *words)


def folds(place: Place, *words: object, out: str = "out") -> int:
    return evaluate("--run", place.sequence, "--reference", place.proteins, "--out", out, *words)


def sampled(out: str) -> ShardDataset:
    return ShardDataset(Path(out) / "samples" / "picture.h5")


def structures(out: str) -> dict[str, bytes]:
    folder = Path(out) / "samples" / "sequence"
    return {str(file.relative_to(folder)): file.read_bytes() for file in sorted(folder.rglob("*.pdb"))}


# Clouds of pictures.


def test_every_cloud_is_drawn_from_the_picture_that_is_recorded_with_it(place: Place):
    words = ("--num", 3, "--samples-per-item", 2, "--view", 2, "--seed", 7, "--points", 30)
    assert pictures(place, *words) == 0
    shard = ShardDataset(Path("out/samples/picture-30.h5"))
    held = shard.read("samples", range(6))
    assert held.condition["item"].tolist() == [0, 0, 2, 2, 5, 5] and held.condition["view"].tolist() == [2] * 6
    assert held.seeds.tolist() == list(range(7, 13))
    for row in range(6):
        told = condition_inputs.conditions_from_shards(
            place.drawing, ShardDataset(place.objects), "val", [int(held.condition["item"][row])], 2
        )
        request = SampleRequest([int(held.seeds[row])], None, 30, condition=told)
        ((_, wanted),) = sample.iter_samples(place.drawing, request)
        np.testing.assert_allclose(held.values[row], wanted[0], atol=1e-4)
    assert np.ptp(held.values[[0, 2]], axis=0).max() > 0.1


def test_the_distance_to_the_right_object_is_among_what_is_told_and_the_photo_is_shown(place: Place):
    assert pictures(place, "--guidance", 3, "--guidance-interval", "0.2,0.8") == 0
    assert list(scores("out")) == [
        "mmd:cd:inrflow", "cov:cd:inrflow", "one-nna:cd:inrflow", "jsd:inrflow", "paired-cd:cd:inrflow",
    ]  # fmt: skip
    facts = result("out")["facts"]
    assert (facts["guidance"], facts["guidance_interval"], facts["view"]) == ("3", "0.2,0.8", "0")
    page = Path("out/report.html").read_text()
    section = page[page.index('<section class="photos') : page.index('<section id="neighbors"')]
    assert section.count('<div class="strip">') == 6 and section.count('class="cloud"') == 12
    assert section.count("<img") == 18 and "val/5.glb, view 0" in section
    assert '<section class="gallery' not in page


def test_a_view_may_be_chosen_by_the_seed(place: Place):
    for out in ("a", "b"):
        assert pictures(place, "--view", "by-seed", "--samples-per-item", 6, "--metrics", "paired-cd", out=out) == 0
    views = sampled("a").read("samples", range(36)).condition["view"]
    assert np.bincount(views, minlength=3).min() >= 6 and views.max() == 2
    assert (Path("a") / "metrics.json").read_bytes() == (Path("b") / "metrics.json").read_bytes()


def test_what_was_drawn_from_a_part_finds_its_objects_in_the_whole_and_in_the_part(place: Place):
    words = ("--reference-num", 3, "--samples-per-item", 2, "--metrics", "paired-cd")
    assert pictures(place, *words) == 0
    samples = readers.open_collection(Path("out/samples/picture.h5"))
    whole = readers.open_collection(place.objects, "val")
    part = collection.evenly_spaced_items(whole, 3)
    assert sample_matching.match_to_reference(samples, part).reference_index.tolist() == [0, 0, 1, 1, 2, 2]
    assert sample_matching.match_to_reference(samples, whole).reference_index.tolist() == [0, 0, 2, 2, 5, 5]
    assert part.source_indices is not None and part.select(np.array([2, 0])).source_indices is not None
    assert sample_matching.match_to_reference(samples, part.select(np.array([2, 0, 1]))).reference_index.tolist() == [
        1,
        1,
        2,
        2,
        0,
        0,
    ]
    with pytest.raises(Exception, match="has samples of item 2, and .* holds 2 others"):
        sample_matching.match_to_reference(samples, collection.evenly_spaced_items(whole, 2))


@pytest.mark.parametrize("kind", ["picture", "sequence"])
def test_an_interrupted_evaluation_goes_on_and_ends_as_one_that_nothing_disturbed(
    place: Place, monkeypatch: pytest.MonkeyPatch, kind: str
):
    command = {"picture": pictures, "sequence": folds}[kind]
    words = ("--batch", 2, "--samples-per-item", 3)
    assert command(place, *words, out="whole") == 0
    owner, name = {"picture": (SampleShard, "write"), "sequence": (writer, "write")}[kind]
    kept, calls = getattr(owner, name), []

    def dying(*given, **named):
        calls.append(given)
        if len(calls) == 3:
            raise KeyboardInterrupt
        return kept(*given, **named)

    with monkeypatch.context() as patch:
        patch.setattr(owner, name, dying)
        assert command(place, *words) != 0
    assert not Path("out/metrics.json").exists()
    before = len(calls)
    with monkeypatch.context() as patch:
        patch.setattr(owner, name, lambda *given, **named: (calls.append(given), kept(*given, **named))[1])
        assert command(place, *words) == 0
    assert before == 3 and len(calls) - before == {"picture": 7, "sequence": 7}[kind]  # of 9, two were there
    for file in ("metrics.json", "report.html"):
        assert (Path("out") / file).read_bytes() == (Path("whole") / file).read_bytes()


@pytest.mark.parametrize("kind", ["picture", "sequence"])
def test_several_processes_share_the_drawing_and_one_of_them_judges(
    place: Place, monkeypatch: pytest.MonkeyPatch, kind: str
):
    command = {"picture": pictures, "sequence": folds}[kind]
    words = ("--batch", 2, "--samples-per-item", 2)
    assert command(place, *words, out="alone") == 0
    monkeypatch.setenv("WORLD_SIZE", "2")
    monkeypatch.setenv("MASTER_ADDR", "localhost")
    monkeypatch.setenv("MASTER_PORT", "1")
    for rank in ("1", "0"):
        monkeypatch.setenv("RANK", rank)
        assert command(place, *words) == 0
        if rank == "1":
            assert not Path("out/metrics.json").exists()
            there = len(structures("out")) if kind == "sequence" else len(list(Path("out/samples").rglob("*.npz"))) * 2
            assert 0 < there < len(structures("alone") if kind == "sequence" else range(12))
    for file in ("metrics.json", "report.html"):
        assert (Path("out") / file).read_bytes() == (Path("alone") / file).read_bytes()


def test_how_long_it_will_take_is_foretold(place: Place, capsys: pytest.CaptureFixture[str]):
    for command, samples in ((pictures, 12), (folds, 6)):
        assert command(place, "--dry-run", "--samples-per-item", 2) == 0
        assert f"draw {samples} samples of" in capsys.readouterr().err and not Path("out").exists()


# Structures of sequences.


def test_every_protein_of_the_reference_is_folded_and_judged(place: Place):
    assert folds(place, "--samples-per-item", 2, "--seed", 4) == 0
    reference = readers.open_collection(place.proteins, "test")
    names = reference.item_names()
    assert set(structures("out")) == {f"{name.replace(' ', '_')}/{k}.pdb" for name in names for k in (0, 1)}
    found = scores("out")
    assert [name for name in found if name.endswith("best")] == [
        "lddt:ca:auto:best", "tm-score:reference:auto:best", "rmsd:ca:auto:best",
    ]  # fmt: skip
    assert found["lddt:ca:auto:best"]["value"] >= found["lddt:ca:auto:mean"]["value"] > 0
    assert all((score["samples"], score["reference"]) == (6, 3) for score in found.values())
    assert result("out")["facts"]["seeds"] == "4-5" and 'id="proteins"' in Path("out/report.html").read_text()
    told = condition_inputs.condition_from_input(place.folding, "sequence", reference.structures([1])[0].sequence)
    ((_, wanted),) = sample.iter_samples(place.folding, SampleRequest([5], condition=told))
    drawn_one = structure_reader.read(Path("out/samples/sequence") / names[1].replace(" ", "_") / "1.pdb")
    np.testing.assert_allclose(drawn_one.positions, wanted[0].positions, atol=2e-3)


def test_more_proteins_and_more_samples_keep_what_is_there(place: Place):
    assert folds(place, "--num", 2, "--metrics", "lddt") == 0
    before = structures("out")
    assert len(before) == 2 and scores("out")["lddt:ca:auto:mean"]["reference"] == 2
    assert folds(place, "--samples-per-item", 2, "--metrics", "lddt", "--overwrite") == 0
    after = structures("out")
    assert len(after) == 6 and {name: after[name] for name in before} == before
    assert folds(place, "--samples-per-item", 2, "--metrics", "lddt", out="fresh") == 0
    assert set(structures("fresh")) == set(after)
    for (
        name
    ) in after:  # beside others a sample is rounded otherwise, which may move the last of a file's three decimals
        one, other = (structure_reader.read(Path(out) / "samples/sequence" / name) for out in ("out", "fresh"))
        np.testing.assert_allclose(one.positions, other.positions, atol=2e-3)


def test_structures_that_were_drawn_otherwise_are_not_judged_as_these(place: Place, capsys: pytest.CaptureFixture[str]):
    assert folds(place, "--num", 1, "--metrics", "lddt") == 0
    (Path("out") / "metrics.json").unlink()
    (Path("out") / "report.html").unlink()
    before = structures("out")
    assert folds(place, "--num", 1, "--metrics", "lddt", "--steps", 3) == 2
    assert "samples of other options" in " ".join(capsys.readouterr().err.split())
    assert structures("out") == before
    assert folds(place, "--num", 1, "--metrics", "lddt", "--steps", 3, "--overwrite") == 0
    assert structures("out") != before


def test_files_of_structures_give_their_sequences(place: Place):
    raw = place.proteins.parent / "raw"
    assert evaluate("--run", place.sequence, "--reference", raw, "--num", 2, "--out", "out") == 0
    assert scores("out")["lddt:ca:auto:mean"]["samples"] == 2


def test_what_cannot_be_drawn_is_refused_before_anything_is(place: Place, capsys: pytest.CaptureFixture[str]):
    np.save("clouds.npy", np.zeros((4, 7, 3), dtype=np.float32))

    def refused(code: int, *words: object) -> str:
        assert evaluate(*words, "--out", "out") == code
        error = " ".join(capsys.readouterr().err.split())
        assert error.count("error:") == error.count("hint:") == 1 and not Path("out/samples").exists()
        return error

    drawing = ("--run", place.picture, "--reference", place.objects)
    plain = ("--run", place.clouds, "--reference", place.objects)
    folding = ("--run", place.sequence, "--reference", place.proteins)
    assert "has views 0 to 2, not 3" in refused(2, *drawing, "--view", 3)
    assert "`--view front` is not a view" in refused(2, *drawing, "--view", "front")
    assert "`--label` does not apply to `picture`, which is conditioned on images" in refused(2, *drawing, "--label", 1)
    assert "`--view` does not apply to `clouds`, which takes no condition" in refused(2, *plain, "--view", 0)
    assert "`--samples-per-item` does not apply to `clouds`" in refused(2, *plain, "--samples-per-item", 2)
    assert "`--view` does not apply to `sequence`, which is conditioned on sequences" in refused(
        2, *folding, "--view", 0
    )
    assert "has the atoms of its sequence" in refused(2, *folding, "--resolution", 8)
    assert "holds no images to sample from" in refused(2, "--run", place.picture, "--reference", "clouds.npy")
    assert "needs a run to sample" in refused(
        2, "--samples", "clouds.npy", "--reference", "clouds.npy", "--samples-per-item", 2
    )


def test_pictures_that_another_network_embedded_are_refused(
    place: Place, tmp_path: Path, capsys: pytest.CaptureFixture[str]
):
    told = {"normalization": {"embedder_digest": "another"}}
    conditioned.weights(tmp_path / "other.safetensors", "picture", **told)
    assert evaluate("--run", "other.safetensors", "--reference", place.objects, "--out", "out") == 4
    said = " ".join(capsys.readouterr().err.split())
    assert "were embedded by weights of the digest patches-1, and `tiny` learned from another" in said
