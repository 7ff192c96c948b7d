"""Weights of a frozen network as a folder in the Hugging Face layout: config.json beside model.safetensors.

Transformers knows what the tensors are called in which of its versions, so it loads them; that every tensor is there,
has its shape and holds numbers is checked here, where Transformers would warn and go on with random ones. Pickles
(pytorch_model.bin) are not read.
"""

from __future__ import annotations

import hashlib
import importlib
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch

from inrflow_core.errors import IntegrityError, MissingError, UsageError
from inrflow_core.storage import checksum, safetensors_file, typed_json

CONFIG = "config.json"
WEIGHTS = "model.safetensors"
INDEX = "model.safetensors.index.json"
"""In place of WEIGHTS where the tensors lie in several files, which it lists."""
PICKLES = ("pytorch_model.bin", "*.pth", "*.pt")


@dataclass(frozen=True)
class ExpectedNetwork:
    """The network that a folder must hold."""

    name: str
    """The embedder's."""
    kind: str
    """The class of Transformers that runs it."""
    model_type: str
    """What config.json calls that kind of network."""
    source: str
    """Under which name it is published."""
    ignored: tuple[str, ...] = ()
    """Beginnings of the names of tensors that may be absent or too many: they have no part in the tokens."""


def load(
    wanted: ExpectedNetwork, folder: Path, device: torch.device | str = "cpu", **options: Any
) -> tuple[torch.nn.Module, str]:
    """The network of a folder, frozen and in float32, and the SHA-256 of its weights.

    Args:
        options: for the constructor of the network, as in `add_pooling_layer=False`.

    Raises:
        MissingError: the folder is not there, or lacks the config or the weights.
        UsageError: Transformers is not installed.
        IntegrityError: a file is damaged, is of another kind of network, or a tensor is absent, too many, of another
            shape or not finite.
    """
    files = _files(wanted, folder)
    _check_config(wanted, folder)
    _check_headers(wanted, files)
    kind = getattr(_transformers(wanted), wanted.kind)
    try:
        network, told = kind.from_pretrained(
            folder, local_files_only=True, use_safetensors=True, dtype=torch.float32,
            output_loading_info=True, ignore_mismatched_sizes=True, **options,
        )  # fmt: skip
    except _broken() as error:
        raise IntegrityError(f"`{folder}` cannot be loaded as `{wanted.name}`: {error}", hint=_again(wanted)) from error
    _check_tensors(wanted, folder, network, told)
    return network.requires_grad_(False).eval().to(device), digest(files)


def digest(files: Sequence[Path]) -> str:
    """SHA-256 of a weights file; of several, that of their digests, a line each, in the order of their names."""
    found = [checksum.file_digest(path, from_disk=True) for path in sorted(files)]
    return found[0] if len(found) == 1 else hashlib.sha256("\n".join(found).encode()).hexdigest()


def _files(wanted: ExpectedNetwork, folder: Path) -> list[Path]:
    """The safetensors files of a folder."""
    if not folder.is_dir():
        raise MissingError(
            f"the weights of `{wanted.name}` are absent: there is no folder `{folder}`", hint=_again(wanted)
        )
    if not (folder / CONFIG).is_file():
        raise MissingError(f"`{folder}` holds no `{CONFIG}`, so it is not a network's folder", hint=_again(wanted))
    if (folder / WEIGHTS).is_file():
        return [folder / WEIGHTS]
    if not (folder / INDEX).is_file():
        pickles = [path.name for ending in PICKLES for path in folder.glob(ending)]
        also = f"; `{pickles[0]}` is a pickle, which is not read" if pickles else ""
        raise MissingError(f"`{folder}` holds no `{WEIGHTS}`{also}", hint=_again(wanted))
    index = _json(wanted, folder / INDEX).get("weight_map", {})
    listed = typed_json.typed(index, dict[str, str], f"`weight_map` of `{folder / INDEX}`", hint=_again(wanted))
    names = sorted(set(listed.values()))
    if not names or any(Path(name).name != name for name in names):
        raise IntegrityError(f"`{folder / INDEX}` lists no files of this folder", hint=_again(wanted))
    for name in names:
        if not (folder / name).is_file():
            raise MissingError(f"`{folder}` lacks `{name}`, which its `{INDEX}` lists", hint=_again(wanted))
    return [folder / name for name in names]


def _check_config(wanted: ExpectedNetwork, folder: Path) -> None:
    got = _json(wanted, folder / CONFIG).get("model_type")
    if got != wanted.model_type:
        raise IntegrityError(
            f"`{folder}` holds a network of the kind {got!r}; `{wanted.name}` is a `{wanted.model_type}`",
            hint=_again(wanted),
        )


def _check_headers(wanted: ExpectedNetwork, files: Iterable[Path]) -> None:
    for path in files:
        with safetensors_file.open_tensors(path, hint=_again(wanted)) as file:
            file.keys()


def _check_tensors(wanted: ExpectedNetwork, folder: Path, network: torch.nn.Module, told: Mapping[str, Any]) -> None:
    """What Transformers only warns of; its random numbers in the place of a tensor must never be used."""
    for name, got, own in sorted(told["mismatched_keys"]):
        raise IntegrityError(
            f"`{folder}` is no `{wanted.name}` as its `{CONFIG}` describes it: the tensor `{name}` is "
            f"{list(got)}, not {list(own)}",
            hint=_again(wanted),
        )
    for key, said in (("missing_keys", "lacks"), ("unexpected_keys", "has one too many:")):
        names = sorted(name for name in told[key] if not name.startswith(wanted.ignored))
        if names:
            raise IntegrityError(
                f"`{folder}` is no `{wanted.name}` as its `{CONFIG}` describes it: it {said} the tensor `{names[0]}`"
                + (f" and {len(names) - 1} more" if len(names) > 1 else ""),
                hint=_again(wanted),
            )
    for name, tensor in network.state_dict().items():
        if not bool(torch.isfinite(tensor).all()):
            raise IntegrityError(f"`{folder}` has numbers in `{name}` that are not finite", hint=_again(wanted))


def _json(wanted: ExpectedNetwork, path: Path) -> dict[str, Any]:
    return typed_json.read_table(path, hint=_again(wanted))


def _again(wanted: ExpectedNetwork) -> str:
    return (
        f"get `{CONFIG}` and `{WEIGHTS}` of `{wanted.source}` from Hugging Face, put both into `weights/{wanted.name}` "
        "(INRFLOW_WEIGHTS names another parent), or name their folder with `--weights DIR`"
    )


def _transformers(wanted: ExpectedNetwork) -> Any:
    try:
        transformers = importlib.import_module("transformers")
    except ImportError as error:
        raise UsageError(
            f"`{wanted.name}` is run by the package `transformers`, which is not installed",
            hint='`pip install "inrflow[pretrained]"`',
        ) from error
    # Its report of what it loaded, and its bar; the checks here say the same as errors.
    transformers.logging.set_verbosity_error()
    transformers.logging.disable_progress_bar()
    return transformers


def _broken() -> tuple[type[Exception], ...]:
    """What Transformers raises on a folder that it cannot make a network of."""
    from huggingface_hub.errors import StrictDataclassError

    return (OSError, ValueError, TypeError, RuntimeError, LookupError, StrictDataclassError)
