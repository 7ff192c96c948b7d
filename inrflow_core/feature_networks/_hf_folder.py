"""Weights of a frozen network as a folder in the Hugging Face layout: config.json beside model.safetensors.

Transformers loads the tensors, because it knows their names in each of its versions. Here every tensor is checked to be
present, of the right shape and finite; Transformers would warn and continue with random numbers. Pickles
(pytorch_model.bin) are not read.
"""

from __future__ import annotations

import hashlib
import importlib
import math
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch

from inrflow_core.errors import IntegrityError, MissingError, UsageError
from inrflow_core.storage import plain_file, safetensors_file, typed_json

CONFIG = "config.json"
WEIGHTS = "model.safetensors"
INDEX = "model.safetensors.index.json"
"""In place of WEIGHTS if the tensors are in several files: it lists them."""
CODE_KEYS = {
    **dict.fromkeys(("attn_implementation", "_attn_implementation"), (None, "eager", "sdpa")),
    **dict.fromkeys(("auto_map", "quantization_config", "experts_implementation", "use_kernels"), (None,)),
}
"""Keys of a config by which Transformers imports packages or fetches code, and what they may be."""
MOST_UNCHECKED = 1_000_000
"""The largest integer of a config that may be larger than the number of weights."""
PICKLES = ("pytorch_model.bin", "*.pth", "*.pt")


@dataclass(frozen=True)
class ExpectedNetwork:
    """The network that is expected in a folder."""

    name: str
    """The embedder's name."""
    kind: str
    """The class of Transformers that runs it."""
    model_type: str
    """Its `model_type` in config.json."""
    source: str
    """Its published name on Hugging Face."""
    license: str
    """The license that its publisher names."""
    ignored: tuple[str, ...] = ()
    """Prefixes of tensors that may be absent or superfluous, because tokens do not depend on them."""

    @property
    def page(self) -> str:
        """The address of the page that publishes it."""
        return f"https://huggingface.co/{self.source}"


@dataclass(frozen=True, eq=False)
class PretrainedNetwork:
    """A network with its weights; embedders extend it."""

    network: torch.nn.Module
    digest: str
    """SHA-256 of the weights."""

    @property
    def width(self) -> int:
        """Width of a token."""
        return int(self.network.config.hidden_size)  # type: ignore[union-attr, arg-type]


def load(
    expected: ExpectedNetwork, folder: Path, device: torch.device | str = "cpu", **options: Any
) -> tuple[torch.nn.Module, str]:
    """The network of a folder, frozen and in float32, and the SHA-256 of its weights.

    Args:
        options: for the constructor of the network, as in `add_pooling_layer=False`.

    Raises:
        MissingError: the folder does not exist, or lacks the config or the weights.
        UsageError: Transformers is not installed.
        IntegrityError: a file is damaged or of another network, or a tensor is missing, superfluous, of another shape
            or not finite.
    """
    files = weights_files(expected, folder)
    _check_headers(expected, folder, files, _check_config(expected, folder))
    kind = getattr(_transformers(expected), expected.kind)
    try:
        network, report = kind.from_pretrained(
            folder, local_files_only=True, use_safetensors=True, dtype=torch.float32,
            output_loading_info=True, ignore_mismatched_sizes=True, **options,
        )  # fmt: skip
    except _broken() as error:
        raise IntegrityError(
            f"`{folder}` cannot be loaded as `{expected.name}`: {error}", hint=download_hint(expected)
        ) from error
    _check_tensors(expected, folder, network, report)
    return network.requires_grad_(False).eval().to(device), digest(files)


def digest(files: Sequence[Path]) -> str:
    """SHA-256 of a weights file; of several files, that of their digests, one per line, in the order of their names."""
    digests = [plain_file.file_digest(path, from_disk=True) for path in sorted(files)]
    return digests[0] if len(digests) == 1 else hashlib.sha256("\n".join(digests).encode()).hexdigest()


def weights_files(expected: ExpectedNetwork, folder: Path) -> list[Path]:
    """The safetensors files of a folder.

    Raises:
        MissingError, IntegrityError: as `load`.
    """
    if not folder.is_dir():
        raise MissingError(
            f"the weights of `{expected.name}` are absent: there is no folder `{folder}`", hint=download_hint(expected)
        )
    if not (folder / CONFIG).is_file():
        raise MissingError(
            f"`{folder}` holds no `{CONFIG}`, so it is not a network's folder", hint=download_hint(expected)
        )
    if (folder / WEIGHTS).is_file():
        return [folder / WEIGHTS]
    if not (folder / INDEX).is_file():
        pickles = [path.name for ending in PICKLES for path in folder.glob(ending)]
        also = f"; `{pickles[0]}` is a pickle, which is not read" if pickles else ""
        raise MissingError(f"`{folder}` holds no `{WEIGHTS}`{also}", hint=download_hint(expected))
    index = _json(expected, folder / INDEX).get("weight_map", {})
    files_by_tensor = typed_json.typed(
        index, dict[str, str], f"`weight_map` of `{folder / INDEX}`", hint=download_hint(expected)
    )
    names = sorted(set(files_by_tensor.values()))
    if not names or any(Path(name).name != name for name in names):
        raise IntegrityError(f"`{folder / INDEX}` lists no files of this folder", hint=download_hint(expected))
    for name in names:
        if not (folder / name).is_file():
            raise MissingError(f"`{folder}` lacks `{name}`, which its `{INDEX}` lists", hint=download_hint(expected))
    return [folder / name for name in names]


