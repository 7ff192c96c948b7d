"""Shared by the data sets of videos: which clips video files and folders of frames have, and a clip as an example.

The rule of starts: a clip begins at the first frame of a video and then every `every` frames, as long as it is whole. All
clips have one frame rate: files of another rate, or of a variable one, are resampled to it by the nearest frames.
"""

from __future__ import annotations

import os
from collections import Counter
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
from jaxtyping import UInt8
from PIL import Image

from inrflow_core.datasets import _clips, _image_decoding
from inrflow_core.datasets._archives import Blob
from inrflow_core.datasets._contract import Item, LeftOutCounter
from inrflow_core.errors import UnreadableItemError
from inrflow_core.visualization import image_io, video_io
from inrflow_core.visualization.video_io import Timeline

MOST_FPS = 1000
ASSUMED_RATE = 25.0
"""Frames per second of folders of frames, which have no times."""


@dataclass(frozen=True)
class Settings:
    """The settings of a data set that decide the clips of its videos."""

    resolution: int = 128
    """Rows and columns."""
    frames: int = 16
    """Frames of a clip; videos that have fewer are left out."""
    stride: int = 1
    """Every how many frames of a video one is taken."""
    every: int | None = None
    """Frames of a video from the start of a clip to that of the next. Default: `frames` times `stride`, without overlap."""
    clips: int | None = None
    """At most this number of clips of each video, evenly spaced."""
    fps: float | None = None
    """Frames per second before `stride`: that of folders of frames, and what video files are resampled to. Default: the most
    common rate of the files; 25 of folders, which have no times."""
    classes: bool = False
    """Label by sub-folder."""
    channels: int = 3
    """3 for RGB, 1 for gray."""

    def __post_init__(self) -> None:
        _image_decoding.check_resolution(self.resolution)
        _clips.check_frames(self.frames)
        for name in ("stride", "every", "clips"):
            number = getattr(self, name)
            if number is not None and number < 1:
                raise ValueError(f"`{name}` is {number}: at least 1")
        if self.fps is not None and not 0 < self.fps <= MOST_FPS:
            raise ValueError(f"`fps` is {self.fps}: above 0, at most {MOST_FPS:,}")
        if self.channels not in (1, 3):
            raise ValueError(f"`channels` is {self.channels}: 1 or 3")


@dataclass(frozen=True)
class Video:
    """A video file, or a folder of frames."""

    name: str
    """Relative to the root of the data set, with forward slashes."""
    files: tuple[tuple[str, int], ...]
    """The names and bytes of its files: one, or its frames in natural order."""
    is_folder: bool


class ClipLocation(NamedTuple):
    """Where the frames of a clip are."""

    files: tuple[str, ...]
    """The paths of its frames, or of its video file."""
    numbers: tuple[int, ...] = ()
    """Its frames in the video file."""
    problem: str | None = None
    """Why the whole video cannot be read."""


class Clips(NamedTuple):
    """The clips of some videos."""

    items: list[Item]
    rate: float
    """Frames per second of the clips."""
    notes: tuple[str, ...]


def find_videos(files: Sequence[tuple[str, int]]) -> list[Video]:
    """The video files, and the folders that hold images, in natural order of their names."""
    videos = [Video(name, ((name, size),), is_folder=False) for name, size in files if video_io.is_video_name(name)]
    folders: dict[str, list[tuple[str, int]]] = {}
    for name, size in files:
        if image_io.is_image_name(name) and not video_io.is_video_name(name):
            folders.setdefault(name.rpartition("/")[0], []).append((name, size))
    for folder, frames in folders.items():
        ordered = sorted(frames, key=lambda file: video_io.natural_key(file[0]))
        videos.append(Video(folder, tuple(ordered), is_folder=True))
    return sorted(videos, key=lambda video: video_io.natural_key(video.name))


def find_clips(
    root: Path, videos: Sequence[tuple[str, int, Video]], settings: Settings, left_out: LeftOutCounter
) -> Clips:
    """The clips of videos, each with the name that its clips begin with and its label.

    Videos that are too short count as left out by `frames`; one that cannot be read is one item, which fails when it is read.

    Raises:
        MissingError: PyAV is not installed, and a file needs it.
    """
    timelines, problems = _timelines(root, [video for _, _, video in videos if not video.is_folder])
    rate = settings.fps or _most_common([timeline.rate for timeline in timelines.values()]) or ASSUMED_RATE
    items: list[Item] = []
    for name, label, video in videos:
        if video.name in problems:
            items.append(Item(name, label, ClipLocation((), problem=problems[video.name])))
            continue
        numbers = range(len(video.files))
        if not video.is_folder:
            numbers = timelines[video.name].frames_at(rate).tolist()
        starts = _starts(len(numbers), settings)
        if not starts:
            left_out.add("frames", name)
        for start in starts:
            selected = [numbers[start + settings.stride * step] for step in range(settings.frames)]
            items.append(Item(f"{name}/{start:06d}", label, _location(root, video, selected)))
    others = [timeline for timeline in timelines.values() if abs(timeline.rate / rate - 1) > 0.005]
    notes = (
        (f"{len(others):,} of {len(timelines):,} video files are resampled to {rate:g} frames per second",)
        if others
        else ()
    )
    return Clips(items, rate / settings.stride, notes)


