"""The one kind of data that methods see: sets of coordinate-value pairs, and the queries at which they are evaluated.

The shape legend of the whole project:

    B  sets in a batch      D  numbers in a coordinate (2 image, 3 space or space-time)
    N  pairs in a set       C  numbers in a value (3 RGB or xyz, 1 occupancy)
    M  query pairs          L  latent tokens          W  width of a token
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any, ClassVar, NamedTuple

import torch
from jaxtyping import Bool, Float, Int64
from torch import Tensor

Condition = Mapping[str, Tensor]
"""What a sample is conditioned on: a name to a tensor whose first axis is B; `label` is Int64[B], -1 for none."""

CLASS_LABEL = "label"
"""The condition of every set whose data has classes."""
CAMERA = "camera"
"""The condition of posed views: their cameras, (4 4) each, as geometry/cameras.py has them."""
SURFACE = "surface"
"""The condition of scenes with points of their surface, (P 6): positions in world units, and RGB in [-1, 1]."""

PER_GROUP_CONDITIONS = ("residues", "embedding")
"""Conditions with a row for each group of a set, padded as the set is."""


class ConditionEmbedding(NamedTuple):
    """A condition as the network takes it; each part may be absent."""

    vector: Float[Tensor, "B W"] | None = None
    """Added to the embedding of the time."""
    tokens: Float[Tensor, "B K W"] | None = None
    """What every block of the trunk attends to, or those of a U-Net with cross-attention."""
    features: Float[Tensor, "B L F"] | None = None
    """Features of each group of pairs, such as an amino acid."""
    is_group: Bool[Tensor, "B L"] | None = None
    """Which groups are real and not padding."""
    projected_kv: tuple[Any, ...] = ()
    """The tokens' keys and values for each block, made once for many evaluations; in place of `tokens`."""
    is_token: Bool[Tensor, "B K"] | None = None
    """Which tokens are real and not padding, at least one of each set; None if all are."""


class ConditionSpec(NamedTuple):
    """What a network must know to be built for a conditioner."""

    tokens: int = 0
    """Tokens of a condition that every block of the trunk attends to."""
    features: int | None = None
    """Features of each group; None without groups."""
    is_padded: bool = False
    """Whether conditions may have fewer tokens, so that the others are padding (`ConditionEmbedding.is_token`)."""


@dataclass(frozen=True)
class Grid:
    """Pairs at the cell centers of a regular grid on [-1, 1]^D: the pixels of an image, the voxels of a video."""

    shape: tuple[int, ...]
    """Size along each axis, rows before columns."""
    has_coordinates: ClassVar[bool] = True

    @property
    def num_queries(self) -> int:
        """Pairs of a training set."""
        return math.prod(self.shape)


@dataclass(frozen=True)
class Points:
    """Scattered pairs without order."""

    num_queries: int
    """Pairs of a training set."""
    has_coordinates: bool = False
    """Whether each value is given at a fixed coordinate, such as an occupancy in space. Without, the value is its own
    coordinate, as of a point that moves: the network reads the coordinate from the noisy value."""


@dataclass(frozen=True)
class Rays:
    """Pairs along the rays of posed cameras: a query has an origin (its coordinate) and a direction."""

    views: int
    height: int
    width: int
    extent: float = 1.0
    """Half the side of the cube around the origin in which scenes are, in world units."""
    surface_points: int | None = None
    """Points of the surface that the encoder reads in place of a view: in units of `extent`, with colors in [-1, 1]; 6 numbers."""
    has_coordinates: ClassVar[bool] = True

    @property
    def num_queries(self) -> int:
        """Rays of all views of a training set."""
        return self.views * self.height * self.width


@dataclass(frozen=True)
class Groups:
    """Pairs in groups, such as the atoms of amino acids, in sets of unequal size; `Queries.group_ids` says which.

    The coordinate is a list of features and the value a position in space.
    """

    max_size: int
    """Pairs of a group, at most."""
    num_queries: int
    """Pairs of a training set of typical size."""
    has_coordinates: ClassVar[bool] = True


Layout = Grid | Points | Rays | Groups
"""How the pairs of a set are arranged."""


@dataclass(frozen=True)
class SetSpec:
    """What a network must know of the sets of a domain to be built; the domain itself stays unknown to it.

    Raises:
        ValueError: the coordinate does not fit the layout.
    """

    coordinate_size: int
    value_size: int
    layout: Layout
    unit: float | None = None
    """Numbers of a value's scale in a unit of length (an Angstrom); None where values are not positions in space."""
    is_probability: bool = False
    """Whether a value of data is from 0 to 1, such as an occupancy, and a function has its logit."""
    brightest: float | None = None
    """Colors are from minus this value, which is black, to it; None where values are no colors."""

    def __post_init__(self) -> None:
        match self.layout:
            case Grid(shape) if self.coordinate_size != len(shape):
                expected = f"{len(shape)}"
            case Rays() if self.coordinate_size != 3:
                expected = "3"
            case Points(has_coordinates=False) if self.coordinate_size > self.value_size:
                expected = f"at most {self.value_size}"
            case _:
                return
        raise ValueError(f"`coordinate_size` is {self.coordinate_size}: {expected} for {self.layout}")

    @property
    def num_queries(self) -> int:
        """Pairs of a training set, N."""
        return self.layout.num_queries

    @property
    def has_equal_sizes(self) -> bool:
        """Whether all sets have the same number of pairs."""
        return not isinstance(self.layout, Groups)

    @property
    def is_permutable(self) -> bool:
        """Whether the pairs of a set have no order: nothing but its value belongs to a pair, as of points that move."""
        return isinstance(self.layout, Points) and not self.layout.has_coordinates

    def coordinates_of(self, queries: Queries, values: Float[Tensor, "B N C"]) -> Tensor | None:
        """The pairs' coordinates; of points without fixed coordinates the first numbers of their values."""
        return queries.coordinates if self.layout.has_coordinates else values[..., : self.coordinate_size]


