"""Flow matching on coordinate-value sets: INRFlow and its earlier version, ASFT.

Source: INRFlow, arXiv:2412.03791, sections 3.2 to 3.4 and appendix H. Its times are kept: t = 0 is data, t = 1 is
noise, and the velocity is dy/dt. The network encodes the whole noisy set (the context) into latents and decodes each
query from the latents alone (equation 4): queries never see each other and never change the latents, so that a sample
is a function, a `FlowField`.
"""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import torch
from jaxtyping import Bool, Float, Float64, Int64
from torch import Tensor, nn

from inrflow_core.config.preset import Preset
from inrflow_core.errors import UsageError
from inrflow_core.geometry import rigid_motion
from inrflow_core.methods import _set_coupling, _structure_loss
from inrflow_core.methods._contract import Method, Stage, StepState
from inrflow_core.methods._flow_config import Config
from inrflow_core.methods._flow_field import FlowField
from inrflow_core.methods._flow_field_file import load_field
from inrflow_core.methods._flow_sampling import SamplingConfig, SamplingOptions, sampling_options
from inrflow_core.methods._ragged_batches import bucket_by_size, set_sizes, trim_padding
from inrflow_core.methods._training_queries import Noisy, choose_queries
from inrflow_core.methods._velocity_model import VelocityModel
from inrflow_core.numerics import keyed_random, noise_field, paths
from inrflow_core.runtime.progress import Progress
from inrflow_core.sets import Condition, ConditionEmbedding, ConditionSpec, CoordValueSet, Queries, SetSpec, TrainBatch

STAGES = (Stage("train"),)
NETWORKS = ("network",)
USES_SAMPLER = True
__all__ = [
    "NETWORKS",
    "STAGES",
    "USES_SAMPLER",
    "Config",
    "FlowMatching",
    "SamplingConfig",
    "SamplingOptions",
    "build",
    "load_field",
    "sampling_options",
]


def build(preset: Preset, spec: SetSpec) -> FlowMatching:
    """A flow model with the network and the condition that the preset names."""
    _structure_loss.check(preset.method.config, spec)
    _set_coupling.check(preset.method.config, spec)
    part = preset.condition
    condition = ConditionSpec() if part is None else part.module.spec(part.config)
    network = preset.network.module.build(preset.network.config, spec, condition)
    conditioner = None if part is None else part.module.build(part.config, network.vector_width)
    return FlowMatching(preset.method.config, network, conditioner, spec)


