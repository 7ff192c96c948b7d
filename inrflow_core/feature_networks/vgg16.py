"""VGG16's second fully connected layer, the features of the first precision and recall.

    fc2  4096  after its ReLU: the output of NVIDIA's vgg16.pt with `return_features`

Preprocessing `stylegan`: resized to 224 x 224 as in TensorFlow 1, then normalized by ImageNet's means and deviations.
Torchvision's weights are the same network: torch-fidelity's tests compare its features with NVIDIA's to 1e-4. The last
layer, of classes, is omitted.

Source: Simonyan and Zisserman 2014, arXiv:1409.1556; Kynkaanniemi et al. 2019, arXiv:1904.06991.
"""

from __future__ import annotations

from collections.abc import Sequence
from functools import partial
from itertools import pairwise
from pathlib import Path

import torch
import torch.nn.functional as F
from jaxtyping import Float
from torch import Tensor, nn

from inrflow_core.feature_networks import _resize, _weights_file
from inrflow_core.feature_networks._image_features import Extractor
from inrflow_core.feature_networks._weights_file import PublishedWeights, Weights

KIND = "extractor"
DOMAIN = "image"
SIZE = 224
OUTPUTS = {"fc2": 4096}
PREPROCESSING = ("stylegan",)

NVIDIA, TORCHVISION = "vgg16.pt", "vgg16-397923af.pth"
WEIGHTS = Weights(
    "vgg16",
    (
        PublishedWeights(
            NVIDIA,
            None,
            "b437eb095feaeb0b83eb3fa11200ebca4548ee39a07fb944a417ddc516cc07c3",
            "NVIDIA, with the metrics of StyleGAN2-ADA",
            "https://github.com/NVlabs/stylegan2-ada-pytorch",
            "CC BY 4.0 (the network); the program around it: Nvidia Source Code License, not commercial",
            runs_code=True,
        ),
        PublishedWeights(
            TORCHVISION,
            553_433_881,
            "397923af8e79cdbb6a7127f12361acd7a2f83e06b05044ddf496e83de57a5bf0",
            "torchvision's VGG16, IMAGENET1K_V1",
            "https://docs.pytorch.org/vision/stable/models/vgg.html",
            "BSD-3-Clause (torchvision)",
        ),
    ),
)
FILES = {"stylegan": NVIDIA}
"""The published weights of each preprocessing's original program."""
RESIZERS = {"stylegan": partial(_resize.tensorflow_bilinear, size=SIZE)}

STAGES = (2, 2, 3, 3, 3)
"""Convolutions between two poolings."""
WIDTHS = (64, 128, 256, 512, 512)
HIDDEN = 4096
MEAN = (0.485, 0.456, 0.406)
DEVIATION = (0.229, 0.224, 0.225)
"""Mean and standard deviation of ImageNet's channels in [0, 1]."""


def load(path: Path, device: str | torch.device = "cpu") -> Extractor:
    """The network with the weights of a file.

    Raises:
        IntegrityError: see `_weights_file.load_state`.
    """
    network = VGG16()
    loaded = _weights_file.load_state(network, WEIGHTS, path, device)
    return Extractor(network, OUTPUTS, RESIZERS, FILES, torch.device(device), loaded)


class VGG16(nn.Module):
    """Thirteen convolutions of 3 x 3 in five stages, and two of the three fully connected layers."""

    def __init__(self) -> None:
        super().__init__()
        widths = [3, *(width for width, count in zip(WIDTHS, STAGES, strict=True) for _ in range(count))]
        self.convolutions = nn.ModuleList(nn.Conv2d(a, b, 3, padding=1) for a, b in pairwise(widths))
        self.fc1 = nn.Linear(WIDTHS[-1] * (SIZE // 32) ** 2, HIDDEN)
        self.fc2 = nn.Linear(HIDDEN, HIDDEN)

    def forward(self, pixels: Float[Tensor, "B 3 224 224"], outputs: Sequence[str]) -> dict[str, Float[Tensor, "B F"]]:
        """The one output."""
        mean, deviation = (255 * pixels.new_tensor(numbers).reshape(3, 1, 1) for numbers in (MEAN, DEVIATION))
        x = (pixels - mean) / deviation
        rest = iter(self.convolutions)
        for count in STAGES:
            for _ in range(count):
                x = F.relu_(next(rest)(x))
            x = F.max_pool2d(x, 2)
        x = F.relu_(self.fc1(x.flatten(1)))
        return {"fc2": F.relu_(self.fc2(x))}
