"""Cases of the fuzzing part, each in a process of its own: `python -m tools.soak.fuzz_child FOLDER SEED FIRST LAST STEP`.

This process imports what the commands need and forks for each case, so that a case takes milliseconds, and no hang, crash
or cache of one reaches the next. It writes a JSON line after each; what the commands print is dropped.
"""

from __future__ import annotations

import contextlib
import hashlib
import importlib
import json
import os
import random
import re
import resource
import select
import shutil
import signal
import sys
import time
import traceback
from pathlib import Path
from typing import Any, TextIO

import psutil

from tools.soak import fuzz_inputs, mutations

MAX_MEMORY = 4_500_000_000
"""Bytes of memory beyond those of an idle process."""
MAX_SECONDS = 60.0
"""Seconds of processor time, or of waiting without any, after which a case hangs."""
MAX_TIMES_LONGER = 10
"""Wall time of a case on a busy machine, in `MAX_SECONDS`."""
MODULES = "modules.json"
"""In the folder of the soak: the names of the modules that the commands import."""
WRITTEN = ("*.npz", "*.h5", "*.pdb", "*.cif", "metrics.json")
"""What a command writes that depends on its input alone."""


def main() -> None:
    """Run the cases from FIRST until before LAST in steps of STEP."""
    folder, seed = Path(sys.argv[1]), sys.argv[2]
    report = os.fdopen(os.dup(1), "w", buffering=1)
    null = os.open(os.devnull, os.O_RDWR)
    for stream in (0, 1, 2):
        os.dup2(null, stream)
    os.environ.pop("INRFLOW_RUNS", None)
    for name in json.loads((folder / MODULES).read_text()):
        with contextlib.suppress(Exception):  # some of the libraries' modules cannot be imported alone
            importlib.import_module(name)
    _plan_trainings(folder)
    for number in range(*map(int, sys.argv[3:6])):
        print(json.dumps(in_process(folder, seed, number)), file=report)


def _plan_trainings(folder: Path) -> None:
    """Plan the trainings of the cases once: PyTorch caches what it traces, and each case takes seconds less."""
    from inrflow_cli import app

    for preset, shards in fuzz_inputs.TRAININGS.items():
        words = [
            "--preset",
            f"{folder}/{preset}.toml",
            "--data",
            f"{folder}/shards/{shards}",
            "--out",
            f"{folder}/none",
        ]
        app.run(["train", *words, *fuzz_inputs.QUICK, "--dry-run"])


def in_process(folder: Path, seed: str, number: int) -> dict[str, Any]:
    """What `case` returns, from a forked process; `ended` says HANG or CRASH where it returns nothing."""
    reader, writer = os.pipe()
    child = os.fork()
    if not child:
        os.setsid()
        with os.fdopen(writer, "w", buffering=1) as report:
            case(folder, seed, number, report)
        os._exit(0)
    os.close(writer)
    text, is_late = _until_done(reader, psutil.Process(child))
    with contextlib.suppress(ProcessLookupError):
        os.killpg(child, signal.SIGKILL)
    code = os.waitstatus_to_exitcode(os.waitpid(child, 0)[1])
    os.close(reader)
    _delete(folder / f"cases/{number}")
    lines = [json.loads(line) for line in text.splitlines()]
    known = {key: value for line in lines for key, value in line.items()}
    if len(lines) < 2:
        known = {"case": number, "subject": "start", "mutation": "", **known}
        known |= {"ended": "HANG" if is_late else "CRASH", "error": f"the process ended with {code}"}
    return known


def _until_done(reader: int, child: psutil.Process) -> tuple[str, bool]:
    """All that a pipe gives until it is closed or has two lines, and whether `child` hung before that.

    Processor time counts, since on a busy machine a case can wait long for a processor.
    """
    content, begun, waited, computed = b"", time.monotonic(), 0.0, 0.0
    while max(computed, waited, (time.monotonic() - begun) / MAX_TIMES_LONGER) < MAX_SECONDS:
        if select.select([reader], [], [], 1.0)[0]:
            block = os.read(reader, 1 << 16)
            content += block
            if not block or content.count(b"\n") == 2:
                return content.decode(), False
            continue
        used = _processor_seconds(child)
        waited = waited + 1.0 if used == computed else 0.0
        computed = used
    return content.decode(), True


def _processor_seconds(child: psutil.Process) -> float:
    """Seconds that a process and those that it started have computed."""
    seconds = 0.0
    for process in [child, *child.children(recursive=True)]:
        with contextlib.suppress(psutil.NoSuchProcess):
            seconds += sum(process.cpu_times()[:2])
    return seconds


