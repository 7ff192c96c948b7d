"""The digits that come with scikit-learn."""

from __future__ import annotations

from pathlib import Path

import numpy as np
from sklearn.datasets import load_digits

from inrflow_core.datasets import digits


def test_all_digits_are_there_once_scaled_to_bytes_with_every_class_held_out():
    plan = digits.scan(Path("nowhere"), digits.Config())
    assert {split: len(items) for split, items in plan.splits.items()} == {"train": 1498, "val": 299}
    items = sorted((item for part in plan.splits.values() for item in part), key=lambda item: item.name)
    images, labels = load_digits(return_X_y=True)
    assert [item.label for item in items] == labels.tolist()
    pixels = np.array([item.location for item in items]).reshape(-1, 64)
    np.testing.assert_array_equal(np.round(pixels / (255 / 16)), images)
    assert (pixels.min(), pixels.max()) == (0, 255)
    counts = np.bincount([item.label for item in plan.splits["val"]])
    assert len(counts) == 10 and counts.min() >= 20
