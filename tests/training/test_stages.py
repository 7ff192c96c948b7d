"""Methods of several stages: one run goes through all of them, and resumes in any to the bit."""

from __future__ import annotations

import json
import shutil
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch

from inrflow_core import models
from inrflow_core.config import preset as presets
from inrflow_core.config import toml
from inrflow_core.errors import Diverged, UsageError
from inrflow_core.methods._contract import Stage
from inrflow_core.methods._trained_weights import weights_by_optimizer
from inrflow_core.runs import checkpoint_manifest
from inrflow_core.shards.shard_dataset import ShardDataset
from inrflow_core.training import run_folder, setup
from inrflow_core.training.trainer import Trainer
from tests import own_methods, tiny
from tests.training import small, staged_runs

METHODS = tuple(staged_runs.STAGES)


@pytest.fixture(autouse=True)
def _found_by_name(monkeypatch):
    """The methods of these tests are found as those of inrflow are."""
    own_methods.install(monkeypatch.setattr)


@pytest.fixture(scope="module")
def data(tmp_path_factory) -> Path:
    return small.images(tmp_path_factory.mktemp("stages") / "shards", side=staged_runs.SIDE)


preset = staged_runs.preset


def train(
    method: str, data: Path, out: Path, until: int | None = None, say=lambda text: None, **changes: Any
) -> Trainer:
    """Train one up to a step."""
    selected = preset(method, **changes)
    return setup.train(setup.TrainJob(selected, out, data=data, device="cpu", threads=1, until=until, say=say))


def state(trainer: Trainer) -> dict[str, torch.Tensor]:
    """Weights, averages and what every optimizer remembers."""
    result = small.state(trainer)
    for name, engine in trainer.stage.engines.items():
        moments = zip(engine.moments_layout(), [t.clone() for t in engine.moments()], strict=True)
        result |= {f"{name}.{key}": value for key, value in moments}
    return result


def log_lines(out: Path) -> list[dict]:
    """The log without what is measured in seconds and bytes."""
    measured = {"samples_per_second", "data_wait", "memory", "seconds_left"}
    records = [json.loads(line) for line in (out / "log.jsonl").read_text().splitlines()]
    return [{key: value for key, value in record.items() if key not in measured} for record in records]


def is_of_both(record: dict, until: int) -> bool:
    """Whether a line does not come of the stop itself: the last step of a call has a held-out loss too."""
    return "loss" in record or record["step"] != until


BORDER = 3
"""The step that ends the first stage of both methods."""


@pytest.mark.parametrize(
    ("zero_stage", "stops"),
    [(1, [BORDER, BORDER + 1]), *(pytest.param(stage, range(1, 6), marks=pytest.mark.slow) for stage in (0, 1, 2))],
    ids=["1-border", "0-all", "1-all", "2-all"],
)
@pytest.mark.parametrize("method", METHODS)
def test_a_run_stopped_after_any_step_and_resumed_equals_an_unbroken_one_to_the_bit(
    data, tmp_path, method, zero_stage, stops
):
    whole = train(method, data, tmp_path / "whole", zero_stage=zero_stage)
    assert whole.counters.step == whole.total_steps == 6
    for until in stops:
        train(method, data, tmp_path / f"{until}", until, zero_stage=zero_stage)
        resumed = train(method, data, tmp_path / f"{until}", zero_stage=zero_stage)
        small.assert_equal(state(resumed), state(whole))
        assert resumed.counters == whole.counters
        result = [record for record in log_lines(tmp_path / f"{until}") if is_of_both(record, until)]
        assert result == [record for record in log_lines(tmp_path / "whole") if is_of_both(record, until)]


def test_the_time_left_is_that_of_the_stage(data, tmp_path):
    train("adversarial", data, tmp_path / "run")
    records = [json.loads(line) for line in (tmp_path / "run/log.jsonl").read_text().splitlines()]
    left = [record["seconds_left"] * record["samples_per_second"] for record in records if "loss" in record]
    assert left == pytest.approx([8, 4, 0, 4, 2, 0])  # batches of 4, then of 2


