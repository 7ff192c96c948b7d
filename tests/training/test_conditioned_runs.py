"""Training of models that draw from images and from sequences: what is read, by which embedder, and what is recorded."""

from __future__ import annotations

import json
import shutil
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from inrflow_core import models
from inrflow_core.errors import IntegrityError, MissingError, UsageError
from inrflow_core.feature_networks import _contract
from inrflow_core.planning import flops, memory_trace, plan
from inrflow_core.runs import checkpoint_manifest
from inrflow_core.runtime import distributed
from inrflow_core.sampling import sample
from inrflow_core.sets import TrainBatch
from inrflow_core.training import setup
from inrflow_core.training.data import open_data
from inrflow_core.training.loader import Loader
from tests import tiny
from tests.feature_networks import hf_folders, test_esm2
from tests.training import conditioned_runs, small

ALONE = distributed.find({}, "cpu")
ESM = {"embedder": "esm2", "width": 32}
DINO = {"embedder": "dinov2", "width": 32, "tokens": 4}
"""Of images of 28 pixels."""


@pytest.fixture(scope="module")
def place(tmp_path_factory) -> Path:
    return tmp_path_factory.mktemp("given")


@pytest.fixture(scope="module")
def patched(place: Path) -> Path:
    return conditioned_runs.pictured(place / "patched", _contract.load("patches"))


@pytest.fixture(scope="module")
def folded(place: Path) -> Path:
    return conditioned_runs.folded(place / "folded", metadata={"embedder": "one-hot", "embedder_digest": "one-hot-1"})


@pytest.fixture(scope="module")
def esm2(place: Path) -> Path:
    return test_esm2.published(place / "weights/esm2")


@pytest.fixture(scope="module")
def dinov2(place: Path) -> Path:
    return hf_folders.dinov2(place / "weights/dinov2", image_size=28)


def a_loader(data: Path, kind: Any, **changes: Any) -> Loader:
    return open_data(conditioned_runs.preset(kind, **changes), data)[0]


def condition(kind: Any, **changes: Any) -> dict[str, Any]:
    """A [condition] with some settings of its own."""
    return {**kind["condition"], **changes}


def test_each_set_is_read_with_one_view_which_is_drawn_uniformly(patched):
    loader = a_loader(patched, tiny.IMAGE_TO_POINTS, condition=condition(tiny.IMAGE_TO_POINTS, features="online"))
    seen = np.zeros((8, 4), int)
    for step in range(400):
        sets = loader.batch(step, range(4))
        assert set(sets.condition) == {"label", "image", "camera"} - {"label"} | set(sets.condition) & {"label"}
        image, camera = sets.condition["image"], sets.condition["camera"]
        for photo, pose in zip(image, camera, strict=True):
            row, view = int(photo[0, 0, 0]) // 20, int(photo[0, 0, 1]) // 60
            seen[row, view] += 1
            assert int(torch.round(torch.atan2(pose[0, 3], pose[2, 3]) / (torch.pi / 2))) % 4 == view
    assert seen.sum() == 1600 and seen.sum(1).tolist() == [200] * 8
    assert ((seen.sum(0) - 400) ** 2 / 400).sum() < 16.3  # chi squared with 3 degrees: p = 0.001
    assert seen.min() > 20


def test_processes_together_see_the_views_and_chains_that_one_sees(patched, folded):
    for data, kind in ((patched, tiny.IMAGE_TO_POINTS), (folded, tiny.PROTEIN)):
        loader = a_loader(data, kind)
        whole = loader.batch(3, range(4))
        for at in (2, 0, 3, 1):
            part = loader.batch(3, range(at, at + 1))
            size = part.values.shape[1]
            torch.testing.assert_close(part.values[0], whole.values[at, :size], rtol=0, atol=1e-6)
            if whole.mask is not None and part.mask is not None:
                assert whole.mask[at, :size].tolist() == part.mask[0].tolist() and not whole.mask[at, size:].any()
            for name, value in part.condition.items():
                expected = whole.condition[name][at]
                assert torch.equal(value[0], expected if expected.ndim == 0 else expected[: len(value[0])])


