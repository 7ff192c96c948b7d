"""ULIP-2's encoder of clouds: PointBERT, whose embeddings are in the space of CLIP's images (clip_bigg.py).

    embedding  1280  the projection, not normalized

Inputs are 10,000 points of a cloud, with mean 0 and the farthest point at distance 1. 512 of them, by farthest point
sampling, each with its 32 nearest neighbors, are the tokens of 18 blocks of attention; the class token and the maximum
of the others are projected.

Preprocessing, by the colors of the points:
    gray    0.4 for all, as ULIP does for clouds without colors
    color  the cloud's own

Farthest point sampling starts with the first point, as in the extension that ULIP uses, which also skips points within
0.0316 of the mean (squared 1e-3).

Source: Xue et al. 2024, arXiv:2305.08275; Yu et al. 2022 (PointBERT), arXiv:2111.14819.
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import torch
import torch.nn.functional as F
from einops import rearrange
from jaxtyping import Float
from torch import Tensor, nn

from inrflow_core.errors import UsageError
from inrflow_core.feature_networks import _point_features, _weights_file
from inrflow_core.feature_networks._point_features import CloudExtractor, Layer
from inrflow_core.feature_networks._weights_file import PublishedWeights, Weights

KIND = "extractor"
DOMAIN = "points"
OUTPUTS = {"embedding": 1280}
PREPROCESSING = ("gray", "color")
POINTS = 10_000

ULIP2 = "ULIP-2-PointBERT-10k-xyzrgb-pc-vit_g-objaverse_shapenet-pretrained.pt"
PAGE, LICENSE = "https://huggingface.co/datasets/SFXX/ulip", "BSD-3-Clause (the code); of the weights unknown"
RENAMED = "ULIP-2-PointBERT-10k-colored-pc-pretrained.pt"
WEIGHTS = Weights(
    "ulip2",
    (
        PublishedWeights(
            ULIP2,
            None,
            "a4b5ed9799d5841a1646e0fb7d24cb8dcdd3b3e6fab2e2575de2531f71274adb",
            "Salesforce's ULIP-2, the data set SFXX/ulip, folder ULIP-2/pretrained_models",
            PAGE,
            LICENSE,
        ),
        PublishedWeights(RENAMED, None, None, "the same model under its first name", PAGE, LICENSE),
    ),
)
FILES = {"gray": ULIP2, "color": ULIP2}
"""The published weights of each preprocessing's original program."""

NUM_CENTERS, NUM_NEIGHBORS = 512, 32
WIDTH = 384
LAYERS = 18
HEADS = 6
GROUP_WIDTHS = (128, 256, 512, 256)
POSITION_WIDTH = 128
GRAY = 0.4
MIN_SQUARED_NORM = 1e-3


def load(path: Path, device: str | torch.device = "cpu") -> CloudExtractor:
    """The network with the weights of a file.

    Raises:
        IntegrityError: see `_weights_file.load_state`.
    """
    network = PointEncoder()
    loaded = _weights_file.load_state(network, WEIGHTS, path, device)
    preprocessors = {"gray": in_gray, "color": in_color}
    return CloudExtractor(network, OUTPUTS, preprocessors, FILES, POINTS, torch.device(device), loaded)


def in_gray(points: Float[Tensor, "B N C"]) -> Float[Tensor, "B N 6"]:
    """Positions, and gray for colors."""
    positions = _point_features.in_unit_ball(points[..., :3])
    return torch.cat([positions, torch.full_like(positions, GRAY)], dim=2)


def in_color(points: Float[Tensor, "B N C"]) -> Float[Tensor, "B N 6"]:
    """Positions and colors in [0, 1].

    Raises:
        UsageError: the clouds have no colors.
    """
    if points.shape[2] < 6:
        raise UsageError("the clouds have no colors", hint="choose `ulip-i:gray`, which needs none")
    return torch.cat([_point_features.in_unit_ball(points[..., :3]), (points[..., 3:6] + 1) / 2], dim=2)


class Groups(nn.Module):
    """A point and its neighbors as one token: two layers, concatenation with the maximum, two layers, the maximum."""

    def __init__(self) -> None:
        super().__init__()
        first, second, third, last = GROUP_WIDTHS
        self.first, self.second = Layer(6, first), nn.Linear(first, second)
        self.third, self.last = Layer(2 * second, third), nn.Linear(third, last)

    def forward(self, x: Float[Tensor, "B S K 6"]) -> Float[Tensor, "B S W"]:
        x = self.second(F.relu_(self.first(x)))
        x = torch.cat([x.amax(2, keepdim=True).expand_as(x), x], dim=3)
        return self.last(F.relu_(self.third(x))).amax(2)


class Block(nn.Module):
    """A pre-norm transformer block: attention and an MLP, each with a residual connection."""

    def __init__(self) -> None:
        super().__init__()
        self.norm_1 = nn.LayerNorm(WIDTH)
        self.attention_in = nn.Linear(WIDTH, 3 * WIDTH, bias=False)
        self.attention_out = nn.Linear(WIDTH, WIDTH)
        self.norm_2 = nn.LayerNorm(WIDTH)
        self.mlp_in = nn.Linear(WIDTH, 4 * WIDTH)
        self.mlp_out = nn.Linear(4 * WIDTH, WIDTH)

    def forward(self, x: Float[Tensor, "B L W"]) -> Float[Tensor, "B L W"]:
        mixed = self.attention_in(self.norm_1(x))
        query, key, value = rearrange(mixed, "b l (three h c) -> three b h l c", three=3, h=HEADS)
        attended = F.scaled_dot_product_attention(query, key, value)
        x = x + self.attention_out(rearrange(attended, "b h l c -> b l (h c)"))
        return x + self.mlp_out(F.gelu(self.mlp_in(self.norm_2(x))))


class PointEncoder(nn.Module):
    """Groups of neighbors and a class token in the blocks; every block's input gets the position embeddings added."""

    def __init__(self) -> None:
        super().__init__()
        self.groups = Groups()
        self.widen = nn.Linear(GROUP_WIDTHS[-1], WIDTH)
        self.whole = nn.Parameter(torch.empty(WIDTH))
        self.whole_position = nn.Parameter(torch.empty(WIDTH))
        self.position_in = nn.Linear(3, POSITION_WIDTH)
        self.position_out = nn.Linear(POSITION_WIDTH, WIDTH)
        self.blocks = nn.ModuleList(Block() for _ in range(LAYERS))
        self.norm = nn.LayerNorm(WIDTH)
        self.projection = nn.Linear(2 * WIDTH, OUTPUTS["embedding"], bias=False)

    def forward(self, points: Float[Tensor, "B N 6"], outputs: Sequence[str]) -> dict[str, Float[Tensor, "B 1280"]]:
        """The one output."""
        positions = points[..., :3].contiguous()
        centers = _point_features.gather_points(
            positions, _point_features.farthest_point_sampling(positions, NUM_CENTERS, least_square=MIN_SQUARED_NORM)
        )
        near = _point_features.gather_points(points, _point_features.nearest(centers, positions, NUM_NEIGHBORS))
        near[..., :3] -= centers[:, :, None]
        tokens = self.widen(self.groups(near))
        position_tokens = self.position_out(F.gelu(self.position_in(centers)))
        x, position = (
            torch.cat([one.expand(len(points), 1, -1), others], dim=1)
            for one, others in ((self.whole, tokens), (self.whole_position, position_tokens))
        )
        for block in self.blocks:
            x = block(x + position)
        x = self.norm(x)
        return {"embedding": self.projection(torch.cat([x[:, 0], x[:, 1:].amax(1)], dim=1))}
