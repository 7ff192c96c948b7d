"""The engine of `prepare`: the same bytes whoever does the work, nothing lost by a kill, nothing half-written."""

from __future__ import annotations

import fcntl
import os
import re
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path

import numpy as np
import psutil
import pytest

from inrflow_core.datasets import image_folder, imagenet
from inrflow_core.datasets._contract import Example, Item
from inrflow_core.datasets.image_folder import Config
from inrflow_core.errors import IntegrityError, MissingError, OutOfMemory, UsageError
from inrflow_core.preparation import estimate, job_array, journal, shard_task
from inrflow_core.preparation.job import PrepareJob, manifest_identity, plan_shards, resolve_job, scan
from inrflow_core.preparation.pipeline import prepare
from inrflow_core.shards import manifest
from inrflow_core.shards.shard_dataset import ShardDataset
from tests.datasets import raw

NAMES = [f"train/{'ab'[n % 2]}/{n:03d}.png" for n in range(600)] + [f"val/a/{n}.png" for n in range(5)]
"""Three shards of train, one of val."""


@pytest.fixture(scope="session")
def source(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return raw.folder(tmp_path_factory.mktemp("raw") / "pictures", NAMES)


@pytest.fixture(scope="session")
def prepared(source: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The shards as one unbroken run makes them."""
    out = tmp_path_factory.mktemp("prepared") / "s"
    prepare(images(source, out))
    return out


def images(source: Path, out: Path, limit: int | None = None, **settings) -> PrepareJob:
    return resolve_job("images", source, out, Config(resolution=8, classes=True, **settings), limit)


def content(folder: Path) -> dict[str, bytes]:
    return {path.name: path.read_bytes() for path in folder.iterdir()}


def flip(path: Path, place: int = 3000) -> None:
    stored = bytearray(path.read_bytes())
    stored[place] ^= 1
    path.write_bytes(stored)


def child(code: str, *arguments: object) -> subprocess.CompletedProcess[str]:
    """A fresh process that runs `code` with the names of this file."""
    begin = "import os, signal, sys, resource; from pathlib import Path; from tests.preparation.test_pipeline import *;"
    command = [sys.executable, "-c", begin + code, *map(str, arguments)]
    return subprocess.run(command, cwd=Path(__file__).parents[2], capture_output=True, text=True, check=False)


def test_the_shards_hold_every_item_in_order_with_its_class(source: Path, prepared: Path):
    opened = ShardDataset(prepared)
    opened.verify()
    assert opened.names("train") == sorted(NAMES[:600])
    assert opened.labels("train").tolist() == [0] * 300 + [1] * 300
    assert (opened.splits, opened.classes) == (["train", "val"], ("a", "b"))
    assert [entry.count for entry in opened.manifest.splits["train"].shards] == [200] * 3


def test_the_statistics_are_those_of_the_stored_values(prepared: Path):
    opened = ShardDataset(prepared)
    pixels = opened.read("train", range(600)).values.reshape(-1, 3).astype(np.float64)
    reported = opened.manifest.splits["train"].statistics
    np.testing.assert_allclose(reported.mean, pixels.mean(0), rtol=1e-8)
    np.testing.assert_allclose(reported.std, pixels.std(0), rtol=1e-8)


def test_three_workers_write_the_bytes_of_one(source: Path, prepared: Path, tmp_path: Path):
    report = prepare(images(source, tmp_path / "s"), workers=3)
    assert (report.num_written, report.splits) == (4, {"train": 600, "val": 5})
    assert content(tmp_path / "s") == content(prepared)


def test_another_place_and_another_time_give_the_same_bytes(source: Path, prepared: Path, tmp_path: Path):
    shutil.copytree(source, tmp_path / "elsewhere")
    prepare(images(tmp_path / "elsewhere", tmp_path / "s"))
    assert content(tmp_path / "s") == content(prepared)
    reported = (prepared / manifest.NAME).read_text()
    assert not re.search(r"/tmp|/home|/root|202\d-", reported) and os.uname().nodename not in reported


def test_every_item_is_counted_once_as_progress(source: Path, tmp_path: Path):
    seen: list[tuple[int, int]] = []
    prepare(images(source, tmp_path / "s"), progress=lambda done, total: seen.append((done, total)))
    assert seen == sorted(seen) and seen[-1] == (605, 605)


def test_what_is_there_is_not_made_again(source: Path, prepared: Path):
    before = {path: path.stat().st_mtime_ns for path in prepared.iterdir()}
    report = prepare(images(source, prepared))
    assert (report.num_written, report.shards) == (0, 4)
    assert {path: path.stat().st_mtime_ns for path in prepared.iterdir()} == before


def test_a_killed_run_resumes_after_its_last_shard(source: Path, prepared: Path, tmp_path: Path):
    code = """
note = journal.Journal.record
def killed(self, record):
    note(self, record)
    if len(self.records) == 2:
        os.kill(os.getpid(), signal.SIGKILL)
journal.Journal.record = killed
prepare(images(Path(sys.argv[1]), Path(sys.argv[2])), workers=1)
"""
    done = child("\n" + code, source, tmp_path / "s")
    assert done.returncode == -signal.SIGKILL, done.stderr
    assert not (tmp_path / "s" / manifest.NAME).exists()
    (tmp_path / "s" / ".train-00002.h5.1.partial").write_bytes(b"half")
    whole = (tmp_path / "s" / journal.NAME).read_text()
    for name in ("bytes", "sha256"):  # a flipped bit in a line must not make a shard one of unreadable items
        (tmp_path / "s" / journal.NAME).write_text(whole.replace(f'"{name}"', f'"{name[:-1]}r"'))
        with pytest.raises(IntegrityError, match="has only some of bytes, count, sha256"):
            prepare(images(source, tmp_path / "s"))
    (tmp_path / "s" / journal.NAME).write_text(whole + '{"file": "train-0000')
    assert prepare(images(source, tmp_path / "s")).num_written == 2
    assert content(tmp_path / "s") == content(prepared)


@pytest.mark.parametrize(("workers", "sent"), [(1, "SIGINT"), (2, "SIGINT"), (1, "SIGTERM")])
def test_ctrl_c_and_sigterm_keep_the_finished_shards_and_say_so(
    source: Path, prepared: Path, tmp_path: Path, workers: int, sent: str
):
    code = """
from inrflow_cli import app
note = journal.Journal.record
def interrupted(self, record):
    note(self, record)
    os.kill(os.getpid(), getattr(signal, SENT))
if __name__ == '__main__':
    signal.signal(signal.SIGINT, signal.default_int_handler)  # a job in the background starts with it ignored
    options = ['--resolution', '8', '--classes', '--workers', sys.argv[3]]
    SENT, source, out = sys.argv[4], sys.argv[1], sys.argv[2]
    journal.Journal.record = interrupted if SENT else note
    sys.argv = ['inrflow', 'prepare', 'images', '--source', source, '--out', out, *options]
    app.main()
"""
    done = child("\n" + code, source, tmp_path / "s", workers, sent)
    assert done.returncode == 130, done.stderr
    assert "error: interrupted with 1 of 4 shards made\n\nhint: run the same command again to resume" in done.stderr
    assert not list((tmp_path / "s").glob(".*.partial")) and "Traceback" not in done.stderr
    same = child("\n" + code, source, tmp_path / "s", workers, "")
    assert same.returncode == 0, same.stderr
    assert content(tmp_path / "s") == content(prepared)


def test_a_shard_damaged_since_the_kill_is_made_again(source: Path, prepared: Path, tmp_path: Path):
    with journal.open_journal(
        tmp_path / "s", manifest_identity(*_job_and_plan(source, tmp_path / "s")), "resume"
    ) as book:
        for part in plan_shards(*_job_and_plan(source, tmp_path / "s"))[:2]:
            book.record(shard_task.make_shard(part, lambda count: None))
    flip(tmp_path / "s" / "train-00001.h5")
    assert prepare(images(source, tmp_path / "s")).num_written == 3
    assert content(tmp_path / "s") == content(prepared)


def _job_and_plan(source: Path, out: Path):
    work = images(source, out)
    return work, scan(work)


def test_a_kill_of_the_parent_leaves_no_worker_behind(source: Path, tmp_path: Path):
    code = """
from inrflow_core.runtime import process_pool
start = process_pool._start
def told(function):
    connection, process = start(function)
    print(process.pid, flush=True)
    return connection, process
process_pool._start = told
journal.Journal.record = lambda self, record: os.kill(os.getpid(), signal.SIGKILL)
if __name__ == '__main__':
    prepare(images(Path(sys.argv[1]), Path(sys.argv[2])), workers=2)
"""
    done = child("\n" + code, source, tmp_path / "s")
    assert done.returncode == -signal.SIGKILL, done.stderr
    pids = [int(line) for line in done.stdout.split()]
    assert len(pids) == 2
    deadline = time.monotonic() + 30
    while any(_runs(pid) for pid in pids):
        assert time.monotonic() < deadline, "a worker outlives its parent"
        time.sleep(0.05)


def _runs(pid: int) -> bool:
    try:
        return psutil.Process(pid).status() != psutil.STATUS_ZOMBIE
    except psutil.NoSuchProcess:
        return False


def test_repair_makes_the_damaged_and_the_missing_again(source: Path, prepared: Path, tmp_path: Path):
    out = shutil.copytree(prepared, tmp_path / "s")
    flip(out / "train-00000.h5")
    (out / "val-00000.h5").unlink()
    assert prepare(images(source, out), mode="repair").num_written == 2
    assert content(out) == content(prepared)


def test_repair_from_changed_raw_files_is_refused(source: Path, prepared: Path, tmp_path: Path):
    out = shutil.copytree(prepared, tmp_path / "s")
    changed = shutil.copytree(source, tmp_path / "raw")
    flip(out / "train-00000.h5")
    same_size = changed / "train/a/000.png"
    stored = bytearray(same_size.read_bytes())
    stored[-20] ^= 1
    same_size.write_bytes(stored)
    with pytest.raises(IntegrityError, match=r"train-00000\.h5` was made again and is not what it was"):
        prepare(images(changed, out), mode="repair")
    (changed / "train/a/000.png").unlink()
    with pytest.raises(UsageError, match="they differ in `source`"):
        prepare(images(changed, out), mode="repair")


def test_other_settings_need_another_place_or_overwrite(source: Path, prepared: Path, tmp_path: Path):
    out = shutil.copytree(prepared, tmp_path / "s")
    with pytest.raises(UsageError, match=r"of another job: they differ in `shape`|`settings` `channels`"):
        prepare(images(source, out, channels=1))
    assert content(out) == content(prepared)
    prepare(images(source, out, channels=1), mode="overwrite")
    assert ShardDataset(out).manifest.shape == (8, 8, 1)


def test_a_folder_of_something_else_is_left_alone(source: Path, tmp_path: Path):
    (tmp_path / "thesis.tex").write_text("x")
    for mode in ("resume", "overwrite"):
        with pytest.raises(UsageError, match=r"is not empty: it holds `thesis\.tex`"):
            prepare(images(source, tmp_path), mode=mode)
    assert os.listdir(tmp_path) == ["thesis.tex"]


@pytest.mark.parametrize("foreign", ["manifest.json", "photos-00001.h5", "samples-00000.h5"])
def test_overwrite_deletes_nothing_where_a_file_is_not_its_own(
    source: Path, prepared: Path, tmp_path: Path, foreign: str
):
    """Not even beside shards of its own; files that only have the names of its own are not its own."""
    for out in (tmp_path / "alone", shutil.copytree(prepared, tmp_path / "beside")):
        out.mkdir(exist_ok=True)
        (out / foreign).write_text('{"name": "my web app"}')
        before = content(out)
        with pytest.raises(UsageError, match=f"is not empty: it holds `{foreign}`"):
            prepare(images(source, out, channels=1), mode="overwrite")
        assert content(out) == before


def test_overwrite_replaces_damaged_shards_and_those_that_no_record_names(source: Path, prepared: Path, tmp_path: Path):
    out = shutil.copytree(prepared, tmp_path / "s")
    shutil.copy(out / "train-00000.h5", out / "train-00077.h5")
    (out / "val-00000.h5").write_bytes(b"damaged")
    prepare(images(source, out), mode="overwrite")
    assert content(out) == content(prepared)


def test_two_do_not_write_to_one_place(source: Path, tmp_path: Path):
    (tmp_path / "s").mkdir()
    with (tmp_path / "s" / job_array.LOCK).open("w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        with pytest.raises(UsageError, match="another `inrflow prepare` is writing"):
            prepare(images(source, tmp_path / "s"))


def test_unreadable_items_are_left_out_named_and_change_nothing_else(source: Path, prepared: Path, tmp_path: Path):
    spoilt = shutil.copytree(source, tmp_path / "raw")
    truncated = spoilt / "train/a/100.png"
    truncated.write_bytes(truncated.read_bytes()[:60])
    (spoilt / "train/a/102.png").write_bytes(b"")
    (spoilt / "train/a/104.png").write_text("no picture")
    report = prepare(images(spoilt, tmp_path / "s"))
    assert report.splits == {"train": 597, "val": 5}
    assert [(bad.split, bad.name) for bad in report.skipped] == [("train", f"train/a/{n}.png") for n in (100, 102, 104)]
    reasons = [bad.reason for bad in report.skipped]
    assert reasons[0].startswith("it cannot be decoded") and reasons[1] == "it is empty"
    assert reasons[2].startswith("its content is not JPEG")
    assert manifest.load(tmp_path / "s").skipped == report.skipped
    remaining = [n for n, name in enumerate(sorted(NAMES[:600])) if name[-7:-4] not in ("100", "102", "104")]
    whole = ShardDataset(prepared).read("train", remaining)
    np.testing.assert_array_equal(ShardDataset(tmp_path / "s").read("train", range(597)).values, whole.values)
    for name in ("train-00001.h5", "train-00002.h5", "val-00000.h5"):
        assert (tmp_path / "s" / name).read_bytes() == (prepared / name).read_bytes()


def test_an_item_that_needs_too_much_memory_is_skipped_alone(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    source = raw.folder(tmp_path / "raw", [f"{number}.png" for number in range(4)])
    read = image_folder.read

    def limited(item: Item, config: Config) -> Example:
        if item.name.endswith("2.png"):
            raise MemoryError
        return read(item, config)

    monkeypatch.setattr(image_folder, "read", limited)
    report = prepare(resolve_job("images", source, tmp_path / "s", Config(resolution=8)), workers=1)
    assert report.splits == {"train": 3}
    assert [(bad.name, bad.reason) for bad in report.skipped] == [("train/2.png", "it needs more memory than there is")]


def test_a_shard_whose_every_item_is_bad_has_no_file(tmp_path: Path):
    source = raw.folder(tmp_path / "raw", ["train/a/1.png", "val/a/1.png"])
    (source / "val/a/1.png").write_bytes(b"")
    report = prepare(images(source, tmp_path / "s"))
    assert (report.splits, len(report.skipped)) == ({"train": 1}, 1)
    assert sorted(os.listdir(tmp_path / "s")) == ["manifest.json", "train-00000.h5"]
    assert prepare(images(source, tmp_path / "s")).num_written == 0


def test_nothing_readable_leaves_nothing(tmp_path: Path):
    (tmp_path / "raw").mkdir()
    (tmp_path / "raw" / "1.jpg").write_bytes(b"junk")
    with pytest.raises(MissingError, match=r"none of the 1 items .* can be used; the first, `train/1\.jpg`"):
        prepare(resolve_job("images", tmp_path / "raw", tmp_path / "s", Config(resolution=8)))
    assert os.listdir(tmp_path) == ["raw"]


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda place: None, "does not exist"),
        (lambda place: place.mkdir(), "looked for image files; found no files"),
        (lambda place: raw.zipped(place / "a.pdf", {"x": b""}), r"found 1 file \(1 \.pdf\) in a\.pdf"),
    ],
    ids=["absent", "empty", "wrong"],
)
def test_an_absent_an_empty_and_a_wrong_source_say_what_was_looked_for(
    tmp_path: Path, make: Callable[[Path], object], message: str
):
    make(tmp_path / "raw")
    with pytest.raises(MissingError, match=message) as caught:
        prepare(images(tmp_path / "raw", tmp_path / "s"))
    assert str(tmp_path / "raw") in caught.value.message and "`--source" in (caught.value.hint or "")
    assert not (tmp_path / "s").exists()


def test_a_limit_is_spread_over_every_class(source: Path, tmp_path: Path):
    report = prepare(images(source, tmp_path / "s", limit=10))
    assert report.splits == {"train": 10, "val": 5}
    assert ShardDataset(tmp_path / "s").labels("train").tolist() == [0] * 5 + [1] * 5
    assert manifest.load(tmp_path / "s").settings["limit"] == 10


def test_too_little_disk_is_said_before_anything_is_written(
    source: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
):
    monkeypatch.setattr(shutil, "disk_usage", lambda place: shutil._ntuple_diskusage(10**9, 10**9, 1000))
    with pytest.raises(OutOfMemory, match=r"the shards need 116 kB more, and 1 kB are free"):
        prepare(images(source, tmp_path / "s"))
    assert not (tmp_path / "s").exists()


def test_a_disk_that_fills_up_leaves_whole_shards_only(source: Path, prepared: Path, tmp_path: Path):
    code = """
from inrflow_core.errors import InrflowError
signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
resource.setrlimit(resource.RLIMIT_FSIZE, (30_000, 30_000))
try:
    prepare(images(Path(sys.argv[1]), Path(sys.argv[2])), workers=1)
except InrflowError as error:
    print(int(error.code), error.message)
"""
    done = child("\n" + code, source, tmp_path / "s")
    assert done.stdout.startswith(f"5 no room to write `{tmp_path}/s/train-00000.h5`"), done.stderr
    assert not (tmp_path / "s").exists()
    prepare(images(source, tmp_path / "s"))
    assert content(tmp_path / "s") == content(prepared)


def test_a_prediction_writes_nothing_and_counts_right(source: Path, prepared: Path, tmp_path: Path):
    report = estimate.estimate(images(source, tmp_path / "s"))
    assert (report.splits, report.shards, report.num_written) == ({"train": 600, "val": 5}, 4, 0)
    assert report.seconds is not None and report.seconds > 0
    assert report.bytes == 605 * 8 * 8 * 3
    assert not (tmp_path / "s").exists()


def test_the_usual_places_follow_the_name_and_the_resolution(monkeypatch: pytest.MonkeyPatch):
    monkeypatch.delenv("INRFLOW_DATA", raising=False)
    assert resolve_job("lsun_church").source == Path("data/lsun-church")
    assert resolve_job("lsun-church").out == Path("shards/lsun-church-256")
    assert resolve_job("imagenet", config=imagenet.Config(128)).out == Path("shards/imagenet-128")
    assert resolve_job("mnist").out == Path("shards/mnist")
    monkeypatch.setenv("INRFLOW_DATA", "/big")
    assert resolve_job("mnist").source == Path("/big/mnist")


def test_one_worker_for_each_core_by_default_and_one_where_the_scan_reads_everything(source: Path, tmp_path: Path):
    cores = len(os.sched_getaffinity(0))
    assert estimate.default_workers(images(source, tmp_path), None, 1000) == cores
    assert estimate.default_workers(images(source, tmp_path), 3, 2) == 2
    assert estimate.default_workers(resolve_job("digits"), None, 1000) == 1


@pytest.mark.parametrize("typed", ["image-folder", "images", "image_folder"])
@pytest.mark.parametrize("recorded", ["images", "image-folder"])
def test_a_folder_is_recognized_under_the_earlier_and_the_present_name(
    source: Path, tmp_path: Path, recorded: str, typed: str
):
    """Resumed, finished and repaired folders keep the name that they hold, to the byte."""
    config = Config(resolution=8, classes=True)
    whole, halved = (resolve_job(recorded, source, tmp_path / name, config, 3) for name in ("whole", "halved"))
    prepare(whole)
    before = content(whole.out)
    again = resolve_job(typed, source, whole.out, config, 3)
    assert prepare(again).num_written == 0 and content(whole.out) == before
    flip(whole.out / "val-00000.h5", -1)
    assert prepare(again, mode="repair").num_written == 1 and content(whole.out) == before
    plan = scan(halved)
    with journal.open_journal(halved.out, manifest_identity(halved, plan), "resume") as book:
        book.record(shard_task.make_shard(plan_shards(halved, plan)[0], lambda _: None))
    assert prepare(resolve_job(typed, source, halved.out, config, 3)).num_written == 1
    assert content(halved.out) == before
    prepare(again, mode="overwrite")
    assert manifest.load(whole.out).dataset == typed.replace("_", "-")


@pytest.mark.parametrize(("name", "folder"), [("images", "images-64"), ("image-folder", "image-folder-64")])
def test_the_usual_places_follow_the_name_as_it_is_typed(name: str, folder: str):
    job = resolve_job(name, config=Config(resolution=64))
    assert (job.source, job.out) == (Path("data") / name, Path("shards") / folder)


def test_classes_without_items_are_mentioned(tmp_path: Path):
    """Of a limit that leaves classes out; all data with labels are scanned alike."""
    for name in ("cat", "dog", "owl"):
        raw.folder(tmp_path / "raw", [f"{name}/{number}.png" for number in range(2)])
    notes = scan(images(tmp_path / "raw", tmp_path / "out")).notes
    assert not notes
    (note,) = scan(images(tmp_path / "raw", tmp_path / "out", limit=1)).notes
    assert "of 3 classes have no items in `train`" in note and note.count("`") == 6
