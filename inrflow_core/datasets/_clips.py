"""Shared by the data sets of clips: their index, with the frame rate in the normalization."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from inrflow_core.datasets._contract import DatasetIndex, Item
from inrflow_core.datasets._image_decoding import PIXELS
from inrflow_core.shards.manifest import LeftOut
from inrflow_core.storage.source_files import fingerprint

MOST_FRAMES = 1024


def check_frames(frames: int) -> None:
    """Check the number of frames in the settings of a data set; raises ValueError where it is out of range."""
    if not 1 <= frames <= MOST_FRAMES:
        raise ValueError(f"`frames` is {frames}: from 1 to {MOST_FRAMES:,}")


def plan(
    splits: Mapping[str, Sequence[Item]],
    shape: tuple[int, int, int, int],
    fps: float,
    classes: Sequence[str],
    sources: Sequence[tuple[str, int]],
    *,
    left_out: Mapping[str, LeftOut] | None = None,
    notes: tuple[str, ...] = (),
) -> DatasetIndex:
    """The index of clips, uint8 (T R R C), of `fps` frames per second; `sources` are the names and sizes of the raw files.

    The grid of all pixels is not stored with them: `domains/video.py` says where it is.
    """
    return DatasetIndex(
        {name: items for name, items in splits.items() if items},
        shape=shape,
        dtype="uint8",
        fingerprint=fingerprint(sources),
        classes=tuple(classes),
        normalization={**PIXELS, "fps": fps},
        left_out=left_out or {},
        notes=notes,
    )
