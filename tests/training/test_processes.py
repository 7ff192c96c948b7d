"""Training in processes of its own: killed, interrupted, and two at once."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
from dataclasses import replace
from pathlib import Path

import pytest

from inrflow_core.config import toml
from inrflow_core.errors import UsageError
from inrflow_core.feature_networks import _contract
from inrflow_core.runs import checkpoint_manifest
from inrflow_core.runtime import process_group
from inrflow_core.training import setup
from tests import tiny
from tests.training import conditioned_runs, small
from tests.training.launched import CHECKOUT, launch


@pytest.fixture(scope="module")
def data(tmp_path_factory) -> Path:
    return small.images(tmp_path_factory.mktemp("processes") / "shards")


def start(data: Path, out: Path, **training) -> subprocess.Popen:
    """`inrflow train` in a process of its own."""
    file = out.with_suffix(".toml")
    file.write_text(toml.to_toml(small.preset(training=training).table()))
    arguments = ["--preset", file, "--data", data, "--out", out, "--device", "cpu", "--threads", "1", "--json"]
    return subprocess.Popen(
        [sys.executable, "-m", "inrflow_cli.app", "train", *map(str, arguments)],
        cwd=CHECKOUT, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True,
        env=os.environ | {"OMP_NUM_THREADS": "1"},
    )  # fmt: skip


def wait_for(out: Path, step: int, process: subprocess.Popen) -> None:
    """Until a checkpoint of that step or a later one is complete."""
    deadline = time.monotonic() + 120
    while not any(done >= step for done in checkpoint_manifest.complete_steps(out)):
        assert process.poll() is None, process.communicate()[1]
        assert time.monotonic() < deadline
        time.sleep(0.01)


def test_a_run_that_was_killed_resumes_and_equals_an_unbroken_one_to_the_bit(data, tmp_path):
    steps = 24
    process = start(data, tmp_path / "run", steps=steps, save_every=2)
    wait_for(tmp_path / "run", 4, process)
    process.kill()
    process.communicate()
    begun = checkpoint_manifest.complete_steps(tmp_path / "run")[-1]
    assert 4 <= begun < steps
    resumed = small.train(data, tmp_path / "run", steps=steps, save_every=2)
    whole = small.train(data, tmp_path / "whole", steps=steps, save_every=100)
    small.assert_equal(small.state(resumed), small.state(whole))
    assert resumed.counters == whole.counters
    assert small.losses(tmp_path / "run") == small.losses(tmp_path / "whole")


def test_sigterm_finishes_the_step_saves_and_leaves_with_130(data, tmp_path):
    process = start(data, tmp_path / "run", steps=100_000, save_every=100_000, log_every=1)
    log = tmp_path / "run/log.jsonl"
    while not (log.is_file() and log.read_text().count("\n") > 3):
        assert process.poll() is None, process.communicate()[1]
        time.sleep(0.01)
    process.send_signal(signal.SIGTERM)
    out, errors = process.communicate(timeout=60)
    assert process.returncode == 130
    (step,) = checkpoint_manifest.complete_steps(tmp_path / "run")
    assert len(small.losses(tmp_path / "run")) == step
    assert json.loads(out) == {
        "error": f"interrupted after step {step}, which is saved in `{tmp_path}/run`",
        "hint": "run the same command again to resume from there",
        "code": 130,
    }
    assert "Traceback" not in errors


def two(folder: Path, data: Path, stages: list[int], kind: str | None = None) -> None:
    """Both processes' steps up to the fourth, in `folder/shared/stageN`."""
    reported = {"data": data, "until": 4, "kind": kind}
    launch(2, [reported | {"out": folder / f"shared/stage{s}", "training": {"zero_stage": s}} for s in stages], folder)


@pytest.mark.parametrize("stages", [[0, 1, 2], pytest.param([3], marks=pytest.mark.slow)], ids=["0-2", "3"])
def test_two_processes_have_the_losses_of_one_and_either_resumes_the_others_run(data, tmp_path, stages):
    alone = small.train(data, tmp_path / "alone")
    expected = small.losses(tmp_path / "alone")
    for stage in stages:  # one process up to step 2, two up to step 4, one to the end
        small.train(data, tmp_path / f"shared/stage{stage}", zero_stage=stage, until=2)
    two(tmp_path, data, stages)
    for stage in stages:
        out = tmp_path / f"shared/stage{stage}"
        result = small.train(data, out, zero_stage=stage)
        assert small.losses(out) == pytest.approx(expected, rel=1e-5)
        small.assert_equal(small.state(result), small.state(alone), tolerance=1e-4)


@pytest.mark.slow
@pytest.mark.parametrize("kind", ["IMAGE_TO_POINTS", "PROTEIN", "COUPLED_POINTS"])
def test_two_processes_learn_from_images_sequences_and_coupled_points_as_one_does(kind, tmp_path):
    """Chains are of unequal size: each process passes the network with packs of its own, in stage 3 with one."""
    sets = getattr(tiny, kind)
    if kind == "COUPLED_POINTS":
        data = small.clouds(tmp_path / "shards")
    else:
        make = conditioned_runs.pictured if kind == "IMAGE_TO_POINTS" else conditioned_runs.folded
        data = make(tmp_path / "shards", _contract.load("patches") if kind == "IMAGE_TO_POINTS" else None)
    alone = setup.train(conditioned_runs.job(data, tmp_path / "alone", sets))
    expected = small.losses(tmp_path / "alone")
    for stage in (1, 2, 3):
        setup.train(
            conditioned_runs.job(data, tmp_path / f"shared/stage{stage}", sets, until=2, training={"zero_stage": stage})
        )
    two(tmp_path, data, [1, 2, 3], kind)
    for stage in (1, 2, 3):
        out = tmp_path / f"shared/stage{stage}"
        result = setup.train(conditioned_runs.job(data, out, sets, training={"zero_stage": stage}))
        assert small.losses(out) == pytest.approx(expected, rel=1e-5)
        small.assert_equal(small.state(result), small.state(alone), tolerance=1e-4)


def test_processes_that_see_different_runs_in_one_folder_are_refused(data, tmp_path, monkeypatch):
    """As on two machines that do not share it: the other process finds no checkpoint."""
    small.train(data, tmp_path / "run", until=2)
    ready = setup.check_job(small.job(data, tmp_path / "run"), {})
    ready = replace(ready, world=replace(ready.world, size=2))
    monkeypatch.setattr(process_group, "all_reduce_sum", lambda world, step, square: [step - 1, square + 1])
    with pytest.raises(UsageError, match="do not see the same run in"):
        setup._resume(ready, setup.build_trainer)  # pyright: ignore[reportArgumentType] - not reached