def test_the_held_out_loss_is_of_the_same_views_each_time(patched):
    _, held_out = open_data(conditioned_runs.preset(tiny.IMAGE_TO_POINTS, training={"held_out_every": 1}), patched)
    assert held_out is not None
    first, again = (held_out.batch(0, range(4), augment=False).condition["tokens"] for _ in range(2))
    assert torch.equal(first, again)


def stored_and_online(kind: Any, stored: Path, out: Path, **changes: Any) -> tuple[Path, Path]:
    """Two runs of three steps that differ only in where the features come from."""
    for features in ("stored", "online"):
        own = changes if features == "online" else {key: value for key, value in changes.items() if key != "weights"}
        setup.train(
            conditioned_runs.job(
                stored, out / features, kind, condition=condition(kind, features=features, **own), training={"steps": 3}
            )
        )
    return out / "stored", out / "online"


def run_metadata(run: Path, step: int = 3) -> dict[str, Any]:
    return models.read_metadata(checkpoint_manifest.checkpoint_folder(run, step) / checkpoint_manifest.WEIGHTS)[1][
        "normalization"
    ]


def test_images_embedded_in_training_give_the_loss_of_stored_tokens(dinov2, tmp_path):
    data = conditioned_runs.pictured(tmp_path / "shards", _contract.load("dinov2", dinov2))
    one, other = stored_and_online(tiny.IMAGE_TO_POINTS, data, tmp_path, weights=str(dinov2), **DINO)
    assert small.losses(other) == pytest.approx(small.losses(one), rel=1e-3)
    assert (
        run_metadata(one)
        == run_metadata(other)
        == {"embedder": "dinov2", "embedder_digest": _contract.load("dinov2", dinov2).digest}
    )


def test_sequences_embedded_in_training_give_the_loss_of_stored_embeddings(esm2, tmp_path):
    data = conditioned_runs.folded(tmp_path / "shards", _contract.load("esm2", esm2))
    one, other = stored_and_online(tiny.PROTEIN, data, tmp_path, weights=str(esm2), **ESM)
    assert small.losses(other) == pytest.approx(small.losses(one), rel=2e-3)
    assert (
        run_metadata(one)
        == run_metadata(other)
        == {"embedder": "esm2", "embedder_digest": _contract.load("esm2", esm2).digest}
    )


def test_a_stand_in_is_named_in_the_weights_whatever_else_the_shards_hold(esm2, folded, patched, tmp_path):
    data = conditioned_runs.folded(tmp_path / "shards", _contract.load("esm2", esm2), {"unit": "Angstrom"})
    for name, shards, more in (("first", data, {"unit": "Angstrom"}), ("second", folded, {})):
        setup.train(conditioned_runs.job(shards, tmp_path / name, tiny.PROTEIN, until=1))
        assert run_metadata(tmp_path / name, 1) == {"embedder": "one-hot", "embedder_digest": "one-hot-1", **more}
    setup.train(conditioned_runs.job(patched, tmp_path / "patches", tiny.IMAGE_TO_POINTS, until=1))
    assert run_metadata(tmp_path / "patches", 1) == {"embedder": "patches", "embedder_digest": "patches-1"}


def test_a_model_draws_with_the_weights_that_it_learned_from_and_no_others(esm2, folded, tmp_path):
    from inrflow_core.sampling import condition_inputs

    online = condition(tiny.PROTEIN, features="online", weights=str(esm2), **ESM)
    setup.train(conditioned_runs.job(folded, tmp_path / "run", tiny.PROTEIN, until=1, condition=online))
    model = sample.load(tmp_path / "run", device="cpu")
    assert condition_inputs.condition_from_input(model, "sequence", "MKT", esm2)["embedding"].shape == (1, 3, 32)
    other = test_esm2.published(tmp_path / "other", num_hidden_layers=2)
    with pytest.raises(IntegrityError, match="the weights of `esm2` have the digest"):
        condition_inputs.condition_from_input(model, "sequence", "MKT", other)


