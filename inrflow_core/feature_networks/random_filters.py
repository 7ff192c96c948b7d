"""Features of fixed random filters, for machines without weights of a trained network.

Two layers of convolutions with fixed random weights, at four scales of the image (each half the one before). The
features are mean and deviation of the first layer over the image, and means of the second over each quarter, which
depend on the layout. Images are not resized: distances are between images of one size, and compare only with distances
of these features at that size.

    all  512  64 + 64 of each scale

Every detail here determines the numbers; a change is another preprocessing (`v2`). Filters keep their mean and the sign
of their outputs: otherwise digits and their negatives would have a distance of 0.
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import torch
import torch.nn.functional as F
from jaxtyping import Float
from torch import Tensor, nn

from inrflow_core.errors import UsageError
from inrflow_core.feature_networks import _resize
from inrflow_core.feature_networks._image_features import Extractor
from inrflow_core.feature_networks._weights_file import Weights, seeded_normal_weights

KIND = "extractor"
DOMAIN = "image"
OUTPUTS = {"all": 512}
PREPROCESSING = ("v1",)
WEIGHTS: Weights | None = None

SCALES = 4
FIRST, SECOND = 32, 16
"""Filters of the two layers at a scale."""
KERNELS = (5, 3)
MIN_SIDE = 8
"""Smallest side of an image, in pixels: the smallest scale of smaller images is empty."""


def load(path: Path | None = None, device: str | torch.device = "cpu") -> Extractor:
    """The network, which has no weights file."""
    network = RandomFilters().to(device).eval().requires_grad_(False)
    return Extractor(network, OUTPUTS, {"v1": _resize.no_resize}, {}, torch.device(device))


class RandomFilters(nn.Module):
    """The filters of each scale."""

    def __init__(self) -> None:
        super().__init__()
        for scale in range(SCALES):
            first = seeded_normal_weights(f"features first {scale}", (FIRST, 3, KERNELS[0], KERNELS[0]))
            second = seeded_normal_weights(f"features second {scale}", (SECOND, FIRST, KERNELS[1], KERNELS[1]))
            self.register_buffer(f"first_{scale}", first)
            self.register_buffer(f"second_{scale}", second)

    def forward(self, pixels: Float[Tensor, "B 3 H W"], outputs: Sequence[str]) -> dict[str, Float[Tensor, "B 512"]]:
        """The one output; raises UsageError for a side of fewer than `MIN_SIDE` pixels."""
        if min(pixels.shape[2:]) < MIN_SIDE:
            raise UsageError(
                f"images of {pixels.shape[2]} x {pixels.shape[3]} are too small for random features",
                hint=f"at least {MIN_SIDE} x {MIN_SIDE} pixels are needed",
            )
        x, statistics = pixels / 127.5 - 1, []
        for scale in range(SCALES):
            if scale:
                x = F.avg_pool2d(x, 2)
            statistics += self._statistics(x, scale)
        return {"all": torch.cat(statistics, dim=1)}

    def _statistics(self, x: Float[Tensor, "B 3 h w"], scale: int) -> list[Float[Tensor, "B F"]]:
        first, second = self.get_buffer(f"first_{scale}"), self.get_buffer(f"second_{scale}")
        y = F.relu(_same(x, first))
        z = F.relu(_same(y[:, :, ::2, ::2], second))
        return [y.mean(dim=(2, 3)), y.std(dim=(2, 3), correction=0), F.adaptive_avg_pool2d(z, 2).flatten(1)]


def _same(x: Float[Tensor, "B I h w"], weight: Float[Tensor, "O I k k"]) -> Float[Tensor, "B O h w"]:
    """Convolution with replicated edge pixels, so that a constant image remains constant."""
    side = weight.shape[-1] // 2
    return F.conv2d(F.pad(x, (side,) * 4, mode="replicate"), weight)
