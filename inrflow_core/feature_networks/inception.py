"""Inception-v3 as the Frechet inception distance uses it: the TensorFlow graph of 2015-12-05, 1008 classes.

It differs from later Inception-v3s: 3 x 3 average pooling excludes the padding, the last block uses max pooling, and
pixels are (x - 128) / 128. Convolutions have the names of the graph.

    pool     2048  `pool_3`, the mean over the last 8 x 8 positions
    spatial  2023  the first 7 channels of `mixed_6/conv` after its ReLU, 17 x 17 x 7 in the order row, column, channel
                   (OpenAI's evaluator; torch-fidelity's and torchvision's name for that convolution is
                   Mixed_6d.branch1x1)
    logits   1008  without the bias, as in every public evaluator of the Inception Score

Source: Szegedy et al. 2015, arXiv:1512.00567; the graph; Heusel et al. 2017, arXiv:1706.08500.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from functools import partial
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
SIZE = 299
SPATIAL = "mixed_6/conv"
SPATIAL_CHANNELS = 7
OUTPUTS = {"pool": 2048, "spatial": 17 * 17 * SPATIAL_CHANNELS, "logits": 1008}
PREPROCESSING = ("clean", "torch-fidelity", "adm")

NVIDIA, FIDELITY, GRAPH = (
    "inception-2015-12-05.pt",
    "pt_inception-2015-12-05-6726825d.pth",
    "classify_image_graph_def.pb",
)
WEIGHTS = Weights(
    "inception",
    (
        PublishedWeights(
            NVIDIA,
            95_607_719,
            "f58cb9b6ec323ed63459aa4fb441fe750cfe39fafad6da5cb504a16f19e958f4",
            "NVIDIA, with the metrics of StyleGAN2-ADA",
            "https://github.com/NVlabs/stylegan2-ada-pytorch",
            "Apache-2.0 (the network); the program around it: Nvidia Source Code License, not commercial",
            runs_code=True,
        ),
        PublishedWeights(
            FIDELITY,
            95_628_359,
            "6726825d0af5f729cebd5821db510b11b1cfad8faad88a03f1befd49fb9129b2",
            "pytorch-fid's release `fid_weights`; torch-fidelity publishes the same bytes as weights-inception-...",
            "https://github.com/mseitzer/pytorch-fid/releases/tag/fid_weights",
            "Apache-2.0",
        ),
        PublishedWeights(
            GRAPH,
            95_673_916,
            None,
            "Google's inception-2015-12-05.tgz, and OpenAI with guided-diffusion",
            "https://github.com/openai/guided-diffusion/tree/main/evaluations",
            "Apache-2.0 (the network)",
        ),
    ),
)
FILES = {"clean": NVIDIA, "torch-fidelity": FIDELITY, "adm": GRAPH}
"""The published weights of each preprocessing's original program."""
RESIZERS = {
    "clean": partial(_resize.clean_bicubic, size=SIZE),
    # Both originals resize inside the network, by the same rule.
    "torch-fidelity": partial(_resize.tensorflow_bilinear, size=SIZE),
    "adm": partial(_resize.tensorflow_bilinear, size=SIZE),
}
EPSILON = 1e-3


@dataclass(frozen=True)
class Conv:
    """A convolution without bias, batch normalization and ReLU."""

    name: str
    channels: int
    kernel: tuple[int, int] = (1, 1)
    stride: int = 1
    is_padded: bool = True
    """Padding keeps the number of rows and columns at stride 1."""


@dataclass(frozen=True)
class Fork:
    """Convolutions of the same input, concatenated."""

    ways: tuple[Conv, ...]


AVERAGE, LARGEST, HALVE = "average", "largest", "halve"
"""Pooling over 3 x 3: average without the padding and maximum, at stride 1; maximum at stride 2 without padding."""

Step = Conv | Fork | str
Branch = tuple[Step, ...]


def _chain(tower: str, *steps: tuple[int, tuple[int, int]] | tuple[int, tuple[int, int], int]) -> Branch:
    """Convolutions one after another, numbered as TensorFlow does: conv, conv_1, conv_2; stride 2 has no padding."""
    return tuple(
        Conv(f"{tower}/conv" + (f"_{number}" if number else ""), step[0], step[1], *step[2:], is_padded=len(step) == 2)
        for number, step in enumerate(steps)
    )


ONE, THREE, FIVE, ROW, COLUMN = (1, 1), (3, 3), (5, 5), (1, 7), (7, 1)


def _block_35(pooled: int) -> tuple[Branch, ...]:
    return (
        (Conv("conv", 64),),
        _chain("tower", (48, ONE), (64, FIVE)),
        _chain("tower_1", (64, ONE), (96, THREE), (96, THREE)),
        (AVERAGE, *_chain("tower_2", (pooled, ONE))),
    )


def _block_17(inner: int) -> tuple[Branch, ...]:
    return (
        (Conv("conv", 192),),
        _chain("tower", (inner, ONE), (inner, ROW), (192, COLUMN)),
        _chain("tower_1", (inner, ONE), (inner, COLUMN), (inner, ROW), (inner, COLUMN), (192, ROW)),
        (AVERAGE, *_chain("tower_2", (192, ONE))),
    )


