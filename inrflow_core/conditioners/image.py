"""An image as tokens that every block of the trunk attends to; a dropped image is one learned token.

Source: INRFlow (arXiv:2412.03791), section 4.2 and appendix A.2: patch features of a frozen network (DINOv2), each
joined with the six Pluecker numbers of its ray, dropped for a tenth of the sets. Two layers follow, as in the authors'
release; there the token of a dropped image is random and not learned.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

import numpy as np
import torch
from jaxtyping import Bool, Float32
from torch import Tensor, nn
from torch.nn import functional

from inrflow_core.conditioners._contract import FrozenConditioner, ModelEmbedder, StoredFeatures
from inrflow_core.errors import UsageError
from inrflow_core.feature_networks._contract import posed_image_tokens
from inrflow_core.geometry import cameras
from inrflow_core.geometry.cameras import RAY
from inrflow_core.proteins.structure import Structure
from inrflow_core.sets import Condition, ConditionEmbedding, ConditionSpec, CoordValueSet
from inrflow_core.storage import plain_file
from inrflow_core.visualization.image_io import differing_share, read_square_image

NOUN = "images"
GIVEN_AS = ("tokens", "image")
OPTIONS = ("--image",)
OPTION_HINT = "`--image photo.png`"
REFERENCE_METRICS = ("paired-cd",)
FROM_REFERENCE = True
VIEWS = "image"
"""Each set has several images; training samples one at each step."""

PATCH = 14
"""Side of a DINOv2 patch in pixels; the paper's photos have 32 x 32 patches and are 448 pixels wide."""
NOTED_SIDE = 224
"""Pixels along a side at which an image is searched for an object."""
LEAST_SHARE = 0.002
"""Share of an image that differs from its background, below which it shows no object: 10 x 10 of 224 x 224 pixels."""


@dataclass(frozen=True)
class Config:
    """Settings of the condition on an image."""

    embedder: str = "dinov2"
    """The frozen network of `feature_networks/` that computes the tokens."""
    tokens: int = 1024
    """Tokens of an image, one for each patch."""
    width: int = 768
    """Width of the embedder's tokens, without the ray."""
    features: Literal["stored", "online"] = "stored"
    """`online` computes the tokens in training, from the images in the shards."""
    weights: str | None = None
    """Folder of the embedder's weights, for `online`; by default the folder that `inrflow` searches."""
    dropout: float = 0.1
    """Share of sets that train without their image, for classifier-free guidance."""

    def __post_init__(self) -> None:
        for name in ("tokens", "width"):
            if getattr(self, name) < 1:
                raise ValueError(f"`{name}` is {getattr(self, name)}: at least 1")
        if not 0 <= self.dropout < 1:
            raise ValueError(f"`dropout` is {self.dropout}: from 0 to below 1")


def required_conditions(config: Config) -> tuple[str, ...]:
    """Conditions of the shards that are read with the sets."""
    stored = stored_features(config)
    return ("image", "camera") if stored is None else (stored.name,)


def stored_features(config: Config) -> StoredFeatures | None:
    """The tokens of a view, each with its ray."""
    return StoredFeatures("tokens", (config.tokens, config.width + RAY)) if config.features == "stored" else None


def num_classes(config: Config) -> int | None:
    """None: there are no classes."""
    return None


def check(config: Config, embedder: Any, shape: tuple[int, ...]) -> None:
    """Check that an embedder's tokens of images of `shape` (R, R, 3) have the number and width of the settings.

    Raises:
        UsageError: it makes another number of tokens, or tokens of another width.
    """
    rows, columns = embedder.grid(*shape[:2])
    if (rows * columns, embedder.width) != (config.tokens, config.width):
        raise UsageError(
            f"`{embedder.name}` makes {rows * columns} tokens of width {embedder.width} from an image of {shape[0]} x "
            f"{shape[1]} pixels, but [condition] expects {config.tokens} of width {config.width}",
            hint=f"`--set condition.tokens={rows * columns} --set condition.width={embedder.width}`, or other weights",
        )


@dataclass(frozen=True)
class ImageInput:
    """An image file and the camera that took it (`cameras.orbit`)."""

    path: Path
    camera: Float32[np.ndarray, "4 4"]


def input_from_options(options: Mapping[str, Any]) -> ImageInput:
    """The file `image`, taken by `camera`: azimuth, elevation, distance and field of view."""
    azimuth, elevation, distance, field_of_view = options["camera"]
    return ImageInput(options["image"], cameras.orbit(azimuth, elevation, distance, field_of_view=field_of_view))


