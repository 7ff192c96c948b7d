"""`inrflow eval --run` of models that sample from the conditions of the reference: images of objects, sequences of proteins."""

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
from inrflow_core.sample_files import readers, subsets, writer
from inrflow_core.sample_files.sample_shard import SampleShard
from inrflow_core.sampling import condition_inputs, sample
from inrflow_core.sampling.request import SampleRequest
from inrflow_core.shards.shard_dataset import ShardDataset
from tests import conditioned, tiny
from tests.report.rates import without_rates


class Inputs:
    """Shards and models, made once."""

    def __init__(self, parent: Path) -> None:
        self.objects = conditioned.objects(parent / "objects", {"train": 8, "val": 6})
        self.proteins = conditioned.proteins(parent / "proteins")
        self.image, self.sequence = parent / "image.safetensors", parent / "sequence.safetensors"
        metadata = {"normalization": {"embedder_digest": conditioned.DIGEST}}
        self.drawing: Model = conditioned.weights(self.image, "image", **metadata)
        self.folding: Model = conditioned.weights(self.sequence, "sequence")
        tiny.run_folder(parent / "clouds", tiny.POINTS)
        self.clouds = parent / "clouds"


@pytest.fixture(scope="module")
def inputs(tmp_path_factory: pytest.TempPathFactory) -> Inputs:
    return Inputs(tmp_path_factory.mktemp("from-reference"))


@pytest.fixture(autouse=True)
def _working_folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.chdir(tmp_path)
    console.stderr.cache_clear()
    yield
    console.stderr.cache_clear()


def evaluate(*words: object) -> int:
    return run(["eval", "--workers", "1", *map(str, words)])


def result(out: str) -> dict:
    (entry,) = json.loads((Path(out) / "metrics.json").read_text())["results"]
    return entry


def scores(out: str) -> dict[str, dict]:
    return {score["metric"]: score for score in result(out)["scores"]}


def clouds_of_images(inputs: Inputs, *words: object, out: str = "out") -> int:
    return evaluate("--run", inputs.image, "--reference", inputs.objects, "--out", out, *words)


def folds(inputs: Inputs, *words: object, out: str = "out") -> int:
    return evaluate("--run", inputs.sequence, "--reference", inputs.proteins, "--out", out, *words)


def sampled(out: str) -> ShardDataset:
    return ShardDataset(Path(out) / "samples" / "image.h5")


def structures(out: str) -> dict[str, bytes]:
    folder = Path(out) / "samples" / "sequence"
    return {str(file.relative_to(folder)): file.read_bytes() for file in sorted(folder.rglob("*.pdb"))}


# Clouds sampled from images.


def test_every_cloud_is_sampled_from_the_image_that_is_recorded_with_it(inputs: Inputs):
    words = ("--num", 3, "--samples-per-item", 2, "--view", 2, "--seed", 7, "--points", 30)
    assert clouds_of_images(inputs, *words) == 0
    shard = ShardDataset(Path("out/samples/image-30.h5"))
    stored = shard.read("samples", range(6))
    assert stored.condition["item"].tolist() == [0, 0, 2, 2, 5, 5] and stored.condition["view"].tolist() == [2] * 6
    assert stored.seeds.tolist() == list(range(7, 13))
    for row in range(6):
        condition = condition_inputs.conditions_from_shards(
            inputs.drawing, ShardDataset(inputs.objects), "val", [int(stored.condition["item"][row])], 2
        )
        request = SampleRequest([int(stored.seeds[row])], None, 30, condition=condition)
        ((_, expected),) = sample.iter_samples(inputs.drawing, request)
        np.testing.assert_allclose(stored.values[row], expected[0], atol=1e-4)
    assert np.ptp(stored.values[[0, 2]], axis=0).max() > 0.1


def test_the_distance_to_the_right_object_is_reported_and_the_photo_is_shown(inputs: Inputs):
    assert clouds_of_images(inputs, "--guidance", 3, "--guidance-interval", "0.2,0.8") == 0
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


def test_a_view_may_be_selected_by_the_seed(inputs: Inputs):
    for out in ("a", "b"):
        assert (
            clouds_of_images(inputs, "--view", "by-seed", "--samples-per-item", 6, "--metrics", "paired-cd", out=out)
            == 0
        )
    views = sampled("a").read("samples", range(36)).condition["view"]
    assert np.bincount(views, minlength=3).min() >= 6 and views.max() == 2
    assert (Path("a") / "metrics.json").read_bytes() == (Path("b") / "metrics.json").read_bytes()


def test_samples_of_a_part_match_their_objects_in_the_whole_and_in_the_part(inputs: Inputs):
    words = ("--reference-num", 3, "--samples-per-item", 2, "--metrics", "paired-cd")
    assert clouds_of_images(inputs, *words) == 0
    samples = readers.open_collection(Path("out/samples/image.h5"))
    whole = readers.open_collection(inputs.objects, "val")
    part = subsets.evenly_spaced_items(whole, 3)
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
        sample_matching.match_to_reference(samples, subsets.evenly_spaced_items(whole, 2))


