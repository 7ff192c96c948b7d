"""The soak itself: it finds what it looks for, and each of its parts in small."""

from __future__ import annotations

import json
import os
import platform
import random
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

from tools.soak import damage, disk, fuzz, fuzz_inputs, kills, mutations, raw_files, traced

WRITER = """
import sys, time
with open(sys.argv[1], "ab", buffering=0) as file:
    file.write(b"begun\\n")
    while True:
        file.write(b"a line of the log, as long as that\\n")
        time.sleep(0.005)
"""
IS_TRACED = sys.platform == "linux" and platform.machine() in traced.CALLS


@pytest.fixture
def writer(tmp_path):
    """A process that writes lines, and its file."""
    file = tmp_path / "log"
    process = subprocess.Popen([sys.executable, "-c", WRITER, str(file)])
    while not (file.is_file() and file.stat().st_size):
        time.sleep(0.01)
    yield process, file
    process.kill()
    process.wait()


@pytest.mark.skipif(not IS_TRACED, reason="no numbers of this machine's system calls")
def test_a_kill_comes_before_a_line_or_after_it(writer):
    process, file = writer
    said = traced.die_in_write(process.pid, file, lambda size: None)
    assert (process.wait(), said) == (-signal.SIGKILL, "before it")
    assert file.read_bytes().endswith(b"\n")


@pytest.mark.skipif(platform.machine() != "x86_64", reason="a write is shortened on x86-64 alone")
def test_a_kill_comes_inside_a_line(writer):
    process, file = writer
    said = traced.die_in_write(process.pid, file, lambda size: 11)
    assert (process.wait(), said) == (-signal.SIGKILL, "after 11 bytes")
    assert file.read_bytes().endswith(b"\na line of t")


@pytest.fixture
def runs(tmp_path) -> tuple[Path, Path]:
    """Two equal folders of a run, by name and content."""
    for name in ("one", "other"):
        folder = tmp_path / name / "checkpoints/00000006"
        folder.mkdir(parents=True)
        (folder / "weights.safetensors").write_bytes(b"weights")
        lines = [{"step": step, "loss": 1 / step, "memory": len(name)} for step in (1, 2, 3)]
        (tmp_path / name / "log.jsonl").write_text("".join(json.dumps(line) + "\n" for line in lines))
    return tmp_path / "one", tmp_path / "other"


def test_runs_that_differ_in_timings_alone_are_equal(runs):
    assert list(kills.differences(*runs)) == []


@pytest.mark.parametrize(
    ("change", "says"),
    [
        (lambda run: (run / "checkpoints/00000006/weights.safetensors").write_bytes(b"weighty"), "weights.safetensors` differs"),
        (lambda run: (run / ".best.json.12ab.partial").touch(), "partial` is in one of them alone"),
        (lambda run: (run / "log.jsonl").write_text((run / "log.jsonl").read_text() * 2), "the log has 6 lines and 3"),
        (lambda run: (run / "log.jsonl").write_text('{"step": 1, "loss": 1.0}\n'), "the first that differs is number 2"),
    ],
)  # fmt: skip
def test_a_byte_a_file_or_a_line_that_differs_is_found(runs, change, says):
    change(runs[0])
    (reported,) = kills.differences(*runs)
    assert says in reported


def test_where_a_run_is_follows_from_its_folder(tmp_path):
    run = tmp_path / "run"

    def moment_of(*lines: dict) -> str:
        (run / "log.jsonl").write_text("".join(json.dumps(line) + "\n" for line in lines))
        return kills.where(run, True, 0)

    (run / "samples").mkdir(parents=True)
    assert kills.where(run, True, 0) == "start-up"
    assert moment_of({"step": 4, "loss": 1.0}) == "step"
    assert moment_of({"step": 6, "loss": 1.0}) == "checkpoint"
    assert moment_of({"step": 9, "loss": 1.0}) == "held-out loss"
    assert moment_of({"step": 9, "held_out_loss": 1.0}) == "image"
    (run / "samples/00000009.png").touch()
    assert moment_of({"step": 9, "held_out_loss": 1.0}) == "evaluation"
    assert moment_of({"step": 9, "eval": {}}) == "step"
    (run / "checkpoints/.00000009.partial").mkdir(parents=True)
    assert moment_of({"step": 9, "eval": {}}) == "checkpoint"


def test_damage_is_one_byte_or_an_end(tmp_path):
    rng, whole = random.Random(0), bytes(range(200))
    for _ in range(40):
        (tmp_path / "file").write_bytes(whole)
        said = damage.hurt(tmp_path / "file", rng)
        result = (tmp_path / "file").read_bytes()
        if "cut" in said:
            assert whole.startswith(result) and len(result) < len(whole)
        else:
            assert len(result) == len(whole) and sum(a != b for a, b in zip(result, whole, strict=True)) == 1


