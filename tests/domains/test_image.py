"""Images as sets: where pixels lie on every grid, flips keyed by the seed, pixels there and back."""

from __future__ import annotations

import math

import numpy as np
import pytest
import torch
from PIL import Image

from inrflow_core.datasets import _image_decoding
from inrflow_core.domains._contract import batch_of
from inrflow_core.domains.image import Config, Domain, describe_shape
from inrflow_core.errors import UsageError

PIXELS = np.random.default_rng(0).integers(0, 256, (64, 5, 5, 3), dtype=np.uint8)
SEEDS = torch.arange(64)


def grid(size: tuple[int, int] | None, side: int = 5, **options) -> tuple[torch.Tensor, torch.Tensor]:
    """Coordinates and noise keys as images (rows, columns, axis)."""
    queries = Domain(Config(side)).queries(size, **options)
    rows, columns = size or (side, side)
    assert queries.coordinates is not None
    return queries.coordinates.unflatten(0, (rows, columns)), queries.noise_keys.unflatten(0, (rows, columns))


def test_training_pixels_lie_at_their_centers_and_have_whole_noise_keys():
    coordinates, noise_keys = grid(None)
    axis = torch.tensor([-0.8, -0.4, 0.0, 0.4, 0.8])
    torch.testing.assert_close(coordinates[:, 0, 0], axis, rtol=0, atol=1e-7)
    torch.testing.assert_close(coordinates[0, :, 1], axis, rtol=0, atol=1e-7)
    assert noise_keys[..., 0].tolist() == [[float(row)] * 5 for row in range(5)]
    assert noise_keys[2, 4].tolist() == [2.0, 4.0]


@pytest.mark.parametrize("side", [1, 5, 8, 28, 112, 128, 256])
@pytest.mark.parametrize("factor", [3, 5])
def test_odd_multiples_hold_the_training_grid_to_the_bit(side: int, factor: int):
    own = Domain(Config(side)).queries()
    finer = Domain(Config(side)).queries((factor * side, factor * side))
    assert own.coordinates is not None and finer.coordinates is not None
    start = factor // 2
    for coarse, fine in ((own.coordinates, finer.coordinates), (own.noise_keys, finer.noise_keys)):
        every = fine.unflatten(0, (factor * side, factor * side))[start::factor, start::factor].flatten(0, 1)
        assert torch.equal(every, coarse)


def test_means_of_blocks_of_a_finer_grid_are_the_training_grid():
    coarse, coarse_keys = grid(None, side=6)
    for fine, own in zip(grid((12, 12), side=6), (coarse, coarse_keys), strict=True):
        blocks = fine.unflatten(0, (6, 2)).unflatten(2, (6, 2)).mean((1, 3))
        torch.testing.assert_close(blocks, own, rtol=0, atol=1e-6)


@pytest.mark.parametrize("size", [(7, 11), (11, 7), (8, 8), (97, 33), (1, 3)])
def test_noise_key_and_coordinate_are_one_position(size: tuple[int, int]):
    coordinates, noise_keys = grid(size)
    torch.testing.assert_close((coordinates.double() + 1) * 5 / 2 - 0.5, noise_keys, rtol=0, atol=1e-6)


@pytest.mark.parametrize("size", [(8, 12), (12, 8), (5, 15), (10, 11)])
def test_another_aspect_is_a_wider_window_around_the_same_square(size: tuple[int, int]):
    rows, columns = size
    wide, _ = grid(size)
    square, _ = grid((min(size), min(size)))
    pitch = 2 / min(size)
    torch.testing.assert_close(
        wide[1:, :, 0] - wide[:-1, :, 0], torch.full((rows - 1, columns), pitch), rtol=0, atol=1e-6
    )
    torch.testing.assert_close(
        wide[:, 1:, 1] - wide[:, :-1, 1], torch.full((rows, columns - 1), pitch), rtol=0, atol=1e-6
    )
    torch.testing.assert_close(wide.mean((0, 1)), torch.zeros(2), rtol=0, atol=1e-6)
    longer = (max(size) - min(size)) / 2
    if longer.is_integer():
        cut = [slice(int(longer), int(longer) + min(size)) if side > min(size) else slice(None) for side in size]
        torch.testing.assert_close(wide[cut[0], cut[1]], square, rtol=0, atol=1e-6)


def test_a_window_is_a_part_of_the_finer_image():
    whole, whole_keys = grid((20, 20))
    part, part_keys = grid((5, 10), window=(0.25, 0.5, 0.5, 1.0))
    torch.testing.assert_close(part, whole[5:10, 10:], rtol=0, atol=1e-6)
    torch.testing.assert_close(part_keys, whole_keys[5:10, 10:], rtol=0, atol=1e-9)


@pytest.mark.parametrize(
    ("size", "window", "step"),
    [
        (None, None, 2 / 5),
        ((20, 20), None, 2 / 20),
        ((7, 11), None, 2 / 7),
        ((10, 10), (0.0, 0.5, 0.5, 1.0), 2 / 20),
        ((6, 3), (0.0, 0.0, 1.0, 0.5), 2 / 6),
        ((8, 2), (0.0, 0.0, 1.0, 1.0), 2 / 4),
    ],
)
def test_the_cell_size_is_the_distance_of_neighboring_pixels(size, window, step):
    cell_sizes = Domain(Config(5)).queries(size, window).cell_sizes
    assert cell_sizes is not None and cell_sizes.ndim == 0 and cell_sizes == torch.tensor(step)
    coordinates, _ = grid(size, window=window)
    steps = coordinates[1, 0, 0] - coordinates[0, 0, 0], coordinates[0, 1, 1] - coordinates[0, 0, 1]
    assert math.sqrt(steps[0] * steps[1]) == pytest.approx(step, rel=1e-5)


