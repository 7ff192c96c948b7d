"""Videos are read upright, at a constant rate, and what is not one is named."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from inrflow_core.errors import IntegrityError, MissingError, UnreadableItemError
from inrflow_core.formats import mp4
from inrflow_core.visualization import video_io

av = pytest.importorskip("av", reason="av is not installed: the extra `video`")
imageio_ffmpeg = pytest.importorskip("imageio_ffmpeg", reason="imageio-ffmpeg is not installed: the extra `video`")


def ffmpeg(*arguments: object) -> None:
    command = [imageio_ffmpeg.get_ffmpeg_exe(), "-y", "-loglevel", "error", *map(str, arguments)]
    subprocess.run(command, check=True)


def ramp(path: Path, frames: int = 12, rate: float = 10, *options: object) -> Path:
    """A clip of 32 x 64 pixels whose frame k is of the gray level 16 k + 8, but white in its upper left corner."""
    pixels = np.repeat(16 * np.arange(frames, dtype=np.uint8) + 8, 32 * 64 * 3).reshape(frames, 32, 64, 3)
    pixels[:, :16, :16] = 255
    raw = path.with_suffix(".raw")
    raw.write_bytes(pixels.tobytes())
    layout = ("-f", "rawvideo", "-pix_fmt", "rgb24", "-video_size", "64x32", "-framerate", rate)
    ffmpeg(*layout, "-i", raw, *options, path)
    return path


def levels(frames: list[Image.Image]) -> list[int]:
    """The number of each frame, by its gray level away from the corner."""
    return [round((float(np.asarray(frame.convert("L"))[-8:, -8:].mean()) - 8) / 16) for frame in frames]


@pytest.mark.parametrize("suffix", [".mp4", ".mkv", ".avi", ".webm", ".mov", ".gif"])
def test_every_format_has_its_frames_and_rate(tmp_path: Path, suffix: str):
    path = ramp(tmp_path / f"clip{suffix}")
    timeline = video_io.read_timeline(path)
    assert (len(timeline.times), round(timeline.rate, 2), round(timeline.duration, 1)) == (12, 10.0, 1.2)
    assert timeline.frames_at(10).tolist() == list(range(12))
    assert levels(list(video_io.iter_frames(path))) == list(range(12))
    assert levels(video_io.read_frames(path, [1, 1, 5, 11])) == [1, 1, 5, 11]
    assert levels(video_io.read_clip(path, 5, 5.0)) == [0, 2, 4, 6, 8]


def test_a_variable_frame_rate_becomes_a_constant_one(tmp_path: Path):
    """Frames at 0, 1, 2, 3, 8, 9 ... tenths of a second."""
    path = ramp(tmp_path / "clip.mkv", 8, 10, "-vf", "setpts='(N+if(gte(N,4),4,0))/10/TB'", "-fps_mode", "vfr")
    timeline = video_io.read_timeline(path)
    np.testing.assert_allclose(timeline.times, [0, 0.1, 0.2, 0.3, 0.8, 0.9, 1.0, 1.1], atol=2e-3)
    assert timeline.frames_at(10)[:12].tolist() == [0, 1, 2, 3, 3, 3, 4, 4, 4, 5, 6, 7]


def test_frames_that_cannot_be_decoded_shift_no_other(tmp_path: Path):
    """A file that begins at a key frame in the middle: three frames refer to what was cut away, and are shown before it."""
    parameters = "open-gop=1:bframes=3:keyint=12:min-keyint=12:scenecut=0:b-adapt=0"
    whole = ramp(tmp_path / "whole.mkv", 16, 10, "-c:v", "libx264", "-x264-params", parameters)
    with av.open(str(whole)) as source, av.open(str(tmp_path / "cut.mkv"), "w") as target:
        stream, keys = target.add_stream_from_template(source.streams.video[0]), 0
        for packet in source.demux(source.streams.video[0]):
            keys += packet.is_keyframe
            if keys >= 2 and packet.size:
                packet.stream = stream
                target.mux(packet)
    timeline = video_io.read_timeline(tmp_path / "cut.mkv")
    shown = levels(list(video_io.iter_frames(tmp_path / "cut.mkv")))
    assert len(timeline.times) == 7
    assert shown == [12, 12, 12, 12, 13, 14, 15]
    assert levels(video_io.read_frames(tmp_path / "cut.mkv", [0, 4, 6])) == [12, 13, 15]


@pytest.mark.parametrize("degrees", [90, 180, 270])
def test_the_stated_rotation_is_applied(tmp_path: Path, degrees: int):
    source = ramp(tmp_path / "clip.mp4", 3)
    ffmpeg("-display_rotation", degrees, "-i", source, "-c", "copy", tmp_path / "turned.mp4")
    upright, turned = (np.asarray(next(video_io.iter_frames(path))) for path in (source, tmp_path / "turned.mp4"))
    np.testing.assert_array_equal(turned, np.rot90(upright, degrees // 90))


def test_what_is_not_a_video_is_named(tmp_path: Path):
    ffmpeg("-f", "lavfi", "-i", "sine=d=0.2", tmp_path / "sound.mp4")
    (tmp_path / "empty.mp4").touch()
    (tmp_path / "empty.gif").touch()
    (tmp_path / "text.mkv").write_text("no video")
    (tmp_path / "text.gif").write_text("no video")
    whole = ramp(tmp_path / "clip.mkv").read_bytes()
    (tmp_path / "none.mkv").write_bytes(whole[:700])
    reasons = {
        "sound.mp4": "it holds sound alone",
        "empty.mp4": "it cannot be decoded",
        "empty.gif": "it is empty",
        "text.mkv": "it cannot be decoded",
        "text.gif": "it cannot be decoded",
        "none.mkv": "it holds no frames|it cannot be decoded",
    }
    for name, reason in reasons.items():
        with pytest.raises(UnreadableItemError, match=reason):
            video_io.read_timeline(tmp_path / name)
        with pytest.raises(IntegrityError, match=f"`.*{name}` cannot be read as a video: ({reason})"):
            video_io.read_clip(tmp_path / name, 2, None)
    with pytest.raises(UnreadableItemError, match="it ends before frame 12"):
        video_io.read_frames(tmp_path / "clip.mkv", [3, 12])


def test_a_script_or_playlist_opens_no_other_file_whatever_its_name(tmp_path: Path):
    other = ramp(tmp_path / "other.mp4", 6)
    assert len(list(av.open(str(other)).decode(video=0))) == 6
    (tmp_path / "concat.mp4").write_text("ffconcat version 1.0\nfile other.mp4\n")
    (tmp_path / "playlist.mp4").write_text("#EXTM3U\n#EXT-X-TARGETDURATION:1\n#EXTINF:1,\nother.mp4\n#EXT-X-ENDLIST\n")
    with av.open(str(tmp_path / "concat.mp4")) as container:
        assert len(list(container.decode(video=0))) == 6  # as FFmpeg does
    for name in ("concat.mp4", "playlist.mp4"):
        for read in (video_io.read_timeline, lambda path: next(video_io.iter_frames(path))):
            with pytest.raises(UnreadableItemError, match="it cannot be decoded"):
                read(tmp_path / name)


def test_a_path_with_a_colon_is_a_file(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.chdir(tmp_path)
    Path("a:b").mkdir()
    source = ramp(tmp_path / "clip.mp4", 3)
    source.rename("a:b/c.mp4")
    assert levels(list(video_io.iter_frames(Path("a:b/c.mp4")))) == [0, 1, 2]
    mp4.write(Path("a:b/d.mp4"), np.zeros((3, 8, 8, 3), np.uint8), origin={})
    assert len(video_io.read_timeline(Path("a:b/d.mp4")).times) == 3


def test_a_cover_is_not_the_video(tmp_path: Path):
    clip, cover, sound = ramp(tmp_path / "clip.mp4", 5), tmp_path / "cover.png", tmp_path / "sound.mp4"
    Image.new("RGB", (64, 32), "red").save(cover)
    ffmpeg("-f", "lavfi", "-i", "sine=d=0.5", sound)
    as_cover = ("-c", "copy", "-disposition:v:0", "attached_pic")
    ffmpeg("-i", cover, "-i", clip, "-map", "0", "-map", "1", *as_cover, tmp_path / "both.mp4")
    ffmpeg("-i", cover, "-i", sound, "-map", "0", "-map", "1", *as_cover, tmp_path / "alone.mp4")
    assert levels(list(video_io.iter_frames(tmp_path / "both.mp4"))) == list(range(5))
    with pytest.raises(UnreadableItemError, match="it holds sound alone"):
        video_io.read_timeline(tmp_path / "alone.mp4")


def test_a_gif_that_cannot_be_opened_or_is_too_large_is_unreadable(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    (tmp_path / "clip.gif").write_bytes(b"GIF89a" + bytes(100))
    monkeypatch.setattr(video_io.image_io, "MAX_BYTES", 50)
    for name in ("clip.gif", "absent.gif"):
        with pytest.raises(UnreadableItemError, match="it cannot be opened, or has more than 50 bytes"):
            video_io.read_timeline(tmp_path / name)


def test_digits_that_are_not_decimal_are_text_in_the_natural_order():
    assert sorted(["5²10.png", "5²9.png", "10.png", "٣.png"], key=video_io.natural_key) == [
        *("٣.png", "5²9.png", "5²10.png", "10.png"),
    ]


def test_a_folder_of_frames_is_in_natural_order(tmp_path: Path):
    for number in (10, 9, 100, 1):
        Image.new("L", (8, 8), number).save(tmp_path / f"frame{number}.png")
    (tmp_path / ".hidden.png").touch()
    (tmp_path / "notes.txt").touch()
    assert [path.name for path in video_io.frame_files(tmp_path)] == [f"frame{n}.png" for n in (1, 9, 10, 100)]
    assert [frame.getpixel((0, 0)) for frame in video_io.read_clip(tmp_path, 3, None)] == [(n,) * 3 for n in (1, 9, 10)]
    with pytest.raises(IntegrityError, match="it has 4 frames, and a clip of the model has 5"):
        video_io.read_clip(tmp_path, 5, None)


def test_a_missing_package_is_named_with_its_extra_and_gif_needs_none(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    clip, animation = ramp(tmp_path / "clip.mp4", 3), ramp(tmp_path / "clip.gif", 3)
    monkeypatch.setitem(sys.modules, "av", None)
    with pytest.raises(MissingError, match="the package av, which reads videos, is not installed") as caught:
        video_io.read_timeline(clip)
    assert caught.value.hint is not None and "`pip install inrflow[video]`" in caught.value.hint
    assert len(video_io.read_timeline(animation).times) == 3