def test_a_run_resumes_with_its_own_embedder_alone(esm2, folded, tmp_path):
    def job(folder: Path, until: int) -> setup.TrainJob:
        online = condition(tiny.PROTEIN, features="online", weights=str(folder), **ESM)
        return conditioned_runs.job(folded, tmp_path / "run", tiny.PROTEIN, until=until, condition=online)

    setup.train(job(esm2, 1))
    other = test_esm2.published(tmp_path / "other", num_hidden_layers=2)
    with pytest.raises(UsageError, match="learned from features of `esm2` .* and these are of `esm2`"):
        setup.train(job(other, 2))
    moved = shutil.copytree(esm2, tmp_path / "moved")
    assert setup.train(job(moved, 2)).counters.step == 2


def test_an_embedder_whose_weights_are_absent_is_found_before_anything_is_written(
    folded, patched, tmp_path, monkeypatch
):
    monkeypatch.setenv("INRFLOW_WEIGHTS", str(tmp_path / "nowhere"))
    for kind, data, settings in ((tiny.PROTEIN, folded, ESM), (tiny.IMAGE_TO_POINTS, patched, DINO)):
        online = condition(kind, features="online", **settings)
        with pytest.raises(MissingError, match=f"the weights of `{settings['embedder']}` are absent") as caught:
            setup.train(conditioned_runs.job(data, tmp_path / "run", kind, condition=online))
        assert caught.value.code == 3 and not (tmp_path / "run").exists()
        setup.check_job(
            conditioned_runs.job(data, tmp_path / "run", kind, condition=online), {}
        )  # a dry run needs none


MISFITS = {
    "another embedder": ("patched", tiny.IMAGE_TO_POINTS, DINO, "hold features of `patches`, and the preset `tiny` learns from those of `dinov2`"),
    "fewer tokens": ("patched", tiny.IMAGE_TO_POINTS, {"tokens": 16}, r"of shape \[64, 198\], and \[condition\] of `tiny` says \[16, 198\]"),
    "wider tokens": ("patched", tiny.IMAGE_TO_POINTS, {"width": 768}, r"says \[64, 774\]"),
    "no tokens": ("online", tiny.IMAGE_TO_POINTS, {}, "hold none"),
    "no embeddings": ("folded", tiny.PROTEIN, ESM, "hold none: they were prepared for `one-hot`"),
    "wider embeddings": ("esm", tiny.PROTEIN, {"embedder": "esm2", "width": 1280}, r"the `embedding` in .* are of shape \[32\]"),
    "clouds for proteins": ("patched", tiny.PROTEIN, {}, "hold point clouds, and the preset `tiny` learns proteins"),
}  # fmt: skip


@pytest.mark.parametrize("name", MISFITS)
def test_features_that_the_preset_was_not_made_for_are_refused(name, patched, folded, esm2, tmp_path):
    where, kind, settings, message = MISFITS[name]
    data = {"patched": patched, "folded": folded}.get(where)
    if where == "online":
        data = conditioned_runs.pictured(tmp_path / "online")
    if where == "esm":
        data = conditioned_runs.folded(tmp_path / "esm", _contract.load("esm2", esm2))
    with pytest.raises(UsageError, match=message) as caught:
        open_data(conditioned_runs.preset(kind, condition=condition(kind, **settings)), data)
    assert caught.value.hint


