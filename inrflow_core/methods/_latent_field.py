"""Fields of latent diffusion: functions behind latents, evaluated by the read-out from the autoencoder's basis fields."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from types import MappingProxyType
from typing import Any

import torch
from jaxtyping import Float, Float64, Int64
from torch import Tensor

from inrflow_core import fields, models
from inrflow_core.config.preset import Preset
from inrflow_core.errors import IntegrityError, UsageError
from inrflow_core.methods._flow_sampling import SamplingOptions
from inrflow_core.networks._contract import RadianceReadout, ReadoutState
from inrflow_core.numerics import noise_field, paths, solver
from inrflow_core.runtime.progress import Progress, RepeatableProgress
from inrflow_core.runtime.query_budget import CHUNK, QueryBudget
from inrflow_core.sets import Condition, ConditionEmbedding, Queries, SetSpec
from inrflow_core.storage import safetensors_file

HINT = "save it again with `--save-field`"
DECODED = 1 << 16
"""Cells of the finest fields that are decoded at once, or those of one set: an image of 256 x 256."""


class LatentField:
    """Functions whose latents are drawn by solving the ODE or SDE from noise to data, or encoded from data."""

    def __init__(
        self, model: Any, spec: SetSpec, seeds: Int64[Tensor, " B"], condition: Condition, options: SamplingOptions
    ) -> None:
        self.model, self.spec, self.seeds, self.condition, self.options = model, spec, seeds, condition, options
        """`model` is a `LatentDiffusion`; of a loaded field a `SavedReadout`."""
        self.state: ReadoutState | None = None

    def __repr__(self) -> str:
        return fields.description(self, self.spec, is_cached=self.state is not None)

    @torch.no_grad()
    def query(
        self, queries: Queries, *, chunk: int | QueryBudget = CHUNK, progress: Progress | None = None
    ) -> Float[Tensor, "B M C"]:
        """The values at `queries`, in the network's scale."""
        report = RepeatableProgress(progress)
        self._draw(report)
        state, num_sets, budget = self.state, len(self.seeds), QueryBudget.from_chunk(chunk)
        assert state is not None
        values = torch.empty(num_sets, len(queries), self.spec.value_size, device=self.seeds.device)

        def evaluate(part: slice) -> None:
            report.repeat()
            with self._precision():
                values[:, part] = self.model.readout.query(state, queries[part]).float()

        budget.run_in_chunks(len(queries), num_sets, evaluate)
        return values

    @torch.no_grad()
    def values_at(self, index: int, coordinates: Float[Tensor, "P D"]) -> Float[Tensor, "P C"]:
        """The values of one function at coordinates in [-1, 1], in the network's scale.

        In single precision, whatever that of the sampling is: surfaces and their normals need differences of close values.
        """
        self._draw(None)
        assert self.state is not None
        state = tuple(field[index : index + 1] for field in self.state)
        at = Queries(coordinates.to(self.seeds.device), torch.arange(len(coordinates), device=self.seeds.device))
        return self.model.readout.query(state, at)[0].float()

    @torch.no_grad()
    def density_and_color(
        self, index: int, points: Float[Tensor, "P 3"]
    ) -> tuple[Float[Tensor, " P"], Float[Tensor, "P 3"]]:
        """Density and color (in [0, 1]) of one function at points in the world.

        Raises:
            UsageError: the functions are not radiance fields.
        """
        readout = self.model.readout
        if not isinstance(readout, RadianceReadout):
            raise UsageError("these functions have no density in space", hint="write another kind of file")
        self._draw(None)
        assert self.state is not None
        state = tuple(field[index : index + 1] for field in self.state)
        density, color = readout.density_and_color(state, points.to(self.seeds.device))
        return density[0], color[0]

    @torch.no_grad()
    def cache_context(self, progress: Progress | None = None) -> LatentField:
        """This field with its latents drawn and decoded."""
        self._draw(progress)
        return self

    @torch.no_grad()
    def set_latents(self, latents: Float[Tensor, "B K E"]) -> None:
        """Decode the fields of latents in the autoencoder's scale, as many sets at once as `DECODED` allows."""
        autoencoder = self.model.autoencoder
        cells = latents[0].numel() // autoencoder.config.latent_channels * autoencoder.config.factor**2
        with self._precision():
            parts = [autoencoder.decode(part) for part in latents.split(max(1, DECODED // cells))]
        fields = parts[0] if len(parts) == 1 else map(torch.cat, zip(*parts, strict=True))
        # Contiguous as in a saved field: another memory layout would round differently.
        self.state = tuple(field.float().contiguous() for field in fields)

    def size(self) -> int:
        """Bytes that `save` writes, without the header."""
        return sum(tensor.nbytes for tensor in self._tensors().values())

    def save(
        self, path: Path, preset: Preset, *, half: bool = False, metadata: Mapping[str, Any] = MappingProxyType({})
    ) -> None:
        """Write the field: the basis fields and the read-out's weights, fp16 if `half`."""
        tensors = {k: v.half() if half and v.is_floating_point() else v for k, v in self._tensors().items()}
        models.save(path, tensors, preset, metadata, fields.FORMAT)

    def _tensors(self) -> dict[str, Tensor]:
        assert self.state is not None, "`cache_context` comes before `save`"
        tensors = {"seeds": self.seeds} | {f"state.{number}": field for number, field in enumerate(self.state)}
        return tensors | {f"readout.{name}": weight for name, weight in self.model.readout.state_dict().items()}

    def _draw(self, progress: Progress | None) -> None:
        """Draw and decode the latents, unless they are."""
        options = self.options
        if self.state is not None:
            if progress is not None:
                progress(1, 1)
            return
        embeddings = self._condition_embeddings()
        y = self._noise("start", 0)
        walk = solver.iter_steps(
            options.sampler,
            options.config,
            lambda y, t: self._velocity(y, t, embeddings),
            y,
            path=self.model.path,
            noise=lambda index: self._noise("increment", index),
        )
        for done, (_, state) in enumerate(walk, start=1):
            y = state
            if progress is not None:
                progress(done, self._num_steps(done))
        self.set_latents(self.model.unscaled(y))

    def _condition_embeddings(self) -> list[tuple[Any, ConditionEmbedding]]:
        """The model and its condition, and those of the velocity that guidance compares with."""
        model, guide = self.model, self.options.guide
        with self._precision():
            found = [(model, model.embed_condition(self.condition))]
            if guide is not None:
                found.append((guide, guide.embed_condition(self.condition)))
            elif model.is_guidable:
                found.append((model, model.null_condition(len(self.seeds))))
        return found

    def _velocity(
        self, y: Float[Tensor, "B K E"], t: Float64[Tensor, " B"], embeddings: list[tuple[Any, ConditionEmbedding]]
    ) -> Float[Tensor, "B K E"]:
        """The velocity of the denoiser's latents, guided where guidance acts."""
        scale, (low, high) = self.options.guidance, self.options.interval
        is_guided = scale != 1 and len(embeddings) > 1 and bool(((t >= low) & (t <= high)).any())
        with self._precision():
            velocity, *others = (
                model.denoiser.velocity(y, t, embedding) for model, embedding in embeddings[: 2 if is_guided else 1]
            )
        return paths.guided_velocity(velocity, others[0], scale, t, (low, high)) if others else velocity

    def _noise(self, purpose: str, step: int) -> Float[Tensor, "B K E"]:
        """Normals for each latent: a function of the seed, the cell and the step."""
        latents = self.model.autoencoder.latent_spec
        cells = torch.arange(latents.num_queries, device=self.seeds.device)
        return noise_field.normal(self.seeds, cells, purpose=purpose, channels=latents.value_size, step=step)

    def _num_steps(self, done: int) -> int:
        """The number of solver steps; of an adaptive solver, those done so far."""
        sampler = self.options.sampler
        return done if sampler.IS_ADAPTIVE else len(sampler.time_grid(self.options.config)) - 1

    def _precision(self) -> torch.autocast:
        return torch.autocast(self.seeds.device.type, torch.bfloat16, enabled=self.options.precision == "bf16")


class SavedReadout:
    """The part of a model that a saved field keeps."""

    def __init__(self, readout: Any) -> None:
        self.readout = readout


def load_field(path: Path, preset: Preset, spec: SetSpec, info: dict[str, Any], device: str) -> LatentField:
    """A field that `LatentField.save` wrote; it has the read-out alone.

    Raises:
        IntegrityError: a tensor is missing or has another shape.
    """
    models.check_claims(preset, path, ["network.readout"])
    autoencoder, sampler = preset.networks["autoencoder"], preset.sampler
    assert sampler is not None
    try:
        with safetensors_file.open_tensors(path, device=device, hint=HINT) as file:
            tensors = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118, not a dict
        shapes = autoencoder.module.field_shapes(autoencoder.config, spec)
        readout = _readout(preset, spec, [shape[0] for shape in shapes], tensors).to(device)
        options = SamplingOptions(sampler.module, sampler.config)
        field = LatentField(SavedReadout(readout), spec, tensors["seeds"], {}, options)
        state = tuple(tensors[f"state.{number}"].float() for number in range(len(shapes)))
        num_sets = len(field.seeds)
        if not num_sets or [tuple(each.shape) for each in state] != [(num_sets, *shape) for shape in shapes]:
            raise ValueError("its basis fields are not whole")
        field.state = state
    except (KeyError, TypeError, ValueError, RuntimeError, UsageError) as error:
        raise IntegrityError(f"`{path}` is not a whole field: {' '.join(str(error).split())}", hint=HINT) from error
    return field


def _readout(preset: Preset, spec: SetSpec, widths: list[int], tensors: Mapping[str, Tensor]) -> Any:
    """The read-out of a saved field; its size is compared with the file's before it is built."""
    part, head = preset.networks["readout"], "readout."
    weights = {name.removeprefix(head): value.float() for name, value in tensors.items() if name.startswith(head)}
    models.check_sizes(
        lambda: part.module.build_field_readout(part.config, spec, widths),
        {name: value.shape for name, value in weights.items()},
    )
    readout = part.module.build_field_readout(part.config, spec, widths)
    readout.load_state_dict(weights)
    return readout.eval().requires_grad_(False)
