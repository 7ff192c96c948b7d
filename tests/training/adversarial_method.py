"""A method of two stages and four networks: an autoencoder against an adversary, then a denoiser of its latents.

Beside the method `latent` it has a second optimizer: the decoder reads latents of a 3 x 3 grid at any
coordinate, and the denoiser of the second stage, flow matching, learns from latents that the encoder left.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from jaxtyping import Float, Int64
from torch import Tensor, nn
from torch.nn import functional

from inrflow_core import fields, models
from inrflow_core.config.preset import Preset
from inrflow_core.errors import UsageError
from inrflow_core.methods._contract import Method, Stage, StepState
from inrflow_core.methods._flow_field import FlowField
from inrflow_core.methods._flow_sampling import SamplingOptions
from inrflow_core.methods._velocity_model import VelocityModel
from inrflow_core.numerics import keyed_random, noise_field, paths
from inrflow_core.runtime.query_budget import CHUNK, QueryBudget
from inrflow_core.sets import ConditionEmbedding, CoordValueSet, Grid, Queries, SetSpec, TrainBatch
from inrflow_core.storage import safetensors_file

STAGES = (
    Stage("autoencoder", {"main": ("encoder", "decoder"), "adversary": ("critic",)}),
    Stage("denoiser", {"main": ("denoiser",)}, reads="latents"),
)
NETWORKS = ("denoiser",)
USES_SAMPLER = True
SIDE, CHANNELS = 3, 2
LATENTS = SetSpec(2, CHANNELS, Grid((SIDE, SIDE)))


@dataclass(frozen=True)
class Config:
    """Settings of `[method]`."""

    adversary: float = 0.1
    """Weight of the critic in the autoencoder's loss."""


@dataclass(frozen=True)
class SamplingConfig:
    """Nothing but the sampler can be changed."""


def sampling_options(
    model: models.Model, overrides: Mapping[str, Any], *, sampler: Any, guide: Any, precision: Any
) -> SamplingOptions:
    """The preset's sampler, without guidance."""
    assert not overrides and guide is None
    return SamplingOptions(sampler.module, sampler.config, precision=precision)


def build(preset: Preset, spec: SetSpec) -> Latent:
    """The method around the denoiser that the preset names."""
    part = preset.networks["denoiser"]
    return Latent(preset.method.config, part.module.build(part.config, LATENTS), spec)


class Decoder(nn.Module):
    """The function behind a grid of latents: a perceptron on the latents at a coordinate."""

    def __init__(self, channels: int) -> None:
        super().__init__()
        self.layers = nn.Sequential(nn.Linear(CHANNELS + 2, 16), nn.SiLU(), nn.Linear(16, channels))

    def forward(self, latents: Float[Tensor, "B K E"], coordinates: Float[Tensor, "M 2"]) -> Float[Tensor, "B M C"]:
        planes = latents.unflatten(1, (SIDE, SIDE)).movedim(-1, 1)
        where = coordinates.flip(-1).expand(len(latents), 1, -1, -1)
        read = functional.grid_sample(planes, where, align_corners=False, padding_mode="border")[:, :, 0].mT
        return self.layers(torch.cat([read, coordinates.expand(len(latents), -1, -1)], -1))


