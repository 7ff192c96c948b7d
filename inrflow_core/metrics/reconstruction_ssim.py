"""SSIM of held-out images that a model encodes by one call and evaluates again; `reconstruction_psnr` says how, `ssim` what."""

from __future__ import annotations

import numpy as np
from jaxtyping import Float64

from inrflow_core.metrics import _image_pairs
from inrflow_core.metrics._image_pairs import ImagePairSpec, Pairs, checked, means_without_each
from inrflow_core.metrics._inputs import by_name
from inrflow_core.metrics._ssim import ssim_of_each

TITLE = "reconstruction SSIM"
DOMAIN = "image"
PROTOCOLS = ("held-out:inside", "held-out:mirrored")
HIGHER_IS_BETTER = True
MIN_ITEMS = _image_pairs.MIN_ITEMS


def unit(protocol: str) -> str:
    """None: 1 for equal images, -1 at the worst."""
    return ""


def inputs(protocol: str) -> ImagePairSpec:
    """Reconstructions and their originals."""
    return ImagePairSpec(are_reconstructions=True)


def compute(inputs: Pairs, protocol: str) -> float:
    """The mean over images.

    Raises:
        UsageError: images are smaller than the window, or as `_image_pairs.checked`.
    """
    return float(_per_image(inputs, protocol).mean())


def item_values(inputs: Pairs, protocol: str) -> dict[str, float]:
    """Of each image by its name; raises as `compute`."""
    return by_name(inputs.names, _per_image(inputs, protocol))


def jackknife_values(inputs: Pairs, protocol: str, parts: int) -> Float64[np.ndarray, " P"]:
    """The mean without each group, at the cost of one."""
    return means_without_each(_per_image(inputs, protocol), parts)


def _per_image(inputs: Pairs, protocol: str) -> Float64[np.ndarray, " N"]:
    return ssim_of_each(checked(inputs), protocol.rpartition(":")[2])
