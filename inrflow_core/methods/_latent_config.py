"""Settings and sampling options of latent diffusion."""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Literal

import torch

from inrflow_core.config.preset import Part
from inrflow_core.config.typed import settings
from inrflow_core.errors import UsageError
from inrflow_core.methods._flow_sampling import SamplingOptions, acting_guidance, check_guidance
from inrflow_core.models import Model

ADVERSARY = ("adversarial_start", "discriminator_width", "discriminator_depth")
"""Settings that act with an adversary alone."""


@dataclass(frozen=True)
class Config:
    """Settings of `[method]`; docs/ddmi.md says where they differ from the paper, and why."""

    reconstruction: Literal["l1", "l2", "cross-entropy"] | None = None
    """Error of the autoencoder's values: absolute, squared, or of occupancies the cross-entropy of
    their logits, in nats. None: the cross-entropy of occupancies, the absolute error of other values."""
    reduction: Literal["mean", "sum"] = "mean"
    """Of the error over the values of a set, and of the divergence over its latents. `sum` is the paper's: its gradient is (values
    of a set) times that of means with `kl` times (latents of a set) / (values of a set), so leave `clip` out or scale it."""
    kl: float = 1e-3
    """Weight of the divergence of a latent from the standard normal distribution."""
    kl_ramp: float = 0.9
    """Share of the stage `autoencoder` in which that weight grows linearly from 0; 0: it is constant."""
    adversarial: float = 0.0
    """Weight of a discriminator of patches in the autoencoder's loss, times the ratio of both gradients in the read-out's last
    layer; 0: there is none. Its optimizer is `[training.autoencoder.discriminator]`."""
    adversarial_start: int = 0
    """Step of the stage `autoencoder` from which the discriminator learns and counts."""
    discriminator_width: int = 64
    """Channels of the discriminator's first layer."""
    discriminator_depth: int = 3
    """Layers of the discriminator that halve the resolution."""
    perceptual: float = 0.0
    """Weight of LPIPS, a distance of images by features of VGG16, added to the mean error of the values; 0: there is none. It
    needs whole gray or RGB images of 16 pixels a side or more."""
    perceptual_weights: str | None = None
    """The file of LPIPS's weights (docs/feature-weights.md). None: `lpips.safetensors` in the folder INRFLOW_WEIGHTS, else
    `weights`."""
    num_queries: int | None = None
    """Pairs that the autoencoder decodes per set in training, drawn at random for each set; None decodes all."""
    path: Literal["linear", "trigonometric", "scaled-linear"] = "trigonometric"
    """From latents to noise. `trigonometric` is v-prediction with the cosine schedule (times pi / 2), whose best answer for
    standard normal latents is 0; `linear` is flow matching; `scaled-linear` is the paper's objective, prediction of the noise on
    its schedule of a thousand steps, mixed with the best answer for standard normal latents."""
    standardize: bool = True
    """Whether each channel of the latents is brought to mean 0 and deviation 1 before the diffusion; the paper does not."""
    time: Literal["uniform", "logit-normal", "steps"] = "uniform"
    """Density of t in training; `steps` are those of `scaled-linear`, each as likely, as in the paper."""
    time_mean: float = 0.0
    """Mean of logit(t), for `logit-normal`."""
    time_std: float = 1.0
    """Standard deviation of logit(t), for `logit-normal`."""
    time_shift: float = 1.0
    """t becomes shift t / (1 + (shift - 1) t): above 1 moves times towards noise."""
    guidance: float = 1.0
    """Scale of classifier-free guidance in sampling; 1 is none."""
    guidance_interval: tuple[float, ...] = (0.0, 1.0)
    """Times between which guidance acts."""

    def __post_init__(self) -> None:
        if not 0 <= self.kl < math.inf:
            raise ValueError(f"`kl` is {self.kl}: 0 or more")
        if not 0 <= self.kl_ramp <= 1:
            raise ValueError(f"`kl_ramp` is {self.kl_ramp}: from 0 to 1")
        for name in ("discriminator_width", "discriminator_depth"):
            if getattr(self, name) < 1:
                raise ValueError(f"`{name}` is {getattr(self, name)}: at least 1")
        if not 0 <= self.adversarial < math.inf or self.adversarial_start < 0:
            raise ValueError("`adversarial` and `adversarial_start` must be 0 or more")
        usual = {field.name: field.default for field in dataclasses.fields(self)}
        idle = [name for name in ADVERSARY if not self.adversarial and getattr(self, name) != usual[name]]
        if idle:
            raise ValueError(f"`{idle[0]}` is set, and `adversarial` is 0: set both or neither")
        if not 0 <= self.perceptual < math.inf:
            raise ValueError(f"`perceptual` is {self.perceptual}: 0 or more")
        if self.perceptual_weights is not None and not self.perceptual:
            raise ValueError("`perceptual_weights` is set, and `perceptual` is 0: set both or neither")
        for name in ("adversarial", "perceptual"):
            if getattr(self, name) and self.num_queries is not None:
                raise ValueError(f"`num_queries` is set, and `{name}` needs whole images: leave one of them out")
        if self.num_queries is not None and self.num_queries < 1:
            raise ValueError(f"`num_queries` is {self.num_queries}: at least 1, or leave it out to decode all")
        if self.time == "steps" and self.path != "scaled-linear":
            raise ValueError(f"`time` is steps and `path` is {self.path}: only `scaled-linear` has steps")
        idle = [name for name in ("time_mean", "time_std") if getattr(self, name) != usual[name]]
        if idle and self.time != "logit-normal":
            raise ValueError(
                f'`{idle[0]}` is set, and `time` is {self.time}: it acts with `time = "logit-normal"` alone'
            )
        if self.time_std <= 0 or self.time_shift <= 0:
            raise ValueError("`time_std` and `time_shift` must be above 0")
        check_guidance(self.guidance, self.guidance_interval)

    def is_adversarial(self, step: int) -> bool:
        """Whether the discriminator learns and counts at a step of the stage `autoencoder`."""
        return self.adversarial > 0 and step >= self.adversarial_start

    def kl_at(self, step: int, num_steps: int) -> float:
        """The weight of the divergence at a step of the stage `autoencoder`."""
        return self.kl * (1.0 if self.kl_ramp == 0 else min(1.0, step / (self.kl_ramp * num_steps)))


