"""A model: a domain and a method built from one preset, and the one file that holds its weights.

Weights travel as safetensors whose metadata carries the whole preset, so that a file alone is enough to sample from.
"""

from __future__ import annotations

import json
import math
from collections.abc import Callable, Collection, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, ClassVar, Protocol, runtime_checkable

import torch
from torch import Tensor

from inrflow_core import fields
from inrflow_core.config import preset, toml
from inrflow_core.config.preset import Preset
from inrflow_core.errors import IntegrityError, MissingError, UsageError
from inrflow_core.shards import schema
from inrflow_core.storage import safetensors_file, typed_json

FORMAT = "inrflow-weights-1"
CONTENTS = {
    FORMAT: ("weights", "sample them with `inrflow sample OUT --run {0}` or `inrflow upsample OUT --run {0}`"),
    fields.FORMAT: (
        "a saved field",
        "evaluate it with `inrflow upsample {0} OUT`, or export its functions with `inrflow export {0} OUT.safetensors`",
    ),
    fields.FUNCTION_FORMAT: (
        "one exported function",
        "read it as docs/inrct.md shows, or evaluate the saved field that it is of with `inrflow upsample FIELD OUT`",
    ),
}
"""By the format that a .safetensors file names: what it holds, and what can be done with it."""
MOST_UNCHECKED = 1_000_000
"""The largest integer setting that may be larger than the number of weights."""


@runtime_checkable
class SamplingOptions(Protocol):
    """How a method samples: what `sampling_options` of its file returns, for the method's `sample` and `invert`.

    A frozen dataclass. A method's file also has `SamplingConfig`, the settings of sampling that a command can change.
    """

    __dataclass_fields__: ClassVar[dict[str, Any]]

    @property
    def precision(self) -> str:
        """`fp32` or `bf16`."""
        ...

    @property
    def guide(self) -> Any:
        """What guides beside the model (it has `networks()` as a method has), or None."""
        ...

    @property
    def num_evaluations(self) -> int:
        """Evaluations of the network for one sample."""
        ...

    def provenance(self, guide_digest: str | None = None) -> dict[str, str]:
        """The options as text, for the files of the samples; `guide_digest` is of the guide's weights."""
        ...


@dataclass(frozen=True, repr=False)
class Model:
    """A domain and a method with weights; its `repr` says which.

    `metadata` is what the weights file holds beside weights and preset: step, decay, version, class names. `title` is what
    messages call the model. Default: its preset.
    """

    preset: Preset
    domain: Any
    method: Any
    metadata: Mapping[str, Any]
    title: str | None = None

    @property
    def name(self) -> str:
        """What messages call it: its `title`, else its preset."""
        return self.title or self.preset.name

    @property
    def frame_rate(self) -> float | None:
        """Frames per second of the clips that it was trained on; None if the weights do not record them."""
        normalization = self.metadata.get("normalization")
        return schema.frame_rate(normalization) if isinstance(normalization, Mapping) else None

    def __repr__(self) -> str:
        """What it samples under which condition, its method and size, and which weights it has, a line each."""
        preset, part = self.preset, self.preset.condition
        lines = [f"Model `{preset.name}`", f"samples: {self.domain.NOUN}, {self.domain.describe_size(None)} each"]
        if part is not None:
            count = part.module.num_classes(part.config)
            names = fields.listing(self.metadata.get("classes") or [])
            lines.append(f"condition: {f'{count} classes' if count else part.name}{f', {names}' if names else ''}")
        networks = ", ".join(network.name for network in preset.networks.values())
        sampler = "" if preset.sampler is None else f", sampler {preset.sampler.name}"
        lines += [f"method: {preset.method.name} of {networks}{sampler}", f"weights: {self._weights()}"]
        return "\n  ".join(lines)

    def _weights(self) -> str:
        """Their number, step, average and device; of a saved field's model, that it has a part alone."""
        if not isinstance(self.method, torch.nn.Module):
            return "of a saved field, those that evaluate it"
        parameters = list(self.method.parameters())
        texts = [f"{sum(map(torch.numel, parameters)):,} parameters"]
        if self.metadata.get("step") is not None:
            decay = self.metadata.get("decay")
            texts += [f"step {self.metadata['step']:,}", f"EMA {decay:g}" if decay else "without EMA"]
        return ", ".join([*texts, f"on {parameters[0].device}"])


def build(preset: Preset) -> Model:
    """A fresh model of a preset, with its initial weights."""
    domain = preset.domain.module.Domain(preset.domain.config)
    method = preset.method.module.build(preset, domain.shape)
    return Model(preset, domain, method, {})


def save(path: Path, tensors: Mapping[str, Tensor], preset: Preset, info: Mapping[str, Any], kind: str = FORMAT) -> str:
    """Write tensors with their preset atomically, with a digest in the file; returns the file's SHA-256."""
    return safetensors_file.write_with_digest(
        path, safetensors_file.layout(tensors), tensors.values, metadata(preset, info, kind)
    )


def metadata(preset: Preset, info: Mapping[str, Any], kind: str = FORMAT) -> dict[str, str]:
    """The metadata of a weights or field file: its format, the preset, and `info`."""
    return {
        "format": kind,
        "preset_name": preset.name,
        "preset": toml.to_toml(preset.table()),
        "info": json.dumps(dict(info), sort_keys=True),
    }


def load(path: Path, device: str | torch.device = "cpu", title: str | None = None) -> Model:
    """The model whose weights `path` holds, ready to sample; messages call it `title`, by default by its preset.

    Raises:
        MissingError: the file does not exist.
        IntegrityError: it is not a weights file of inrflow, is truncated, or has the weights of another network.
    """
    preset, info = read_metadata(path)
    check_claims(preset, path)
    model = build(preset)
    load_weights(model.method, path)
    model.method.to(device).eval().requires_grad_(False)
    return Model(preset, model.domain, model.method, info, title)


