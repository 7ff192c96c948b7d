"""GIF, WebP and MP4: the views of a scene come back as frames, in order and at their rate."""

from __future__ import annotations

import importlib.util
import json
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
from PIL import ExifTags, Image, ImageSequence

from inrflow_core.errors import MissingError, OutOfMemory, UsageError
from inrflow_core.formats import mp4
from inrflow_core.sample_files import writer

ORIGIN = {"preset": "srncars-inrct", "seed": "3"}
HAS_FFMPEG = importlib.util.find_spec("imageio_ffmpeg") is not None
NEEDS_FFMPEG = pytest.mark.skipif(not HAS_FFMPEG, reason="imageio-ffmpeg is not installed")
SUFFIXES = [".gif", ".webp", pytest.param(".mp4", marks=NEEDS_FFMPEG)]


def scene(views: int = 5, rows: int = 12, columns: int = 18) -> np.ndarray:
    """A bar on white that moves to the right, in a color of its own for each view."""
    frames = np.full((1, views, rows, columns, 3), 255, dtype=np.uint8)
    for view in range(views):
        frames[0, view, 3:9, 3 * view : 3 * view + 3] = 40 * view, 200 - 30 * view, 90
    return frames


def read_frames(path: Path) -> np.ndarray:
    """The frames as RGB (V H W 3)."""
    if path.suffix != ".mp4":
        with Image.open(path) as image:
            return np.stack([np.asarray(frame.convert("RGB")) for frame in ImageSequence.Iterator(image)])
    import imageio_ffmpeg

    reader = imageio_ffmpeg.read_frames(path)
    width, height = next(reader)["size"]
    return np.stack([np.frombuffer(frame, np.uint8).reshape(height, width, 3) for frame in reader])


@pytest.mark.parametrize("suffix", [".gif", ".webp"])
def test_frames_come_back_to_the_bit_repeated_for_ever_at_their_rate(tmp_path: Path, suffix: str) -> None:
    frames, path = scene(), tmp_path / f"out{suffix}"
    writer.write(path, frames, "radiance", origin=ORIGIN, fps=10)
    np.testing.assert_array_equal(read_frames(path), frames[0])
    with Image.open(path) as image:
        assert image.info["loop"] == 0
        image.seek(1)
        image.load()
        assert image.info["duration"] == 100


@pytest.mark.parametrize("fps", [1, 12, 16, 23.976, 30, 48, 50])
@pytest.mark.parametrize(("suffix", "tick"), [(".gif", 10), (".webp", 1)])
def test_an_animation_lasts_as_long_as_its_frames_at_their_rate(
    tmp_path: Path, suffix: str, tick: int, fps: float
) -> None:
    """A GIF has whole hundredths of a second, a WebP thousandths: at 30 frames per second 3, 4, 3, 3, 4 ... hundredths."""
    frames = np.zeros((1, 60, 4, 60, 3), np.uint8)
    frames[0, np.arange(60), :, np.arange(60)] = 255
    writer.write(tmp_path / f"out{suffix}", frames, "radiance", origin=ORIGIN, fps=fps)
    shown = []
    with Image.open(tmp_path / f"out{suffix}") as image:
        for frame in ImageSequence.Iterator(image):
            frame.load()
            shown.append(frame.info["duration"])
    ends = np.cumsum(shown)
    assert len(ends) == 60 and np.abs(ends - 1000 * np.arange(1, 61) / fps).max() <= tick / 2
    assert min(shown) >= 20


@NEEDS_FFMPEG
@pytest.mark.parametrize(("rows", "columns"), [(64, 96), (33, 51)])
def test_a_video_has_every_frame_almost_unchanged(tmp_path: Path, rows: int, columns: int) -> None:
    y, x = np.mgrid[:rows, :columns] / max(rows, columns)
    frames = np.stack([np.stack([x, y, np.full_like(x, view / 7)], -1) for view in range(7)])
    frames = (frames * 255).astype(np.uint8)
    writer.write(tmp_path / "out.mp4", frames[None], "radiance", origin=ORIGIN)
    read = read_frames(tmp_path / "out.mp4")
    assert read.shape == (7, rows + rows % 2, columns + columns % 2, 3)
    errors = np.abs(read[:, :rows, :columns].astype(int) - frames).mean((1, 2, 3))
    assert errors.max() < 4, errors


