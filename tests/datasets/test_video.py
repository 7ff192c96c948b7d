"""Videos become clips: where they start, at which rate, in which split and class, and what cannot be read."""

from __future__ import annotations

import subprocess
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

from inrflow_core.datasets import sky_timelapse, video
from inrflow_core.datasets.video import Config
from inrflow_core.errors import MissingError, UnreadableItemError, UsageError
from inrflow_core.preparation import job, pipeline
from inrflow_core.shards.shard_dataset import ShardDataset

SMALL: dict[str, Any] = {"resolution": 8, "frames": 4}


def frames(folder: Path, count: int, first: int = 0, side: tuple[int, int] = (12, 10)) -> None:
    """A folder of frames without leading zeros, frame k of gray level 10 (first + k)."""
    folder.mkdir(parents=True, exist_ok=True)
    for number in range(count):
        Image.new("L", side, 10 * (first + number)).save(folder / f"frame{number}.png")


def animation(path: Path, count: int, milliseconds: int = 100) -> None:
    """A .gif file of as many frames, frame k of gray level 10 k."""
    path.parent.mkdir(parents=True, exist_ok=True)
    images = [Image.new("L", (12, 10), 10 * number) for number in range(count)]
    images[0].save(path, save_all=True, append_images=images[1:], duration=milliseconds)


def clips(source: Path, **settings: Any) -> dict[str, list[int]]:
    """The gray levels of the frames of each clip, divided by 10, by its name."""
    config = Config(**(SMALL | settings))
    plan = video.scan(source, config)
    found = {item.name: video.read(item, config).values for items in plan.splits.values() for item in items}
    assert all(values.shape == plan.shape and values.dtype == np.uint8 for values in found.values())
    return {name: (values[:, 4, 4, 0] / 10).round().astype(int).tolist() for name, values in found.items()}


def test_frames_in_natural_order_become_clips_without_overlap(tmp_path: Path):
    frames(tmp_path / "a", 13)
    frames(tmp_path / "b" / "1", 4, first=5)
    assert clips(tmp_path) == {
        "train/a/000000": [0, 1, 2, 3],
        "train/a/000004": [4, 5, 6, 7],
        "train/a/000008": [8, 9, 10, 11],
        "train/b/1/000000": [5, 6, 7, 8],
    }


@pytest.mark.parametrize(
    ("settings", "starts", "step", "rate"),
    [
        ({"stride": 2}, [0], 2, 12.5),
        ({"stride": 2, "fps": 8}, [0], 2, 4.0),
        ({"every": 3}, [0, 3, 6, 9], 1, 25.0),
        ({"every": 1, "clips": 3}, [0, 3, 6], 1, 25.0),
    ],
)
def test_settings_say_where_clips_start_and_the_rate_is_recorded(
    tmp_path: Path, settings: dict[str, Any], starts: list[int], step: int, rate: float
):
    frames(tmp_path / "a", 13)
    expected = {f"train/a/{start:06d}": [start + step * number for number in range(4)] for start in starts}
    assert clips(tmp_path, **settings) == expected
    assert video.scan(tmp_path, Config(**SMALL, **settings)).normalization["fps"] == rate


def test_splits_and_classes_are_folders_and_files_have_their_own_rate(tmp_path: Path):
    for split, count in (("train", 9), ("test", 5)):
        for name in ("cat", "dog"):
            animation(tmp_path / "data" / split / name / "one.gif", count)
    plan = video.scan(tmp_path, Config(**SMALL, classes=True))
    assert {split: [(item.name, item.label) for item in items] for split, items in plan.splits.items()} == {
        "train": [
            *[(f"train/cat/one.gif/{start:06d}", 0) for start in (0, 4)],
            *[(f"train/dog/one.gif/{start:06d}", 1) for start in (0, 4)],
        ],
        "test": [("test/cat/one.gif/000000", 0), ("test/dog/one.gif/000000", 1)],
    }
    assert (plan.classes, plan.normalization["fps"], plan.notes) == (("cat", "dog"), 10.0, ())
    assert clips(tmp_path)["train/dog/one.gif/000004"] == [4, 5, 6, 7]
    animation(tmp_path / "data" / "train" / "loose.gif", 4)
    with pytest.raises(UsageError, match="`loose.gif` is not in a sub-folder"):
        video.scan(tmp_path, Config(**SMALL, classes=True))


@pytest.mark.parametrize("stray", ["stray.gif", "cover.png", "more/0.png"])
def test_what_lies_beside_the_folders_of_splits_is_an_error(tmp_path: Path, stray: str):
    animation(tmp_path / "train" / "one.gif", 5)
    (tmp_path / stray).parent.mkdir(exist_ok=True)
    Image.new("L", (12, 10)).save(tmp_path / stray)
    assert list(video.scan(tmp_path, Config(**SMALL)).splits) == ["train"]
    animation(tmp_path / "test" / "two.gif", 5)
    with pytest.raises(UsageError, match=f"`{stray}` lies beside `train` and `test`, which are folders of splits"):
        video.scan(tmp_path, Config(**SMALL))