def test_every_line_names_its_stage_and_every_optimizer(data, tmp_path):
    train("adversarial", data, tmp_path / "run")
    records = [record for record in log_lines(tmp_path / "run") if "loss" in record]
    assert [record["stage"] for record in records] == ["autoencoder"] * 3 + ["denoiser"] * 3
    assert all("loss_adversary" in record and "gradient_norm_adversary" in record for record in records[:3])
    assert not any("loss_adversary" in record for record in records[3:])
    assert records[-1]["samples_seen"] == 3 * 4 + 3 * 2
    assert checkpoint_manifest.complete_steps(tmp_path / "run") == [3, 6]  # the last step of every stage is saved


def test_an_optimizer_moves_its_own_networks_alone(data, tmp_path):
    first = train("adversarial", data, tmp_path / "run", until=3)
    names = {name: list(engine._trained) for name, engine in first.stage.engines.items()}
    assert names["adversary"] == ["critic.weight", "critic.bias"] and not set(names["adversary"]) & set(names["main"])
    assert not any(name.startswith("denoiser.") for name in names["main"])
    before = {name: t.clone() for name, t in first.model.method.state_dict().items()}
    last = train("adversarial", data, tmp_path / "run").model.method.state_dict()
    moved = {name.partition(".")[0] for name, t in last.items() if not torch.equal(t, before[name])}
    assert moved == {"denoiser", "mean", "std"}


def test_a_stage_learns_from_what_the_weights_of_the_one_before_made_of_each_set(data, tmp_path):
    trainer = train("adversarial", data, tmp_path / "run", until=4)
    (folder,) = (tmp_path / "run" / "precomputed").iterdir()
    shards, method = ShardDataset(folder), trainer.model.method
    assert shards.splits == ["train", "held-out"] and shards.count("train") == 20 and shards.count("held-out") == 10
    source = ShardDataset(data)
    images = torch.from_numpy(source.read("train", range(20)).values).float() / 127.5 - 1
    result = torch.from_numpy(shards.read("train", range(20)).values)
    with torch.no_grad():
        latents = method.encoder(images.movedim(-1, 1)).flatten(2).mT
    assert result.dtype == torch.float16
    torch.testing.assert_close(result, latents.half(), rtol=1e-3, atol=1e-5)
    torch.testing.assert_close(method.mean, result.float().mean((0, 1)), rtol=0, atol=1e-5)
    torch.testing.assert_close(method.std, result.float().std((0, 1), correction=0), rtol=0, atol=1e-5)
    batch = trainer.loader.batch(7, range(2))
    positions, seeds = trainer.loader.order(7, range(2))
    assert torch.equal(batch.values, result[positions]) and torch.equal(batch.seeds, seeds)


def test_a_stage_of_0_steps_takes_the_weights_of_another_run_and_the_others_begin_at_random(data, tmp_path):
    source = train("latent", data, tmp_path / "first", until=3)
    weights = source.model.method.state_dict()
    notes: list[str] = []
    skipped = staged_runs.preset("latent", seed=7, autoencoder={"steps": 0, "learning_rate": 0.02, "ema": [0.5]})
    job = setup.TrainJob(skipped, tmp_path / "run", data=data, device="cpu", threads=1, say=notes.append)
    with pytest.raises(UsageError, match="the stage `autoencoder` has 0 steps, and the stages after it need"):
        setup.train(job)
    (raw,) = (tmp_path / "first" / "checkpoints" / "00000003").glob("weights.safetensors")
    train("latent", data, tmp_path / "early", until=2)
    with pytest.raises(UsageError, match="is of step 2, and its stage `autoencoder` ends at step 3"):
        setup.train(replace(job, init_from=tmp_path / "early" / "checkpoints" / "00000002" / "weights.safetensors"))
    other = replace(job.preset, domain=replace(job.preset.domain, config=replace(job.preset.domain.config, flip=True)))
    with pytest.raises(UsageError, match=r"was trained with another \[domain\] than `tiny`"):
        setup.train(replace(job, preset=other, init_from=raw))
    trainer = setup.train(replace(job, init_from=raw, until=1))
    after = trainer.model.method.state_dict()
    for name, tensor in weights.items():
        if name.startswith(("autoencoder.", "readout.")):
            assert torch.equal(after[name], tensor), name
    assert not torch.equal(after["denoiser.network.first.weight"], weights["denoiser.network.first.weight"])
    assert any("the weights of the stage `autoencoder` are those of" in note for note in notes)
    assert trainer.counters.stage == 1 and trainer.counters.step == 1
    resumed = setup.train(replace(job, init_from=None))
    assert resumed.counters.step == 3 and (tmp_path / "run" / "precomputed").is_dir()


