"""Pictures as tokens of a condition: what an embedder makes of each patch, joined with the ray through it.

INRFlow, appendix A.2: features of DINOv2 concatenated with the Pluecker numbers of each patch's ray.
"""

from __future__ import annotations

from typing import Any

import torch
from jaxtyping import Float16, Float32, UInt8
from torch import Tensor

RAY = 6
"""Numbers of a ray that stand behind the embedder's in a token."""


def tokens(
    embedder: Any, images: UInt8[Tensor, "V H W 3"], cameras: Float32[Tensor, "V 4 4"]
) -> Float16[Tensor, "V K S"]:
    """Tokens of pictures taken by cameras (inrflow_core/cameras.py), row by row; S is the embedder's width and RAY.

    All on one device, which is the embedder's (embedders/__init__.py).
    """
    grid = embedder.grid(images.shape[1], images.shape[2])
    return torch.cat([embedder(images), pluecker(cameras, *grid)], dim=-1).half()


def pluecker(cameras: Float32[Tensor, "V 4 4"], rows: int, columns: int) -> Float32[Tensor, "V {rows}*{columns} 6"]:
    """As `cameras.pluecker`, for many cameras and on their device."""
    half = cameras.new_tensor(0.5)
    y, x = torch.meshgrid(
        (torch.arange(rows, device=cameras.device) + half) / rows,
        (torch.arange(columns, device=cameras.device) + half) / columns,
        indexing="ij",
    )
    seen = torch.stack([x.flatten(), y.flatten()], dim=-1)
    flat = (seen - cameras[:, 3:, 2:]) / cameras[:, 3:, :2]
    directions = torch.cat([flat, torch.ones_like(flat[..., :1])], dim=-1) @ cameras[:, :3, :3].mT
    directions = torch.nn.functional.normalize(directions, dim=-1)
    return torch.cat([directions, torch.linalg.cross(cameras[:, None, :3, 3], directions)], dim=-1)