def test_files_of_another_rate_are_resampled_to_the_most_common_one(tmp_path: Path):
    for name, milliseconds in (("a", 100), ("b", 100), ("slow", 200)):
        animation(tmp_path / f"{name}.gif", 4, milliseconds)
    assert clips(tmp_path) == {
        "train/a.gif/000000": [0, 1, 2, 3],
        "train/b.gif/000000": [0, 1, 2, 3],
        "train/slow.gif/000000": [0, 1, 1, 2],
        "train/slow.gif/000004": [2, 3, 3, 3],
    }
    assert video.scan(tmp_path, Config(**SMALL)).notes == ("1 of 3 video files are resampled to 10 frames per second",)


def test_short_and_damaged_videos_are_counted_and_named_and_the_others_prepared(tmp_path: Path):
    source = tmp_path / "data"
    animation(source / "good.gif", 9)
    animation(source / "short.gif", 3)
    (source / "bad.gif").write_bytes(b"GIF89a and no more")
    (source / "empty.gif").touch()
    frames(source / "uneven", 4)
    frames(source / "uneven", 1, side=(9, 9))
    frames(source / "broken", 5)
    (source / "broken" / "frame2.png").write_bytes(b"")
    work = job.resolve_job("video", source, tmp_path / "shards", Config(**SMALL))
    report = pipeline.prepare(work, workers=1)
    reasons = {item.name: item.reason for item in report.skipped}
    assert report.splits == {"train": 2} and set(reasons) == {
        *("train/bad.gif", "train/empty.gif", "train/broken/000000", "train/uneven/000000")
    }
    assert reasons["train/empty.gif"] == "it is empty" and "cannot be decoded" in reasons["train/bad.gif"]
    assert reasons["train/broken/000000"] == "its frame `frame2.png`: it is empty"
    assert reasons["train/uneven/000000"] == "its frames differ in size: 9 x 9 and 12 x 10"
    assert report.left_out["frames"].names == ("train/short.gif",)
    shards = ShardDataset(tmp_path / "shards")
    assert (shards.domain, shards.manifest.shape, shards.manifest.settings["frames"]) == ("video", (4, 8, 8, 3), 4)
    assert shards.manifest.normalization["fps"] == 10


def test_video_files_are_read_in_one_pass_and_overlapping_clips_agree(tmp_path: Path):
    pytest.importorskip("av", reason="av is not installed: the extra `video`")
    ffmpeg = pytest.importorskip("imageio_ffmpeg", reason="imageio-ffmpeg is not installed: the extra `video`")
    raw = np.repeat(10 * np.arange(20, dtype=np.uint8), 32 * 32 * 3).tobytes()
    layout = [
        "-y",
        "-loglevel",
        "error",
        "-f",
        "rawvideo",
        "-pix_fmt",
        "rgb24",
        "-video_size",
        "32x32",
        "-framerate",
        "10",
        "-i",
        "pipe:0",
    ]
    subprocess.run([ffmpeg.get_ffmpeg_exe(), *layout, str(tmp_path / "clip.mp4")], input=raw, check=True)
    found = clips(tmp_path, every=3)
    assert found == {f"train/clip.mp4/{s:06d}": list(range(s, s + 4)) for s in range(0, 17, 3)}
    whole = (tmp_path / "clip.mp4").read_bytes()
    (tmp_path / "clip.mp4").write_bytes(whole[:200])
    (item,) = video.scan(tmp_path, Config(**SMALL)).splits["train"]
    with pytest.raises(UnreadableItemError, match="it cannot be decoded"):
        video.read(item, Config(**SMALL))


def test_sky_timelapse_has_its_splits_at_both_depths(tmp_path: Path):
    frames(tmp_path / "sky_train" / "video1" / "video1_1", 5)
    frames(tmp_path / "sky_test" / "video2", 4)
    plan = sky_timelapse.scan(tmp_path, sky_timelapse.Config(**SMALL))
    assert {split: [item.name for item in items] for split, items in plan.splits.items()} == {
        "train": ["train/video1/video1_1/000000"],
        "test": ["test/video2/000000"],
    }
    with pytest.raises(MissingError, match="`.*sky_train` holds no `sky-timelapse` data: looked for the folders"):
        sky_timelapse.scan(tmp_path / "sky_train", sky_timelapse.Config(**SMALL))


def test_a_source_without_videos_and_settings_out_of_range_are_refused(tmp_path: Path):
    (tmp_path / "notes.txt").touch()
    with pytest.raises(MissingError, match="looked for video files or folders of frames; found 1 file"):
        video.scan(tmp_path, Config(**SMALL))
    refused: list[dict[str, Any]] = [{"stride": 0}, {"every": 0}, {"clips": 0}, {"fps": 0.0}, {"frames": 2000}]
    for settings in [*refused, {"channels": 2}]:
        with pytest.raises(ValueError, match=f"`{next(iter(settings))}` is"):
            Config(**settings)
