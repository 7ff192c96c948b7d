"""An amino-acid sequence: what a frozen language model (or a stand-in) knows of each residue, for its atoms and its latent.

Source: INRFlow (arXiv:2412.03791), appendix A.3: the residue's ESM embedding beside the features of each atom. It is a
part of the atoms' coordinates and never dropped, so that nothing but a second model can guide.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, Literal

import numpy as np
import torch
from jaxtyping import Bool, Float
from torch import Tensor

from inrflow_core.conditioners._frozen_encoder import Frozen
from inrflow_core.errors import UsageError
from inrflow_core.proteins import residues
from inrflow_core.sets import Condition, ConditionEmbedding, ConditionSpec, CoordValueSet

NOUN = "sequences"
GIVEN_AS = ("residues",)
OPTION_HINT = "`--sequence MKT...` or `--fasta FILE`"
REFERENCE_METRICS = ()
FROM_REFERENCE = True
HAS_VIEWS = False
ONE_HOT = "one-hot"


@dataclass(frozen=True)
class Config:
    """Settings of the condition on a sequence."""

    embedder: str = "esm2"
    """The frozen network of `embedders/` whose residue embeddings are learned from; `one-hot` stands in for one."""
    width: int = 1280
    """Numbers of a residue's embedding."""
    features: Literal["stored", "online"] = "stored"
    """`online` computes the embeddings in training, from the sequences in the shards."""
    weights: str | None = None
    """Folder of the embedder's weights, for `online`; left out, where embedders are looked for."""

    def __post_init__(self) -> None:
        if self.width < 1:
            raise ValueError(f"`width` is {self.width}: at least 1")
        if self.embedder == ONE_HOT and self.width != len(residues.LETTERS):
            raise ValueError(f"`width` is {self.width}: {len(residues.LETTERS)} with `embedder = one-hot`")


def required_conditions(config: Config) -> tuple[str, ...]:
    """Conditions of the shards that are read with the sets, beside those of the domain."""
    return ("embedding",) if config.features == "stored" and config.embedder != ONE_HOT else ()


def check(config: Config, embedder: Any, shape: tuple[int, ...]) -> None:
    """Nothing, where an embedder tells as much of a residue as the settings say.

    Raises:
        UsageError: it tells another number of numbers.
    """
    if embedder.width != config.width:
        raise UsageError(
            f"`{embedder.name}` tells {embedder.width} numbers of a residue, and [condition] says {config.width}",
            hint=f"`--set condition.width={embedder.width}`, or other weights",
        )


def spec(config: Config) -> ConditionSpec:
    """Features of each residue."""
    return ConditionSpec(features=config.width)


def build(config: Config, width: int) -> Sequence:
    """A conditioner without weights of its own: the network's layers take the features in."""
    return Sequence(config)


class Sequence(Frozen):
    """Features of each residue, stored, one-hot, or of a frozen network."""

    dropout = 0.0

    def __init__(self, config: Config) -> None:
        super().__init__()
        self.config = config

    def forward(self, condition: Condition, dropped: Bool[Tensor, " B"] | None = None) -> ConditionEmbedding:
        """The features of the condition's `residues` (B L, codes, -1 at padding)."""
        codes = condition["residues"]
        if "embedding" in condition:
            features = condition["embedding"].float()
        elif self.config.embedder == ONE_HOT:
            letters = torch.arange(len(residues.LETTERS), device=codes.device)  # `one_hot` would wait for the device
            features = (codes.clamp(min=0)[..., None] == letters).float()
        else:
            features = self._embedded(codes)
        is_residue = codes >= 0
        return ConditionEmbedding(features=features * is_residue[..., None], is_group=is_residue)

    def blank(self, sets: CoordValueSet) -> Condition:
        """A condition of the sets that has its shapes, for planning; the domain's own conditions are there already."""
        if self.config.embedder == ONE_HOT:
            return {}
        return {"embedding": torch.zeros(*sets.condition["residues"].shape, self.config.width)}

    @torch.no_grad()
    def _embedded(self, codes: Tensor) -> Float[Tensor, "B L F"]:
        rows = [row[row >= 0] for row in codes.cpu().numpy()]
        with torch.autocast(codes.device.type, enabled=False):  # as in the shards
            found = self.embedder(codes.device)([residues.to_letters(row.astype(np.uint8)) for row in rows])
        features = torch.zeros(*codes.shape, self.config.width, device=codes.device)
        for place, embedding in enumerate(found):
            features[place, : len(embedding)] = torch.as_tensor(embedding, device=codes.device)
        return features
