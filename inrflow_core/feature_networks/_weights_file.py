"""Weights of feature networks: published files, the folder of converted files, and a reader that checks them.

`inrflow weights convert` converts a published file (TorchScript, pickle, GraphDef) to NAME.safetensors, whose metadata
names the source. Only such files are read: nothing is downloaded or unpickled.
"""

from __future__ import annotations

import os
import shlex
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import NamedTuple

import torch
from jaxtyping import Float32
from torch import Tensor

from inrflow_core import registry
from inrflow_core.errors import IntegrityError, MissingError, UsageError
from inrflow_core.numerics import noise_field
from inrflow_core.storage import plain_file, safetensors_file

FORMAT = "inrflow-features-1"
VARIABLE = "INRFLOW_WEIGHTS"
"""The environment variable of the default folder of weights."""
DEFAULT_FOLDER = Path("weights")
SEED = 20151205
"""Of the weights of networks without a file."""
THIRD_PARTY = {".pt", ".pth", ".pkl", ".pickle", ".bin", ".ckpt", ".pb", ".tgz"}
"""Suffixes of published files, which are converted first."""


class PublishedWeights(NamedTuple):
    """A published file that `inrflow weights convert` converts."""

    file: str
    bytes: int | None
    """Its size; None if unknown."""
    sha256: str | None
    """None if unknown."""
    source: str
    """Its publisher and model."""
    page: str
    """The address of the page that publishes it."""
    license: str
    """The license that its publisher names, as far as it is known."""
    runs_code: bool = False
    """Whether converting runs code that the file holds (TorchScript)."""

    def __str__(self) -> str:
        size = "size unknown" if self.bytes is None else f"{self.bytes:,} bytes"
        digest = "sha256 unknown" if self.sha256 is None else f"sha256 {self.sha256}"
        return f"`{self.file}` ({self.source}, {self.page}; {size}, {digest})"


@dataclass(frozen=True)
class Weights:
    """The weights of a network."""

    name: str
    """The network's name, and the stem of its file."""
    published: tuple[PublishedWeights, ...]
    """Files that can be converted; the first is recommended."""
    second: PublishedWeights | None = None
    """A further file that the conversion needs beside one of these."""

    @property
    def file(self) -> str:
        """Its name in a folder of weights."""
        return f"{self.name}.safetensors"

    @property
    def files(self) -> tuple[PublishedWeights, ...]:
        """All published files that can be converted, or that the conversion needs."""
        return self.published if self.second is None else (*self.published, self.second)

    def command(
        self, source: str, target: Path, *, published: PublishedWeights | None = None, again: bool = False
    ) -> str:
        """The command that converts a published file to `target`; `again` where that exists.

        Args:
            published: which of `files` the file `source` is. Default: the one of its name.
        """
        published = published or next((file for file in self.files if file.file == Path(source).name), None)
        first, second = source, None if self.second is None else self.second.file
        if published is not None and published == self.second:
            first, second = self.published[0].file, source
        words = ["inrflow", "weights", "convert", self.name, first]
        words += [] if target == default_folder() / self.file else ["--out", str(target)]
        words += [] if second is None else ["--second", second]
        words += ["--trust"] if published is not None and published.runs_code else []
        return shlex.join(words + (["--overwrite"] if again else []))


@dataclass(frozen=True)
class WeightsProvenance:
    """The source of a network's weights; part of every result."""

    digest: str
    """sha256 of the safetensors file."""
    published: str
    """The published file that was converted."""
    published_digest: str
    """Its sha256."""
    is_verified: bool
    """Whether that is the known digest of the file."""


def default_folder() -> Path:
    """The folder of converted files, where none is named: the environment variable INRFLOW_WEIGHTS, else `weights`."""
    return Path(os.environ.get(VARIABLE) or DEFAULT_FOLDER)


def find(name: str, files: Mapping[str, Path], folder: Path | None = None) -> Path:
    """The weights file of a network: its entry in `files`, else the one in `folder`.

    Args:
        folder: default: `default_folder`.

    Raises:
        MissingError: it does not exist; the hint names the commands that list and convert its published files.
        UsageError: the file in `files` is not converted yet; or the network has no weights.
    """
    weights: Weights | None = registry.find("feature_networks", name).WEIGHTS
    if weights is None:
        raise UsageError(f"the network `{name}` takes no weights", hint="leave them out")
    folder = folder or default_folder()
    path = files.get(weights.name, folder / weights.file)
    target = folder / weights.file
    if path.suffix in THIRD_PARTY:
        raise UsageError(
            f"`{path}` is not a converted weights file: these are .safetensors files",
            hint=f"convert it with `{weights.command(str(path), target)}`",
        )
    if not path.is_file():
        raise MissingError(
            f"the weights of `{weights.name}` are absent: `{path}` does not exist", hint=download_hint(weights, target)
        )
    return path


