"""An image as tokens that every block of the trunk attends to; a dropped image is one learned token.

Source: INRFlow (arXiv:2412.03791), section 4.2 and appendix A.2: patch features of a frozen network (DINOv2), each
joined with the six Pluecker numbers of its ray, dropped for a tenth of the sets. The two layers behind them are as in
the authors' release, where the token of no image is random and never learned.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, Literal

import torch
from jaxtyping import Bool
from torch import Tensor, nn
from torch.nn import functional

from inrflow_core.conditioners._contract import FrozenConditioner
from inrflow_core.errors import UsageError
from inrflow_core.feature_networks._contract import posed_image_tokens
from inrflow_core.geometry.cameras import RAY
from inrflow_core.sets import Condition, ConditionEmbedding, ConditionSpec, CoordValueSet

NOUN = "images"
GIVEN_AS = ("tokens", "image")
OPTION_HINT = "`--image photo.png`"
REFERENCE_METRICS = ("paired-cd",)
FROM_REFERENCE = True
HAS_VIEWS = True
"""Each set has several images; training draws one for each step."""


@dataclass(frozen=True)
class Config:
    """Settings of the condition on an image."""

    embedder: str = "dinov2"
    """The frozen network of `feature_networks/` whose tokens are learned from."""
    tokens: int = 1024
    """Patches of an image."""
    width: int = 768
    """Numbers of the embedder's token, without its ray."""
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
    return ("tokens",) if config.features == "stored" else ("image", "camera")


def check(config: Config, embedder: Any, shape: tuple[int, ...]) -> None:
    """Compare an embedder's tokens of images of `shape` (R, R, 3) with the settings.

    Raises:
        UsageError: it makes another number of tokens, or tokens of another width.
    """
    rows, columns = embedder.grid(*shape[:2])
    if (rows * columns, embedder.width) != (config.tokens, config.width):
        raise UsageError(
            f"`{embedder.name}` makes {rows * columns} tokens of {embedder.width} numbers of an image of {shape[0]} x "
            f"{shape[1]} pixels, and [condition] says {config.tokens} of {config.width}",
            hint=f"`--set condition.tokens={rows * columns} --set condition.width={embedder.width}`, or other weights",
        )


def spec(config: Config) -> ConditionSpec:
    """Tokens alone."""
    return ConditionSpec(tokens=config.tokens)


def build(config: Config, width: int) -> ImageConditioner:
    """The layers between the embedder and the network."""
    return ImageConditioner(config, width)


class ImageConditioner(FrozenConditioner):
    """Two layers on each token, and the learned token of no image."""

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
        """The images' tokens; those of a dropped image are all the same."""
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
