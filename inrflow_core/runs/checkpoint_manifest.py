"""The manifest of a checkpoint, with names, sizes and digests of its files; verifies and removes checkpoints."""

from __future__ import annotations

import shutil
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from inrflow_core.errors import IntegrityError, MissingError, UsageError
from inrflow_core.storage import plain_file, typed_json

MANIFEST, WEIGHTS = "manifest.json", "weights.safetensors"
"""Files of a checkpoint: the manifest, which is written last and makes it complete, and the weights without EMA."""
FALL_BACK_HINT = "choose an older checkpoint with `--checkpoint STEP`"


@dataclass(frozen=True)
class FileEntry:
    """Size and digest of one file of a checkpoint."""

    bytes: int
    sha256: str


@dataclass(frozen=True)
class CheckpointManifest:
    """The manifest of a complete checkpoint."""

    files: dict[str, FileEntry]
    ema: tuple[float, ...]
    """Decays of its EMAs."""
    saved_by: dict[str, int] | None = None
    """ZeRO stage and number of processes that saved it; absent in checkpoints of earlier versions."""
    step: int | None = None
    """Its step."""


def complete_steps(run: Path) -> list[int]:
    """Steps of the complete checkpoints in a run's folder, ascending."""
    names = [path.parent.name for path in run.glob(f"checkpoints/*/{MANIFEST}")]
    return sorted(int(name) for name in names if name.isascii() and name.isdigit() and name == f"{int(name):08d}")


def checkpoint_folder(run: Path, step: int) -> Path:
    """The folder of the checkpoint of a step."""
    return run / "checkpoints" / f"{step:08d}"


def is_checkpoint(folder: Path) -> bool:
    """Whether a folder is a checkpoint, in its run or copied elsewhere."""
    return (folder / MANIFEST).is_file() and (folder / WEIGHTS).is_file()


def ema_filename(decay: float) -> str:
    """The name of the weights file of an EMA."""
    return f"ema_{decay}.safetensors"


def read_manifest(folder: Path, *, hint: str = FALL_BACK_HINT) -> CheckpointManifest:
    """The manifest of a checkpoint.

    Raises:
        IntegrityError: it is absent or invalid; names the key.
    """
    path = folder / MANIFEST
    try:
        return typed_json.read_record(path, CheckpointManifest, hint=hint, extra=True)
    except MissingError as error:
        raise IntegrityError(f"the checkpoint lacks `{path}`", hint=hint) from error


def weights_name(folder: Path, decays: Sequence[float], ema: float | None) -> str:
    if ema == 0 or (ema is None and not decays):
        return WEIGHTS
    decay = decays[0] if ema is None else ema
    if decay not in decays:
        have = ", ".join(str(d) for d in decays) or "no EMA"
        raise UsageError(f"`{folder}` has no EMA of decay {ema}", hint=f"it has {have}; 0 asks for the raw weights")
    return ema_filename(decay)


def check_file(file: Path, entry: FileEntry | None, *, hint: str = FALL_BACK_HINT, from_disk: bool = False) -> None:
    """Raise IntegrityError unless a file of a checkpoint has the size and the digest of its manifest's entry.

    `from_disk` as in `plain_file.file_digest`.
    """
    if entry is None or not file.is_file():
        raise IntegrityError(f"the checkpoint lacks `{file}`", hint=hint)
    size = file.stat().st_size
    if size != entry.bytes:
        raise IntegrityError(f"`{file}` has {size} bytes, its manifest says {entry.bytes}", hint=hint)
    digest = plain_file.file_digest(file, from_disk=from_disk)
    if digest != entry.sha256:
        raise IntegrityError(
            f"`{file}` is damaged: its digest is {digest[:8]}..., the manifest says {entry.sha256[:8]}...", hint=hint
        )


def verify(source: Path) -> None:
    """Raise IntegrityError unless every file of a checkpoint has the digest of its manifest; names the first that has not."""
    hint = f"remove `{source}` to resume from the checkpoint before it"
    for name, entry in read_manifest(source, hint=hint).files.items():
        check_file(source / name, entry, hint=hint, from_disk=True)


def prune(run: Path, keep: int, spared: int | None = None) -> None:
    """Remove all complete checkpoints but the newest `keep` and that of step `spared`, and what an interrupted save left."""
    for step in complete_steps(run)[:-keep]:
        if step == spared:
            continue
        doomed = checkpoint_folder(run, step)
        # If this removal is interrupted, the next call removes what has this name.
        doomed.rename(doomed.with_name(f".{doomed.name}.partial"))
    for left in (run / "checkpoints").glob(".*.partial"):
        shutil.rmtree(left, ignore_errors=True)
