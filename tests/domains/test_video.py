"""Videos as sets: where frames and pixels lie at every length and size, frames there and back, clips read from files."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

from inrflow_core.domains._contract import batch_of
from inrflow_core.domains.video import Config, Domain
from inrflow_core.errors import IntegrityError, UsageError
from inrflow_core.fields import Clip
from inrflow_core.sets import Grid, SetSpec

FRAMES = np.random.default_rng(0).integers(0, 256, (3, 4, 5, 5, 3), dtype=np.uint8)


def grid(size: Clip | None, side: int = 5, frames: int = 4, **options) -> tuple[torch.Tensor, torch.Tensor]:
    """Coordinates and noise keys as clips (frames, rows, columns, axis)."""
    queries = Domain(Config(side, frames)).queries(size, **options)
    shape = (frames, side, side) if size is None else (size.frames, size.rows, size.columns)
    assert queries.coordinates is not None
    return queries.coordinates.unflatten(0, shape), queries.noise_keys.unflatten(0, shape)


def test_training_frames_and_pixels_lie_at_their_centers_and_have_whole_noise_keys():
    domain = Domain(Config(5, 4))
    assert domain.shape == SetSpec(3, 3, Grid((4, 5, 5)))
    coordinates, noise_keys = grid(None)
    side = torch.tensor([-0.8, -0.4, 0.0, 0.4, 0.8])
    torch.testing.assert_close(coordinates[:, 0, 0, 0], torch.tensor([-0.75, -0.25, 0.25, 0.75]), rtol=0, atol=0)
    torch.testing.assert_close(coordinates[1, :, 2, 1], side, rtol=0, atol=1e-7)
    torch.testing.assert_close(coordinates[1, 2, :, 2], side, rtol=0, atol=1e-7)
    assert noise_keys[3, 1, 4].tolist() == [3.0, 1.0, 4.0]


@pytest.mark.parametrize("frames", [1, 3, 16, 100])
@pytest.mark.parametrize("factor", [2, 3, 4])
def test_more_frames_hold_the_training_frames_to_the_bit(frames: int, factor: int):
    finer = grid(Clip(factor * frames, 5, 5), frames=frames)
    for coarse, fine in zip(grid(None, frames=frames), finer, strict=True):
        assert torch.equal(fine[::factor], coarse)


def test_three_times_the_resolution_holds_the_training_pixels_and_sides_may_differ():
    for coarse, fine in zip(grid(None), grid(Clip(4, 15, 15)), strict=True):
        assert torch.equal(fine[:, 1::3, 1::3], coarse)
    wide, _ = grid(Clip(2, 5, 9))
    torch.testing.assert_close(wide[0, :, 2:7], grid(None)[0][0], rtol=0, atol=0)


def test_frames_are_at_equal_steps_from_the_start():
    coordinates, positions = grid(Clip(10, 5, 5))
    expected = torch.arange(10) * 0.4
    torch.testing.assert_close(positions[:, 0, 0, 0].float(), expected, rtol=0, atol=1e-6)
    torch.testing.assert_close(coordinates[:, 0, 0, 0], (2 * expected + 1) / 4 - 1, rtol=0, atol=1e-6)


def test_a_window_is_a_part_of_every_frame():
    part, _ = grid(Clip(4, 2, 3), window=(0.2, 0.4, 0.6, 1.0))
    whole, _ = grid(None)
    torch.testing.assert_close(part, whole[:, 1:3, 2:5], rtol=0, atol=1e-6)


def test_frames_become_sets_and_sets_frames_without_a_change():
    domain = Domain(Config(5, 4))
    sets = domain.to_set(batch_of(FRAMES), torch.arange(3))
    assert sets.values.shape == (3, 100, 3) and len(sets.queries) == 100 == domain.num_queries()
    assert (sets.values.min(), sets.values.max()) == (-1, 1)
    np.testing.assert_array_equal(domain.decode_values(sets.values), FRAMES)
    assert domain.compare(FRAMES[0], FRAMES[0])["psnr"] == pytest.approx(48.13 + 10 * np.log10(300), abs=0.01)


@pytest.mark.parametrize("axis", [0, 1, 2])
def test_a_function_of_one_axis_changes_along_that_axis_alone(axis: int):
    domain, size = Domain(Config(5, 4, 1)), Clip(6, 7, 8)
    coordinates = domain.queries(size).coordinates
    assert coordinates is not None
    clip = domain.decode_values(coordinates[None, :, axis : axis + 1], size)[0, ..., 0]
    for other in range(3):
        change = np.diff(clip.astype(int), axis=other)
        assert (change > 0).all() if other == axis else not change.any()


@pytest.mark.parametrize(
    ("frames", "fps", "expected", "rate"),
    [
        (None, None, None, 8.0),  # a clip of 4 frames at 8 per second lasts half a second
        (None, 30.0, Clip(15, 5, 5, 30.0), 30.0),
        (12, None, Clip(12, 5, 5), 24.0),
        (12, 6.0, Clip(12, 5, 5, 6.0), 6.0),
    ],
)
def test_frames_say_how_finely_a_clip_is_sampled_and_fps_how_fast_it_is_played(frames, fps, expected, rate):
    domain = Domain(Config(5, 4))
    size = domain.clip_size(None, frames, fps, 8.0)
    assert size == expected and domain.playback_rate(size, 8.0) == rate


def test_sizes_that_cannot_be_are_refused():
    domain = Domain(Config(5, 4))
    with pytest.raises(UsageError, match="`--fps` alone needs the duration"):
        domain.clip_size(None, None, 30.0, None)
    with pytest.raises(UsageError, match="^-1 frames per second"):
        domain.clip_size(None, None, -1.0, 8.0)
    with pytest.raises(UsageError, match="4,096 frames of 512 x 512 have 1,073,741,824 pixels"):
        domain.queries(Clip(4096, 512, 512))
    for settings in ({"frames": 0}, {"channels": 4}, {"resolution": 0}):
        with pytest.raises(ValueError, match=f"`{next(iter(settings))}` is"):
            Config(**{"resolution": 5, **settings})


def test_previews_are_strips_of_at_most_eight_frames():
    clips = np.repeat(np.arange(16, dtype=np.uint8)[None, :, None, None, None], 5, 2).repeat(5, 3).repeat(3, 4)
    strip = Domain.thumbnails(clips)
    assert strip.shape == (1, 5, 40, 3) and strip[0, 0, ::5, 0].tolist() == [0, 2, 4, 6, 9, 11, 13, 15]
    assert Domain(Config(5)).render(clips.repeat(2, 0)).width > 8 * 60
    ((_, _, mean), _, (_, unit, change)) = Domain.statistics(clips)
    assert (mean.tolist(), change.tolist(), unit) == ([7.5], [1.0], "gray levels")


def test_a_clip_is_read_at_the_rate_of_the_training_clips_and_a_short_one_is_refused(tmp_path: Path):
    images = [Image.fromarray(np.full((10, 12, 3), 20 * number, np.uint8)) for number in range(10)]
    images[0].save(tmp_path / "ten.webp", save_all=True, append_images=images[1:], duration=100, lossless=True)
    domain = Domain(Config(5, 4))
    for fps, expected in ((10, [0, 20, 40, 60]), (5, [0, 40, 80, 120]), (20, [0, 20, 20, 40])):
        clip = domain.read_input(tmp_path / "ten.webp", {"fps": fps}).values
        assert clip.shape == (4, 5, 5, 3) and clip[:, 2, 2, 1].tolist() == expected
    with pytest.raises(IntegrityError, match="it has 2 frames at 2 frames per second, and a clip of the model has 4"):
        domain.read_input(tmp_path / "ten.webp", {"fps": 2})
    (tmp_path / "frames").mkdir()
    for number, image in enumerate(images):
        image.save(tmp_path / "frames" / f"{number}.png")
    clip = Domain(Config(5, 10, 1)).read_input(tmp_path / "frames", {"fps": 8}).values
    assert clip.shape == (10, 5, 5, 1) and clip[:, 2, 2, 0].tolist() == [20 * number for number in range(10)]


def test_a_training_clip_of_more_pixels_than_are_sampled_at_once_is_refused():
    assert Config(256, 1024).frames == 1024
    with pytest.raises(ValueError, match="`frames` times `resolution` squared is 67,369,980: at most 67,108,864"):
        Config(257, 1020)
