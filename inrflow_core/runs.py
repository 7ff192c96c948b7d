"""Runs on disk: find them, list them, and choose the weights that a command draws from."""

from __future__ import annotations

import json
import os
from collections.abc import Callable
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, Literal

from inrflow_core import manifest, outputs, presets, tensor_files
from inrflow_core.errors import InrflowError, IntegrityError, MissingError, UsageError
from inrflow_core.presets import Preset

Unreadable = Callable[[Path, InrflowError], None]
"""Called with a run's folder and what is wrong with it."""

HOW_TO = (
    "train one, for example `inrflow prepare solids` and then `inrflow train --preset solids-demo` "
    "(digits and digits-demo for images)"
)

MANIFEST, WEIGHTS = "manifest.json", "weights.safetensors"
"""Of a checkpoint: what is written last and makes it complete, and the weights that no EMA averaged."""
OLDER = "choose an older checkpoint with `--checkpoint STEP`"
BEST = "best.json"
"""Of a run: which checkpoint scored best while it was trained."""

Step = int | Literal["best"] | None
"""Which checkpoint: that of a step, the best one, or the newest."""


@dataclass(frozen=True)
class Best:
    """The checkpoint that scored best while a run was trained."""

    step: int
    metric: str
    """Its full name: `fid:random:...`."""
    value: float
    by: str
    """On which samples, against which reference: values by other words cannot be compared."""


@dataclass(frozen=True)
class Run:
    """A folder that training wrote."""

    folder: Path
    preset: Preset
    steps: tuple[int, ...]
    """Steps of the complete checkpoints, ascending."""

    @property
    def name(self) -> str:
        """The folder's name."""
        return self.folder.name

    def checkpoint(self, step: Step = None) -> Path:
        """The newest complete checkpoint, that of a step, or the best.

        Raises:
            MissingError: there is none.
            IntegrityError: which one is best cannot be read.
        """
        if step == "best":
            best = self.best()
            if best is None:
                raise MissingError(
                    f"the run `{self.folder}` has no best checkpoint",
                    hint="one is kept where the preset has a table [eval], as from `--set eval.every=1000`",
                )
            step = best.step
        if not self.steps:
            raise MissingError(
                f"the run `{self.folder}` has no complete checkpoint", hint="let `inrflow train` run until it saves one"
            )
        if step is not None and step not in self.steps:
            raise MissingError(
                f"the run `{self.folder}` has no checkpoint of step {step}",
                hint="it has " + ", ".join(str(s) for s in self.steps),
            )
        return checkpoint_folder(self.folder, self.steps[-1] if step is None else step)

    def best(self) -> Best | None:
        """The best checkpoint: see `read_best`."""
        return read_best(self.folder)

    def last_record(self) -> dict[str, Any]:
        """The last whole line of log.jsonl that tells a loss; empty where there is none."""
        log = self.folder / "log.jsonl"
        for line in reversed(log.read_text(encoding="utf-8").splitlines() if log.is_file() else []):
            try:
                record = json.loads(line)
            except json.JSONDecodeError:
                continue
            if "loss" in record:
                return record
        return {}

    def size(self) -> int:
        """Bytes of everything in the folder."""
        return sum(path.stat().st_size for path in self.folder.rglob("*") if path.is_file())


def home() -> Path:
    """Where runs are looked for and written: `INRFLOW_RUNS`, else `runs` in the working folder."""
    return Path(os.environ.get("INRFLOW_RUNS") or "runs")


def open_run(folder: Path) -> Run:
    """The run in a folder.

    Raises:
        MissingError: the folder is absent or holds no run.
    """
    if not (folder / "preset.toml").is_file():
        raise MissingError(f"`{folder}` holds no run: it has no `preset.toml`", hint=HOW_TO)
    tables = presets.read_toml(folder / "preset.toml")
    name = tables.pop("name", folder.name)
    return Run(folder, presets.resolve(str(name), tables), tuple(complete_steps(folder)))


def read_best(folder: Path) -> Best | None:
    """The best checkpoint of the run in `folder`; None where none was scored.

    Raises:
        IntegrityError: the record of it cannot be read.
    """
    path = folder / BEST
    if not path.is_file():
        return None
    try:
        told = json.loads(path.read_text(encoding="utf-8"))
        return Best(int(told["step"]), str(told["metric"]), float(told["value"]), str(told["by"]))
    except (ValueError, KeyError, TypeError) as error:
        raise IntegrityError(
            f"`{path}` does not say which checkpoint is best: {error!r}", hint="choose one with `--checkpoint STEP`"
        ) from error


def keep_best(folder: Path, best: Best | None) -> None:
    """Record which checkpoint of the run in `folder` is the best, or that there is none."""
    path = folder / BEST
    if best is None:
        path.unlink(missing_ok=True)
        return
    with outputs.written(path) as beside:
        beside.write_text(json.dumps(asdict(best), indent=1) + "\n", encoding="utf-8")


def complete_steps(run: Path) -> list[int]:
    """Steps of the complete checkpoints in a run's folder, ascending."""
    return sorted(int(p.parent.name) for p in run.glob(f"checkpoints/*/{MANIFEST}") if p.parent.name.isdigit())


