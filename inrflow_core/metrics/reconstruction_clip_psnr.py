"""PSNR of held-out clips that a model encodes by one call and evaluates again at the training positions.

The split `test`, else `val`, of the reference's shards is encoded, evaluated without noise and rounded to 8 bits. The mean squared
difference of a clip is over all of its frames, so that a clip counts once; equal clips count as in `psnr`.
"""

from __future__ import annotations

import numpy as np
from jaxtyping import Float64

from inrflow_core.metrics import _image_pairs
from inrflow_core.metrics._image_pairs import (
    ImagePairSpec,
    Pairs,
    checked,
    means_without_each,
    psnr_by_name,
    psnr_of_each,
)

TITLE = "reconstruction PSNR of clips"
DOMAIN = "video"
PROTOCOLS = ("held-out:rgb",)
HIGHER_IS_BETTER = True
MIN_ITEMS = _image_pairs.MIN_ITEMS
item_values = psnr_by_name


def unit(protocol: str) -> str:
    """Decibels."""
    return "dB"


def inputs(protocol: str) -> ImagePairSpec:
    """Reconstructions and their originals."""
    return ImagePairSpec(are_reconstructions=True)


def compute(inputs: Pairs, protocol: str) -> float:
    """The mean over clips; raises UsageError as `_image_pairs.checked`."""
    return float(psnr_of_each(checked(inputs)).mean())


def jackknife_values(inputs: Pairs, protocol: str, parts: int) -> Float64[np.ndarray, " P"]:
    """The mean without each group, at the cost of one."""
    return means_without_each(psnr_of_each(checked(inputs)), parts)
