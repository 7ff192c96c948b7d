"""Load saved fields, which are evaluated without encoder or trunk."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from types import ModuleType
from typing import Any, Literal

from inrflow_core import models, registry
from inrflow_core.config.preset import Preset
from inrflow_core.config.typed import settings
from inrflow_core.errors import IntegrityError, UsageError
from inrflow_core.methods._flow_field import ContextEvaluation, FlowField
from inrflow_core.methods._flow_sampling import SamplingOptions
from inrflow_core.methods._velocity_model import SavedDecoder, VelocityModel
from inrflow_core.numerics import paths, solver
from inrflow_core.sets import Queries, SetSpec
from inrflow_core.storage import safetensors_file, typed_json


@dataclass(frozen=True)
class SavedOptions:
    """The options that a field was sampled with, in the metadata of its file."""

    sampler: str
    sampler_settings: dict[str, Any]
    guidance: float
    interval: tuple[float, float]
    noise: Literal["linear", "cubic", "independent"]
    precision: Literal["fp32", "bf16"]
    guide: dict[str, Any] | None
    """Settings of the guiding network; None without autoguidance."""


def load_field(path: Path, preset: Preset, spec: SetSpec, info: dict[str, Any], device: str) -> FlowField:
    """A field that `FlowField.save` wrote; it has the network's decoder alone.

    Raises:
        IntegrityError: a tensor is missing or has another shape.
    """
    hint = "save it again with `--save-field`"
    saved = typed_json.typed(info, SavedOptions, f"`info` of `{path}`", hint=hint, extra=True)
    try:
        with safetensors_file.open_tensors(path, device=device, hint=hint) as file:
            names = set(file.keys())
            network = preset.network.module
            configs = [preset.network.config]
            if saved.guide is not None:
                configs.append(settings(network.Config, saved.guide, "network"))
            networks = [_decoder(file, names, network, config, spec, n, device) for n, config in enumerate(configs)]
            flow_path = paths.PATHS[preset.method.config.path]
            model, *guides = (VelocityModel(decoder, flow_path, spec) for decoder in networks)
            sampler = registry.find("samplers", saved.sampler)
            options = SamplingOptions(
                sampler,
                settings(sampler.Config, saved.sampler_settings, "sampler"),
                guidance=saved.guidance,
                interval=saved.interval,
                noise=saved.noise,
                guide=guides[0] if guides else None,
                precision=saved.precision,
            )
            field = FlowField(model, Queries(None, file.get_tensor("places")), file.get_tensor("seeds"), {}, options)
            field.values = file.get_tensor("values").float()
            field.start = file.get_tensor("noise") if "noise" in names else None
            field.steps = [
                _step(file, names, head, network.Latents)
                for head in sorted({n[:10] for n in names if n.startswith("step.")})
            ]
    except (KeyError, TypeError, ValueError, RuntimeError, UsageError) as error:  # of the info, or of the network
        raise IntegrityError(f"`{path}` is not a whole field: {' '.join(str(error).split())}", hint=hint) from error
    return field


def _decoder(
    file: Any, names: set[str], network: ModuleType, config: Any, shape: SetSpec, number: int, device: str
) -> SavedDecoder:
    """A network's decoder with its saved weights."""
    head = f"decoder.{number}."
    own = [name for name in names if name.startswith(head)]
    shapes = {name.removeprefix(head): file.get_slice(name).get_shape() for name in own}
    models.check_sizes(lambda: network.build_decoder(config, shape), shapes)
    decoder = network.build_decoder(config, shape)
    decoder.load_state_dict({name.removeprefix(head): file.get_tensor(name).float() for name in own})
    decoder.to(device).eval().requires_grad_(False)
    return SavedDecoder(decoder, config)


def _step(file: Any, names: set[str], head: str, make: Any) -> tuple[solver.Step, list[ContextEvaluation]]:
    """One solver step and its evaluations."""
    index = int(file.get_tensor(f"{head}.index"))
    step = solver.Step(index, file.get_tensor(f"{head}.t"), file.get_tensor(f"{head}.t_next"))
    evaluations = []
    while f"{head}.{len(evaluations)}.t" in names:
        prefix = f"{head}.{len(evaluations)}"
        latents = []
        while f"{prefix}.{len(latents)}.vector" in names:
            half = f"{prefix}.{len(latents)}"
            count = sum(name.startswith(f"{half}.level.") for name in names)
            levels = tuple(file.get_tensor(f"{half}.level.{level}").float() for level in range(count))
            latents.append(make(levels, file.get_tensor(f"{half}.vector").float()))
        evaluations.append(ContextEvaluation(file.get_tensor(f"{prefix}.t"), latents))
    return step, evaluations