def check_stages(config: Config, steps: Mapping[str, int]) -> None:
    """Raise UsageError for an adversary that never begins; a stage of 0 steps takes trained weights."""
    count, start = steps["autoencoder"], config.adversarial_start
    if config.adversarial and 0 < count <= start:
        raise UsageError(
            f"`method.adversarial_start` is {start:,}, and the stage `autoencoder` has {count:,} steps: the adversary never begins",
            hint="lower it, or set `method.adversarial=0` without the other settings of the adversary",
        )


@dataclass(frozen=True)
class SamplingConfig:
    """Settings of `[method]` that a command can change when it samples; the preset's are the defaults."""

    guidance: float
    """Scale of guidance; 1 is none."""
    guidance_interval: tuple[float, ...]
    """Times between which guidance acts."""

    def __post_init__(self) -> None:
        check_guidance(self.guidance, self.guidance_interval)


def sampling_options(
    model: Model, overrides: Mapping[str, Any], *, sampler: Part | None, guide: Model | None, precision: str
) -> SamplingOptions:
    """The preset's sampling settings, replaced by `overrides`; see `models.SamplingOptions`.

    Raises:
        UsageError: a setting is out of range, or guidance cannot act.
    """
    assert sampler is not None, "[sampler] is required where USES_SAMPLER = True"
    own = vars(model.preset.method.config)
    values = {f.name: own[f.name] for f in dataclasses.fields(SamplingConfig)} | dict(overrides)
    config = settings(SamplingConfig, values, "method")
    scale, interval = acting_guidance(model, sampler, guide, config, overrides)
    if guide is not None:
        _check_latents(model, guide)
    assert precision == "fp32" or precision == "bf16"
    return SamplingOptions(
        sampler=sampler.module,
        config=sampler.config,
        guidance=scale,
        interval=interval,
        noise="independent",
        guide=None if guide is None else guide.method,
        precision=precision,
    )


def _check_latents(model: Model, guide: Model) -> None:
    """Raise UsageError unless both models denoise the latents of one autoencoder, in one scale."""
    own, other = (each.method.autoencoder.state_dict() for each in (model, guide))
    hint = "guide with an earlier checkpoint of the same run, of its stage `diffusion`"
    if own.keys() != other.keys() or not all(torch.equal(own[name], other[name]) for name in own):
        raise UsageError(f"the guide `{guide.name}` has another autoencoder than the model `{model.name}`", hint=hint)
    first, second = model.method, guide.method
    if not (torch.equal(first.latent_mean, second.latent_mean) and torch.equal(first.latent_std, second.latent_std)):
        raise UsageError(
            f"the guide `{guide.name}` standardizes latents otherwise than the model `{model.name}`",
            hint=hint,
        )
