"""The manifest of a checkpoint: names, sizes and digests of its files; how they are checked and removed."""

from __future__ import annotations

import json
import shutil
from pathlib import Path
from typing import Any

from inrflow_core.errors import IntegrityError, UsageError
from inrflow_core.storage import checksum

MANIFEST, WEIGHTS = "manifest.json", "weights.safetensors"
"""Of a checkpoint: what is written last and makes it complete, and the weights that no EMA averaged."""
FALL_BACK_HINT = "choose an older checkpoint with `--checkpoint STEP`"


def complete_steps(run: Path) -> list[int]:
    """Steps of the complete checkpoints in a run's folder, ascending."""
    return sorted(int(p.parent.name) for p in run.glob(f"checkpoints/*/{MANIFEST}") if p.parent.name.isdigit())


def checkpoint_folder(run: Path, step: int) -> Path:
    """Where the checkpoint of a step lies."""
    return run / "checkpoints" / f"{step:08d}"


def ema_filename(decay: float) -> str:
    """The name of the weights file of an EMA."""
    return f"ema_{decay}.safetensors"


def read_manifest(folder: Path) -> tuple[dict[str, dict[str, Any]], list[float]]:
    """Size and digest of a checkpoint's files, and the decays of its EMAs."""
    path = folder / MANIFEST
    try:
        told = json.loads(path.read_text(encoding="utf-8"))
        files = {name: {"bytes": int(of["bytes"]), "sha256": str(of["sha256"])} for name, of in told["files"].items()}
        return files, [float(decay) for decay in told["ema"]]
    except (ValueError, KeyError, TypeError, AttributeError) as error:
        raise IntegrityError(f"`{path}` is no manifest of a checkpoint: {error!r}", hint=FALL_BACK_HINT) from error


def weights_name(folder: Path, decays: list[float], ema: float | None) -> str:
    if ema == 0 or (ema is None and not decays):
        return WEIGHTS
    decay = decays[0] if ema is None else ema
    if decay not in decays:
        have = ", ".join(str(d) for d in decays) or "no EMA"
        raise UsageError(f"`{folder}` has no EMA of decay {ema}", hint=f"it has {have}; 0 asks for the raw weights")
    return ema_filename(decay)


def check_file(file: Path, entry: dict[str, Any] | None) -> None:
    if entry is None or not file.is_file():
        raise IntegrityError(f"the checkpoint lacks `{file}`", hint=FALL_BACK_HINT)
    if file.stat().st_size != entry["bytes"]:
        raise IntegrityError(
            f"`{file}` has {file.stat().st_size} bytes, its manifest says {entry['bytes']}", hint=FALL_BACK_HINT
        )
    got = checksum.file_digest(file)
    if got != entry["sha256"]:
        raise IntegrityError(
            f"`{file}` is damaged: its digest is {got[:8]}..., the manifest says {entry['sha256'][:8]}...",
            hint=FALL_BACK_HINT,
        )


def verify(source: Path) -> None:
    """Nothing, where every file of a checkpoint is what its manifest says.

    Raises:
        IntegrityError: names the first that is not.
    """
    hint = f"remove `{source}` to go on from the checkpoint before it"
    try:
        manifest = json.loads((source / MANIFEST).read_text(encoding="utf-8"))
        entries = {name: (entry["bytes"], entry["sha256"]) for name, entry in manifest["files"].items()}
    except (ValueError, KeyError, TypeError, OSError) as error:
        raise IntegrityError(f"`{source / MANIFEST}` is no manifest of a checkpoint: {error}", hint=hint) from error
    for name, (size, digest) in entries.items():
        file = source / name
        if not file.is_file():
            raise IntegrityError(f"the checkpoint lacks `{file}`", hint=hint)
        if file.stat().st_size != size:
            raise IntegrityError(f"`{file}` has {file.stat().st_size} bytes, its manifest says {size}", hint=hint)
        found = checksum.disk_digest(file)
        if found != digest:
            raise IntegrityError(
                f"`{file}` is damaged: its digest is {found[:8]}..., the manifest says {digest[:8]}...", hint=hint
            )


def prune(run: Path, keep: int, spared: int | None = None) -> None:
    """Remove all but the newest `keep` complete checkpoints and the `spared` one, and what an interrupted save left."""
    for step in complete_steps(run)[:-keep]:
        if step == spared:
            continue
        doomed = checkpoint_folder(run, step)
        # Under a name that the next call removes, should this removal be interrupted.
        doomed.rename(doomed.with_name(f".{doomed.name}.partial"))
    for left in (run / "checkpoints").glob(".*.partial"):
        shutil.rmtree(left, ignore_errors=True)