def test_an_embedder_of_other_tokens_than_the_settings_say_is_refused(folded, patched, esm2, dinov2, tmp_path):
    cases = [
        (tiny.PROTEIN, folded, {"embedder": "esm2", "width": 1280, "weights": str(esm2)}, "embeds a residue with width 32"),
        (tiny.IMAGE_TO_POINTS, patched, {**DINO, "tokens": 9, "weights": str(dinov2)}, "makes 4 tokens of width 32 from an image of 28 x 28"),
    ]  # fmt: skip
    for kind, data, settings, message in cases:
        with pytest.raises(UsageError, match=message):
            setup.train(
                conditioned_runs.job(
                    data, tmp_path / "run", kind, condition=condition(kind, features="online", **settings)
                )
            )
        assert not (tmp_path / "run").exists()


@pytest.mark.parametrize("kind", [tiny.IMAGE_TO_POINTS, tiny.PROTEIN], ids=["picture", "protein"])
def test_parameters_operations_and_memory_are_estimated(kind):
    preset = conditioned_runs.preset(kind)
    predicted = plan.predict(preset, ALONE, precision="fp32", micro=4)
    method = models.build(preset).method
    assert predicted.total_parameters == sum(weight.numel() for weight in method.parameters())
    with flops.counter() as counted:
        method.loss(TrainBatch.from_sets(memory_trace.dummy_set(models.build(preset))))
    assert predicted.total_flops == pytest.approx(3 * 4 * counted.get_total_flops())
    thrice = plan.predict(
        conditioned_runs.preset(kind, method={"noise_draws_per_example": 3}), ALONE, precision="fp32", micro=4
    )
    assert thrice.total_flops == pytest.approx(3 * predicted.total_flops, rel=0.01)  # they share folded weights
    name = "activations_trunk"
    assert thrice.most[name] == pytest.approx(3 * predicted.most[name], rel=0.15)


@pytest.mark.parametrize("name", ["objaverse-xl", "swissprot-xl"])
def test_the_largest_presets_are_planned_without_shards_of_theirs_or_weights(name):
    from inrflow_core.config import preset

    changes = ["training.zero_stage=0", "network.checkpoint_activations=true"]
    predicted = plan.predict(preset.load(name, changes), ALONE, precision="bf16", micro=1)
    assert predicted.total_parameters > 700e6 and predicted.transient > 1e8


def test_chains_that_pass_in_one_pack_have_the_losses_of_those_in_packs_of_like_sizes(folded):
    """So ZeRO stage 3, whose processes must pass the network equally often, trains the same model."""
    job = conditioned_runs.job(folded, Path("none"), tiny.PROTEIN)
    sets = setup.check_job(job, {}).loader.batch(0, range(4))
    torch.manual_seed(0)
    method = models.build(job.preset).method
    tiny.randomize(method)
    with torch.no_grad():
        expected = method.loss(TrainBatch.from_sets(sets))
        method.use_single_bucket = True
        torch.testing.assert_close(method.loss(TrainBatch.from_sets(sets)), expected, rtol=1e-5, atol=0)


@pytest.mark.parametrize("kind", [tiny.IMAGE_TO_POINTS, tiny.PROTEIN], ids=["picture", "protein"])
def test_a_run_of_samples_and_a_held_out_loss_resumes_to_the_bit(kind, patched, folded, tmp_path):
    data = patched if kind is tiny.IMAGE_TO_POINTS else folded
    often = {"held_out_every": 2, "samples_every": 3, "samples": 2}
    setup.train(conditioned_runs.job(data, tmp_path / "parts", kind, until=3, training=often))
    parts = setup.train(conditioned_runs.job(data, tmp_path / "parts", kind, training=often))
    whole = setup.train(conditioned_runs.job(data, tmp_path / "whole", kind, training=often))
    small.assert_equal(small.state(parts), small.state(whole))
    lines = [json.loads(line) for line in (tmp_path / "whole/log.jsonl").read_text().splitlines()]
    assert sum("held_out_loss" in line for line in lines) == 3
    assert sorted(path.name for path in (tmp_path / "whole/samples").iterdir()) == ["00000003.png", "00000006.png"]
