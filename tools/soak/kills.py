"""Training runs that are killed with -9 and resumed by the same command: each must equal an undisturbed one.

A process is stopped and killed if its folder shows the step of work that the kill aims at, else it continues. So
kills land inside a checkpoint or an image, which a clock alone would seldom hit; others come at a random moment, at a
random call that changes files, or inside the write of a line of the log.
"""

from __future__ import annotations

import contextlib
import json
import logging
import os
import random
import shutil
import signal
import subprocess
import time
from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from tools.soak import commands, traced

TIMING = {"samples_per_second", "data_wait", "memory", "seconds_left"}
"""What a line of the log tells of the machine and not of the run."""
STEPS, SAVED, EVALUATED, PREVIEWED = 36, 6, 9, 9
"""The steps of commands.IMAGES, and after how many it saves, evaluates and draws."""
AIMS = ("moment", "checkpoint", "log", "image", "change", "start-up", "step", "evaluation", "moment", "checkpoint")
"""What is aimed at, in turn; one that a run has not becomes a random moment."""
TWO = 5
"""Every fifth run has two processes."""


@dataclass(frozen=True)
class Kind:
    """A run that kills are tried on."""

    name: str
    preset: str
    program: tuple[str, ...] = commands.INRFLOW

    @property
    def is_evaluated(self) -> bool:
        """Whether it evaluates while it trains."""
        return self.preset == "evaluated"

    @property
    def is_launched(self) -> bool:
        """Whether two processes share it."""
        return self.program == commands.LAUNCHED


KINDS = (
    Kind("alone", "images"),
    Kind("with [eval]", "evaluated"),
    Kind("of 2 processes", "images", commands.LAUNCHED),
)


@dataclass
class Outcome:
    """What became of one run."""

    kind: str
    landed: list[str] = field(default_factory=list)
    """Where its kills came."""
    details: list[str] = field(default_factory=list)
    differences: list[str] = field(default_factory=list)
    """In what it is not the unbroken run; nothing where all is well."""


def soak(folder: Path, count: int, rng: random.Random) -> Iterator[Outcome]:
    """Kill and resume `count` runs; `folder` holds what `commands.prepare_all` made."""
    whole: dict[str, Path] = {}
    for number in range(count):
        kind = KINDS[2] if number % TWO == TWO - 1 else KINDS[number % 2]
        if kind.name not in whole:
            whole[kind.name] = folder / "whole" / kind.name.replace(" ", "-")
            commands.must(
                commands.run(*commands.training(kind.preset, whole[kind.name]), cwd=folder, program=kind.program)
            )
        out = folder / "killed" / f"{number:03d}"
        aims = [AIMS[(number + turn * 3) % len(AIMS)] for turn in range(rng.choice((1, 1, 2, 3)))]
        yield _one(folder, kind, out, whole[kind.name], aims, rng)


def _one(folder: Path, kind: Kind, out: Path, whole: Path, aims: list[str], rng: random.Random) -> Outcome:
    outcome = Outcome(kind.name)
    remaining_aims = list(aims)
    while remaining_aims:
        aim = remaining_aims.pop(0)
        process = commands.start(*commands.training(kind.preset, out), cwd=folder, program=kind.program)
        try:
            landed, detail = _kill(process, kind, out, aim, rng)
        finally:
            _end(process)
        if landed is None and not outcome.landed:  # it came to its end first: another, from the beginning
            shutil.rmtree(out)
            remaining_aims.insert(0, "moment")
            continue
        if landed is None:
            break
        outcome.landed.append(landed)
        outcome.details.append(detail)
        if process.returncode == 0:
            outcome.differences.append("a killed run left with 0")
    done = commands.run(*commands.training(kind.preset, out), cwd=folder, program=kind.program)
    if done.code:
        outcome.differences.append(f"the same command left with {done.code}: {done.said()}")
    outcome.differences += list(differences(out, whole))
    return outcome


