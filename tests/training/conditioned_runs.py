"""Runs that take a second, of models that draw from images and from sequences."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np

from inrflow_core.config.preset import Preset
from inrflow_core.proteins import residues
from inrflow_core.shards import manifest, schema, writer
from inrflow_core.shards.manifest import ChannelStats, Manifest, Split
from inrflow_core.training.setup import TrainJob
from tests import camera_rings, protein_files, tiny
from tests.training import small

LENGTHS = (7, 3, 9, 5, 8, 4, 6, 7, 5, 10, 3, 6)


def chains() -> list[str]:
    """Sequences of unequal length."""
    generator = np.random.default_rng(0)
    return ["".join(generator.choice(list(residues.LETTERS), length)) for length in LENGTHS]


def folded(folder: Path, embedder: Any = None, metadata: Mapping[str, str] | None = None) -> Path:
    """Shards of 8 chains to learn from and 4 to test; with an embedder also its tokens. In the third an atom is unknown."""
    result = [protein_files.structure(sequence, seed=index) for index, sequence in enumerate(chains())]
    known = [one.is_known.astype(np.uint8) for one in result]
    known[2][5] = 0
    values = [
        (one.positions - one.positions.mean(0)) * is_known[:, None] for one, is_known in zip(result, known, strict=True)
    ]
    ragged = {"residues": [one.codes for one in result], "is_known": known}
    if embedder is not None:
        ragged["embedding"] = [tokens.astype(np.float16) for tokens in embedder([one.sequence for one in result])]
        metadata = {"embedder": embedder.name, "embedder_digest": embedder.digest, **(metadata or {})}
    splits = {}
    for split, part in {"train": slice(0, 8), "test": slice(8, None)}.items():
        rows = schema.concatenate_ragged(values[part])
        columns = schema.ShardColumns(
            np.full(len(values[part]), -1),
            offsets=rows.offsets,
            ragged={name: schema.concatenate_ragged(arrays[part]) for name, arrays in ragged.items()},
        )
        splits[split] = _split(folder, "protein", split, rows.rows, columns)
    return _save(folder, "protein", (0, 3), splits, metadata)


def pictured(folder: Path, embedder: Any = None, metadata: Mapping[str, str] | None = None, side: int = 28) -> Path:
    """Shards of 12 clouds with 4 images each; with an embedder also its tokens. Colors tell the set and the view."""
    generator = np.random.default_rng(0)
    values = generator.standard_normal((12, 24, 3)).astype(np.float32)
    images = np.zeros((12, 4, side, side, 3), np.uint8)
    images[..., 0] = 20 * np.arange(12)[:, None, None, None]
    images[..., 1] = 60 * np.arange(4)[:, None, None]
    images[..., 2] = generator.integers(0, 256, images.shape[:-1])
    condition = {"image": images, "camera": np.tile(camera_rings.orbit_ring(4), (12, 1, 1, 1))}
    if embedder is not None:
        import torch

        from inrflow_core.feature_networks._contract import posed_image_tokens

        pairs = zip(images, condition["camera"], strict=True)
        tokens = [posed_image_tokens(embedder, *map(torch.from_numpy, pair)).numpy() for pair in pairs]
        condition["tokens"] = np.stack(tokens)
        metadata = {"embedder": embedder.name, "embedder_digest": embedder.digest, **(metadata or {})}
    splits = {}
    for split, part in {"train": slice(0, 8), "val": slice(8, None)}.items():
        columns = schema.ShardColumns(
            np.full(len(values[part]), -1), condition={n: a[part] for n, a in condition.items()}
        )
        splits[split] = _split(folder, "points", split, values[part], columns)
    return _save(folder, "points", (24, 3), splits, metadata)


def preset(kind: dict[str, dict[str, Any]], **changes: dict[str, Any]) -> Preset:
    """The preset of such a run: `small.preset`, with its held-out split."""
    split = {"held_out": "test" if kind is tiny.PROTEIN else "val"}
    return small.preset(kind, **{**changes, "data": {**split, **changes.get("data", {})}})


def job(data: Path, out: Path, kind: dict[str, dict[str, Any]], until: int | None = None, **changes: Any) -> TrainJob:
    """A job on one thread of the CPU."""
    return TrainJob(preset(kind, **changes), out, data=data, device="cpu", threads=1, until=until)


def _split(folder: Path, domain: str, split: str, values: np.ndarray, columns: schema.ShardColumns) -> Split:
    folder.mkdir(parents=True, exist_ok=True)
    header = schema.Header(domain, "small", split, {}, (), {})
    entry = writer.write(
        folder / f"{split}-00000.h5", header, [values], columns, shape=values.shape, dtype=values.dtype.name
    )
    return Split(len(columns.labels), (entry,), ChannelStats((0.0,), (1.0,)))


def _save(folder: Path, domain: str, shape: tuple[int, ...], splits: dict[str, Split], metadata: Any) -> Path:
    manifest.save(Manifest("small", domain, "0", shape, "float32", (), dict(metadata or {}), {}, {}, splits), folder)
    return folder
