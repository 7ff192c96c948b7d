"""Frozen networks with pretrained weights, of three kinds: one file each, the file's name its registration.

Every file declares its `KIND`. An `embedder` turns an image, a sequence or a text into tokens for a conditioner:

    image:    uint8 (B H W 3)             -> float32 (B K S), K = rows x columns of `grid(H, W)`, row by row
    sequence: texts of one-letter codes   -> a list of float32 arrays (L S), one for each
    text:     T texts                     -> numbers of words (T 77), int32, or features (T 77 S), float32; 0 after the
                                             last token; `num_tokens(text)` also counts those that are cut off

An `extractor` turns images, point clouds or videos into feature vectors that metrics compare:

    image:    uint8 (N H W C), points: float32 (N P C), video: uint8 (N T H W C),
    text: N texts
                                                         -> for each output float32 (N F)

A `distance` compares two images in a loss of training; gradients reach the first one:

    image:    twice float32 (B 3 H W) in [-1, 1]         -> float32 (B)

Weights come from a local folder or file; nothing is downloaded. A placeholder needs no weights and is used only if it
is selected by its name.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal, Protocol

import numpy as np
import torch
from jaxtyping import Float16, Float32, UInt8
from torch import Tensor

from inrflow_core import registry
from inrflow_core.errors import UsageError, did_you_mean
from inrflow_core.feature_networks._weights_file import Weights, default_folder
from inrflow_core.geometry.cameras import pluecker_batch

Kind = Literal["embedder", "extractor", "distance"]
USES = {"embedder": "embeds conditions", "extractor": "is a network of metrics", "distance": "is a loss of training"}
"""What the networks of each kind are used for."""
MAX_TEXT_TOKENS = 77
"""Tokens of a text that are read, those of CLIP; the others are cut off."""


class EmbedderFile(Protocol):
    """The members of an embedder's file."""

    KIND: Literal["embedder"]
    DOMAIN: str
    """The input that it embeds: `image`, `sequence` or `text`."""
    IS_PLACEHOLDER: bool
    """Whether it needs no weights: a replacement for a pretrained network whose weights are absent."""

    def load(self, folder: Path | None, device: torch.device | str = "cpu") -> Embedder:
        """The network with the weights of a folder (`_hf_folder`); a placeholder takes None."""
        ...


class ExtractorFile(Protocol):
    """The members of an extractor's file; `ExtractorPart` lists the optional ones."""

    KIND: Literal["extractor"]
    DOMAIN: str
    """The domain of its inputs: `image`, `points` or `video`, or `text`."""
    OUTPUTS: Mapping[str, int]
    """Names of its feature vectors, and their widths."""
    PREPROCESSING: Sequence[str]
    """Names of its ways to prepare an image or a cloud."""
    WEIGHTS: Weights | None
    """Its weights file; None if it needs none."""

    def load(self, path: Path | None, device: torch.device | str = "cpu") -> FeatureExtractor:
        """The network with the weights of a file."""
        ...


class DistanceFile(Protocol):
    """The members of a distance's file."""

    KIND: Literal["distance"]
    DOMAIN: str
    """The domain of its inputs: `image`."""
    WEIGHTS: Weights
    """Its weights file."""

    def load(self, path: Path, device: torch.device | str = "cpu") -> Any:
        """The network with the weights of a file."""
        ...


class FeatureExtractor(Protocol):
    """A loaded extractor."""

    def __call__(self, items: np.ndarray, outputs: Sequence[str], preprocessing: str, /) -> Mapping[str, Tensor]:
        """Feature vectors by output, on the CPU."""
        ...

    def note(self, preprocessing: str, /) -> str | None:
        """A remark on the weights, for the values computed with them."""
        ...


