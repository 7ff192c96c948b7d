"""Features of fixed random space-time filters, for machines without weights of a network of videos.

Two layers of 3D convolutions with fixed random weights, at three scales of the clip (each half the one before, in time and in
space). The features are mean and deviation of the first layer over the clip, and means of the second over each of eight parts,
halves of time, rows and columns. Clips are not resized: distances are between clips of one size and length.

    all  192  32 + 32 of each scale

Every detail here determines the numbers; a change is another preprocessing (`v2`). As in `random`, filters keep their mean and
the sign of their outputs.
"""

from __future__ import annotations

from pathlib import Path

import torch
import torch.nn.functional as F
from jaxtyping import Float
from torch import Tensor, nn

from inrflow_core.errors import UsageError
from inrflow_core.feature_networks._video_features import ClipExtractor
from inrflow_core.feature_networks._weights_file import Weights, seeded_normal_weights

KIND = "extractor"
DOMAIN = "video"
OUTPUTS = {"all": 192}
PREPROCESSING = ("v1",)
WEIGHTS: Weights | None = None

SCALES = 3
FIRST, SECOND = 16, 4
"""Filters of the two layers at a scale."""
KERNELS = ((3, 5, 5), (3, 3, 3))
MIN_FRAMES, MIN_SIDE = 4, 8
"""Frames and smallest side of a clip: the smallest scale of others is empty."""
CHUNK = 8
"""Clips in a batch of the network: limits memory."""


def load(path: Path | None = None, device: str | torch.device = "cpu") -> ClipExtractor:
    """The network, which has no weights file."""
    network = SpaceTimeFilters().to(device).eval().requires_grad_(False)
    return ClipExtractor({"v1": network}, OUTPUTS, CHUNK, torch.device(device), {})


class SpaceTimeFilters(nn.Module):
    """The filters of each scale."""

    def __init__(self) -> None:
        super().__init__()
        for scale in range(SCALES):
            first = seeded_normal_weights(f"space-time features first {scale}", (FIRST, 3, *KERNELS[0]))
            second = seeded_normal_weights(f"space-time features second {scale}", (SECOND, FIRST, *KERNELS[1]))
            self.register_buffer(f"first_{scale}", first)
            self.register_buffer(f"second_{scale}", second)

    def forward(self, pixels: Float[Tensor, "B 3 T H W"]) -> dict[str, Float[Tensor, "B 192"]]:
        """The one output; raises UsageError for clips of too few frames or pixels."""
        frames, rows, columns = pixels.shape[2:]
        if frames < MIN_FRAMES or min(rows, columns) < MIN_SIDE:
            raise UsageError(
                f"clips of {frames} frames of {rows} x {columns} pixels are too small for random space-time features",
                hint=f"at least {MIN_FRAMES} frames of {MIN_SIDE} x {MIN_SIDE} pixels are needed",
            )
        x, statistics = pixels / 127.5 - 1, []
        for scale in range(SCALES):
            if scale:
                x = F.avg_pool3d(x, 2)
            y = F.relu(_same(x, self.get_buffer(f"first_{scale}")))
            z = F.relu(_same(y[:, :, :, ::2, ::2], self.get_buffer(f"second_{scale}")))
            parts = F.adaptive_avg_pool3d(z, 2).flatten(1)
            statistics += [y.mean(dim=(2, 3, 4)), y.std(dim=(2, 3, 4), correction=0), parts]
        return {"all": torch.cat(statistics, dim=1)}


def _same(x: Float[Tensor, "B I t h w"], weight: Float[Tensor, "O I l k k"]) -> Float[Tensor, "B O t h w"]:
    """Convolution with replicated edges, so that a constant clip remains constant."""
    length, side = weight.shape[2] // 2, weight.shape[-1] // 2
    return F.conv3d(F.pad(x, (side,) * 4 + (length,) * 2, mode="replicate"), weight)
