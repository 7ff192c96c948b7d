"""Any folder of videos: video files, and folders of frames, cut into clips of one length and one frame rate.

`train`, `val` and `test` (also `valid`, `validation`) side by side are splits; with `classes`, the folder below them (or at
the top) is the class. Layouts in use, such as `split/video/clip/00001.jpg`, `class/video.avi` and `video/frame9.png`, need no
option.
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from inrflow_core.datasets import _video_clips, _video_folders
from inrflow_core.datasets._contract import DatasetIndex, Example, Item

DOMAIN = "video"
NEEDS_SOURCE = True
IS_READ_BY_SCAN = False
DESCRIPTION = (
    "any folder of video files and folders of frames, with or without `train` and `val` -> clips of 16 frames with their "
    "frame rate; with --classes the sub-folders' names"
)


@dataclass(frozen=True)
class Config(_video_clips.Settings):
    """How videos become clips."""


def scan(source: Path, config: Config) -> DatasetIndex:
    """See `_video_folders.scan`."""
    return _video_folders.scan("video", source, config)


def read(item: Item, config: Config) -> Example:
    """One clip, uint8 (T R R C)."""
    return Example(_video_clips.read(item, config), item.label, item.name)
