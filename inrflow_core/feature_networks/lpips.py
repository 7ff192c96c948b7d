"""LPIPS, a learned distance of two images: weighted squared differences of VGG16's features after five of its layers.

Features after relu1_2, relu2_2, relu3_3, relu4_3 and relu5_3 are divided by their length at each position; the squared
differences are weighted for each channel, averaged over positions and added up over the layers.

Source: Zhang et al. 2018, arXiv:1801.03924, equation 1. Version 0.1 of their package `lpips` with `net="vgg"` has the same
answers. Where all channels are 0 its root has no derivative; here the gradient is 0.
"""

from __future__ import annotations

from collections.abc import Iterator
from itertools import pairwise
from pathlib import Path

import torch
import torch.nn.functional as F
from jaxtyping import Float
from torch import Tensor, nn

from inrflow_core.errors import IntegrityError
from inrflow_core.feature_networks import _weights_file
from inrflow_core.feature_networks._weights_file import PublishedWeights, Weights, WeightsProvenance

KIND = "distance"
DOMAIN = "image"
WEIGHTS = Weights(
    "lpips",
    (
        PublishedWeights(
            "vgg16-397923af.pth",
            553_433_881,
            "397923af8e79cdbb6a7127f12361acd7a2f83e06b05044ddf496e83de57a5bf0",
            "torchvision's VGG16, IMAGENET1K_V1",
            "https://docs.pytorch.org/vision/stable/models/vgg.html",
            "BSD-3-Clause (torchvision)",
        ),
    ),
    second=PublishedWeights(
        "vgg.pth",
        7289,
        "a78928a0af1e5f0fcb1f3b9e8f8c3a2a5a3de244d830ad5c1feddc79b8432868",
        "the weights of channels, in the folder `lpips/weights/v0.1` of the package lpips",
        "https://github.com/richzhang/PerceptualSimilarity",
        "BSD-2-Clause",
    ),
)

STAGES = (2, 2, 3, 3, 3)
"""Convolutions before each of the five layers, with a pooling between them."""
WIDTHS = (64, 128, 256, 512, 512)
SHIFT = (-0.030, -0.088, -0.188)
SCALE = (0.458, 0.448, 0.450)
"""What is subtracted from channels in [-1, 1], and what they are then divided by."""
EPSILON = 1e-10
"""Added to the length of features."""


class LPIPS(nn.Module):
    """The thirteen convolutions of VGG16 and the weights of its channels, frozen; without numbers until `load`."""

    least_side = 2 ** (len(STAGES) - 1)
    """Rows and columns of an image, at least: each pooling halves them."""

    def __init__(self) -> None:
        super().__init__()
        sizes = [3, *(width for width, count in zip(WIDTHS, STAGES, strict=True) for _ in range(count))]
        self.weights = nn.ParameterList(nn.Parameter(torch.empty(b, a, 3, 3), False) for a, b in pairwise(sizes))
        self.biases = nn.ParameterList(nn.Parameter(torch.empty(size), False) for size in sizes[1:])
        self.channels = nn.ParameterList(nn.Parameter(torch.empty(width), False) for width in WIDTHS)

    def load(self, path: Path) -> WeightsProvenance:
        """Take over the weights of a file.

        Raises:
            IntegrityError: see `_weights_file.load_state`; or a channel has a negative weight.
        """
        device = self.channels[0].device
        loaded = _weights_file.load_state(self, WEIGHTS, path, device)
        if any(bool((weights < 0).any()) for weights in self.channels):
            raise IntegrityError(
                f"`{path}` has negative weights of channels, which are no distance",
                hint=f"convert it again with `{WEIGHTS.command(WEIGHTS.published[0].file, path, again=True)}`",
            )
        return loaded

    def forward(self, images: Float[Tensor, "B 3 H W"], targets: Float[Tensor, "B 3 H W"]) -> Float[Tensor, " B"]:
        """The distance of each image to its target, 0 or more, of colors in [-1, 1]; gradients reach `images` alone."""
        with torch.no_grad():
            expected = list(self.features(targets))
        distance = images.new_zeros(len(images))
        for features, others, weights in zip(self.features(images), expected, self.channels, strict=True):
            squares = (features - others).square() * weights.view(-1, 1, 1)
            distance = distance + squares.sum(1).mean((1, 2))
        return distance

    def features(self, images: Float[Tensor, "B 3 H W"]) -> Iterator[Float[Tensor, "B F h w"]]:
        """Features of each of the five layers, of length 1 at each position."""
        shift, scale = (images.new_tensor(numbers).view(3, 1, 1) for numbers in (SHIFT, SCALE))
        x, rest = (images - shift) / scale, iter(zip(self.weights, self.biases, strict=True))
        for stage, count in enumerate(STAGES):
            x = F.max_pool2d(x, 2) if stage else x
            for _ in range(count):
                x = F.relu_(F.conv2d(x, *next(rest), padding=1))
            yield x / (torch.linalg.vector_norm(x, dim=1, keepdim=True) + EPSILON)


def load(path: Path, device: str | torch.device = "cpu") -> LPIPS:
    """The network with the weights of a file.

    Raises:
        IntegrityError: see `LPIPS.load`.
    """
    network = LPIPS().to(device)
    network.load(path)
    return network
