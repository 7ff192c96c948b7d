"""Point clouds: a point's value is its own place (and colour); a query is a point's id."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import torch
from jaxtyping import Float, Int64
from torch import Tensor

from inrflow_core.domains._contract import conditions
from inrflow_core.errors import UsageError
from inrflow_core.fields import Window
from inrflow_core.numerics import keyed_random
from inrflow_core.sets import Condition, CoordValueSet, Points, Queries, SetSpec
from inrflow_core.shards.batch import Batch


@dataclass(frozen=True)
class Config:
    """What the clouds of a preset are."""

    num_points: int
    """Points of a training set, drawn from the stored cloud anew for each step."""
    value_scale: float = 1.0
    """Positions in the shard's normalisation are multiplied by this for the network."""
    channels: int = 3
    """3 for positions, 6 with colours in [-1, 1]."""

    def __post_init__(self) -> None:
        if self.num_points < 1:
            raise ValueError(f"`num_points` is {self.num_points}: at least 1")
        if self.channels not in (3, 6):
            raise ValueError(f"`channels` is {self.channels}: 3, or 6 with colours")
        if self.value_scale <= 0:
            raise ValueError(f"`value_scale` is {self.value_scale}: above 0")


class Domain:
    """Queries of clouds, sets from stored points, and points from values."""

    NAME = "points"
    EXPORTERS = ("ply", "npz", "png", "obj", "glb")
    """Formats that its samples can be written in, beside shards."""
    METRICS = ("mmd", "cov", "one-nna", "jsd")
    """What `eval` computes where no metric is named: nothing that needs weights."""

    def __init__(self, config: Config) -> None:
        self.config = config
        self.shape = SetSpec(config.channels, config.channels, Points(config.num_points))

    def queries(self, size: int | None = None, window: Window = None, condition: Condition | None = None) -> Queries:
        """The ids of `size` points; None asks as many as in training.

        Raises:
            UsageError: fewer than 1 point, or a window, which only pictures have.
        """
        if window is not None:
            raise UsageError("a cloud has no window", hint="leave `--window` out")
        count = self.config.num_points if size is None else size
        if count < 1:
            raise UsageError(f"a cloud of {count} points is none", hint="ask at least 1 point")
        return Queries(None, torch.arange(count))

    def to_set(
        self,
        values: np.ndarray,
        seeds: Int64[Tensor, " B"],
        labels: np.ndarray | None = None,
        *,
        augment: bool = False,
        read: Batch | None = None,
    ) -> CoordValueSet:
        """Stored clouds (B N C) as sets; more points than `num_points` are thinned by a draw keyed by the seed.

        Raises:
            UsageError: the clouds have no colours where the preset wants them, or, with `augment` (in training), fewer
                points than it wants.
        """
        wanted, channels = self.config.num_points, self.config.channels
        if values.shape[2] < channels:
            raise UsageError(
                f"the clouds have {values.shape[2]} channels, the preset wants {channels}",
                hint="prepare them with colours, or set `domain.channels=3`",
            )
        if augment and values.shape[1] < wanted:
            raise UsageError(
                f"the clouds have {values.shape[1]} points, the preset wants {wanted}",
                hint=f"set `domain.num_points={values.shape[1]}`, or prepare clouds of more points",
            )
        clouds = torch.from_numpy(np.ascontiguousarray(values[..., :channels])).float()
        if clouds.shape[1] > wanted:
            chosen = keyed_random.subset(seeds.cpu(), clouds.shape[1], wanted, purpose="subset")
            clouds = clouds.gather(1, chosen[..., None].expand(-1, -1, channels))
        condition = conditions(labels, read)
        return CoordValueSet(
            Queries(None, torch.arange(clouds.shape[1])), clouds * self.config.value_scale, seeds, condition
        )

    def blank(self, count: int) -> CoordValueSet:
        """Sets of the training's size without content, for planning."""
        values = torch.zeros(count, self.shape.num_queries, self.shape.value_size)
        return CoordValueSet(self.queries(), values, torch.zeros(count, dtype=torch.int64))

    def from_values(self, values: Float[Tensor, "B M C"], size: int | None = None) -> np.ndarray:
        """Points, float32 (B M C), in the shard's normalisation."""
        return values.div(self.config.value_scale).float().cpu().numpy()
