"""The folder of a run: its settings, and whether a command may resume it.

RUN/
    preset.toml        every setting, defaults included
    environment.json   versions, device, precision, data; no time of day or host, and no path but that of `--data`
    log.jsonl          one line per `log_every` steps
    samples/           images of samples
    checkpoints/       see checkpoint.py
    best.json          which of them scored best, and how well, where the preset has a table [eval]
    precomputed/       see precompute.py; of methods whose later stages read what an earlier one left
    references/        cached features and distances of the reference data of the preset's metrics
"""

from __future__ import annotations

import contextlib
import json
import os
import platform
import re
import shlex
import shutil
from collections.abc import Iterator
from dataclasses import dataclass
from importlib import metadata
from pathlib import Path
from typing import Any

import torch

from inrflow_core.config import toml
from inrflow_core.config.preset import Preset
from inrflow_core.config.training import RESUMABLE_SETTINGS
from inrflow_core.errors import UsageError
from inrflow_core.runs import best, checkpoint_manifest
from inrflow_core.runs.run import open_run
from inrflow_core.runtime.distributed import World
from inrflow_core.storage import atomic_write, file_lock, plain_file, typed_json

FOLDER = "references"
"""The folder of a run with cached features and distances of the reference data."""

FILES = ("preset.toml", "environment.json", "log.jsonl", best.BEST)
FOLDERS = {
    "samples": re.compile(r"\d{8}\.png"),
    "checkpoints": re.compile(r"\d{8}"),
    "tensorboard": re.compile(r"events\.out\.tfevents\..+"),
    FOLDER: re.compile(r"[0-9a-f]{16}"),
    "precomputed": re.compile(r".+-[0-9a-f]{16}"),
}
"""What training writes into a run's folder: files, and folders with the names of what is in them."""
PARTIAL = re.compile(r"\..+\.partial")
LOCK = ".training.lock"
"""The file that a training process locks; it removes the file at its end."""
STARTED = re.compile(r"\.(preset\.toml|environment\.json)\.[0-9a-f]+\.partial")
"""Temporary files of a run that was killed at its start."""
VERSIONS = ("torch", "deepspeed", "numpy", "safetensors", "h5py")
DATA_ASIDE = {"path", "prepare", "prefetch"}
CONDITION_ASIDE = {"weights"}
"""The path of an embedder's weights; `condition_features` compares their digest."""
METHOD_ASIDE = {"perceptual_weights"}
"""The path of a frozen network's weights; `pretrained` compares their digest."""
NETWORK_ASIDE = {"checkpoint_activations"}
"""Recomputes activations, with the same result to the bit."""


@dataclass(frozen=True)
class Environment:
    """The values of environment.json that a resumed run must match."""

    precision: str
    data: str
    init_from: str | None
    shards: str | None = None


@dataclass(frozen=True)
class ExistingRun:
    """A run in its folder: its newest complete checkpoint, and values that cannot change any more."""

    step: int | None
    precision: str
    data: str
    init_from: str | None
    shards: str | None
    """Folder that `--data` named (`recorded_path`)."""


def read_existing_run(out: Path, preset: Preset) -> ExistingRun | None:
    """The run in `out`; None if there is none yet. Writes nothing.

    Raises:
        UsageError: the folder holds something else, or a run with other settings; names the first that differs.
        IntegrityError: its records cannot be read.
    """
    if not out.exists():
        return None
    if not (out / "preset.toml").is_file():
        if out.is_dir() and all(_is_of_a_start(out, path) for path in out.rglob("*")):
            return None
        raise UsageError(f"`{out}` exists and holds no run", hint="choose another `--out`")
    run = open_run(out)
    for table, key, was, now in differences(run.preset, preset):
        hint = "repeat the run's settings to resume it, choose another `--out`, or start it again with `--overwrite`"
        if key == "steps" and run.steps:  # with a constant rate they do not differ
            hint += f"; a run of other steps can begin with its weights: `--init-from {shlex.quote(str(out))}` and another `--out`"
        raise UsageError(
            f"the run `{out}` was begun with [{table}] `{key}` = {was!r}, and this command says {now!r}", hint=hint
        )
    hint = "start it again with `--overwrite`"
    recorded = typed_json.read_record(out / "environment.json", Environment, hint=hint, extra=True)
    step = run.steps[-1] if run.steps else None
    return ExistingRun(step, recorded.precision, recorded.data, recorded.init_from, recorded.shards)