class Latent(nn.Module, Method):
    """The losses of both stages."""

    STAGES = STAGES
    mean: Tensor
    std: Tensor

    def __init__(self, config: Config, denoiser: nn.Module, spec: SetSpec) -> None:
        super().__init__()
        assert isinstance(spec.layout, Grid)
        self.config, self.shape, self.grid = config, spec, spec.layout.shape
        self.conditioner = None
        self.encoder = nn.Conv2d(spec.value_size, CHANNELS, 3, stride=self.grid[0] // SIDE, padding=1)
        self.decoder, self.critic = Decoder(spec.value_size), nn.Linear(spec.num_queries * spec.value_size, 1)
        self.denoiser = denoiser
        self.register_buffer("mean", torch.zeros(CHANNELS))
        self.register_buffer("std", torch.ones(CHANNELS))

    def networks(self) -> dict[str, nn.Module]:
        return {name: getattr(self, name) for name in ("encoder", "decoder", "critic", "denoiser")}

    def encode(self, sets: CoordValueSet) -> Float[Tensor, "B K E"]:
        """The latents of images, before their scale is taken out."""
        return self.encoder(sets.values.unflatten(1, self.grid).movedim(-1, 1)).flatten(2).mT

    def precompute(self, name: str, sets: CoordValueSet) -> Float[Tensor, "B K E"]:
        assert name == "latents"
        return self.encode(sets)

    def begin_precomputed(self, name: str, statistics: Any) -> None:
        for buffer, numbers in zip((self.mean, self.std), vars(statistics).values(), strict=True):
            buffer.copy_(torch.tensor(numbers))

    def loss(self, batch: TrainBatch, state: StepState, optimizer: str = "main") -> Float[Tensor, " B"]:
        return (self._autoencoder if state.stage == "autoencoder" else self._denoiser)(batch.context, optimizer)

    def _autoencoder(self, sets: CoordValueSet, optimizer: str) -> Float[Tensor, " B"]:
        made = self.decoder(self.encode(sets), sets.queries.coordinates)
        if optimizer == "adversary":
            real, fake = (self.critic(values.flatten(1))[:, 0] for values in (sets.values, made.detach()))
            return functional.relu(1 - real) + functional.relu(1 + fake)
        return (made - sets.values).abs().mean((1, 2)) - self.config.adversary * self.critic(made.flatten(1))[:, 0]

    def _denoiser(self, sets: CoordValueSet, _: str) -> Float[Tensor, " B"]:
        t = keyed_random.uniform(sets.seeds, purpose="time")[:, 0].float()
        queries = latent_queries(sets.values.device)
        eps = noise_field.normal(sets.seeds, queries.noise_keys.long(), purpose="noise", channels=CHANNELS)
        y, target = paths.interpolate(paths.PATHS["linear"], (sets.values - self.mean) / self.std, eps, t)
        return (self.denoiser(queries, y, t, ConditionEmbedding(), queries, y) - target).square().mean((1, 2))

    def sample(self, context: Queries, seeds: Int64[Tensor, " B"], condition: Any, options: Any) -> LatentField:
        """New functions, one per seed."""
        model = VelocityModel(self.denoiser, paths.PATHS["linear"], LATENTS)
        latents = FlowField(model, latent_queries(seeds.device), seeds, {}, options)
        return LatentField(
            self.decoder, self.shape, seeds, options, lambda: latents.query(latents.context) * self.std + self.mean
        )

    def invert(self, sets: CoordValueSet, options: Any, progress: Any = None) -> LatentField:
        """The functions of the latents of given sets."""
        with torch.autocast(sets.values.device.type, torch.bfloat16, enabled=options.precision == "bf16"):
            latents = self.encode(sets).float()
        return LatentField(self.decoder, self.shape, sets.seeds, options, lambda: latents)


def latent_queries(device: Any) -> Queries:
    """The cells of the grid of latents."""
    rows = torch.arange(SIDE, device=device).float()
    positions = torch.stack(torch.meshgrid(rows, rows, indexing="ij"), -1).flatten(0, 1)
    return Queries((2 * positions + 1) / SIDE - 1, positions)


class LatentField:
    """Functions behind latents, which are drawn at the first query."""

    def __init__(self, decoder: Any, spec: SetSpec, seeds: Int64[Tensor, " B"], options: Any, draw: Any) -> None:
        self.model, self.spec, self.seeds, self.options, self._draw = decoder, spec, seeds, options, draw
        self.condition: dict[str, Tensor] = {}
        self.latents: Tensor | None = None

    @torch.no_grad()
    def query(self, queries: Queries, *, chunk: int | QueryBudget = CHUNK, progress: Any = None) -> Tensor:
        """The values at `queries`."""
        latents, parts = self.cache_context(progress).latents, []
        assert latents is not None
        size = chunk if isinstance(chunk, int) else chunk.chunk
        for start in range(0, len(queries), size):
            with torch.autocast(latents.device.type, torch.bfloat16, enabled=self.options.precision == "bf16"):
                parts.append(self.model(latents, queries[start : start + size].coordinates).float())
        return torch.cat(parts, 1)

    @torch.no_grad()
    def cache_context(self, progress: Any = None) -> LatentField:
        """This field with its latents."""
        if self.latents is None:
            self.latents = self._draw()
        return self

    def size(self) -> int:
        """Bytes that `save` writes."""
        return sum(tensor.nbytes for tensor in self._tensors().values())

    def save(self, path: Path, preset: Preset, *, half: bool = False, metadata: Any = ()) -> None:
        """Write latents and decoder."""
        models.save(path, self._tensors(), preset, dict(metadata), fields.FORMAT)

    def _tensors(self) -> dict[str, Tensor]:
        assert self.latents is not None
        weights = {f"decoder.{name}": weight for name, weight in self.model.state_dict().items()}
        return {"seeds": self.seeds, "latents": self.latents} | weights


def load_field(path: Path, preset: Preset, spec: SetSpec, info: dict[str, Any], device: str) -> LatentField:
    """A field that `save` wrote."""
    with safetensors_file.open_tensors(path, device=device, hint="save it again") as file:
        tensors = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118, not a dict
    if "latents" not in tensors:
        raise UsageError(f"`{path}` has no latents", hint="save it again")
    decoder = Decoder(spec.value_size)
    weights = {name.removeprefix("decoder."): t for name, t in tensors.items() if name.startswith("decoder.")}
    decoder.load_state_dict(weights)
    assert preset.sampler is not None
    options = SamplingOptions(preset.sampler.module, preset.sampler.config)
    return LatentField(decoder.requires_grad_(False), spec, tensors["seeds"], options, lambda: tensors["latents"])
