"""Turn a published file of a feature network into the safetensors file that `inrflow` reads.

    python tools/convert_weights.py inception inception-2015-12-05.pt weights/inception.safetensors --trust
    python tools/convert_weights.py inception pt_inception-2015-12-05-6726825d.pth weights/inception.safetensors
    python tools/convert_weights.py vgg16 vgg16-397923af.pth weights/vgg16.safetensors
    python tools/convert_weights.py lpips vgg16-397923af.pth weights/lpips.safetensors --second vgg.pth
    python tools/convert_weights.py clip pytorch_model.bin weights/clip.safetensors
    python tools/convert_weights.py clip-text-b32 pytorch_model.bin weights/clip-text-b32.safetensors
    python tools/convert_weights.py pointnet2 pointnet.pt weights/pointnet2.safetensors
    python tools/convert_weights.py i3d i3d_torchscript.pt weights/i3d.safetensors --trust

docs/feature-weights.md says which files there are, how large, and with which digest. The file's digest is compared
first; nothing is written unless every tensor of the network is there in its shape.

A TorchScript file (.pt) is a program: loading it runs code that it holds. It is therefore loaded with --trust alone.
Pickled checkpoints are read by torch's restricted unpickler, which beside tensors knows NumPy's numbers and the words of
a command line here, GraphDefs by a reader of their constants: neither runs anything.
"""

from __future__ import annotations

import argparse
import pickle
import struct
import sys
import zipfile
from collections.abc import Iterator, Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import safetensors
import safetensors.torch
import torch
from torch import Tensor

from inrflow_core import registry
from inrflow_core.errors import InrflowError, IntegrityError, MissingError, UsageError
from inrflow_core.feature_networks import _weights_file
from inrflow_core.feature_networks._weights_file import PublishedWeights, Weights
from inrflow_core.storage import atomic_write, plain_file, safetensors_file
from tools import graph_def, published_layouts

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

NETWORKS = {
    **{"inception": "Inception", "vgg16": "VGG16", "clip": "ImageEncoder", "clip-bigg": "ImageEncoder"},
    **{"pointnet2": "PointNet2", "ulip2": "PointEncoder", "lpips": "LPIPS", "i3d": "I3D"},
    "clip-text-b32": "TextEncoder",
}
"""The class of each network in its file."""
CHECKPOINTS = ("model_state_dict", "state_dict")
"""What training programs call the tensors among what else they keep."""
WRAPPER = "module."
"""What training on several devices puts before every name."""
SCALAR = np.float64(0).__reduce__()[0]
"""What NumPy pickles its numbers by."""
HARMLESS = [
    argparse.Namespace,
    (SCALAR, "numpy.core.multiarray.scalar"),
    (SCALAR, "numpy._core.multiarray.scalar"),
    *(np.dtype, *(type(np.dtype(kind)) for kind in ("float32", "float64", "int64"))),
]
"""What training checkpoints hold beside tensors; building one of these runs no code of the file."""
DAMAGE = (
    *(safetensors.SafetensorError, pickle.UnpicklingError, zipfile.BadZipFile, struct.error, EOFError, ValueError),
    *(RuntimeError, LookupError, TypeError, AttributeError, AssertionError),
)
"""What the readers raise of a damaged file: tried with bytes changed and files cut at random places."""


