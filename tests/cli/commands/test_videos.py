"""Videos at the command line: any number of frames, rate and size, every format, and clips that are encoded from files."""

from __future__ import annotations

import errno
import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image, ImageSequence

from inrflow_cli import app, console
from inrflow_core.errors import UsageError
from inrflow_core.formats import frames as frame_folder
from inrflow_core.numerics import solver
from inrflow_core.sample_files import readers
from inrflow_core.sampling import sample
from inrflow_core.shards.shard_dataset import ShardDataset
from tests import tiny

VIDEO: dict[str, dict[str, Any] | None] = {
    "domain": {"name": "video", "resolution": 8, "frames": 4},
    "network": {"width": 16, "depth": 1, "heads": 2, "latents": 8, "encoder": "spatial", "rope": True},
    "condition": None,
}
RATE = {"normalization": {"kind": "pixels", "fps": 8.0}}


@pytest.fixture(scope="module")
def runs(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    folder = tmp_path_factory.mktemp("videos")
    tiny.run_folder(folder / "videos", VIDEO, metadata=RATE)
    tiny.run_folder(folder / "images", tiny.IMAGE)
    return {"videos": folder / "videos", "images": folder / "images"}


def inrflow(capsys: pytest.CaptureFixture[str], *arguments: Any, code: int = 0) -> str:
    """Runs a command; returns its stderr."""
    console.stderr.cache_clear()
    assert app.run([str(argument) for argument in arguments]) == code
    return " ".join(capsys.readouterr().err.split())


def frames_of(path: Path) -> tuple[np.ndarray, int]:
    """The frames of an animation, and the milliseconds of the first."""
    with Image.open(path) as image:
        frames = [np.asarray(frame.convert("RGB")) for frame in ImageSequence.Iterator(image)]
        return np.stack(frames), int(image.info["duration"])


def test_the_same_clip_is_sampled_at_any_length_and_size(capsys, runs: dict[str, Path], tmp_path: Path):
    sampled = {}
    options = {"training": (), "twice": ("--frames", 8), "by-rate": ("--fps", 16), "large": ("--resolution", "24x32")}
    for name, more in options.items():
        inrflow(capsys, "sample", tmp_path / f"{name}.npz", "--run", runs["videos"], "--num", 2, *more)
        with np.load(tmp_path / f"{name}.npz") as file:
            sampled[name] = file["videos"], float(file["fps"])
    training, rate = sampled["training"]
    assert training.shape == (2, 4, 8, 8, 3) and rate == 8
    for name in ("twice", "by-rate"):
        values, rate = sampled[name]
        assert values.shape[1] == 8 and rate == 16
        assert np.abs(values[:, ::2].astype(int) - training).max() <= 1
    assert sampled["large"][0].shape == (2, 4, 24, 32, 3)


def test_animations_last_as_long_as_the_clip_unless_a_rate_is_named(capsys, runs: dict[str, Path], tmp_path: Path):
    for out, more, frames, duration in (
        ("a.webp", (), 4, 125),
        ("b.webp", ("--frames", 8), 8, 62),
        ("c.webp", ("--frames", 8, "--fps", 10), 8, 100),
        ("d.gif", ("--frames", 80), 80, 20),
    ):
        inrflow(capsys, "sample", tmp_path / out, "--run", runs["videos"], *more)
        read, found = frames_of(tmp_path / out)
        assert (len(read), found) == (frames, duration)
    error = inrflow(capsys, "sample", tmp_path / "e.gif", "--run", runs["videos"], "--fps", 60, code=2)
    assert "`--fps 60`: a `.gif` file has from 1 to 50 frames per second" in error
    assert not (tmp_path / "e.gif").exists()


def test_a_folder_of_frames_has_every_pixel_and_is_read_again(capsys, runs: dict[str, Path], tmp_path: Path):
    inrflow(capsys, "sample", tmp_path / "out.npz", "--run", runs["videos"], "--num", 2)
    inrflow(capsys, "sample", tmp_path / "out.frames", "--run", runs["videos"], "--num", 2)
    with np.load(tmp_path / "out.npz") as file:
        for clip, folder in enumerate(("out-000.frames", "out-001.frames")):
            files = sorted((tmp_path / folder).iterdir())
            assert [path.name for path in files] == [f"{number:05d}.png" for number in range(4)]
            np.testing.assert_array_equal([np.asarray(Image.open(path)) for path in files], file["videos"][clip])
    with Image.open(tmp_path / "out-001.frames" / "00000.png") as image:
        assert (image.text["seed"], image.text["preset"]) == ("1", "tiny")
    error = inrflow(capsys, "sample", tmp_path / "out-000.frames", "--run", runs["videos"], code=2)
    assert "is a folder" in error and "a folder that does not exist yet" in error
    out = tmp_path / "again.npz"
    assert " dB " in inrflow(
        capsys, "upsample", tmp_path / "out-000.frames", out, "--run", runs["videos"], "--steps", 9
    )


def test_a_folder_that_is_named_frames_holds_frames(capsys, runs: dict[str, Path], tmp_path: Path):
    """By every command, with and without a slash; several clips have folders of their own, which are read again."""
    run = ("--run", runs["videos"])
    inrflow(capsys, "sample", tmp_path / "out.frames", *run, "--num", 3, "--seed", 4)
    (tmp_path / "some").mkdir()
    inrflow(capsys, "sample", f"{tmp_path}/frames/", *run, "--seed", 4)
    inrflow(capsys, "sample", tmp_path / "some" / "frames", *run, "--num", 3, "--seed", 4)
    folders = [tmp_path / "frames", *(tmp_path / "some" / f"frames-{number:03d}" for number in range(3))]
    expected = [tmp_path / f"out-{number:03d}.frames" for number in (0, 0, 1, 2)]
    for folder, same in zip(folders, expected, strict=True):
        names = [f"{number:05d}.png" for number in range(4)]
        assert sorted(path.name for path in folder.iterdir()) == names
        for name in names:
            np.testing.assert_array_equal(Image.open(folder / name), Image.open(same / name))
    inrflow(capsys, "upsample", folders[2], tmp_path / "some" / "frames", *run, "--steps", 2, "--scale", 2)
    with Image.open(tmp_path / "some" / "frames" / "00003.png") as image:
        assert image.size == (16, 16)
    inrflow(capsys, "sample", tmp_path / "clips.h5", *run, "--num", 3, "--seed", 4)
    (tmp_path / "exported").mkdir()
    inrflow(capsys, "export", tmp_path / "clips.h5", tmp_path / "exported" / "frames", "--items", "2")
    exported, sampled = (
        np.asarray(Image.open(f / "00001.png")) for f in (tmp_path / "exported" / "frames", folders[3])
    )
    np.testing.assert_array_equal(exported, sampled)


def test_a_folder_that_is_named_frames_is_refused_where_it_cannot_hold_them(
    capsys, runs: dict[str, Path], tmp_path: Path
):
    (tmp_path / "frames").mkdir()
    error = inrflow(capsys, "sample", tmp_path / "frames", "--run", runs["videos"], code=2)
    assert "is a folder" in error and "a folder that does not exist yet" in error
    new = tmp_path / "new" / "frames"
    new.parent.mkdir()
    error = inrflow(capsys, "sample", new, "--run", runs["videos"], "--workers", 2, code=2)
    assert "`--workers` needs a folder of shards" in error
    error = inrflow(capsys, "upsample", new, "--run", runs["images"], code=2)
    assert "samples images, which a `.frames` file cannot hold" in error
    inrflow(capsys, "sample", tmp_path / "clip.npz", "--run", runs["videos"])
    error = inrflow(capsys, "export", tmp_path / "clip.npz", new, "--columns", 2, code=2)
    assert "`--columns` does not apply to a `.frames` file" in error
    inrflow(capsys, "sample", tmp_path / "image.npz", "--run", runs["images"])
    error = inrflow(capsys, "export", tmp_path / "image.npz", new, code=2)
    assert "no format of the domain `image` writes `.frames` files" in error
    assert list(new.parent.iterdir()) == []


def test_a_folder_without_such_a_format_holds_shards_whatever_its_name(capsys, runs: dict[str, Path], tmp_path: Path):
    inrflow(capsys, "sample", tmp_path / "frames", "--run", runs["images"], "--num", 2)
    inrflow(capsys, "sample", tmp_path / "gif", "--run", runs["videos"], "--num", 2)
    for name in ("frames", "gif"):
        assert len(readers.open_collection(tmp_path / name).read([0, 1]).values) == 2


def test_shards_record_the_rate_and_export_uses_it(capsys, runs: dict[str, Path], tmp_path: Path):
    inrflow(capsys, "sample", tmp_path / "clips.h5", "--run", runs["videos"], "--num", 3, "--frames", 6)
    assert ShardDataset(tmp_path / "clips.h5").manifest.normalization["fps"] == 12
    inrflow(capsys, "export", tmp_path / "clips.h5", tmp_path / "one.webp", "--items", "1")
    read, duration = frames_of(tmp_path / "one.webp")
    np.testing.assert_array_equal(read, readers.open_collection(tmp_path / "clips.h5").read([1]).values[0])
    assert duration == 83


def test_a_clip_is_encoded_and_sampled_more_finely(capsys, runs: dict[str, Path], tmp_path: Path):
    frames = np.random.default_rng(0).integers(0, 256, (4, 8, 8, 3), dtype=np.uint8)
    images = [Image.fromarray(frame) for frame in frames]
    images[0].save(tmp_path / "in.webp", save_all=True, append_images=images[1:], duration=125, lossless=True)
    (tmp_path / "frames").mkdir()
    for number, image in enumerate(images):
        image.save(tmp_path / "frames" / f"{number}.png")
    for source in ("in.webp", "frames"):
        out = tmp_path / f"{source}.npz"
        more = ("--scale", 2, "--fps", 16, "--steps", 30)
        text = inrflow(capsys, "upsample", tmp_path / source, out, "--run", runs["videos"], *more)
        assert "dB at the training's positions" in text
        with np.load(out) as file:
            assert file["videos"].shape == (1, 8, 16, 16, 3) and file["fps"] == 16
            assert len(json.loads(str(file["origin"]))["given"]) == 16


def test_several_clips_are_written_as_clips(capsys, runs: dict[str, Path], tmp_path: Path):
    frames = np.random.default_rng(0).integers(0, 256, (5, 8, 8, 3), dtype=np.uint8)
    first, *others = [Image.fromarray(frame) for frame in frames]
    first.save(tmp_path / "a.webp", save_all=True, append_images=others, duration=125, lossless=True)
    first.save(tmp_path / "b.gif", save_all=True, append_images=others, duration=120)
    (tmp_path / "c").mkdir()
    for number, image in enumerate((first, *others)):
        image.save(tmp_path / "c" / f"{number}.png")
    (tmp_path / "out").mkdir()
    sources = [tmp_path / name for name in ("a.webp", "b.gif", "c")]
    inrflow(capsys, "upsample", *sources, tmp_path / "out", "--run", runs["videos"], "--steps", 2, "--scale", 2)
    assert sorted(path.name for path in (tmp_path / "out").iterdir()) == ["a.webp", "b.gif", "c.frames"]
    for name in ("a.webp", "b.gif"):
        assert frames_of(tmp_path / "out" / name)[0].shape == (4, 16, 16, 3)
    assert len(list((tmp_path / "out" / "c.frames").iterdir())) == 4


def test_animations_that_a_model_of_images_reads_become_images(capsys, runs: dict[str, Path], tmp_path: Path):
    frames = [Image.new("L", (8, 8), shade) for shade in (50, 200)]
    for name in ("a.gif", "b.webp"):
        frames[0].save(tmp_path / name, save_all=True, append_images=frames[1:], duration=100)
    (tmp_path / "out").mkdir()
    sources = [tmp_path / name for name in ("a.gif", "b.webp")]
    inrflow(capsys, "upsample", *sources, tmp_path / "out", "--run", runs["images"], "--steps", 2)
    assert sorted(path.name for path in (tmp_path / "out").iterdir()) == ["a.png", "b.png"]


def test_options_of_clips_are_refused_elsewhere(capsys, runs: dict[str, Path], tmp_path: Path):
    for option in ("--frames", "--fps"):
        error = inrflow(capsys, "sample", tmp_path / "out.png", "--run", runs["images"], option, 4, code=2)
        assert f"`{option}` does not apply: the model samples images" in error
    error = inrflow(capsys, "upsample", tmp_path / "frames", tmp_path / "out.png", "--run", runs["images"], code=3)
    assert "`" in error and "does not exist" in error


def test_a_saved_field_keeps_the_rate_and_one_without_needs_the_number_of_frames(
    capsys, runs: dict[str, Path], tmp_path: Path
):
    field, old = tmp_path / "field.safetensors", tmp_path / "old.safetensors"
    inrflow(capsys, "sample", tmp_path / "out.png", "--run", runs["videos"], "--save-field", field)
    for name, more, count, duration in (("a", (), 4, 125), ("b", ("--fps", 20), 10, 50), ("c", ("--frames", 8), 8, 62)):
        inrflow(capsys, "upsample", field, tmp_path / f"{name}.webp", *more)
        read, found = frames_of(tmp_path / f"{name}.webp")
        assert (len(read), found) == (count, duration)
    model, saved = sample.load_field(field, "cpu")
    saved.save(old, model.preset)  # as before the rate was recorded
    error = inrflow(capsys, "upsample", old, tmp_path / "out.webp", "--fps", 20, code=2)
    assert "`--fps` alone needs the duration of a clip" in error and "add `--frames N`" in error
    inrflow(capsys, "upsample", old, tmp_path / "out.webp", "--frames", 10, "--fps", 20)
    assert frames_of(tmp_path / "out.webp")[1] == 50


def test_export_keeps_the_rate_of_an_npz_and_takes_that_of_its_option(capsys, runs: dict[str, Path], tmp_path: Path):
    inrflow(capsys, "sample", tmp_path / "clips.npz", "--run", runs["videos"])
    inrflow(capsys, "export", tmp_path / "clips.npz", tmp_path / "again.npz")
    inrflow(capsys, "export", tmp_path / "again.npz", tmp_path / "a.webp")
    inrflow(capsys, "export", tmp_path / "again.npz", tmp_path / "b.webp", "--fps", 20)
    assert [frames_of(tmp_path / name)[1] for name in ("a.webp", "b.webp")] == [125, 50]
    with np.load(tmp_path / "clips.npz") as file:
        np.savez(tmp_path / "slow.npz", videos=file["videos"], fps=np.array(0.25))
        np.savez(tmp_path / "other.npz", videos=file["videos"], fps=np.array([3, 4]))
    for name, duration in (("slow", 1000), ("other", 83)):
        inrflow(capsys, "export", tmp_path / f"{name}.npz", tmp_path / f"{name}.webp")
        assert frames_of(tmp_path / f"{name}.webp")[1] in (duration, duration + 1)
    error = inrflow(capsys, "export", tmp_path / "clips.npz", tmp_path / "c.gif", "--fps", 240, code=2)
    assert "240 frames per second" in error


def test_a_rate_that_a_file_cannot_have_is_refused_before_anything_is_drawn(
    capsys, runs: dict[str, Path], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
):
    field, clip = tmp_path / "field.safetensors", tmp_path / "clip.frames"
    inrflow(capsys, "sample", clip, "--run", runs["videos"], "--save-field", field)
    for module in (solver, sample):
        for name in ("iter_steps", "evaluate", "sample_fields"):
            monkeypatch.setattr(module, name, lambda *_, **__: pytest.fail("something is drawn"), raising=False)
    new = ("sample", "--run", runs["videos"], "--save-field", tmp_path / "new.safetensors")
    for command in (new, ("upsample", "--run", runs["videos"], clip), ("upsample", field)):
        error = inrflow(capsys, *command, tmp_path / "e.gif", "--fps", 60, code=2)
        assert "`--fps 60`: a `.gif` file has from 1 to 50 frames per second" in error


def test_a_file_where_a_folder_of_frames_goes_is_refused(capsys, runs: dict[str, Path], tmp_path: Path):
    (tmp_path / "x.frames").touch()
    for more in ((), ("--overwrite",)):
        error = inrflow(capsys, "sample", tmp_path / "x.frames", "--run", runs["videos"], *more, code=2)
        assert ("is a file, and `.frames` writes a folder" in error) == bool(more)
    assert (tmp_path / "x.frames").is_file()


def test_a_folder_of_frames_that_may_not_be_made_is_an_error(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    def refuse(*_: Any, **__: Any) -> None:
        raise PermissionError(errno.EACCES, "Permission denied")

    monkeypatch.setattr(Path, "mkdir", refuse)
    with pytest.raises(UsageError, match="`.*y.frames` cannot be written: Permission denied"):
        frame_folder.write(tmp_path / "y.frames", np.zeros((1, 2, 2, 3), np.uint8), origin={})
