"""Read videos: video files by PyAV (the extra `video`), animated GIF and WebP files by Pillow, and folders of frames.

Frames are RGB and upright: the rotation that a file states is applied. A time between two frames is that of the nearer one, so
that a video of variable frame rate becomes one of constant rate.
"""

from __future__ import annotations

import bisect
import contextlib
import re
from collections import Counter
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, BinaryIO

import numpy as np
from jaxtyping import Float64, Int64
from PIL import Image

from inrflow_core.errors import IntegrityError, MissingError, UnreadableItemError
from inrflow_core.storage.plain_file import read_plain_file
from inrflow_core.visualization import image_io

VIDEO_SUFFIXES = (".mp4", ".m4v", ".mov", ".mkv", ".webm", ".avi", ".mpg", ".mpeg")
"""Of files that PyAV reads."""
CONTAINER_OPTIONS = {
    "format_whitelist": "mov,matroska,webm,avi,mpeg,mpegts,mpegvideo,m4v,flv,asf,ogg",
    "protocol_whitelist": "none",
}
"""Of FFmpeg, which decides by the content: a playlist or script of any name would open other files, or the network."""
ANIMATION_SUFFIXES = (".gif", ".webp")
"""Of files that Pillow reads."""
SUFFIXES = (*VIDEO_SUFFIXES, *ANIMATION_SUFFIXES)
HINT = "`pip install inrflow[video]`, or give folders of frames, or .gif files"
SHORTEST = 0.01
"""Seconds that a frame of an animation is shown at least; programs show those of 0 seconds for 0.1."""
ASSUMED = 0.1
ROUNDING = 1e-6
"""Seconds: a time in the middle of two frames is that of the later one."""


@dataclass(frozen=True)
class Timeline:
    """When the frames of a video are shown."""

    times: Float64[np.ndarray, " N"]
    """Seconds from the first frame, ascending."""
    rate: float
    """Frames per second, the mean."""

    @property
    def duration(self) -> float:
        """Seconds, the last frame included."""
        return float(self.times[-1]) + 1 / self.rate

    def frames_at(self, fps: float) -> Int64[np.ndarray, " M"]:
        """The number of the nearest frame at each multiple of 1 / `fps` seconds within the duration."""
        count = max(1, round(self.duration * fps))
        moments = np.arange(count) / fps + ROUNDING
        middles = (self.times[1:] + self.times[:-1]) / 2
        return np.searchsorted(middles, moments, side="right").astype(np.int64)


def natural_key(name: str) -> list[tuple[int, int, str]]:
    """Orders names as people do: `frame9.png` before `frame10.png`."""
    return [(0, int(part), "") if part.isdecimal() else (1, 0, part) for part in re.split(r"(\d+)", name)]


def is_video_name(name: str) -> bool:
    """Whether a file's name says that it is a video or a GIF; a WebP file is usually one image."""
    return name.lower().endswith((*VIDEO_SUFFIXES, ".gif"))


def frame_files(folder: Path) -> list[Path]:
    """The images of a folder in natural order; hidden files are left out."""
    found = [path for path in folder.iterdir() if image_io.is_image_name(path.name) and not path.name.startswith(".")]
    return sorted(found, key=lambda path: natural_key(path.name))


def read_timeline(path: Path) -> Timeline:
    """The times of all frames of a file; decodes none of a video file.

    Raises:
        UnreadableItemError: it is damaged, has no video, or no frames.
        MissingError: PyAV is not installed, and the file needs it.
    """
    if path.suffix.lower() in ANIMATION_SUFFIXES:
        durations = [duration for _, duration in _animation_frames(path)]
        return Timeline(np.cumsum([0.0, *durations[:-1]]), len(durations) / sum(durations))
    with _opened(path) as (container, stream):
        packets = _packets(container, stream)
        stamps = [packet.dts if packet.pts is None else packet.pts for packet in packets]
        base, average = stream.time_base, stream.average_rate
    if not stamps:
        raise UnreadableItemError("it holds no frames")
    if not base or any(stamp is None for stamp in stamps):
        if not average:
            raise UnreadableItemError("it states neither the times of its frames nor their rate")
        return Timeline(np.arange(len(stamps)) / float(average), float(average))
    times = np.sort(np.array(stamps, np.float64)) * float(base)
    steps = np.diff(times)
    mean = float(steps.mean()) if len(steps) else 0.0
    if average and (mean <= 0 or abs(mean * float(average) - 1) < 0.01):
        rate = float(average)  # as times in milliseconds are rounded
    elif mean > 0:
        rate = 1 / mean
    else:
        raise UnreadableItemError("all of its frames have one time")
    return Timeline(times - times[0], rate)


