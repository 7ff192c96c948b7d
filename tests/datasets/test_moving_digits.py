"""Digits that move: every digit is there, the motion is a function of time, and it stays inside the frame."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from sklearn.datasets import load_digits

from inrflow_core.datasets import moving_digits
from inrflow_core.datasets.moving_digits import Config


def clips(count: int = 12, **settings) -> np.ndarray:
    """Evenly spaced training clips."""
    config = Config(**settings)
    items = moving_digits.scan(Path("nowhere"), config).splits["train"]
    return np.stack([moving_digits.read(item, config).values for item in items[:: len(items) // count][:count]])


def test_each_digit_has_its_clips_in_one_split_with_its_label_and_the_rate_is_recorded():
    plan = moving_digits.scan(Path("nowhere"), Config(frames=10, duration=2.5))
    assert {split: len(items) for split, items in plan.splits.items()} == {"train": 2996, "val": 598}
    assert plan.shape == (10, 32, 32, 3) and plan.normalization["fps"] == 4.0
    names = {split: {item.name.partition("-")[0] for item in items} for split, items in plan.splits.items()}
    assert not names["train"] & names["val"]
    labels = load_digits(return_X_y=True)[1]
    assert all(item.label == labels[int(item.name[:4])] for items in plan.splits.values() for item in items)


def test_twice_the_frames_hold_every_frame():
    np.testing.assert_array_equal(clips(frames=32)[:, ::2], clips())


def test_a_digit_moves_and_stays_inside_the_frame_with_all_of_its_light():
    found = clips(channels=1, frames=24).astype(float)[..., 0]
    light = found.sum((2, 3))
    assert (np.abs(light / light.mean(1, keepdims=True) - 1) < 0.02).all()
    rows = (found.sum(3) * np.arange(32)).sum(2) / light
    columns = (found.sum(2) * np.arange(32)).sum(2) / light
    steps = np.hypot(np.diff(rows), np.diff(columns))
    assert (steps.max(1) > 0.4 * 32 / 24 * 0.95).all() and steps.max() < 1.2 * 32 / 24 * 1.05
    fractions = rows % 1
    assert 0.2 < fractions.mean() < 0.8 and fractions.std() > 0.2  # between pixels, too


def test_a_color_scales_the_gray_clip_and_another_seed_moves_otherwise():
    gray, color = clips(channels=1).astype(float), clips().astype(float)
    share = color.max((1, 2, 3)) / gray.max((1, 2, 3))
    np.testing.assert_allclose(color, gray * share[:, None, None, None], atol=2)
    assert len(np.unique(share.round(2), axis=0)) > 6
    assert (clips(seed=1) != clips()).any((1, 2, 3, 4)).all()


@pytest.mark.parametrize(
    "settings", [{"channels": 2}, {"duration": 0.0}, {"clips": 0}, {"seed": -1}, {"seed": 2**63}, {"frames": 0}]
)
def test_a_setting_out_of_range_is_refused(settings: dict):
    with pytest.raises(ValueError, match=f"`{next(iter(settings))}` is"):
        Config(**settings)