def test_an_image_without_pixels_is_refused():
    with pytest.raises(UsageError, match="an image of 0 x 5 has no pixels"):
        Domain(Config(5)).queries((0, 5))


@pytest.mark.parametrize("scale", [1.0, 2.0, 0.3])
def test_pixels_there_and_back_are_the_same(scale: float):
    domain = Domain(Config(5, value_scale=scale))
    sets = domain.to_set(batch_of(PIXELS), SEEDS)
    assert sets.values.abs().max() == pytest.approx(scale)
    np.testing.assert_array_equal(domain.decode_values(sets.values, None), PIXELS)


def test_values_follow_their_queries_row_by_row():
    sets = Domain(Config(5)).to_set(batch_of(PIXELS), SEEDS)
    for pixel, noise_key in zip(sets.values[3], sets.queries.noise_keys.long().tolist(), strict=True):
        expected = torch.from_numpy(PIXELS[3, noise_key[0], noise_key[1]]).float() / 127.5 - 1
        torch.testing.assert_close(pixel, expected, rtol=0, atol=1e-6)


def test_values_beyond_the_range_are_clipped_and_any_size_becomes_an_image():
    values = torch.tensor([-3.0, -1.0, 0.0, 1.0, 9.0, 0.5]).view(1, 6, 1).repeat(2, 1, 3)
    images = Domain(Config(5)).decode_values(values, (2, 3))
    assert (images.shape, images.dtype) == ((2, 2, 3, 3), np.uint8)
    assert images[1, ..., 0].tolist() == [[0, 0, 128], [255, 255, 191]]


def test_half_the_images_are_mirrored_by_their_seed_and_not_by_the_batch():
    domain = Domain(Config(5, flip=True))
    plain, flipped = (
        domain.to_set(batch_of(PIXELS), SEEDS, augment=augment).values.view(64, 5, 5, 3) for augment in (False, True)
    )
    is_same = (plain == flipped).flatten(1).all(1)
    is_mirror = (plain.flip(2) == flipped).flatten(1).all(1)
    assert (is_same ^ is_mirror).all()
    assert 16 < int(is_mirror.sum()) < 48
    for start in range(0, 64, 7):
        part = slice(start, start + 7)
        alone = domain.to_set(batch_of(PIXELS[part]), SEEDS[part], augment=True).values
        assert torch.equal(alone.view(-1, 5, 5, 3), flipped[part])


def test_labels_become_the_condition():
    sets = Domain(Config(5)).to_set(batch_of(PIXELS[:2]), SEEDS[:2], np.array([3, -1]))
    assert sets.condition["label"].tolist() == [3, -1]
    assert dict(Domain(Config(5)).to_set(batch_of(PIXELS[:2]), SEEDS[:2]).condition) == {}


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"resolution": 0}, "`resolution` is 0"),
        ({"resolution": 4, "channels": 2}, "1, 3 or 4"),
        ({"resolution": 4, "value_scale": 0.0}, "above 0"),
    ],
)
def test_impossible_settings_are_refused(settings: dict, message: str):
    with pytest.raises(ValueError, match=message):
        Config(**settings)


def test_a_size_is_rows_times_columns_or_one_side():
    domain = Domain(Config(8))
    assert domain.parse_size("64x96") == (64, 96) and domain.parse_size("96") == (96, 96)
    assert domain.scale_size(1.5) == (12, 12)
    assert domain.describe_size(None) == "8 x 8 pixels" and domain.describe_size((64, 96)) == "64 x 96 pixels"


@pytest.mark.parametrize("text", ["0", "64x0", "64*64", "big"])
def test_what_is_not_a_size_is_refused(text: str):
    with pytest.raises(UsageError, match="is not a size"):
        Domain(Config(8)).parse_size(text)


def test_an_input_file_is_reduced_as_prepared_images_are(tmp_path):
    pixels = np.random.default_rng(0).integers(0, 256, (50, 70, 3), dtype=np.uint8)
    Image.fromarray(pixels).save(tmp_path / "large.png")
    found = Domain(Config(8)).read_input(tmp_path / "large.png", {}).values
    np.testing.assert_array_equal(found, _image_decoding.pixels((tmp_path / "large.png").read_bytes(), 8))


def test_equal_images_count_as_if_one_number_were_off_by_one_level():
    zeros = np.zeros((6, 5, 3), dtype=np.uint8)
    one_off = zeros.copy()
    one_off[0, 0, 0] = 1
    floor = 10 * np.log10(255**2 * 6 * 5 * 3)
    found = [Domain(Config(6)).compare(zeros, other)["psnr"] for other in (zeros, one_off)]
    assert found == pytest.approx([floor, floor])


def test_a_shape_of_any_number_of_channels_is_described():
    assert describe_shape((96, 128, 3)) == "96 x 128 pixels, RGB"
    assert describe_shape((96, 128, -1)) == "96 x 128 pixels, -1 channels"


def test_windows_outside_the_square_and_more_pixels_than_fit_are_refused_before_they_are_made():
    domain = Domain(Config(8))
    for window in ((0.5, 0.0, 0.2, 1.0), (0.0, 0.0, 1.0, 1.5), (float("nan"), 0.0, 1.0, 1.0)):
        with pytest.raises(UsageError, match="is not a part of the image"):
            domain.queries((4, 4), window)
    with pytest.raises(UsageError, match="has 10,000,000,000,000,000 pixels; at most 268,435,456"):
        domain.queries((10**8, 10**8))
