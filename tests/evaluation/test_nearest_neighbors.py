"""The nearest training items: an item finds itself, batches do not matter, brute force agrees."""

from __future__ import annotations

import gzip
from collections.abc import Iterator

import numpy as np
import pytest

from inrflow_core.errors import UsageError
from inrflow_core.evaluation import nearest_neighbors


def noise_images(count: int, side: int = 12, channels: int = 3, seed: int = 0) -> np.ndarray:
    return np.random.default_rng(seed).integers(0, 256, (count, side, side, channels), dtype=np.uint8)


def balls(count: int, size: int = 64, seed: int = 0) -> np.ndarray:
    """Noisy clouds, each stretched its own way."""
    rng = np.random.default_rng(seed)
    return (rng.normal(size=(count, size, 3)) * rng.uniform(0.3, 2, size=(count, 1, 3))).astype(np.float32)


def batches(values: np.ndarray, size: int) -> Iterator[tuple[np.ndarray, np.ndarray]]:
    for start in range(0, len(values), size):
        yield np.arange(start, min(start + size, len(values)), dtype=np.int64), values[start : start + size]


def rms(a: np.ndarray, b: np.ndarray) -> np.ndarray:
    """All pairs by the definition, in whole numbers."""
    squares = (a[:, None].astype(np.int64) - b[None].astype(np.int64)) ** 2
    return np.sqrt(squares.reshape(len(a), len(b), -1).mean(2))


def chamfer(a: np.ndarray, b: np.ndarray) -> float:
    squares = ((a[:, None].astype(np.float64) - b[None].astype(np.float64)) ** 2).sum(-1)
    return float(squares.min(1).mean() + squares.min(0).mean())


@pytest.mark.parametrize(
    "find", [nearest_neighbors.nearest_images, nearest_neighbors.nearest_clouds], ids=["images", "clouds"]
)
def test_a_training_item_finds_itself_at_distance_0(find) -> None:
    training = noise_images(50) if find is nearest_neighbors.nearest_images else balls(50)
    nearest = find(training[[3, 17, 42]], batches(training, 8), 2)
    np.testing.assert_array_equal(nearest.indices[:, 0], [3, 17, 42])
    np.testing.assert_array_equal(nearest.distances[:, 0], 0.0)
    assert (nearest.distances[:, 1] > 0).all()


@pytest.mark.parametrize(
    "find", [nearest_neighbors.nearest_images, nearest_neighbors.nearest_clouds], ids=["images", "clouds"]
)
def test_distances_ascend_and_batches_do_not_change_the_answer(find) -> None:
    make = noise_images if find is nearest_neighbors.nearest_images else balls
    samples, training = make(7, seed=1), make(40)
    whole = find(samples, batches(training, 40), 5)
    assert (np.diff(whole.distances) >= 0).all()
    for size in (1, 3, 16):
        parts = find(samples, batches(training, size), 5)
        np.testing.assert_array_equal(parts.indices, whole.indices)
        np.testing.assert_array_equal(parts.distances, whole.distances)


@pytest.mark.parametrize("channels", [1, 3, 4])
def test_images_agree_with_brute_force(channels: int, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(nearest_neighbors, "ROWS", 4)
    samples, training = noise_images(9, channels=channels, seed=1), noise_images(60, channels=channels)
    nearest = nearest_neighbors.nearest_images(samples, batches(training, 16), 6)
    every = rms(samples, training)
    np.testing.assert_array_equal(nearest.indices, np.argsort(every, axis=1)[:, :6])
    np.testing.assert_allclose(nearest.distances, np.sort(every, axis=1)[:, :6], rtol=1e-12)


def test_large_images_that_differ_in_one_gray_level_keep_their_order() -> None:
    """Single precision alone cannot tell these from one another: squared lengths are 3e9, the distances 0 to 7."""
    base = np.full((1, 256, 256, 3), 250, dtype=np.uint8)
    training = base.repeat(8, 0)
    for index in range(8):
        training[index].reshape(-1)[: 7 - index] -= 1
    for size in (3, 8):
        nearest = nearest_neighbors.nearest_images(base, batches(training, size), 2)
        np.testing.assert_array_equal(nearest.indices, [[7, 6]])
        np.testing.assert_allclose(nearest.distances[0] ** 2 * base.size, [0, 1], rtol=1e-12, atol=1e-12)


def test_equally_near_items_keep_their_order_in_the_training_set() -> None:
    training = noise_images(2)[[0, 1, 0, 1, 0]]
    for size in (1, 2, 5):
        nearest = nearest_neighbors.nearest_images(training[:1], batches(training, size), 3)
        np.testing.assert_array_equal(nearest.indices, [[0, 2, 4]])


def test_clouds_agree_with_brute_force() -> None:
    samples, training = balls(6, seed=1), balls(30)
    nearest = nearest_neighbors.nearest_clouds(samples, batches(training, 7), 4)
    every = np.array([[chamfer(a, b) for b in training] for a in samples])
    np.testing.assert_array_equal(nearest.indices, np.argsort(every, axis=1)[:, :4])
    np.testing.assert_allclose(nearest.distances, np.sort(every, axis=1)[:, :4], rtol=1e-6)


def test_a_thinned_cloud_still_finds_itself_and_colors_are_no_coordinates() -> None:
    training = balls(20, size=256)
    training = np.concatenate([training, np.random.default_rng(2).normal(size=training.shape)], axis=2).astype("f4")
    nearest = nearest_neighbors.nearest_clouds(training[[4, 9], ..., :3], batches(training, 6), 1, points=48)
    np.testing.assert_array_equal(nearest.indices, [[4], [9]])
    np.testing.assert_array_equal(nearest.distances, 0.0)


def test_fewer_training_items_than_requested_are_all_returned() -> None:
    nearest = nearest_neighbors.nearest_images(noise_images(2, seed=1), batches(noise_images(3), 2), 5)
    assert nearest.indices.shape == nearest.distances.shape == (2, 3)
    np.testing.assert_array_equal(np.sort(nearest.indices, axis=1), [[0, 1, 2]] * 2)


def test_images_of_another_size_or_mode_are_refused() -> None:
    with pytest.raises(UsageError, match="samples are 12 x 12 x 3, training images 12 x 12 x 1"):
        nearest_neighbors.nearest_images(noise_images(2), batches(noise_images(3, channels=1), 2), 1)


def test_copies_of_real_digits_are_detected(real_data) -> None:
    raw = gzip.decompress(real_data("images/mnist_idx/t10k-images-idx3-ubyte.gz").read_bytes())
    digits = np.frombuffer(raw, np.uint8, offset=16).reshape(-1, 28, 28, 1)
    training, samples = digits[:3000], digits[3000:3200].copy()
    samples[:50] = np.clip(training[100:150].astype(np.int16) + 2, 0, 255).astype(np.uint8)
    nearest = nearest_neighbors.nearest_images(samples, batches(training, 512), 1)
    np.testing.assert_array_equal(nearest.indices[:50, 0], np.arange(100, 150))
    assert nearest.distances[:50].max() <= 2 < 10 < nearest.distances[50:].min()
