"""I3D, Inception-v1 with its filters inflated to three dimensions, of the Frechet video distance: RGB, Kinetics-400.

    logits  400  before the softmax, the mean over time

The network is the module i3d-kinetics-400 of TensorFlow Hub: padding `SAME`, ReLU after batch normalization with fixed
statistics. Each preprocessing is that of one program, with 16 frames of 224 x 224 pixels in [-1, 1]:

    stylegan-v  frames stretched to 224 x 224
    pvdm        the shorter side to 224, then a center crop; 1e-5 is added to the variances of batch normalization, as in VideoGPT's
                and PVDM's copy of the network, where TensorFlow and StyleGAN-V add 1e-3

Both resize by bilinear interpolation without antialiasing or rounding. Clips of other than 16 frames are refused.

Source: Carreira and Zisserman 2017, arXiv:1705.07750, figure 3; Unterthiner et al. 2018, arXiv:1812.01717; the programs of
StyleGAN-V (arXiv:2112.14683), VideoGPT (arXiv:2104.10157) and PVDM (arXiv:2302.07685).
"""

from __future__ import annotations

import math
from functools import partial
from pathlib import Path

import torch
import torch.nn.functional as F
from jaxtyping import Float
from torch import Tensor, nn

from inrflow_core.errors import UsageError
from inrflow_core.feature_networks import _weights_file
from inrflow_core.feature_networks._video_features import ClipExtractor
from inrflow_core.feature_networks._weights_file import PublishedWeights, Weights

KIND = "extractor"
DOMAIN = "video"
OUTPUTS = {"logits": 400}
PREPROCESSING = ("stylegan-v", "pvdm")
FRAMES = 16
"""Frames of a clip."""
SIZE = 224
"""Rows and columns of a frame of the network."""

TORCHSCRIPT, STATE_DICT = "i3d_torchscript.pt", "i3d_pretrained_400.pt"
WEIGHTS = Weights(
    "i3d",
    (
        PublishedWeights(
            TORCHSCRIPT,
            51_235_320,
            "bec6519f66ea534e953026b4ae2c65553c17bf105611c746d904657e5860a5e2",
            "StyleGAN-V, with its metrics",
            "https://github.com/universome/stylegan-v",
            "Apache-2.0 (DeepMind's network); of this file unknown",
            runs_code=True,
        ),
        PublishedWeights(
            STATE_DICT,
            None,
            None,
            "VideoGPT, used by PVDM and TATS",
            "https://github.com/wilson1yan/VideoGPT",
            "MIT (VideoGPT); DeepMind's network: Apache-2.0",
        ),
    ),
)
FILES = {"stylegan-v": TORCHSCRIPT, "pvdm": STATE_DICT}
"""The published weights of each preprocessing's original program."""
EPSILON = {"stylegan-v": 1e-3, "pvdm": 1e-5}
"""Added to the variances of batch normalization."""

STEM = {"1a": (64, 7, 2), "2b": (64, 1, 1), "2c": (192, 3, 1)}
"""Output channels, side of the filter and stride of the convolutions before the blocks."""
BLOCKS = {
    "3b": (64, 96, 128, 16, 32, 32),
    "3c": (128, 128, 192, 32, 96, 64),
    "4b": (192, 96, 208, 16, 48, 64),
    "4c": (160, 112, 224, 24, 64, 64),
    "4d": (128, 128, 256, 24, 64, 64),
    "4e": (112, 144, 288, 32, 64, 64),
    "4f": (256, 160, 320, 32, 128, 128),
    "5b": (256, 160, 320, 32, 128, 128),
    "5c": (384, 192, 384, 48, 128, 128),
}
"""Output channels of the six convolutions of a block."""
POOLINGS = {
    "2b": ((1, 3, 3), (1, 2, 2)),
    "3b": ((1, 3, 3), (1, 2, 2)),
    "4b": ((3, 3, 3), (2, 2, 2)),
    "5b": ((2, 2, 2), (2, 2, 2)),
}
"""Kernel and stride of the maximum before a layer: frames, rows, columns."""
CHUNK = 4
"""Clips in a batch of the network: limits memory."""

Sides = tuple[int, int, int]


def load(path: Path, device: str | torch.device = "cpu") -> ClipExtractor:
    """The network with the weights of a file.

    Raises:
        IntegrityError: see `_weights_file.load_state`.
    """
    network = I3D()
    loaded = _weights_file.load_state(network, WEIGHTS, path, device)
    features = {name: partial(logits, network, preprocessing=name) for name in PREPROCESSING}
    return ClipExtractor(features, OUTPUTS, CHUNK, torch.device(device), FILES, loaded)


def logits(network: I3D, pixels: Float[Tensor, "B 3 T H W"], preprocessing: str) -> dict[str, Float[Tensor, "B 400"]]:
    """The output of clips in [0, 255]; raises UsageError for clips of other than `FRAMES` frames."""
    frames = pixels.shape[2]
    if frames != FRAMES:
        raise UsageError(
            f"clips have {frames} frames, and features of I3D are of {FRAMES}",
            hint=f"prepare clips of {FRAMES} frames, and sample as many with `--frames {FRAMES}`",
        )
    resize = stretch if preprocessing == "stylegan-v" else crop_center
    return {"logits": network(resize(pixels / 127.5 - 1), EPSILON[preprocessing])}


def stretch(clips: Float[Tensor, "B 3 T H W"]) -> Float[Tensor, "B 3 T 224 224"]:
    """Frames resized to `SIZE` x `SIZE`, whatever their shape."""
    return _bilinear(clips, SIZE, SIZE)


