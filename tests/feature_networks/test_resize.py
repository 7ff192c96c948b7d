"""Resizers against first principles: TensorFlow's index formula by loops, Pillow itself, closed forms."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from PIL import Image

from inrflow_core.feature_networks import _resize

SHAPES = [(28, 28, 1), (64, 48, 3), (320, 300, 3), (8, 8, 3)]


def some(shape: tuple[int, int, int], count: int = 2, seed: int = 0) -> np.ndarray:
    return np.random.default_rng(seed).integers(0, 256, (count, *shape), dtype=np.uint8)


@pytest.mark.parametrize("shape", SHAPES, ids=str)
def test_tensorflows_bilinear_is_its_index_formula(shape: tuple[int, int, int]):
    image, size = some(shape, 1)[0].astype(np.float64), 37
    height, width = shape[:2]
    expected = np.empty((size, size, shape[2]))
    for row in range(size):
        for column in range(size):
            # Positions are float32 in TensorFlow, which moves a value by up to 0.006 levels here.
            y, x = np.float32(row) * np.float32(height / size), np.float32(column) * np.float32(width / size)
            top, left = int(y), int(x)
            bottom, right = min(top + 1, height - 1), min(left + 1, width - 1)
            upper = image[top, left] + (image[top, right] - image[top, left]) * (x - left)
            lower = image[bottom, left] + (image[bottom, right] - image[bottom, left]) * (x - left)
            expected[row, column] = upper + (lower - upper) * (y - top)
    resized = _resize.tensorflow_bilinear(some(shape, 1), size)[0].movedim(0, -1)
    torch.testing.assert_close(resized.double(), torch.from_numpy(expected), rtol=0, atol=1e-4)


def test_tensorflows_bilinear_has_no_half_pixel_shift():
    ramp = np.broadcast_to(np.arange(0, 200, 2, dtype=np.uint8)[None, :, None], (100, 100, 1))[None].copy()
    resized = _resize.tensorflow_bilinear(ramp, 400)[0, 0, 0]
    torch.testing.assert_close(resized[:397], torch.arange(397) * 0.5)
    assert (resized[397:] == 198).all()


@pytest.mark.parametrize("shape", SHAPES, ids=str)
def test_clean_is_pillows_bicubic_of_each_channel_in_floats_clipped(shape: tuple[int, int, int]):
    images = some(shape)
    resized = _resize.clean_bicubic(images, 299)
    for image, planes in zip(images, resized, strict=True):
        for channel in range(shape[2]):
            plane = Image.fromarray(image[:, :, channel].astype(np.float32), mode="F")
            expected = np.asarray(plane.resize((299, 299), Image.Resampling.BICUBIC)).clip(0, 255)
            assert np.array_equal(planes[channel].numpy(), expected)
    assert resized.min() >= 0 and resized.max() <= 255 and (resized != resized.round()).any()


def test_clean_antialiases_and_tensorflow_does_not():
    board = (np.indices((598, 598)).sum(0) % 2 * 255).astype(np.uint8)[None, :, :, None]
    clean, tensorflow = _resize.clean_bicubic(board, 299), _resize.tensorflow_bilinear(board, 299)
    assert clean.std() < 1 and abs(float(clean.mean()) - 127.5) < 1
    assert (tensorflow == 0).all()  # every second pixel, and those are black


@pytest.mark.parametrize("resize", [_resize.torch_bicubic, _resize.pillow_bicubic_crop])
def test_overshoot_is_clamped_and_never_wraps(resize):
    edge = np.zeros((1, 32, 32, 3), dtype=np.uint8)
    edge[:, :, 16:] = 255
    resized = resize(edge, 224)
    assert (resized[..., :107] <= 5).all() and (resized[..., 117:] >= 250).all()
    assert (resized == resized.round()).all()


@pytest.mark.parametrize("shape", [(64, 64, 3), (300, 300, 1)], ids=str)
def test_pillow_and_torch_agree_on_square_images_to_two_levels(shape: tuple[int, int, int]):
    images = some(shape) // 2 + 64  # Pillow clips between its two passes, torch only at the end
    difference = _resize.torch_bicubic(images, 224) - _resize.pillow_bicubic_crop(images, 224)
    assert difference.abs().max() <= 2


@pytest.mark.parametrize("shape", [(40, 100, 3), (100, 40, 1), (224, 448, 3)], ids=str)
def test_the_longer_side_is_cropped_to_its_middle(shape: tuple[int, int, int]):
    ramp = np.zeros((1, *shape), dtype=np.uint8)
    axis = int(shape[1] > shape[0]) + 1
    ramp += np.linspace(0, 255, shape[axis - 1]).astype(np.uint8).reshape([-1 if a == axis else 1 for a in range(4)])
    resized = _resize.pillow_bicubic_crop(ramp, 224)
    assert resized.shape == (1, shape[2], 224, 224)
    assert abs(float(resized.mean()) - 127) < 1.5
    share = min(shape[:2]) / max(shape[:2])
    assert abs(float(resized.max() - resized.min()) - 255 * share) < 6


@pytest.mark.parametrize(
    "resize",
    [_resize.tensorflow_bilinear, _resize.clean_bicubic, _resize.torch_bicubic, _resize.pillow_bicubic_crop],
)
def test_a_gray_image_is_resized_as_each_channel_of_its_repetition(resize):
    gray = some((50, 70, 1))
    repeated = resize(np.repeat(gray, 3, axis=3), 224)
    torch.testing.assert_close(resize(gray, 224).expand(-1, 3, -1, -1), repeated, rtol=0, atol=1e-4)