def provenance(options: Mapping[str, Any]) -> dict[str, str]:
    """The file's digest, and the camera."""
    digest = plain_file.file_digest(options["image"])[:16]
    return {"image": digest, "camera": " ".join(f"{number:g}" for number in options["camera"])}


def input_from_structure(structure: Structure) -> Any:
    """Raises UsageError: a structure has no image."""
    raise UsageError("a structure has no image", hint="give shards with images")


def make_encoder(config: Config, embedder: ModelEmbedder) -> Callable[[ImageInput], Condition]:
    """Return a function from images to conditions.

    It raises MissingError or IntegrityError for a file that does not exist or is not a readable image, and UsageError
    if the number or the width of the tokens differs from the training.

    Raises:
        MissingError, IntegrityError: as `ModelEmbedder.load`, when the first image has been read.
    """
    loaded: list[Any] = []

    def encode(image: ImageInput) -> Condition:
        pixels = torch.from_numpy(read_square_image(image.path, PATCH * math.isqrt(config.tokens)))[None]
        if not loaded:
            loaded.append(embedder.load())
        (network,) = loaded
        camera = torch.from_numpy(image.camera)[None]
        tokens = posed_image_tokens(network, pixels.to(embedder.device), camera.to(embedder.device))
        if tokens.shape[1:] != (config.tokens, config.width + RAY):
            raise UsageError(
                f"`{config.embedder}` makes {tokens.shape[1]} tokens of width {network.width}, but the model "
                f"`{embedder.model_name}` was trained with {config.tokens} of width {config.width}",
                hint="give the weights that it was trained with",
            )
        return {"tokens": tokens}

    return encode


def sample_entries(value: Any) -> Sequence[Mapping[str, str]]:
    """Nothing: the provenance of all samples has it."""
    return []


def input_notes(value: ImageInput) -> Sequence[str]:
    """A note on an image that is (nearly) of one color: without an object, its cloud is that of no image.

    Raises:
        MissingError, IntegrityError: as `read_square_image`.
    """
    share = differing_share(read_square_image(value.path, NOTED_SIDE))
    if share >= LEAST_SHARE:
        return []
    return [
        f"`{value.path}` shows no object: {share:.2%} of it differs from its background. Give an image of one object, which fills "
        "most of it, on white or transparency"
    ]


def spec(config: Config) -> ConditionSpec:
    """Tokens, no features."""
    return ConditionSpec(tokens=config.tokens)


def build(config: Config, width: int) -> ImageConditioner:
    """The layers between the embedder and the network."""
    return ImageConditioner(config, width)


class ImageConditioner(FrozenConditioner):
    """Two linear layers on each token, and a learned token for dropped images."""

    def __init__(self, config: Config, width: int) -> None:
        super().__init__()
        self.config, self.dropout = config, config.dropout
        size = config.width + RAY
        self.none = nn.Parameter(0.02 * torch.randn(size))
        self.inner, self.outer = nn.Linear(size, width), nn.Linear(width, width)
        for layer in (self.inner, self.outer):
            nn.init.xavier_uniform_(layer.weight)
            nn.init.zeros_(layer.bias)

    def forward(self, condition: Condition, dropped: Bool[Tensor, " B"] | None = None) -> ConditionEmbedding:
        """The tokens of the images; a dropped image has the learned token at every patch."""
        tokens = condition["tokens"] if "tokens" in condition else self._embedded(condition)
        tokens = tokens.to(self.none.dtype)
        if dropped is not None:
            tokens = torch.where(dropped[:, None, None], self.none, tokens)
        return self._project(tokens)

    def null_condition(self, count: int) -> ConditionEmbedding:
        """The embedding of `count` dropped images: one token each, as attention to equal tokens is attention to one."""
        return self._project(self.none.expand(count, 1, -1))

    def dummy_batch(self, sets: CoordValueSet) -> Condition:
        """A condition of the sets with the right shapes, for planning."""
        return {"tokens": torch.zeros(len(sets), self.config.tokens, self.config.width + RAY)}

    def _project(self, tokens: Tensor) -> ConditionEmbedding:
        return ConditionEmbedding(tokens=self.outer(functional.gelu(self.inner(tokens), approximate="tanh")))

    @torch.no_grad()
    def _embedded(self, condition: Condition) -> Tensor:
        """Tokens of the condition's `image` (B R R 3, bytes) and `camera` (B 4 4) by the frozen network."""
        image = condition["image"]
        with torch.autocast(image.device.type, enabled=False):  # as in the shards
            return posed_image_tokens(self.embedder(image.device), image, condition["camera"])