def read(item: Item, settings: Settings) -> UInt8[np.ndarray, "T R R C"]:
    """The frames of a clip, each cropped to its central square and resized as images are.

    Raises:
        UnreadableItemError: it is damaged, or its frames differ in size.
    """
    location: ClipLocation = item.location
    if location.problem is not None:
        raise UnreadableItemError(location.problem)
    if location.numbers:
        return np.stack(_read_file(location, settings))
    frames = [_decoded(path, settings.channels) for path in location.files]
    sizes = Counter(frame.size for frame in frames)
    if len(sizes) > 1:
        listed = " and ".join(f"{width} x {height}" for width, height in sizes)
        raise UnreadableItemError(f"its frames differ in size: {listed}")
    return np.stack([image_io.center_crop(frame, settings.resolution) for frame in frames])


def _timelines(root: Path, videos: Sequence[Video]) -> tuple[dict[str, Timeline], dict[str, str]]:
    """The times of the frames of video files by their names, and why others cannot be read."""
    timelines, problems = {}, {}
    for video in videos:
        try:
            timelines[video.name] = video_io.read_timeline(root / video.name)
        except UnreadableItemError as error:
            problems[video.name] = error.reason
    return timelines, problems


def _most_common(rates: Sequence[float]) -> float | None:
    """The most common rate to three digits after the point, of equally common ones the first; None without any."""
    counts = Counter(round(rate, 3) for rate in rates)
    return counts.most_common(1)[0][0] if counts else None


def _starts(length: int, settings: Settings) -> Sequence[int]:
    """The first frames of the clips of a video: every `every` frames, and of them at most `clips`, evenly spaced."""
    span = (settings.frames - 1) * settings.stride + 1
    starts = range(0, length - span + 1, settings.every or settings.frames * settings.stride)
    count = settings.clips
    if count is None or len(starts) <= count:
        return starts
    return [starts[index * len(starts) // count] for index in range(count)]


def _location(root: Path, video: Video, numbers: Sequence[int]) -> ClipLocation:
    if video.is_folder:
        return ClipLocation(tuple(os.path.join(root, video.files[number][0]) for number in numbers))
    return ClipLocation((os.path.join(root, video.name),), tuple(numbers))


def _decoded(path: str, channels: int) -> Image.Image:
    try:
        return image_io.decode_image(Blob(path).read(), "L" if channels == 1 else "RGB")
    except UnreadableItemError as error:
        raise UnreadableItemError(f"its frame `{os.path.basename(path)}`: {error.reason}") from error


class _Reader:
    """A video file that is read forwards, with the frames of the last clip."""

    def __init__(self, key: tuple[Any, ...]) -> None:
        self.key = key
        path, self._resolution, channels = key
        self._mode = "L" if channels == 1 else "RGB"
        self._frames: Iterator[Image.Image] = video_io.iter_frames(Path(path))
        self._next = 0
        self._recent: dict[int, np.ndarray] = {}

    def holds(self, first: int) -> bool:
        """Whether frame `first` is still to come, or among those of the last clip."""
        return first >= min(self._recent, default=self._next)

    def read(self, numbers: Sequence[int]) -> list[np.ndarray]:
        """The frames of those numbers, which do not descend."""
        self._recent = {number: frame for number, frame in self._recent.items() if number >= numbers[0]}
        while self._next <= numbers[-1]:
            frame = next(self._frames, None)
            if frame is None:
                raise UnreadableItemError(f"it is damaged: it ends before frame {self._next}")
            if self._next >= numbers[0]:
                self._recent[self._next] = image_io.center_crop(frame.convert(self._mode), self._resolution)
            self._next += 1
        return [self._recent[number] for number in numbers]


_open_reader: list[_Reader] = []
"""The reader of the last clip: the clips of a file follow one another, and all are read in one pass."""


def _read_file(location: ClipLocation, settings: Settings) -> list[np.ndarray]:
    key = location.files[0], settings.resolution, settings.channels
    reader = _open_reader.pop() if _open_reader else None
    if reader is None or reader.key != key or not reader.holds(location.numbers[0]):
        reader = _Reader(key)
    frames = reader.read(location.numbers)
    _open_reader.append(reader)  # not after an error, so that the next clip meets the same one
    return frames