def test_a_silent_use_and_a_bare_error_are_not_well(tmp_path):
    file = tmp_path / "weights.safetensors"
    assert damage._outcome_of_reading(lambda: None, file)[0] == "SILENT"
    assert damage._outcome_of_reading(lambda: {}["x"], file)[0] == "CRASH"
    assert not damage.summarize([damage.Outcome("shard", "byte 3", "SILENT")])[1]
    assert not damage.summarize([damage.Outcome("shard", "byte 3", damage.HARMLESS)])[1]
    assert damage.summarize([damage.Outcome("saved field", "byte 3", damage.HARMLESS)])[1]


def test_every_mutation_of_every_raw_format_follows_from_its_seed_and_changes_the_file(tmp_path):
    raw_files.make(tmp_path / "raw")
    files = sorted(path for path in (tmp_path / "raw").rglob("*") if path.is_file())
    kinds = set()
    for number, file in enumerate(files * 2):
        said, made = [], []
        for copy in (tmp_path / "one", tmp_path / "two"):
            copy.mkdir(exist_ok=True)
            mutations.copy(file, copy / file.name)
            said.append(mutations.mutate(copy / file.name, random.Random(number))[0])
            is_small = (copy / file.name).is_file() and (copy / file.name).stat().st_size < 1 << 20
            made.append(is_small and (copy / file.name).read_bytes())
            shutil.rmtree(copy)
        kinds.add(said[0].split()[0])
        if file.suffix not in (".hdf5", ".zip", ".npz"):  # their libraries write the time
            assert said[0] == said[1] and made[0] == made[1], file
    assert len(kinds) > 8


def test_what_a_command_makes_of_a_damaged_file_is_sorted_by_its_code_memory_and_digest():
    whole = {"shards": "a"}
    case = {"case": 1, "subject": "shards", "mutation": "cut", "is_hostile": False, "peak": 0, "digest": "a"}
    results = {
        fuzz.outcome({**case, "code": 0}, whole).result: "harmless",
        fuzz.outcome({**case, "code": 0, "digest": "b"}, whole).result: "USED",
        fuzz.outcome({**case, "code": 0, "digest": "b", "is_hostile": True}, whole).result: "read",
        fuzz.outcome({**case, "code": 4}, whole).result: "refused",
        fuzz.outcome({**case, "code": 1}, whole).result: "TRACEBACK",
        fuzz.outcome({**case, "code": 5}, whole).result: "MEMORY",
        fuzz.outcome({**case, "code": 5, "error": "training needs about 277 GB of memory"}, whole).result: "refused",
        fuzz.outcome({**case, "code": 4, "peak": 5 << 30}, whole).result: "MEMORY",
        fuzz.outcome({**case, "ended": "HANG"}, whole).result: "HANG",
    }
    assert all(result == expected for result, expected in results.items())
    assert len({subject.name for subject in fuzz_inputs.subjects()}) == len(fuzz_inputs.subjects()) > 30
    rows, is_well = fuzz.summarize([fuzz.Outcome("shards", "cut", "USED"), fuzz.Outcome("shards", "cut", "read")])
    assert not is_well and rows[-1][1] == "0 traceback, 0 hang, 0 crash, 0 memory, 1 used"


def test_an_error_of_a_full_disk_must_say_where_how_much_and_what_to_do():
    said = "no room to write `OUT/a.h5`: it takes 16 kB, and 4.1 kB are free for it"
    assert list(disk._faults(said, f"error: {said}\n\nhint: free 12 kB or more\n")) == []
    assert len(list(disk._faults("the disk is full", "error: the disk is full"))) == 3


@pytest.mark.slow
@pytest.mark.parametrize(
    "part",
    [
        ["kills", "--kills", "2"],
        ["damage", "--shards", "4", "--files", "1"],
        ["disk", "--fillings", "1"],
        ["fuzz", "--cases", "40"],
    ],
    ids=" ".join,
)
def test_each_part_in_small(part, tmp_path, checkout):
    if shutil.which("unshare") is None or sys.platform != "linux":
        pytest.skip("Linux alone has what the soak works with")
    words = [sys.executable, "-m", "tools.soak", "--json", "--folder", str(tmp_path), "--parts", *part]
    done = subprocess.run(
        words, cwd=checkout, capture_output=True, text=True, env=os.environ | {"OMP_NUM_THREADS": "1"}
    )
    assert done.returncode == 0, done.stdout + done.stderr
    reported = json.loads(done.stdout)
    assert reported["is_well"] and reported[part[0]]
