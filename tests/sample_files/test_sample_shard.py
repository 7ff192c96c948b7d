"""Shards of samples: written in pieces by any process in any order, resumed after a kill, and read like any other."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import numpy as np
import pytest

from inrflow_core.errors import IntegrityError, UsageError
from inrflow_core.sample_files import sample_shard, writer
from inrflow_core.sample_files.sample_shard import SampleShard
from inrflow_core.shards.schema import Header
from inrflow_core.shards.shard_dataset import SAMPLES, ShardDataset

SEEDS = list(range(100, 110))
VALUES = np.random.default_rng(0).normal(size=(10, 5, 3)).astype(np.float32)
HEADER = Header("points", "cars", SAMPLES, classes=("a", "b"), settings={"steps": 5})


def begin(path: Path, header: Header = HEADER, *, overwrite: bool = False) -> SampleShard:
    return SampleShard.create_or_resume(path, SEEDS, header, shape=(5, 3), dtype="float32", overwrite=overwrite)


def write(shard: SampleShard, *indices: int) -> None:
    shard.write(indices, VALUES[list(indices)], [index % 2 for index in indices])


def test_pieces_in_any_order_give_the_bytes_of_one_piece(tmp_path: Path):
    whole = begin(tmp_path / "a.h5")
    write(whole, *range(10))
    assert whole.finish()
    pieces = begin(tmp_path / "b.h5")
    for indices in ((9, 0), (3, 4, 5), (8, 7), (1, 2, 6)):
        write(pieces, *indices)
    assert pieces.finish()
    assert (tmp_path / "a.h5").read_bytes() == (tmp_path / "b.h5").read_bytes()
    assert sorted(path.name for path in tmp_path.iterdir()) == ["a.h5", "a.h5.sha256", "b.h5", "b.h5.sha256"]


def test_a_finished_one_is_read_like_any_shard(tmp_path: Path):
    shard = begin(tmp_path / "a.h5")
    write(shard, *range(10))
    shard.finish()
    opened = ShardDataset(tmp_path / "a.h5")
    assert (opened.splits, opened.domain, opened.classes, opened.count(SAMPLES)) == (
        [SAMPLES],
        "points",
        ("a", "b"),
        10,
    )
    read = opened.read(SAMPLES, [4, 1], with_names=True)
    np.testing.assert_array_equal(read.values, VALUES[[4, 1]])
    assert (read.seeds.tolist(), read.labels.tolist(), read.names) == ([104, 101], [0, 1], ["seed-104", "seed-101"])
    assert opened.manifest.settings == {"steps": 5}


def test_it_resumes_where_it_stopped_and_is_not_there_before_the_end(tmp_path: Path):
    write(begin(tmp_path / "a.h5"), 0, 1, 7)
    again = begin(tmp_path / "a.h5")
    assert again.missing().tolist() == [2, 3, 4, 5, 6, 8, 9]
    assert not again.finish()
    assert not (tmp_path / "a.h5").exists()


def test_a_torn_piece_is_drawn_again(tmp_path: Path):
    shard = begin(tmp_path / "a.h5")
    write(shard, 0, 1)
    write(shard, 2, 3)
    piece = sorted((tmp_path / "a.h5.partial").glob("*.npz"))[0]
    piece.write_bytes(piece.read_bytes()[:-100])
    assert shard.missing().tolist() == [0, 1, 4, 5, 6, 7, 8, 9]


@pytest.mark.parametrize("labels", [np.zeros(3, np.int64), np.zeros((2, 1), np.int64), np.zeros(2)])
def test_a_piece_whose_labels_are_not_those_of_its_samples_is_drawn_again(tmp_path: Path, labels: np.ndarray):
    shard = begin(tmp_path / "a.h5")
    write(shard, 0, 1)
    write(shard, 2, 3)
    piece = sorted((tmp_path / "a.h5.partial").glob("*.npz"))[0]
    with np.load(piece) as stored:
        arrays = dict(stored)
    np.savez(piece, **{**arrays, "labels": labels})
    assert shard.missing().tolist() == [0, 1, 4, 5, 6, 7, 8, 9]


def test_a_kill_loses_the_piece_at_hand_and_no_other(tmp_path: Path):
    code = (
        "import os, signal, sys; sys.path.insert(0, '.');"
        "from pathlib import Path; from tests.sample_files import test_sample_shard as t; import numpy as np;"
        f"shard = t.begin(Path({str(tmp_path / 'a.h5')!r})); t.write(shard, 0, 1, 2);"
        "np.savez = lambda file, **k: (file.write(b'PK torn'), file.flush(), os.kill(os.getpid(), signal.SIGKILL));"
        "t.write(shard, 3, 4)"
    )
    done = subprocess.run([sys.executable, "-c", code], cwd=Path(__file__).parents[2], check=False)
    assert done.returncode == -signal.SIGKILL
    shard = begin(tmp_path / "a.h5")
    assert shard.missing().tolist() == list(range(3, 10))
    write(shard, *range(3, 10))
    assert shard.finish()
    np.testing.assert_array_equal(ShardDataset(tmp_path / "a.h5").read(SAMPLES, range(10)).values, VALUES)


def test_whoever_brings_the_last_piece_finishes_and_no_process_fails(tmp_path: Path):
    def work(first: int) -> bool:
        shard = begin(tmp_path / "a.h5")
        for index in range(first, 10, 4):
            write(shard, index)
        return shard.finish()

    with ThreadPoolExecutor(4) as pool:
        finished = list(pool.map(work, range(4)))
    assert any(finished)
    np.testing.assert_array_equal(ShardDataset(tmp_path / "a.h5").read(SAMPLES, range(10)).values, VALUES)
    assert sorted(os.listdir(tmp_path)) == ["a.h5", "a.h5.sha256"]


def test_other_settings_do_not_resume_it(tmp_path: Path):
    write(begin(tmp_path / "a.h5"), 0)
    other = Header("points", "cars", SAMPLES, classes=("a", "b"), settings={"steps": 6})
    with pytest.raises(UsageError, match="of another job: it differs in `settings` `steps`, 5 there and 6 here"):
        begin(tmp_path / "a.h5", other)
    assert begin(tmp_path / "a.h5", other, overwrite=True).missing().tolist() == list(range(10))


def test_other_labels_do_not_resume_it(tmp_path: Path):
    def begun(label: int) -> SampleShard:
        path = tmp_path / "a.h5"
        return SampleShard.create_or_resume(
            path, SEEDS, HEADER, shape=(5, 3), dtype="float32", labels=[label] * len(SEEDS)
        )

    write(begun(0), 0)
    with pytest.raises(UsageError, match="of another job: it differs in `labels`"):
        begun(1)
    assert begun(0).missing().tolist() == list(range(1, 10))


def test_a_process_that_draws_what_another_has_finished_does_no_harm(tmp_path: Path):
    slow, quick = begin(tmp_path / "a.h5"), begin(tmp_path / "a.h5")
    write(slow, 0, 1)
    write(quick, *range(10))
    assert quick.finish()
    assert slow.is_finished()
    write(slow, 2, 3)
    assert slow.finish()
    np.testing.assert_array_equal(ShardDataset(tmp_path / "a.h5").read(SAMPLES, range(10)).values, VALUES)
    assert sorted(os.listdir(tmp_path)) == ["a.h5", "a.h5.sha256"]


def test_what_failed_before_its_first_piece_leaves_nothing(tmp_path: Path):
    begin(tmp_path / "a.h5").release()
    assert os.listdir(tmp_path) == []
    remaining = begin(tmp_path / "a.h5")
    write(remaining, 0, 1)
    remaining.release()
    assert begin(tmp_path / "a.h5").missing().tolist() == list(range(2, 10))


def test_a_finished_one_is_not_overwritten_unasked(tmp_path: Path):
    (tmp_path / "a.h5").write_bytes(b"precious")
    with pytest.raises(UsageError, match="exists already"):
        begin(tmp_path / "a.h5")
    assert (tmp_path / "a.h5").read_bytes() == b"precious"
    shard = begin(tmp_path / "a.h5", overwrite=True)
    write(shard, *range(10))
    assert shard.finish() and ShardDataset(tmp_path / "a.h5").count(SAMPLES) == 10


@pytest.mark.parametrize("is_sealed", [False, True])
def test_a_kill_after_the_shard_and_before_its_pieces_are_gone_is_resumed(tmp_path, monkeypatch, is_sealed):
    whole = begin(tmp_path / "a.h5")
    write(whole, *range(10))
    seal = sample_shard.write_digest

    def killed(path: Path, digest: str) -> None:
        if is_sealed:
            seal(path, digest)
        raise KeyboardInterrupt

    with monkeypatch.context() as patched:
        patched.setattr(sample_shard, "write_digest", killed)
        with pytest.raises(KeyboardInterrupt):
            whole.finish()
    assert {"a.h5", "a.h5.partial"} <= set(os.listdir(tmp_path))
    writer.check(tmp_path / "a.h5", 10)  # what `inrflow sample` asks first
    again = begin(tmp_path / "a.h5")
    assert not len(again.missing()) and again.finish()
    assert sorted(os.listdir(tmp_path)) == ["a.h5", "a.h5.sha256"]
    assert sample_shard.matches_digest(tmp_path / "a.h5")
    with pytest.raises(UsageError, match="exists already"):
        begin(tmp_path / "a.h5")


def test_a_file_that_an_unfinished_shard_will_replace_is_not_replaced_unasked(tmp_path):
    (tmp_path / "a.h5").write_bytes(b"precious")
    write(begin(tmp_path / "a.h5", overwrite=True), 0, 1)
    with pytest.raises(UsageError, match="exists already"):
        begin(tmp_path / "a.h5")


def flip(path: Path, place: int) -> None:
    content = bytearray(path.read_bytes())
    content[place] ^= 1
    path.write_bytes(content)


def test_a_flipped_byte_of_a_finished_one_is_found_wherever_it_is(tmp_path: Path):
    shard = begin(tmp_path / "a.h5")
    write(shard, *range(10))
    assert shard.finish()
    whole = (tmp_path / "a.h5").read_bytes()
    opened = ShardDataset(tmp_path / "a.h5")
    opened.verify()
    values = opened._shard(opened.manifest.splits[SAMPLES].shards[0]).values.offset
    for index in (values, values + 100, len(whole) - 1):
        flip(tmp_path / "a.h5", index)
        with pytest.raises(IntegrityError, match=r"`.*a\.h5` is damaged") as caught:
            ShardDataset(tmp_path / "a.h5").verify()
        assert "inrflow sample" in (caught.value.hint or "")
        (tmp_path / "a.h5").write_bytes(whole)


def test_a_piece_whose_samples_are_damaged_is_named_and_drawn_again(tmp_path: Path):
    shard = begin(tmp_path / "a.h5")
    write(shard, *range(5))
    write(shard, *range(5, 10))
    piece = sorted((tmp_path / "a.h5.partial").glob("*.npz"))[1]
    flip(piece, piece.read_bytes().index(VALUES[7].tobytes()) + 2)
    with pytest.raises(IntegrityError, match=rf"{piece.name}` is damaged"):
        shard.finish()
    again = begin(tmp_path / "a.h5")
    assert again.missing().tolist() == list(range(5, 10))
    write(again, *range(5, 10))
    assert again.finish()
    np.testing.assert_array_equal(ShardDataset(tmp_path / "a.h5").read(SAMPLES, range(10)).values, VALUES)


def test_pieces_of_an_unknown_job_are_not_resumed(tmp_path: Path):
    write(begin(tmp_path / "a.h5"), 0, 1)
    (tmp_path / "a.h5.partial/job.json").write_text('{"seeds": #')
    with pytest.raises(IntegrityError, match=r"job\.json` is damaged"):
        begin(tmp_path / "a.h5")
    assert begin(tmp_path / "a.h5", overwrite=True).missing().tolist() == list(range(10))
