"""Random space-time features see the order of the frames, and do not change."""

from __future__ import annotations

import numpy as np
import pytest

from inrflow_core.errors import UsageError
from inrflow_core.feature_networks import random_space_time
from inrflow_core.metrics import _frechet, fvd
from inrflow_core.metrics._inputs import Features


def moving(count: int, speed: float, seed: int = 0, frames: int = 8, side: int = 16) -> np.ndarray:
    """Smooth waves that move to the right by `speed` pixels a frame, gray, each with its own phase and direction."""
    generator = np.random.default_rng(seed)
    t, y, x = np.mgrid[:frames, :side, :side].astype(float)
    phases, tilts = generator.uniform(0, 2 * np.pi, (2, count))
    waves = [
        np.sin(2 * np.pi * (x - speed * t + 3 * np.sin(tilt) * y / side) / 8 + phase)
        for phase, tilt in zip(phases, tilts, strict=True)
    ]
    return (127.5 * (1 + np.stack(waves))).round().astype(np.uint8)[..., None]


def features(clips: np.ndarray) -> np.ndarray:
    return random_space_time.load()(clips, ("all",), "v1")["all"].numpy()


def distance(one: np.ndarray, other: np.ndarray) -> float:
    return fvd.compute(Features(features(one), features(other)), "random")


def test_the_distance_tells_motion_that_no_single_frame_shows():
    slow = moving(60, 1.0)
    backwards = slow[:, ::-1].copy()
    shuffled = slow[:, np.random.default_rng(1).permutation(8)]
    same = distance(slow, moving(60, 1.0, seed=1))
    assert distance(slow, slow) < 1e-6
    for other in (backwards, shuffled, moving(60, 3.0)):
        assert distance(slow, other) > 5 * same
    frames = [clips.reshape(-1, *clips.shape[2:]) for clips in (slow, shuffled)]
    moments = [_frechet.gaussian(each.reshape(len(each), -1)[:, ::16].astype(np.float32)) for each in frames]
    assert _frechet.distance(*moments) == pytest.approx(0, abs=1e-2)


def test_features_do_not_depend_on_the_batch_and_gray_is_three_equal_channels():
    clips = moving(11, 1.0)
    together = features(clips)
    assert together.shape == (11, 192) and np.isfinite(together).all()
    np.testing.assert_allclose(together[9:], features(clips[9:]), atol=1e-5)
    np.testing.assert_allclose(together, features(np.repeat(clips, 3, axis=-1)), atol=1e-5)
    weights = random_space_time.SpaceTimeFilters().get_buffer("first_0")
    assert weights.std().item() == pytest.approx(225**-0.5, rel=0.05)
    assert weights.shape == (16, 3, 3, 5, 5)


def test_clips_that_are_too_small_and_unknown_names_are_refused():
    with pytest.raises(UsageError, match="clips of 3 frames of 16 x 16 pixels are too small"):
        features(moving(1, 1.0, frames=3))
    with pytest.raises(UsageError, match="there is no preprocessing `v2`"):
        random_space_time.load()(moving(1, 1.0), ("all",), "v2")
