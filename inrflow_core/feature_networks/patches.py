"""Color patches as tokens: a placeholder for a pretrained network that needs no weights.

The image is resized to 64 x 64 pixels; the token of each of its 8 x 8 patches holds its 8 x 8 colors, in [-1, 1].
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

import torch
import torch.nn.functional as F
from einops import rearrange
from jaxtyping import Float32, UInt8
from torch import Tensor

KIND = "embedder"
DOMAIN = "image"
IS_PLACEHOLDER = True
ROWS = 8
"""Rows and columns of patches, and of pixels in each of them."""


def load(folder: Path | None, device: torch.device | str = "cpu") -> Patches:
    """The embedder, which has no weights."""
    assert folder is None, "a placeholder has no folder"
    return Patches()


@dataclass(frozen=True)
class Patches:
    """Colors of patches."""

    name: str = "patches"
    width: int = 3 * ROWS**2
    digest: str = "patches-1"

    def grid(self, rows: int, columns: int) -> tuple[int, int]:
        """The same for every image."""
        return ROWS, ROWS

    @torch.no_grad()
    def __call__(self, images: UInt8[Tensor, "B H W 3"]) -> Float32[Tensor, "B K S"]:
        """Tokens row by row; in a token, pixel by pixel, row by row, red, green and blue together."""
        pixels = images.movedim(-1, 1).float()
        if images.shape[1:3] != (ROWS**2, ROWS**2):
            pixels = F.interpolate(pixels, (ROWS**2, ROWS**2), mode="bilinear", antialias=True)
        return rearrange(pixels / 127.5 - 1, "b c (i p) (j q) -> b (i j) (p q c)", p=ROWS, q=ROWS)