def main(words: list[str] | None = None) -> int:
    """Convert one file; the exit status is that of the inrflow commands."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("network", choices=sorted(NETWORKS))
    parser.add_argument("source", type=Path, help="the published file")
    parser.add_argument("target", type=Path, help="the .safetensors file to write")
    parser.add_argument("--second", type=Path, metavar="FILE", help="the other published file, of lpips: `vgg.pth`")
    parser.add_argument("--trust", action="store_true", help="run the code inside a TorchScript file")
    parser.add_argument("--any-digest", action="store_true", help="take a file whose digest is not a known one")
    parser.add_argument("--overwrite", action="store_true", help="replace the target")
    arguments = parser.parse_args(words)
    try:
        digest = convert(
            arguments.network,
            arguments.source,
            arguments.target,
            second=arguments.second,
            trust=arguments.trust,
            any_digest=arguments.any_digest,
            overwrite=arguments.overwrite,
        )
    except InrflowError as error:
        print(f"error: {error.message}" + (f"\n\nhint: {error.hint}" if error.hint else ""), file=sys.stderr)
        return int(error.code)
    print(f"wrote {arguments.target}, sha256 {digest}", file=sys.stderr)
    return 0


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
    """Make `target` of a published file, or of two; its sha256.

    Raises:
        MissingError: there is no such file.
        UsageError: it is TorchScript and not trusted, the target cannot be written, or the network needs a second file, or none.
        IntegrityError: its digest is not the known one, or it is not this network.
    """
    part = registry.find("feature_networks", name)
    weights: Weights = part.WEIGHTS
    _check_number(weights, source, second)
    sources = [(source, weights)]
    if second is not None and weights.second is not None:
        sources.append((second, replace(weights, published=(weights.second,), second=None)))
    for path, _ in sources:
        if not path.is_file():
            raise MissingError(f"`{path}` does not exist", hint=_weights_file.download_hint(weights, target))
    if target.suffix != ".safetensors":
        raise UsageError(f"`{target}` must end in .safetensors", hint=f"as in `weights/{weights.file}`")
    target.parent.mkdir(parents=True, exist_ok=True)
    atomic_write.check_writable(target, overwrite=overwrite)
    digests = [plain_file.file_digest(path, from_disk=True) for path, _ in sources]
    published = [
        recognize(known, path, digest, any_digest=any_digest)
        for (path, known), digest in zip(sources, digests, strict=True)
    ]
    stored = {name: tensor for path, _ in sources for name, tensor in read(path, trust=trust).items()}
    with torch.device("meta"):
        own = getattr(part, NETWORKS[name])().state_dict()
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
    return safetensors_file.write(target, planned, _made(name, source, stored, planned), metadata)


def _check_number(weights: Weights, source: Path, second: Path | None) -> None:
    """Raise UsageError unless there is a second file where, and only where, the network is made of two."""
    if weights.second is not None and second is None:
        raise UsageError(
            f"`{weights.name}` is made of two published files, and `{source}` is one",
            hint=f"add `--second {weights.second.file}`: {weights.second}",
        )
    if weights.second is None and second is not None:
        raise UsageError(f"`{weights.name}` is made of one published file, got `{second}` too", hint="leave it out")


def recognize(weights: Weights, source: Path, digest: str, *, any_digest: bool) -> PublishedWeights | None:
    """The published file that this is: by its digest, or by name and size where no digest is known.

    Raises:
        IntegrityError: it is none of them, and `any_digest` is off.
    """
    for published in weights.published:
        if published.sha256 == digest:
            return published
    size = source.stat().st_size
    for published in weights.published:
        if published.sha256 is None and published.file == source.name and published.bytes in (None, size):
            return published
    if any_digest:
        return None
    known = next((published for published in weights.published if published.file == source.name), None)
    raise IntegrityError(
        f"`{source}` is no known file of `{weights.name}`: its sha256 is {digest}, its size {size:,} bytes",
        hint=(f"it should be {known}; get it again" if known else "known are " + ", ".join(map(str, weights.published)))
        + ". Or take it as it is with `--any-digest`: every number made with it will say so",
    )


def read(source: Path, *, trust: bool) -> Mapping[str, Tensor]:
    """The tensors of a published file by its own names.

    Raises:
        UsageError: it is TorchScript, and not trusted.
        IntegrityError: it is damaged, or holds more than tensors.
    """
    if source.suffix == ".pb":
        constants = graph_def.constants(source.read_bytes())
        return {name: torch.from_numpy(values.copy()) for name, values in constants.items()}
    again = "get the file again"
    try:
        if source.suffix == ".safetensors":
            return safetensors.torch.load_file(source)
        if is_torchscript(source):
            if not trust:
                raise UsageError(
                    f"`{source}` is TorchScript: loading it runs code that it holds",
                    hint="add `--trust` if you trust where it comes from",
                )
            return torch.jit.load(str(source), map_location="cpu").state_dict()
        with torch.serialization.safe_globals(HARMLESS):
            stored = torch.load(source, map_location="cpu", weights_only=True)
    except DAMAGE as error:
        raise IntegrityError(
            f"`{source}` cannot be read: {(str(error) or 'it ends too soon').splitlines()[0]}", hint=again
        ) from error
    stored = _tensors(stored)
    if not isinstance(stored, Mapping) or not all(isinstance(tensor, Tensor) for tensor in stored.values()):
        raise IntegrityError(f"`{source}` is not a state dict: it holds more than named tensors", hint=again)
    return stored


def _tensors(stored: Any) -> Any:
    """The named tensors of a training checkpoint; anything else as it is."""
    if not isinstance(stored, Mapping):
        return stored
    stored = next((stored[name] for name in CHECKPOINTS if isinstance(stored.get(name), Mapping)), stored)
    return {str(name).removeprefix(WRAPPER): tensor for name, tensor in stored.items()}


def is_torchscript(source: Path) -> bool:
    """Whether a file is a zip archive with code in it."""
    if not zipfile.is_zipfile(source):
        return False
    with zipfile.ZipFile(source) as archive:
        return any("/code/" in name or name.endswith("constants.pkl") for name in archive.namelist())


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


if __name__ == "__main__":
    sys.exit(main())
