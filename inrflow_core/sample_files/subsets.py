"""Parts of collections: evenly spaced items, classes, and images of another size."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

import numpy as np
from jaxtyping import Int64

from inrflow_core.errors import UsageError, did_you_mean
from inrflow_core.sample_files.collection import SampleCollection, ShardCollection


def evenly_spaced(total: int, count: int) -> Int64[np.ndarray, " S"]:
    """At most `count` indices below `total`, evenly spaced, the first and the last among them."""
    return np.arange(total) if total <= count else np.linspace(0, total - 1, count).round().astype(np.int64)


def evenly_spaced_items(items: SampleCollection, count: int) -> SampleCollection:
    """At most `count` of the items, evenly spaced."""
    return items if items.count <= count else items.select(evenly_spaced(items.count, count))


def filter_classes(items: SampleCollection, names: Sequence[str]) -> SampleCollection:
    """The items of a folder of shards whose class is one of `names`.

    Raises:
        UsageError: there is no such class, or no item of it.
    """
    shards = items.shards if isinstance(items, ShardCollection) and items.split is not None else None
    for name in names:
        if shards is None or name not in shards.classes:
            raise UsageError(
                f"{items.display_name} has no class `{name}`",
                hint=did_you_mean(name, () if shards is None else shards.classes),
            )
    assert isinstance(items, ShardCollection) and shards is not None
    numbers = [shards.classes.index(name) for name in names]
    selected = np.flatnonzero(np.isin(shards.labels(items.shard_split), numbers))
    if not len(selected):
        raise UsageError(f"{items.display_name} has no items of the classes {', '.join(names)}", hint="name others")
    metadata = {**items.metadata, "classes": ", ".join(names)}
    return replace(items.select(selected), metadata=metadata, is_by_class=True)


def resized(items: SampleCollection, size: tuple[int, int], filter: str) -> SampleCollection:
    """Images, resized as they are read by Pillow's `bilinear` or `bicubic` filter; `size` is rows, columns."""
    from PIL import Image

    resampling = {"bilinear": Image.Resampling.BILINEAR, "bicubic": Image.Resampling.BICUBIC}[filter]

    def enlarge(values: np.ndarray) -> np.ndarray:
        channels = values.shape[3]
        large = [
            np.array(Image.fromarray(one.squeeze(2) if channels == 1 else one).resize((size[1], size[0]), resampling))
            for one in values
        ]
        return np.stack(large).reshape(len(large), *size, channels)

    return items.map_values(enlarge, f"{filter} {size[0]}x{size[1]}")