def test_the_last_stage_must_have_steps():
    with pytest.raises(UsageError, match=r"\[training.diffusion\] `steps` is 0: it must be at least 1"):
        staged_runs.preset("latent", diffusion={"steps": 0})
    with pytest.raises(UsageError, match=r"\[training\] `steps` is 0: it must be at least 1"):
        staged_runs.preset("latent", steps=0)


def test_precomputed_shards_are_reused_and_a_damaged_one_is_named_and_computed_again(data, tmp_path):
    whole = state(train("adversarial", data, tmp_path / "run"))
    train("adversarial", data, tmp_path / "cut", until=4)
    (folder,) = (tmp_path / "cut" / "precomputed").iterdir()
    first, second = folder / "train-00000.h5", folder / "held-out-00000.h5"
    content, remaining = first.read_bytes(), second.stat().st_mtime_ns
    first.write_bytes(content[:-1] + bytes([content[-1] ^ 1]))
    said: list[str] = []
    resumed = train("adversarial", data, tmp_path / "cut", say=said.append)
    assert any(f"`{first}` is damaged" in line and "computing it again" in line for line in said)
    assert first.read_bytes() == content and second.stat().st_mtime_ns == remaining
    small.assert_equal(state(resumed), whole)


def test_values_that_are_not_finite_are_named_and_never_kept(data, tmp_path, monkeypatch):
    train("adversarial", data, tmp_path / "run", until=3)
    method = class_of_latent()
    encode = method.encode

    def with_nan(self, sets):
        latents = encode(self, sets)
        return torch.where(torch.arange(len(latents))[:, None, None] == 1, torch.nan, latents)

    monkeypatch.setattr(method, "encode", with_nan)
    with pytest.raises(Diverged, match="`latents` of set 1 are not finite"):
        train("adversarial", data, tmp_path / "run")
    assert not list((tmp_path / "run" / "precomputed").rglob("*.h5"))


def class_of_latent() -> Any:
    """The class of the method of latents."""
    return preset("adversarial").method.module.Latent


@pytest.mark.parametrize("left", ["manifest.json", "train-00000.h5"])
def test_a_kill_among_the_precomputed_shards_leaves_what_the_next_call_completes(data, tmp_path, left):
    whole = state(train("adversarial", data, tmp_path / "run"))
    train("adversarial", data, tmp_path / "cut", until=3)
    train("adversarial", data, tmp_path / "cut", until=4)
    (folder,) = (tmp_path / "cut" / "precomputed").iterdir()
    shutil.rmtree(checkpoint_manifest.checkpoint_folder(tmp_path / "cut", 4))
    for name in {"manifest.json", left}:
        (folder / name).unlink()
    (folder.parent / "latents-0000000000000000").mkdir()  # of other weights
    resumed = train("adversarial", data, tmp_path / "cut")
    assert [path.name for path in folder.parent.iterdir()] == [folder.name]
    small.assert_equal(state(resumed), whole)


