"""`prepare` on a Ray cluster of two nodes: the bytes of one process, also where a node dies in the middle."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import psutil
import pytest

from inrflow_core.datasets import solids
from inrflow_core.errors import InrflowError, MissingError, OutOfMemory, UsageError
from inrflow_core.preparation import job, job_array, journal
from inrflow_core.preparation.job import PrepareJob, Report, resolve_job
from inrflow_core.preparation.pipeline import prepare
from inrflow_core.runtime import process_pool, ray_pool
from tests import prepare_jobs
from tests.prepare_jobs import KINDS, content, made

CHECKOUT = Path(__file__).parents[2]
slow = pytest.mark.slow


@pytest.fixture(autouse=True)
def _small(monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr(job, "MIN_ITEMS", 12)
    monkeypatch.setenv("RAY_USAGE_STATS_ENABLED", "0")


@pytest.fixture(scope="module")
def nodes() -> Iterator[Any]:
    """A cluster whose head has no core and which has two more nodes of one core each."""
    pytest.importorskip("ray")
    from ray.cluster_utils import Cluster

    os.environ["RAY_USAGE_STATS_ENABLED"] = "0"
    result = Cluster(initialize_head=True, head_node_args={"num_cpus": 0, "include_dashboard": False})
    result.workers = [result.add_node(num_cpus=1) for _ in range(2)]  # type: ignore[attr-defined]
    result.wait_for_nodes()
    yield result
    result.shutdown()


@pytest.fixture(scope="module")
def raw_files(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    pytest.importorskip("biotite")
    return prepare_jobs.sources(tmp_path_factory.mktemp("raw"))


def on_ray(work: PrepareJob, address: str | None, **options: Any) -> Report:
    source = work.source if work.source.exists() else None
    return prepare(work, engine=ray_pool.ray_map(address, source=source, out=work.out), **options)


def objects(out: Path, train: int = 500) -> PrepareJob:
    """Solids: nothing to read, and some milliseconds for each."""
    return resolve_job("solids", None, out, solids.Config(train=train, val=20, points=1024))


def kill(node: Any) -> list[str]:
    """Kill a node's raylet and everything that it has started, at once; returns what those were doing."""
    raylet = psutil.Process(node.all_processes["raylet"][0].process.pid)
    family = raylet.children(recursive=True)
    titles = [" ".join(process.cmdline()) for process in family]
    for process in (raylet, *family):
        process.send_signal(signal.SIGKILL)
    return titles