def crop_center(clips: Float[Tensor, "B 3 T H W"]) -> Float[Tensor, "B 3 T 224 224"]:
    """Frames whose shorter side is resized to `SIZE`, and the center of the longer, which is rounded up."""
    height, width = clips.shape[3:]
    scale = SIZE / min(height, width)
    # As PVDM computes it: of square frames the rows are rounded up too, to 225 where rounding makes the product too large.
    rows = SIZE if height < width else math.ceil(height * scale)
    columns = math.ceil(width * scale) if height < width else SIZE
    top, left = (rows - SIZE) // 2, (columns - SIZE) // 2
    return _bilinear(clips, rows, columns)[..., top : top + SIZE, left : left + SIZE]


def _bilinear(clips: Float[Tensor, "B 3 T H W"], rows: int, columns: int) -> Float[Tensor, "B 3 T rows columns"]:
    """Each frame by bilinear interpolation of pixel centers, without antialiasing."""
    frames = clips.movedim(2, 1).flatten(0, 1)
    resized = F.interpolate(frames, (rows, columns), mode="bilinear", align_corners=False)
    return resized.unflatten(0, (clips.shape[0], clips.shape[2])).movedim(1, 2)


def same_padding(x: Float[Tensor, "B C t h w"], kernel: Sides, stride: Sides) -> Float[Tensor, "B C t2 h2 w2"]:
    """Zeros around `x` so that a filter has ceil(side / stride) outputs along each axis; an odd one is at the end.

    TensorFlow's `SAME`; a maximum of numbers that are not negative is the same with zeros as without padding.
    """
    padding: list[int] = []
    for side, extent, step in reversed(list(zip(x.shape[2:], kernel, stride, strict=True))):
        total = max((math.ceil(side / step) - 1) * step + extent - side, 0)
        padding += [total // 2, total - total // 2]
    return F.pad(x, padding) if any(padding) else x


class Convolution(nn.Module):
    """Convolution without bias, padded as `SAME`, batch normalization with fixed statistics, ReLU."""

    mean: Tensor
    variance: Tensor

    def __init__(self, inputs: int, channels: int, side: int, stride: int = 1) -> None:
        super().__init__()
        self.stride = stride
        self.weight = nn.Parameter(torch.empty(channels, inputs, side, side, side))
        self.gamma = nn.Parameter(torch.empty(channels))
        self.beta = nn.Parameter(torch.empty(channels))
        self.register_buffer("mean", torch.empty(channels))
        self.register_buffer("variance", torch.empty(channels))

    def forward(self, x: Float[Tensor, "B I t h w"], epsilon: float) -> Float[Tensor, "B O t2 h2 w2"]:
        side, stride = self.weight.shape[2], self.stride
        padded = same_padding(x, (side, side, side), (stride, stride, stride))
        x = F.conv3d(padded, self.weight, stride=stride)
        return F.relu_(F.batch_norm(x, self.mean, self.variance, self.gamma, self.beta, eps=epsilon))


class Block(nn.Module):
    """Four branches of the same input, concatenated: 1, 1 then 3, 1 then 3, and a maximum over 3 then 1."""

    def __init__(self, inputs: int, widths: tuple[int, int, int, int, int, int]) -> None:
        super().__init__()
        self.b0 = Convolution(inputs, widths[0], 1)
        self.b1a, self.b1b = Convolution(inputs, widths[1], 1), Convolution(widths[1], widths[2], 3)
        self.b2a, self.b2b = Convolution(inputs, widths[3], 1), Convolution(widths[3], widths[4], 3)
        self.b3 = Convolution(inputs, widths[5], 1)

    def forward(self, x: Float[Tensor, "B I t h w"], epsilon: float) -> Float[Tensor, "B O t h w"]:
        branches = (
            self.b0(x, epsilon),
            self.b1b(self.b1a(x, epsilon), epsilon),
            self.b2b(self.b2a(x, epsilon), epsilon),
            self.b3(largest(x, (3, 3, 3), (1, 1, 1)), epsilon),
        )
        return torch.cat(branches, dim=1)


def largest(x: Float[Tensor, "B C t h w"], kernel: Sides, stride: Sides) -> Float[Tensor, "B C t2 h2 w2"]:
    """Maximum pooling, padded as `SAME`, of numbers that are not negative."""
    return F.max_pool3d(same_padding(x, kernel, stride), kernel, stride)


class I3D(nn.Module):
    """The network; layers have the numbers of TensorFlow's scopes, such as `Conv3d_2c_3x3` and `Mixed_4f`."""

    def __init__(self) -> None:
        super().__init__()
        self.stem, self.blocks = nn.ModuleDict(), nn.ModuleDict()
        channels = 3
        for name, (width, side, stride) in STEM.items():
            self.stem[name] = Convolution(channels, width, side, stride)
            channels = width
        for name, widths in BLOCKS.items():
            self.blocks[name] = Block(channels, widths)
            channels = widths[0] + widths[2] + widths[4] + widths[5]
        self.classes = nn.Linear(channels, OUTPUTS["logits"])

    def forward(self, clips: Float[Tensor, "B 3 T 224 224"], epsilon: float) -> Float[Tensor, "B 400"]:
        """Logits of clips in [-1, 1] of at least 9 frames; `epsilon` is added to the variances."""
        x = clips
        for name, layer in (*self.stem.items(), *self.blocks.items()):
            if name in POOLINGS:
                x = largest(x, *POOLINGS[name])
            x = layer(x, epsilon)
        # The mean over time of the original's logits is that of their inputs: the last layer is linear.
        return self.classes(F.avg_pool3d(x, (2, 7, 7), stride=1).mean(dim=(2, 3, 4)))
