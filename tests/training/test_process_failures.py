"""Several processes, and one of them comes to harm: what is saved, what is reported, how soon the others end."""

from __future__ import annotations

import subprocess
import time
from pathlib import Path

import psutil
import pytest

from inrflow_core.config import toml
from inrflow_core.runs import checkpoint_manifest
from tests.training import small
from tests.training.launched import CHECKOUT, environment, torchrun

SETTINGS = {"steps": 8, "save_every": 2, "keep": 8}
PATIENT = 150
"""Seconds that a launcher may take in all on a machine that is busy."""


@pytest.fixture(scope="module")
def data(tmp_path_factory) -> Path:
    return small.images(tmp_path_factory.mktemp("harm") / "shards")


@pytest.fixture(scope="module")
def unbroken(data, tmp_path_factory):
    return small.train(data, tmp_path_factory.mktemp("unbroken") / "run", **SETTINGS)


def start(data: Path, out: Path, *harm: object, processes: int = 2, **training) -> subprocess.Popen[str]:
    """`inrflow train` under torchrun."""
    file = out.with_suffix(".toml")
    file.write_text(toml.to_toml(small.preset(training=SETTINGS | training).table()))
    words = ["train", "--preset", file, "--data", data, "--out", out, "--device", "cpu", "--threads", "1"]
    module = ["-m", "tests.training.sabotage", *harm] if harm else ["-m", "inrflow_cli.app"]
    command = torchrun("--standalone", "--nproc-per-node", processes, *module, *words)
    return subprocess.Popen(command, cwd=CHECKOUT, env=environment(), stderr=subprocess.PIPE, text=True)


def train(data: Path, out: Path, *harm: object, processes: int = 2, **training) -> tuple[int, str]:
    """The exit code of such a launch, and what it reported."""
    launcher = start(data, out, *harm, processes=processes, **training)
    reported = launcher.communicate(timeout=PATIENT)[1]
    return launcher.returncode, reported


def left_behind(out: Path) -> list[list[str]]:
    """Processes that still work on a run; those that are ending get a moment."""
    result: list[list[str]] = []
    for _ in range(50):
        result = [p.info["cmdline"] for p in psutil.process_iter(["cmdline"]) if str(out) in (p.info["cmdline"] or [])]
        if not result:
            break
        time.sleep(0.1)
    return result


@pytest.mark.slow
@pytest.mark.parametrize(
    ("how", "rank", "stage"),
    [("kill-writing", 0, 2), ("kill-gathering", 1, 1), ("kill-gathering", 1, 3), ("full", 0, 3)],
)
def test_harm_in_a_checkpoint_leaves_the_one_before_and_the_next_call_resumes(
    data, unbroken, tmp_path, how, rank, stage
):
    out = tmp_path / "run"
    code, reported = train(data, out, how, rank, 6, zero_stage=stage)
    assert code != 0
    assert left_behind(out) == []
    assert checkpoint_manifest.complete_steps(out) == [2, 4]
    assert str(CHECKOUT / "inrflow_") not in reported  # torchrun ends with a traceback of its own; we do not
    assert reported.count("error: ") == 1
    says = "the disk is full" if how == "full" else "error: another process of this run ended"
    assert says in reported
    assert ("exitcode  : 5" if how == "full" else "exitcode  : -9") in reported
    resumed = small.train(data, out, **SETTINGS, zero_stage=stage)
    assert resumed.counters == unbroken.counters
    assert small.losses(out) == pytest.approx(small.losses(unbroken.out), rel=1e-5)
    small.assert_equal(small.state(resumed), small.state(unbroken), tolerance=1e-4)
    assert sorted(path.name for path in (out / "checkpoints").iterdir()) == [f"{n:08d}" for n in (2, 4, 6, 8)]


@pytest.mark.slow
@pytest.mark.parametrize("victim", ["0", "1"])
def test_a_process_killed_between_checkpoints_takes_the_others_with_it_at_once(data, tmp_path, victim):
    out = tmp_path / "run"
    launcher = start(data, out, steps=100_000, save_every=100_000, log_every=1)
    deadline = time.monotonic() + PATIENT
    while not ((out / "log.jsonl").is_file() and (out / "log.jsonl").read_text().count("\n") > 3):
        assert launcher.poll() is None and time.monotonic() < deadline
        time.sleep(0.05)
    workers = [p for p in psutil.Process(launcher.pid).children(recursive=True) if "inrflow_cli.app" in p.cmdline()]
    killed = [process for process in workers if process.environ()["RANK"] == victim]
    killed[0].kill()
    _, alive = psutil.wait_procs(workers, timeout=20)  # half a second here; the launcher itself takes three more
    reported = launcher.communicate(timeout=PATIENT)[1]
    assert len(workers) == 2 and not alive and launcher.returncode != 0
    assert reported.count("error: another process of this run ended") == 1
    assert left_behind(out) == []


@pytest.mark.slow
def test_an_error_that_all_processes_meet_is_reported_once(data, tmp_path):
    code, reported = train(data, tmp_path / "run", processes=3)
    assert code != 0
    assert reported.count("error: a batch of 4 does not divide over 3 processes") == 1
    assert reported.count("hint: ") == 1
    assert "exitcode  : 2" in reported
