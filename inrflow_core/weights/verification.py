"""Check weights as a whole: digest, names and shapes of tensors, finite numbers, and what the network returns of a small input."""

from __future__ import annotations

import shlex
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from inrflow_core import registry
from inrflow_core.errors import IntegrityError, UsageError, did_you_mean
from inrflow_core.feature_networks import _contract, _hf_folder, _weights_file
from inrflow_core.runs import run
from inrflow_core.sampling import sample
from inrflow_core.sampling.labels import resolve_labels
from inrflow_core.sampling.options import options_for_labels
from inrflow_core.storage import plain_file, safetensors_file, typed_json
from inrflow_core.weights import inventory
from inrflow_core.weights.inventory import Entry

SIDE, FRAMES, POINTS = 64, 16, 4096
"""Of the input of a check: pixels of an image's side, frames of a clip, and points of a cloud, where the network needs no other number."""
FEW_STEPS = 2
"""Of the solver, for the sample of a model."""
TEXT, SEQUENCE = "a chair with four legs", "MKTAYIAKQRQISFVK"


@dataclass(frozen=True)
class Verified:
    """Weights that passed the check."""

    name: str
    path: Path
    sha256: str
    """Of the file; of several files of a folder, as `_hf_folder.digest`."""
    outputs: Mapping[str, tuple[int, ...]]
    """Shapes of what the network returned, all of it finite; of one input, or twice the same image for a distance."""
    note: str | None
    """What a user should know: that the published file is not a known one, or that nothing was sampled."""


def check(target: str) -> Verified:
    """Check the weights of a name of `inventory.entries`, or of a file or folder.

    Raises:
        UsageError: there is no such name or file, or it is a published file, which is converted first.
        MissingError: the weights are absent.
        IntegrityError: they are damaged, of another network, or return numbers that are not finite.
    """
    known = inventory.entries()
    entry = inventory.find(target, known)
    if entry is None and not Path(target).exists():
        raise UsageError(
            f"there are no weights called `{target}`, and no such file",
            hint=did_you_mean(target, [one.name for one in known]),
        )
    return check_entry(entry) if entry is not None else _check_path(Path(target))


def check_entry(entry: Entry) -> Verified:
    """Check the weights of an entry; raises as `check`."""
    checks = {"network": _check_network, "folder": _check_folder, "model": _check_model}
    return checks[entry.kind](entry.name, entry.path)


def _check_path(path: Path) -> Verified:
    """Check a file or folder by what it says it holds."""
    if path.is_dir() and not (path / _hf_folder.CONFIG).is_file():
        return _check_model(path.name, path)  # a run
    if path.is_dir():
        return _check_folder(_embedder_of(path), path)
    if path.suffix in _weights_file.THIRD_PARTY:
        raise UsageError(f"`{path}` is a published file, which is converted first", hint=_conversion_hint(path))
    metadata = safetensors_file.read_metadata(path)
    if metadata.get("format") != _weights_file.FORMAT:
        return _check_model(path.stem, path)
    name, known = metadata.get("network", ""), [weights.name for weights in inventory.converted()]
    if name not in known:
        raise IntegrityError(
            f"`{path}` says that it holds weights of `{name}`, of which there are no converted files",
            hint=f"get it again; known are {', '.join(known)}",
        )
    return _check_network(name, path)


def _conversion_hint(path: Path) -> str:
    """The command that converts a published file, by its digest, else by its name."""
    digest = plain_file.file_digest(path)
    known = [(weights, file) for weights in inventory.converted() for file in weights.files]
    alike = [pair for pair in known if pair[1].sha256 == digest] + [pair for pair in known if pair[1].file == path.name]
    if alike:
        weights, file = alike[0]
        target = _weights_file.default_folder() / weights.file
        return f"its sha256 is {digest}; `{weights.command(str(path), target, published=file)}`"
    command = f"inrflow weights convert NAME {shlex.quote(str(path))}"
    return f"its sha256, {digest}, is of no known file: `inrflow weights list` shows those; `{command}`"


def _embedder_of(folder: Path) -> str:
    """The embedder whose type the config of a folder names; raises IntegrityError if there is none."""
    kind = typed_json.read_table(folder / _hf_folder.CONFIG).get("model_type")
    embedders = {
        expected.model_type: name
        for name in _contract.names("embedder")
        if (expected := getattr(_contract.find_embedder(name), "EXPECTED", None)) is not None
    }
    if not isinstance(kind, str) or kind not in embedders:
        raise IntegrityError(
            f"`{folder}` holds a network of the type {kind!r}", hint="known are " + ", ".join(sorted(embedders))
        )
    return embedders[kind]


