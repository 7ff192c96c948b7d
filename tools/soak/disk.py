"""A full disk: every command that writes is let run out of room on a small file system of its own.

Each must end with a clear error and exit code 5, without a traceback; what was there before stays as it was, nothing
half written has a final name; and once there is room the same command ends as one that nothing disturbed.
"""

from __future__ import annotations

import hashlib
import os
import random
import re
import shutil
import signal
import subprocess
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path

from inrflow_core.runs import checkpoint_manifest
from tools.soak import commands, kills

ROOM = 24 << 20
"""Bytes of the small file system."""
PAGE = 4096
"""It gives room in pages."""
CODE = 5


@dataclass(frozen=True)
class Case:
    """A command that runs out of room."""

    name: str
    arguments: Sequence[object]
    """`OUT` stands for a folder on the small file system."""
    what: str
    """What it writes there, for the table."""
    at: str | None = None
    """Fill the disk where the run is at this, of `kills.where`; None fills it before the command."""
    tries: int = 2


@dataclass
class Outcome:
    """What became of a command."""

    name: str
    what: str
    tries: int = 0
    is_small: bool = True
    """Whether it ran on a small file system; else none of its files could grow beyond a limit."""
    said: list[str] = field(default_factory=list)
    """The errors, each once."""
    problems: list[str] = field(default_factory=list)


def cases(folder: Path) -> list[Case]:
    """Every command that writes, with what it needs in `folder`."""
    train = ["train", "--preset", "pictures.toml", "--out", "OUT/run", "--device", "cpu", "--threads", "1"]
    often = [*train, "--set", "training.save_every=100", "--set", "training.samples_every=none"]
    drawn = ["--run", "runs/pictures", "--device", "cpu", "--threads", "1", "--num", "40"]
    clouds = ["--run", "runs/clouds", "--device", "cpu", "--threads", "1", "--num", "2"]
    judge = ["eval", "--out", "OUT/eval", "--samples", "drawn/clouds.h5", "--reference", "shards/solids"]
    return [
        Case("prepare", ["prepare", "digits", "--out", "OUT/digits"], "shards, journal, manifest", tries=3),
        Case("prepare", ["prepare", "solids", "--set", "train=600", "--set", "val=40", "--set", "points=64",
                         "--out", "OUT/solids"], "shards, journal, manifest"),
        Case("train", train, "a checkpoint", at="checkpoint"),
        Case("train", train, "a picture", at="picture", tries=1),
        Case("train", often, "the log, TensorBoard's file", at="step"),
        Case("train", train, "the start of a run", at=None, tries=1),
        Case("sample", ["sample", "OUT/drawn.h5", *drawn, "--batch", "4"], "a shard"),
        Case("sample", ["sample", "OUT/many", *drawn, "--batch", "4"], "a folder of shards"),
        Case("sample", ["sample", "OUT/drawn.png", *drawn, "--resolution", "24"], "a picture", tries=1),
        Case("sample", ["sample", "OUT/drawn.npz", *drawn, "--resolution", "24"], "an archive", tries=1),
        Case("sample", ["sample", "OUT/cloud.ply", *clouds, "--points", "4000"], "clouds", tries=1),
        Case("sample", ["sample", "OUT/a.npz", *drawn, "--save-field", "OUT/field.safetensors"], "a field", tries=1),
        Case("upsample", ["upsample", "OUT/large.png", *drawn[:-2], "--resolution", "96"], "a picture", tries=1),
        Case("eval", [*judge, "--metrics", "mmd"], "metrics, report, distances", tries=2),
        Case("eval", ["eval", "--out", "OUT/eval", "--samples", "drawn/drawn.h5", "--reference", "shards/digits",
                      "--metrics", "fid:random"], "features, metrics, report", tries=2),
        Case("prepare --statistics", ["prepare", "digits", "--out", "OUT/digits", "--statistics", "fid:random"],
             "shards, features", tries=2),
        Case("export", ["export", "runs/pictures", "OUT/weights.safetensors"], "weights", tries=1),
        Case("export", ["export", "shards/digits", "OUT/some.png"], "a picture", tries=1),
        Case("export", ["export", "shards/solids", "OUT/some.ply", "--items", "0-9"], "clouds", tries=1),
        Case("export", ["export", "shards/solids", "OUT/some.glb", "--items", "0", "--surface", "pivoting"],
             "a surface", tries=1),
    ]  # fmt: skip


