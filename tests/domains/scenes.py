"""Shards of scenes in posed views, as `prepare srn-cars` writes them."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import numpy as np

from inrflow_core.shards import manifest, schema, writer
from inrflow_core.shards.manifest import ChannelStats, Manifest, Split


def write(folder: Path, scenes: Sequence[tuple[np.ndarray, np.ndarray]], splits: Sequence[str] = ("train",)) -> Path:
    """Every split has all scenes, each with its views uint8 (V R R 3) and cameras float32 (V 4 4)."""
    folder.mkdir(parents=True, exist_ok=True)
    values = np.concatenate([views for views, _ in scenes])
    columns = schema.ShardColumns(
        np.full(len(scenes), -1),
        offsets=np.cumsum([0, *(len(views) for views, _ in scenes)]),
        ragged={"camera": schema.concatenate_ragged([cameras for _, cameras in scenes])},
    )
    written = {}
    for split in splits:
        header = schema.Header("radiance", "small", split, {}, (), {})
        path = folder / f"{split}-00000.h5"
        entry = writer.write(path, header, [values], columns, shape=values.shape, dtype="uint8")
        written[split] = Split(len(scenes), (entry,), ChannelStats((0.0,) * 3, (1.0,) * 3))
    manifest.save(Manifest("small", "radiance", "0", (0, *values.shape[1:]), "uint8", (), {}, {}, {}, written), folder)
    return folder
