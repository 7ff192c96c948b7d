"""Frozen networks that turn a picture or a sequence into tokens: one file each, the file's name its registration.

An embedder's file has

    DOMAIN: str                           "image" or "sequence"
    IS_STAND_IN: bool                     True: it needs no weights, and stands in for a pretrained network where those are absent
    load(folder, device) -> Embedder      the network with the weights of a folder (embedders/_folder.py); a stand-in takes None

and an embedder is called with

    image:    uint8 (B H W 3)             -> float32 (B K S), K = rows x columns of `grid(H, W)`, row by row
    sequence: texts of one-letter codes   -> a list of float32 arrays (L S), one for each

Weights come from a local folder, which `find` names; nothing is downloaded. A stand-in never takes a network's place
by itself: it is chosen by its name.
"""

from __future__ import annotations

import os
from collections.abc import Sequence
from pathlib import Path
from typing import Any, Protocol

import numpy as np
import torch
from torch import Tensor

from inrflow_core import registry
from inrflow_core.errors import UsageError
from inrflow_core.feature_networks._weights_file import find as find_weights

ENV_VAR = "INRFLOW_WEIGHTS"
"""Of the environment: the folder of weights, where none is given."""
DEFAULT_FOLDER = Path("weights")


class Embedder(Protocol):
    """What every embedder says of itself."""

    name: str
    """The name by which the registry finds it."""
    width: int
    """Numbers in a token."""
    digest: str
    """SHA-256 of its weights; of a stand-in its name and version, as in `patches-1`."""


class ImageEmbedder(Embedder, Protocol):
    """Pictures into tokens of their patches."""

    def __call__(self, images: Tensor, /) -> Tensor: ...

    def grid(self, rows: int, columns: int) -> tuple[int, int]:
        """Rows and columns of the patches of a picture of so many rows and columns of pixels."""
        ...


class SequenceEmbedder(Embedder, Protocol):
    """Sequences into tokens of their residues."""

    def __call__(self, sequences: Sequence[str], /) -> list[np.ndarray]: ...


def weights_folder(name: str, folder: Path | None = None) -> Path | None:
    """The folder of an embedder's weights: the given one, else NAME below what the environment names, else `weights/NAME`.

    It need not be there (`load` says so); None for a stand-in.

    Raises:
        UsageError: there is no such embedder, or a folder is given for one that has no weights.
    """
    if registry.find("feature_networks", name).IS_PLACEHOLDER:
        if folder is not None:
            raise UsageError(
                f"the embedder `{name}` has no weights, and `{folder}` is given for it", hint="leave it out"
            )
        return None
    return folder or Path(os.environ.get(ENV_VAR) or DEFAULT_FOLDER) / name.replace("_", "-")


def load(name: str, folder: Path | None = None, device: torch.device | str = "cpu") -> Any:
    """The embedder `name` with its weights, from where `find` says.

    Raises:
        UsageError: as `find`, or the package that runs it is not installed.
        MissingError: the weights are not there.
        IntegrityError: the weights are not whole, or are those of another network.
    """
    return registry.find("feature_networks", name).load(weights_folder(name, folder), device)


__all__ = ["find_weights"]


def names_for_metrics() -> list[str]:
    """Networks whose features metrics compare; the others embed conditions."""
    return [
        name
        for name in registry.names("feature_networks")
        if hasattr(registry.find("feature_networks", name), "OUTPUTS")
    ]
