"""Latent diffusion of functions: an autoencoder whose decoder leaves basis fields, then a denoiser of its latents.

Source: DDMI, arXiv:2401.12517, section 3. The first stage trains a variational autoencoder from discrete data to
continuous functions (D2C-VAE, equations 8 and 9); the second one a diffusion model of its latents (equation 10), which here
predicts a velocity on the paths of the other methods, so that the samplers are theirs. docs/ddmi.md says what differs from the
paper, and why.
"""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from jaxtyping import Bool, Float, Float64, Int64
from torch import Tensor, nn

from inrflow_core.config.preset import Preset
from inrflow_core.errors import UsageError
from inrflow_core.feature_networks._contract import find_distance
from inrflow_core.layers.patch_discriminator import PatchDiscriminator
from inrflow_core.methods._autoencoder_loss import Latents, error_of_values, total, training_pairs
from inrflow_core.methods._contract import Method, Stage, StepState
from inrflow_core.methods._flow_sampling import SamplingOptions
from inrflow_core.methods._image_losses import (
    adaptive_weight,
    check_adversary,
    check_perceptual,
    hinge_loss,
    logits,
    perceptual_distance,
)
from inrflow_core.methods._latent_config import Config, SamplingConfig, check_stages, sampling_options
from inrflow_core.methods._latent_field import LatentField, load_field
from inrflow_core.methods._latent_mixing import ConditionedDenoiser
from inrflow_core.networks._contract import AutoencoderPart, DenoiserPart, FieldReadoutPart
from inrflow_core.numerics import keyed_random, noise_field, paths
from inrflow_core.runtime.progress import Progress
from inrflow_core.sets import Condition, ConditionEmbedding, ConditionSpec, CoordValueSet, Queries, SetSpec, TrainBatch
from inrflow_core.shards.manifest import ChannelStats

LATENTS = "latents"
STAGES = (
    Stage("autoencoder", {"main": ("autoencoder", "readout")}),
    Stage("diffusion", {"main": ("denoiser",)}, reads=LATENTS),
)
DISCRIMINATOR = "discriminator"
LPIPS = "lpips"
"""The network of the perceptual loss."""
NETWORKS = ("autoencoder", "readout", "denoiser")
USES_SAMPLER = True
ENCODES = True
__all__ = [
    "ENCODES",
    "NETWORKS",
    "STAGES",
    "USES_SAMPLER",
    "Config",
    "LatentDiffusion",
    "SamplingConfig",
    "SamplingOptions",
    "build",
    "check_stages",
    "load_field",
    "pretrained",
    "sampling_options",
    "stages",
]


def stages(config: Config) -> tuple[Stage, ...]:
    """The stages with these settings: with an adversary the first one has a second optimizer."""
    if not config.adversarial:
        return STAGES
    first, *others = STAGES
    return (Stage(first.name, {**first.optimizers, DISCRIMINATOR: (DISCRIMINATOR,)}), *others)


def pretrained(config: Config) -> dict[str, dict[str, str | None]]:
    """Of the stage `autoencoder`: LPIPS and its file, with a perceptual loss."""
    return {STAGES[0].name: {LPIPS: config.perceptual_weights}} if config.perceptual else {}


def build(preset: Preset, spec: SetSpec) -> LatentDiffusion:
    """A model with the networks and the condition that the preset names.

    Raises:
        UsageError: networks of other kinds, or settings that do not fit the sets.
    """
    parts = [preset.networks[name] for name in NETWORKS]
    for name, part, kind in zip(NETWORKS, parts, (AutoencoderPart, FieldReadoutPart, DenoiserPart), strict=True):
        if not isinstance(part.module, kind):
            raise UsageError(
                f"`{part.name}` cannot be the {name} of latent diffusion",
                hint="see docs/presets.md for those that can",
            )
    first, readout, denoiser = parts
    autoencoder = first.module.build_autoencoder(first.config, spec)
    widths = [shape[0] for shape in first.module.field_shapes(first.config, spec)]
    condition = preset.condition
    described = ConditionSpec() if condition is None else condition.module.spec(condition.config)
    network = denoiser.module.build_denoiser(denoiser.config, autoencoder.latent_spec, described)
    conditioner = None if condition is None else condition.module.build(condition.config, network.vector_width)
    channels = autoencoder.latent_spec.value_size
    return LatentDiffusion(
        preset.method.config,
        autoencoder,
        readout.module.build_field_readout(readout.config, spec, widths),
        ConditionedDenoiser(network, conditioner, preset.method.config.path, channels),
        spec,
    )


