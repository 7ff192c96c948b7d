"""Rendered clouds: CPU seconds an image, against one offset from a ball's center after the other.

    python tests/benchmarks/rendering.py

One thread. Both forms take turns in this process on the same points; the least of the repeats counts, of CPU seconds.
That their pixels are equal to the bit is checked first.
"""

from __future__ import annotations

import os
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np

os.environ.setdefault("OMP_NUM_THREADS", "1")
sys.path.insert(0, str(Path(__file__).resolve().parents[2]))

from inrflow_core.visualization import point_rendering
from tests.visualization import splatting

REPEATS, SIZE = 5, 256


def seconds(call: Callable[..., Any], *arguments: Any) -> float:
    start = time.process_time()
    call(*arguments)
    return time.process_time() - start


def main() -> None:
    straightforward = splatting.one_offset_after_the_other
    print(f"{'points':>8} {'offsets, s':>11} {'ours, s':>8} {'ratio':>6}")
    for count in (16, 64, 256, 2048, 16_384, 128_000):
        points = np.random.default_rng(0).normal(size=(count, 3))
        placed = point_rendering.project_points(points, 2 * SIZE, azimuth=35.0, elevation=24.0)
        arguments = placed, 2 * SIZE, max(1.0, 0.52 * 2 * SIZE / count**0.5)
        for ours, theirs in zip(point_rendering.splat_balls(*arguments), straightforward(*arguments), strict=True):
            assert np.array_equal(ours, theirs)
        theirs, ours = (
            min(seconds(form, *arguments) for _ in range(REPEATS))
            for form in (straightforward, point_rendering.splat_balls)
        )
        print(f"{count:>8,} {theirs:>11.4f} {ours:>8.4f} {ours / theirs:>6.2f}")


if __name__ == "__main__":
    main()
