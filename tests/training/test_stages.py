"""Methods of several stages: one run goes through all of them, and resumes in any to the bit."""

from __future__ import annotations

import importlib
import json
from pathlib import Path

import pytest
import torch

from inrflow_core import models, registry
from inrflow_core.config import preset as presets
from inrflow_core.config import toml
from inrflow_core.errors import UsageError
from inrflow_core.methods._contract import Stage
from inrflow_core.methods._trained_weights import weights_by_optimizer
from inrflow_core.runs import checkpoint_manifest
from inrflow_core.training import setup
from inrflow_core.training.trainer import Trainer
from tests import tiny
from tests.training import small

METHODS = {
    "taught": {"alone": {"steps": 2}, "taught": {"optimizer": "radam", "learning_rate": 0.02, "ema": [0.5]}},
    "adversarial": {"against": {"adversary": {"optimizer": "adam", "learning_rate": 0.1}}, "alone": {"batch": 2}},
}
"""Methods of these tests, and the tables of their stages."""
TRAINING = {"steps": 3, "log_every": 1, "save_every": 100, "keep": 10, "clip": 1.0}


@pytest.fixture(autouse=True)
def _found_by_name(monkeypatch):
    """The methods of these tests are found as those of inrflow are."""
    find, path = registry.find, registry.path

    def found(kind: str, name: str):
        is_ours = kind == "methods" and name in METHODS
        return importlib.import_module(f"tests.training.{name}_method") if is_ours else find(kind, name)

    def lies(kind: str, name: str) -> Path:
        is_ours = kind == "methods" and name in METHODS
        return Path(__file__).with_name(f"{name}_method.py") if is_ours else path(kind, name)

    monkeypatch.setattr(registry, "find", found)
    monkeypatch.setattr(registry, "path", lies)


@pytest.fixture(scope="module")
def data(tmp_path_factory) -> Path:
    return small.images(tmp_path_factory.mktemp("stages") / "shards")


def preset(method: str, **changes) -> presets.Preset:
    """A small preset of a method of these tests."""
    return small.preset(tiny.IMAGE, method={"name": method}, training={**TRAINING, **METHODS[method], **changes})


def train(method: str, data: Path, out: Path, until: int | None = None, **changes) -> Trainer:
    """Train one up to a step."""
    chosen = preset(method, **changes)
    return setup.train(setup.TrainJob(chosen, out, data=data, device="cpu", threads=1, until=until))


def state(trainer: Trainer) -> dict[str, torch.Tensor]:
    """Weights, averages and what every optimizer remembers."""
    found = small.state(trainer)
    for name, engine in trainer.stage.engines.items():
        moments = zip(engine.moments_layout(), [t.clone() for t in engine.moments()], strict=True)
        found |= {f"{name}.{key}": value for key, value in moments}
    return found


def told(out: Path) -> list[dict]:
    """The log without what is measured in seconds and bytes."""
    measured = {"samples_per_second", "data_wait", "memory", "seconds_left"}
    records = [json.loads(line) for line in (out / "log.jsonl").read_text().splitlines()]
    return [{key: value for key, value in record.items() if key not in measured} for record in records]


BORDER = 3
"""The step that ends the first stage of the adversarial method, and lies in the second stage of the taught one."""


@pytest.mark.parametrize(
    ("zero_stage", "stops"),
    [(1, [BORDER]), *(pytest.param(stage, range(1, 6), marks=pytest.mark.slow) for stage in (0, 1, 2))],
    ids=["1-border", "0-all", "1-all", "2-all"],
)
@pytest.mark.parametrize("method", METHODS)
def test_a_run_stopped_after_any_step_and_resumed_equals_an_unbroken_one_to_the_bit(
    data, tmp_path, method, zero_stage, stops
):
    whole = train(method, data, tmp_path / "whole", zero_stage=zero_stage)
    total = whole.counters.step
    assert total == whole.total_steps == (5 if method == "taught" else 6)
    for until in (stop for stop in stops if stop < total):
        train(method, data, tmp_path / f"{until}", until, zero_stage=zero_stage)
        resumed = train(method, data, tmp_path / f"{until}", zero_stage=zero_stage)
        small.assert_equal(state(resumed), state(whole))
        assert resumed.counters == whole.counters
        assert told(tmp_path / f"{until}") == told(tmp_path / "whole")


def test_every_line_names_its_stage_and_every_optimizer(data, tmp_path):
    train("adversarial", data, tmp_path / "run")
    records = told(tmp_path / "run")
    assert [record["stage"] for record in records] == ["against"] * 3 + ["alone"] * 3
    assert all("loss_adversary" in record and "gradient_norm_adversary" in record for record in records[:3])
    assert not any("loss_adversary" in record for record in records[3:])
    assert records[-1]["samples_seen"] == 3 * 4 + 3 * 2
    assert checkpoint_manifest.complete_steps(tmp_path / "run") == [3, 6]  # the last step of every stage is saved


def test_an_optimizer_moves_its_own_networks_alone(data, tmp_path):
    first = train("adversarial", data, tmp_path / "run", until=3)
    names = {name: list(engine._trained) for name, engine in first.stage.engines.items()}
    assert names["adversary"] == ["critic.weight", "critic.bias"] and not set(names["adversary"]) & set(names["main"])
    critic = {name: t.clone() for name, t in first.model.method.critic.state_dict().items()}
    last = train("adversarial", data, tmp_path / "run")
    assert all(torch.equal(t, critic[name]) for name, t in last.model.method.critic.state_dict().items())


def test_the_teacher_follows_the_network_and_lies_in_every_file_of_weights(data, tmp_path):
    trainer = train("taught", data, tmp_path / "run")
    folder = checkpoint_manifest.checkpoint_folder(tmp_path / "run", 5)
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
    fresh.run(2)
    assert fresh.counters.skipped == 2 and fresh.engine.updates == 0
    small.assert_equal(small.state(fresh), before)


def test_stage_3_is_refused_for_several_stages(data, tmp_path):
    with pytest.raises(UsageError, match="methods of one stage and one optimizer alone"):
        train("taught", data, tmp_path / "run", zero_stage=3)


def test_tables_of_stages_survive_a_file_and_what_they_cannot_say_is_refused():
    made = preset("adversarial")
    settings = made.training.config
    assert settings.for_stage("alone").batch == 2 and settings.for_stage("against").batch == 4
    assert settings.for_stage("against", "adversary").optimizer == "adam"
    assert settings.total_steps(["against", "alone"]) == 6
    assert presets.resolve("again", toml.tomli.loads(toml.to_toml(made.table()))).training == made.training
    for table, message in (
        ({"nowhere": {"steps": 2}}, r"\[training.nowhere\] is not a stage"),
        ({"alone": {"seed": 2}}, r"\[training.alone\] cannot override `seed`"),
        ({"alone": {"adversary": {"clip": 2.0}}}, r"\[training.alone.adversary\] is not an optimizer"),
        ({"against": {"adversary": {"batch": 2}}}, r"\[training.against.adversary\] cannot override `batch`"),
    ):
        with pytest.raises(UsageError, match=message):
            preset("adversarial", **table)


def test_a_stage_that_names_no_network_of_the_method_is_a_fault():
    method = models.build(preset("adversarial")).method
    with pytest.raises(AssertionError, match=r"trains \['critics'\], which `networks\(\)` lacks"):
        weights_by_optimizer(method, Stage("wrong", {"main": ("critics",)}))
