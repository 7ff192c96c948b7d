"""Fields of consistency models: functions that a hyper-network has written, evaluated by its read-out alone."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from types import MappingProxyType
from typing import Any, Literal

import torch
from jaxtyping import Float, Float64, Int64
from torch import Tensor

from inrflow_core import fields, models
from inrflow_core.config.preset import Preset
from inrflow_core.errors import IntegrityError, UsageError
from inrflow_core.methods._consistency_config import Config, SamplingOptions
from inrflow_core.networks._contract import PlainFunction, RadianceReadout, ReadoutState
from inrflow_core.numerics import noise_field, preconditioning
from inrflow_core.runtime.progress import Progress, RepeatableProgress
from inrflow_core.runtime.query_budget import CHUNK, QueryBudget
from inrflow_core.sets import Condition, Queries, SetSpec
from inrflow_core.storage import safetensors_file, typed_json

HINT = "save it again with `--save-field`"


@dataclass(frozen=True)
class SavedOptions:
    """How the functions of a field were written, in the metadata of its file."""

    scale: float
    steps: Literal[1, 2]
    second_step: float


@dataclass(frozen=True)
class InrModel:
    """A hyper-network with its read-out; of a loaded field, `hypernetwork` is None."""

    hypernetwork: Any
    readout: Any
    spec: SetSpec
    config: Config

    def networks(self) -> dict[str, Any]:
        """What evaluates fields."""
        return {"hypernetwork": self.hypernetwork, "readout": self.readout}

    def write_tokens(
        self, context: Queries, noisy: Float[Tensor, "B N C"], t: Float64[Tensor, " B"]
    ) -> Float[Tensor, "B L W"]:
        """The tokens of the functions behind noisy sets; levels below `t_min` count as `t_min`."""
        t = t.clamp(min=self.config.t_min)
        scale = preconditioning.Scalings(self.config.sigma_data).c_in(t).to(noisy.dtype)
        return self.hypernetwork(context, scale[:, None, None] * noisy, preconditioning.noise_level(t).to(noisy.dtype))


class InrField:
    """Functions written in one or two calls of the hyper-network.

    The first call reads noise at the level `t_max`. The second reads the first function's values at the training positions
    with new noise. In `edm` the answer after two steps is values at these positions, and no function.
    """

    def __init__(
        self,
        model: InrModel,
        context: Queries,
        seeds: Int64[Tensor, " B"],
        condition: Condition,
        options: SamplingOptions,
    ) -> None:
        self.model, self.context, self.seeds, self.options = model, context, seeds, options
        self.spec, self.condition = model.spec, condition
        self.state: ReadoutState | None = None
        self.scale = 1.0
        """What values of the function are multiplied by."""
        self.grid: Float[Tensor, "B N C"] | None = None
        """The values at the training positions, where there is no function."""

    def __repr__(self) -> str:
        return fields.description(self, self.spec, is_cached=self.state is not None or self.grid is not None)

    @torch.no_grad()
    def query(
        self, queries: Queries, *, chunk: int | QueryBudget = CHUNK, progress: Progress | None = None
    ) -> Float[Tensor, "B M C"]:
        """The values at `queries`, in the network's scale.

        Raises:
            UsageError: queries off the training grid after two steps of `edm`.
        """
        budget, report = QueryBudget.from_chunk(chunk), RepeatableProgress(progress)
        self._write(budget, report)
        if self.grid is not None:
            if not _are_at(queries, self.context):
                raise UsageError(
                    "after two steps of `edm` a sample is pixels of the training grid, and no function",
                    hint="take `--steps 1`, leave `--resolution` and `--window` out, or train with `parametrization = "
                    '"clean"`',
                )
            return self.grid
        return self._values(queries, budget, report)

    @torch.no_grad()
    def cache_context(self, progress: Progress | None = None) -> InrField:
        """This field with its functions written."""
        self._write(QueryBudget(), progress)
        return self

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
        self._write(QueryBudget(), None)
        assert self.state is not None
        state = tuple(tensor[index : index + 1] for tensor in self.state)
        density, color = readout.density_and_color(state, points.to(self.seeds.device))
        return density[0], color[0]

    @torch.no_grad()
    def encode(self, values: Float[Tensor, "B N C"]) -> None:
        """Write the functions of given values at the context."""
        t = torch.full((len(self.seeds),), self.model.config.t_min, dtype=torch.float64, device=self.seeds.device)
        self._write_state(values, t)

    def size(self) -> int:
        """Bytes that `save` writes, without the header."""
        return sum(tensor.nbytes for tensor in self._tensors().values())

    def save(
        self, path: Path, preset: Preset, *, half: bool = False, metadata: Mapping[str, Any] = MappingProxyType({})
    ) -> None:
        """Write the field: the state of its functions and the read-out's weights, fp16 if `half`.

        Raises:
            UsageError: it consists of pixels (two steps of `edm`).
        """
        tensors = {k: v.half() if half and v.is_floating_point() else v for k, v in self._tensors().items()}
        info = {"scale": self.scale, "steps": self.options.steps, "second_step": self.options.second_step}
        models.save(path, tensors, preset, {**metadata, **info}, fields.FORMAT)

    def plain_function(self, number: int, value_scale: float) -> PlainFunction:
        """One of the functions as tensors and text alone; its values are divided by the domain's `value_scale`."""
        assert self.state is not None, "`cache_context` comes before"
        state = tuple(tensor[number : number + 1] for tensor in self.state)
        return self.model.readout.plain_function(state, self.scale / value_scale)

    def _tensors(self) -> dict[str, Tensor]:
        if self.grid is not None:
            raise UsageError(
                "after two steps of `edm` a sample is pixels of the training grid, and no function to save",
                hint="take `--steps 1`",
            )
        assert self.state is not None, "`cache_context` comes before `save`"
        tensors = {"seeds": self.seeds, "noise_keys": self.context.noise_keys}
        tensors |= {f"state.{number}": tensor for number, tensor in enumerate(self.state)}
        return tensors | {f"readout.{name}": weight for name, weight in self.model.readout.state_dict().items()}

    def _write(self, budget: QueryBudget, progress: Progress | None) -> None:
        """Write the functions from noise, unless they are."""
        config, steps = self.model.config, self.options.steps
        if self.state is not None or self.grid is not None:
            if progress is not None:
                progress(steps, steps)
            return
        scalings = preconditioning.Scalings(config.sigma_data)
        t = torch.full((len(self.seeds),), config.t_max, dtype=torch.float64, device=self.seeds.device)
        noisy = t[0].float() * self._noise(0)
        for step in range(steps):
            if step:
                values = self._values(self.context, budget)
                t = torch.full_like(t, self.options.second_step)
                noisy = values + t[0].float() * self._noise(step)
            self._write_state(noisy, t)
            self.scale = 1.0 if config.is_clean else float(scalings.c_out(t[:1]))
            if progress is not None:
                progress(step + 1, steps)
        if not config.is_clean and steps > 1:
            self.grid = float(scalings.c_skip(t[:1])) * noisy + self._values(self.context, budget)

    def _write_state(self, noisy: Float[Tensor, "B N C"], t: Float64[Tensor, " B"]) -> None:
        with torch.autocast(noisy.device.type, torch.bfloat16, enabled=self.options.precision == "bf16"):
            tokens = self.model.write_tokens(self.context, noisy, t)
            # Contiguous as in a saved field: another memory layout would round differently.
            self.state = tuple(tensor.contiguous() for tensor in self.model.readout.prepare(tokens))

    def _values(
        self, queries: Queries, budget: QueryBudget, report: RepeatableProgress | None = None
    ) -> Float[Tensor, "B M C"]:
        assert self.state is not None
        state, num_sets = self.state, len(self.seeds)
        values = torch.empty(num_sets, len(queries), self.model.spec.value_size, device=self.seeds.device)

        def evaluate(part: slice) -> None:
            if report is not None:
                report.repeat()
            values[:, part] = self.scale * self.model.readout.query(state, queries[part])

        budget.run_in_chunks(len(queries), num_sets, evaluate)
        return values

    def _noise(self, step: int) -> Float[Tensor, "B N C"]:
        """Noise at the training positions: a function of the seed, the position and the step."""
        return noise_field.normal(
            self.seeds,
            self.context.noise_keys.long(),
            purpose="start",
            channels=self.model.spec.value_size,
            step=step,
        )


