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
    """`OUT` is replaced by a folder on the small file system."""
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
    train = ["train", "--preset", "images.toml", "--out", "OUT/run", "--device", "cpu", "--threads", "1"]
    often = [*train, "--set", "training.save_every=100", "--set", "training.samples_every=none"]
    sampling = ["--run", "runs/images", "--device", "cpu", "--threads", "1", "--num", "40"]
    clouds = ["--run", "runs/clouds", "--device", "cpu", "--threads", "1", "--num", "2"]
    evaluating = ["eval", "--out", "OUT/eval", "--samples", "samples/clouds.h5", "--reference", "shards/solids"]
    return [
        Case("prepare", ["prepare", "digits", "--out", "OUT/digits"], "shards, journal, manifest", tries=3),
        Case("prepare", ["prepare", "solids", "--set", "train=600", "--set", "val=40", "--set", "points=64",
                         "--out", "OUT/solids"], "shards, journal, manifest"),
        Case("train", train, "a checkpoint", at="checkpoint"),
        Case("train", train, "an image", at="image", tries=1),
        Case("train", often, "the log, TensorBoard's file", at="step"),
        Case("train", train, "the start of a run", at=None, tries=1),
        Case("sample", ["sample", "OUT/images.h5", *sampling, "--batch", "4"], "a shard"),
        Case("sample", ["sample", "OUT/many", *sampling, "--batch", "4"], "a folder of shards"),
        Case("sample", ["sample", "OUT/sample.png", *sampling, "--resolution", "24"], "an image", tries=1),
        Case("sample", ["sample", "OUT/sample.npz", *sampling, "--resolution", "24"], "an archive", tries=1),
        Case("sample", ["sample", "OUT/cloud.ply", *clouds, "--points", "4000"], "clouds", tries=1),
        Case("sample", ["sample", "OUT/a.npz", *sampling, "--save-field", "OUT/field.safetensors"], "a field", tries=1),
        Case("upsample", ["upsample", "OUT/large.png", *sampling[:-2], "--resolution", "96"], "an image", tries=1),
        Case("eval", [*evaluating, "--metrics", "mmd"], "metrics, report, distances", tries=2),
        Case("eval", ["eval", "--out", "OUT/eval", "--samples", "samples/images.h5", "--reference", "shards/digits",
                      "--metrics", "fid:random"], "features, metrics, report", tries=2),
        Case("prepare --statistics", ["prepare", "digits", "--out", "OUT/digits", "--statistics", "fid:random"],
             "shards, features", tries=2),
        Case("export", ["export", "runs/images", "OUT/weights.safetensors"], "weights", tries=1),
        Case("export", ["export", "shards/digits", "OUT/some.png"], "an image", tries=1),
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
            folder_of_case = folder / f"small-{number}-{turn}"
            with small_disk(folder_of_case) if is_small else large_disk(folder_of_case):
                _one(case, folder_of_case, whole, folder, outcome, rng)
            outcome.tries += 1
        yield outcome


def draw_inputs(folder: Path) -> None:
    """Runs and samples that the commands read."""
    for preset in ("images", "clouds"):
        if (folder / "runs" / preset).is_dir():
            continue
        commands.must(commands.run(*commands.training(preset, Path("runs") / preset), cwd=folder))
    (folder / "samples").mkdir(exist_ok=True)
    for preset, name in (("images", "images.h5"), ("clouds", "clouds.h5")):
        arguments = [
            "sample",
            f"samples/{name}",
            "--run",
            f"runs/{preset}",
            "--num",
            "40",
            "--device",
            "cpu",
            "--overwrite",
        ]
        commands.must(commands.run(*arguments, cwd=folder))


def _one(case: Case, root: Path, whole: Path, folder: Path, outcome: Outcome, rng: random.Random) -> None:
    """Run a command out of room, look, make room, and run it again."""
    before = {"kept.txt": "there before"}
    (root / "kept.txt").write_text(before["kept.txt"])
    needed = sum(-(-path.stat().st_size // PAGE) * PAGE for path in whole.rglob("*") if path.is_file())
    if not outcome.is_small:
        leave = rng.randrange(1, max(path.stat().st_size for path in whole.rglob("*") if path.is_file()))
        done, ballast = commands.run(*_placed(case, root), cwd=folder, limit=leave), root / "ballast"
        ballast.touch()
    elif case.at is None:
        leave = rng.randrange(0, max(needed // PAGE, 1)) * PAGE
        ballast = _fill(root, leave)
        done = _run(case, root, folder)
    else:
        done, ballast, leave = _run_filled(case, root, folder, rng)
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
        problems.append(f"{label}: no error is printed: {done.said()}")
    else:
        said = error[1].replace(str(root), "OUT")
        if said not in outcome.said:
            outcome.said.append(said)
        problems += [f"{label}: the error {fault}: {said}" for fault in _faults(said, done.errors)]
    problems += [f"{label}: {text}" for text in _left(root, whole)]
    ballast.unlink()
    again = _run(case, root, folder)
    if again.code:
        problems.append(f"{label}: with room again, the same command left with {again.code}: {again.said()}")
    problems += [f"{label}: with room again, {text}" for text in _different(root, whole)]


def _faults(said: str, errors: str) -> Iterator[str]:
    """What an error of a full disk does not tell."""
    if "OUT" not in said:
        yield "names no place"
    if not re.search(r"\d[\d.,]* (B|kB|MB|GB)", said):
        yield "does not say how much"
    if not re.search(r"^hint: ", errors, re.MULTILINE):
        yield "has no hint"


def _left(root: Path, whole: Path) -> Iterator[str]:
    """What a failed command should not have left: files under a final name that are not what they should be."""
    if (root / "kept.txt").read_text() != "there before":
        yield "another file was changed"
    final = _contents(whole)
    for step in checkpoint_manifest.complete_steps(root / "run"):
        checkpoint_manifest.verify(checkpoint_manifest.checkpoint_folder(root / "run", step))
    for name, digest in _contents(root).items():
        if name in ("kept.txt", "ballast") or _is_in_work(name) or name.startswith("run/checkpoints/"):
            continue
        if name not in final:
            yield f"`{name}` is left, which a whole run has not"
        elif digest != final[name] and not _may_grow(name):
            yield f"`{name}` has its final name and another content"


def _different(root: Path, whole: Path) -> Iterator[str]:
    """In what a command that had room again left another folder than one that nothing disturbed."""
    mine, theirs = _contents(root), _contents(whole)
    mine.pop("kept.txt", None)
    for name in sorted(set(mine) ^ set(theirs)):
        yield f"`{name}` is in one of them alone"
    if (whole / "run").is_dir():
        yield from kills.differences(root / "run", whole / "run")
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


def _run(case: Case, root: Path, folder: Path) -> commands.Done:
    return commands.run(*_placed(case, root), cwd=folder)


def _placed(case: Case, root: Path) -> list[str]:
    return [str(word).replace("OUT", str(root)) for word in case.arguments]


def _run_filled(case: Case, root: Path, folder: Path, rng: random.Random) -> tuple[commands.Done, Path, int]:
    """Start a training and fill the disk where it is at what the case wants."""
    process = commands.start(*_placed(case, root), cwd=folder)
    leave = rng.randrange(0, 12) * PAGE if case.at == "checkpoint" else 0
    ballast, after = root / "ballast", rng.randrange(0, 12)
    while process.poll() is None and not ballast.exists():
        if kills.stopped(process.pid):
            if kills.steps(root / "run") > after and kills.where(root / "run", False, 0) == case.at:
                _fill(root, leave)
            os.kill(process.pid, signal.SIGCONT)
        time.sleep(rng.uniform(0.0005, 0.003))
    ballast.touch()
    return commands.ended(process), ballast, leave


def _fill(root: Path, leave: int) -> Path:
    """Fill the disk until `leave` bytes are free."""
    ballast = root / "ballast"
    size = shutil.disk_usage(root).free - leave
    with ballast.open("wb") as file:
        os.posix_fallocate(file.fileno(), 0, max(size, 1))
    return ballast


@contextmanager
def small_disk(root: Path) -> Iterator[Path]:
    """A folder with little room, which is gone afterwards.

    Raises:
        PermissionError: nothing may be mounted here.
    """
    root.mkdir(parents=True)
    command = ["mount", "-t", "tmpfs", "-o", f"size={ROOM}", "inrflow-soak", str(root)]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    if done.returncode:
        root.rmdir()
        raise PermissionError(done.stderr.strip())
    try:
        yield root
    finally:
        subprocess.run(["umount", "--lazy", str(root)], check=True)
        root.rmdir()


@contextmanager
def large_disk(root: Path) -> Iterator[Path]:
    """A folder with as much room as there is."""
    root.mkdir(parents=True)
    yield root
    shutil.rmtree(root)


def may_mount(folder: Path) -> bool:
    """Whether small file systems can be mounted here."""
    try:
        with small_disk(folder / "trial"):
            return True
    except PermissionError:
        return False


def summarize(outcomes: list[Outcome]) -> tuple[list[tuple[str, str]], bool]:
    """Rows of the table, and whether all is well."""
    rows = []
    for outcome in outcomes:
        said = "clear error, code 5, resumes" if not outcome.problems else f"{len(outcome.problems)} PROBLEMS"
        kind = "full disk" if outcome.is_small else "files limited in size (nothing may be mounted here)"
        rows.append((f"{kind}, `{outcome.name}`: {outcome.what}", f"{outcome.tries} x {said}"))
    return rows, not any(outcome.problems for outcome in outcomes)
