"""Tokens of images with cameras: an embedder's token of each patch, concatenated with the ray through the patch.

INRFlow, appendix A.2: features of DINOv2 and the Pluecker coordinates of each patch's ray.
"""

from __future__ import annotations

from typing import Any

import torch
from jaxtyping import Float16, Float32, UInt8
from torch import Tensor

from inrflow_core.geometry.cameras import pluecker_batch


def tokens(
    embedder: Any, images: UInt8[Tensor, "V H W 3"], cameras: Float32[Tensor, "V 4 4"]
) -> Float16[Tensor, "V K S"]:
    """Tokens of images taken by cameras (inrflow_core/geometry/cameras.py), row by row; S is the embedder's width plus RAY.

    All are on the embedder's device.
    """
    grid = embedder.grid(images.shape[1], images.shape[2])
    return torch.cat([embedder(images), pluecker_batch(cameras, *grid)], dim=-1).half()