def test_without_ray_the_error_says_how_to_get_it(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setitem(sys.modules, "ray", None)
    with pytest.raises(MissingError, match="needs the package `ray`") as caught:
        on_ray(objects(tmp_path / "s"), None)
    assert caught.value.hint == "`pip install 'inrflow[cluster]'`"
    assert os.listdir(tmp_path) == []


def test_the_local_processes_are_the_default_and_need_no_ray(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setitem(sys.modules, "ray", None)
    assert prepare(resolve_job("digits", out=tmp_path / "s")).is_whole


def test_a_node_of_another_version_or_another_file_system_names_itself(tmp_path: Path):
    node = os.uname().nodename
    with pytest.raises(UsageError, match=f"the Ray node `{node}` has inrflow .*, and this machine 0.0.1"):
        ray_pool.NodeEnvironment(str(tmp_path), (), (), "0.0.1").enter()
    with pytest.raises(UsageError, match=f"the Ray node `{node}` does not see `/elsewhere/raw`"):
        ray_pool.NodeEnvironment(str(tmp_path), (str(tmp_path), "/elsewhere/raw"), ()).enter()


def test_a_task_that_begins_again_is_not_counted_twice():
    tally = ray_pool.ProgressCounter()
    for number, count in ((0, 5), (1, 3), (0, 9), (0, 2), (0, 8)):
        tally.report(number, count)
    assert tally.read() == {0: 9, 1: 3}


@pytest.mark.parametrize(
    ("workers", "cores", "running", "more"),
    [
        (None, 8, 0, 16),
        (None, 8, 16, 0),
        (None, 4, 16, 0),
        (None, 0, 0, 2),
        (None, 0, 16, 0),
        (3, 8, 1, 2),
        (3, 8, 9, 0),
    ],
)
def test_a_cluster_that_shrinks_is_handed_no_more_until_it_has_room(
    workers: int | None, cores: int, running: int, more: int
):
    assert ray_pool.num_free_slots(workers, cores, running) == more


@slow
@pytest.mark.parametrize("kind", KINDS)
def test_two_nodes_give_the_bytes_of_one_process(kind: str, nodes: Any, raw_files: dict[str, Path], tmp_path: Path):
    prepare(made(kind, raw_files[kind], tmp_path / "one"), workers=1)
    seen: list[tuple[int, int]] = []
    reported = on_ray(
        made(kind, raw_files[kind], tmp_path / "s"), nodes.address, progress=lambda done, all: seen.append((done, all))
    )
    assert content(tmp_path / "s") == content(tmp_path / "one")
    assert reported.num_written == len(content(tmp_path / "s")) - 1
    assert seen == sorted(seen) and seen[-1][0] == seen[-1][1] > 0


@slow
def test_a_piece_may_be_made_on_a_cluster(nodes: Any, raw_files: dict[str, Path], tmp_path: Path):
    work = made("images", raw_files["images"], tmp_path / "s")
    prepare(made("images", raw_files["images"], tmp_path / "one"), workers=1)
    on_ray(work, nodes.address, piece=job_array.ArrayTask(1, 2))
    prepare(work, workers=1, piece=job_array.ArrayTask(0, 2))
    assert content(tmp_path / "s") == content(tmp_path / "one")


@slow
@pytest.mark.parametrize("kind", [*KINDS, "objects"])
def test_a_node_killed_in_the_middle_loses_nothing(
    kind: str, nodes: Any, raw_files: dict[str, Path], tmp_path: Path, capfd: pytest.CaptureFixture[str]
):
    make: Callable[[Path], PrepareJob] = objects if kind == "objects" else lambda out: made(kind, raw_files[kind], out)
    prepare(make(tmp_path / "one"), workers=1)
    doomed, titles = nodes.add_node(num_cpus=1), []
    nodes.wait_for_nodes()

    def progress(done: int, total: int) -> None:
        if not titles and done:
            deadline = time.monotonic() + 30
            while time.monotonic() < deadline and not titles:
                raylet = psutil.Process(doomed.all_processes["raylet"][0].process.pid)
                if any("ray::_work" in " ".join(child.cmdline()) for child in raylet.children(recursive=True)):
                    titles.extend(kill(doomed))
                time.sleep(0.002)

    capfd.readouterr()
    reported = on_ray(make(tmp_path / "s"), nodes.address, progress=progress)
    out, err = capfd.readouterr()
    assert (reported.is_whole, out) == (True, "")
    if kind == "objects":  # of the small ones all may be done before the node has begun
        assert any("ray::_work" in title for title in titles) and "Task _work failed" in err
    nodes.remove_node(doomed, allow_graceful=False)
    assert content(tmp_path / "s") == content(tmp_path / "one")


@slow
def test_a_node_that_does_not_see_the_source_stops_all_and_what_is_done_is_kept(nodes: Any, tmp_path: Path):
    work = objects(tmp_path / "s", train=40)
    engine = ray_pool.ray_map(nodes.address, source=Path("/nowhere/raw"), out=work.out)
    with pytest.raises(UsageError, match="does not see `/nowhere/raw`"):
        prepare(work, engine=engine)
    assert not (tmp_path / "s").exists()


def fails(task: int, advance: process_pool.ReportProgress) -> int:
    """A task that kills its own process, or raises."""
    if task == 1:
        raise UsageError("no such thing", hint="leave it")
    if task == 2:
        os.kill(os.getpid(), signal.SIGKILL)
    advance(1)
    return task


@slow
def test_errors_of_tasks_come_back_with_their_hint_and_what_always_dies_is_reported(nodes: Any, tmp_path: Path):
    def run(tasks: list[int]) -> list[int]:
        return list(
            ray_pool.ray_map(nodes.address, source=None, out=tmp_path)(fails, tasks, advance=lambda count: None)
        )

    assert sorted(run([0, 3, 4])) == [0, 3, 4]
    with pytest.raises(UsageError, match="no such thing") as caught:
        run([0, 1, 3])
    assert caught.value.hint == "leave it"
    with pytest.raises(OutOfMemory, match="a task lost its worker 6 times"):
        run([2])
    assert os.listdir(tmp_path) == []


@pytest.mark.parametrize(
    ("address", "kind", "message"),
    [
        ("ray://127.0.0.1:10001", UsageError, "is the address of a Ray client"),
        ("127.0.0.1:1", MissingError, "no Ray cluster answers at `127.0.0.1:1`"),
    ],
)
def test_an_address_where_nothing_answers_is_named(
    address: str, kind: type[InrflowError], message: str, tmp_path: Path
):
    pytest.importorskip("ray")
    with pytest.raises(kind, match=message):
        on_ray(objects(tmp_path / "s"), address)
    assert os.listdir(tmp_path) == []


def command(nodes: Any, out: Path) -> subprocess.Popen[str]:
    options = ["--engine", "ray", "--ray-address", nodes.address, "--out", str(out), "--json"]
    code = "from inrflow_cli.app import main; main()"
    settings = ["--set", "train=12000", "--set", "points=4096"]
    return subprocess.Popen(
        [sys.executable, "-c", code, "prepare", "solids", *options, *settings],
        cwd=CHECKOUT, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, start_new_session=True,
    )  # fmt: skip


@slow
def test_ctrl_c_stops_it_and_the_same_command_resumes_with_json_alone_on_stdout(nodes: Any, tmp_path: Path):
    stopped = command(nodes, tmp_path / "s")
    deadline = time.monotonic() + 100
    while not journal.completed_shards(tmp_path / "s") and time.monotonic() < deadline:
        time.sleep(0.05)
    os.killpg(stopped.pid, signal.SIGINT)
    out, reported = stopped.communicate(timeout=60)
    assert stopped.returncode == 130, reported
    assert json.loads(out)["code"] == 130 and out.count("\n") == 1 and "Traceback" not in reported
    assert "interrupted with" in reported and not list((tmp_path / "s").glob(".*.partial"))
    finished = command(nodes, tmp_path / "s")
    out, reported = finished.communicate(timeout=200)
    assert finished.returncode == 0, reported
    report = json.loads(out)
    assert out.count("\n") == 1 and 0 < report["made"] < report["shards"]
