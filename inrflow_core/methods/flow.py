"""Flow matching on coordinate-value sets: INRFlow and its earlier version, ASFT.

Source: INRFlow, arXiv:2412.03791, sections 3.2 to 3.4 and appendix H. Its times are kept: t = 0 is data, t = 1 is
noise, and the velocity is dy/dt. The network reads the whole noisy set (the context) into latents and answers each
query from the latents alone (equation 4): queries never see each other and never change the latents, so that a drawn
sample is a function, which this file calls a `FlowField`.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from types import ModuleType
from typing import Any, Literal

import torch
from jaxtyping import Bool, Float, Float64, Int64
from torch import Tensor, nn

from inrflow_core import noise, paths, registry, rigid
from inrflow_core.fields import Progress
from inrflow_core.methods import _flow_field, _structure_loss
from inrflow_core.methods._flow_field import FlowField
from inrflow_core.presets import Preset
from inrflow_core.sets import PER_GROUP, Condition, CoordValueSet, Queries, SetShape, Told, ToldShape

STAGES = ("train",)
WASTE = 1.3
"""Pairs with padding over pairs, at most, where sets differ in size."""


@dataclass(frozen=True)
class Config:
    """How flow matching learns and draws."""

    path: Literal["linear", "trigonometric"] = "linear"
    """From data to noise; the papers' is linear."""
    time: Literal["uniform", "logit-normal"] = "uniform"
    """Density of t in training; the paper's is uniform, its authors' release draws logit-normal."""
    time_mean: float = 0.0
    """Mean of logit(t), for `logit-normal`."""
    time_deviation: float = 1.0
    """Standard deviation of logit(t), for `logit-normal`."""
    time_shift: float = 1.0
    """t becomes shift t / (1 + (shift - 1) t): above 1 moves times towards noise."""
    num_queries: int | None = None
    """Pairs decoded per set in training, drawn at random for each set; None decodes all."""
    query_positions: Literal["training", "anywhere"] = "training"
    """`anywhere` also trains between the pixels of a grid, with interpolated values (not in the papers)."""
    guidance: float = 1.0
    """Scale of classifier-free guidance in sampling; 1 is none."""
    guidance_interval: tuple[float, ...] = (0.0, 1.0)
    """Times between which guidance acts."""
    noise: Literal["linear", "cubic", "independent"] = "linear"
    """How the noise goes on between the training pixels; the papers' is independent at each position."""
    align: Literal["none", "noise", "prediction"] = "none"
    """Superpose a structure, by rotation and shift, before the target is made: on the `noise` that it is mixed with, or on
    the data that the network's own answer predicts (SimpleFold; not in the paper)."""
    smooth_lddt: float = 0.0
    """Weight of 1 - smooth lDDT of the predicted structure, at every t; 0 leaves it out (SimpleFold has 1)."""
    smooth_lddt_ramp: float = 0.0
    """That weight becomes larger by this times (0.5 - t) where t is below 0.5 (8 in SimpleFold's schedule)."""
    copies: int = 1
    """Times and noises that each set is learned under in a step; its loss is their mean."""

    def __post_init__(self) -> None:
        if self.num_queries is not None and self.num_queries < 1:
            raise ValueError(f"`num_queries` is {self.num_queries}: at least 1, or leave it out to decode all")
        if self.time_deviation <= 0 or self.time_shift <= 0:
            raise ValueError("`time_deviation` and `time_shift` must be above 0")
        low, high = self.guidance_interval if len(self.guidance_interval) == 2 else (1.0, 0.0)
        if not 0.0 <= low < high <= 1.0:
            raise ValueError(f"`guidance_interval` is {list(self.guidance_interval)}: two times, as in [0.0, 1.0]")
        if not 0 <= self.guidance < math.inf:
            raise ValueError(f"`guidance` is {self.guidance}: 0 or more, 1 is none")
        for name in ("smooth_lddt", "smooth_lddt_ramp"):
            if not 0 <= getattr(self, name) < math.inf:
                raise ValueError(f"`{name}` is {getattr(self, name)}: 0 or more")
        if self.smooth_lddt_ramp > 0 and self.smooth_lddt == 0:
            raise ValueError(f"`smooth_lddt_ramp` is {self.smooth_lddt_ramp}, and `smooth_lddt`, which it raises, is 0")
        if self.copies < 1:
            raise ValueError(f"`copies` is {self.copies}: at least 1")


