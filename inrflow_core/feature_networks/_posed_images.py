"""Images as tokens of a condition: what an embedder makes of each patch, joined with the ray through it.

INRFlow, appendix A.2: features of DINOv2 concatenated with the Pluecker numbers of each patch's ray.
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
    """Tokens of images taken by cameras (inrflow_core/geometry/cameras.py), row by row; S is the embedder's width and RAY.

    All on one device, which is the embedder's (embedders/__init__.py).
    """
    grid = embedder.grid(images.shape[1], images.shape[2])
    return torch.cat([embedder(images), pluecker_batch(cameras, *grid)], dim=-1).half()
