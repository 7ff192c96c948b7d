"""Peak signal-to-noise ratio: 10 log10(255^2 / mean squared difference), all channels together, mean over images.

Equal images would be infinite and make every mean so. They count as if one number of theirs were off by one level,
the nearest to equal that 8-bit images come: 48.13 dB + 10 log10(H W C), which is 101 dB at 256 x 256 RGB.
"""

from __future__ import annotations

import numpy as np
from jaxtyping import Float64

from inrflow_core.metrics._image_pairs import ImagePairSpec, Pairs, checked, means_without_each
from inrflow_core.metrics._inputs import MetricInputs

TITLE = "PSNR"
DOMAIN = "image"
PROTOCOLS = ("rgb",)
HIGHER_IS_BETTER = True


def unit(protocol: str) -> str:
    """Decibels."""
    return "dB"


def inputs(protocol: str) -> ImagePairSpec:
    """Images and what they should be."""
    return ImagePairSpec()


def compute(inputs: MetricInputs, protocol: str) -> float:
    """The mean over images; raises UsageError as `_image_pairs.checked`."""
    return float(per_image(checked(inputs)).mean())


def jackknife_values(inputs: MetricInputs, protocol: str, parts: int) -> Float64[np.ndarray, " P"]:
    """The mean without each part, at the price of one."""
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
