"""Published files of feature networks: recognized by their digests, and read without running what they hold.

Pickled checkpoints are read by torch's restricted unpickler, which beside tensors knows NumPy's numbers and the words of a
command line here, GraphDefs by a reader of their constants: neither runs anything. A TorchScript file (.pt) is a program:
loading it runs code that it holds. It is therefore loaded only where the user trusts it (`--trust`), and nowhere else.
"""

from __future__ import annotations

import argparse
import pickle
import struct
import zipfile
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
import safetensors
import torch
from torch import Tensor

from inrflow_core.errors import IntegrityError, UsageError
from inrflow_core.feature_networks._weights_file import PublishedWeights, Weights
from inrflow_core.storage import safetensors_file
from inrflow_core.weights import graph_def

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
        hint=(f"it should be {known}; get it again" if known else f"see `inrflow weights list {weights.name}`")
        + ".\nOr take it as it is with `--any-digest`: every number made with it will say so",
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
            with safetensors_file.open_tensors(source, hint=again) as file:
                return {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118
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
