"""Consistency training of hyper-networks: one call encodes a set as a neural function, one or two calls generate one.

Source: INRCT; its levels are kept: x_t = data + t noise, t = 0 is data. `clean`, the default, differs from the paper: the
function that the network writes from any level is the clean one, and the data are the target at low levels. docs/inrct.md
says why. `edm` is the paper's form (equations 12 to 16, algorithm 1).
"""

from __future__ import annotations

import copy
from typing import Any

import torch
from jaxtyping import Bool, Float, Float64, Int64
from torch import Tensor, nn

from inrflow_core.config.preset import Preset
from inrflow_core.errors import UsageError
from inrflow_core.methods._consistency_config import Config, SamplingConfig, SamplingOptions, sampling_options
from inrflow_core.methods._contract import Method, Stage, StepState
from inrflow_core.methods._inr_field import InrField, InrModel, load_field
from inrflow_core.methods._training_queries import jittered_grid, random_subset, select_pairs
from inrflow_core.networks._contract import HypernetworkPart, ReadoutPart
from inrflow_core.numerics import keyed_random, noise_field, preconditioning
from inrflow_core.runtime.progress import Progress
from inrflow_core.sets import Condition, ConditionEmbedding, CoordValueSet, Grid, Queries, Rays, SetSpec, TrainBatch

BOTH = {"main": ("hypernetwork", "readout")}
STAGES = (Stage("reconstruction", BOTH), Stage("full", BOTH))
NETWORKS = ("hypernetwork", "readout")
USES_SAMPLER = False
ENCODES = True
SMALL = 1e-12
"""Added to squared norms, whose root has no derivative at 0."""
__all__ = [
    "ENCODES",
    "NETWORKS",
    "STAGES",
    "USES_SAMPLER",
    "Config",
    "Consistency",
    "SamplingConfig",
    "SamplingOptions",
    "build",
    "load_field",
    "sampling_options",
]


def build(preset: Preset, spec: SetSpec) -> Consistency:
    """A consistency model with the hyper-network and the read-out that the preset names.

    Raises:
        UsageError: a condition, networks of other kinds, or settings that do not fit the sets.
    """
    if preset.condition is not None:
        raise UsageError("consistency models learn without a condition", hint="remove the table [condition]")
    parts = preset.networks["hypernetwork"], preset.networks["readout"]
    for name, part, kind in zip(NETWORKS, parts, (HypernetworkPart, ReadoutPart), strict=True):
        if not isinstance(part.module, kind):
            raise UsageError(
                f"`{part.name}` cannot be the {name} of a consistency model",
                hint="see docs/presets.md for those that can",
            )
    config: Config = preset.method.config
    if not config.is_clean and isinstance(spec.layout, Rays):
        raise UsageError(
            "`edm` adds noisy pixels to its answer, and rays of other views have none",
            hint='take `parametrization = "clean"`',
        )
    hypernetwork, readout = parts
    function = readout.module.build_readout(readout.config, spec)
    return Consistency(
        config, hypernetwork.module.build_hypernetwork(hypernetwork.config, spec, function.token_shape), function, spec
    )


