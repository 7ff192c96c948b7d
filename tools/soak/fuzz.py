"""Damaged and hostile files of every format, read by the commands: no traceback, no hang, no crash, no bomb, none used.

Cases run in child processes, some hundred in each, with a limit on memory and on time; after a hang or a crash a fresh
child resumes. A case is a copy of a subject (`fuzz_inputs`), one mutation (`mutations`) and one command.
"""

from __future__ import annotations

import contextlib
import io
import json
import os
import selectors
import subprocess
import sys
from collections import Counter
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from queue import Queue
from typing import Any

from tools.soak import commands, fuzz_inputs
from tools.soak.fuzz_child import MAX_MEMORY

CASES = 3000
"""Cases of one soak; 15 minutes on two cores."""
BATCH = 150
"""Cases of one child."""
MAX_SECONDS = 60.0
"""Seconds after which a case hangs."""
START_SECONDS = 120.0
"""Seconds in which a child must have begun its first case: it imports its libraries before."""
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


def soak(folder: Path, seed: int, count: int) -> Iterator[Outcome]:
    """`count` cases in two processes."""
    fuzz_inputs.make(folder)
    digests = {subject.name: (subject, whole_digest(folder, subject)) for subject in fuzz_inputs.subjects()}
    whole = {name: digest for name, (subject, digest) in digests.items() if subject.has_digest}
    lines: Queue[dict[str, Any] | None] = Queue()
    batches = [range(first, min(first + BATCH, count)) for first in range(0, count, BATCH)]
    with ThreadPoolExecutor(2) as pool:
        for batch in batches:
            pool.submit(_batch, folder, seed, batch, lines)
        for _ in range(count):
            yield outcome(lines.get() or {}, whole)


def whole_digest(folder: Path, subject: fuzz_inputs.Subject) -> str:
    """The digest of what a command writes for the undamaged subject."""
    from tools.soak import fuzz_child, mutations

    work = folder / "cases/whole"
    copy = work / "in" / Path(subject.whole).name
    fuzz_child.shutil.rmtree(work, ignore_errors=True)
    mutations.copy(folder / subject.whole, copy)
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
    elif line["code"] == 5 or line["peak"] > MAX_MEMORY:
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


def _batch(folder: Path, seed: int, cases: range, lines: Queue[dict[str, Any] | None]) -> None:
    """Cases in one child, and in another where that one ends early."""
    rest = cases
    while rest:
        rest = _child(folder, seed, rest, lines)


def _child(folder: Path, seed: int, cases: range, lines: Queue[dict[str, Any] | None]) -> range:
    """Run cases in one child until it has done all, hangs or ends; returns those that are left."""
    command = [sys.executable, "-m", "tools.soak.fuzz_child", folder, str(seed), str(cases.start), str(cases.stop)]
    environment = os.environ | {"OMP_NUM_THREADS": "1", "PYTHONPATH": str(commands.ROOT), "CUDA_VISIBLE_DEVICES": ""}
    child = subprocess.Popen(command, cwd=folder, env=environment, stdout=subprocess.PIPE, start_new_session=True)
    begun: dict[str, Any] = {}
    done = cases.start
    ended = "CRASH"
    while done < cases.stop:
        text = _line(child, MAX_SECONDS if begun else START_SECONDS)
        if text is None:
            ended = "HANG"
            break
        if not text:
            break
        line = json.loads(text)
        if "code" in line:
            lines.put(line)
            done += 1
        else:
            begun = line
    child.kill()
    code = child.wait()
    if done < cases.stop:
        lines.put(
            {
                "subject": "start",
                "mutation": "",
                **begun,
                "case": done,
                "ended": ended,
                "error": f"the process ended with {code}",
            }
        )
        done += 1
    return range(done, cases.stop)


def _line(child: subprocess.Popen[bytes], seconds: float) -> bytes | None:
    """The next line of a child; None where none comes in time, empty where it has ended."""
    assert child.stdout is not None
    with selectors.DefaultSelector() as selector:
        selector.register(child.stdout, selectors.EVENT_READ)
        return child.stdout.readline() if selector.select(seconds) else None