@dataclass(frozen=True)
class Queries:
    """Where a function is evaluated.

    The coordinate is what the network sees, in [-1, 1]; it is None where the value is its own coordinate (points that
    move). The noise key is what the noise is keyed by: an id for points, or a position on the lattice of the training
    grid, whose pixels sit at the integers 0 ... R - 1. For rays the coordinate is the origin in world units,
    `directions` have depth 1 along the camera's axis, and the noise key is the pixel's position, as for images.
    """

    coordinates: Float[Tensor, "N D"] | Float[Tensor, "B N D"] | None
    noise_keys: Int64[Tensor, " N"] | Int64[Tensor, "N P"] | Float[Tensor, "N P"]
    group_ids: Int64[Tensor, "B N"] | None = None
    """The group of each pair, ascending, -1 at padding; of the layout `Groups`."""
    valid_sizes: tuple[tuple[int, int], ...] | None = None
    """The numbers of real pairs and groups of each set, on the CPU: reading them does not synchronize the device."""
    directions: Float[Tensor, "N 3"] | Float[Tensor, "B N 3"] | None = None
    """Vectors along the rays with depth 1 along the camera's axis; of the layout `Rays`."""
    cell_sizes: Float[Tensor, ""] | Float[Tensor, " B"] | None = None
    """The step between neighboring queries of a regular grid, in units of the coordinate: of all sets, or of each."""

    def __len__(self) -> int:
        return self.noise_keys.shape[0]

    def __getitem__(self, part: slice | Int64[Tensor, " M"]) -> Queries:
        """Some of these queries, of every set the same; of a slice a view. Without `valid_sizes`."""
        coordinates, groups, directions = self.coordinates, self.group_ids, self.directions
        return Queries(
            None if coordinates is None else coordinates[..., part, :],
            self.noise_keys[part],
            None if groups is None else groups[:, part],
            directions=None if directions is None else directions[..., part, :],
            cell_sizes=self.cell_sizes,
        )

    def select_sets(self, part: slice | Int64[Tensor, " S"]) -> Queries:
        """The queries of some of the sets; tensors that all sets share stay as they are."""
        coordinates, directions = (
            tensor[part] if tensor is not None and tensor.ndim == 3 else tensor
            for tensor in (self.coordinates, self.directions)
        )
        groups = None if self.group_ids is None else self.group_ids[part]
        sizes = self.valid_sizes[part] if self.valid_sizes is not None and isinstance(part, slice) else None
        steps = self.cell_sizes
        steps = steps[part] if steps is not None and steps.ndim == 1 else steps
        return Queries(coordinates, self.noise_keys, groups, sizes, directions, steps)

    def map(self, change: Callable[[Tensor], Tensor]) -> Queries:
        """These queries with every tensor changed."""
        coordinates, groups, directions, steps = (
            None if tensor is None else change(tensor)
            for tensor in (self.coordinates, self.group_ids, self.directions, self.cell_sizes)
        )
        return Queries(coordinates, change(self.noise_keys), groups, self.valid_sizes, directions, steps)

    def to(self, device: torch.device | str) -> Queries:
        """These queries on another device."""
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

    def with_values(self, values: Float[Tensor, "B K E"]) -> CoordValueSet:
        """The same examples with K other values each, such as latents, at the indices 0 ... K - 1 instead of coordinates."""
        return CoordValueSet(Queries(None, torch.arange(values.shape[1])), values, self.seeds, self.condition)

    def map(self, change: Callable[[Tensor], Tensor]) -> CoordValueSet:
        """These sets with every tensor changed."""
        return CoordValueSet(
            self.queries.map(change),
            change(self.values),
            change(self.seeds),
            {name: change(value) for name, value in self.condition.items()},
            None if self.mask is None else change(self.mask),
        )

    def to(self, device: torch.device | str) -> CoordValueSet:
        """These sets on another device."""
        return self.map(lambda tensor: tensor.to(device, non_blocking=True))


@dataclass(frozen=True)
class TrainBatch:
    """What one training step learns from: the sets that the encoder reads, and those that the decoder is trained on.

    Row i of both belongs to one example. Both are one object where a set is decoded at its own pairs; they differ where an
    example has query pairs of its own, such as other views of an object.
    """

    context: CoordValueSet
    queries: CoordValueSet

    @classmethod
    def from_sets(cls, sets: CoordValueSet) -> TrainBatch:
        """A batch whose sets are decoded at their own pairs; no copy."""
        return cls(sets, sets)

    @property
    def is_shared(self) -> bool:
        """Whether context and queries are the same sets."""
        return self.queries is self.context

    def __len__(self) -> int:
        return len(self.context)

    def __getitem__(self, part: slice | Int64[Tensor, " S"]) -> TrainBatch:
        """Some of the examples, in the order given."""
        return self.apply(lambda sets: sets[part])

    def apply(self, change: Callable[[CoordValueSet], CoordValueSet]) -> TrainBatch:
        """Both sets changed; shared ones once, and they stay shared."""
        context = change(self.context)
        return TrainBatch(context, context if self.is_shared else change(self.queries))

    def map(self, change: Callable[[Tensor], Tensor]) -> TrainBatch:
        """This batch with every tensor changed."""
        return self.apply(lambda sets: sets.map(change))

    def to(self, device: torch.device | str) -> TrainBatch:
        """This batch on another device."""
        return self.apply(lambda sets: sets.to(device))