def differences(was: Preset, now: Preset) -> list[tuple[str, str, Any, Any]]:
    """Settings that differ and matter to the weights: (table, key, before, now).

    Paths of the data and settings of parallelism, checkpoints and reports may differ, as may all of [eval]. So may the number
    of steps of the last stage if its learning rate is constant: a longer run then has the same steps.
    """
    before, after = _flat(_resolved(was)), _flat(_resolved(now))
    asides = {
        "training": RESUMABLE_SETTINGS,
        "data": DATA_ASIDE,
        "condition": CONDITION_ASIDE,
        "method": METHOD_ASIDE,
        "network": NETWORK_ASIDE,
    }
    names = [stage.name for stage in now.stages]
    last = "training" if len(names) == 1 else f"training.{names[-1]}"
    differing = []
    for table in sorted({*before, *after} - {"eval"}):
        aside = asides.get(table.partition(".")[0], frozenset())
        old, new = before.get(table, {}), after.get(table, {})
        if (table == last or table.startswith(f"{last}.")) and new.get("schedule") == "constant":
            aside = aside | {"steps"}
        for key in sorted({*old, *new}):
            if key not in aside and old.get(key) != new.get(key):
                differing.append((table, key, old.get(key), new.get(key)))
    return differing


def _resolved(preset: Preset) -> dict[str, dict[str, Any]]:
    """The tables of a preset; for a method of several stages, [training] is the settings of each stage and optimizer."""
    tables, stages = preset.table(), preset.stages
    if len(stages) > 1:
        config = preset.training.config
        tables["training"] = {
            stage.name: vars(config.for_stage(stage.name))
            | {name: vars(config.for_stage(stage.name, name)) for name in stage.optimizers}
            for stage in stages
        }
    return tables


def _flat(tables: dict[str, dict[str, Any]]) -> dict[str, dict[str, Any]]:
    """Tables inside tables as `table.inner`."""
    flat: dict[str, dict[str, Any]] = {}
    for name, table in tables.items():
        inner = {key: value for key, value in table.items() if isinstance(value, dict)}
        flat[name] = {key: value for key, value in table.items() if key not in inner}
        flat |= _flat({f"{name}.{key}": value for key, value in inner.items()})
    return flat


@contextlib.contextmanager
def lock(out: Path) -> Iterator[None]:
    """Lock a run's folder for one training process, and create the folder if needed. A kill releases the lock.

    Raises:
        UsageError: another process trains in the folder.
    """
    is_new = not out.exists()
    with contextlib.ExitStack() as stack:
        try:
            stack.enter_context(file_lock.try_lock(out / LOCK))
        except BlockingIOError as error:
            raise UsageError(
                f"another process is training in `{out}`", hint="wait for it, or choose another `--out`"
            ) from error
        try:
            yield
        finally:
            (out / LOCK).unlink(missing_ok=True)
            if is_new:
                with contextlib.suppress(OSError):  # not empty, as after training
                    out.rmdir()


class OpenFolder:
    """A folder that is held open, which knows where it is when it was moved."""

    def __init__(self, folder: Path) -> None:
        self._descriptor = os.open(folder, os.O_RDONLY | os.O_DIRECTORY)

    def is_at(self, path: Path) -> bool:
        """Whether `path` is still this folder."""
        try:
            return os.path.samestat(os.fstat(self._descriptor), path.stat())
        except (FileNotFoundError, NotADirectoryError):
            return False

    def path(self) -> Path | None:
        """Where the folder is now; None if it was removed, or where the system does not tell."""
        with contextlib.suppress(OSError):
            path = Path(os.readlink(f"/proc/self/fd/{self._descriptor}"))
            return path if self.is_at(path) else None
        return None

    def close(self) -> None:
        """Let go of the folder."""
        os.close(self._descriptor)


def check_same_step(out: Path, existing: ExistingRun | None) -> None:
    """Raise UsageError unless `existing`, which was read before the run was locked, still has the latest checkpoint.

    Raises:
        UsageError: another process trained in the folder since.
    """
    step = None if existing is None else existing.step
    if checkpoint_manifest.complete_steps(out)[-1:] != ([] if step is None else [step]):
        raise UsageError(
            f"another process trained in `{out}` while this one started", hint="run the same command again"
        )


def check_not_beyond(out: Path, existing: ExistingRun, steps: int) -> None:
    """Raise UsageError if a run has done more steps than the settings say.

    Raises:
        UsageError: it has.
    """
    if existing.step is not None and existing.step > steps:
        raise UsageError(
            f"the run `{out}` has done {existing.step:,} steps, and its settings would end at {steps:,}",
            hint="give more `steps`, sample an earlier checkpoint with `--checkpoint`, or train into another `--out`",
        )


def check_same_data(out: Path, existing: ExistingRun, data: str) -> None:
    """Raise UsageError unless these are the shards that the run was started with.

    Raises:
        UsageError: the manifest has another digest.
    """
    if existing.data != data:
        raise UsageError(
            f"the run `{out}` was begun with other data: its manifest was {existing.data[:8]}..., this one is {data[:8]}...",
            hint="give the same shards with `--data`, or choose another `--out`",
        )