def load_field(path: Path, preset: Preset, spec: SetSpec, info: dict[str, Any], device: str) -> InrField:
    """A field that `InrField.save` wrote; it has the read-out alone.

    Raises:
        IntegrityError: a tensor is missing or has another shape.
    """
    models.check_claims(preset, path, ["network.readout"])
    saved = typed_json.typed(info, SavedOptions, f"`info` of `{path}`", hint=HINT, extra=True)
    try:
        with safetensors_file.open_tensors(path, device=device, hint=HINT) as file:
            tensors = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118, not a dict
        readout = _readout(preset, spec, tensors).to(device)
        options = SamplingOptions(saved.steps, saved.second_step)
        context = Queries(None, tensors["noise_keys"])
        field = InrField(InrModel(None, readout, spec, preset.method.config), context, tensors["seeds"], {}, options)
        field.state = _state(readout, tensors, len(field.seeds))
        field.scale = saved.scale
        if not (math.isfinite(saved.scale) and saved.scale > 0):
            raise ValueError(f"its `scale` is {saved.scale}")
    except (KeyError, TypeError, ValueError, RuntimeError, UsageError) as error:
        raise IntegrityError(f"`{path}` is not a whole field: {' '.join(str(error).split())}", hint=HINT) from error
    return field


def _readout(preset: Preset, spec: SetSpec, tensors: Mapping[str, Tensor]) -> Any:
    """The read-out of a saved field; its size is compared with the file's before it is built."""
    part, head = preset.networks["readout"], "readout."
    weights = {name.removeprefix(head): value.float() for name, value in tensors.items() if name.startswith(head)}
    models.check_sizes(
        lambda: part.module.build_readout(part.config, spec), {name: value.shape for name, value in weights.items()}
    )
    readout = part.module.build_readout(part.config, spec)
    readout.load_state_dict(weights)
    return readout.eval().requires_grad_(False)


def _state(readout: Any, tensors: Mapping[str, Tensor], num_sets: int) -> ReadoutState:
    """The functions of a saved field, as `readout` writes them."""
    shape = readout.token_shape
    tokens = torch.zeros(1, shape.num, shape.width, device=next(readout.parameters()).device)
    expected = [(num_sets, *each.shape[1:]) for each in readout.prepare(tokens)]
    state = [tensors[f"state.{number}"].float() for number in range(len(expected))]
    if not num_sets or [tuple(each.shape) for each in state] != expected:
        raise ValueError("its functions are not whole")
    return tuple(state)


def _are_at(queries: Queries, others: Queries) -> bool:
    """Whether queries are at the positions of others."""
    one, other = queries.noise_keys, others.noise_keys
    return one.shape == other.shape and bool((one == other).all())
