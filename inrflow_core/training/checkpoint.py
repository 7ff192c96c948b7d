"""Checkpoints: written completely or not at all, read back after writing, in one format for any number of processes.

checkpoints/00001000/
    weights.safetensors, ema_0.999.safetensors, ...   each enough to sample from: the preset is inside
    state/main.safetensors, ...                       the state of each optimizer of the stage
    state/training_only.safetensors                   what of the method only training needs, such as a teacher
    state/counters.json                               stage, step, sets seen, FLOPs, steps skipped
    manifest.json                                     size and SHA-256 of each of these; written last

Tensors are saved unsharded, whatever the ZeRO stage and number of processes, so that a run may resume with others: weights,
averages and moments are restored to the bit.
"""

from __future__ import annotations

import hashlib
import json
import os
import shutil
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

from torch import Tensor

from inrflow_core import models
from inrflow_core.config.preset import Preset
from inrflow_core.runs.checkpoint_manifest import MANIFEST, WEIGHTS, ema_filename, read_manifest, verify
from inrflow_core.runs.checkpoint_manifest import checkpoint_folder as folder
from inrflow_core.runtime import process_group
from inrflow_core.runtime.distributed import World
from inrflow_core.storage import atomic_write, safetensors_file, typed_json
from inrflow_core.training.ema import EMA
from inrflow_core.training.engine import Engine

FORMAT = "inrflow-checkpoint-1"
COUNTERS = "state/counters.json"
TRAINING_ONLY = "state/training_only.safetensors"
EARLIER_NAMES = {"main": "state/adam.safetensors"}
"""The files of optimizer states in checkpoints of earlier versions, by optimizer."""


@dataclass
class Counters:
    """Progress of a run. There is no random state: everything random is keyed by seed and step."""

    step: int = 0
    """Steps done, in all stages together."""
    stage: int = 0
    """Number of the current stage, from 0."""
    step_in_stage: int = 0
    """Steps done in that stage."""
    samples_seen: int = 0
    """Sets, over all processes."""
    flops: float = 0.0
    """FLOPs of forward and backward passes, over all processes."""
    updates: int = 0
    """Steps in which the stage's first optimizer changed the weights: all but the skipped ones."""
    other_updates: dict[str, int] = field(default_factory=dict)
    """The same of the stage's other optimizers, by name."""
    skipped: int = 0
    """Steps without a finite gradient."""
    skipped_in_a_row: int = 0


@dataclass(frozen=True)
class ParallelLayout:
    """Processes and ZeRO stage of the call that saved a checkpoint."""

    zero_stage: int
    processes: int

    def change(self, now: ParallelLayout) -> str | None:
        """The differences of `now` as text; None if there are none."""
        changes = []
        if now.zero_stage != self.zero_stage:
            changes.append(f"ZeRO stage {self.zero_stage} became {now.zero_stage}")
        if now.processes != self.processes:
            changes.append(f"{self.processes} process{'es' * (self.processes > 1)} became {now.processes}")
        return " and ".join(changes) or None


