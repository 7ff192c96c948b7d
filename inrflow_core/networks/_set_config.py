"""Settings of the set transformer (set_transformer.py): sizes and kinds of its encoder, trunk and decoder."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Literal


@dataclass(frozen=True)
class Config:
    """Sizes and kinds of the set transformer."""

    width: int
    """Numbers in a latent token."""
    depth: int
    """Blocks of the trunk."""
    heads: int
    """Attention heads; they divide the width."""
    latents: int = 1024
    """Latent tokens."""
    encoder: Literal["spatial", "linear", "perceiver"] = "spatial"
    """How the context becomes latents: nearest pairs, a linear map of each patch, or every latent reads every pair."""
    pseudo_coordinates: Literal["grid", "random", "kmeans", "hash", "residue"] = "grid"
    """Where the spatial encoder's latents are; `hash` groups pairs by the hash code of their cell instead. `residue` has
    one latent for each amino acid, `latents` being a typical number of them.

    Moving points are grouped anew in every evaluation: there rounding can move a point across a border, and samples are
    then not the same to rounding in any batch."""
    cross_attend_every: int = 1
    """The perceiver reads the context again in every so-many-th block; 0 reads it at the start alone."""
    separate_cross_attention: bool = False
    """Reading again is a layer of its own before the block, with self-attention, as in the paper's image-to-3D model."""
    residue_skip: bool = False
    """A query of a protein's atom also takes in the latent of its residue as it is (not in the paper)."""
    decoder_levels: int = 1
    """Decoder levels; each attends to the latents of another depth, the earliest first."""
    decoder_width: int | None = None
    """Numbers in a query token; the width where left out."""
    decoder_heads: int | None = None
    """Heads of the decoder; as many as in the trunk where left out."""
    mlp_ratio: float = 4.0
    """Hidden size of the MLPs over their width."""
    rope: bool = False
    """Rotary positions of the latents in the trunk, beside the added ones."""
    max_frequency: float | None = None
    """Highest frequency of coordinates in units of pi on [-1, 1]. Left out: a quarter of the training grid's side, half
    of what its pixels can tell apart; for moving points the octaves 1, 2, 4, ... rad."""
    num_frequencies: int | None = None
    """Frequencies of each number of a coordinate. Left out: as many as fill the width; for moving points 10."""
    checkpoint_activations: bool = False
    """Compute the trunk's activations again in the backward pass instead of keeping them."""

    def __post_init__(self) -> None:
        for name in (
            "width",
            "depth",
            "heads",
            "latents",
            "decoder_levels",
            "decoder_width",
            "decoder_heads",
            "num_frequencies",
        ):
            value = getattr(self, name)
            if value is not None and value < 1:
                raise ValueError(f"`{name}` is {value}: at least 1")
        if self.width % self.heads:
            raise ValueError(f"`heads` is {self.heads} and does not divide `width`, {self.width}")
        if self.query_width % self.query_heads:
            raise ValueError(
                f"`decoder_heads` is {self.query_heads} and does not divide the decoder's width, {self.query_width}"
            )
        if self.decoder_levels > self.depth:
            raise ValueError(f"`decoder_levels` is {self.decoder_levels}: at most `depth`, {self.depth}")
        if self.cross_attend_every < 0:
            raise ValueError(
                f"`cross_attend_every` is {self.cross_attend_every}: 1 or more, or 0 to read at the start alone"
            )
        if not 0 < self.mlp_ratio < math.inf:
            raise ValueError(f"`mlp_ratio` is {self.mlp_ratio}: above 0")
        if self.max_frequency is not None and not 1 <= self.max_frequency < math.inf:
            raise ValueError(f"`max_frequency` is {self.max_frequency}: at least 1, in units of pi")
        if self.encoder == "linear" and self.pseudo_coordinates not in ("grid", "residue"):
            raise ValueError(
                f"`pseudo_coordinates` is {self.pseudo_coordinates}: `encoder = linear` takes a grid's patches"
            )
        if self.rope and not self.has_places:
            raise ValueError(
                "`rope` turns latents by their place: the perceiver's have none, and those of `hash` neither"
            )
        if self.residue_skip and self.pseudo_coordinates != "residue":
            raise ValueError("`residue_skip` is of proteins: it needs `pseudo_coordinates = residue`")

    @property
    def query_width(self) -> int:
        """Width of the decoder."""
        return self.decoder_width or self.width

    @property
    def query_heads(self) -> int:
        """Heads of the decoder."""
        return self.decoder_heads or self.heads

    @property
    def has_places(self) -> bool:
        """Whether every latent has a pseudo-coordinate."""
        return self.encoder == "linear" or (self.encoder == "spatial" and self.pseudo_coordinates != "hash")

    @property
    def reading_blocks(self) -> list[int]:
        """Blocks of the trunk that read the context again."""
        if self.encoder != "perceiver" or self.cross_attend_every == 0:
            return []
        return list(range(0, self.depth, self.cross_attend_every))

    @property
    def level_blocks(self) -> list[int]:
        """Blocks whose latents the decoder attends to: the last, and others at equal distance before it."""
        return sorted(
            self.depth - 1 - level * (self.depth // self.decoder_levels) for level in range(self.decoder_levels)
        )
