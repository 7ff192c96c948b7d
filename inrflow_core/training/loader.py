"""Batches as a pure function of (seed, step, position in the global batch), and a thread that reads them ahead.

The order of an epoch is computed, not stored, so that resuming costs nothing. Each set has its own seed, from which all of
its random numbers are derived: 1 process and 4 see the same sets with the same noise.
"""

from __future__ import annotations

import queue
import threading
import time
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from jaxtyping import Float64, Int64
from torch import Tensor

from inrflow_core.config.preset import Part
from inrflow_core.config.training import DataConfig, divisors
from inrflow_core.domains._contract import conditions
from inrflow_core.errors import UsageError, did_you_mean
from inrflow_core.numerics import keyed_random
from inrflow_core.sets import Condition, CoordValueSet, TrainBatch
from inrflow_core.shards.batch import ConditionSelection
from inrflow_core.shards.shard_dataset import ShardDataset
from inrflow_core.training.device_transfer import DeviceTransfer, InFlightBatch

NUM_CAMERAS = 256
"""Cameras of training views that weights record."""
CAMERAS_AT_ONCE = 16


class Loader:
    """Sets of one split, by step and position in the global batch."""

    def __init__(
        self,
        shards: ShardDataset,
        domain: Any,
        config: DataConfig,
        *,
        split: str,
        seed: int,
        batch: int,
        condition: Part | None = None,
    ) -> None:
        if split not in shards.splits:
            raise UsageError(
                f"the shards in `{shards.folder}` have no split `{split}`", hint=did_you_mean(split, shards.splits)
            )
        self.shards, self.domain, self.split, self.seed, self.batch_size = shards, domain, split, seed, batch
        self.classes = list(config.classes) or list(shards.classes)
        self._conditioned_on: tuple[str, ...] = ()
        """What the condition network reads from the shards."""
        self._has_views = False
        if condition is not None:
            self._conditioned_on = tuple(condition.module.required_conditions(condition.config))
            self._has_views = condition.module.VIEWS is not None
        self._numbers: np.ndarray | None = None
        self._selected: np.ndarray | None = None
        if config.classes:
            self._select_classes(shards, config.classes)

    def __len__(self) -> int:
        """Examples of the split, of the selected classes."""
        return self.shards.count(self.split) if self._selected is None else len(self._selected)

    def sizes(self) -> np.ndarray | None:
        """Pairs of every example, int64; None where all have one size."""
        sizes = self.shards.sizes(self.split)
        return sizes if sizes is None or self._selected is None else sizes[self._selected]

    def batch(
        self, step: int, positions: range, *, augment: bool = True, out: np.ndarray | None = None
    ) -> CoordValueSet:
        """The sets at `positions` of the global batch of a step; the same in every process and call."""
        examples, seeds = self.order(step, positions)
        return self.sets(examples, seeds, augment=augment, out=out)

    def order(self, step: int, positions: range) -> tuple[Int64[np.ndarray, " B"], Int64[Tensor, " B"]]:
        """The indices of the examples at `positions` of the global batch of a step, and their seeds."""
        in_batch = np.arange(positions.start, positions.stop, dtype=np.int64)
        position = step * self.batch_size + in_batch
        indices = np.empty_like(position)
        epochs = position // len(self)
        for epoch in np.unique(epochs):
            now = epochs == epoch
            indices[now] = keyed_random.permuted_indices(self.seed, int(epoch), position[now] % len(self), len(self))
        return indices, keyed_random.derive_seeds(self.seed, step, torch.from_numpy(in_batch))

    def sets(
        self,
        examples: Int64[np.ndarray, " B"],
        seeds: Int64[Tensor, " B"],
        *,
        augment: bool,
        out: np.ndarray | None = None,
        with_values: bool = True,
    ) -> CoordValueSet:
        """The sets of some examples with these seeds; `with_values=False` reads no values and returns zeros."""
        indices = examples if self._selected is None else self._selected[examples]
        names = (*self.domain.REQUIRED_CONDITIONS, *self._conditioned_on)
        selection = ConditionSelection(names, self._views(seeds), self._conditioned_on)
        rows = self.domain.rows_to_read(self.shards.sizes_at(self.split, indices), seeds)
        read = self.shards.read(self.split, indices, out=out, conditions=selection, with_values=with_values, rows=rows)
        return self.domain.to_set(read, seeds, self._labels(read.labels), augment=augment)

    def condition(self, examples: Int64[np.ndarray, " B"], seeds: Int64[Tensor, " B"]) -> Condition:
        """The labels of some examples and what the condition network reads; neither values nor the domain's conditions."""
        indices = examples if self._selected is None else self._selected[examples]
        selection = ConditionSelection(self._conditioned_on, self._views(seeds))
        read = self.shards.read(self.split, indices, conditions=selection, with_values=False)
        return conditions(self._labels(read.labels), read)

    def support_cameras(self) -> list[list[float]] | None:
        """Cameras of `NUM_CAMERAS` random views of examples that are evenly spaced; None unless the encoder reads views.

        Each is 16 numbers, row by row, which are exact in float32.
        """
        if not (self.domain.HAS_CAMERAS and self.domain.reads_views):
            return None
        examples = np.linspace(0, len(self) - 1, NUM_CAMERAS).round().astype(np.int64)
        seeds = keyed_random.derive_seeds(self.seed, 0, torch.arange(NUM_CAMERAS))
        cameras: list[np.ndarray] = []
        for start in range(0, len(examples), CAMERAS_AT_ONCE):
            part = slice(start, start + CAMERAS_AT_ONCE)
            sets = self.sets(examples[part], seeds[part], augment=False, with_values=False)
            context = self.domain.train_batch(sets).context
            cameras.append(self.domain.cameras(None, context.condition).reshape(-1, 16))
        return [[float(f"{number:.9g}") for number in camera.tolist()] for camera in np.concatenate(cameras)]

    def train_batch(self, sets: CoordValueSet) -> TrainBatch:
        """Sets of this loader as context and queries, which the domain may separate."""
        return self.domain.train_batch(sets)

    def buffer(self, count: int) -> np.ndarray | None:
        """An array for `out` of `count` sets; None if sets differ in size."""
        return self.shards.buffer(self.split, count)

    def stream(
        self,
        positions_by_step: Iterable[tuple[int, range]],
        device: torch.device,
        ahead: int,
        *,
        prepare: Callable[[TrainBatch], TrainBatch],
        num_in_use: int = 1,
    ) -> Stream:
        """The batches of (step, positions) in turn, read by a thread that keeps `ahead` of them ready.

        `prepare` is the method's `prepare_batch`. The last `num_in_use` batches stay unchanged; the memory of earlier ones is
        reused.
        """
        return Stream(self, positions_by_step, device, ahead, prepare, num_in_use)

    def _select_classes(self, shards: ShardDataset, classes: Sequence[str]) -> None:
        """Select the examples of some classes, which are renumbered in the order of `classes`."""
        for name in classes:
            if name not in shards.classes:
                raise UsageError(
                    f"[data] `classes` names `{name}`, which the shards in `{shards.folder}` do not have",
                    hint=did_you_mean(name, shards.classes),
                )
        labels = shards.labels(self.split)
        self._numbers = np.full(len(shards.classes), -1, dtype=np.int64)
        for number, name in enumerate(classes):
            self._numbers[list(shards.classes).index(name)] = number
        self._selected = np.flatnonzero((labels >= 0) & (self._numbers[labels] >= 0))
        if not len(self._selected):
            raise UsageError(
                f"no example of the split `{self.split}` is of the classes {list(classes)}", hint="choose other classes"
            )

    def _views(self, seeds: Int64[Tensor, " B"]) -> Float64[np.ndarray, " B"] | None:
        """The view of each set that the condition network reads, as a number in [0, 1); None where sets have one."""
        return keyed_random.uniform(seeds, purpose="view")[:, 0].numpy() if self._has_views else None

    def _labels(self, labels: np.ndarray | None) -> np.ndarray | None:
        return labels if labels is None or self._numbers is None else self._numbers[labels]


