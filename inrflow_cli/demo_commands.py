"""Commands of inrflow that `inrflow demo` runs in its folder as a user would, and trainings at the same time."""

from __future__ import annotations

import os
import shlex
import subprocess
import sys
import time
from collections.abc import Mapping, Sequence
from pathlib import Path

from inrflow_cli import console
from inrflow_core.errors import Exit, InrflowError
from inrflow_core.storage import typed_json

INRFLOW = (sys.executable, "-m", "inrflow_cli")
REPORT_SECONDS = 20.0
STDERR = 2
"""The file descriptor."""
WINDOW = 20
"""Lines of a run's log whose mean loss is shown."""


def run(folder: Path, *arguments: str | Path) -> None:
    """One command of inrflow in a folder, printed before it runs; what it prints goes to stderr.

    Raises:
        InrflowError: it failed; the error has its exit code.
    """
    words = [str(argument) for argument in arguments]
    console.info(f"$ inrflow {shlex.join(words)}")
    code = subprocess.run([*INRFLOW, *words], cwd=folder, env=_environment(), stdout=STDERR, check=False).returncode
    if code:
        raise _failure(words, code, "what is above says why")


def train(folder: Path, presets: Sequence[str], options: Sequence[str] = ()) -> None:
    """Train presets at the same time, one thread each; every so often a line says how far they are.

    What they print goes to `train-PRESET.log` in the folder. Where one fails or this is interrupted, the others save and end.

    Raises:
        InrflowError: one failed; the error has its exit code.
    """
    trainings: list[tuple[list[str], Path, subprocess.Popen]] = []
    try:
        for preset in presets:
            words = ["train", "--preset", preset, "--threads", "1", *options]
            console.info(f"$ inrflow {shlex.join(words)}")
            printed = folder / f"train-{preset}.log"
            with printed.open("w") as log:
                environment = _environment() | {"OMP_NUM_THREADS": "1"}
                process = subprocess.Popen([*INRFLOW, *words], cwd=folder, env=environment, stdout=log, stderr=log)
            trainings.append((words, printed, process))
        _wait(folder, presets, [process for *_, process in trainings])
    finally:
        for *_, process in trainings:
            process.terminate()
        codes = [process.wait() for *_, process in trainings]
    if any(codes):
        first = min(range(len(codes)), key=lambda index: (codes[index] == 0, codes[index] == Exit.INTERRUPTED))
        words, printed, _ = trainings[first]
        console.info(printed.read_text(encoding="utf-8"))
        raise _failure(words, codes[first], f"what is above, and in `{printed}`, says why")


def _wait(folder: Path, presets: Sequence[str], processes: Sequence[subprocess.Popen]) -> None:
    """Wait until all trainings have ended, or one has failed."""
    reported = time.monotonic()
    while None in (codes := [process.poll() for process in processes]) and not any(codes):
        time.sleep(0.5)
        if time.monotonic() - reported > REPORT_SECONDS:
            reported = time.monotonic()
            console.info("  " + "   ".join(_progress(folder, preset) for preset in presets))


def curve(folder: Path, preset: str) -> tuple[list[float], list[float]]:
    """Steps and losses of a run in a folder, each the mean of `WINDOW` lines of its log."""
    records = _records(folder, preset)
    groups = [records[start : start + WINDOW] for start in range(0, len(records), WINDOW)]
    return [float(group[-1]["step"]) for group in groups], [_mean_loss(group) for group in groups]


def _progress(folder: Path, preset: str) -> str:
    records = _records(folder, preset)
    if not records:
        return f"{preset}: starting"
    return f"{preset}: step {records[-1]['step']:,}, loss {_mean_loss(records[-WINDOW:]):.3f}"


def _mean_loss(records: Sequence[Mapping]) -> float:
    return sum(record["loss"] for record in records) / len(records)


def _records(folder: Path, preset: str) -> list[dict]:
    """The complete records of a run's log that have a loss."""
    log = folder / "runs" / preset / "log.jsonl"
    return [record for record in typed_json.json_lines(log) if record.get("loss") is not None]


def _environment() -> dict[str, str]:
    """The environment of a command, with data and runs in the folder in which it runs."""
    return {key: value for key, value in os.environ.items() if key not in ("INRFLOW_DATA", "INRFLOW_RUNS")}


def _failure(words: Sequence[str], code: int, hint: str) -> InrflowError:
    error = InrflowError(f"`inrflow {shlex.join(words)}` ended with exit code {code}", hint=hint)
    error.code = Exit(code) if code in list(Exit) else Exit.BUG
    return error
