"""Saved fields: the file that later queries read, without encoder or trunk."""

from __future__ import annotations

from pathlib import Path
from types import ModuleType, SimpleNamespace
from typing import TYPE_CHECKING, Any

import safetensors

from inrflow_core import registry
from inrflow_core.config.preset import Preset
from inrflow_core.config.typed import settings
from inrflow_core.errors import IntegrityError
from inrflow_core.numerics import paths, solver
from inrflow_core.sets import Queries, SetSpec

if TYPE_CHECKING:
    from inrflow_core.methods._flow_config import SamplingOptions
from inrflow_core.methods._flow_field import ContextEvaluation, FlowField


def load(
    path: Path, preset: Preset, shape: SetSpec, info: dict[str, Any], drawing: type[SamplingOptions], device: str
) -> FlowField:
    """A field that `FlowField.save` wrote; only the decoder's weights are in it, so that it can be asked and no more.

    Raises:
        IntegrityError: a tensor is missing or has another shape.
    """
    try:
        with safetensors.safe_open(path, framework="pt", device=device) as file:
            names = set(file.keys())
            network = preset.network.module
            configs = [preset.network.config]
            if info["guide"] is not None:
                configs.append(settings(network.Config, info["guide"], "network"))
            networks = [_decoder(file, names, network, config, shape, n, device) for n, config in enumerate(configs)]
            flow: Any = SimpleNamespace(network=networks[0], shape=shape, conditioner=None, is_guidable=False)
            sampler = registry.find("samplers", info["sampler"])
            how = drawing(
                sampler,
                settings(sampler.Config, info["sampler_settings"], "sampler"),
                guidance=info["guidance"],
                interval=tuple(info["interval"]),
                noise=info["noise"],
                guide=SimpleNamespace(network=networks[1]) if info["guide"] else None,  # pyright: ignore
                precision=info["precision"],
            )
            flow.path = paths.PATHS[preset.method.config.path]
            field = FlowField(flow, Queries(None, file.get_tensor("places")), file.get_tensor("seeds"), {}, how)
            field.values = file.get_tensor("values").float()
            field.start = file.get_tensor("noise") if "noise" in names else None
            field.steps = [
                _step(file, names, head, network.Latents)
                for head in sorted({n[:10] for n in names if n.startswith("step.")})
            ]
    except (safetensors.SafetensorError, KeyError, RuntimeError) as error:
        raise IntegrityError(
            f"`{path}` is no whole field: {' '.join(str(error).split())}", hint="save it again with `--save-field`"
        ) from error
    return field


def _decoder(
    file: Any, names: set[str], network: ModuleType, config: Any, shape: SetSpec, number: int, device: str
) -> Any:
    """The part of a network that answers queries, with its saved weights."""
    decoder = network.build_decoder(config, shape)
    head = f"decoder.{number}."
    decoder.load_state_dict({n.removeprefix(head): file.get_tensor(n).float() for n in names if n.startswith(head)})
    decoder.to(device).eval().requires_grad_(False)
    return SimpleNamespace(decoder=decoder, memory=decoder.memory, decode=decoder, embed=decoder.embed)


def _step(file: Any, names: set[str], head: str, make: Any) -> tuple[solver.Step, list[ContextEvaluation]]:
    """One solver step and what its evaluations left."""
    index = int(file.get_tensor(f"{head}.index"))
    step = solver.Step(index, file.get_tensor(f"{head}.t"), file.get_tensor(f"{head}.t_next"))
    evaluations = []
    while f"{head}.{len(evaluations)}.t" in names:
        place = f"{head}.{len(evaluations)}"
        latents = []
        while f"{place}.{len(latents)}.vector" in names:
            half = f"{place}.{len(latents)}"
            count = sum(name.startswith(f"{half}.level.") for name in names)
            levels = tuple(file.get_tensor(f"{half}.level.{level}").float() for level in range(count))
            latents.append(make(levels, file.get_tensor(f"{half}.vector").float()))
        evaluations.append(ContextEvaluation(file.get_tensor(f"{place}.t"), latents))
    return step, evaluations