def _delete(work: Path) -> None:
    shutil.rmtree(work, ignore_errors=True)


def case(folder: Path, seed: str, number: int, report: TextIO) -> None:
    """One case: a JSON line of what is damaged, and one of what the command made of it."""
    subjects = fuzz_inputs.subjects()
    subject, rng = subjects[number % len(subjects)], random.Random(f"{seed} {number}")
    work = folder / f"cases/{number}"
    copy, described, is_hostile = damaged(folder, subject, work, rng)
    known = {"case": number, "subject": subject.name, "mutation": described, "is_hostile": is_hostile}
    print(json.dumps(known), file=report)
    print(json.dumps(run(folder, subject, copy, work)), file=report)


def damaged(folder: Path, subject: fuzz_inputs.Subject, work: Path, rng: random.Random) -> tuple[Path, str, bool]:
    """A damaged copy of a subject, how it is damaged, and whether its digests were made to fit."""
    copy = copied(folder, subject, work)
    files = [copy]
    if subject.files:
        files = sorted(path for path in copy.glob(subject.files) if path.is_file() and path.stat().st_size)
    file = rng.choice(files)
    described, is_hostile = mutations.mutate(file, rng)
    return copy, f"{file.relative_to(work / 'in')}: {described}", is_hostile


def copied(folder: Path, subject: fuzz_inputs.Subject, work: Path) -> Path:
    """A copy of a subject, with the digest that lies beside it."""
    _delete(work)
    whole, copy = folder / subject.whole, work / "in" / Path(subject.whole).name
    mutations.copy(whole, copy)
    beside = whole.with_name(f"{whole.name}.sha256")
    if beside.is_file():
        mutations.copy(beside, copy.with_name(beside.name))
    return copy


def run(folder: Path, subject: fuzz_inputs.Subject, copy: Path, work: Path) -> dict[str, Any]:
    """Exit code, seconds, peak memory, the digest of what was written, and the place of a traceback."""
    from inrflow_cli import app

    out = work / "out"
    out.mkdir(exist_ok=True)
    words = {"IN": str(copy), "INS": str(copy.parent), "OUT": str(out), "BASE": str(folder)}
    arguments = [
        re.sub(r"(?<![A-Z])(INS|IN|OUT|BASE)(?=$|/)", lambda match: words[match[1]], word) for word in subject.command
    ]
    begun, error = time.monotonic(), ""
    Path("/proc/self/clear_refs").write_text("5")
    limited(MAX_MEMORY)
    try:
        code = app.run(arguments)
    except Exception as problem:  # any error that leaves the program is a finding
        code, error = 1, f"{last_place(problem)} {type(problem).__name__}: {problem}"[:400]
    limited(None)
    seconds = round(time.monotonic() - begun, 2)
    written = digest(Path(words[subject.writes])) if subject.has_digest and code in (0, 6) else ""
    return {"code": code, "seconds": seconds, "peak": status("VmHWM"), "error": error, "digest": written}


def limited(size: int | None) -> None:
    """Let this process take `size` bytes more than it has; None lifts the limit."""
    most = resource.getrlimit(resource.RLIMIT_DATA)[1]
    resource.setrlimit(resource.RLIMIT_DATA, (most if size is None else status("VmData") + size, most))


def status(name: str) -> int:
    """A number of bytes in this process's status."""
    line = next(line for line in Path("/proc/self/status").read_text().splitlines() if line.startswith(f"{name}:"))
    return int(line.split()[1]) << 10


def digest(out: Path) -> str:
    """The digest of all that a command has written, by name and content; the time in a file's header is left out."""
    hashed = hashlib.sha256()
    for path in sorted(path for pattern in WRITTEN for path in out.rglob(pattern) if path.is_file()):
        hashed.update(json.dumps(path.name).encode())
        if path.suffix != ".npz":
            hashed.update(path.read_bytes())
            continue
        import numpy as np

        with np.load(path) as archive:
            for name in sorted(archive):
                hashed.update(name.encode() + (b"" if archive[name].dtype.kind == "U" else archive[name].tobytes()))
    return hashed.hexdigest()


def last_place(problem: BaseException) -> str:
    """The last place of ours in a traceback."""
    frames = [frame for frame in traceback.extract_tb(problem.__traceback__) if "/inrflow_" in frame.filename]
    if not frames:
        return ""
    return f"{frames[-1].filename.partition('/inrflow_')[2]}:{frames[-1].lineno} {frames[-1].name}"


if __name__ == "__main__":
    main()
