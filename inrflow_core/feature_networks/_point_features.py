"""Feature extractors of clouds: point sampling, neighbor search, and the layer that the networks share.

Pure torch without compiled extensions, and exact: distances are sums of squared differences; the published programs use
matrix products, which lose digits. Of points at equal distances the first is selected.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass

import numpy as np
import torch
from jaxtyping import Float, Float32, Int64
from torch import Tensor, nn

from inrflow_core.errors import UsageError, did_you_mean
from inrflow_core.feature_networks._image_features import note
from inrflow_core.feature_networks._weights_file import WeightsProvenance
from inrflow_core.numerics import keyed_random

CHUNK = 4
"""Clouds in a batch of a network: limits memory."""
PURPOSE = "feature points"
EPSILON = 1e-5
"""Of batch normalization."""

Prepare = Callable[[Float32[Tensor, "B N C"]], Tensor]
"""Points, 3 positions or 6 numbers with colors in [-1, 1], to the inputs of a network (B N K)."""


@dataclass(frozen=True)
class CloudExtractor:
    """A network of point clouds with its weights; for images, see `_image_features.Extractor`."""

    network: nn.Module
    """Called with points (B N K) and names of outputs; returns these by name."""
    outputs: Mapping[str, int]
    preprocessors: Mapping[str, Prepare]
    files: Mapping[str, str]
    """The published weights of each preprocessing's original program."""
    points: int
    """Points of each cloud that are used."""
    device: torch.device
    loaded: WeightsProvenance

    @torch.inference_mode()
    def __call__(
        self, clouds: Float[np.ndarray, "B N C"], outputs: Sequence[str], preprocessing: str
    ) -> dict[str, Float32[Tensor, "B F"]]:
        """Features on the CPU.

        Raises:
            UsageError: unknown output or preprocessing, or the clouds have too few points or no colors.
        """
        for kind, name, allowed in (
            ("preprocessing", preprocessing, self.preprocessors),
            *(("output", o, self.outputs) for o in outputs),
        ):
            if name not in allowed:
                raise UsageError(f"there is no {kind} `{name}`", hint=did_you_mean(name, allowed))
        check_points(clouds.shape[1], self.points)
        order = point_subset(clouds.shape[1], self.points).numpy()
        features = {output: torch.empty(len(clouds), self.outputs[output]) for output in outputs}
        for start in range(0, len(clouds), CHUNK):
            part = torch.from_numpy(clouds[start : start + CHUNK, order].astype(np.float32))
            answers = self.network(self.preprocessors[preprocessing](part).to(self.device), tuple(outputs))
            for output in outputs:
                features[output][start : start + CHUNK] = answers[output].float().cpu()
        return features

    def note(self, preprocessing: str) -> str | None:
        """A remark for values of this preprocessing if the weights are not those of its original program."""
        return note(self.loaded, self.files[preprocessing], preprocessing)


def check_points(points: int, expected: int, what: str = "the clouds") -> None:
    """Raise UsageError unless there are `expected` points."""
    if points < expected:
        raise UsageError(
            f"{what} have {points:,} points each, and the network needs {expected:,}",
            hint=f"sample with `--points {expected}`, or prepare clouds of that many points",
        )


def point_subset(points: int, count: int) -> Int64[Tensor, " count"]:
    """Indices of the points of a cloud that a network gets, in this order: the same for every cloud of that size.

    The points are shuffled even if all are used: points of a mesh are often sorted by face, and the order decides which
    of a ball's points are used, and with which point farthest point sampling starts.
    """
    return keyed_random.subset(torch.zeros(1, dtype=torch.int64), points, count, purpose=PURPOSE)[0]


def in_unit_ball(points: Float32[Tensor, "B N C"]) -> Float32[Tensor, "B N C"]:
    """Positions minus their mean, scaled to a largest norm of 1 (or 0 for equal points); colors do not change."""
    positions = points[..., :3] - points[..., :3].mean(1, keepdim=True)
    farthest = positions.norm(dim=2, keepdim=True).amax(1, keepdim=True)
    return torch.cat([positions / torch.where(farthest > 0, farthest, 1), points[..., 3:]], dim=2)


def farthest_point_sampling(
    positions: Float[Tensor, "B N 3"], count: int, *, least_square: float | None = None
) -> Int64[Tensor, "B count"]:
    """Start with the first point and repeatedly add the point farthest from all selected ones.

    Args:
        least_square: points with a squared norm of at most this are skipped, except for the first.
    """
    batch = torch.arange(len(positions), device=positions.device)
    x, y, z = positions.unbind(2)
    nearest = torch.full_like(x, torch.inf)
    if least_square is not None:
        nearest = torch.where(x * x + y * y + z * z > least_square, nearest, -1)
    selected = torch.zeros(len(positions), count, dtype=torch.int64, device=positions.device)
    for step in range(1, count):
        last = selected[:, step - 1]
        dx, dy, dz = (side - side[batch, last, None] for side in (x, y, z))
        nearest = torch.minimum(nearest, dx.mul_(dx).addcmul_(dy, dy).addcmul_(dz, dz))
        selected[:, step] = nearest.argmax(1)
    return selected


def squared_distances(a: Float[Tensor, "B S 3"], b: Float[Tensor, "B N 3"]) -> Float[Tensor, "B S N"]:
    """Squared distances of all pairs."""
    squares = (a[:, :, None, 0] - b[:, None, :, 0]).square_()
    for axis in (1, 2):
        side = a[:, :, None, axis] - b[:, None, :, axis]
        squares.addcmul_(side, side)
    return squares


def ball_query(
    centers: Float[Tensor, "B S 3"], positions: Float[Tensor, "B N 3"], radius: float, count: int
) -> Int64[Tensor, "B S count"]:
    """The first `count` points (in their order) within `radius` of each center; fewer are padded with the first.

    A center is one of the points, so that there is at least one.
    """
    total = positions.shape[1]
    order = torch.arange(total, dtype=torch.int32, device=positions.device)
    near = torch.where(squared_distances(centers, positions) <= radius**2, order, total)
    first = near.topk(count, dim=2, largest=False, sorted=True).values.long()
    return torch.where(first < total, first, first[..., :1])


def nearest(
    centers: Float[Tensor, "B S 3"], positions: Float[Tensor, "B N 3"], count: int
) -> Int64[Tensor, "B S count"]:
    """The `count` nearest points of each center, unordered."""
    return squared_distances(centers, positions).topk(count, dim=2, largest=False, sorted=False).indices


def gather_points(values: Float[Tensor, "B N C"], indices: Int64[Tensor, "B ..."]) -> Float[Tensor, "B ... C"]:
    """Rows of each set at some indices."""
    rows = indices.flatten(1)[..., None].expand(-1, -1, values.shape[2])
    return values.gather(1, rows).reshape(*indices.shape, values.shape[2])


class Layer(nn.Module):
    """A linear layer on every point, and batch normalization with fixed mean and variance."""

    def __init__(self, inputs: int, outputs: int) -> None:
        super().__init__()
        self.linear = nn.Linear(inputs, outputs)
        for name in ("gamma", "beta", "mean", "variance"):
            self.register_buffer(name, torch.ones(outputs) if name in ("gamma", "variance") else torch.zeros(outputs))

    def forward(self, x: Float[Tensor, "... I"]) -> Float[Tensor, "... O"]:
        scale = self.get_buffer("gamma") * torch.rsqrt(self.get_buffer("variance") + EPSILON)
        return (self.linear(x) - self.get_buffer("mean")) * scale + self.get_buffer("beta")
