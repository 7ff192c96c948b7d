"""The one kind of data that methods see: sets of coordinate-value pairs, and the queries that ask for them.

The shape legend of the whole project:

    B  sets in a batch      D  numbers in a coordinate (2 image, 3 space or space-time)
    N  pairs in a set       C  numbers in a value (3 RGB or xyz, 1 occupancy)
    M  query pairs          L  latent tokens          W  width of a token
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any, NamedTuple

import torch
from jaxtyping import Bool, Float, Int64
from torch import Tensor

Condition = Mapping[str, Tensor]
"""What a sample is drawn under: a name to a tensor whose first axis is B; `label` is Int64[B], -1 for none."""

PER_GROUP_CONDITIONS = ("residues", "embedding")
"""Conditions with a row for each group of a set, padded as the set is."""


class ConditionEmbedding(NamedTuple):
    """What a conditioner makes of a condition, for the network; each part may be absent."""

    vector: Float[Tensor, "B W"] | None = None
    """Added to the embedding of the time."""
    tokens: Float[Tensor, "B K W"] | None = None
    """What every block of the trunk attends to."""
    features: Float[Tensor, "B L F"] | None = None
    """What is known of each group of pairs, such as an amino acid."""
    is_group: Bool[Tensor, "B L"] | None = None
    """Which groups are real and not padding."""
    projected_kv: tuple[Any, ...] = ()
    """The tokens' keys and values for each block, made once for many evaluations; in place of `tokens`."""


class ConditionSpec(NamedTuple):
    """What a network must know to be built for a conditioner."""

    tokens: int = 0
    """Tokens of a condition that every block of the trunk attends to."""
    features: int | None = None
    """Numbers known of each group."""


@dataclass(frozen=True)
class SetSpec:
    """What a network must know of the sets of a domain to be built; the domain itself stays unknown to it.

    `grid` is the training grid's size along each axis (row, column), None for scattered pairs; `num_pairs` is N of a
    training set. `is_moving` says that the value is its own coordinate: `coordinate_size` is then `value_size`, and
    the network reads the coordinate from the noisy value.

    With `group_size` the coordinate is a list of features and the value a place in space, and pairs come in groups of at
    most so many, such as the atoms of amino acids: a set's `Queries.group_ids` says which. `unit` is how many numbers of a
    value's scale a unit of length takes (an Angstrom), None where values are no places.
    """

    coordinate_size: int
    value_size: int
    num_pairs: int
    grid: tuple[int, ...] | None = None
    is_moving: bool = False
    group_size: int | None = None
    unit: float | None = None


@dataclass(frozen=True)
class Queries:
    """Where a function is asked.

    A query has two faces. Its coordinate is what the network sees, in [-1, 1]; it is None where the value is its own
    coordinate (points that move). Its place is what the noise is keyed by: an id for points, or a position on the
    lattice of the training grid, whose pixels sit at the integers 0 ... R - 1.
    """

    coordinates: Float[Tensor, "N D"] | Float[Tensor, "B N D"] | None
    noise_keys: Int64[Tensor, " N"] | Float[Tensor, "N D"]
    group_ids: Int64[Tensor, "B N"] | None = None
    """The group of each pair, ascending, -1 at padding; where the data says which pairs belong together."""
    valid_sizes: tuple[tuple[int, int], ...] | None = None
    """How many pairs and groups of each set are real, for who must know it without waiting for the device."""

    def __len__(self) -> int:
        return self.noise_keys.shape[0]

    def __getitem__(self, part: slice) -> Queries:
        """A run of these queries, in order; no copy."""
        coordinates, groups = self.coordinates, self.group_ids
        return Queries(
            None if coordinates is None else coordinates[..., part, :],
            self.noise_keys[part],
            None if groups is None else groups[:, part],
        )

    def select_sets(self, part: slice | Int64[Tensor, " S"]) -> Queries:
        """The queries of some of the sets; those that all sets share stay."""
        coordinates, groups = self.coordinates, self.group_ids
        if coordinates is not None and coordinates.ndim == 3:
            coordinates = coordinates[part]
        sizes = self.valid_sizes[part] if self.valid_sizes is not None and isinstance(part, slice) else None
        return Queries(coordinates, self.noise_keys, None if groups is None else groups[part], sizes)

    def map(self, change: Callable[[Tensor], Tensor]) -> Queries:
        """The same queries with every tensor changed."""
        coordinates, groups = (
            None if tensor is None else change(tensor) for tensor in (self.coordinates, self.group_ids)
        )
        return Queries(coordinates, change(self.noise_keys), groups, self.valid_sizes)

    def to(self, device: torch.device | str) -> Queries:
        """The same queries on another device."""
        return self.map(lambda tensor: tensor.to(device, non_blocking=True))


@dataclass(frozen=True)
class CoordValueSet:
    """A batch of sets: the values of B functions at the same or their own N queries.

    `values` are in the network's scale (the domain's `value_scale` is applied). `seeds` key everything random about
    each set: its time, noise, dropped condition and query subset in training, its noise in generation. `mask` is True
    at real pairs, None where all are real.
    """

    queries: Queries
    values: Float[Tensor, "B N C"]
    seeds: Int64[Tensor, " B"]
    condition: Condition = field(default_factory=dict)
    mask: Bool[Tensor, "B N"] | None = None

    def __len__(self) -> int:
        return self.values.shape[0]

    def __getitem__(self, part: slice | Int64[Tensor, " S"]) -> CoordValueSet:
        """Some of these sets, in the order given."""
        return CoordValueSet(
            self.queries.select_sets(part),
            self.values[part],
            self.seeds[part],
            {name: value[part] for name, value in self.condition.items()},
            None if self.mask is None else self.mask[part],
        )

    def map(self, change: Callable[[Tensor], Tensor]) -> CoordValueSet:
        """The same sets with every tensor changed."""
        return CoordValueSet(
            self.queries.map(change),
            change(self.values),
            change(self.seeds),
            {name: change(value) for name, value in self.condition.items()},
            None if self.mask is None else change(self.mask),
        )

    def to(self, device: torch.device | str) -> CoordValueSet:
        """The same sets on another device."""
        return self.map(lambda tensor: tensor.to(device, non_blocking=True))