def content_of(path: Path) -> tuple[str, str] | None:
    """What a .safetensors file of inrflow holds and what can be done with it, for messages; None of other files.

    Raises:
        IntegrityError: it is named .safetensors and cannot be read.
    """
    if path.suffix != ".safetensors" or not path.is_file():
        return None
    what, use = CONTENTS.get(safetensors_file.read_metadata(path).get("format", ""), (None, ""))
    return None if what is None else (what, use.format(path))


def read_metadata(path: Path, kind: str = FORMAT) -> tuple[Preset, dict[str, Any]]:
    """The preset and the info inside a file of weights (or of another kind), without its tensors.

    Raises:
        MissingError: the file does not exist.
        IntegrityError: it is not a safetensors file, or not of that kind.
    """
    if not path.is_file():
        raise MissingError(f"the weights file `{path}` does not exist", hint="name a .safetensors file or a run folder")
    metadata = safetensors_file.read_metadata(path)
    content = content_of(path)
    if metadata.get("format") != kind and content is not None:
        raise IntegrityError(f"`{path}` holds {content[0]}, expected {CONTENTS[kind][0]}", hint=content[1])
    if metadata.get("format") != kind:
        raise IntegrityError(
            f"`{path}` has the format {metadata.get('format')!r}, expected `{kind}`",
            hint="`inrflow export` writes weights, `inrflow sample --save-field` writes fields",
        )
    for key in ("preset", "preset_name", "info"):
        if key not in metadata:
            raise IntegrityError(f"`{path}` does not say what it holds: it has no `{key}`", hint="export it again")
    where = f"`info` of `{path}`"
    info = typed_json.typed(
        typed_json.parse_json(metadata["info"], where), dict[str, Any], where, hint="export it again"
    )
    if "normalisation" in info:  # of earlier files
        info["normalization"] = info.pop("normalisation")
    try:
        tables = toml.parse_toml(metadata["preset"], f"`preset` of `{path}`")
        return preset.resolve(metadata["preset_name"], tables), info
    except UsageError as error:
        raise IntegrityError(
            f"`{path}` holds a preset that this inrflow does not read: {error.message}", hint=error.hint
        ) from error


def check_claims(preset: Preset, path: Path, networks_in_file: Collection[str] | None = None) -> None:
    """Raise IntegrityError before a model is built that needs more weights than a file holds.

    `networks_in_file` are the tables of the networks whose weights are in the file; all without it.
    """
    shapes = safetensors_file.tensor_shapes(path)
    count = sum(map(math.prod, shapes.values()))
    claims: dict[str, tuple[int, int]] = {}
    networks = {
        f"network.{name}" if len(preset.networks) > 1 else "network": part for name, part in preset.networks.items()
    }
    parts = {"domain": preset.domain, **networks, "condition": preset.condition, "method": preset.method}
    for table, part in parts.items():
        integers = (
            {} if part is None else {key: value for key, value in vars(part.config).items() if type(value) is int}
        )
        claims |= {f"{table}.{key}": (value, max(count, MOST_UNCHECKED)) for key, value in integers.items()}
    for table, part in networks.items():
        if networks_in_file is not None and table not in networks_in_file:
            continue
        depths = {key: value for key, value in vars(part.config).items() if key.endswith("depth")}
        claims |= {f"{table}.{key}": (value, len(shapes)) for key, value in depths.items()}
        weights = "the network's weights" if table == "network" else f"the weights of {table}"
        claims[weights] = (getattr(part.config, "least_weights", 0), count)
    for name, (claimed, most) in claims.items():
        if claimed > most:
            raise IntegrityError(
                f"`{path}` holds a preset of another network: {name} would be {claimed:,}, its {len(shapes):,} tensors "
                f"of {count:,} numbers allow {most:,}",
                hint="export it again",
            )


def check_sizes(build: Callable[[], torch.nn.Module], shapes: Mapping[str, Sequence[int]]) -> None:
    """Raise ValueError unless the network that `build` makes, here without memory, has tensors of these shapes."""
    with torch.device("meta"):
        claimed = {name: list(tensor.shape) for name, tensor in build().state_dict().items()}
    stored = {name: list(shape) for name, shape in shapes.items()}
    for name in sorted(claimed.keys() | stored.keys()):
        if stored.get(name) != claimed.get(name):
            has, says = stored.get(name, "none"), claimed.get(name, "none")
            raise ValueError(f"its tensor `{name}` has the shape {has}, and its preset says {says}")


def load_weights(method: torch.nn.Module, path: Path, only: Collection[str] | None = None) -> None:
    """Copy the tensors of a weights file into a model, one at a time; with `only` those of these names, which it needs.

    Raises:
        IntegrityError: the file's tensors have other names or shapes than the model's.
    """
    own = method.state_dict()
    if only is not None:
        own = {name: own[name] for name in only}
    with safetensors_file.open_tensors(path) as file:
        stored = set(file.keys())
        if only is not None:
            stored &= set(only)
        for name in sorted(stored ^ set(own)):
            side = "lacks" if name in own else "has"
            raise IntegrityError(
                f"`{path}` {side} the tensor `{name}`: its weights are of another network", hint="export it again"
            )
        for name, tensor in own.items():
            value = file.get_tensor(name)
            if value.shape != tensor.shape:
                raise IntegrityError(
                    f"`{path}` has `{name}` as {tuple(value.shape)}, the preset's network as {tuple(tensor.shape)}",
                    hint="export it again",
                )
            tensor.copy_(value)