class LatentDiffusion(nn.Module, Method):
    """The losses of both stages, and the fields that are drawn or encoded."""

    PRETRAINED = ("perceptual",)

    discriminator: PatchDiscriminator
    latent_mean: Tensor
    latent_std: Tensor

    def __init__(
        self, config: Config, autoencoder: nn.Module, readout: nn.Module, denoiser: ConditionedDenoiser, spec: SetSpec
    ) -> None:
        super().__init__()
        self.config, self.shape = config, spec
        self.STAGES: tuple[Stage, ...] = stages(config)
        self.autoencoder: Any = autoencoder
        self.readout: Any = readout
        self.denoiser = denoiser
        if config.adversarial:
            check_adversary(spec)
            width, depth = config.discriminator_width, config.discriminator_depth
            self.discriminator = PatchDiscriminator(spec.value_size, width, depth)
        self.perceptual: Any = None
        if config.perceptual:
            check_perceptual(spec, find_distance(LPIPS).LPIPS.least_side)
        self._terms: dict[str, Tensor] = {}
        self.path = paths.PATHS[config.path]
        self.error = error_of_values(config, spec)
        latents: SetSpec = self.autoencoder.latent_spec
        self.num_latents, channels = latents.num_queries, latents.value_size
        self.register_buffer("latent_mean", torch.zeros(channels))
        self.register_buffer("latent_std", torch.ones(channels))

    @property
    def conditioner(self) -> Any:
        """What embeds conditions; None for models without conditions."""
        return self.denoiser.conditioner

    @property
    def is_guidable(self) -> bool:
        """Whether training dropped the condition at times, so that there is a velocity without condition."""
        return self.conditioner is not None and self.conditioner.dropout > 0

    def networks(self) -> dict[str, nn.Module]:
        """The networks of presets, and the discriminator if there is one; the conditioner belongs to the denoiser."""
        names = (*NETWORKS, DISCRIMINATOR) if self.config.adversarial else NETWORKS
        return {name: getattr(self, name) for name in names}

    def begin_stage(self, stage: str) -> None:
        """The network of the perceptual loss is there in the first stage alone, without numbers until `load_pretrained`."""
        is_used = self.config.perceptual > 0 and stage == STAGES[0].name
        self.perceptual, self._terms = find_distance(LPIPS).LPIPS() if is_used else None, {}

    def load_pretrained(self, files: Mapping[str, Path]) -> None:
        """Read the weights of LPIPS in the stage that uses them."""
        if self.perceptual is not None:
            self.perceptual.load(files[LPIPS])

    def loss_terms(self) -> Mapping[str, Float[Tensor, ""]]:
        """`perceptual`: LPIPS of the last loss of the autoencoder, not weighted."""
        return self._terms

    def compiled_modules(self) -> list[nn.Module]:
        """The networks of the autoencoder, encoder and decoder among them, the denoiser and the discriminator; not the read-out,
        whose queries are a method of it."""
        others = [self.discriminator] if self.config.adversarial else []
        return [*self.autoencoder.children(), self.denoiser, *others]

    def loss(self, batch: TrainBatch, state: StepState, optimizer: str = "main") -> Float[Tensor, " B"]:
        """The loss of each set.

        In the stage `autoencoder` it is the error of the decoded values, if set a perceptual distance, plus the weighted
        divergence of the latents' Gaussians from the standard normal (equation 9), means or sums over values and latents; in the
        stage `diffusion` the mean squared error of the velocity, or on the path `scaled-linear` of the noise, of latents drawn
        from their Gaussians. Everything random is keyed by the seeds of the sets.
        """
        if optimizer == DISCRIMINATOR:
            return self._discriminator_loss(batch, state)
        if state.stage == "autoencoder":
            return self._autoencoder_loss(batch, state)
        return self._diffusion_loss(batch.context)

    def precompute(self, name: str, sets: CoordValueSet) -> Float[Tensor, "B K E"]:
        """Mean and logarithm of the variance of the latents, one after the other along the channels."""
        assert name == LATENTS
        mean, std = self.autoencoder.encode(sets.values)
        return torch.cat([mean, 2 * std.log()], -1)

    def measured_channels(self, name: str, values: Float[Tensor, "B K E"]) -> Float[Tensor, "B K E"]:
        """Mean and variance of the latents."""
        mean, log_variance = values.chunk(2, -1)
        return torch.cat([mean, log_variance.exp()], -1)

    def begin_precomputed(self, name: str, statistics: ChannelStats) -> None:
        """Take over mean and deviation of each latent channel, unless latents are used as they are.

        The variance is that of the means, and the mean of the variances.
        """
        if not self.config.standardize:
            return
        mean, within = torch.tensor(statistics.mean).double().chunk(2)
        between, _ = torch.tensor(statistics.std).double().chunk(2)
        self.latent_mean.copy_(mean)
        self.latent_std.copy_((between.square() + within).sqrt().clamp(min=1e-6))

    def unscaled(self, latents: Float[Tensor, "B K E"]) -> Float[Tensor, "B K E"]:
        """The denoiser's latents in the autoencoder's scale."""
        return latents * self.latent_std + self.latent_mean

    def sample_times(self, seeds: Int64[Tensor, " B"]) -> Float64[Tensor, " B"]:
        """One time in (0, 1] per set, by the density of the settings."""
        u, c = keyed_random.uniform(seeds, purpose="time")[:, 0], self.config
        return paths.sample_times(c.time, u, mean=c.time_mean, deviation=c.time_std, shift=c.time_shift)

    def embed_condition(self, condition: Condition, *, dropped: Bool[Tensor, " B"] | None = None) -> ConditionEmbedding:
        """The embedding of a condition; an empty one of a model without conditions. `dropped` marks unconditional sets."""
        return ConditionEmbedding() if self.conditioner is None else self.conditioner(condition, dropped)

    def null_condition(self, count: int) -> ConditionEmbedding:
        """The embedding of no condition, for `count` sets; only of a model that `is_guidable`."""
        return self.conditioner.null_condition(count)

    def sample(
        self, context: Queries, seeds: Int64[Tensor, " B"], condition: Condition, options: SamplingOptions
    ) -> LatentField:
        """New functions, one per seed; the training queries `context` are not needed."""
        return LatentField(self, self.shape, seeds, condition, options)

    def invert(self, sets: CoordValueSet, options: SamplingOptions, progress: Progress | None = None) -> LatentField:
        """The functions behind the means of the latents of given sets."""
        field = LatentField(self, self.shape, sets.seeds, sets.condition, options)
        with (
            torch.no_grad(),
            torch.autocast(sets.values.device.type, torch.bfloat16, enabled=options.precision == "bf16"),
        ):
            mean, _ = self.autoencoder.encode(sets.values)
        field.set_latents(mean)
        if progress is not None:
            progress(1, 1)
        return field

    def _autoencoder_loss(self, batch: TrainBatch, state: StepState) -> Float[Tensor, " B"]:
        queries, values = training_pairs(self.config, batch.queries)
        made, latents = self._decode(batch, queries)
        error = self.error(made, values).mean((1, 2))
        if self.perceptual is not None:
            distance = perceptual_distance(self.perceptual, self.shape, queries, made, values)
            self._terms = {"perceptual": distance.detach().mean()}
            error = error + self.config.perceptual * distance
        if self.config.is_adversarial(state.step) and torch.is_grad_enabled():
            score = -logits(self.discriminator, self.shape, queries, made).mean((1, 2))
            ratio = adaptive_weight(error.mean(), score.mean(), self.readout.last_weight)
            error = error + self.config.adversarial * ratio * score
        kl = self.config.kl_at(state.step, state.num_steps)
        return total(self.config, error, latents, kl, values[0].numel())

    def _discriminator_loss(self, batch: TrainBatch, state: StepState) -> Float[Tensor, " B"]:
        if not self.config.is_adversarial(state.step):  # 0, in a graph of the weights
            sums = torch.stack([weight.sum() for weight in self.discriminator.parameters()])
            return (0 * sums.sum()).expand(len(batch))
        queries, values = training_pairs(self.config, batch.queries)
        with torch.no_grad():
            made, _ = self._decode(batch, queries)
        return hinge_loss(*(logits(self.discriminator, self.shape, queries, each) for each in (values, made)))

    def _decode(self, batch: TrainBatch, queries: Queries) -> tuple[Float[Tensor, "B M C"], Latents]:
        """The values that are decoded at the queries from latents drawn for the context, and their Gaussians."""
        latents = Latents(*self.autoencoder.encode(batch.context.values))
        drawn = latents.mean + latents.std * self._latent_noise(batch.context.seeds)
        fields = self.autoencoder.decode(drawn)
        return self.readout.query(fields, queries, seeds=batch.queries.seeds).float(), latents

    def _diffusion_loss(self, sets: CoordValueSet) -> Float[Tensor, " B"]:
        mean, log_variance = sets.values.float().chunk(2, -1)
        latents = (
            mean + (log_variance / 2).exp() * self._latent_noise(sets.seeds) - self.latent_mean
        ) / self.latent_std
        t = self.sample_times(sets.seeds).to(latents.dtype)
        eps = noise_field.normal(
            sets.seeds, sets.queries.noise_keys.long(), purpose="noise", channels=latents.shape[-1]
        )
        y_t, velocity = paths.interpolate(self.path, latents, eps, t)
        embedding = self.embed_condition(sets.condition, dropped=self._dropped(sets.seeds))
        target = self.denoiser.target(eps, velocity)
        return (self.denoiser(y_t, t, embedding).float() - target).square().mean((1, 2))

    def _latent_noise(self, seeds: Int64[Tensor, " B"]) -> Float[Tensor, "B K E"]:
        """The noise of the latents' own Gaussians."""
        spec = self.autoencoder.latent_spec
        cells = torch.arange(spec.num_queries, device=seeds.device)
        return noise_field.normal(seeds, cells, purpose="latents", channels=spec.value_size)

    def _dropped(self, seeds: Int64[Tensor, " B"]) -> Bool[Tensor, " B"] | None:
        if not (self.is_guidable and self.training):
            return None
        return keyed_random.uniform(seeds, purpose="drop")[:, 0] < self.conditioner.dropout
