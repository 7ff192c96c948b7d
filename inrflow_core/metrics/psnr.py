"""Peak signal-to-noise ratio: 10 log10(255^2 / mean squared difference), all channels together, mean over images.

The value of equal images is infinite, which makes every mean infinite. They count as if one number differed by one
level, the smallest difference of 8-bit images: 48.13 dB + 10 log10(H W C), which is 101 dB at 256 x 256 RGB.
"""

from __future__ import annotations

import numpy as np
from jaxtyping import Float64

from inrflow_core.metrics._image_pairs import ImagePairSpec, Pairs, checked, means_without_each

TITLE = "PSNR"
DOMAIN = "image"
PROTOCOLS = ("rgb",)
HIGHER_IS_BETTER = True


def unit(protocol: str) -> str:
    """Decibels."""
    return "dB"


def inputs(protocol: str) -> ImagePairSpec:
    """Images and their references."""
    return ImagePairSpec()


def compute(inputs: Pairs, protocol: str) -> float:
    """The mean over images; raises UsageError as `_image_pairs.checked`."""
    return float(per_image(checked(inputs)).mean())


def jackknife_values(inputs: Pairs, protocol: str, parts: int) -> Float64[np.ndarray, " P"]:
    """The mean without each group, at the cost of one."""
    return means_without_each(per_image(checked(inputs)), parts)


def per_image(pairs: Pairs) -> Float64[np.ndarray, " N"]:
    """The value of each image."""
    squares = np.array(
        [
            np.square(sample.astype(np.int64) - reference).sum()
            for sample, reference in zip(pairs.samples, pairs.reference, strict=True)
        ]
    )
    return 10 * np.log10(255**2 * pairs.samples[0].size / np.maximum(squares, 1))