def test_a_finished_run_of_stages_is_lengthened_in_its_last_stage(data, tmp_path):
    longer: dict[str, Any] = {"denoiser": {**staged_runs.STAGES["adversarial"]["denoiser"], "steps": 5}}
    whole = train("adversarial", data, tmp_path / "run", **longer)
    train("adversarial", data, tmp_path / "cut")
    resumed = train("adversarial", data, tmp_path / "cut", **longer)
    assert resumed.counters.step == 8
    small.assert_equal(state(resumed), state(whole))
    with pytest.raises(UsageError, match=r"begun with \[training.autoencoder\] `steps` = 3, and this command says 4"):
        run_folder.read_existing_run(tmp_path / "cut", preset("adversarial", autoencoder={"steps": 4}))


def test_the_teacher_follows_the_network_and_is_in_every_file_of_weights(data, tmp_path):
    trainer = train("denoise", data, tmp_path / "run")
    folder = checkpoint_manifest.checkpoint_folder(tmp_path / "run", 6)
    for name in ("weights", "ema_0.5"):
        method = models.load(folder / f"{name}.safetensors").method
        small.assert_equal(dict(method.teacher.state_dict()), dict(trainer.model.method.teacher.state_dict()))
    teacher = trainer.model.method.teacher.state_dict()
    assert any(not torch.equal(t, teacher[name]) for name, t in trainer.model.method.network.state_dict().items())


def test_a_step_of_radam_without_a_finite_gradient_moves_nothing(tmp_path):
    data = small.clouds(tmp_path / "shards", bad=slice(None))
    job = small.job(data, tmp_path / "run", kind=tiny.POINTS, steps=2, optimizer="radam")
    fresh = setup.build_trainer(setup.check_job(job, {}))
    before = {name: t.clone() for name, t in small.state(fresh).items()}
    with pytest.raises(Diverged, match="none of the 2 steps"):
        fresh.run(2)
    assert fresh.counters.skipped == 2 and fresh.engine.num_updates == 0
    small.assert_equal(small.state(fresh), before)


def test_stage_3_is_refused_for_several_stages(data, tmp_path):
    with pytest.raises(UsageError, match="ZeRO stage 3 trains methods of one stage and one optimizer alone") as caught:
        train("denoise", data, tmp_path / "run", zero_stage=3)
    assert caught.value.hint == "take stage 2: `--set training.zero_stage=2`" and not (tmp_path / "run").exists()


def test_tables_of_stages_survive_a_file_and_what_they_cannot_say_is_refused():
    made = preset("adversarial")
    settings = made.training.config
    assert settings.for_stage("denoiser").batch == 2 and settings.for_stage("autoencoder").batch == 4
    assert settings.for_stage("autoencoder", "adversary").optimizer == "adam"
    assert settings.total_steps(["autoencoder", "denoiser"]) == 6
    assert presets.resolve("again", toml.tomli.loads(toml.to_toml(made.table()))).training == made.training
    for table, message in (
        ({"nowhere": {"steps": 2}}, r"\[training.nowhere\] is not a stage"),
        ({"denoiser": {"seed": 2}}, r"\[training.denoiser\] cannot override `seed`"),
        ({"denoiser": {"adversary": {"clip": 2.0}}}, r"\[training.denoiser.adversary\] is not an optimizer"),
        ({"autoencoder": {"adversary": {"batch": 2}}}, r"\[training.autoencoder.adversary\] cannot override `batch`"),
    ):
        with pytest.raises(UsageError, match=message):
            preset("adversarial", **table)


def test_a_stage_that_names_no_network_of_the_method_is_a_fault():
    method = models.build(preset("adversarial")).method
    with pytest.raises(AssertionError, match=r"trains \['critics'\], which `networks\(\)` lacks"):
        weights_by_optimizer(method, Stage("wrong", {"main": ("critics",)}))
