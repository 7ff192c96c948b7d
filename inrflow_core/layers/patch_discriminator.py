"""A convolutional network that says of each patch of an image how real it looks.

Source: the 70 x 70 PatchGAN of pix2pix (Isola et al. 2017, arXiv:1611.07004), as DDMI's release has it: three strided layers of
width 64, and beside the colors one channel filled with the scale. Its batch norms, which make the answer to one image depend on the
others, are group norms here.
"""

from __future__ import annotations

from itertools import pairwise

import torch
from jaxtyping import Float
from torch import Tensor, nn

from inrflow_core.layers.convolution import norm

SLOPE = 0.2
DEVIATION = 0.02
"""Of the initial weights."""
WIDEST = 8
"""The largest width in units of the first."""


class PatchDiscriminator(nn.Module):
    """Strided convolutions of 4 x 4, two that are not strided, and a logit for each patch."""

    PARTS = {"layers": "discriminator"}

    def __init__(self, channels: int, width: int, depth: int) -> None:
        super().__init__()
        self.depth = depth
        widths = [width * min(2**level, WIDEST) for level in range(depth + 1)]
        layers: list[nn.Module] = [nn.Conv2d(channels + 1, width, 4, 2, padding=1), nn.LeakyReLU(SLOPE)]
        for level, (before, after) in enumerate(pairwise(widths)):
            is_last = level + 1 == depth
            layers += [nn.Conv2d(before, after, 4, 1 if is_last else 2, padding=1, bias=False), norm(after, 1e-5)]
            layers.append(nn.LeakyReLU(SLOPE))
        self.layers = nn.Sequential(*layers, nn.Conv2d(widths[-1], 1, 4, padding=1))
        for layer in self.layers:
            if isinstance(layer, nn.Conv2d):
                nn.init.normal_(layer.weight, 0, DEVIATION)

    @property
    def least_side(self) -> int:
        """Rows and columns of an image, at least."""
        return 3 * 2**self.depth

    def forward(
        self, images: Float[Tensor, "B C H W"], scale: Float[Tensor, ""] | Float[Tensor, " B"]
    ) -> Float[Tensor, "B h w"]:
        """The logit of each patch, positive where it looks real; `scale` is a number of each image, such as its cell size."""
        filled = scale.to(images.dtype).view(-1, 1, 1, 1).expand(len(images), 1, *images.shape[2:])
        return self.layers(torch.cat([images, filled], 1))[:, 0]
