"""Convert a published file of a feature network to the safetensors file that `inrflow` reads.

docs/feature-weights.md says which files there are, how large, and with which digest. The file's digest is compared
first; nothing is written unless every tensor of the network is there in its shape.
"""

from __future__ import annotations

import shlex
from collections.abc import Iterator, Mapping
from dataclasses import replace
from pathlib import Path

import torch
from torch import Tensor

from inrflow_core import registry
from inrflow_core.errors import IntegrityError, MissingError, UsageError
from inrflow_core.feature_networks import _hf_folder, _weights_file
from inrflow_core.feature_networks._weights_file import Weights
from inrflow_core.storage import atomic_write, plain_file, safetensors_file
from inrflow_core.weights import published_files, published_layouts

NETWORKS = {
    **{"inception": "Inception", "vgg16": "VGG16", "clip": "ImageEncoder", "clip-bigg": "ImageEncoder"},
    **{"pointnet2": "PointNet2", "ulip2": "PointEncoder", "lpips": "LPIPS", "i3d": "I3D"},
    "clip-text-b32": "TextEncoder",
}
"""The class of each network in its file."""


def convert(
    name: str,
    source: Path,
    target: Path,
    *,
    second: Path | None = None,
    trust: bool = False,
    any_digest: bool = False,
    overwrite: bool = False,
) -> str:
    """Make `target` of a published file, or of two; its sha256. The file has a digest of its own inside.

    Raises:
        MissingError: there is no such file.
        UsageError: the network's weights are not converted; the file is TorchScript and not trusted, or converted already; the
            target cannot be written; or the network needs a second file, or none.
        IntegrityError: its digest is not the known one, or it is not this network.
    """
    weights = convertible(name)
    name = weights.name
    _check_number(weights, source, second)
    sources = [(source, weights)]
    if second is not None and weights.second is not None:
        sources.append((second, replace(weights, published=(weights.second,), second=None)))
    for path, _ in sources:
        if not path.is_file():
            raise MissingError(f"`{path}` does not exist", hint=_weights_file.download_hint(weights, target))
    if target.suffix != ".safetensors":
        raise UsageError(f"`{target}` must end in .safetensors", hint=f"as in `weights/{weights.file}`")
    _check_published(source)
    digests = [plain_file.file_digest(path, from_disk=True) for path, _ in sources]
    published = [
        published_files.recognize(known, path, digest, any_digest=any_digest)
        for (path, known), digest in zip(sources, digests, strict=True)
    ]
    target.parent.mkdir(parents=True, exist_ok=True)
    atomic_write.check_writable(target, overwrite=overwrite)
    stored = {name: tensor for path, _ in sources for name, tensor in published_files.read(path, trust=trust).items()}
    with torch.device("meta"):
        own = getattr(registry.find("feature_networks", name), NETWORKS[name])().state_dict()
    planned = {tensor: (torch.float32, tuple(meta.shape)) for tensor, meta in own.items()}
    metadata = {
        "format": _weights_file.FORMAT,
        "network": name,
        "published": " and ".join(
            path.name if known is None else known.file for (path, _), known in zip(sources, published, strict=True)
        ),
        "published_sha256": " and ".join(digests),
        "is_verified": "yes" if [known and known.sha256 for known in published] == digests else "no",
    }
    return safetensors_file.write_with_digest(target, planned, lambda: _made(name, source, stored, planned), metadata)


def convertible(name: str) -> Weights:
    """The weights of a network whose published files can be converted.

    Raises:
        UsageError: there is no such network, it has no weights, or its weights are used as they are published.
    """
    part = registry.find("feature_networks", name)
    weights: Weights | None = getattr(part, "WEIGHTS", None)
    if weights is not None and weights.name in NETWORKS:
        return weights
    if (expected := getattr(part, "EXPECTED", None)) is not None:
        raise UsageError(
            f"the weights of `{expected.name}` are used as they are published, without conversion",
            hint=_hf_folder.download_hint(expected),
        )
    raise UsageError(
        f"no published file of `{name}` is converted", hint="these are: " + ", ".join(f"`{each}`" for each in NETWORKS)
    )


def _check_published(source: Path) -> None:
    """Raise UsageError for a file that is converted already."""
    if source.suffix != ".safetensors":
        return
    metadata = safetensors_file.read_metadata(source, hint="get the file again")
    if metadata.get("format") == _weights_file.FORMAT:
        command = shlex.join(["inrflow", "weights", "check", str(source)])
        raise UsageError(f"`{source}` is converted already", hint=f"check it with `{command}`")


def _check_number(weights: Weights, source: Path, second: Path | None) -> None:
    """Raise UsageError unless there is a second file where, and only where, the network is made of two."""
    if weights.second is not None and second is None:
        raise UsageError(
            f"`{weights.name}` is made of two published files, and `{source}` is one",
            hint=f"add `--second {weights.second.file}`: {weights.second}",
        )
    if weights.second is None and second is not None:
        raise UsageError(f"`{weights.name}` is made of one published file, got `{second}` too", hint="leave it out")


def _made(name: str, source: Path, stored: Mapping[str, Tensor], planned: safetensors_file.Layout) -> Iterator[Tensor]:
    """Our tensors in the planned order, each made when it is read, all checked before the first."""
    layout = published_layouts.nearest(name, planned, stored)
    for tensor in planned:
        for part in layout(tensor).names:
            if part not in stored:
                raise IntegrityError(f"`{source}` lacks `{part}`: it is not {name}", hint="get the file again")

    def made(tensor: str) -> Tensor:
        recipe = layout(tensor)
        return recipe.make(*(stored[part] for part in recipe.names)).float()

    for tensor, (_, shape) in planned.items():
        if (made_shape := tuple(made(tensor).shape)) != shape:
            names = ", ".join(f"`{part}`" for part in layout(tensor).names)
            raise IntegrityError(
                f"`{source}` has {names} that make {made_shape}, while {name} has {shape}", hint="get the file again"
            )
    for tensor in planned:
        yield made(tensor).contiguous()