class Consistency(nn.Module, Method):
    """The training losses of a hyper-network and its read-out, and the fields that they write."""

    STAGES = STAGES
    TRAINING_ONLY = ("teacher",)

    def __init__(self, config: Config, hypernetwork: nn.Module, readout: nn.Module, spec: SetSpec) -> None:
        super().__init__()
        self.config, self.shape = config, spec
        self.hypernetwork: Any = hypernetwork
        self.readout: Any = readout
        self.conditioner = None
        self.teacher: nn.ModuleDict | None = None
        self.scalings = preconditioning.Scalings(config.sigma_data)

    def networks(self) -> dict[str, nn.Module]:
        """The hyper-network and the read-out; the teacher is not trained."""
        return {"hypernetwork": self.hypernetwork, "readout": self.readout}

    def begin_stage(self, stage: str) -> None:
        """Copy the teacher where the stage `full` begins."""
        if stage == "full" and self.config.teacher_decay > 0:
            self.teacher = nn.ModuleDict(copy.deepcopy(self.networks())).requires_grad_(False)

    def after_step(self, state: StepState) -> None:
        """Move the teacher."""
        if self.teacher is not None:
            weights: list[Tensor] = [weight for network in self.networks().values() for weight in network.parameters()]
            averages: list[Tensor] = list(self.teacher.parameters())
            torch._foreach_lerp_(averages, weights, 1 - self.config.teacher_decay)  # pyright: ignore[reportPrivateImportUsage]

    def loss(self, batch: TrainBatch, state: StepState, optimizer: str = "main") -> Float[Tensor, " B"]:
        """Distance of the decoded values to their target, of each set.

        In the stage `reconstruction` the target is the data, at levels below `reconstruction_below`. In the stage `full` it is
        the teacher's answer to the same noise at a lower level, or the data where that level is low. Everything random is
        keyed by the seeds of the sets.
        """
        c, sets = self.config, batch.context
        queries, y, noise, query_noise = self._training_pairs(batch)
        t = self.sample_levels(sets.seeds, state.stage)
        answer = self._decode(self.networks(), sets, noise, t, queries)
        if state.stage == "reconstruction":
            return self._distance(answer, y)
        halvings = preconditioning.num_halvings(state.step, state.num_steps, c.max_halvings)
        r = preconditioning.lower_levels(t, halvings, least=c.t_min)
        is_anchored = r < max(c.anchor, c.t_min)
        target = y
        if halvings:  # else every r is 0
            taught = self._teach(sets, noise, r, queries, ~is_anchored)
            taught = self._consistency(taught, y, query_noise, r)
            taught = taught.clamp(-1, 1) if c.clip else taught
            target = torch.where(is_anchored[:, None, None], y, taught)
        result = self._consistency(answer, y, query_noise, t)
        loss = self._distance(result, target)
        if not c.is_clean:  # the paper's further terms
            loss = loss + torch.where(t < c.reconstruction_below, self._distance(answer, y), 0)
            loss = loss + torch.where(t < c.denoise_below, self._distance(result, y), 0)
        return self._weight(t, r).to(loss.dtype) * loss

    def sample_levels(self, seeds: Int64[Tensor, " B"], stage: str) -> Float64[Tensor, " B"]:
        """The level of each set: uniform and low for reconstruction, else log-normal with a share of low ones."""
        c = self.config
        u = keyed_random.uniform(seeds, purpose="time", count=2)
        low = c.t_min + (c.reconstruction_below - c.t_min) * u[:, 0]
        if stage == "reconstruction":
            return c.reconstruction_below * u[:, 0] if not c.is_clean else low
        t = preconditioning.sample_levels(u[:, 0], mean=c.time_mean, deviation=c.time_std, low=c.t_min, high=c.t_max)
        return torch.where(u[:, 1] < c.share_reconstructed, low, t)

    def embed_condition(self, condition: Condition, *, dropped: Bool[Tensor, " B"] | None = None) -> ConditionEmbedding:
        """Empty: there is no condition."""
        return ConditionEmbedding()

    def sample(
        self, context: Queries, seeds: Int64[Tensor, " B"], condition: Condition, options: SamplingOptions
    ) -> InrField:
        """New functions, one per seed, written from pure noise. `context` are the training queries."""
        return InrField(self._model(), context, seeds, condition, options)

    def invert(self, sets: CoordValueSet, options: SamplingOptions, progress: Progress | None = None) -> InrField:
        """The functions that one call encodes given sets as, at the lowest level and without noise."""
        field = InrField(self._model(), sets.queries, sets.seeds, sets.condition, options)
        field.encode(sets.values)
        if progress is not None:
            progress(1, 1)
        return field

    def _model(self) -> InrModel:
        return InrModel(self.hypernetwork, self.readout, self.shape, self.config)

    def _training_pairs(
        self, batch: TrainBatch
    ) -> tuple[Queries, Float[Tensor, "B M C"], Float[Tensor, "B N C"], Float[Tensor, "B M C"] | None]:
        """The queries to decode with their data, the noise of the context, and of the queries where they are of the context."""
        c, sets = self.config, batch.context
        noise = noise_field.normal(
            sets.seeds, sets.queries.noise_keys.long(), purpose="noise", channels=sets.values.shape[-1]
        )
        steps = batch.queries.queries.cell_sizes
        if steps is not None and steps.ndim and (c.coordinate_jitter or not c.is_clean):
            raise UsageError(
                "[domain] `scales` gives every image a grid of its own, and `coordinate_jitter` and `edm` are of one grid",
                hint='leave `scales` out, or set `coordinate_jitter = 0` and `parametrization = "clean"`',
            )
        query_noise = noise if batch.is_shared else None
        decoded = batch.queries
        queries, y = decoded.queries, decoded.values
        if c.num_queries is not None and c.num_queries < len(queries):
            subset = random_subset(decoded, c.num_queries)
            queries, y, query_noise = select_pairs(queries, subset, y, query_noise)
        if c.coordinate_jitter and isinstance(self.shape.layout, Grid):
            queries = jittered_grid(queries, decoded.seeds, self.shape.layout.shape, c.coordinate_jitter)
        return queries, y, noise, query_noise

    def _decode(
        self,
        networks: Any,
        sets: CoordValueSet,
        noise: Float[Tensor, "B N C"],
        t: Float64[Tensor, " B"],
        queries: Queries,
    ) -> Float[Tensor, "B M C"]:
        """The function that some networks write from the noisy context, at the queries."""
        noisy = sets.values + t.to(noise.dtype)[:, None, None] * noise
        model = InrModel(networks["hypernetwork"], networks["readout"], self.shape, self.config)
        tokens = model.write_tokens(sets.queries, noisy, t)
        return model.readout.query(model.readout.prepare(tokens), queries, seeds=sets.seeds).float()

    @torch.no_grad()
    def _teach(
        self,
        sets: CoordValueSet,
        noise: Float[Tensor, "B N C"],
        r: Float64[Tensor, " B"],
        queries: Queries,
        is_used: Bool[Tensor, " B"],
    ) -> Float[Tensor, "B M C"]:
        """The teacher's values at the levels r; on a CPU of the sets alone whose values are used."""
        networks = self.networks() if self.teacher is None else self.teacher
        if is_used.device.type != "cpu" or type(is_used) is not Tensor:  # reading it would wait, or it has no numbers
            return self._decode(networks, sets, noise, r, queries)
        rows = is_used.nonzero()[:, 0]
        values = torch.zeros(len(sets), len(queries), sets.values.shape[-1])
        if len(rows):
            values[rows] = self._decode(networks, sets[rows], noise[rows], r[rows], queries.select_sets(rows))
        return values

    def _consistency(
        self,
        answer: Float[Tensor, "B M C"],
        y: Float[Tensor, "B M C"],
        noise: Float[Tensor, "B M C"] | None,
        t: Float64[Tensor, " B"],
    ) -> Float[Tensor, "B M C"]:
        """f(x_t, t): the answer itself, or the paper's c_skip(t) x_t + c_out(t) answer (equation 12)."""
        if self.config.is_clean:
            return answer
        assert noise is not None, "`edm` decodes at the pairs of the context"
        skip, out, level = (
            each.to(y.dtype)[:, None, None] for each in (self.scalings.c_skip(t), self.scalings.c_out(t), t)
        )
        return skip * (y + level * noise) + out * answer

    def _distance(self, one: Float[Tensor, "B M C"], other: Float[Tensor, "B M C"]) -> Float[Tensor, " B"]:
        """The norm of the difference over all values of a set, not squared (INRCT, appendix B.1), or its pseudo-Huber form."""
        square, c = (one - other).square().sum((1, 2)), self.config.huber
        return torch.sqrt(square + (c * c or SMALL)) - c

    def _weight(self, t: Float64[Tensor, " B"], r: Float64[Tensor, " B"]) -> Float64[Tensor, " B"]:
        match self.config.loss_weight:
            case "output":
                return self.scalings.c_out(t) / t
            case "gap":
                return 1 / (t - r)
            case "time":
                return 1 / t
            case _:
                return torch.ones_like(t)