class Stream(Iterator[TrainBatch]):
    """An iterator whose batches a thread reads ahead; `seconds_blocked` is the time that its caller waited."""

    def __init__(
        self,
        loader: Loader,
        positions_by_step: Iterable[tuple[int, range]],
        device: torch.device,
        ahead: int,
        prepare: Callable[[TrainBatch], TrainBatch],
        num_in_use: int = 1,
    ) -> None:
        self.seconds_blocked = 0.0
        self._loader, self._positions_by_step, self._transfer = loader, positions_by_step, DeviceTransfer(device)
        self._prepare = prepare
        self._ready: queue.Queue[InFlightBatch | BaseException | None] = queue.Queue(ahead)
        # One buffer is being read into, `ahead` are in the queue, the caller uses `num_in_use`.
        self._buffers: list[np.ndarray | None] = [None] * (ahead + 1 + num_in_use)
        self._stopped = threading.Event()
        self._thread = threading.Thread(target=self._read, name="inrflow-loader", daemon=True)
        self._thread.start()

    def __next__(self) -> TrainBatch:
        start = time.perf_counter()
        item = self._ready.get()
        self.seconds_blocked += time.perf_counter() - start
        if item is None:
            raise StopIteration
        if isinstance(item, BaseException):
            raise item
        return self._transfer.receive(item)

    def close(self) -> None:
        """Stop reading ahead."""
        self._stopped.set()
        while self._thread.is_alive():
            try:
                self._ready.get_nowait()
            except queue.Empty:
                self._thread.join(0.01)

    def _read(self) -> None:
        try:
            for turn, (step, positions) in enumerate(self._positions_by_step):
                sets = self._loader.batch(step, positions, out=self._buffer(turn, len(positions)))
                self._ready.put(self._transfer.send(self._prepare(self._loader.train_batch(sets))))
                if self._stopped.is_set():
                    return
            self._ready.put(None)
        except BaseException as error:  # raised again by the caller's thread
            self._ready.put(error)

    def _buffer(self, turn: int, count: int) -> np.ndarray | None:
        number = turn % len(self._buffers)
        buffer = self._buffers[number]
        if buffer is None or len(buffer) != count:
            buffer = self._buffers[number] = self._loader.buffer(count)
        return buffer


@dataclass(frozen=True)
class MicroBatches(Sequence[range]):
    """A process's consecutive micro-batches, as positions in the global batch; not stored, for there may be millions."""

    positions: range
    size: int

    def __len__(self) -> int:
        return len(self.positions) // self.size

    def __getitem__(self, index: Any) -> Any:
        if isinstance(index, slice):
            return [self[number] for number in range(len(self))[index]]
        start = self.size * range(len(self))[index]
        return self.positions[start : start + self.size]


def split_batch(*, batch: int, rank: int, size: int, micro: int | None) -> MicroBatches:
    """The positions of the global batch that a process takes, as its micro-batches.

    Raises:
        UsageError: the batch does not divide over the processes, or the share over its micro-batches.
    """
    if batch % size:
        raise UsageError(f"a batch of {batch} does not divide over {size} processes", hint="change `[training] batch`")
    share = batch // size
    step = min(micro or share, share)
    if share % step:
        raise UsageError(
            f"micro-batches of {step} do not divide the {share} sets that each process takes",
            hint="change `[training] micro_batch`: " + ", ".join(map(str, divisors(share))),
        )
    return MicroBatches(range(rank * share, (rank + 1) * share), step)