def _kill(
    process: subprocess.Popen[str], kind: Kind, out: Path, aim: str, rng: random.Random
) -> tuple[str | None, str]:
    """Kill a run at the aim; returns where that was and some words, None where the run ended before."""
    begun = steps(out)
    after = rng.randrange(begun, STEPS - 1) if begun < STEPS - 1 else begun
    if aim in ("log", "change") and not kind.is_launched and traced.CALLS.get(os.uname().machine):
        detail = _kill_at_call(process, out, aim, after, rng)
        moment = "log" if aim == "log" else where(out, kind.is_evaluated, begun)
        return (None if detail is None else moment), detail or ""
    seconds = rng.uniform(0.3, 6.0)
    started = time.monotonic()
    while process.poll() is None:
        workers = _workers(process.pid) if kind.is_launched else [process.pid]
        leader = workers[0] if workers else None
        if leader is not None and stopped(leader):
            moment = where(out, kind.is_evaluated, begun)
            is_due = steps(out) > after or moment == "start-up"
            is_at_aim = moment == aim or (aim == "start-up" and time.monotonic() - started > seconds)
            if aim == "moment" or (aim == "evaluation" and not kind.is_evaluated):
                is_at_aim = steps(out) > after
            if is_at_aim and is_due and (aim != "start-up" or time.monotonic() - started > min(seconds, 2.0)):
                return moment, _strike(process, workers, rng)
            os.kill(leader, signal.SIGCONT)
        time.sleep(rng.uniform(0.0005, 0.004))
    return None, ""


def _strike(process: subprocess.Popen[str], workers: list[int], rng: random.Random) -> str:
    """Kill the only process, or of several one, or all at once."""
    if workers == [process.pid]:
        os.kill(process.pid, signal.SIGKILL)
        return "the process"
    victim = rng.choice(("rank 0", "rank 1", "all"))
    if victim == "all":
        os.killpg(process.pid, signal.SIGKILL)
    else:
        os.kill(workers[min(int(victim[-1]), len(workers) - 1)], signal.SIGKILL)
        os.kill(workers[0], signal.SIGCONT)
    for pid in workers if victim == "all" else ():
        _try_kill(pid)
    return victim


def _kill_at_call(process: subprocess.Popen[str], out: Path, aim: str, after: int, rng: random.Random) -> str | None:
    """Kill a run inside the write of a line of its log, or at a call that changes files; None where it ended before."""
    log = out / "log.jsonl"
    share = rng.choice((None, 0.25, 0.75, 1.0))
    number = rng.randrange(1, 400)
    while process.poll() is None:
        if log.is_file() and (aim == "change" or steps(out) > after):
            break
        time.sleep(0.001)
    try:
        if aim == "change":
            return "at a call, " + traced.die_at_change(process.pid, out.resolve(), number)
        said = traced.die_in_write(
            process.pid, log.resolve(), lambda size: None if share is None else max(1, int(size * share))
        )
        return f"in a line, {said}"
    except OSError:
        return None


def where(out: Path, is_evaluated: bool, begun: int) -> str:
    """What a stopped run is at, from what its folder holds; the order of a step's work is trainer.py's."""
    step, last = _last(out)
    if step <= begun and not (last and step > begun):
        return "start-up"
    if any((out / "checkpoints").glob(".*.partial")):
        return "checkpoint"
    if (out / "samples").is_dir() and any((out / "samples").glob(".*.partial")):
        return "image"
    if step % PREVIEWED == 0:
        if "held_out_loss" not in last and "eval" not in last:
            return "held-out loss"
        if not (out / f"samples/{step:08d}.png").is_file():
            return "image"
        if is_evaluated and "eval" not in last:
            return "evaluation"
    if step % SAVED == 0 and not (out / f"checkpoints/{step:08d}").is_dir():
        return "checkpoint"
    return "step"


def differences(out: Path, whole: Path) -> Iterator[str]:
    """In what a run is not the unbroken one: every byte of every file, timings of the log and TensorBoard's file aside."""
    mine, theirs = (_files(folder) for folder in (out, whole))
    for name in sorted(set(mine) ^ set(theirs)):
        yield f"`{name}` is in one of them alone"
    for name in sorted(set(mine) & set(theirs)):
        if name == "log.jsonl":
            yield from _log_differences(mine[name], theirs[name])
        elif name.startswith("tensorboard/"):
            yield from _board_differences(mine[name], theirs["log.jsonl"])
        elif mine[name].read_bytes() != theirs[name].read_bytes():
            yield f"`{name}` differs"