@dataclass(frozen=True)
class Drawing:
    """How a sample is drawn: the solver with its settings, and guidance.

    With a `guide`, the second velocity is that model's under the same condition (autoguidance, Karras et al. 2024,
    arXiv:2406.02507); without, it is this model's without condition (classifier-free guidance).
    """

    sampler: ModuleType
    config: Any
    guidance: float = 1.0
    interval: tuple[float, ...] = (0.0, 1.0)
    noise: str = "linear"
    guide: Flow | None = None
    precision: Literal["fp32", "bf16"] = "fp32"


def load_field(path: Path, preset: Preset, shape: SetShape, info: dict[str, Any], device: str) -> FlowField:
    """A field that was saved; see `FlowField.save`."""
    return _flow_field.load(path, preset, shape, info, Drawing, device)


def build(preset: Preset, shape: SetShape) -> Flow:
    """A flow model with the network and the condition that the preset names."""
    _structure_loss.check(preset.method.config, shape)
    part = preset.condition
    conditioners = None if part is None else registry.find("conditioners", part.name or "")
    told = ToldShape() if conditioners is None or part is None else conditioners.told_shape(part.config)
    network = registry.find("networks", preset.network.name or "").build(preset.network.config, shape, told)
    conditioner = None
    if conditioners is not None and part is not None:
        conditioner = conditioners.build(part.config, network.vector_width)
    return Flow(preset.method.config, network, conditioner, shape)


