"""Folders of sample shards: the same bytes with any division of the work, and read like prepared data."""

from __future__ import annotations

import contextlib
import errno
import fcntl
import os
import random
import signal
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import pytest

from inrflow_cli.app import run
from inrflow_core.errors import IntegrityError, UsageError
from inrflow_core.sample_files import readers, sample_folder
from inrflow_core.sample_files.sample_folder import SampleFolder
from inrflow_core.sample_files.sample_shard import SampleShard
from inrflow_core.shards.schema import Header
from inrflow_core.shards.shard_dataset import SAMPLES, ShardDataset
from tests import tiny

ROOT = Path(__file__).parents[2]
HEADER = Header("points", "cars", SAMPLES, settings={"steps": 5})
VALUES = np.random.default_rng(0).normal(size=(10, 5, 3)).astype(np.float32)


@pytest.fixture(autouse=True)
def _small_shards(monkeypatch):
    monkeypatch.setattr(sample_folder, "SAMPLES_PER_SHARD", 4)


def begin(folder: Path, seeds=range(100, 110), header: Header = HEADER, *, overwrite: bool = False) -> SampleFolder:
    return SampleFolder.create_or_resume(folder, seeds, header, shape=(5, 3), dtype="float32", overwrite=overwrite)


def fill(folder: SampleFolder, numbers=(0, 1, 2)) -> None:
    """Draw and finish the shards of those numbers."""
    for number, (indices, shard) in enumerate(folder.shards()):
        if number in numbers and shard is not None:
            shard.write(range(len(indices)), VALUES[indices.start : indices.stop])
            assert shard.finish()


def contents(folder: Path) -> dict[str, bytes]:
    return {path.name: path.read_bytes() for path in sorted(folder.iterdir())}


def test_a_folder_of_shards_is_read_like_prepared_data(tmp_path: Path):
    folder = begin(tmp_path / "out")
    assert not folder.finish()
    fill(folder)
    assert folder.finish() and folder.finish() and folder.is_finished()
    opened = ShardDataset(tmp_path / "out")
    assert [entry.count for entry in opened.manifest.splits[SAMPLES].shards] == [4, 4, 2]
    opened.verify()
    read = opened.read(SAMPLES, [9, 0, 5])
    np.testing.assert_array_equal(read.values, VALUES[[9, 0, 5]])
    assert read.seeds.tolist() == [109, 100, 105]
    reported = opened.manifest.splits[SAMPLES].statistics
    np.testing.assert_allclose(reported.mean, VALUES.mean((0, 1)), rtol=1e-5)
    np.testing.assert_allclose(reported.std, VALUES.std((0, 1)), rtol=1e-5)
    result = readers.open_collection(tmp_path / "out")
    assert (result.count, result.domain, result.split) == (10, "points", SAMPLES)
    assert {path.name for path in (tmp_path / "out").iterdir()} == {
        *(f"samples-{number:05d}.h5" for number in range(3)),
        *("manifest.json", sample_folder.JOB, sample_folder.LOCK),
    }


def test_it_is_resumed_by_the_same_job_alone_and_a_lost_shard_is_drawn_again(tmp_path: Path):
    fill(begin(tmp_path / "whole"))
    assert begin(tmp_path / "whole").finish()
    fill(begin(tmp_path / "out"), [1])
    again = begin(tmp_path / "out")
    assert [shard is None for _, shard in again.shards()] == [False, True, False]
    with pytest.raises(UsageError, match="of another job: they differ in `seeds`"):
        begin(tmp_path / "out", range(101, 111))
    fill(again)
    assert again.finish() and contents(tmp_path / "out") == contents(tmp_path / "whole")
    (tmp_path / "out/samples-00001.h5").unlink()
    lost = begin(tmp_path / "out")
    assert not lost.is_finished()
    fill(lost)
    assert lost.finish() and contents(tmp_path / "out") == contents(tmp_path / "whole")
    other = begin(tmp_path / "out", header=Header("points", "cars", SAMPLES), overwrite=True)
    assert [shard is None for _, shard in other.shards()] == [False] * 3


def test_a_folder_of_something_else_is_left_alone(tmp_path: Path):
    (tmp_path / "out").mkdir()
    (tmp_path / "out/thesis.tex").write_text("precious")
    for overwrite in (False, True):
        with pytest.raises(UsageError, match=r"holds `thesis\.tex`, which is not a file of samples"):
            begin(tmp_path / "out", overwrite=overwrite)


def test_a_shard_that_was_damaged_before_the_end_is_found(tmp_path: Path):
    folder = begin(tmp_path / "out")
    fill(folder)
    path = tmp_path / "out/samples-00001.h5"
    path.write_bytes(path.read_bytes()[:-1] + b"\x07")
    with pytest.raises(IntegrityError, match=r"samples-00001\.h5` is damaged"):
        folder.finish()