def save(
    run: Path,
    engines: Mapping[str, Engine],
    averages: Sequence[EMA],
    preset: Preset,
    counters: Counters,
    *,
    info: Mapping[str, Any],
) -> Path:
    """Write the checkpoint of this step, read it back, and rename it to its final name; call it on every process.

    Raises:
        OutOfMemory: the disk is full; the incomplete checkpoint is removed, older ones stay.
        IntegrityError: a file that is read back differs from what was written.
    """
    final, engine = folder(run, counters.step), next(iter(engines.values()))
    beside = final.with_name(f".{final.name}.partial")
    is_main = engine.world.is_main
    if is_main:
        shutil.rmtree(beside, ignore_errors=True)
        (beside / "state").mkdir(parents=True)
    facts = dict(info) | {"step": counters.step, "samples_seen": counters.samples_seen, "flops": counters.flops}
    digests: dict[str, str] = {}

    def put(name: str, planned: safetensors_file.Layout, values: Iterable[Tensor], metadata: Mapping[str, str]) -> None:
        if is_main:
            digests[name] = safetensors_file.write(beside / name, planned, values, metadata)
        else:
            for _ in values:
                pass

    try:
        put(WEIGHTS, engine.layout(), engine.weights(), models.metadata(preset, facts | {"decay": None}))
        for average in averages:
            metadata = models.metadata(preset, facts | {"decay": average.decay})
            put(ema_filename(average.decay), engine.layout(), engine.weights(average.values), metadata)
        for name, optimizer in engines.items():
            put(f"state/{name}.safetensors", optimizer.moments_layout(), optimizer.moments(), {})
        if engine.training_only():
            tensors = engine.training_only()
            put(TRAINING_ONLY, safetensors_file.layout(tensors), tensors.values(), {})
        if is_main:
            digests[COUNTERS] = _write_json(beside / COUNTERS, asdict(counters))
            summary = {"step": counters.step, "ema": [average.decay for average in averages]}
            _finish(beside, final, digests, summary | {"saved_by": asdict(current_layout(engine))})
    finally:
        if is_main:
            shutil.rmtree(beside, ignore_errors=True)
    engine.barrier()
    return final


def read_counters(source: Path, world: World) -> Counters:
    """The counters of a checkpoint, after the main process has verified every file of it. Earlier versions had one stage.

    Raises:
        IntegrityError: the checkpoint is damaged; names the file.
    """
    if world.is_main:
        verify(source)
    process_group.barrier(world)
    stored = typed_json.read_table(source / COUNTERS)
    return typed_json.typed({"step_in_stage": stored.get("step", 0)} | stored, Counters, f"`{source / COUNTERS}`")


def load(source: Path, engines: Mapping[str, Engine], averages: Sequence[EMA], counters: Counters) -> None:
    """Load weights, optimizer states and averages of a stage from a verified checkpoint of that stage."""
    engine = next(iter(engines.values()))
    for average in averages:
        with safetensors_file.open_tensors(source / ema_filename(average.decay)) as file:
            engine.load_local_weights(average.values, file.get_tensor)
    updates = {next(iter(engines)): counters.updates} | counters.other_updates
    for name, optimizer in engines.items():
        with safetensors_file.open_tensors(source / WEIGHTS) as file:
            optimizer.load_weights(file.get_tensor)
        state = source / f"state/{name}.safetensors"
        if not state.is_file():
            state = source / EARLIER_NAMES[name]
        with safetensors_file.open_tensors(state) as file:
            optimizer.load_moments(file.get_tensor, updates[name])
    if engine.training_only():
        with safetensors_file.open_tensors(source / TRAINING_ONLY) as file:
            engine.load_training_only(file.get_tensor)
    engine.barrier()


def current_layout(engine: Engine) -> ParallelLayout:
    """The ZeRO stage and processes of this call."""
    return ParallelLayout(engine.stage, engine.world.size)


def layout_at_save(source: Path) -> ParallelLayout | None:
    """The ZeRO stage and processes that saved a checkpoint; None for checkpoints of earlier versions, which do not record it."""
    summary = read_manifest(source).saved_by
    return (
        None if summary is None else typed_json.typed(summary, ParallelLayout, f"`saved_by` of `{source / MANIFEST}`")
    )


def _finish(beside: Path, final: Path, digests: dict[str, str], summary: dict[str, Any]) -> None:
    """Write the manifest with `summary`, verify every file on the disk, and rename the folder to its final name."""
    files = {name: {"bytes": (beside / name).stat().st_size, "sha256": digest} for name, digest in digests.items()}
    _write_json(beside / MANIFEST, {"format": FORMAT, **summary, "files": files})
    verify(beside)
    shutil.rmtree(final, ignore_errors=True)
    beside.rename(final)
    for synced in (final, final.parent):
        handle = os.open(synced, os.O_RDONLY)
        os.fsync(handle)
        os.close(handle)


def _write_json(path: Path, content: Mapping[str, Any]) -> str:
    data = (json.dumps(content, indent=1) + "\n").encode()
    with atomic_write.atomic_write(path) as beside:
        beside.write_bytes(data)
    return hashlib.sha256(data).hexdigest()