def soak(folder: Path, rng: random.Random, most: int | None = None) -> Iterator[Outcome]:
    """Let every case, or the first `most` of them, run out of room some times."""
    draw_inputs(folder)
    is_small = may_mount(folder)
    for number, case in enumerate(cases(folder)[:most]):
        if case.at is not None and not is_small:
            continue
        outcome = Outcome(case.name, case.what, is_small=is_small)
        whole = folder / "undisturbed" / str(number)
        whole.mkdir(parents=True)
        commands.must(_run(case, whole, folder))
        for turn in range(case.tries):
            place = folder / f"small-{number}-{turn}"
            with small_disk(place) if is_small else large_disk(place):
                _one(case, place, whole, folder, outcome, rng)
            outcome.tries += 1
        yield outcome


def draw_inputs(folder: Path) -> None:
    """Runs and samples that the commands read."""
    for preset in ("pictures", "clouds"):
        if (folder / "runs" / preset).is_dir():
            continue
        commands.must(commands.run(*commands.training(preset, Path("runs") / preset), cwd=folder))
    (folder / "drawn").mkdir(exist_ok=True)
    for preset, name in (("pictures", "drawn.h5"), ("clouds", "clouds.h5")):
        arguments = [
            "sample",
            f"drawn/{name}",
            "--run",
            f"runs/{preset}",
            "--num",
            "40",
            "--device",
            "cpu",
            "--overwrite",
        ]
        commands.must(commands.run(*arguments, cwd=folder))


