"""Shards of objects with images and of proteins, and small models that are conditioned on them."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np

from inrflow_core import models
from inrflow_core.config.preset import Preset, resolve
from inrflow_core.datasets import swissprot
from inrflow_core.models import Model
from inrflow_core.preparation import job, pipeline
from inrflow_core.shards import manifest, schema, writer
from inrflow_core.shards.manifest import ChannelStats, Manifest, Split
from tests import camera_rings, tiny
from tests.protein_examples import helix, write

VIEWS, TOKENS, WIDTH = 3, 4, 5
DIGEST = "patches-1"
PROTEIN: dict[str, dict[str, Any]] = {
    "domain": {"name": "protein", "residues": 16},
    "network": {
        **{"width": 32, "depth": 2, "heads": 2, "latents": 16},
        **{"encoder": "spatial", "pseudo_coordinates": "residue"},
    },
}
CONDITIONS: dict[str, dict[str, Any]] = {
    "image": {"name": "image", "embedder": "patches", "tokens": TOKENS, "width": WIDTH},
    "sequence": {"name": "sequence", "embedder": "one-hot", "width": 20},
}
KINDS = {"image": tiny.POINTS, "sequence": PROTEIN}


def objects(folder: Path, counts: dict[str, int]) -> Path:
    """Shards of clouds of 40 points, each of its own shape, with images of gray levels and random tokens."""
    folder.mkdir(parents=True)
    generator = np.random.default_rng(0)
    splits = {}
    for split, count in counts.items():
        shape = generator.uniform(0.1, 1, (count, 1, 3))
        values = (shape * generator.uniform(-1, 1, (count, 40, 3))).astype(np.float32)
        gray = (40 * np.arange(count)[:, None] + 5 * np.arange(VIEWS)).astype(np.uint8)
        condition = {
            "image": np.broadcast_to(gray[..., None, None, None], (count, VIEWS, 8, 8, 3)).copy(),
            "camera": np.broadcast_to(camera_rings.orbit_ring(VIEWS), (count, VIEWS, 4, 4)).copy(),
            "tokens": generator.normal(size=(count, VIEWS, TOKENS, WIDTH + 6)).astype(np.float16),
        }
        names = [f"{split}/{index}.glb" for index in range(count)]
        entry = writer.write(
            folder / f"{split}-00000.h5",
            schema.Header("points", "objects", split, {"embedder_digest": DIGEST}),
            [values],
            schema.ShardColumns(np.full(count, -1), names, condition=condition),
            shape=values.shape,
            dtype="float32",
        )
        splits[split] = Split(count, (entry,), ChannelStats((0.0,), (1.0,)))
    metadata = {"embedder_digest": DIGEST}
    manifest.save(Manifest("objects", "points", "0", (40, 3), "float32", (), metadata, {}, {}, splits), folder)
    return folder


def proteins(folder: Path, train: int = 4, test: int = 3) -> Path:
    """Shards of helices of 10 to 14 residues; the raw files, ten for each of the test, lie beside in `raw`."""
    generator = np.random.default_rng(1)
    for index in range(10 * test):
        sequence = "".join(generator.choice(list("ACDEFGHIKLMNPQRSTVWY"), 10 + index % 5))
        write(folder / "raw" / f"helix {index}.pdb", helix(sequence))
    config = swissprot.Config(train=train, val=0, test=test, seed=1, embedder="one-hot", missing=0.9)
    pipeline.prepare(job.resolve_job("swissprot", folder / "raw", folder / "shards", config), workers=1)
    return folder / "shards"


def preset(kind: str, **changes: Any) -> Preset:
    """The small preset that is conditioned as one of `KINDS`."""
    tables = tiny.tables(KINDS[kind], condition=None, **changes)
    tables["condition"] = CONDITIONS[kind]
    return resolve("tiny", tables)


def weights(file: Path, kind: str, **info: Any) -> Model:
    """A weights file of such a preset, every weight random; returns its model."""
    import torch

    torch.manual_seed(0)
    built = models.build(preset(kind))
    tiny.randomize(built.method)
    built.method.eval().requires_grad_(False)
    file.parent.mkdir(parents=True, exist_ok=True)
    models.save(file, built.method.state_dict(), built.preset, {"step": 2, **info})
    return models.load(file)
