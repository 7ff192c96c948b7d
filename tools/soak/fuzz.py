"""Damaged and hostile files of every format, read by the commands: no traceback, no hang, no crash, no bomb, none used.

A case is a copy of a subject (`fuzz_inputs`), one mutation (`mutations`) and one command, in a process of its own with a
limit on memory and on time (`fuzz_child`).
"""

from __future__ import annotations

import contextlib
import io
import json
import os
import subprocess
import sys
from collections import Counter
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from queue import Queue
from typing import Any

from tools.soak import commands, fuzz_child, fuzz_inputs

CASES = 3000
"""Cases of one soak; less than 15 minutes on two cores."""
PROCESSES = 2
PREDICTED = "training needs about"
"""What a plan says in advance of a preset that is too large for the machine."""
FINDINGS = ("TRACEBACK", "HANG", "CRASH", "MEMORY", "USED")


@dataclass(frozen=True)
class Outcome:
    """What a command made of a damaged copy."""

    subject: str
    mutation: str
    result: str
    detail: str = ""

    @property
    def is_well(self) -> bool:
        """Whether it is none of the findings."""
        return self.result not in FINDINGS


def soak(folder: Path, seed: int, count: int, processes: int = PROCESSES) -> Iterator[Outcome]:
    """`count` cases in several processes.

    Raises:
        RuntimeError: a process has ended before its last case.
    """
    fuzz_inputs.make(folder)
    digests = {subject.name: (subject, whole_digest(folder, subject)) for subject in fuzz_inputs.subjects()}
    whole = {name: digest for name, (subject, digest) in digests.items() if subject.has_digest}
    (folder / fuzz_child.MODULES).write_text(json.dumps(sorted(set(sys.modules) - {"__main__"})))
    lines: Queue[dict[str, Any] | None] = Queue()
    with ThreadPoolExecutor(processes) as pool:
        for first in range(processes):
            pool.submit(_cases, folder, seed, range(first, count, processes), lines)
        for _ in range(count):
            line = lines.get()
            if line is None:
                raise RuntimeError("a process that runs the cases has ended before its last case")
            yield outcome(line, whole)


def whole_digest(folder: Path, subject: fuzz_inputs.Subject) -> str:
    """The digest of what a command writes for the undamaged subject.

    Raises:
        RuntimeError: the command fails.
    """
    work = folder / "cases/whole"
    copy = fuzz_child.copied(folder, subject, work)
    with contextlib.redirect_stdout(io.StringIO()):  # some of the commands print what they read
        result = fuzz_child.run(folder, subject, copy, work)
    if result["code"]:
        raise RuntimeError(f"`{subject.name}` is not read although it is whole: {result}")
    return result["digest"]


def outcome(line: dict[str, Any], whole: dict[str, str]) -> Outcome:
    """The outcome of a case that a child has reported."""
    result, detail = "refused", line.get("error", "")
    if line.get("ended"):
        result = line["ended"]
    elif line["code"] == 1:
        result = "TRACEBACK"
    elif line["peak"] > fuzz_child.MAX_MEMORY or (line["code"] == 5 and PREDICTED not in line.get("error", "")):
        result, detail = "MEMORY", f"{line['peak']:,} bytes, code {line['code']}"
    elif line["code"] in (0, 6):
        result = "read"
        if line["subject"] in whole:
            is_same = line["digest"] == whole[line["subject"]]
            result = "harmless" if is_same else "read" if line["is_hostile"] else "USED"
    return Outcome(line["subject"], f"case {line['case']}: {line['mutation']}", result, detail)


def summarize(outcomes: list[Outcome]) -> tuple[list[tuple[str, str]], bool]:
    """Rows of the table, and whether all is well."""
    rows = []
    for name in dict.fromkeys(outcome.subject for outcome in outcomes):
        results = Counter(outcome.result for outcome in outcomes if outcome.subject == name)
        rows.append((f"fuzzed: {name}", ", ".join(f"{count} {result}" for result, count in results.most_common())))
    found = Counter(outcome.result for outcome in outcomes)
    totals = ", ".join(f"{found[kind]} {kind.lower()}" for kind in FINDINGS)
    rows.append((f"fuzzed: {len(outcomes):,} cases in all", totals))
    return rows, all(outcome.is_well for outcome in outcomes)


def _cases(folder: Path, seed: int, cases: range, lines: Queue[dict[str, Any] | None]) -> None:
    """The lines that a process writes of its cases; None where it ends early."""
    numbers = map(str, (seed, cases.start, cases.stop, cases.step))
    command = [sys.executable, "-m", "tools.soak.fuzz_child", str(folder), *numbers]
    environment = os.environ | {"OMP_NUM_THREADS": "1", "PYTHONPATH": str(commands.ROOT), "CUDA_VISIBLE_DEVICES": ""}
    child = subprocess.Popen(command, cwd=folder, env=environment, stdout=subprocess.PIPE)
    assert child.stdout is not None
    done = 0
    for done, text in enumerate(child.stdout, start=1):  # noqa: B007
        lines.put(json.loads(text))
    child.wait()
    if done < len(cases):
        lines.put(None)