def iter_frames(path: Path) -> Iterator[Image.Image]:
    """One frame for each time of a file's timeline, RGB and upright.

    A frame that the decoder does not show, as those before the first complete one of a cut file, is the one before it, or the first.

    Raises:
        UnreadableItemError: it is damaged, has no video, or no frames.
        MissingError: PyAV is not installed, and the file needs it.
    """
    if path.suffix.lower() in ANIMATION_SUFFIXES:
        for frame, _ in _animation_frames(path):
            yield frame
        return
    with _opened(path) as (container, stream):
        stamps = [packet.pts for packet in _packets(container, stream)]
    order = None if None in stamps else sorted(stamps)
    with _opened(path) as (container, stream):
        count, latest = 0, None
        for frame in container.decode(stream):
            pixels = frame.to_ndarray(format="rgb24")
            turns = round((getattr(frame, "rotation", 0) or 0) / 90) % 4
            upright = Image.fromarray(np.ascontiguousarray(np.rot90(pixels, turns)))
            number = count if order is None or frame.pts is None else bisect.bisect_left(order, frame.pts)
            for _ in range(count, number):
                yield latest or upright
            yield upright
            count, latest = max(count, number) + 1, upright


def read_frames(path: Path, numbers: Sequence[int]) -> list[Image.Image]:
    """Some frames of a file, whose numbers do not descend; one may be repeated.

    Raises:
        UnreadableItemError: as `iter_frames`, or the file ends before them.
        MissingError: as `iter_frames`.
    """
    due, found = Counter(numbers), []
    for number, frame in enumerate(iter_frames(path)):
        found += [frame] * due.pop(number, 0)
        if not due:
            return found
    raise UnreadableItemError(f"it ends before frame {min(due)}: it is damaged")


def read_clip(path: Path, count: int, rate: float | None) -> list[Image.Image]:
    """The first `count` frames of a file at `rate` frames per second, or of a folder, whose frames have no times.

    Without a rate, those of the file itself.

    Raises:
        IntegrityError: it is damaged, has no video, or is shorter.
        MissingError: PyAV is not installed, and the file needs it.
    """
    hint = "give another video"
    try:
        if path.is_dir():
            files = frame_files(path)
            _check_length(len(files), count, "")
            return [image_io.read_image(file) for file in files[:count]]
        timeline = read_timeline(path)
        numbers = np.arange(len(timeline.times)) if rate is None else timeline.frames_at(rate)
        _check_length(len(numbers), count, "" if rate is None else f" at {rate:g} frames per second")
        return read_frames(path, numbers[:count].tolist())
    except UnreadableItemError as error:
        raise IntegrityError(f"`{path}` cannot be read as a video: {error.reason}", hint=hint) from error


def _check_length(length: int, count: int, rate: str) -> None:
    if length < count:
        raise UnreadableItemError(f"it has {length:,} frames{rate}, and a clip of the model has {count:,}")


def _animation_frames(path: Path) -> Iterator[tuple[Image.Image, float]]:
    """The frames of a GIF or WebP file on white, and how many seconds each is shown."""
    try:
        content = read_plain_file(path, image_io.MAX_BYTES)
    except (MissingError, IntegrityError) as error:
        raise UnreadableItemError(f"it cannot be opened, or has more than {image_io.MAX_BYTES:,} bytes") from error
    for frame, seconds in image_io.decode_animation(content):
        yield frame, seconds if seconds >= SHORTEST else ASSUMED


@contextlib.contextmanager
def _opened(path: Path) -> Iterator[tuple[Any, Any]]:
    """A video file and its first video stream that is not a cover; errors of FFmpeg become UnreadableItemError."""
    av = _import_av()
    errors = (av.error.FFmpegError, OSError, ValueError, IndexError, MemoryError)
    try:
        with path.open("rb") as file, _container(av, file) as container:
            covers = av.stream.Disposition.attached_pic
            videos = [stream for stream in container.streams.video if not stream.disposition & covers]
            if not videos:
                kind = "sound alone" if container.streams.audio else "no video"
                raise UnreadableItemError(f"it holds {kind}")
            yield container, videos[0]
    except errors as error:
        reason = getattr(error, "strerror", None) or str(error)
        raise UnreadableItemError(f"it cannot be decoded: {reason.partition(chr(10))[0]}") from error


def _container(av: Any, file: BinaryIO) -> Any:
    """An open file as PyAV's container; a colon in its name does not begin a protocol, as it would in a name that FFmpeg opens."""
    try:
        return av.open(file, container_options=CONTAINER_OPTIONS)
    except av.error.ArgumentError as error:
        raise UnreadableItemError("it cannot be decoded: its content is not of a video format that is read") from error


def _packets(container: Any, stream: Any) -> list[Any]:
    """The packets of an open file that have a frame, in the order of decoding."""
    return [packet for packet in container.demux(stream) if packet.size and not packet.is_discard]


def _import_av() -> Any:
    try:
        import av
    except ImportError as error:
        raise MissingError("the package av, which reads videos, is not installed", hint=HINT) from error
    return av
