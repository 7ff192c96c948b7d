"""Shards of scenes in posed views, as `prepare srn-cars` writes them."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path

import numpy as np

from inrflow_core.shards import manifest, schema, writer
from inrflow_core.shards.manifest import ChannelStats, Manifest, Split

Scene = tuple[np.ndarray, np.ndarray]
"""Views, uint8 (V R R 3), and cameras, float32 (V 4 4)."""


def write(folder: Path, scenes: Sequence[Scene], splits: Sequence[str] = ("train",)) -> Path:
    """Every split has all scenes."""
    return write_splits(folder, dict.fromkeys(splits, scenes))


def write_splits(
    folder: Path,
    splits: Mapping[str, Sequence[Scene]],
    *,
    has_cameras: bool = True,
    surfaces: Mapping[str, np.ndarray] | None = None,
) -> Path:
    """Each split has its own scenes, `SPLIT-0`, `SPLIT-1` and so on; `surfaces` are points (S P 6) of those of each split."""
    folder.mkdir(parents=True, exist_ok=True)
    written, shape = {}, (1, 1, 3)
    for split, scenes in splits.items():
        values = np.concatenate([views for views, _ in scenes])
        cameras = schema.concatenate_ragged([poses for _, poses in scenes])
        columns = schema.ShardColumns(
            np.full(len(scenes), -1),
            names=[f"{split}-{number}" for number in range(len(scenes))],
            offsets=np.cumsum([0, *(len(views) for views, _ in scenes)]),
            condition={} if surfaces is None else {"surface": surfaces[split]},
            ragged={"camera": cameras} if has_cameras else {},
        )
        header = schema.Header("radiance", "small", split, {}, (), {})
        path, shape = folder / f"{split}-00000.h5", values.shape[1:]
        entry = writer.write(path, header, [values], columns, shape=values.shape, dtype="uint8")
        written[split] = Split(len(scenes), (entry,), ChannelStats((0.0,) * 3, (1.0,) * 3))
    manifest.save(Manifest("small", "radiance", "0", (0, *shape), "uint8", (), {}, {}, {}, written), folder)
    return folder