class Flow(nn.Module):
    """The loss that trains the network, and the fields that it draws."""

    def __init__(self, config: Config, network: nn.Module, conditioner: nn.Module | None, shape: SetShape) -> None:
        super().__init__()
        self.config = config
        self.shape = shape
        # Parts are found by name, so that no type says which methods they have: see docs/adding-a-method.md.
        self.network: Any = network
        self.conditioner: Any = conditioner
        self.path = paths.PATHS[config.path]
        # Sets of unequal size pass the network at once, padded, where processes must pass equally often (ZeRO stage 3).
        self.in_one_pack = False

    def forward(self, sets: CoordValueSet, stage: str = "train") -> Float[Tensor, " B"]:
        """The loss; engines that wrap a module call it this way."""
        return self.loss(sets, stage)

    def loss(self, sets: CoordValueSet, stage: str = "train") -> Float[Tensor, " B"]:
        """Mean squared error of the velocity over the queries of each set (INRFlow, equation 4).

        Context and queries share one noise. Everything random is keyed by `sets.seeds`. Sets of unequal size pass the
        network in packs of like sizes, so that little of its work goes to padding.
        """
        assert stage in STAGES
        if self.config.copies > 1:
            sets = _structure_loss.copied(sets, self.config.copies)
        return self._packed_loss(sets).unflatten(0, (-1, self.config.copies)).mean(1)

    def _packed_loss(self, sets: CoordValueSet) -> Float[Tensor, " B"]:
        if sets.queries.groups is None:
            return self._loss(sets)
        sizes = sets.queries.sizes or _sizes(sets.queries.groups)
        found = [list(range(len(sizes)))] if self.in_one_pack else packs([pairs for pairs, _ in sizes])
        device = sets.values.device
        order = [place for pack in found for place in pack]
        order = torch.tensor(order, pin_memory=device.type == "cuda").to(device, non_blocking=True)
        ordered, losses, start = sets[order], [], 0
        for pack in found:
            held = tuple(tuple(sizes[place]) for place in pack)
            losses.append(self._loss(_trimmed(ordered[start : start + len(pack)], held)))
            start += len(pack)
        loss = torch.cat(losses)
        return torch.zeros_like(loss).index_copy(0, order, loss)

    def _loss(self, sets: CoordValueSet) -> Float[Tensor, " B"]:
        if sets.mask is not None:  # whatever stands where nothing is known, it reaches nothing
            sets = replace(sets, values=sets.values.masked_fill(~sets.mask[..., None], 0))
        t = self.draw_times(sets.seeds).to(sets.values.dtype)
        places = sets.queries.places.long()  # a training set's are ids, or the lattice's own positions
        eps = noise.normal(sets.seeds, places, purpose="noise", channels=sets.values.shape[-1])
        data = rigid.align(sets.values, eps, sets.mask) if self.config.align == "noise" else sets.values
        y_t, velocity = paths.interpolate(self.path, data, eps, t)
        queries, y_query, target, mask = self._choose_queries(sets, y_t, velocity, t)
        told = self.told(sets.condition, dropped=self._dropped(sets.seeds))
        if sets.queries.sizes and len({groups for _, groups in sets.queries.sizes}) == 1:
            told = told._replace(is_group=None)  # none is padding, and attention without a mask is the quicker
        answer = self.network(sets.queries, y_t, t, told, queries, y_query, mask=sets.mask)
        return self._error(answer.float(), target.float(), y_query, t, mask)

    def _error(
        self,
        answer: Float[Tensor, "B M C"],
        target: Float[Tensor, "B M C"],
        y: Float[Tensor, "B M C"],
        t: Float[Tensor, " B"],
        mask: Bool[Tensor, "B M"] | None,
    ) -> Float[Tensor, " B"]:
        c = self.config
        aim = target
        if c.align == "prediction":
            aim = _structure_loss.superposed(self.path, answer, target, y, t, mask)
        error = (answer - aim).square().mean(-1)
        error = error.mean(-1) if mask is None else (error * mask).sum(-1) / mask.sum(-1).clamp(min=1)
        if c.smooth_lddt > 0:
            assert self.shape.unit is not None
            amiss = _structure_loss.disagreement(self.path, answer, target, y, t, mask, self.shape.unit)
            error = error + _structure_loss.weight(c, t) * amiss
        return error

    def draw_times(self, seeds: Int64[Tensor, " B"]) -> Float64[Tensor, " B"]:
        """One time in (0, 1) per set, by the density of the settings."""
        u = noise.uniform(seeds, purpose="time")[:, 0]
        c = self.config
        return paths.draw_times(c.time, u, mean=c.time_mean, deviation=c.time_deviation, shift=c.time_shift)

    def told(self, condition: Condition, *, dropped: Bool[Tensor, " B"] | None = None) -> Told:
        """What the network is told of a condition; nothing by a model without."""
        return Told() if self.conditioner is None else self.conditioner(condition, dropped)

    @property
    def is_guidable(self) -> bool:
        """Whether training dropped the condition now and then, so that the model knows what to hold it against."""
        return self.conditioner is not None and self.conditioner.dropout > 0

    def draw(self, context: Queries, seeds: Int64[Tensor, " B"], condition: Condition, drawing: Drawing) -> FlowField:
        """New functions, one per seed. `context` is the training grid, or the training number of points."""
        return FlowField(self, context, seeds, condition, drawing)

    def encode(self, sets: CoordValueSet, drawing: Drawing, progress: Progress | None = None) -> FlowField:
        """The functions behind given sets: their noise is found by solving the ODE from data to noise.

        Inside the training grid (or among the given points) that noise replaces the keyed one, which goes on outside.
        """
        field = FlowField(self, sets.queries, sets.seeds, sets.condition, drawing)
        field.start = field.to_noise(sets.values)
        return field.record(progress)

    def flops(self, num_queries: int | None = None) -> dict[str, float]:
        """Floating-point operations of one evaluation for one set, by part; training needs three times as many."""
        asked = num_queries or self.config.num_queries or self.shape.num_pairs
        return self.network.flops(min(asked, self.shape.num_pairs) if num_queries is None else asked)

    def _dropped(self, seeds: Int64[Tensor, " B"]) -> Bool[Tensor, " B"] | None:
        if not (self.is_guidable and self.training):
            return None
        return noise.uniform(seeds, purpose="drop")[:, 0] < self.conditioner.dropout

    def _choose_queries(
        self, sets: CoordValueSet, y_t: Float[Tensor, "B N C"], velocity: Float[Tensor, "B N C"], t: Float[Tensor, " B"]
    ) -> tuple[Queries, Float[Tensor, "B M C"], Float[Tensor, "B M C"], Bool[Tensor, "B M"] | None]:
        """The pairs to decode, their noisy values and velocities, and which are real: a random subset for each set."""
        count = self.config.num_queries or len(sets.queries)
        if self.config.query_positions == "anywhere" and self.shape.grid is not None:
            return (*self._queries_anywhere(sets, count, t), None)
        if count >= len(sets.queries):
            return sets.queries, y_t, velocity, sets.mask
        chosen = _subset(sets, count)
        coordinates, groups, mask = sets.queries.coordinates, sets.queries.groups, sets.mask
        if coordinates is not None:
            coordinates = coordinates[chosen] if coordinates.ndim == 2 else _take(coordinates, chosen)
        groups, mask = (None if kept is None else kept.gather(1, chosen) for kept in (groups, mask))
        queries = Queries(coordinates, sets.queries.places[:count], groups)
        return queries, _take(y_t, chosen), _take(velocity, chosen), mask

    def _queries_anywhere(
        self, sets: CoordValueSet, count: int, t: Float[Tensor, " B"]
    ) -> tuple[Queries, Float[Tensor, "B M C"], Float[Tensor, "B M C"]]:
        """Queries at random positions of the grid's square; data interpolated linearly, noise by the field's kernel."""
        grid = self.shape.grid
        assert grid is not None
        size = torch.tensor(grid, device=t.device, dtype=torch.float64)
        u = noise.uniform(sets.seeds, purpose="subset", count=count * len(grid)).unflatten(1, (count, len(grid)))
        places = u * (size - 1)
        eps = torch.cat(
            [
                noise.normal(
                    sets.seeds[i : i + 1],
                    places[i],
                    purpose="noise",
                    channels=sets.values.shape[-1],
                    kernel=self.config.noise,
                )
                for i in range(len(sets))
            ]
        )
        data = interpolate_grid(sets.values.unflatten(1, grid), places)
        y_query, velocity = paths.interpolate(self.path, data, eps, t)
        coordinates = ((2 * places + 1) / size - 1).to(sets.values.dtype)
        return Queries(coordinates, places[0]), y_query, velocity


