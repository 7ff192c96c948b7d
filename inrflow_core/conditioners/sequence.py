"""An amino-acid sequence as the features that a frozen language model (or one-hot codes) gives each residue.

Source: INRFlow (arXiv:2412.03791), appendix A.3: the residue's ESM embedding beside the features of each atom. It is
part of the atoms' coordinates and is never dropped, so that guidance needs a second model.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Literal

import numpy as np
import torch
from jaxtyping import Bool, Float
from torch import Tensor

from inrflow_core.conditioners._contract import FrozenConditioner, ModelEmbedder, StoredFeatures
from inrflow_core.errors import UsageError
from inrflow_core.feature_networks import _contract
from inrflow_core.proteins import residues
from inrflow_core.proteins.structure import Structure
from inrflow_core.sets import Condition, ConditionEmbedding, ConditionSpec, CoordValueSet

NOUN = "sequences"
GIVEN_AS = ("residues",)
OPTIONS = ("--sequence", "--fasta")
OPTION_HINT = "`--sequence MKT...` or `--fasta FILE`"
REFERENCE_METRICS = ()
FROM_REFERENCE = True
VIEWS = None
ONE_HOT = "one-hot"


@dataclass(frozen=True)
class Config:
    """Settings of the condition on a sequence."""

    embedder: str = "esm2"
    """The frozen network of `feature_networks/` that embeds the residues, or `one-hot` codes."""
    width: int = 1280
    """Width of a residue's embedding."""
    features: Literal["stored", "online"] = "stored"
    """`online` computes the embeddings in training, from the sequences in the shards."""
    weights: str | None = None
    """Folder of the embedder's weights, for `online`; by default the folder that `inrflow` searches."""

    def __post_init__(self) -> None:
        if self.width < 1:
            raise ValueError(f"`width` is {self.width}: at least 1")
        if self.embedder == ONE_HOT and self.width != len(residues.LETTERS):
            raise ValueError(f"`width` is {self.width}: {len(residues.LETTERS)} with `embedder = one-hot`")


def required_conditions(config: Config) -> tuple[str, ...]:
    """Conditions of the shards that are read with the sets, beside those of the domain."""
    stored = stored_features(config)
    return () if stored is None else (stored.name,)


def stored_features(config: Config) -> StoredFeatures | None:
    """The embedding of a residue; one-hot codes are computed."""
    is_stored = config.features == "stored" and config.embedder != ONE_HOT
    return StoredFeatures("embedding", (config.width,)) if is_stored else None


def num_classes(config: Config) -> int | None:
    """None: there are no classes."""
    return None


def check(config: Config, embedder: Any, shape: tuple[int, ...]) -> None:
    """Check that an embedder's residue embedding has the width of the settings.

    Raises:
        UsageError: it has another width.
    """
    if embedder.width != config.width:
        raise UsageError(
            f"`{embedder.name}` embeds a residue with width {embedder.width}, but [condition] expects {config.width}",
            hint=f"`--set condition.width={embedder.width}`, or other weights",
        )


def input_from_options(options: Mapping[str, Any]) -> str:
    """The letters of `sequence`, without white space."""
    return "".join(options["sequence"].split()).upper()


def provenance(options: Mapping[str, Any]) -> dict[str, str]:
    """The sequence."""
    return {"sequence": input_from_options(options)}


def input_from_structure(structure: Structure) -> str:
    """The structure's sequence."""
    return structure.sequence


def make_encoder(config: Config, embedder: ModelEmbedder) -> Callable[[str], Condition]:
    """Return a function from sequences of amino acids, in one-letter codes, to conditions.

    It raises UsageError for a letter that is not one of the 20.

    Raises:
        UsageError: the embedding has another width than in training.
        MissingError, IntegrityError: as `ModelEmbedder.load`.
    """
    is_placeholder = _contract.weights_folder(config.embedder, embedder.weights) is None
    network = None if is_placeholder else embedder.load()
    if network is not None and network.width != config.width:
        raise UsageError(
            f"`{config.embedder}` embeds a residue with width {network.width}, but the model "
            f"`{embedder.model_name}` was trained with {config.width}",
            hint="give the weights that it was trained with",
        )

    def encode(sequence: str) -> Condition:
        codes = residues.to_codes("".join(sequence.split()))
        condition = {"residues": torch.from_numpy(codes.astype(np.int64))[None]}
        if network is None:
            return condition
        (features,) = network([residues.to_letters(codes)])
        return condition | {"embedding": torch.from_numpy(features)[None]}

    return encode


def sample_entries(value: Any) -> Sequence[Mapping[str, str]]:
    """Nothing: the provenance of all samples has it."""
    return []


def input_notes(value: Any) -> Sequence[str]:
    """Nothing."""
    return []


def spec(config: Config) -> ConditionSpec:
    """Features of each residue."""
    return ConditionSpec(features=config.width)


def build(config: Config, width: int) -> SequenceConditioner:
    """A conditioner without weights of its own: the network's layers project the features."""
    return SequenceConditioner(config)


class SequenceConditioner(FrozenConditioner):
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
            letters = torch.arange(len(residues.LETTERS), device=codes.device)  # `one_hot` would synchronize the device
            features = (codes.clamp(min=0)[..., None] == letters).float()
        else:
            features = self._embedded(codes)
        is_residue = codes >= 0
        return ConditionEmbedding(features=features * is_residue[..., None], is_group=is_residue)

    def dummy_batch(self, sets: CoordValueSet) -> Condition:
        """A condition of the sets with the right shapes, for planning; the domain's own conditions exist already."""
        if self.config.embedder == ONE_HOT:
            return {}
        return {"embedding": torch.zeros(*sets.condition["residues"].shape, self.config.width)}

    @torch.no_grad()
    def _embedded(self, codes: Tensor) -> Float[Tensor, "B L F"]:
        rows = [row[row >= 0] for row in codes.cpu().numpy()]
        with torch.autocast(codes.device.type, enabled=False):  # as in the shards
            embeddings = self.embedder(codes.device)([residues.to_letters(row.astype(np.uint8)) for row in rows])
        features = torch.zeros(*codes.shape, self.config.width, device=codes.device)
        for index, embedding in enumerate(embeddings):
            features[index, : len(embedding)] = torch.as_tensor(embedding, device=codes.device)
        return features