def _one(case: Case, place: Path, whole: Path, folder: Path, outcome: Outcome, rng: random.Random) -> None:
    """Run a command out of room, look, make room, and run it again."""
    before = {"kept.txt": "there before"}
    (place / "kept.txt").write_text(before["kept.txt"])
    needed = sum(-(-path.stat().st_size // PAGE) * PAGE for path in whole.rglob("*") if path.is_file())
    if not outcome.is_small:
        leave = rng.randrange(1, max(path.stat().st_size for path in whole.rglob("*") if path.is_file()))
        done, ballast = commands.run(*_placed(case, place), cwd=folder, limit=leave), place / "ballast"
        ballast.touch()
    elif case.at is None:
        leave = rng.randrange(0, max(needed // PAGE, 1)) * PAGE
        ballast = _fill(place, leave)
        done = _run(case, place, folder)
    else:
        done, ballast, leave = _run_filled(case, place, folder, rng)
    label = f"{case.name} ({case.what}), {leave} bytes left"
    problems = outcome.problems
    if done.code == 0:
        problems.append(f"{label}: it left with 0")
    elif done.code != CODE:
        problems.append(f"{label}: exit code {done.code}: {done.said()}")
    if done.has_traceback:
        problems.append(f"{label}: a traceback: {done.said()}")
    error = re.search(r"^error: (.*)$", done.errors, re.MULTILINE)
    if error is None:
        problems.append(f"{label}: no error is told: {done.said()}")
    else:
        said = error[1].replace(str(place), "OUT")
        if said not in outcome.said:
            outcome.said.append(said)
        problems += [f"{label}: the error {fault}: {said}" for fault in _faults(said, done.errors)]
    problems += [f"{label}: {text}" for text in _left(place, whole)]
    ballast.unlink()
    again = _run(case, place, folder)
    if again.code:
        problems.append(f"{label}: with room again, the same command left with {again.code}: {again.said()}")
    problems += [f"{label}: with room again, {text}" for text in _different(place, whole)]


def _faults(said: str, errors: str) -> Iterator[str]:
    """What an error of a full disk does not tell."""
    if "OUT" not in said:
        yield "names no place"
    if not re.search(r"\d[\d.,]* (B|kB|MB|GB)", said):
        yield "does not say how much"
    if not re.search(r"^hint: ", errors, re.MULTILINE):
        yield "has no hint"


def _left(place: Path, whole: Path) -> Iterator[str]:
    """What a failed command should not have left: files under a final name that are not what they should be."""
    if (place / "kept.txt").read_text() != "there before":
        yield "another file was changed"
    final = _contents(whole)
    for step in checkpoint_manifest.complete_steps(place / "run"):
        checkpoint_manifest.verify(checkpoint_manifest.checkpoint_folder(place / "run", step))
    for name, digest in _contents(place).items():
        if name in ("kept.txt", "ballast") or _is_in_work(name) or name.startswith("run/checkpoints/"):
            continue
        if name not in final:
            yield f"`{name}` is left, which a whole run has not"
        elif digest != final[name] and not _may_grow(name):
            yield f"`{name}` has its final name and another content"


def _different(place: Path, whole: Path) -> Iterator[str]:
    """In what a command that had room again left another folder than one that nothing disturbed."""
    mine, theirs = _contents(place), _contents(whole)
    mine.pop("kept.txt", None)
    for name in sorted(set(mine) ^ set(theirs)):
        yield f"`{name}` is in one of them alone"
    if (whole / "run").is_dir():
        yield from kills.differences(place / "run", whole / "run")
        return
    for name in sorted(set(mine) & set(theirs)):
        if mine[name] != theirs[name]:
            yield f"`{name}` differs"


def _is_in_work(name: str) -> bool:
    """Whether a name says that its file is not finished, or is a folder's own book-keeping."""
    return ".partial" in name or name.rpartition("/")[2].startswith(".")


def _may_grow(name: str) -> bool:
    """Whether a file is appended to, so that a failed command leaves a beginning of it, or depends on when it came."""
    return (
        name.endswith(("log.jsonl", "best.json", "environment.json", "preset.toml", "whole")) or "tensorboard/" in name
    )


def _contents(folder: Path) -> dict[str, str]:
    return {
        str(path.relative_to(folder)): hashlib.sha256(path.read_bytes()).hexdigest()
        for path in folder.rglob("*")
        if path.is_file()
    }


def _run(case: Case, place: Path, folder: Path) -> commands.Done:
    return commands.run(*_placed(case, place), cwd=folder)


def _placed(case: Case, place: Path) -> list[str]:
    return [str(word).replace("OUT", str(place)) for word in case.arguments]


def _run_filled(case: Case, place: Path, folder: Path, rng: random.Random) -> tuple[commands.Done, Path, int]:
    """Start a training and fill the disk where it is at what the case wants."""
    process = commands.start(*_placed(case, place), cwd=folder)
    leave = rng.randrange(0, 12) * PAGE if case.at == "checkpoint" else 0
    ballast, after = place / "ballast", rng.randrange(0, 12)
    while process.poll() is None and not ballast.exists():
        if kills.stopped(process.pid):
            if kills.steps(place / "run") > after and kills.where(place / "run", False, 0) == case.at:
                _fill(place, leave)
            os.kill(process.pid, signal.SIGCONT)
        time.sleep(rng.uniform(0.0005, 0.003))
    ballast.touch()
    return commands.ended(process), ballast, leave


def _fill(place: Path, leave: int) -> Path:
    """Take all room but so many bytes."""
    ballast = place / "ballast"
    size = shutil.disk_usage(place).free - leave
    with ballast.open("wb") as file:
        os.posix_fallocate(file.fileno(), 0, max(size, 1))
    return ballast


@contextmanager
def small_disk(place: Path) -> Iterator[Path]:
    """A folder with little room, which is gone afterwards.

    Raises:
        PermissionError: nothing may be mounted here.
    """
    place.mkdir(parents=True)
    told = ["mount", "-t", "tmpfs", "-o", f"size={ROOM}", "inrflow-soak", str(place)]
    done = subprocess.run(told, capture_output=True, text=True, check=False)
    if done.returncode:
        place.rmdir()
        raise PermissionError(done.stderr.strip())
    try:
        yield place
    finally:
        subprocess.run(["umount", "--lazy", str(place)], check=True)
        place.rmdir()


@contextmanager
def large_disk(place: Path) -> Iterator[Path]:
    """A folder with as much room as there is."""
    place.mkdir(parents=True)
    yield place
    shutil.rmtree(place)


def may_mount(folder: Path) -> bool:
    """Whether small file systems can be mounted here."""
    try:
        with small_disk(folder / "trial"):
            return True
    except PermissionError:
        return False


def told(outcomes: list[Outcome]) -> tuple[list[tuple[str, str]], bool]:
    """Rows of the table, and whether all is well."""
    rows = []
    for outcome in outcomes:
        said = "clear error, code 5, goes on" if not outcome.problems else f"{len(outcome.problems)} PROBLEMS"
        kind = "full disk" if outcome.is_small else "files limited in size (nothing may be mounted here)"
        rows.append((f"{kind}, `{outcome.name}`: {outcome.what}", f"{outcome.tries} x {said}"))
    return rows, not any(outcome.problems for outcome in outcomes)
