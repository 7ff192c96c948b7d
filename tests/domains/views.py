"""A domain that only tests have: objects in several posed views, float32 (N V*H*W 1). One view is read, the others are decoded."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import torch
from jaxtyping import Int64
from torch import Tensor

from inrflow_core.domains._contract import ArrayFiles, batch_of, conditions
from inrflow_core.fields import Window
from inrflow_core.geometry import cameras
from inrflow_core.numerics import keyed_random
from inrflow_core.sets import Condition, CoordValueSet, Queries, Rays, SetSpec, TrainBatch
from inrflow_core.shards.batch import Batch
from tests import camera_rings
from tests.domains import signal


@dataclass(frozen=True)
class Config:
    """The cameras' ring, and their pixels."""

    views: int = 3
    side: int = 4


class Domain(signal.Domain):
    """The rays of all views of an object, and the values along them."""

    NAME = "views"
    NOUN = "views"
    FILES = ArrayFiles(("views",), "float32", 3, (1,), "float (N M 1)")
    SIZE_OPTION = None

    def __init__(self, config: Config) -> None:
        self.config = config
        self.shape = SetSpec(3, 1, Rays(1, config.side, config.side))

    def queries(self, size: int | None = None, window: Window = None, condition: Condition | None = None) -> Queries:
        """The rays of all views, view by view."""
        side = self.config.side
        poses = torch.from_numpy(camera_rings.orbit_ring(self.config.views))
        origins, directions = (rays.flatten(0, 1) for rays in cameras.depth_rays(poses, side, side))
        return Queries(origins, torch.arange(len(origins)), directions=directions)

    def to_set(
        self, batch: Batch, seeds: Int64[Tensor, " B"], labels: np.ndarray | None = None, *, augment: bool = False
    ) -> CoordValueSet:
        """All views."""
        values = torch.from_numpy(np.ascontiguousarray(batch.values)).float()
        return CoordValueSet(self.queries(), values, seeds, conditions(labels, batch))

    def train_batch(self, sets: CoordValueSet) -> TrainBatch:
        """A view that the seed chooses for the encoder, and the others for the decoder."""
        count = self.config.views
        support = (keyed_random.uniform(sets.seeds, purpose="subset")[:, :1] * count).long()
        views = (support + torch.arange(count)) % count
        return TrainBatch(self._select(sets, views[:, :1]), self._select(sets, views[:, 1:]))

    def _select(self, sets: CoordValueSet, views: Int64[Tensor, "B V"]) -> CoordValueSet:
        """Some views of each set, with the rays of these."""
        index = (views[..., None] * self.config.side**2 + torch.arange(self.config.side**2)).flatten(1)
        coordinates, directions = sets.queries.coordinates, sets.queries.directions
        assert coordinates is not None and directions is not None
        queries = Queries(coordinates[index], torch.arange(index.shape[1]), directions=directions[index])
        return CoordValueSet(queries, sets.values.gather(1, index[..., None]), sets.seeds, sets.condition)

    def dummy_batch(self, count: int) -> CoordValueSet:
        """Black views."""
        return self.to_set(batch_of(np.zeros((count, len(self.queries()), 1), np.float32)), torch.zeros(count).long())