def interpolate_grid(values: Float[Tensor, "B *grid C"], places: Float[Tensor, "B M D"]) -> Float[Tensor, "B M C"]:
    """Values of a grid at lattice positions between its pixels, linear along each axis, clamped at its edges."""
    size = values.shape[1:-1]
    low = torch.stack([places[..., d].floor().clamp(0, max(n - 2, 0)) for d, n in enumerate(size)], -1)
    weight = (places - low).clamp(0, 1).to(values.dtype)
    flat = values.flatten(1, -2)
    total = torch.zeros(*places.shape[:2], values.shape[-1], dtype=values.dtype, device=values.device)
    for corner in range(2 ** len(size)):
        index = torch.zeros(places.shape[:2], dtype=torch.int64, device=places.device)
        share = torch.ones(places.shape[:2], dtype=values.dtype, device=values.device)
        for d, n in enumerate(size):
            upper = (corner >> d) & 1
            index = index * n + (low[..., d].long() + upper).clamp(max=n - 1)
            share = share * (weight[..., d] if upper else 1 - weight[..., d])
        total += share[..., None] * _take(flat, index)
    return total


def packs(sizes: Sequence[int]) -> list[list[int]]:
    """Sets in packs of like sizes: padding each pack to its largest set costs at most `WASTE` times the pairs."""
    order = sorted(range(len(sizes)), key=lambda place: (-sizes[place], place))
    found: list[list[int]] = []
    real = 0
    for place in order:
        largest = sizes[found[-1][0]] if found else 0
        if found and (len(found[-1]) + 1) * largest <= WASTE * (real + sizes[place]):
            found[-1].append(place)
            real += sizes[place]
        else:
            found.append([place])
            real = sizes[place]
    return found


def _sizes(groups: Int64[Tensor, "B N"]) -> list[list[int]]:
    """Real pairs and groups of each set; waits for the device."""
    return torch.stack([(groups >= 0).sum(1), groups.amax(1) + 1], 1).tolist()


def _trimmed(sets: CoordValueSet, sizes: tuple[tuple[int, ...], ...]) -> CoordValueSet:
    """Sets in groups, of so many pairs and groups each, without the padding behind the largest."""
    pairs, groups = (max(size[of] for size in sizes) for of in (0, 1))
    return CoordValueSet(
        replace(sets.queries[:pairs], sizes=sizes),
        sets.values[:, :pairs],
        sets.seeds,
        {name: value[:, :groups] if name in PER_GROUP else value for name, value in sets.condition.items()},
        None if sets.mask is None else sets.mask[:, :pairs],
    )


def _subset(sets: CoordValueSet, count: int) -> Int64[Tensor, "B M"]:
    """`count` random pairs of each set, those that are masked only where it has too few others.

    Which of the others does not depend on the padding.
    """
    if sets.mask is None:
        return noise.subset(sets.seeds, len(sets.queries), count, purpose="subset")
    order = noise.uniform(sets.seeds, purpose="subset", count=len(sets.queries))
    return order.masked_fill(~sets.mask, 1).argsort(1)[:, :count]


def _take(values: Float[Tensor, "B N C"], index: Int64[Tensor, "B M"]) -> Float[Tensor, "B M C"]:
    return values.gather(1, index[..., None].expand(-1, -1, values.shape[-1]))