def check_same_initial_weights(out: Path, existing: ExistingRun, init_from: Path | None) -> None:
    """Raise UsageError unless the run was started with the weights that the command names.

    A run with a checkpoint does not need them any more: the command may omit them, and if they came from another run, that
    may have been trained further.

    Raises:
        UsageError: the run was started with other weights, or needs them and the command names none.
    """
    hint = "repeat the run's `--init-from` to resume it, choose another `--out`, or start it again with `--overwrite`"
    if init_from is None:
        if existing.init_from is not None and existing.step is None:
            raise UsageError(
                f"the run `{out}` was begun with `--init-from`, has no checkpoint yet, and this command names no weights",
                hint=hint,
            )
    elif existing.init_from is None:
        raise UsageError(f"the run `{out}` was begun with random weights, not with those of `{init_from}`", hint=hint)
    elif init_from.is_file() and plain_file.file_digest(init_from) != existing.init_from:
        raise UsageError(f"the run `{out}` was begun with other weights than those of `{init_from}`", hint=hint)


def write(out: Path, preset: Preset, environment: dict[str, Any]) -> None:
    """Record the settings and the environment; preset.toml is written last, because it makes the folder a run.

    Temporary files that a killed process left are removed.
    """
    for left in list(out.rglob(".*.partial")):
        if left.is_dir():
            shutil.rmtree(left, ignore_errors=True)
        else:
            left.unlink(missing_ok=True)
    for name in ("samples", "checkpoints"):
        (out / name).mkdir(parents=True, exist_ok=True)
    texts = {
        "environment.json": json.dumps(environment, indent=1, sort_keys=True) + "\n",
        "preset.toml": f"name = {toml.spell(preset.name)}\n\n" + toml.to_toml(preset.table()),
    }
    for name, text in texts.items():
        with atomic_write.atomic_write(out / name) as beside:
            beside.write_text(text, encoding="utf-8")


def _is_of_a_start(out: Path, path: Path) -> bool:
    """Whether a file or folder belongs to a run that was killed before it wrote preset.toml."""
    if path.is_dir():
        return path.relative_to(out).parts in {("samples",), ("checkpoints",)}
    return path.parent == out and (path.name in ("environment.json", LOCK) or STARTED.fullmatch(path.name) is not None)


def check_replaceable(out: Path) -> None:
    """Raise UsageError unless `out` is absent, or holds a run or the start of one: nothing else may be replaced."""
    is_run = all((out / name).is_file() for name in ("preset.toml", "environment.json"))
    if out.exists() and not is_run and not (out.is_dir() and all(_is_of_a_start(out, path) for path in out.rglob("*"))):
        raise UsageError(f"`{out}` holds no run that `--overwrite` could replace", hint="choose another `--out`")


def clear(out: Path) -> None:
    """Remove what training wrote into a run's folder, by its names, and nothing else."""
    for name in FILES:
        (out / name).unlink(missing_ok=True)
    for name, pattern in FOLDERS.items():
        folder = out / name
        for path in list(folder.iterdir()) if folder.is_dir() and not folder.is_symlink() else ():
            if pattern.fullmatch(path.name) or PARTIAL.fullmatch(path.name):
                _remove(path)
        with contextlib.suppress(OSError):  # absent, or not empty
            folder.rmdir()


def _remove(path: Path) -> None:
    if path.is_dir() and not path.is_symlink():
        shutil.rmtree(path)
    else:
        path.unlink(missing_ok=True)


def recorded_path(shards: Path, out: Path) -> str:
    """The folder of shards as a run in `out` records it: an absolute path as it is, another one relative to `out`."""
    return str(shards) if shards.is_absolute() else os.path.relpath(shards, out)


def environment(
    world: World, *, precision: str, data: str, init_from: str | None, shards: str | None = None
) -> dict[str, Any]:
    """Versions, device and processes at the start of a run; no host or time, and no path but `shards` (`recorded_path`)."""
    device = "cpu" if world.device.type == "cpu" else torch.cuda.get_device_name(world.device)
    return {
        "inrflow": _version("inrflow"),
        "python": platform.python_version(),
        **{name: _version(name) for name in VERSIONS},
        "device": device,
        "processes": world.size,
        "threads": torch.get_num_threads(),
        "precision": precision,
        "data": data,
        "init_from": init_from,
        **({} if shards is None else {"shards": shards}),
    }


def checkpoint_bytes(out: Path) -> int:
    """Bytes that the complete checkpoints of a run take."""
    steps = checkpoint_manifest.complete_steps(out)
    return sum(folder_bytes(checkpoint_manifest.checkpoint_folder(out, step)) for step in steps)


def folder_bytes(folder: Path) -> int:
    """Bytes of all files in a folder; 0 if it does not exist."""
    return sum(path.stat().st_size for path in folder.rglob("*") if path.is_file())


def _version(name: str) -> str | None:
    try:
        return metadata.version(name)
    except metadata.PackageNotFoundError:
        return None
