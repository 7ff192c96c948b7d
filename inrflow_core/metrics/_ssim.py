"""Structural similarity of single pairs of images, which `ssim` and the metrics of scenes average.

Source and protocols: `metrics/ssim.py`.
"""

from __future__ import annotations

import numpy as np
from jaxtyping import Float64, UInt8
from scipy.ndimage import correlate1d

from inrflow_core.errors import UsageError
from inrflow_core.metrics._image_pairs import Pairs

RADIUS = 5
DEVIATION = 1.5
C1, C2 = (0.01 * 255) ** 2, (0.03 * 255) ** 2
LEAST_SIDE = 2 * RADIUS + 1
"""Rows and columns that an image needs."""


def ssim_of_each(pairs: Pairs, protocol: str) -> Float64[np.ndarray, " N"]:
    """The value of each pair; raises UsageError for images smaller than the window."""
    height, width = pairs.samples.shape[1:3]
    if min(height, width) < LEAST_SIDE:
        raise UsageError(
            f"images of {height} x {width} are smaller than the window of SSIM",
            hint=f"it needs {LEAST_SIDE} pixels each way; PSNR takes any size",
        )
    margin = RADIUS if protocol == "inside" else 0
    pixels = np.s_[margin : height - margin, margin : width - margin]

    def measure() -> Float64[np.ndarray, " N"]:
        both = zip(pairs.samples, pairs.reference, strict=True)
        return np.array([_similarities(*pair)[pixels].mean() for pair in both])

    return pairs.each(f"ssim:{protocol}", measure)


def _similarities(x: UInt8[np.ndarray, "H W C"], y: UInt8[np.ndarray, "H W C"]) -> Float64[np.ndarray, "H W C"]:
    """The value around each pixel."""
    x, y = x.astype(np.float64), y.astype(np.float64)
    mean_x, mean_y = _local_mean(x), _local_mean(y)
    variances = _local_mean(x * x + y * y) - mean_x**2 - mean_y**2
    covariance = _local_mean(x * y) - mean_x * mean_y
    contrast = (2 * covariance + C2) / (variances + C2)
    return contrast * (2 * mean_x * mean_y + C1) / (mean_x**2 + mean_y**2 + C1)


def _local_mean(image: Float64[np.ndarray, "H W C"]) -> Float64[np.ndarray, "H W C"]:
    """The mean in the window around each pixel of the image, mirrored at its edges."""
    window = np.exp(-0.5 * (np.arange(-RADIUS, RADIUS + 1) / DEVIATION) ** 2)
    window /= window.sum()
    return correlate1d(correlate1d(image, window, axis=0, mode="mirror"), window, axis=1, mode="mirror")
