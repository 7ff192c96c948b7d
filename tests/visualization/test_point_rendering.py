"""Rendered clouds: every pixel shows the nearest ball."""

from __future__ import annotations

import numpy as np
import pytest

from inrflow_core.visualization import point_rendering
from tests.visualization import splatting


@pytest.mark.parametrize(("count", "radius"), [(1, 9.0), (7, 13.3), (64, 6.5), (500, 1.0), (40_000, 1.2)])
def test_many_balls_in_one_call_give_the_pixels_of_one_offset_after_the_other(count: int, radius: float):
    random = np.random.default_rng(count)
    placed = random.normal(32, 24, (count, 3))  # some lie outside of the image, some reach in
    placed[::2] = np.round(placed[::2])  # equally near ones: the last of them is seen
    ours = point_rendering.splat_balls(placed, 64, radius)
    for computed, expected in zip(ours, splatting.one_offset_after_the_other(placed, 64, radius), strict=True):
        np.testing.assert_array_equal(computed, expected)
