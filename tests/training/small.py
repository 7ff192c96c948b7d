"""Runs that take a second: 36 pixels or 24 points, two blocks of width 16, a few dozen sets."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import torch

from inrflow_core.config.preset import Preset
from inrflow_core.shards import manifest, schema, writer
from inrflow_core.shards.manifest import ChannelStats, Manifest, Split
from inrflow_core.training import setup
from inrflow_core.training.setup import TrainJob
from inrflow_core.training.trainer import Trainer
from tests import tiny

CLASSES = ("up", "down", "flat")
NETWORK = {"width": 16, "depth": 2, "heads": 2}
TRAINING = {
    "steps": 6, "batch": 4, "learning_rate": 1e-2, "warmup": 2, "ema": [0.9, 0.99], "precision": "fp32",
    "log_every": 1, "save_every": 100,
}  # fmt: skip


def images(folder: Path, count: int = 30, classes: tuple[str, ...] = CLASSES, side: int = 6) -> Path:
    """Shards of gray images, 6 x 6 as in `tiny.IMAGE`, one third of them held out; the brightness tells the class."""
    generator = np.random.default_rng(0)
    labels = np.arange(count) % 3
    values = (generator.integers(0, 80, (count, side, side, 1)) + 80 * labels[:, None, None, None]).astype(np.uint8)
    return _write(folder, "image", values, labels, classes)


def clouds(folder: Path, bad: slice = slice(0), count: int = 24) -> Path:
    """Shards of clouds of 24 points, those in `bad` made of NaN."""
    values = np.random.default_rng(0).standard_normal((count, 24, 3)).astype(np.float32)
    values[bad] = np.nan
    return _write(folder, "points", values, np.arange(count) % 3, CLASSES)


def preset(kind: dict[str, dict[str, Any]] = tiny.IMAGE, **changes: dict[str, Any]) -> Preset:
    """The preset of such a run."""
    inputs = {
        "training": {**TRAINING, **changes.pop("training", {})},
        "network": {**NETWORK, **changes.pop("network", {})},
    }
    return tiny.preset(kind, **inputs, **changes)


def job(data: Path, out: Path, *, kind: Any = tiny.IMAGE, until: int | None = None, **changes: Any) -> TrainJob:
    """A job on one thread of the CPU; `changes` are settings of [training]."""
    return TrainJob(preset(kind, training=changes), out, data=data, device="cpu", threads=1, until=until)


def train(data: Path, out: Path, **given: Any) -> Trainer:
    """Train such a job."""
    return setup.train(job(data, out, **given))


def state(trainer: Trainer) -> dict[str, torch.Tensor]:
    """Everything that counts, by name: weights, averages, what AdamW remembers."""
    engine = trainer.engine
    result = dict(zip(engine.layout(), [t.clone() for t in engine.weights()], strict=True))
    result |= dict(zip(engine.moments_layout(), [t.clone() for t in engine.moments()], strict=True))
    for average in trainer.averages:
        values = [t.clone() for t in engine.weights(average.values)]
        result |= {f"{average.decay}.{name}": t for name, t in zip(engine.layout(), values, strict=True)}
    return result


def assert_equal(actual: dict[str, torch.Tensor], expected: dict[str, torch.Tensor], *, tolerance: float = 0.0) -> None:
    """The same tensors, to the bit unless a tolerance is given."""
    assert list(actual) == list(expected)
    for name, tensor in expected.items():
        torch.testing.assert_close(
            actual[name], tensor, rtol=0, atol=tolerance, msg=lambda text, n=name: f"{n}: {text}"
        )


def losses(out: Path) -> list[float]:
    """The losses in a run's log."""
    import json

    records = [json.loads(line) for line in (out / "log.jsonl").read_text().splitlines()]
    return [record["loss"] for record in records if "loss" in record]


def _write(folder: Path, domain: str, values: np.ndarray, labels: np.ndarray, classes: tuple[str, ...]) -> Path:
    folder.mkdir(parents=True, exist_ok=True)
    edge = len(values) * 2 // 3
    splits = {}
    for split, part in {"train": slice(0, edge), "val": slice(edge, None)}.items():
        header = schema.Header(domain, "small", split, {}, classes, {})
        columns = schema.ShardColumns(labels[part])
        entry = writer.write(
            folder / f"{split}-00000.h5",
            header,
            [values[part]],
            columns,
            shape=values[part].shape,
            dtype=values.dtype.name,
        )
        splits[split] = Split(len(values[part]), (entry,), ChannelStats((0.0,), (1.0,)))
    reported = Manifest("small", domain, "0", values.shape[1:], values.dtype.name, classes, {}, {}, {}, splits)
    manifest.save(reported, folder)
    return folder