@pytest.mark.parametrize("suffix", SUFFIXES)
@pytest.mark.parametrize("channels", [1, 3, 4])
def test_a_single_view_and_every_number_of_channels_can_be_written(tmp_path: Path, suffix: str, channels: int) -> None:
    frames = np.full((1, 1, 16, 16, channels), 255, dtype=np.uint8)
    writer.write(tmp_path / f"out{suffix}", frames, "radiance", origin=ORIGIN)
    read = read_frames(tmp_path / f"out{suffix}")
    assert read.shape == (1, 16, 16, 3) and read.min() >= 253


@pytest.mark.parametrize("suffix", SUFFIXES)
def test_several_scenes_are_numbered_files(tmp_path: Path, suffix: str) -> None:
    files = writer.write(tmp_path / f"out{suffix}", np.repeat(scene(), 2, 0), "radiance", origin=ORIGIN)
    assert [file.name for file in files] == [f"out-000{suffix}", f"out-001{suffix}"]


def test_the_origin_is_in_the_comment_or_the_description(tmp_path: Path) -> None:
    for suffix in (".gif", ".webp"):
        writer.write(tmp_path / f"out{suffix}", scene(), "radiance", origin=ORIGIN)
    with Image.open(tmp_path / "out.gif") as image:
        assert json.loads(image.info["comment"]) == ORIGIN
    with Image.open(tmp_path / "out.webp") as image:
        assert json.loads(image.getexif()[ExifTags.Base.ImageDescription]) == ORIGIN


@pytest.mark.parametrize("suffix", SUFFIXES)
@pytest.mark.parametrize("is_above", [False, True])
def test_a_rate_out_of_range_is_an_error_and_leaves_no_file(tmp_path: Path, suffix: str, is_above: bool) -> None:
    most = 240 if suffix == ".mp4" else 50
    fps = most + 1 if is_above else 0
    with pytest.raises(UsageError, match=f"^{fps} frames per second") as caught:
        writer.write(tmp_path / f"out{suffix}", scene(), "radiance", origin={}, fps=fps)
    assert caught.value.hint == f"give from 1 to {most}"
    assert list(tmp_path.iterdir()) == []


def test_a_missing_ffmpeg_is_an_error_before_the_work(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "imageio_ffmpeg", None)
    with pytest.raises(MissingError, match="imageio-ffmpeg, which writes videos, is not installed") as caught:
        writer.check(tmp_path / "out.mp4", 1)
    assert caught.value.hint is not None and "`pip install inrflow[video]`" in caught.value.hint
    writer.check(tmp_path / "out.gif", 1)


@pytest.mark.parametrize(
    ("message", "error", "text"),
    [
        ("x264: No space left on device", OutOfMemory, "no room to write"),
        ("Unknown encoder 'libx264'", MissingError, "ffmpeg cannot write .*: Unknown encoder 'libx264'"),
    ],
)
def test_what_ffmpeg_cannot_write_is_an_error_and_leaves_no_file(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, message: str, error: type[Exception], text: str
) -> None:
    program = tmp_path / "ffmpeg"
    program.write_text(f'#!/bin/sh\ncat > /dev/null\necho "{message}" >&2\nexit 1\n')
    program.chmod(0o755)
    monkeypatch.setattr(mp4, "_ffmpeg", lambda: str(program))
    with pytest.raises(error, match=text):
        writer.write(tmp_path / "out.mp4", scene(), "radiance", origin={})
    assert [path.name for path in tmp_path.iterdir()] == ["ffmpeg"]


def test_other_domains_have_no_turntables(tmp_path: Path) -> None:
    images = np.zeros((1, 8, 8, 3), dtype=np.uint8)
    with pytest.raises(UsageError, match=r"no format of the domain `image` writes `\.gif` files"):
        writer.write(tmp_path / "out.gif", images, "image", origin={})


@NEEDS_FFMPEG
def test_a_video_is_h264_that_every_program_plays(tmp_path: Path) -> None:
    import imageio_ffmpeg

    writer.write(tmp_path / "out.mp4", scene(), "radiance", origin=ORIGIN, fps=8)
    command = [imageio_ffmpeg.get_ffmpeg_exe(), "-hide_banner", "-i", str(tmp_path / "out.mp4")]
    stated = subprocess.run(command, capture_output=True, text=True, check=False).stderr
    assert "Video: h264" in stated and "yuv420p" in stated and "8 fps" in stated and "srncars-inrct" in stated
