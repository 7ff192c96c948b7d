"""Points of clouds for networks that look at them: the farthest ones, their neighbours, and the layer that both share.

All in torch, without compiled extensions, and exact: distances are sums of squared differences, where the published
programs multiply matrices out and lose digits. Ties go to the point that comes first.
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
"""Clouds that pass a network together: bounds the memory, whatever is given."""
PURPOSE = "feature points"
EPSILON = 1e-5
"""Of batch normalisation."""

Prepare = Callable[[Float32[Tensor, "B N C"]], Tensor]
"""Points as they come, 3 positions or 6 with colours in [-1, 1], to what a network takes (B N K)."""


@dataclass(frozen=True)
class CloudExtractor:
    """A network of point clouds with its weights; `_image_features.Extractor` is that of images."""

    network: nn.Module
    """Called with points (B N K) and names of outputs, gives them by name."""
    outputs: Mapping[str, int]
    preprocessors: Mapping[str, Prepare]
    files: Mapping[str, str]
    """The published file that each preprocessing is named after."""
    points: int
    """Of each cloud, so many count."""
    device: torch.device
    loaded: WeightsProvenance

    @torch.inference_mode()
    def __call__(
        self, clouds: Float[np.ndarray, "B N C"], outputs: Sequence[str], preprocessing: str
    ) -> dict[str, Float32[Tensor, "B F"]]:
        """Features on the CPU.

        Raises:
            UsageError: there is no such output or preprocessing, or the clouds have too few points or no colours.
        """
        for kind, name, allowed in (
            ("preprocessing", preprocessing, self.preprocessors),
            *(("output", o, self.outputs) for o in outputs),
        ):
            if name not in allowed:
                raise UsageError(f"there is no {kind} `{name}`", hint=did_you_mean(name, allowed))
        check_points(clouds.shape[1], self.points)
        order = point_subset(clouds.shape[1], self.points).numpy()
        found = {output: torch.empty(len(clouds), self.outputs[output]) for output in outputs}
        for start in range(0, len(clouds), CHUNK):
            chosen = torch.from_numpy(clouds[start : start + CHUNK, order].astype(np.float32))
            answers = self.network(self.preprocessors[preprocessing](chosen).to(self.device), tuple(outputs))
            for output in outputs:
                found[output][start : start + CHUNK] = answers[output].float().cpu()
        return found

    def note(self, preprocessing: str) -> str | None:
        """What must be said beside a number of this preprocessing: that its weights are not those it is named after."""
        return note(self.loaded, self.files[preprocessing], preprocessing)


def check_points(points: int, wanted: int, what: str = "the clouds") -> None:
    """Nothing, where there are enough points.

    Raises:
        UsageError: there are fewer; says how many to draw.
    """
    if points < wanted:
        raise UsageError(
            f"{what} have {points:,} points each, and the network looks at {wanted:,}",
            hint=f"draw with `--points {wanted}`, or prepare clouds of that many points",
        )


def point_subset(points: int, wanted: int) -> Int64[Tensor, " wanted"]:
    """Which points of a cloud a network sees, and in which order: the same for every cloud of that size.

    Mixed even where all are wanted: points of a mesh often lie face by face, and the order tells which of a ball's
    points are looked at, and where the farthest points begin.
    """
    return keyed_random.subset(torch.zeros(1, dtype=torch.int64), points, wanted, purpose=PURPOSE)[0]


def in_unit_ball(points: Float32[Tensor, "B N C"]) -> Float32[Tensor, "B N C"]:
    """Positions less their mean, the farthest at distance 1; a cloud in one place stays there. Colours are left alone."""
    positions = points[..., :3] - points[..., :3].mean(1, keepdim=True)
    farthest = positions.norm(dim=2, keepdim=True).amax(1, keepdim=True)
    return torch.cat([positions / torch.where(farthest > 0, farthest, 1), points[..., 3:]], dim=2)


def farthest_point_sampling(
    positions: Float[Tensor, "B N 3"], count: int, *, least_square: float | None = None
) -> Int64[Tensor, "B count"]:
    """The first point, and then again and again the one that is farthest from all chosen so far.

    Args:
        least_square: points whose squared distance to the origin is no more are passed over, but for the first.
    """
    batch = torch.arange(len(positions), device=positions.device)
    x, y, z = positions.unbind(2)
    nearest = torch.full_like(x, torch.inf)
    if least_square is not None:
        nearest = torch.where(x * x + y * y + z * z > least_square, nearest, -1)
    chosen = torch.zeros(len(positions), count, dtype=torch.int64, device=positions.device)
    for place in range(1, count):
        last = chosen[:, place - 1]
        dx, dy, dz = (side - side[batch, last, None] for side in (x, y, z))
        nearest = torch.minimum(nearest, dx.mul_(dx).addcmul_(dy, dy).addcmul_(dz, dz))
        chosen[:, place] = nearest.argmax(1)
    return chosen


def squared_distances(a: Float[Tensor, "B S 3"], b: Float[Tensor, "B N 3"]) -> Float[Tensor, "B S N"]:
    """Squared distances."""
    found = (a[:, :, None, 0] - b[:, None, :, 0]).square_()
    for axis in (1, 2):
        side = a[:, :, None, axis] - b[:, None, :, axis]
        found.addcmul_(side, side)
    return found


def ball_query(
    centres: Float[Tensor, "B S 3"], positions: Float[Tensor, "B N 3"], radius: float, count: int
) -> Int64[Tensor, "B S count"]:
    """Of each centre the first `count` points (by their order) no farther than `radius`; the first again where they end.

    A centre is one of the points, so that there always is one.
    """
    total = positions.shape[1]
    order = torch.arange(total, dtype=torch.int32, device=positions.device)
    near = torch.where(squared_distances(centres, positions) <= radius**2, order, total)
    first = near.topk(count, dim=2, largest=False, sorted=True).values.long()
    return torch.where(first < total, first, first[..., :1])


def nearest(
    centres: Float[Tensor, "B S 3"], positions: Float[Tensor, "B N 3"], count: int
) -> Int64[Tensor, "B S count"]:
    """Of each centre the `count` nearest points, in no order."""
    return squared_distances(centres, positions).topk(count, dim=2, largest=False, sorted=False).indices


def gather_points(values: Float[Tensor, "B N C"], places: Int64[Tensor, "B ..."]) -> Float[Tensor, "B ... C"]:
    """The rows at some places of each set."""
    rows = places.flatten(1)[..., None].expand(-1, -1, values.shape[2])
    return values.gather(1, rows).reshape(*places.shape, values.shape[2])


class Layer(nn.Module):
    """A linear layer on every point, and batch normalisation by what it learnt of mean and variance."""

    def __init__(self, inputs: int, outputs: int) -> None:
        super().__init__()
        self.linear = nn.Linear(inputs, outputs)
        for name in ("gamma", "beta", "mean", "variance"):
            self.register_buffer(name, torch.ones(outputs) if name in ("gamma", "variance") else torch.zeros(outputs))

    def forward(self, x: Float[Tensor, "... I"]) -> Float[Tensor, "... O"]:
        scale = self.get_buffer("gamma") * torch.rsqrt(self.get_buffer("variance") + EPSILON)
        return (self.linear(x) - self.get_buffer("mean")) * scale + self.get_buffer("beta")
