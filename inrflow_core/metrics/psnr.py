"""Peak signal-to-noise ratio: 10 log10(255^2 / mean squared difference), all channels together, mean over images.

The value of equal images is infinite, which makes every mean infinite. They count as if one number differed by one
level, the smallest difference of 8-bit images: 48.13 dB + 10 log10(H W C), which is 101 dB at 256 x 256 RGB.
"""

from __future__ import annotations

import numpy as np
from jaxtyping import Float64

from inrflow_core.domains._contract import squared_differences
from inrflow_core.metrics import _image_pairs
from inrflow_core.metrics._image_pairs import (
    ImagePairSpec,
    Pairs,
    checked,
    means_without_each,
    psnr_by_name,
    psnr_of_each,
)

TITLE = "PSNR"
DOMAIN = "image"
PROTOCOLS = ("rgb",)
HIGHER_IS_BETTER = True
MIN_ITEMS = _image_pairs.MIN_ITEMS
item_values = psnr_by_name


def unit(protocol: str) -> str:
    """Decibels."""
    return "dB"


def inputs(protocol: str) -> ImagePairSpec:
    """Images and their references."""
    return ImagePairSpec()


def compute(inputs: Pairs, protocol: str) -> float:
    """The mean over images; raises UsageError as `_image_pairs.checked`."""
    return float(psnr_of_each(checked(inputs)).mean())


def jackknife_values(inputs: Pairs, protocol: str, parts: int) -> Float64[np.ndarray, " P"]:
    """The mean without each group, at the cost of one."""
    return means_without_each(psnr_of_each(checked(inputs)), parts)


def remark(inputs: Pairs, protocol: str) -> str | None:
    """How many pairs are equal: their value is a bound and not measured."""
    squares = squared_differences(inputs.samples, inputs.reference)
    count = int((squares == 0).sum())
    if count == 0:
        return None
    bound = 10 * np.log10(255**2 * inputs.samples[0].size)
    return f"{count:,} of {len(squares):,} pairs are equal to the bit: counted as {bound:.1f} dB, one number off by one level"
