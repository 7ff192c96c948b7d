"""Shared by the data sets of scenes in posed views: the index, and a scene as an example.

The values of a scene are its views, uint8 (V R R 3) on white, V of its own; its condition `camera` is float32 (V 4 4), as
geometry/cameras.py has it. Where there are points of its surface, `surface` is float32 (P 6): positions in the same world and RGB
in [-1, 1].
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import numpy as np
from jaxtyping import Float32, UInt8

from inrflow_core.datasets._contract import DatasetIndex, Example, Item
from inrflow_core.datasets._image_decoding import PIXELS
from inrflow_core.errors import UnreadableItemError
from inrflow_core.sets import CAMERA, SURFACE
from inrflow_core.storage.source_files import fingerprint

LEAST_VIEWS = 2
"""Training reads one view and learns from another."""
CAMERA_BYTES, POINT_BYTES = 16 * 4, 6 * 4
MOST_BYTES = 1 << 30
"""Bytes of the views of one scene; a worker holds a shard's scenes in memory."""


def check_views(views: int | None) -> None:
    """Check the number of views in the settings of a data set; raises ValueError below two."""
    if views is not None and views < LEAST_VIEWS:
        raise ValueError(f"`views` is {views}: at least {LEAST_VIEWS}, one to read and one to learn from")


def check_surface_points(count: int | None) -> None:
    """Check the number of surface points in the settings of a data set; raises ValueError below one."""
    if count is not None and count < 1:
        raise ValueError(f"`surface_points` is {count}: at least 1")


def plan(
    splits: Mapping[str, Sequence[Item]],
    resolution: int,
    views: int,
    sources: Sequence[tuple[str, int]],
    surface_points: int | None = None,
) -> DatasetIndex:
    """The index of scenes of about that number of views, and of surface points; `sources` are names and sizes of the raw files."""
    return DatasetIndex(
        {name: items for name, items in splits.items() if items},
        shape=(views, resolution, resolution, 3),
        dtype="uint8",
        fingerprint=fingerprint(sources),
        normalization=PIXELS,
        is_ragged=True,
        condition_bytes=views * CAMERA_BYTES + (surface_points or 0) * POINT_BYTES,
    )


def check_scene(views: int, resolution: int) -> None:
    """Raise UnreadableItemError for a scene of too few views, or of more than fit into memory."""
    if views < LEAST_VIEWS:
        raise UnreadableItemError(f"it has {views} view{'s' * (views != 1)}: at least {LEAST_VIEWS} are needed")
    size = views * resolution**2 * 3
    if size > MOST_BYTES:
        raise UnreadableItemError(f"its {views:,} views take {size:,} bytes, more than {MOST_BYTES:,}")


def example(
    item: Item,
    images: UInt8[np.ndarray, "V R R 3"],
    cameras: Float32[np.ndarray, "V 4 4"],
    names: Sequence[str],
    surface: Float32[np.ndarray, "P 6"] | None = None,
) -> Example:
    """A scene; `names` are those of its views, and `surface` points with colors.

    Raises:
        UnreadableItemError: a view is all white: it shows nothing of the object.
    """
    is_white = (images == 255).reshape(len(images), -1).all(axis=1)
    if is_white.any():
        first = int(np.argmax(is_white))
        raise UnreadableItemError(
            f"{int(is_white.sum())} of its {len(images)} views are all white, the first is `{names[first]}`"
        )
    condition = {} if surface is None else {SURFACE: surface}
    return Example(images, item.label, item.name, condition, {CAMERA: cameras})
