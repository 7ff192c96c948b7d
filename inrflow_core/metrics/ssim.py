"""Structural similarity (Wang et al. 2004, IEEE TIP 13(4), equation 13), mean over pixels, channels and images.

A Gaussian window of 11 x 11 pixels with deviation 1.5, K1 = 0.01, K2 = 0.03 and range 255, each channel by itself;
variances are weighted means, not corrected for the window's size. Two protocols differ at the border: `inside` uses
pixels whose window is wholly in the image, as the original and scikit-image with `gaussian_weights=True, sigma=1.5,
use_sample_covariance=False`; `mirrored` uses all pixels of the image mirrored at its edges, as torchmetrics (1.9), which
changes the value by some thousandths, more for smaller images.
"""

from __future__ import annotations

import numpy as np
from jaxtyping import Float64

from inrflow_core.metrics import _image_pairs
from inrflow_core.metrics._image_pairs import ImagePairSpec, Pairs, checked, means_without_each
from inrflow_core.metrics._inputs import by_name
from inrflow_core.metrics._ssim import ssim_of_each

TITLE = "SSIM"
DOMAIN = "image"
PROTOCOLS = ("inside", "mirrored")
HIGHER_IS_BETTER = True
MIN_ITEMS = _image_pairs.MIN_ITEMS


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
    return float(ssim_of_each(checked(inputs), protocol).mean())


def item_values(inputs: Pairs, protocol: str) -> dict[str, float]:
    """Of each image by its name; raises as `compute`."""
    return by_name(inputs.names, ssim_of_each(checked(inputs), protocol))


def jackknife_values(inputs: Pairs, protocol: str, parts: int) -> Float64[np.ndarray, " P"]:
    """The mean without each group, at the cost of one."""
    return means_without_each(ssim_of_each(checked(inputs), protocol), parts)
