"""SkyTimelapse: clips of the sky, as folders of frames (Xiong et al. 2018, arXiv:1709.07592).

`sky_train` and `sky_test`, as its authors distribute it, or `train` and `test`, with folders of frames at any depth below:
`split/video/clip/frame.jpg`, and DIGAN's `split/clip/frame.jpg`. FVD on this set moves with the version of the data, the interval
of frames and the reference (docs of DDMI), so all settings are in the manifest.
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
    "`sky_train` and `sky_test` (or `train` and `test`) of folders of frames -> clips of 16 frames, train and test"
)


@dataclass(frozen=True)
class Config(_video_clips.Settings):
    """How the videos become clips."""

    resolution: int = 256
    """Rows and columns."""
    fps: float | None = 25.0
    """Frames per second before `stride`, which the folders of frames do not record."""


def scan(source: Path, config: Config) -> DatasetIndex:
    """See `_video_folders.scan`."""
    return _video_folders.scan("sky-timelapse", source, config, needs_splits=True)


def read(item: Item, config: Config) -> Example:
    """One clip, uint8 (T R R C)."""
    return Example(_video_clips.read(item, config), item.label, item.name)