def download_hint(weights: Weights, target: Path) -> str:
    """The commands that list the published files and convert one, and where the result is looked for, in three lines."""
    return (
        f"`inrflow weights list {weights.name}` lists the published files with page, size and digest;\n"
        f"`{weights.command(weights.published[0].file, target)}` converts one;\n"
        f"{VARIABLE}, or `--weights` where a command has it, names another folder of weights"
    )


def load_state(
    network: torch.nn.Module, weights: Weights, path: Path, device: torch.device | str = "cpu"
) -> WeightsProvenance:
    """Copy a weights file into a network, one tensor at a time; freeze it and move it to a device.

    Raises:
        IntegrityError: the file is damaged or of another format or network, or a tensor is missing, superfluous, of
            another shape or not finite.
    """
    expected = network.state_dict()
    again = f"convert it again with `{weights.command(weights.published[0].file, path, again=True)}`"
    metadata = safetensors_file.read_metadata(path, hint=again)
    _check_header(path, weights, metadata, again)
    with safetensors_file.open_tensors(path, hint=again) as file:
        names: list[str] = list(file.keys())
        _check_layout(path, {name: tuple(file.get_slice(name).get_shape()) for name in names}, expected, again)
        for name, tensor in expected.items():
            value = file.get_tensor(name)
            if not bool(torch.isfinite(value).all()):
                raise IntegrityError(f"`{path}` has numbers in `{name}` that are not finite", hint=again)
            tensor.copy_(value)
    network.to(device).eval().requires_grad_(False)
    return WeightsProvenance(
        plain_file.file_digest(path, from_disk=True),
        metadata["published"],
        metadata["published_sha256"],
        metadata["is_verified"] == "yes",
    )


def check_header(path: Path, weights: Weights) -> bool:
    """Whether a file says that it was converted from verified published files; reads its header alone.

    Raises:
        IntegrityError: it is damaged, or of another format or network.
    """
    again = f"convert it again with `{weights.command(weights.published[0].file, path, again=True)}`"
    metadata = safetensors_file.read_metadata(path, hint=again)
    _check_header(path, weights, metadata, again)
    return metadata["is_verified"] == "yes"


def _check_header(path: Path, weights: Weights, metadata: Mapping[str, str], again: str) -> None:
    if metadata.get("format") != FORMAT:
        raise IntegrityError(
            f"`{path}` is not a weights file of a feature network: its format is {metadata.get('format')!r}, "
            f"not `{FORMAT}`",
            hint=again,
        )
    if metadata.get("network") != weights.name:
        raise IntegrityError(
            f"`{path}` holds weights of `{metadata.get('network')}`, not of `{weights.name}`", hint=again
        )
    for name in ("published", "published_sha256", "is_verified"):
        if name not in metadata:
            raise IntegrityError(f"`{path}` does not record its source: it lacks `{name}`", hint=again)


def _check_layout(
    path: Path, stored: Mapping[str, tuple[int, ...]], expected: Mapping[str, torch.Tensor], again: str
) -> None:
    for name, tensor in expected.items():
        if name not in stored:
            raise IntegrityError(f"`{path}` lacks the tensor `{name}`", hint=again)
        if stored[name] != tuple(tensor.shape):
            raise IntegrityError(
                f"`{path}` has `{name}` as {stored[name]}, the network as {tuple(tensor.shape)}", hint=again
            )
    for name in stored:
        if name not in expected:
            raise IntegrityError(f"`{path}` has the tensor `{name}`, which the network lacks", hint=again)


def seeded_normal_weights(purpose: str, shape: tuple[int, ...]) -> Float32[Tensor, "*shape"]:
    """Normal numbers of deviation 1 / sqrt(inputs), bit-equal on every machine: of networks without a file.

    Every number here determines the values of metrics by random features.
    """
    count, inputs = shape[0], torch.Size(shape[1:]).numel()
    ids = torch.arange(count * inputs)
    return noise_field.normal(torch.tensor([SEED]), ids, purpose=purpose, channels=1).reshape(shape) * inputs**-0.5