@pytest.mark.parametrize("kind", ["image", "sequence"])
def test_an_interrupted_evaluation_resumes_and_ends_as_one_that_nothing_disturbed(
    inputs: Inputs, monkeypatch: pytest.MonkeyPatch, kind: str
):
    command = {"image": clouds_of_images, "sequence": folds}[kind]
    words = ("--batch", 2, "--samples-per-item", 3)
    assert command(inputs, *words, out="whole") == 0
    owner, name = {"image": (SampleShard, "write"), "sequence": (writer, "write")}[kind]
    original, calls = getattr(owner, name), []

    def dying(*arguments, **named):
        calls.append(arguments)
        if len(calls) == 3:
            raise KeyboardInterrupt
        return original(*arguments, **named)

    with monkeypatch.context() as patch:
        patch.setattr(owner, name, dying)
        assert command(inputs, *words) != 0
    assert not Path("out/metrics.json").exists()
    before = len(calls)
    with monkeypatch.context() as patch:
        patch.setattr(
            owner, name, lambda *arguments, **named: (calls.append(arguments), original(*arguments, **named))[1]
        )
        assert command(inputs, *words) == 0
    assert before == 3 and len(calls) - before == {"image": 7, "sequence": 7}[kind]  # of 9, two were there
    for file in ("metrics.json", "report.html"):
        assert without_rates(Path("out") / file) == without_rates(Path("whole") / file)


@pytest.mark.parametrize("kind", ["image", "sequence"])
def test_several_processes_share_the_sampling_and_one_of_them_evaluates(
    inputs: Inputs, monkeypatch: pytest.MonkeyPatch, kind: str
):
    command = {"image": clouds_of_images, "sequence": folds}[kind]
    words = ("--batch", 2, "--samples-per-item", 2)
    assert command(inputs, *words, out="alone") == 0
    monkeypatch.setenv("WORLD_SIZE", "2")
    monkeypatch.setenv("MASTER_ADDR", "localhost")
    monkeypatch.setenv("MASTER_PORT", "1")
    for rank in ("1", "0"):
        monkeypatch.setenv("RANK", rank)
        assert command(inputs, *words) == 0
        if rank == "1":
            assert not Path("out/metrics.json").exists()
            there = len(structures("out")) if kind == "sequence" else len(list(Path("out/samples").rglob("*.npz"))) * 2
            assert 0 < there < len(structures("alone") if kind == "sequence" else range(12))
    for file in ("metrics.json", "report.html"):
        assert without_rates(Path("out") / file) == without_rates(Path("alone") / file)


def test_a_dry_run_estimates_the_number_of_samples(inputs: Inputs, capsys: pytest.CaptureFixture[str]):
    for command, samples in ((clouds_of_images, 12), (folds, 6)):
        assert command(inputs, "--dry-run", "--samples-per-item", 2) == 0
        assert f"generate {samples} samples of" in capsys.readouterr().out and not Path("out").exists()


# Structures of sequences.


def test_every_protein_of_the_reference_is_folded_and_evaluated(inputs: Inputs):
    assert folds(inputs, "--samples-per-item", 2, "--seed", 4) == 0
    reference = readers.open_collection(inputs.proteins, "test")
    names = reference.item_names()
    assert set(structures("out")) == {f"{name.replace(' ', '_')}/{k}.pdb" for name in names for k in (0, 1)}
    by_metric = scores("out")
    assert [name for name in by_metric if name.endswith("best")] == [
        "lddt:ca:auto:best", "tm-score:reference:auto:best", "rmsd:ca:auto:best",
    ]  # fmt: skip
    assert by_metric["lddt:ca:auto:best"]["value"] >= by_metric["lddt:ca:auto:mean"]["value"] > 0
    assert all((score["samples"], score["reference"]) == (6, 3) for score in by_metric.values())
    assert result("out")["facts"]["seeds"] == "4-5" and 'id="proteins"' in Path("out/report.html").read_text()
    condition = condition_inputs.condition_from_input(inputs.folding, "sequence", reference.structures([1])[0].sequence)
    ((_, expected),) = sample.iter_samples(inputs.folding, SampleRequest([5], condition=condition))
    folded = structure_reader.read(Path("out/samples/sequence") / names[1].replace(" ", "_") / "1.pdb")
    np.testing.assert_allclose(folded.positions, expected[0].positions, atol=2e-3)


