"""PointNet++ of Point-E's evaluation: P-FID uses its features, P-IS its classes.

A classifier of ModelNet40's 40 classes from positions alone (no normals), with one scale of grouping, twice as wide as
the paper's (5.9 million parameters).

    features  512  the last layer before the classes, after its normalization and before its ReLU
    logits     40  classes

Inputs are 4096 points of a cloud, with mean 0 and the farthest point at distance 1. Farthest point sampling starts with
the first point; in Point-E it starts with the point whose index is that of the cloud in its batch, so that features
depend on the batch. Of too many points in a ball, both use the first.

Source: Qi et al. 2017, arXiv:1706.02413; Nichol et al. 2022 (Point-E), arXiv:2212.08751, section 5.1.
"""

from __future__ import annotations

from collections.abc import Sequence
from itertools import pairwise
from pathlib import Path

import torch
import torch.nn.functional as F
from jaxtyping import Float
from torch import Tensor, nn

from inrflow_core.feature_networks import _point_features, _weights_file
from inrflow_core.feature_networks._point_features import CloudExtractor, Layer
from inrflow_core.feature_networks._weights_file import PublishedWeights, Weights

KIND = "extractor"
DOMAIN = "points"
OUTPUTS = {"features": 512, "logits": 40}
PREPROCESSING = ("point-e",)
CLASSES = (
    *(
        "airplane",
        "bathtub",
        "bed",
        "bench",
        "bookshelf",
        "bottle",
        "bowl",
        "car",
        "chair",
        "cone",
        "cup",
        "curtain",
        "desk",
    ),
    *("door", "dresser", "flower_pot", "glass_box", "guitar", "keyboard", "lamp", "laptop", "mantel", "monitor"),
    *(
        "night_stand",
        "person",
        "piano",
        "plant",
        "radio",
        "range_hood",
        "sink",
        "sofa",
        "stairs",
        "stool",
        "table",
        "tent",
    ),
    *("toilet", "tv_stand", "vase", "wardrobe", "xbox"),
)
"""The classes of ModelNet40 in the order of its list of names, which is that of the logits."""
POINTS = 4096

POINT_E = "pointnet.pt"
WEIGHTS = Weights(
    "pointnet2",
    (
        PublishedWeights(
            POINT_E,
            None,
            None,
            "OpenAI's Point-E, the model `pointnet`",
            "https://github.com/openai/point-e",
            "MIT",
        ),
    ),
)
FILES = {"point-e": POINT_E}
"""The published weights of each preprocessing's original program."""

GROUPS = ((512, 0.2, 32), (128, 0.4, 64))
"""Number of centers, radius, and number of points of a ball, of the first and second level."""
WIDTHS = ((128, 128, 256), (256, 256, 512), (512, 1024, 2048))
"""Widths of the three layers of each level; the third level is global."""


def load(path: Path, device: str | torch.device = "cpu") -> CloudExtractor:
    """The network with the weights of a file.

    Raises:
        IntegrityError: see `_weights_file.load_state`.
    """
    network = PointNet2()
    loaded = _weights_file.load_state(network, WEIGHTS, path, device)
    return CloudExtractor(network, OUTPUTS, {"point-e": positions}, FILES, POINTS, torch.device(device), loaded)


def positions(points: Float[Tensor, "B N C"]) -> Float[Tensor, "B N 3"]:
    """The inputs of the network."""
    return _point_features.in_unit_ball(points[..., :3])


class PointNet2(nn.Module):
    """Two levels of balls around farthest points, one level over all points, and three layers on their maximum."""

    def __init__(self) -> None:
        super().__init__()
        self.levels = nn.ModuleList()
        inputs = 0
        for widths in WIDTHS:
            self.levels.append(nn.ModuleList(Layer(a, b) for a, b in pairwise((3 + inputs, *widths))))
            inputs = widths[-1]
        self.hidden = Layer(inputs, inputs // 2)
        self.features = Layer(inputs // 2, OUTPUTS["features"])
        self.classes = nn.Linear(OUTPUTS["features"], OUTPUTS["logits"])

    def forward(self, points: Float[Tensor, "B N 3"], outputs: Sequence[str]) -> dict[str, Float[Tensor, "B F"]]:
        """Both outputs, whichever are requested."""
        values = points[..., :0]
        for level, (count, radius, most) in zip(self.levels, GROUPS, strict=False):
            centers = _point_features.gather_points(points, _point_features.farthest_point_sampling(points, count))
            indices = _point_features.ball_query(centers, points, radius, most)
            offsets = _point_features.gather_points(points, indices) - centers[:, :, None]
            values = _largest(level, torch.cat([offsets, _point_features.gather_points(values, indices)], dim=3))
            points = centers
        x = _largest(self.levels[-1], torch.cat([points, values], dim=2))
        features = self.features(F.relu_(self.hidden(x)))
        return {"features": features, "logits": self.classes(F.relu(features))}


def _largest(layers: nn.Module, x: Float[Tensor, "*shape K I"]) -> Float[Tensor, "*shape O"]:
    """Three layers on every point, and the maximum over the points of a group."""
    assert isinstance(layers, nn.ModuleList)
    for layer in layers:
        x = F.relu_(layer(x))
    return x.amax(-2)
