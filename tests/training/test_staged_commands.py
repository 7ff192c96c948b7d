"""Methods of several stages by the command line: killed before any step and resumed, planned, sampled, evaluated, exported."""

from __future__ import annotations

import json
import subprocess
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import safetensors.torch

from inrflow_core.config import toml
from inrflow_core.runs import checkpoint_manifest
from tests.training import forked_commands, small, staged_runs
from tests.training.launched import CHECKOUT, environment, launch, torchrun

METHODS = tuple(staged_runs.STAGES)
STEPS = 6


@pytest.fixture(scope="module")
def data(tmp_path_factory) -> Path:
    return small.images(tmp_path_factory.mktemp("staged") / "shards", side=staged_runs.SIDE)


def training(method: str, data: Path, out: Path, zero_stage: int = 1) -> list[str]:
    """The arguments of `inrflow train` for a small preset that saves every second step."""
    file = out.with_suffix(".toml")
    file.write_text(toml.to_toml(staged_runs.tables(method, save_every=2, zero_stage=zero_stage)))
    return ["train", "--preset", *map(str, (file, "--data", data, "--out", out)), "--device", "cpu", "--threads", "1"]


def run(jobs: list[dict[str, Any]], folder: Path) -> list[int]:
    """The exit codes of some commands."""
    return [code for code, _ in forked_commands.run([job | {"own": True} for job in jobs], folder, CHECKOUT)]


def saved(out: Path, step: int = STEPS) -> dict[str, Any]:
    """Every tensor of a checkpoint, and its counters."""
    folder = checkpoint_manifest.checkpoint_folder(out, step)
    result: dict[str, Any] = {"counters": json.loads((folder / "state" / "counters.json").read_text())}
    for file in folder.rglob("*.safetensors"):
        result |= {f"{file.name}.{name}": t.numpy() for name, t in safetensors.torch.load_file(file).items()}
    return result


def assert_same(one: Path, other: Path) -> None:
    """Two finished runs have the same checkpoint to the bit, and logged the same losses."""
    result, expected = saved(one), saved(other)
    assert result.keys() == expected.keys() and len(result) > 30
    for name, value in expected.items():
        np.testing.assert_array_equal(result[name], value, name)
    assert small.losses(one) == small.losses(other)


@pytest.mark.parametrize(
    ("method", "zero_stage", "kills"),
    [
        ("adversarial", 1, [4]),
        *(pytest.param(m, z, range(STEPS), marks=pytest.mark.slow) for m in METHODS for z in (0, 1, 2)),
    ],
)
def test_a_run_killed_before_a_step_and_started_again_equals_an_unbroken_one(data, tmp_path, method, zero_stage, kills):
    jobs: list[dict[str, Any]] = [{"arguments": training(method, data, tmp_path / "whole", zero_stage)}]
    for kill in kills:
        arguments = training(method, data, tmp_path / f"killed-{kill}", zero_stage)
        jobs += [{"arguments": arguments, "kill": kill}, {"arguments": arguments}]
    assert run(jobs, tmp_path) == [0, *[-9, 0] * len(kills)]
    for kill in kills:
        assert_same(tmp_path / f"killed-{kill}", tmp_path / "whole")


@pytest.mark.parametrize(
    "method", ["latent", *(pytest.param(name, marks=pytest.mark.slow) for name in ("adversarial", "denoise"))]
)
def test_such_a_run_is_planned_sampled_evaluated_and_exported(data, tmp_path, method):
    train, of = training(method, data, tmp_path / "run"), ["--run", str(tmp_path / "run"), "--device", "cpu"]
    commands = [
        [*train, "--dry-run", "--json"],
        train,
        ["sample", *of, "--num", "6", "a.npz"],
        ["sample", *of, "--num", "6", "--batch", "4", "--chunk", "7", "b.npz"],
        ["sample", *of, "--num", "2", "--resolution", "24", "--save-field", "field.safetensors", "large.npz"],
        ["upsample", "field.safetensors", "--resolution", "24", "again.npz"],
        ["sample", *of, "--num", "6", "--precision", "bf16", "d.npz"],
        ["sample", *of, "--num", "8", "samples"],
        ["eval", *of, "--reference", str(data), "--metrics", "kid:random", "--num", "8", "--out", "scores"],
        ["eval", "--samples", "samples", "--reference", str(data), "--metrics", "kid:random", "--out", "scores2"],
        ["export", str(tmp_path / "run"), "weights.safetensors"],
        ["sample", "--run", "weights.safetensors", "--num", "6", "c.npz"],
    ]
    assert run([{"arguments": command} for command in commands], tmp_path) == [0] * len(commands)
    a, b, c, large, again = (
        np.load(tmp_path / f"{name}.npz")["images"].astype(int) for name in ("a", "b", "c", "large", "again")
    )
    assert a.shape == (6, 12, 12, 1) and large.shape == (2, 24, 24, 1) and a.std() > 0
    for other in (b, c):
        assert abs(a - other).max() <= 1
    assert abs(large - again).max() <= 1
    scores = [json.loads((tmp_path / name / "metrics.json").read_text()) for name in ("scores", "scores2")]
    assert all("kid:random" in json.dumps(table) for table in scores)


@pytest.mark.slow
@pytest.mark.parametrize("method", METHODS)
def test_two_processes_train_as_one_does_and_resume_after_any_step_to_the_bit(data, tmp_path, method):
    run([{"arguments": training(method, data, tmp_path / "alone")}], tmp_path)
    jobs: list[dict[str, Any]] = []
    for zero_stage in (1, 2):
        reported = {"data": data, "method": method, "training": {"save_every": 2, "zero_stage": zero_stage}}
        jobs.append(reported | {"out": tmp_path / f"whole-{zero_stage}"})
        for until in range(1, STEPS):
            out = tmp_path / f"cut-{zero_stage}-{until}"
            jobs += [reported | {"out": out, "until": until}, reported | {"out": out}]
    launch(2, jobs, tmp_path)
    for zero_stage in (1, 2):
        whole = tmp_path / f"whole-{zero_stage}"
        assert small.losses(whole) == pytest.approx(small.losses(tmp_path / "alone"), rel=1e-4)
        for until in range(1, STEPS):
            assert_same(tmp_path / f"cut-{zero_stage}-{until}", whole)


@pytest.mark.slow
@pytest.mark.parametrize("zero_stage", [1, 2])
@pytest.mark.parametrize("method", METHODS)
def test_one_of_two_processes_killed_in_a_checkpoint_leaves_a_run_that_resumes(data, tmp_path, method, zero_stage):
    whole, out = tmp_path / "whole", tmp_path / "run"
    for folder, harm in ((whole, []), (out, ["kill-gathering", "1", "4"]), (out, [])):
        module = ["-m", "tests.training.sabotage", *harm] if harm else ["-m", "tests.own_methods"]
        command = torchrun("--standalone", "--nproc-per-node", 2, *module, *training(method, data, folder, zero_stage))
        done = subprocess.run(command, cwd=CHECKOUT, env=environment(), capture_output=True, text=True)
        assert (done.returncode != 0) == bool(harm), done.stderr
    assert_same(out, whole)