def _check_network(name: str, path: Path) -> Verified:
    """A converted file: its own digest, its tensors, and every output by every preprocessing."""
    file: Any = registry.find("feature_networks", name)
    path = _weights_file.find(name, {name: path})
    safetensors_file.check_digest(path)
    is_verified = _weights_file.check_header(path, file.WEIGHTS)
    network = file.load(path)
    answers: dict[str, Tensor] = {}
    items = EXAMPLES[file.DOMAIN](file)
    if file.KIND == "distance":
        images = torch.from_numpy(items).movedim(-1, 1).float() / 127.5 - 1
        answers["distance"] = network(images, -images)
    else:
        for preprocessing in file.PREPROCESSING:
            features = network(items, tuple(file.OUTPUTS), preprocessing)
            answers |= {f"{preprocessing}: {output}": features[output] for output in file.OUTPUTS}
    published = safetensors_file.read_metadata(path)["published"]
    note = None if is_verified else f"converted from a `{published}` whose digest is not known to inrflow"
    loaded = getattr(network, "loaded", None)
    digest = plain_file.file_digest(path) if loaded is None else loaded.digest
    return Verified(name, path, digest, _finite_shapes(path, answers), note)


def _check_folder(name: str, path: Path) -> Verified:
    """The folder of an embedder: its tensors, and its tokens of one input."""
    embedder = _contract.load(name, path)
    items = EXAMPLES[_contract.find_embedder(name).DOMAIN](None)
    tokens = embedder(torch.from_numpy(items) if isinstance(items, np.ndarray) else items)
    answers = {"tokens": torch.as_tensor(np.asarray(tokens[0]))}
    return Verified(name, path, embedder.digest, _finite_shapes(path, answers), None)


def _check_model(name: str, path: Path) -> Verified:
    """Weights of inrflow: their digest, their tensors, and one sample in few steps where it needs no input."""
    model = sample.load(path, device="cpu")  # as the queries below
    file = run.resolve_weights(path)
    digest = plain_file.file_digest(file)
    if not run.samples_under(model.preset, None):
        return Verified(
            name, path, digest, {}, f"`{name}` is not sampled: the model needs an image, a sequence or a text"
        )
    labels = resolve_labels(model, [0])
    steps = FEW_STEPS if hasattr(getattr(model.preset.sampler, "config", None), "steps") else None
    field = sample.sample_fields(model, [0], labels, options_for_labels(model, labels, steps=steps))
    values = field.query(model.domain.queries(None, None, field.condition))
    return Verified(name, path, digest, _finite_shapes(path, {"sample": values}), None)


def _finite_shapes(path: Path, answers: Mapping[str, Tensor]) -> dict[str, tuple[int, ...]]:
    """The shapes of what a network returned; raises IntegrityError for numbers that are not finite."""
    for name, answer in answers.items():
        if not bool(torch.isfinite(answer).all()):
            raise IntegrityError(
                f"the network of `{path}` returns numbers that are not finite as `{name}`", hint="get it again"
            )
    return {name: tuple(answer.shape) for name, answer in answers.items()}


def _image(file: Any) -> np.ndarray:
    """One color image, uint8 (1 64 64 3), of smooth waves."""
    rows, columns = np.mgrid[0:SIDE, 0:SIDE] / SIDE
    waves = [np.sin(6 * rows + 9 * columns + phase) for phase in range(3)]
    return (127.5 + 127 * np.stack(waves, axis=-1))[None].astype(np.uint8)


def _clip(file: Any) -> np.ndarray:
    """One color clip, uint8 (1 T 64 64 3): the image moves."""
    frames = getattr(file, "FRAMES", FRAMES)
    return np.stack([np.roll(_image(file)[0], frame, axis=1) for frame in range(frames)])[None]


def _cloud(file: Any) -> np.ndarray:
    """One cloud on a sphere with colors, float32 (1 P 6)."""
    index = np.arange(getattr(file, "POINTS", POINTS)) + 0.5
    height, angle = 1 - 2 * index / len(index), index * np.pi * (3 - 5**0.5)
    radius = np.sqrt(1 - height**2)
    positions = np.stack([radius * np.cos(angle), radius * np.sin(angle), height], axis=1)
    return np.concatenate([positions, (positions + 1) / 2], axis=1)[None].astype(np.float32)


EXAMPLES: dict[str, Callable[[Any], Any]] = {
    "image": _image,
    "video": _clip,
    "points": _cloud,
    "text": lambda file: [TEXT],
    "sequence": lambda file: [SEQUENCE],
}
"""One input of each domain, for a network's file."""