@dataclass(frozen=True)
class ExtractorPart:
    """An extractor's file, with defaults of its optional members."""

    name: str
    file: Any
    """An `ExtractorFile`."""
    num_points: int = 0
    """`POINTS`: points of a cloud that it uses; 0 for images and videos."""
    num_frames: int = 0
    """`FRAMES`: frames of a clip that it takes; 0 for any number, and for all but videos."""

    @property
    def domain(self) -> str:
        """The domain of its inputs."""
        return self.file.DOMAIN

    @property
    def outputs(self) -> tuple[str, ...]:
        """Names of its feature vectors."""
        return tuple(self.file.OUTPUTS)

    @property
    def needs_weights(self) -> bool:
        """Whether it has a weights file."""
        return self.file.WEIGHTS is not None

    def load(self, path: Path | None, device: torch.device | str = "cpu") -> Any:
        """The `FeatureExtractor` with the weights of a file; None if it needs none."""
        return self.file.load(path, device)


def find_extractor(name: str) -> ExtractorPart:
    """The extractor of that name.

    Raises:
        UsageError: no network has that name, or it is of another kind.
    """
    file = _find_kind(name, "extractor")
    return ExtractorPart(name, file, getattr(file, "POINTS", 0), getattr(file, "FRAMES", 0))


def find_embedder(name: str) -> Any:
    """The file (an `EmbedderFile`) of the embedder of that name.

    Raises:
        UsageError: no network has that name, or it is of another kind.
    """
    return _find_kind(name, "embedder")


def find_distance(name: str) -> Any:
    """The file (a `DistanceFile`) of the distance of that name.

    Raises:
        UsageError: no network has that name, or it is of another kind.
    """
    return _find_kind(name, "distance")


def names(kind: Kind) -> list[str]:
    """Names of the networks of a kind."""
    return [name for name, part in registry.parts("feature_networks").items() if kind == part.KIND]


def _find(name: str) -> Any:
    """A network's file, of any kind."""
    return registry.find("feature_networks", name)


def _find_kind(name: str, kind: Kind) -> Any:
    """A network's file; UsageError if it is of another kind."""
    file = _find(name)
    if kind != file.KIND:
        raise UsageError(f"`{name}` {USES[file.KIND]}", hint=did_you_mean(name, names(kind)))
    return file


class Embedder(Protocol):
    """A loaded embedder, which is called with its inputs; one of images has `grid(rows, columns)`, one of texts `num_tokens(text)`."""

    name: str
    """Its name in the registry."""
    width: int
    """Width of a token."""
    digest: str
    """SHA-256 of its weights; of a placeholder its name and version, as `patches-1`."""


def weights_folder(name: str, folder: Path | None = None) -> Path | None:
    """The folder of an embedder's weights: `folder`, else NAME in the folder INRFLOW_WEIGHTS, else `weights/NAME`.

    It need not exist (then `load` raises); None for a placeholder.

    Raises:
        UsageError: no embedder has that name, or `folder` is set for one without weights.
    """
    if find_embedder(name).IS_PLACEHOLDER:
        if folder is not None:
            raise UsageError(f"the embedder `{name}` has no weights, got `{folder}`", hint="leave it out")
        return None
    return folder or default_folder() / name.replace("_", "-")


def load(name: str, folder: Path | None = None, device: torch.device | str = "cpu") -> Any:
    """The embedder `name` with its weights, from `weights_folder`.

    Raises:
        UsageError: as `weights_folder`, or the package that runs it is not installed.
        MissingError: the weights are absent.
        IntegrityError: the weights are damaged, or those of another network.
    """
    return find_embedder(name).load(weights_folder(name, folder), device)


def posed_image_tokens(
    embedder: Any, images: UInt8[Tensor, "V H W 3"], cameras: Float32[Tensor, "V 4 4"]
) -> Float16[Tensor, "V K S"]:
    """Tokens of images from cameras (geometry/cameras.py), row by row: the embedder's token of a patch, then its ray.

    INRFlow, appendix A.2: features of DINOv2 and the Pluecker coordinates of each patch's ray. S is the embedder's
    width plus RAY; all are on the embedder's device.
    """
    grid = embedder.grid(images.shape[1], images.shape[2])
    return torch.cat([embedder(images), pluecker_batch(cameras, *grid)], dim=-1).half()
