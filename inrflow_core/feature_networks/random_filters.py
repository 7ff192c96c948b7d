"""Features of fixed random filters, for machines without weights of a trained network.

Two layers of convolutions with weights drawn once and for all, at four scales of the image (each half the one
before). Of the first layer the mean and the deviation over the image are kept, of the second the mean over each
quarter, since what is where counts. No image is resized: a distance compares images of one size, and is comparable
to distances of these features alone, at the same size.

    all  512  64 + 64 of each scale

The numbers depend on every detail here; a change is another preprocessing (`v2`). Filters keep their mean and the sign of their
answers: without, digits and their negatives were at distance 0.
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import torch
import torch.nn.functional as F
from jaxtyping import Float, Float32
from torch import Tensor, nn

from inrflow_core.errors import UsageError
from inrflow_core.feature_networks import _resize
from inrflow_core.feature_networks._image_features import Extractor
from inrflow_core.feature_networks._weights_file import Weights
from inrflow_core.numerics import noise_field

KIND = "extractor"
DOMAIN = "image"
OUTPUTS = {"all": 512}
PREPROCESSING = ("v1",)
WEIGHTS: Weights | None = None

SCALES = 4
FIRST, SECOND = 32, 16
"""Filters of the two layers at a scale."""
KERNELS = (5, 3)
LEAST = 8
"""Pixels that a side must have: of fewer, the smallest scale has nothing left."""
SEED = 20151205


def load(path: Path | None = None, device: str | torch.device = "cpu") -> Extractor:
    """The network; there is no file to read."""
    network = RandomFilters().to(device).eval().requires_grad_(False)
    return Extractor(network, OUTPUTS, {"v1": _resize.no_resize}, {}, torch.device(device))


class RandomFilters(nn.Module):
    """The filters of each scale."""

    def __init__(self) -> None:
        super().__init__()
        for scale in range(SCALES):
            first = drawn(f"features first {scale}", (FIRST, 3, KERNELS[0], KERNELS[0]))
            second = drawn(f"features second {scale}", (SECOND, FIRST, KERNELS[1], KERNELS[1]))
            self.register_buffer(f"first_{scale}", first)
            self.register_buffer(f"second_{scale}", second)

    def forward(self, pixels: Float[Tensor, "B 3 H W"], outputs: Sequence[str]) -> dict[str, Float[Tensor, "B 512"]]:
        """The one output; raises UsageError where a side has fewer than `LEAST` pixels."""
        if min(pixels.shape[2:]) < LEAST:
            raise UsageError(
                f"images of {pixels.shape[2]} x {pixels.shape[3]} are too small for random features",
                hint=f"they need {LEAST} x {LEAST} at least",
            )
        x, found = pixels / 127.5 - 1, []
        for scale in range(SCALES):
            if scale:
                x = F.avg_pool2d(x, 2)
            found += self._statistics(x, scale)
        return {"all": torch.cat(found, dim=1)}

    def _statistics(self, x: Float[Tensor, "B 3 h w"], scale: int) -> list[Float[Tensor, "B F"]]:
        first, second = self.get_buffer(f"first_{scale}"), self.get_buffer(f"second_{scale}")
        y = F.relu(_same(x, first))
        z = F.relu(_same(y[:, :, ::2, ::2], second))
        return [y.mean(dim=(2, 3)), y.std(dim=(2, 3), correction=0), F.adaptive_avg_pool2d(z, 2).flatten(1)]


def drawn(purpose: str, shape: tuple[int, ...]) -> Float32[Tensor, ...]:
    """Normals of deviation 1 / sqrt(inputs), the same to the bit on every machine."""
    count, inputs = shape[0], torch.Size(shape[1:]).numel()
    ids = torch.arange(count * inputs)
    return noise_field.normal(torch.tensor([SEED]), ids, purpose=purpose, channels=1).reshape(shape) * inputs**-0.5


def _same(x: Float[Tensor, "B I h w"], weight: Float[Tensor, "O I k k"]) -> Float[Tensor, "B O h w"]:
    """Convolution whose edge pixels go on beyond the edge, so that a flat image stays flat."""
    side = weight.shape[-1] // 2
    return F.conv2d(F.pad(x, (side,) * 4, mode="replicate"), weight)