def test_a_piece_in_hand_belongs_to_no_other_process_until_its_process_dies(tmp_path: Path):
    (_, shard), *_ = begin(tmp_path / "out").shards()
    assert shard is not None
    code = (
        "import sys, time; from pathlib import Path; import numpy as np;"
        "from inrflow_core.sample_files import sample_folder; sample_folder.SAMPLES_PER_SHARD = 4; from tests.sample_files import test_sample_folder as t;"
        f"(_, shard), *_ = t.begin(Path({str(tmp_path / 'out')!r})).shards();"
        "claim = shard.claim([1, 2]); print(claim.__enter__(), flush=True); time.sleep(60)"
    )
    other = subprocess.Popen([sys.executable, "-c", code], cwd=ROOT, stdout=subprocess.PIPE, text=True)
    assert other.stdout is not None and other.stdout.readline() == "True\n"
    for piece, is_free in (([0], True), ([1, 2], False), ([2, 3], False), ([3], True)):
        with shard.claim(piece) as is_mine:
            assert is_mine == is_free
    other.kill()
    other.wait()
    with shard.claim([1, 2]) as is_mine:
        assert is_mine
        shard.write([1, 2], VALUES[1:3])
    with shard.claim([1, 2]) as is_mine:
        assert not is_mine  # it is there


def test_the_command_fills_a_folder_that_eval_and_export_read(tmp_path: Path, monkeypatch, capsys):
    tiny.run_folder(tmp_path / "run", tiny.IMAGE)
    monkeypatch.chdir(tmp_path)
    command = ["sample", "--run", "run", "--num", "10", "--batch", "3", "--resolution", "8"]
    assert run([*command, "out/"]) == 0 and run([*command, "one.h5"]) == 0
    one, many = ShardDataset(tmp_path / "one.h5"), ShardDataset(tmp_path / "out")
    for part in ("values", "labels", "seeds"):
        whole = getattr(one.read(SAMPLES, range(10)), part)
        np.testing.assert_array_equal(getattr(many.read(SAMPLES, range(10)), part), whole)
    capsys.readouterr()
    assert run([*command, "out"]) == 0
    assert "holds all of its 10 samples already" in capsys.readouterr().err
    assert run([*command, "out", "--guidance", "3"]) == 2
    assert run(["export", "out", "nine.png", "--items", "9"]) == 0
    assert run(["eval", "--samples", "out", "--reference", "one.h5", "--metrics", "fid:random", "--out", "judged"]) == 0
    assert run([*command, "a.png", "--workers", "2"]) == 2
    tiny.run_folder(tmp_path / "proteins", tiny.PROTEIN)
    assert run(["sample", "--run", "proteins", "--sequence", "AAG", "folded"]) == 2


def done(folder: Path) -> int:
    """Pieces of 7 samples that a folder of shards of 64 holds."""
    return 10 * len(list(folder.glob("*.h5"))) + len(list(folder.glob("*/*.npz")))


def test_what_a_process_that_was_killed_while_it_wrote_a_shard_left_is_removed(tmp_path: Path):
    fill(begin(tmp_path / "whole"))
    assert begin(tmp_path / "whole").finish()
    folder = begin(tmp_path / "out")
    fill(folder)
    (tmp_path / "out/.samples-00001.h5.0badc0de.partial").write_bytes(b"half")
    (tmp_path / "out/samples-00001.h5.partial").mkdir()  # killed before it had removed the pieces
    assert folder.finish() and contents(tmp_path / "out") == contents(tmp_path / "whole")


def test_where_a_file_system_has_no_locks_the_bytes_are_the_same(tmp_path: Path, monkeypatch):
    fill(begin(tmp_path / "whole"))
    assert begin(tmp_path / "whole").finish()

    def refuse(*_: object) -> None:
        raise OSError(errno.ENOLCK, "No locks available")

    monkeypatch.setattr(fcntl, "flock", refuse)
    monkeypatch.setattr(fcntl, "lockf", refuse)
    folder = begin(tmp_path / "out")
    (_, shard), *_ = folder.shards()
    assert shard is not None
    with shard.claim([0, 1]) as is_mine:
        assert is_mine
    fill(folder)
    assert folder.finish() and contents(tmp_path / "out") == contents(tmp_path / "whole")


def test_a_piece_that_another_process_kept_in_halves_is_not_drawn_again(tmp_path: Path):
    (_, shard), *_ = begin(tmp_path / "out").shards()
    assert shard is not None
    shard.write([0, 1], VALUES[:2])
    with shard.claim([0, 1, 2, 3]) as is_mine:
        assert is_mine
    shard.write([2, 3], VALUES[2:4])
    with shard.claim([0, 1, 2, 3]) as is_mine:
        assert not is_mine


def test_a_shard_that_another_process_finishes_while_this_one_opens_it_is_not_begun_anew(tmp_path: Path, monkeypatch):
    folder, real = begin(tmp_path / "out"), SampleShard._begun

    def late(shard: SampleShard, **named: bool):
        if not shard.folder.exists() and not shard.path.exists():
            shard.path.write_bytes(b"the other's")
        return real(shard, **named)

    monkeypatch.setattr(SampleShard, "_begun", late)
    assert [shard for _, shard in folder.shards()] == [None] * 3
    assert not list((tmp_path / "out").glob("*.partial"))