def test_more_proteins_and_more_samples_keep_what_is_there(inputs: Inputs):
    assert folds(inputs, "--num", 2, "--metrics", "lddt") == 0
    before = structures("out")
    assert len(before) == 2 and scores("out")["lddt:ca:auto:mean"]["reference"] == 2
    assert folds(inputs, "--samples-per-item", 2, "--metrics", "lddt", "--overwrite") == 0
    after = structures("out")
    assert len(after) == 6 and {name: after[name] for name in before} == before
    assert folds(inputs, "--samples-per-item", 2, "--metrics", "lddt", out="fresh") == 0
    assert set(structures("fresh")) == set(after)
    for (
        name
    ) in after:  # beside others a sample is rounded otherwise, which may move the last of a file's three decimals
        one, other = (structure_reader.read(Path(out) / "samples/sequence" / name) for out in ("out", "fresh"))
        np.testing.assert_allclose(one.positions, other.positions, atol=2e-3)


def test_a_structure_with_a_changed_digit_is_not_evaluated_again(inputs: Inputs, capsys: pytest.CaptureFixture[str]):
    assert folds(inputs, "--num", 1, "--metrics", "lddt") == 0
    before = structures("out")
    [path] = Path("out/samples/sequence").rglob("*.pdb")
    content = path.read_bytes()
    place = content.index(b"ATOM") + 33
    path.write_bytes(content[:place] + bytes([content[place] ^ 1]) + content[place + 1 :])
    (Path("out") / "metrics.json").unlink()
    (Path("out") / "report.html").unlink()
    assert folds(inputs, "--num", 1, "--metrics", "lddt") == 4
    assert "does not match the digest in it" in " ".join(capsys.readouterr().err.split())
    assert folds(inputs, "--num", 1, "--metrics", "lddt", "--overwrite") == 0
    assert structures("out") == before


def test_structures_sampled_with_other_options_are_not_evaluated_as_these(
    inputs: Inputs, capsys: pytest.CaptureFixture[str]
):
    assert folds(inputs, "--num", 1, "--metrics", "lddt") == 0
    (Path("out") / "metrics.json").unlink()
    (Path("out") / "report.html").unlink()
    before = structures("out")
    assert folds(inputs, "--num", 1, "--metrics", "lddt", "--steps", 3) == 2
    assert "samples of other options" in " ".join(capsys.readouterr().err.split())
    assert structures("out") == before
    assert folds(inputs, "--num", 1, "--metrics", "lddt", "--steps", 3, "--overwrite") == 0
    assert structures("out") != before


def test_files_of_structures_give_their_sequences(inputs: Inputs):
    raw = inputs.proteins.parent / "raw"
    assert evaluate("--run", inputs.sequence, "--reference", raw, "--num", 2, "--out", "out") == 0
    assert scores("out")["lddt:ca:auto:mean"]["samples"] == 2


def test_what_cannot_be_sampled_is_refused_before_anything_is(inputs: Inputs, capsys: pytest.CaptureFixture[str]):
    np.save("clouds.npy", np.zeros((4, 7, 3), dtype=np.float32))

    def refused(code: int, *words: object) -> str:
        assert evaluate(*words, "--out", "out") == code
        error = " ".join(capsys.readouterr().err.split())
        assert error.count("error:") == error.count("hint:") == 1 and not Path("out/samples").exists()
        return error

    drawing = ("--run", inputs.image, "--reference", inputs.objects)
    plain = ("--run", inputs.clouds, "--reference", inputs.objects)
    folding = ("--run", inputs.sequence, "--reference", inputs.proteins)
    assert "has views 0 to 2, not 3" in refused(2, *drawing, "--view", 3)
    assert "`--view front` is not a view" in refused(2, *drawing, "--view", "front")
    assert "`--label` does not apply to `image`, which is conditioned on images" in refused(2, *drawing, "--label", 1)
    assert "`--view` does not apply to `clouds`, which takes no condition" in refused(2, *plain, "--view", 0)
    assert "`--samples-per-item` does not apply to `clouds`" in refused(2, *plain, "--samples-per-item", 2)
    assert "`--view` does not apply to `sequence`, which is conditioned on sequences" in refused(
        2, *folding, "--view", 0
    )
    assert "has the atoms of its sequence" in refused(2, *folding, "--resolution", 8)
    assert "holds no images to sample from" in refused(2, "--run", inputs.image, "--reference", "clouds.npy")
    assert "needs a run to sample" in refused(
        2, "--samples", "clouds.npy", "--reference", "clouds.npy", "--samples-per-item", 2
    )


def test_images_that_another_network_embedded_are_refused(
    inputs: Inputs, tmp_path: Path, capsys: pytest.CaptureFixture[str]
):
    metadata = {"normalization": {"embedder_digest": "another"}}
    conditioned.weights(tmp_path / "other.safetensors", "image", **metadata)
    assert evaluate("--run", "other.safetensors", "--reference", inputs.objects, "--out", "out") == 4
    said = " ".join(capsys.readouterr().err.split())
    assert "were embedded by weights of the digest patches-1, and `tiny` learned from another" in said
