"""Checkpoints: whole or absent, read back after writing, and the same for any number of processes.

checkpoints/00001000/
    weights.safetensors, ema_0.999.safetensors, ...   each enough to sample from: the preset is inside
    state/main.safetensors, ...                       what each optimizer of the stage remembers
    state/counters.json                               stage, step, sets seen, operations done, steps skipped
    manifest.json                                     size and SHA-256 of each of these; written last

Tensors are whole in them, whatever ZeRO stage and number of processes saved them, so that a run may resume with others:
weights, averages and moments come back to the bit.
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
EARLIER_NAMES = {"main": "state/adam.safetensors"}
"""Where earlier checkpoints hold what an optimizer remembers."""


@dataclass
class Counters:
    """Progress of a run. There is no random state: everything random is keyed by seed and step."""

    step: int = 0
    """Steps done, in all stages together."""
    stage: int = 0
    """The number of the stage that these steps end in, from 0."""
    step_in_stage: int = 0
    """Steps done in that stage."""
    samples_seen: int = 0
    """Sets, over all processes."""
    flops: float = 0.0
    """Operations, forward and backward, over all processes."""
    updates: int = 0
    """Steps of the stage that moved the weights, by its first optimizer: all but the skipped ones."""
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
        """What differs in `now`, as text; None where nothing does."""
        words = []
        if now.zero_stage != self.zero_stage:
            words.append(f"ZeRO stage {self.zero_stage} became {now.zero_stage}")
        if now.processes != self.processes:
            words.append(f"{self.processes} process{'es' * (self.processes > 1)} became {now.processes}")
        return " and ".join(words) or None


def save(
    run: Path,
    engines: Mapping[str, Engine],
    averages: Sequence[EMA],
    preset: Preset,
    counters: Counters,
    *,
    info: Mapping[str, Any],
) -> Path:
    """Write the checkpoint of this step, read it back, and give it its name; every process must take part.

    Raises:
        OutOfMemory: the disk is full; what was half written is gone, older checkpoints stay.
        IntegrityError: what is read back is not what was written.
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
        if is_main:
            digests[COUNTERS] = _write_json(beside / COUNTERS, asdict(counters))
            summary = {"step": counters.step, "ema": [average.decay for average in averages]}
            _seal(beside, final, digests, summary | {"saved_by": asdict(division(engine))})
    finally:
        if is_main:
            shutil.rmtree(beside, ignore_errors=True)
    engine.barrier()
    return final


def read_counters(source: Path, world: World) -> Counters:
    """Where a checkpoint left a run; the leading process reads every byte of it first. Earlier ones know one stage.

    Raises:
        IntegrityError: the checkpoint is damaged; names the file.
    """
    if world.is_main:
        verify(source)
    process_group.barrier(world)
    stored = typed_json.read_table(source / COUNTERS)
    return typed_json.typed({"step_in_stage": stored.get("step", 0)} | stored, Counters, f"`{source / COUNTERS}`")


def load(source: Path, engines: Mapping[str, Engine], averages: Sequence[EMA], counters: Counters) -> None:
    """Bring the optimizers and averages of a stage to where a checkpoint of that stage, which was verified, left them."""
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
    engine.barrier()


def division(engine: Engine) -> ParallelLayout:
    """The present layout."""
    return ParallelLayout(engine.stage, engine.world.size)


def layout_at_save(source: Path) -> ParallelLayout | None:
    """How it was shared when a checkpoint was saved; None where it does not say, as older ones do not."""
    summary = read_manifest(source).saved_by
    return (
        None if summary is None else typed_json.typed(summary, ParallelLayout, f"`saved_by` of `{source / MANIFEST}`")
    )


def _seal(beside: Path, final: Path, digests: dict[str, str], summary: dict[str, Any]) -> None:
    """Write the manifest with `summary`, read everything back, and rename."""
    files = {name: {"bytes": (beside / name).stat().st_size, "sha256": digest} for name, digest in digests.items()}
    _write_json(beside / MANIFEST, {"format": FORMAT, **summary, "files": files})
    verify(beside)
    shutil.rmtree(final, ignore_errors=True)
    beside.rename(final)
    for place in (final, final.parent):
        handle = os.open(place, os.O_RDONLY)
        os.fsync(handle)
        os.close(handle)


def _write_json(path: Path, content: Mapping[str, Any]) -> str:
    data = (json.dumps(content, indent=1) + "\n").encode()
    with atomic_write.atomic_write(path) as beside:
        beside.write_bytes(data)
    return hashlib.sha256(data).hexdigest()