def _log_differences(mine: Path, theirs: Path) -> Iterator[str]:
    one, other = ([_parsed(line) for line in path.read_text().splitlines()] for path in (mine, theirs))
    if one != other:
        line = next((n for n, (a, b) in enumerate(zip(one, other, strict=False)) if a != b), min(len(one), len(other)))
        yield f"the log has {len(one)} lines and {len(other)}, the first that differs is number {line + 1}"


def _parsed(line: str) -> dict[str, Any]:
    return {key: value for key, value in json.loads(line).items() if key not in TIMING}


def _board_differences(board: Path, log: Path) -> Iterator[str]:
    """TensorBoard reads every loss of the log, each once."""
    try:
        from tensorboard.backend.event_processing.event_accumulator import EventAccumulator
    except ImportError:
        return
    logging.getLogger("tensorboard").setLevel(logging.ERROR)
    events = EventAccumulator(str(board.parent)).Reload()
    shown = [(event.step, round(event.value, 4)) for event in events.Scalars("loss")]
    records = [json.loads(line) for line in log.read_text().splitlines()]
    losses = [(record["step"], round(record["loss"], 4)) for record in records if "loss" in record]
    if [step for step, _ in shown] != [step for step, _ in losses]:
        yield f"TensorBoard shows {len(shown)} losses, the log has {len(losses)}"


def summarize(outcomes: list[Outcome]) -> tuple[list[tuple[str, str]], bool]:
    """Rows of the table, and whether all is well."""
    landed = Counter(moment for outcome in outcomes for moment in outcome.landed)
    bad = [outcome for outcome in outcomes if outcome.differences]
    killed = sum(landed.values())
    kinds = Counter(outcome.kind for outcome in outcomes)
    torn = sum("bytes" in detail for outcome in outcomes for detail in outcome.details)
    rows = [
        ("runs killed and resumed", f"{len(outcomes)}: " + ", ".join(f"{n} {kind}" for kind, n in kinds.items())),
        (
            "kills -9, and where they landed",
            f"{killed}: " + ", ".join(f"{n} {moment}" for moment, n in landed.most_common()),
        ),
        ("log lines that a kill truncated or ended at", str(torn)),
        ("runs equal to the unbroken one, to the bit", f"{len(outcomes) - len(bad)} of {len(outcomes)}"),
    ]
    return rows, not bad


def _files(folder: Path) -> dict[str, Path]:
    return {str(path.relative_to(folder)): path for path in folder.rglob("*") if path.is_file()}


def _last(out: Path) -> tuple[int, dict[str, Any]]:
    """The step of the last whole line of a run's log, and the line."""
    log = out / "log.jsonl"
    lines = log.read_bytes().splitlines(keepends=True) if log.is_file() else []
    whole = [line for line in lines if line.endswith(b"\n")]
    last = json.loads(whole[-1]) if whole else {}
    return int(last.get("step", 0)), last


def steps(out: Path) -> int:
    return _last(out)[0]


def stopped(pid: int) -> bool:
    """Stop a process; whether it has stopped."""
    try:
        os.kill(pid, signal.SIGSTOP)
        for _ in range(2000):
            if Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] in "Tt":
                return True
            time.sleep(0.0002)
    except (OSError, IndexError):
        pass
    return False


def _workers(launcher: int) -> list[int]:
    """The processes that torchrun started, rank 0 first; empty until both are there."""
    ranks = []
    for pid in _children(launcher):
        try:
            variables = Path(f"/proc/{pid}/environ").read_bytes().split(b"\0")
        except OSError:
            return []
        ranks += [(int(word.partition(b"=")[2]), pid) for word in variables if word.startswith(b"RANK=")]
    return [pid for _, pid in sorted(ranks)] if len(ranks) == 2 else []


def _children(pid: int) -> list[int]:
    try:
        return [int(word) for word in Path(f"/proc/{pid}/task/{pid}/children").read_text().split()]
    except OSError:
        return []


def _try_kill(pid: int) -> None:
    with contextlib.suppress(ProcessLookupError):
        os.kill(pid, signal.SIGKILL)


def _end(process: subprocess.Popen[str]) -> None:
    """Nothing of a command is left, whatever became of it."""
    with contextlib.suppress(subprocess.TimeoutExpired):
        process.communicate(timeout=90)
    for pid in _children(process.pid):
        _try_kill(pid)
    with contextlib.suppress(ProcessLookupError):
        os.killpg(process.pid, signal.SIGKILL)
    process.communicate()
