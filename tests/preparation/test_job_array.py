"""Job arrays: several runs make one data set together, and it is the one that a single run makes."""

from __future__ import annotations

import errno
import os
import random
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

from inrflow_core.datasets import image_folder
from inrflow_core.errors import MissingError, UsageError
from inrflow_core.preparation import job, job_array, journal
from inrflow_core.preparation.job import resolve_job
from inrflow_core.preparation.job_array import ArrayTask
from inrflow_core.preparation.journal import LockedByAnotherRun
from inrflow_core.preparation.pipeline import prepare
from inrflow_core.shards import manifest
from inrflow_core.storage import file_lock
from tests import prepare_jobs
from tests.prepare_jobs import KINDS, content, made

REPOSITORY = Path(__file__).parents[2]
BEGIN = """
import os, signal, sys
from pathlib import Path
from inrflow_core.errors import InrflowError
from inrflow_core.preparation import journal, pipeline
from inrflow_core.preparation.job_array import ArrayTask
from tests import prepare_jobs
prepare_jobs.smaller_shards()
def run(**options):
    kind, source, out, index, count = sys.argv[1:]
    try:
        pipeline.prepare(prepare_jobs.made(kind, Path(source), Path(out)), workers=1,
                            piece=ArrayTask(int(index), int(count)), **options)
    except InrflowError as error:
        sys.exit(f"{int(error.code)} {error.message}")
"""
HELD = (
    BEGIN
    + """
note = journal.Journal.record
def slow(self, record):
    note(self, record)
    print(record["file"], flush=True)
    sys.stdin.readline()
journal.Journal.record = slow
run()
"""
)
"""A piece that waits for a line after each shard."""
SLOW_KINDS = [pytest.param(kind, marks=pytest.mark.slow if kind == "proteins" else ()) for kind in KINDS]
"""Where each process imports Biotite first, which takes seconds."""


