"""Structural similarity (Wang et al. 2004, IEEE TIP 13(4), equation 13), mean over pixels, channels and images.

A Gaussian window of 11 x 11 pixels with deviation 1.5, K1 = 0.01, K2 = 0.03 and range 255, each channel by itself;
variances are weighted means, not corrected for the window's size. Two protocols differ at the border: `inside` uses
pixels whose window is wholly in the image, as the original and scikit-image with `gaussian_weights=True, sigma=1.5,
use_sample_covariance=False`; `mirrored` uses all pixels of the image mirrored at its edges, as torchmetrics (1.9), which
changes the value by some thousandths, more for smaller images.
"""

from __future__ import annotations

import numpy as np
from jaxtyping import Float64, UInt8
from scipy.ndimage import correlate1d

from inrflow_core.errors import UsageError
from inrflow_core.metrics._image_pairs import ImagePairSpec, Pairs, checked, means_without_each

TITLE = "SSIM"
DOMAIN = "image"
PROTOCOLS = ("inside", "mirrored")
HIGHER_IS_BETTER = True
RADIUS = 5
DEVIATION = 1.5
C1, C2 = (0.01 * 255) ** 2, (0.03 * 255) ** 2


def unit(protocol: str) -> str:
    """None: 1 for equal images, -1 at the worst."""
    return ""


def inputs(protocol: str) -> ImagePairSpec:
    """Images and their references."""
    return ImagePairSpec()


def compute(inputs: Pairs, protocol: str) -> float:
    """The mean over images.

    Raises:
        UsageError: images are smaller than the window, or as `_image_pairs.checked`.
    """
    return float(per_image(checked(inputs), protocol).mean())


def jackknife_values(inputs: Pairs, protocol: str, parts: int) -> Float64[np.ndarray, " P"]:
    """The mean without each group, at the cost of one."""
    return means_without_each(per_image(checked(inputs), protocol), parts)


def per_image(pairs: Pairs, protocol: str) -> Float64[np.ndarray, " N"]:
    """The value of each image."""
    height, width = pairs.samples.shape[1:3]
    if min(height, width) < 2 * RADIUS + 1:
        raise UsageError(
            f"images of {height} x {width} are smaller than the window of SSIM",
            hint=f"it needs {2 * RADIUS + 1} pixels each way; PSNR takes any size",
        )
    margin = RADIUS if protocol == "inside" else 0
    pixels = np.s_[margin : height - margin, margin : width - margin]
    return np.array([_similarities(*pair)[pixels].mean() for pair in zip(pairs.samples, pairs.reference, strict=True)])


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