def _block_8(pool: str) -> tuple[Branch, ...]:
    forks = [
        Fork((Conv(f"{tower}/mixed/conv", 384, (1, 3)), Conv(f"{tower}/mixed/conv_1", 384, (3, 1))))
        for tower in ("tower", "tower_1")
    ]
    return (
        (Conv("conv", 320),),
        (*_chain("tower", (384, ONE)), forks[0]),
        (*_chain("tower_1", (448, ONE), (384, THREE)), forks[1]),
        (pool, *_chain("tower_2", (192, ONE))),
    )


STEM: Branch = (
    Conv("conv", 32, THREE, 2, is_padded=False),
    Conv("conv_1", 32, THREE, is_padded=False),
    Conv("conv_2", 64, THREE),
    HALVE,
    Conv("conv_3", 80),
    Conv("conv_4", 192, THREE, is_padded=False),
    HALVE,
)
BLOCKS: dict[str, tuple[Branch, ...]] = {
    "mixed": _block_35(32),
    "mixed_1": _block_35(64),
    "mixed_2": _block_35(64),
    "mixed_3": (
        (Conv("conv", 384, THREE, 2, is_padded=False),),
        _chain("tower", (64, ONE), (96, THREE), (96, THREE, 2)),
        (HALVE,),
    ),
    "mixed_4": _block_17(128),
    "mixed_5": _block_17(160),
    "mixed_6": _block_17(160),
    "mixed_7": _block_17(192),
    "mixed_8": (
        _chain("tower", (192, ONE), (320, THREE, 2)),
        _chain("tower_1", (192, ONE), (192, ROW), (192, COLUMN), (192, THREE, 2)),
        (HALVE,),
    ),
    "mixed_9": _block_8(AVERAGE),
    "mixed_10": _block_8(LARGEST),
}


def load(path: Path, device: str | torch.device = "cpu") -> Extractor:
    """The network with the weights of a file.

    Raises:
        IntegrityError: see `_weights_file.load_state`.
    """
    network = Inception()
    loaded = _weights_file.load_state(network, WEIGHTS, path, device)
    return Extractor(network, OUTPUTS, RESIZERS, FILES, torch.device(device), loaded)


class Convolution(nn.Module):
    """Convolution, batch normalization with fixed statistics, ReLU."""

    mean: Tensor
    variance: Tensor

    def __init__(self, inputs: int, conv: Conv) -> None:
        super().__init__()
        self.conv = conv
        self.weight = nn.Parameter(torch.empty(conv.channels, inputs, *conv.kernel))
        self.gamma = nn.Parameter(torch.empty(conv.channels))
        self.beta = nn.Parameter(torch.empty(conv.channels))
        self.register_buffer("mean", torch.empty(conv.channels))
        self.register_buffer("variance", torch.empty(conv.channels))

    def forward(self, x: Float[Tensor, "B I h w"]) -> Float[Tensor, "B O h2 w2"]:
        padding = tuple(side // 2 if self.conv.is_padded else 0 for side in self.conv.kernel)
        x = F.conv2d(x, self.weight, stride=self.conv.stride, padding=padding)
        x = F.batch_norm(x, self.mean, self.variance, self.gamma, self.beta, eps=EPSILON)
        return F.relu_(x)


class Inception(nn.Module):
    """The graph; its convolutions are in one dictionary by name, such as `mixed_9/tower/mixed/conv_1`."""

    def __init__(self) -> None:
        super().__init__()
        self.convolutions = nn.ModuleDict()
        channels = self._add("", STEM, 3)
        for name, branches in BLOCKS.items():
            channels = sum(self._add(f"{name}/", branch, channels) for branch in branches)
        self.classes = nn.Linear(channels, OUTPUTS["logits"])

    def _add(self, scope: str, branch: Branch, channels: int) -> int:
        """Add a branch's convolutions; return its number of output channels."""
        for step in branch:
            if isinstance(step, Conv):
                self.convolutions[scope + step.name] = Convolution(channels, step)
                channels = step.channels
            elif isinstance(step, Fork):
                channels = sum(self._add(scope, (way,), channels) for way in step.ways)
        return channels

    def forward(self, pixels: Float[Tensor, "B 3 299 299"], outputs: Sequence[str]) -> dict[str, Tensor]:
        """Outputs by name; layers beyond the last requested one are not computed."""
        features: dict[str, Tensor] = {}
        x = self._follow("", STEM, (pixels - 128) / 128)
        for name, branches in BLOCKS.items():
            if SPATIAL.startswith(f"{name}/") and "spatial" in outputs:
                rows = self.convolutions[SPATIAL](x)[:, :SPATIAL_CHANNELS]
                features["spatial"] = rows.movedim(1, -1).flatten(1)
                if len(outputs) == 1:
                    return features
            x = torch.cat([self._follow(f"{name}/", branch, x) for branch in branches], dim=1)
        features["pool"] = x.mean(dim=(2, 3))
        if "logits" in outputs:
            features["logits"] = features["pool"] @ self.classes.weight.T
        return features

    def _follow(self, scope: str, branch: Branch, x: Tensor) -> Tensor:
        for step in branch:
            if isinstance(step, Conv):
                x = self.convolutions[scope + step.name](x)
            elif isinstance(step, Fork):
                x = torch.cat([self.convolutions[scope + way.name](x) for way in step.ways], dim=1)
            elif step == AVERAGE:
                x = F.avg_pool2d(x, 3, stride=1, padding=1, count_include_pad=False)
            else:
                stride, padding = (2, 0) if step == HALVE else (1, 1)
                x = F.max_pool2d(x, 3, stride=stride, padding=padding)
        return x