def _check_config(expected: ExpectedNetwork, folder: Path) -> dict[str, Any]:
    """The config of a folder: of the expected type, and without keys by which Transformers loads other code."""
    config = _json(expected, folder / CONFIG)
    got = config.get("model_type")
    if got != expected.model_type:
        raise IntegrityError(
            f"`{folder}` holds a network of the type {got!r}; `{expected.name}` is a `{expected.model_type}`",
            hint=download_hint(expected),
        )
    for key, allowed in CODE_KEYS.items():
        if config.get(key) not in allowed:
            raise IntegrityError(
                f"`{folder / CONFIG}` has `{key}` {str(config[key])[:40]!r}, which is refused: it loads other code",
                hint=f"remove the key; allowed: {', '.join(str(value) for value in allowed)}",
            )
    return config


def _check_headers(expected: ExpectedNetwork, folder: Path, files: Iterable[Path], config: Mapping[str, Any]) -> None:
    """Raise IntegrityError where the config describes a network of more weights than the files hold."""
    shapes: dict[str, list[int]] = {}
    for path in files:
        shapes |= safetensors_file.tensor_shapes(path, hint=download_hint(expected))
    count = sum(map(math.prod, shapes.values()))
    layers, width = config.get("num_hidden_layers", 0), config.get("hidden_size", 0)
    if type(layers) is int and type(width) is int and (layers > len(shapes) or layers * width**2 > count):
        raise _other_size(expected, folder, f"{layers:,} layers of width {width:,}", count)
    for key, value in config.items():
        if type(value) is int and value > max(count, MOST_UNCHECKED):
            raise _other_size(expected, folder, f"`{key}` {value:,}", count)


def _other_size(expected: ExpectedNetwork, folder: Path, described: str, count: int) -> IntegrityError:
    return IntegrityError(
        f"`{folder / CONFIG}` describes {described}, and the weights beside it are {count:,} numbers",
        hint=download_hint(expected),
    )


def _check_tensors(
    expected: ExpectedNetwork, folder: Path, network: torch.nn.Module, report: Mapping[str, Any]
) -> None:
    """Raise IntegrityError where Transformers only warns and uses random numbers in place of a tensor."""
    for name, shape, right in sorted(report["mismatched_keys"]):
        raise IntegrityError(
            f"`{folder}` is not a `{expected.name}` as described by its `{CONFIG}`: the tensor `{name}` is "
            f"{list(shape)}, not {list(right)}",
            hint=download_hint(expected),
        )
    for key, verb in (("missing_keys", "lacks the"), ("unexpected_keys", "has the superfluous")):
        names = sorted(name for name in report[key] if not name.startswith(expected.ignored))
        if names:
            raise IntegrityError(
                f"`{folder}` is not a `{expected.name}` as described by its `{CONFIG}`: it {verb} tensor `{names[0]}`"
                + (f" and {len(names) - 1} more" if len(names) > 1 else ""),
                hint=download_hint(expected),
            )
    for name, tensor in network.state_dict().items():
        if not bool(torch.isfinite(tensor).all()):
            raise IntegrityError(
                f"`{folder}` has numbers in `{name}` that are not finite", hint=download_hint(expected)
            )


def _json(expected: ExpectedNetwork, path: Path) -> dict[str, Any]:
    return typed_json.read_table(path, hint=download_hint(expected))


def download_hint(expected: ExpectedNetwork) -> str:
    """The files to get, and where to put them."""
    return (
        f"get `{CONFIG}` and `{WEIGHTS}` of `{expected.source}` ({expected.page}),\n"
        f"put both into `weights/{expected.name}` (INRFLOW_WEIGHTS names another parent), or name their folder with `--weights DIR`"
    )


def _transformers(expected: ExpectedNetwork) -> Any:
    try:
        transformers = importlib.import_module("transformers")
    except ImportError as error:
        raise UsageError(
            f"`{expected.name}` is run by the package `transformers`, which is not installed",
            hint='`pip install "inrflow[pretrained]"`',
        ) from error
    # Silence its log and progress bar: the checks here raise errors in place of its warnings.
    transformers.logging.set_verbosity_error()
    transformers.logging.disable_progress_bar()
    return transformers


def _broken() -> tuple[type[Exception], ...]:
    """The errors of Transformers for a folder that it cannot load."""
    from huggingface_hub.errors import StrictDataclassError

    return (
        *(OSError, ValueError, TypeError, RuntimeError, LookupError, ArithmeticError, AttributeError, ImportError),
        *(AssertionError, RecursionError, StrictDataclassError),
    )
