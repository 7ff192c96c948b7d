"""Shared by the data sets of videos: their splits and classes by folder, and the index of all clips."""

from __future__ import annotations

import os
from collections.abc import Mapping, Sequence
from pathlib import Path

from inrflow_core.datasets import _clips, _video_clips
from inrflow_core.datasets._contract import DatasetIndex, Item, LeftOutCounter, notes_on_others, source_not_found
from inrflow_core.datasets._video_clips import Settings, Video
from inrflow_core.errors import UsageError
from inrflow_core.storage.source_files import list_files
from inrflow_core.visualization.image_io import is_image_name
from inrflow_core.visualization.video_io import is_video_name

SPLITS = {
    **{"train": "train", "val": "val", "valid": "val", "validation": "val", "test": "test"},
    **{"sky_train": "train", "sky_test": "test"},
}
"""Folders of splits, those of SkyTimelapse among them."""


def scan(name: str, source: Path, settings: Settings, *, needs_splits: bool = False) -> DatasetIndex:
    """The clips by split and, with `classes`, by sub-folder; the times of all frames of video files are read.

    `name` is that of the data set, for messages.

    Raises:
        MissingError: there are no videos, or no splits where these are needed; PyAV is not installed, and there are video files.
        UsageError: `classes` is set, and a video is not in a sub-folder; or something lies beside the folders of splits.
    """
    root, files = (source, list_files(source)) if source.is_dir() else (source.parent, _single(source))
    videos = _video_clips.find_videos(files)
    if not videos:
        raise source_not_found(name, source, "video files or folders of frames", files)
    splits = _splits(videos)
    if needs_splits and len(splits) < 2:
        raise source_not_found(name, source, "the folders of its splits, such as `sky_train` and `sky_test`", files)
    names = sorted({_class(each) for part in splits.values() for each, _ in part}) if settings.classes else []
    rank = {each: number for number, each in enumerate(names)}
    listed = [
        (f"{split}/{each}", rank[_class(each)] if settings.classes else -1, video)
        for split, part in splits.items()
        for each, video in part
    ]
    left_out = LeftOutCounter()
    clips = _video_clips.find_clips(root, listed, settings, left_out)
    items: dict[str, list[Item]] = {split: [] for split in splits}
    for item in clips.items:
        items[item.name.partition("/")[0]].append(item)
    shape = settings.frames, settings.resolution, settings.resolution, settings.channels
    others = notes_on_others([name for name, _ in files if not (is_image_name(name) or is_video_name(name))])
    sources = [(f"{each}/{os.path.basename(file)}", size) for each, _, video in listed for file, size in video.files]
    return _clips.plan(items, shape, clips.rate, names, sources, left_out=left_out.counts, notes=clips.notes + others)


def _single(source: Path) -> list[tuple[str, int]]:
    return [(source.name, source.stat().st_size)]


def _splits(videos: Sequence[Video]) -> Mapping[str, list[tuple[str, Video]]]:
    """The videos of each split with their names below it; all in `train` unless folders of splits lie side by side.

    Raises:
        UsageError: something lies beside these: it would be of no split.
    """
    root = _root(videos)
    named = [(video.name[len(root) :], video) for video in videos]
    tops = {name.partition("/")[0] for name, _ in named}
    split_folders = sorted(tops & set(SPLITS), key=list(SPLITS).index)
    others = [video.files[0][0] for name, video in named if name.partition("/")[0] not in SPLITS]
    if not tops & {"train", "sky_train"} or (others and len(split_folders) < 2):
        return {"train": [(name or "frames", video) for name, video in named]}
    if others:
        listed = " and ".join(f"`{folder}`" for folder in split_folders)
        raise UsageError(
            f"`{others[0]}` lies beside {listed}, which are folders of splits, and is in none of them",
            hint="move it into one of them, or out of the source",
        )
    parts: dict[str, list[tuple[str, Video]]] = {}
    for top in split_folders:
        found = [(name.partition("/")[2] or "frames", video) for name, video in named if name.partition("/")[0] == top]
        parts.setdefault(SPLITS[top], []).extend(found)
    return parts


def _root(videos: Sequence[Video]) -> str:
    """The folder that holds all videos, as a prefix of their names; one that is a split stays in the names."""
    parents = [video.name.split("/")[:-1] for video in videos]
    parts = os.path.commonprefix(parents)
    if parts and parts[-1] in SPLITS:
        parts = parts[:-1]
    return "".join(f"{part}/" for part in parts)


def _class(name: str) -> str:
    folder, slash, _ = name.partition("/")
    if not slash:
        raise UsageError(
            f"classes are requested, and `{name}` is not in a sub-folder",
            hint="leave `--classes` out, or put every video into the folder of its class",
        )
    return folder