@pytest.fixture(autouse=True)
def _small(monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr(job, "MIN_ITEMS", 12)
    monkeypatch.setattr(journal, "PATIENCE", 0.2)


@pytest.fixture(scope="session")
def raw_files(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    pytest.importorskip("biotite")
    return prepare_jobs.sources(tmp_path_factory.mktemp("raw"))


@pytest.fixture(scope="session")
def alone(raw_files: dict[str, Path], tmp_path_factory: pytest.TempPathFactory) -> dict[str, dict[str, bytes]]:
    """Every file of each data set as one run with one process makes it."""
    fewest, job.MIN_ITEMS = job.MIN_ITEMS, 12
    reported = {}
    for kind, source in raw_files.items():
        out = tmp_path_factory.mktemp("alone") / kind
        prepare(made(kind, source, out), workers=1)
        reported[kind] = content(out)
    job.MIN_ITEMS = fewest
    return reported


def start(code: str, *arguments: object) -> subprocess.Popen[str]:
    return subprocess.Popen(
        [sys.executable, "-c", code, *map(str, arguments)],
        cwd=REPOSITORY, stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True,
    )  # fmt: skip


def ended(process: subprocess.Popen[str], code: int = 0) -> str:
    _, reported = process.communicate(timeout=120)
    assert process.returncode == code, reported
    return reported


def test_the_data_of_these_tests_have_many_shards_and_items_that_cannot_be_read(alone):
    assert {kind: len(files) for kind, files in alone.items()} == {"images": 10, "clouds": 9, "proteins": 7}
    assert all(b'"skipped": []' not in alone[kind]["manifest.json"] for kind in ("images", "clouds"))


@pytest.mark.parametrize("kind", KINDS)
def test_pieces_one_after_the_other_backwards_give_the_bytes_of_one_run(kind: str, raw_files, alone, tmp_path: Path):
    work = made(kind, raw_files[kind], tmp_path / "s")
    reported = [prepare(work, workers=1, piece=ArrayTask(index, 3)) for index in (2, 1, 0)]
    assert [report.is_whole for report in reported] == [False, False, True]
    assert content(tmp_path / "s") == alone[kind]
    assert sum(report.num_written for report in reported) == len(alone[kind]) - 1
    assert reported[0].num_pending == reported[-1].shards - reported[0].shards


@pytest.mark.parametrize("kind", SLOW_KINDS)
def test_pieces_at_once_give_the_bytes_of_one_run(kind: str, raw_files, alone, tmp_path: Path):
    at_work = [start(BEGIN + "run()", kind, raw_files[kind], tmp_path / "s", index, 3) for index in range(3)]
    for process in at_work:
        ended(process)
    assert content(tmp_path / "s") == alone[kind]


@pytest.mark.parametrize("kind", SLOW_KINDS)
def test_two_processes_give_the_bytes_of_one(kind: str, raw_files, alone, tmp_path: Path):
    prepare(made(kind, raw_files[kind], tmp_path / "s"), workers=2)
    assert content(tmp_path / "s") == alone[kind]


def test_a_killed_piece_is_waited_for_and_resumes(raw_files, alone, tmp_path: Path):
    out = tmp_path / "s"
    killed = start(HELD, "images", raw_files["images"], out, 1, 3)
    assert killed.stdout is not None and killed.stdout.readline() == "train-00001.h5\n"
    killed.send_signal(signal.SIGKILL)
    ended(killed, -signal.SIGKILL)
    (out / ".train-00004.h5.0badc0de.partial").write_bytes(b"half")
    with (out / ".journal-1-of-3.jsonl").open("a") as file:
        file.write('{"file": "train-0000')
    work = made("images", raw_files["images"], out)
    assert [prepare(work, workers=1, piece=ArrayTask(index, 3)).is_whole for index in (0, 2)] == [False, False]
    reported = prepare(work, workers=1, piece=ArrayTask(1, 3))
    assert (reported.num_written, reported.is_whole) == (2, True)
    assert content(out) == alone["images"]


def test_a_task_started_twice_is_refused_and_does_no_damage(raw_files, alone, tmp_path: Path):
    out = tmp_path / "s"
    first = start(HELD, "images", raw_files["images"], out, 1, 3)
    assert first.stdout is not None and first.stdout.readline() == "train-00001.h5\n"
    work = made("images", raw_files["images"], out)
    with pytest.raises(LockedByAnotherRun, match="piece 1-of-3 of `.*` is being made by another `inrflow prepare`"):
        prepare(work, workers=1, piece=ArrayTask(1, 3))
    prepare(work, workers=1, piece=ArrayTask(0, 3))
    prepare(work, workers=1, piece=ArrayTask(2, 3))
    ended(first)
    assert content(out) == alone["images"]


def test_a_piece_started_again_when_all_is_done_changes_nothing(raw_files, alone, tmp_path: Path):
    work = made("images", raw_files["images"], tmp_path / "s")
    prepare(work, workers=1)
    reported = prepare(work, workers=1, piece=ArrayTask(1, 3))
    assert (reported.num_written, reported.is_whole, reported.num_pending) == (0, True, 0)
    assert content(tmp_path / "s") == alone["images"]


def test_a_run_without_a_piece_waits_for_pieces_and_makes_what_is_left(raw_files, alone, tmp_path: Path):
    out = tmp_path / "s"
    work = made("images", raw_files["images"], out)
    at_work = start(HELD, "images", raw_files["images"], out, 1, 3)
    assert at_work.stdout is not None and at_work.stdout.readline()
    with pytest.raises(LockedByAnotherRun, match="another `inrflow prepare` is writing to"):
        prepare(work, workers=1)
    ended(at_work)
    assert prepare(work, workers=1).num_written == 6
    assert content(out) == alone["images"]


def test_a_piece_that_meets_a_run_without_one_is_refused(raw_files, tmp_path: Path):
    with file_lock.try_lock(tmp_path / "s" / job_array.LOCK), pytest.raises(LockedByAnotherRun, match="is writing to"):
        prepare(made("images", raw_files["images"], tmp_path / "s"), workers=1, piece=ArrayTask(0, 2))


def test_the_last_piece_looks_at_every_shard_and_makes_the_damaged_again(raw_files, alone, tmp_path: Path):
    out = tmp_path / "s"
    work = made("images", raw_files["images"], out)
    prepare(work, workers=1, piece=ArrayTask(0, 2))
    path = out / "train-00002.h5"
    stored = bytearray(path.read_bytes())
    stored[-100] ^= 1
    path.write_bytes(stored)
    (out / "train-00004.h5").unlink()
    reported = prepare(work, workers=1, piece=ArrayTask(1, 2))
    assert (reported.num_written, reported.is_whole) == (4 + 2, True)
    assert content(out) == alone["images"]


def test_more_pieces_than_shards_and_other_numbers_of_pieces_are_no_matter(raw_files, alone, tmp_path: Path):
    out = tmp_path / "s"
    work = made("images", raw_files["images"], out)
    idle = prepare(work, workers=1, piece=ArrayTask(19, 20))
    assert (idle.shards, idle.num_written, idle.num_pending, out.exists()) == (0, 0, 9, False)
    for piece in (ArrayTask(1, 3), ArrayTask(0, 2), ArrayTask(4, 5), ArrayTask(1, 4)):
        prepare(work, workers=1, piece=piece)
    assert prepare(work, workers=1, piece=ArrayTask(3, 4)).is_whole
    assert content(out) == alone["images"]


def test_pieces_of_other_settings_sources_or_versions_are_refused(
    raw_files, alone, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
):
    out = tmp_path / "s"
    prepare(made("images", raw_files["images"], out), workers=1, piece=ArrayTask(0, 2))
    before = content(out)
    config = image_folder.Config(resolution=8, classes=True, channels=1)
    with pytest.raises(UsageError, match="of another job: they differ in `shape`"):
        prepare(resolve_job("images", raw_files["images"], out, config), workers=1, piece=ArrayTask(1, 2))
    with pytest.raises(UsageError, match="of another job: they differ in `source` `bytes`"):
        prepare(made("images", raw_files["images"] / "train", out), workers=1, piece=ArrayTask(1, 2))
    with monkeypatch.context() as patched:
        patched.setattr(job, "__version__", "0.0.1")
        with pytest.raises(UsageError, match=r"was begun by inrflow .*, and this is 0\.0\.1"):
            prepare(made("images", raw_files["images"], out), workers=1, piece=ArrayTask(1, 2))
    assert content(out) == before
    prepare(made("images", raw_files["images"], out), workers=1, piece=ArrayTask(1, 2))
    assert content(out) == alone["images"]


def test_nothing_readable_and_nothing_to_read_leave_nothing_behind(tmp_path: Path):
    for name in ("train/1.jpg", "val/1.jpg"):
        (tmp_path / "raw" / name).parent.mkdir(parents=True)
        (tmp_path / "raw" / name).write_bytes(b"junk")
    work = resolve_job("images", tmp_path / "raw", tmp_path / "s", image_folder.Config(resolution=8))
    assert prepare(work, workers=1, piece=ArrayTask(0, 2)).num_written == 0
    with pytest.raises(MissingError, match="none of the 2 items"):
        prepare(work, workers=1, piece=ArrayTask(1, 2))
    assert os.listdir(tmp_path) == ["raw"]


@pytest.mark.parametrize("mode", ["overwrite", "repair"])
def test_a_piece_neither_overwrites_nor_repairs(raw_files, tmp_path: Path, mode: journal.Mode):
    with pytest.raises(UsageError, match=f"a piece of a job array cannot {mode}"):
        prepare(made("images", raw_files["images"], tmp_path / "s"), mode=mode, piece=ArrayTask(0, 2))


@pytest.mark.parametrize(("index", "count"), [(3, 3), (-1, 3), (0, 0)])
def test_a_piece_that_there_is_not_is_refused(index: int, count: int):
    with pytest.raises(UsageError, match=r"there is no such run|a job array of 0 pieces"):
        ArrayTask(index, count)


def test_where_a_file_system_has_no_locks_the_bytes_are_the_same(
    raw_files, alone, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
):
    def refuse(file: object, kind: int) -> None:
        raise OSError(38, "Function not implemented")

    monkeypatch.setattr(file_lock.fcntl, "flock", refuse)
    work = made("images", raw_files["images"], tmp_path / "s")
    assert [prepare(work, workers=1, piece=ArrayTask(index, 2)).is_whole for index in (1, 0)] == [False, True]
    assert content(tmp_path / "s") == alone["images"]


def test_where_a_file_has_one_name_alone_the_bytes_are_the_same(
    raw_files, alone, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
):
    def refuse(*_: object) -> None:
        raise OSError(errno.EPERM, "Operation not permitted")

    monkeypatch.setattr(journal.os, "link", refuse)
    work = made("images", raw_files["images"], tmp_path / "s")
    assert [prepare(work, workers=1, piece=ArrayTask(index, 2)).is_whole for index in (1, 0)] == [False, True]
    assert content(tmp_path / "s") == alone["images"]


@pytest.mark.slow
def test_pieces_killed_at_random_and_started_again_give_the_bytes_of_one_run(raw_files, alone, tmp_path: Path):
    rng, kills = random.Random(0), 0
    out = tmp_path / "s"
    begun = time.monotonic()
    ended(start(BEGIN + "run()", "clouds", raw_files["clouds"], tmp_path / "undisturbed", 0, 1))
    took = time.monotonic() - begun
    for _ in range(8):
        at_work = [start(BEGIN + "run()", "clouds", raw_files["clouds"], out, index, 3) for index in (0, 1, 2, 1)]
        time.sleep(rng.uniform(0.3, 1.0) * took)
        for process in at_work:
            process.kill()
            kills += process.wait() == -signal.SIGKILL
    assert kills > 5
    prepare(made("clouds", raw_files["clouds"], out), workers=1)
    assert content(out) == alone["clouds"]
    assert manifest.load(out).splits["train"].count == 78
