"""Cases of the fuzzing part, one after the other in this process: `python -m tools.soak.fuzz_child FOLDER SEED FIRST LAST`.

Writes one JSON line before a case and one after it to the standard output that it is given; what the commands print is
dropped. The parent ends this process where a case hangs, and starts another after a crash.
"""

from __future__ import annotations

import hashlib
import json
import os
import random
import re
import resource
import shutil
import sys
import time
import traceback
from pathlib import Path
from typing import Any

from tools.soak import fuzz_inputs, mutations

MAX_MEMORY = 4_500_000_000
"""Bytes of memory beyond those of an idle process."""


def main() -> None:
    """Run the cases from FIRST until before LAST."""
    folder, seed, first, last = Path(sys.argv[1]), sys.argv[2], int(sys.argv[3]), int(sys.argv[4])
    report = os.fdopen(os.dup(1), "w", buffering=1)
    null = os.open(os.devnull, os.O_WRONLY)
    for stream in (1, 2):
        os.dup2(null, stream)
    os.environ.pop("INRFLOW_RUNS", None)
    for number in range(first, last):
        subjects = fuzz_inputs.subjects()
        subject, rng = subjects[number % len(subjects)], random.Random(f"{seed} {number}")
        work = folder / f"cases/{number}"
        copy, described, is_hostile = damaged(folder, subject, work, rng)
        print(json.dumps({"case": number, "subject": subject.name, "mutation": described}), file=report)
        outcome = run(folder, subject, copy, work)
        outcome |= {"case": number, "subject": subject.name, "mutation": described, "is_hostile": is_hostile}
        print(json.dumps(outcome), file=report)
        shutil.rmtree(work, ignore_errors=True)


def damaged(folder: Path, subject: fuzz_inputs.Subject, work: Path, rng: random.Random) -> tuple[Path, str, bool]:
    """A damaged copy of a subject, how it is damaged, and whether its digests were made to fit."""
    shutil.rmtree(work, ignore_errors=True)
    whole, copy = folder / subject.whole, work / "in" / Path(subject.whole).name
    mutations.copy(whole, copy)
    beside = whole.with_name(f"{whole.name}.sha256")
    if beside.is_file():
        mutations.copy(beside, copy.with_name(beside.name))
    files = [copy]
    if subject.files:
        files = sorted(path for path in copy.glob(subject.files) if path.is_file() and path.stat().st_size)
    file = rng.choice(files)
    described, is_hostile = mutations.mutate(file, rng)
    return copy, f"{file.relative_to(work / 'in')}: {described}", is_hostile


def run(folder: Path, subject: fuzz_inputs.Subject, copy: Path, work: Path) -> dict[str, Any]:
    """Exit code, seconds, peak memory, the digest of what was written, and the place of a traceback."""
    from inrflow_cli import app

    out = work / "out"
    out.mkdir(exist_ok=True)
    words = {"IN": str(copy), "INS": str(copy.parent), "OUT": str(out), "BASE": str(folder)}
    arguments = [re.sub(r"^(INS|IN|OUT|BASE)(?=$|/)", lambda match: words[match[1]], word) for word in subject.command]
    begun, error = time.monotonic(), ""
    Path("/proc/self/clear_refs").write_text("5")
    limited(MAX_MEMORY)
    try:
        code = app.run(arguments)
    except Exception as problem:  # any error that leaves the program is a finding
        code, error = 1, f"{last_place(problem)} {type(problem).__name__}: {problem}"[:400]
    limited(None)
    seconds = round(time.monotonic() - begun, 2)
    return {"code": code, "seconds": seconds, "peak": status("VmHWM"), "error": error, "digest": digest(out)}


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
    for path in sorted(out.rglob("*.npz")) + sorted(out.rglob("*.h5")):
        hashed.update(json.dumps(path.name).encode())
        if path.suffix == ".h5":
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