def checkpoint_folder(run: Path, step: int) -> Path:
    """Where the checkpoint of a step lies."""
    return run / "checkpoints" / f"{step:08d}"


def average_file(decay: float) -> str:
    """The name of the weights file of an EMA."""
    return f"ema_{decay}.safetensors"


def listed(parent: Path | None = None, unreadable: Unreadable | None = None) -> list[Run]:
    """All runs below `parent`, oldest first by their newest checkpoint, those without one first of all.

    A run whose preset cannot be read (broken, or of another version of inrflow) stands in nobody's way: it is left
    out, and told to `unreadable`.
    """
    parent = home() if parent is None else parent
    found = []
    for path in sorted(parent.glob("*/preset.toml")):
        try:
            run = open_run(path.parent)
        except InrflowError as error:
            if unreadable is not None:
                unreadable(path.parent, error)
            continue
        stamp = (run.checkpoint() / MANIFEST).stat().st_mtime_ns if run.steps else 0
        found.append((stamp, run.name, run))
    return [run for _, _, run in sorted(found, key=lambda item: item[:2])]


GIVEN = ("picture", "sequence")
"""Conditions that a user must give: nothing can be drawn without."""


def newest(domains: tuple[str, ...] | None = None, condition: str | None = None) -> Run:
    """The newest run with a complete checkpoint, of one of those domains where some are named.

    Rather one that draws under `condition`, or where that is None one that needs nothing given.

    Raises:
        MissingError: there is none; says what was looked for and where.
    """
    complete = [run for run in listed() if run.steps]
    fitting = [run for run in complete if domains is None or run.preset.domain.name in domains]
    if fitting:
        named = [(run, run.preset.condition.name if run.preset.condition else None) for run in fitting]
        apt = [run for run, name in named if (name == condition if condition else name not in GIVEN)]
        return (apt or fitting)[-1]
    wanted = "a run with a complete checkpoint" + ("" if domains is None else f" of the domain {' or '.join(domains)}")
    there = f"; there are {len(complete)} of other domains" if complete else ""
    raise MissingError(
        f"looked for {wanted} in `{home()}` and found none{there}", hint=f"{HOW_TO}, or name one with `--run`"
    )


def weights_file(source: Path, *, ema: float | None = None, step: Step = None) -> Path:
    """The weights that `source` (a run, a checkpoint or a .safetensors file) stands for, checked against its manifest.

    From a run these are an EMA's: of decay `ema`, else of the first decay that its preset names; `ema=0` asks for the
    raw weights.

    Raises:
        MissingError: there is nothing at `source`, or no such decay or step.
        IntegrityError: the file differs from what the checkpoint's manifest, or its own seal, says of it.
    """
    if source.is_file():
        if source.absolute().parent.parent.name == "checkpoints" and (source.parent / MANIFEST).is_file():
            _check(source, _read_manifest(source.parent)[0].get(source.name))
        else:
            tensor_files.check_seal(source)
        return source
    if not source.is_dir():
        raise MissingError(f"`{source}` does not exist", hint="give a run folder or a .safetensors file")
    if (source / MANIFEST).is_file() and source.parent.name == "checkpoints":
        folder = source
    else:
        folder = open_run(source).checkpoint(step)
    files, decays = _read_manifest(folder)
    file = folder / _weights_name(folder, decays, ema)
    _check(file, files.get(file.name))
    return file


def _read_manifest(folder: Path) -> tuple[dict[str, dict[str, Any]], list[float]]:
    """Size and digest of a checkpoint's files, and the decays of its EMAs."""
    path = folder / MANIFEST
    try:
        told = json.loads(path.read_text(encoding="utf-8"))
        files = {name: {"bytes": int(of["bytes"]), "sha256": str(of["sha256"])} for name, of in told["files"].items()}
        return files, [float(decay) for decay in told["ema"]]
    except (ValueError, KeyError, TypeError, AttributeError) as error:
        raise IntegrityError(f"`{path}` is no manifest of a checkpoint: {error!r}", hint=OLDER) from error


def _weights_name(folder: Path, decays: list[float], ema: float | None) -> str:
    if ema == 0 or (ema is None and not decays):
        return WEIGHTS
    decay = decays[0] if ema is None else ema
    if decay not in decays:
        have = ", ".join(str(d) for d in decays) or "no EMA"
        raise UsageError(f"`{folder}` has no EMA of decay {ema}", hint=f"it has {have}; 0 asks for the raw weights")
    return average_file(decay)


def _check(file: Path, entry: dict[str, Any] | None) -> None:
    if entry is None or not file.is_file():
        raise IntegrityError(f"the checkpoint lacks `{file}`", hint=OLDER)
    if file.stat().st_size != entry["bytes"]:
        raise IntegrityError(
            f"`{file}` has {file.stat().st_size} bytes, its manifest says {entry['bytes']}", hint=OLDER
        )
    got = manifest.digest(file)
    if got != entry["sha256"]:
        raise IntegrityError(
            f"`{file}` is damaged: its digest is {got[:8]}..., the manifest says {entry['sha256'][:8]}...", hint=OLDER
        )