class FlowMatching(nn.Module, Method):
    """The training loss of a velocity network, and the fields that are sampled from it."""

    STAGES = STAGES

    def __init__(self, config: Config, network: nn.Module, conditioner: nn.Module | None, shape: SetSpec) -> None:
        super().__init__()
        self.config = config
        self.shape = shape
        # Parts are found by name; their members are those of the contracts, see docs/adding-a-method.md.
        self.network: Any = network
        self.conditioner: Any = conditioner
        self.path = paths.PATHS[config.path]

    def networks(self) -> dict[str, nn.Module]:
        """The one network."""
        return {"network": self.network}

    def forward(self, batch: TrainBatch) -> Float[Tensor, " B"]:
        """The loss."""
        return self.loss(batch)

    def prepare_batch(self, batch: TrainBatch) -> TrainBatch:
        """Sets whose points are in the order that `coupling` fits to their noise."""
        if self.config.coupling == "independent":
            return batch
        return batch.apply(lambda sets: _set_coupling.couple(self.config, sets))

    def loss(self, batch: TrainBatch, state: StepState | None = None, optimizer: str = "main") -> Float[Tensor, " B"]:
        """Mean squared error of the velocity over the queries of each set (INRFlow, equation 4).

        Context and queries share one noise and one time. Everything random is keyed by the seeds of the sets. Sets of unequal
        size pass the network in buckets of similar sizes, which limits padding.

        Raises:
            UsageError: `align = "noise"` with queries other than the context's.
        """
        if self.config.noise_draws_per_example > 1:
            batch = batch.apply(
                lambda sets: _structure_loss.repeat_with_new_noise(sets, self.config.noise_draws_per_example)
            )
        return self._bucketed_loss(batch).unflatten(0, (-1, self.config.noise_draws_per_example)).mean(1)

    def _bucketed_loss(self, batch: TrainBatch) -> Float[Tensor, " B"]:
        sets = batch.context
        if sets.queries.group_ids is None or not batch.is_shared:
            return self._loss(batch)
        sizes = sets.queries.valid_sizes or set_sizes(sets.queries.group_ids)
        buckets = [list(range(len(sizes)))] if self.use_single_bucket else bucket_by_size([pairs for pairs, _ in sizes])
        device = sets.values.device
        order = [row for bucket in buckets for row in bucket]
        order = torch.tensor(order, pin_memory=device.type == "cuda").to(device, non_blocking=True)
        ordered, losses, start = sets[order], [], 0
        for bucket in buckets:
            trimmed = trim_padding(ordered[start : start + len(bucket)], tuple(tuple(sizes[row]) for row in bucket))
            losses.append(self._loss(TrainBatch.from_sets(trimmed)))
            start += len(bucket)
        loss = torch.cat(losses)
        return torch.zeros_like(loss).index_copy(0, order, loss)

    def _loss(self, batch: TrainBatch) -> Float[Tensor, " B"]:
        batch = batch.apply(_zero_at_padding)
        sets = batch.context
        t = self.sample_times(sets.seeds).to(sets.values.dtype)
        noise_keys = sets.queries.noise_keys.long()  # integers in training: ids, or positions of the grid
        eps = noise_field.normal(sets.seeds, noise_keys, purpose="noise", channels=sets.values.shape[-1])
        data = rigid_motion.kabsch_align(sets.values, eps, sets.mask) if self.config.align == "noise" else sets.values
        y_t, velocity = paths.interpolate(self.path, data, eps, t)
        noisy = (y_t, velocity, t) if batch.is_shared else self._noisy_queries(batch.queries, t)
        queries, y_query, target, mask = choose_queries(self.config, self.path, self.shape, batch, noisy)
        embedding = self.embed_condition(sets.condition, dropped=self._dropped(sets.seeds))
        if sets.queries.valid_sizes and len({groups for _, groups in sets.queries.valid_sizes}) == 1:
            embedding = embedding._replace(is_group=None)  # there is no padding, and attention without a mask is faster
        output = self.network(sets.queries, y_t, t, embedding, queries, y_query, mask=sets.mask)
        return self._error(output.float(), target.float(), y_query, t, mask)

    def _noisy_queries(self, sets: CoordValueSet, t: Float[Tensor, " B"]) -> Noisy:
        """Noisy values of query sets that are not the context: with the context's noise, which is a function, and its times."""
        if self.config.align == "noise":
            raise UsageError(
                "[method] `align` is `noise`, which superposes a context on its noise, and the queries are not the context's",
                hint="leave `align` out",
            )
        steps = sets.queries.cell_sizes
        if steps is not None and steps.ndim:
            raise UsageError(
                "[domain] `scales` gives every image a grid of its own, and the noise of flow matching is that of one grid",
                hint="leave `scales` out, or take a method that encodes, such as `latent`",
            )
        eps = noise_field.normal(
            sets.seeds,
            sets.queries.noise_keys,
            purpose="noise",
            channels=sets.values.shape[-1],
            kernel=self.config.noise,
        )
        return (*paths.interpolate(self.path, sets.values, eps, t), t)

    def _error(
        self,
        output: Float[Tensor, "B M C"],
        target: Float[Tensor, "B M C"],
        y: Float[Tensor, "B M C"],
        t: Float[Tensor, " B"],
        mask: Bool[Tensor, "B M"] | None,
    ) -> Float[Tensor, " B"]:
        c = self.config
        aligned_target = target
        if c.align == "prediction":
            aligned_target = _structure_loss.aligned_velocity_target(self.path, output, target, y, t, mask)
        error = (output - aligned_target).square().mean(-1)
        error = error.mean(-1) if mask is None else (error * mask).sum(-1) / mask.sum(-1).clamp(min=1)
        if c.smooth_lddt > 0:
            assert self.shape.unit is not None
            lddt_loss = _structure_loss.smooth_lddt_loss(self.path, output, target, y, t, mask, self.shape.unit)
            error = error + _structure_loss.smooth_lddt_weight(c, t) * lddt_loss
        return error

    def sample_times(self, seeds: Int64[Tensor, " B"]) -> Float64[Tensor, " B"]:
        """One time in (0, 1) per set, by the density of the settings."""
        u = keyed_random.uniform(seeds, purpose="time")[:, 0]
        c = self.config
        return paths.sample_times(c.time, u, mean=c.time_mean, deviation=c.time_std, shift=c.time_shift)

    def embed_condition(self, condition: Condition, *, dropped: Bool[Tensor, " B"] | None = None) -> ConditionEmbedding:
        """The embedding of a condition; an empty one of a model without conditions. `dropped` marks unconditional sets."""
        return self.velocity_model().embed_condition(condition, dropped=dropped)

    @property
    def is_guidable(self) -> bool:
        """Whether training dropped the condition at times, so that there is a velocity without condition."""
        return self.velocity_model().is_guidable

    def velocity_model(self) -> VelocityModel:
        """The model that fields are sampled from; it can guide another model."""
        return VelocityModel(self.network, self.path, self.shape, self.conditioner)

    def sample(
        self, context: Queries, seeds: Int64[Tensor, " B"], condition: Condition, options: SamplingOptions
    ) -> FlowField:
        """New functions, one per seed. `context` is the training grid, or the training number of points."""
        return FlowField(self.velocity_model(), context, seeds, condition, options)

    def invert(self, sets: CoordValueSet, options: SamplingOptions, progress: Progress | None = None) -> FlowField:
        """The functions whose values at `sets.queries` are `sets.values`: the ODE is solved from data to noise.

        The context is cached. At its positions the noise from inversion replaces the keyed noise, which continues elsewhere.
        `progress` counts the evaluations to the noise and back.
        """
        field = FlowField(self.velocity_model(), sets.queries, sets.seeds, sets.condition, options)
        total = 0

        def to_noise(done: int, of: int) -> None:
            nonlocal total
            total = of
            if progress is not None:
                progress(done, 2 * of)

        def to_data(done: int, of: int) -> None:  # as many evaluations as to the noise
            if progress is not None:
                progress(total + total * done // of, 2 * total)

        field.start = field.to_noise(sets.values, progress=to_noise)
        return field.cache_context(to_data)

    def _dropped(self, seeds: Int64[Tensor, " B"]) -> Bool[Tensor, " B"] | None:
        if not (self.is_guidable and self.training):
            return None
        return keyed_random.uniform(seeds, purpose="drop")[:, 0] < self.conditioner.dropout


def _zero_at_padding(sets: CoordValueSet) -> CoordValueSet:
    """The sets with the values at padding set to 0, so that they have no influence."""
    return sets if sets.mask is None else replace(sets, values=sets.values.masked_fill(~sets.mask[..., None], 0))
