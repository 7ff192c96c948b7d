"""Random features: the same everywhere, cheap, and telling good samples from bad."""

from __future__ import annotations

import gzip
import time

import numpy as np
import pytest
import torch
from PIL import Image, ImageFilter

from inrflow_core.errors import UsageError
from inrflow_core.features import random

FILTERS = (-0.05595602095127106, 0.11113283038139343, 0.00041378289461135864)
VALUES = (0.19402293860912323, 0.07438120990991592, 0.0, 82.72223906868021)


def features(images: np.ndarray) -> np.ndarray:
    return random.load()(images, ("all",), "v1")["all"].numpy().astype(np.float64)


def frechet(a: np.ndarray, b: np.ndarray) -> float:
    """The Frechet distance of two Gaussians with these rows' moments, by symmetric roots."""
    gap, (s, t) = a.mean(0) - b.mean(0), (np.cov(rows.T) for rows in (a, b))
    values, vectors = np.linalg.eigh(s)
    root = (vectors * np.sqrt(values.clip(0))) @ vectors.T
    cross = np.sqrt(np.linalg.eigvalsh(root @ t @ root).clip(0)).sum()
    return float(gap @ gap + np.trace(s) + np.trace(t) - 2 * cross)


@pytest.fixture(scope="module")
def digits(real_data) -> np.ndarray:
    """Test digits, 4,000 of them."""
    packed = next(real_data("images/mnist_idx").glob("t10k-images*"))
    raw = gzip.decompress(packed.read_bytes()) if packed.suffix == ".gz" else packed.read_bytes()
    return np.frombuffer(raw, np.uint8, offset=16).reshape(-1, 28, 28, 1)[:4000]


def some(count: int, side: int, channels: int = 3) -> np.ndarray:
    return np.random.default_rng(0).integers(0, 256, (count, side, side, channels), dtype=np.uint8)


def test_weights_and_features_are_what_they_were_when_v1_was_named():
    filters = random.RandomFilters()
    first = filters.get_buffer("first_0").flatten()[:3]
    torch.testing.assert_close(first, torch.tensor(FILTERS), rtol=1e-6, atol=0)
    ramp = (np.arange(16 * 16 * 3) % 256).astype(np.uint8).reshape(1, 16, 16, 3)
    found = features(ramp)[0]
    np.testing.assert_allclose([found[0], found[100], found[511], np.abs(found).sum()], VALUES, rtol=1e-4, atol=1e-6)


def test_a_picture_has_the_same_features_in_any_company():
    images = some(70, 24)
    together = features(images)
    np.testing.assert_allclose(together[3:4], features(images[3:4]), atol=1e-6)
    np.testing.assert_allclose(together[31:36], features(images[31:36]), atol=1e-6)
    assert together.shape == (70, sum(random.OUTPUTS.values()))


def test_grey_is_its_repetition():
    grey = some(2, 28, 1)
    np.testing.assert_allclose(features(grey), features(np.repeat(grey, 3, axis=3)), atol=1e-6)


@pytest.mark.parametrize("side", [8, 9, 28, 100])
def test_flat_pictures_have_no_features(side: int):
    flat = np.full((1, side, side, 3), 200, dtype=np.uint8)
    assert np.abs(features(flat)).max() < 1e-5


def test_pictures_too_small_or_of_other_channels_are_refused():
    with pytest.raises(UsageError, match="7 x 7 are too small"):
        features(some(1, 7))
    with pytest.raises(UsageError, match="4 channels"):
        features(some(1, 16, 4))
    with pytest.raises(UsageError, match="no form `v2`"):
        random.load()(some(1, 16), ("all",), "v2")
    with pytest.raises(UsageError, match="no output `pool`"):
        random.load()(some(1, 16), ("pool",), "v1")


@pytest.mark.slow
def test_halves_are_near_and_noise_and_blur_are_further_the_more_there_is(digits: np.ndarray):
    here, there = digits[::2], digits[1::2]
    one = features(here)
    halves = frechet(one, features(there))
    generator = np.random.default_rng(0)

    def noisy(deviation: float) -> np.ndarray:
        return (there + generator.normal(0, deviation, there.shape)).clip(0, 255).astype(np.uint8)

    def blurred(radius: float) -> np.ndarray:
        pictures = [Image.fromarray(image[:, :, 0]).filter(ImageFilter.GaussianBlur(radius)) for image in there]
        return np.stack([np.asarray(picture)[:, :, None] for picture in pictures])

    def mixed(share: float) -> np.ndarray:
        out = there.copy()
        count = int(share * len(out))
        out[:count] = generator.integers(0, 256, out[:count].shape, dtype=np.uint8)
        return out

    for worse, amounts in (
        (noisy, (8, 16, 32, 64, 128)),
        (blurred, (0.5, 1, 1.5, 2, 3)),
        (mixed, (0.05, 0.1, 0.25, 0.5)),
    ):
        distances = [frechet(one, features(worse(amount))) for amount in amounts]
        assert distances == sorted(distances), worse.__name__
        assert distances[0] > 1.3 * halves and distances[-1] > 50 * halves, (worse.__name__, halves, distances)


@pytest.mark.slow
def test_five_hundred_pictures_a_second_on_one_thread():
    for count, side, channels in ((512, 28, 1), (256, 64, 3)):
        images = some(count, side, channels)
        features(images)
        start = time.process_time()
        features(images)
        assert count / (time.process_time() - start) > 250, side  # half of what was measured, for slower machines