@pytest.mark.slow
@pytest.mark.parametrize("ranks", [1, 2, 3])
def test_300_samples_are_the_same_after_kills_and_with_any_number_of_processes(tmp_path: Path, ranks):
    tiny.run_folder(tmp_path / "run", tiny.IMAGE, sampler={"steps": 40})
    code = "import sys; from inrflow_core.sample_files import sample_folder as f; f.SAMPLES_PER_SHARD = 64; from inrflow_cli.app import main; main()"
    rest = ["sample", "--run", str(tmp_path / "run"), "--num", "300", "--batch", "7", "--threads", "1"]
    command = [sys.executable, "-c", code, *rest]
    assert subprocess.run([*command, str(tmp_path / "whole")], cwd=ROOT, check=True).returncode == 0
    chance, kills = random.Random(ranks), 0
    while kills < 4:
        several = [
            subprocess.Popen(
                [*command, str(tmp_path / "out")],
                cwd=ROOT,
                env=os.environ | {"RANK": str(rank), "WORLD_SIZE": str(ranks), "MASTER_ADDR": "x", "MASTER_PORT": "1"},
            )
            for rank in range(ranks)
        ]
        expected = done(tmp_path / "out") + chance.randint(1, 6)
        while all(one.poll() is None for one in several) and done(tmp_path / "out") < expected:
            time.sleep(chance.uniform(0, 0.2))
        kills += 1
        for one in several:
            one.send_signal(signal.SIGKILL)
            one.wait()
    assert not (tmp_path / "out/manifest.json").exists()  # killed on the way, not behind it
    subprocess.run([*command, str(tmp_path / "out")], cwd=ROOT, check=True)
    assert contents(tmp_path / "out") == contents(tmp_path / "whole")


def test_a_piece_of_another_shape_is_named_and_drawn_again(tmp_path: Path):
    folder = begin(tmp_path / "out")
    ((_, shard), *_) = list(folder.shards())
    assert shard is not None
    indices = np.arange(len(shard.seeds))
    np.savez(shard.folder / "000000000-0.npz", indices=indices, labels=indices, values=np.zeros((0, 1), np.float32))
    with pytest.raises(IntegrityError, match=r"000000000-0.npz` is damaged: it has values of shape \[0, 1\]"):
        shard.finish()
    assert not list(shard.folder.glob("*.npz"))


def test_sigterm_keeps_the_drawn_samples_and_says_so(tmp_path: Path):
    tiny.run_folder(tmp_path / "run", tiny.IMAGE)
    code = (
        "import os, signal, sys; from inrflow_cli.app import main; from inrflow_core.sample_files.sample_shard import SampleShard as s;"
        "write = s.write; s.write = lambda *given: (write(*given), os.kill(os.getpid(), signal.SIGTERM)); main()"
    )
    rest = ["sample", "--run", str(tmp_path / "run"), "--num", "12", "--batch", "4", "--threads", "1"]
    stopped = subprocess.run([sys.executable, "-c", code, *rest, str(tmp_path / "out")], cwd=ROOT, capture_output=True)
    said = stopped.stderr.decode()
    assert stopped.returncode == 130 and "Traceback" not in said, said
    assert "out` are kept\n\nhint: run the same command again to resume" in said
    for name in ("out", "whole"):
        subprocess.run([sys.executable, "-m", "inrflow_cli.app", *rest, str(tmp_path / name)], cwd=ROOT, check=True)
    assert contents(tmp_path / "out") == contents(tmp_path / "whole")


@pytest.mark.slow
def test_workers_share_a_folder_and_what_a_killed_one_left_is_drawn(tmp_path: Path):
    tiny.run_folder(tmp_path / "run", tiny.IMAGE, sampler={"steps": 40})
    command = [sys.executable, "-m", "inrflow_cli.app", "sample", "--run", str(tmp_path / "run"), "--num", "200"]
    subprocess.run([*command, str(tmp_path / "whole"), "--batch", "5"], cwd=ROOT, check=True)
    several = subprocess.Popen([*command, str(tmp_path / "out"), "--batch", "5", "--workers", "3"], cwd=ROOT)
    children: list[int] = []
    while several.poll() is None and not children:
        listed = Path(f"/proc/{several.pid}/task/{several.pid}/children").read_text().split()
        is_worker = [b"spawn_main" in Path(f"/proc/{child}/cmdline").read_bytes() for child in listed]
        children = [int(child) for child, yes in zip(listed, is_worker, strict=True) if yes]
    with contextlib.suppress(ProcessLookupError):
        os.kill(children[0], signal.SIGKILL)
    assert several.wait() == 0
    assert contents(tmp_path / "out") == contents(tmp_path / "whole")
