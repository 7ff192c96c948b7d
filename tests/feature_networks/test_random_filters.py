"""Random features: equal on all machines, fast, and able to distinguish good samples from bad ones."""

from __future__ import annotations

import gzip

import numpy as np
import pytest
import torch
from PIL import Image, ImageFilter

from inrflow_core.errors import UsageError
from inrflow_core.feature_networks import random_filters

FILTERS = (-0.11217774450778961, 0.05491110682487488, -0.055807940661907196)
VALUES = (0.19841688871383667, 0.34224024415016174, 0.0, 63.9393777246587)


def features(images: np.ndarray) -> np.ndarray:
    return random_filters.load()(images, ("all",), "v1")["all"].numpy().astype(np.float64)


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


def test_weights_and_features_are_what_they_were_when_v2_was_named():
    filters = random_filters.RandomFilters()
    first = filters.get_buffer("first_0").flatten()[:3]
    torch.testing.assert_close(first, torch.tensor(FILTERS), rtol=1e-6, atol=0)
    ramp = (np.arange(16 * 16 * 3) % 256).astype(np.uint8).reshape(1, 16, 16, 3)
    values = features(ramp)[0]
    np.testing.assert_allclose(
        [values[0], values[100], values[511], np.abs(values).sum()], VALUES, rtol=1e-4, atol=1e-6
    )


def test_an_image_has_the_same_features_in_any_company():
    images = some(70, 24)
    together = features(images)
    np.testing.assert_allclose(together[3:4], features(images[3:4]), atol=1e-6)
    np.testing.assert_allclose(together[31:36], features(images[31:36]), atol=1e-6)
    assert together.shape == (70, sum(random_filters.OUTPUTS.values()))


def test_gray_is_its_repetition():
    gray = some(2, 28, 1)
    np.testing.assert_allclose(features(gray), features(np.repeat(gray, 3, axis=3)), atol=1e-6)


@pytest.mark.parametrize("side", [8, 9, 28, 100])
def test_flat_images_vary_nowhere_and_are_distinguished_by_their_brightness(side: int):
    dark, light = (features(np.full((1, side, side, 3), level, dtype=np.uint8)) for level in (40, 200))
    deviations = np.concatenate([np.arange(start + 32, start + 64) for start in range(0, 512, 128)])
    assert max(np.abs(features_of_level[:, deviations]).max() for features_of_level in (dark, light)) < 1e-5
    assert np.square(dark - light).sum() > 1


def test_negatives_and_other_brightness_are_far():
    ramps = np.linspace(0, 120, 24 * 24).reshape(1, 24, 24, 1) + np.random.default_rng(0).normal(0, 9, (90, 24, 24, 1))
    images = ramps.clip(0, 127).astype(np.uint8)
    here, there = features(images[::2]), images[1::2]
    near = frechet(here, features(there))
    assert frechet(here, features(255 - there)) > 20 * near
    assert frechet(here, features(there + 60)) > 20 * near


def test_images_too_small_or_of_other_channels_are_refused():
    with pytest.raises(UsageError, match="7 x 7 are too small"):
        features(some(1, 7))
    with pytest.raises(UsageError, match="4 channels"):
        features(some(1, 16, 4))
    with pytest.raises(UsageError, match="no preprocessing `v2`"):
        random_filters.load()(some(1, 16), ("all",), "v2")
    with pytest.raises(UsageError, match="no output `pool`"):
        random_filters.load()(some(1, 16), ("pool",), "v1")


@pytest.mark.slow
def test_halves_are_near_and_noise_and_blur_are_further_the_more_there_is(digits: np.ndarray):
    here, there = digits[::2], digits[1::2]
    one = features(here)
    halves = frechet(one, features(there))
    generator = np.random.default_rng(0)

    def noisy(deviation: float) -> np.ndarray:
        return (there + generator.normal(0, deviation, there.shape)).clip(0, 255).astype(np.uint8)

    def blurred(radius: float) -> np.ndarray:
        smoothed = [Image.fromarray(image[:, :, 0]).filter(ImageFilter.GaussianBlur(radius)) for image in there]
        return np.stack([np.asarray(image)[:, :, None] for image in smoothed])

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
