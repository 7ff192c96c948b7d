"""Settings of the set transformer (set_transformer.py): sizes and kinds of its encoder, trunk and decoder."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Literal


@dataclass(frozen=True)
class Config:
    """Sizes and kinds of the set transformer."""

    width: int
    """Width of a latent token."""
    depth: int
    """Blocks of the trunk."""
    heads: int
    """Attention heads; they divide the width."""
    latents: int = 1024
    """Latent tokens."""
    encoder: Literal["spatial", "linear", "perceiver"] = "spatial"
    """How the context becomes latents: attention to the nearest pairs (`spatial`), a linear map of each patch
    (`linear`), or attention of every latent to every pair (`perceiver`)."""
    pseudo_coordinates: Literal["grid", "random", "kmeans", "hash", "residue"] = "grid"
    """Where the spatial encoder's latents are; `hash` groups pairs by the hash code of their cell instead. `residue`
    makes one latent for each amino acid; `latents` is then a typical number of amino acids.

    Points without fixed coordinates are grouped again in every evaluation. Rounding can then move a point across a
    border, so that samples of different batch sizes can differ by more than rounding."""
    cross_attend_every: int = 1
    """Blocks from one cross-attention of the perceiver to the context to the next; 0: only one, at the start."""
    separate_cross_attention: bool = False
    """Put each such cross-attention into its own layer, with self-attention, as in the paper's image-to-3D model."""
    residue_skip: bool = False
    """A query of a protein's atom also receives the latent of its residue directly (not in the paper)."""
    decoder: Literal["attention", "local"] = "attention"
    """How a query reads the latents: it attends to all of them, or it interpolates those of the cells around it (`local`, not
    in the papers), which costs a small part and needs latents on a grid."""
    decoder_levels: int = 1
    """Decoder levels; each attends to the latents of another depth, the earliest first."""
    decoder_width: int | None = None
    """Width of a query token. Default: `width`."""
    decoder_heads: int | None = None
    """Heads of the decoder. Default: `heads`; `local` has none."""
    mlp_ratio: float = 4.0
    """Hidden size of the MLPs over their width."""
    rope: bool = False
    """Rotary positions of the latents in the trunk, beside the added ones."""
    max_frequency: float | None = None
    """Highest frequency of coordinates in units of pi on [-1, 1]. Default: a quarter of the training grid's side, half
    of its Nyquist frequency; for points without fixed coordinates the octaves 1, 2, 4, ... rad."""
    min_frequency: float | None = None
    """Lowest frequency of coordinates in units of pi. Default: 1; of points without fixed coordinates 1 rad."""
    num_frequencies: int | None = None
    """Frequencies per coordinate axis. Default: as many as fill the width; 10 for points without fixed coordinates."""
    checkpoint_activations: bool = False
    """Recompute the trunk's activations in the backward pass instead of saving them."""

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
        if self.decoder == "attention" and self.query_width % self.query_heads:
            raise ValueError(
                f"`decoder_heads` is {self.query_heads} and does not divide the decoder's width, {self.query_width}"
            )
        if self.decoder_levels > self.depth:
            raise ValueError(f"`decoder_levels` is {self.decoder_levels}: at most `depth`, {self.depth}")
        if self.cross_attend_every < 0:
            raise ValueError(f"`cross_attend_every` is {self.cross_attend_every}: 1 or more, or 0 for one at the start")
        if not 0 < self.mlp_ratio < math.inf:
            raise ValueError(f"`mlp_ratio` is {self.mlp_ratio}: above 0")
        if self.max_frequency is not None and not 1 <= self.max_frequency < math.inf:
            raise ValueError(f"`max_frequency` is {self.max_frequency}: at least 1, in units of pi")
        if self.min_frequency is not None and not 0 < self.min_frequency <= 1:
            raise ValueError(f"`min_frequency` is {self.min_frequency}: above 0 and at most 1, in units of pi")
        if self.encoder == "linear" and self.pseudo_coordinates not in ("grid", "residue"):
            raise ValueError(
                f"`pseudo_coordinates` is {self.pseudo_coordinates}: `encoder = linear` takes a grid's patches"
            )
        if self.rope and not self.has_positions:
            raise ValueError(
                "`rope` rotates latents by their position, which those of `perceiver` and `hash` do not have"
            )
        if self.decoder == "local":
            self._check_local()
        if self.residue_skip and self.pseudo_coordinates != "residue":
            raise ValueError("`residue_skip` is for proteins: it needs `pseudo_coordinates = residue`")

    def _check_local(self) -> None:
        if self.encoder == "perceiver" or self.pseudo_coordinates != "grid":
            raise ValueError(
                f"`decoder` is local, and latents of `encoder` {self.encoder} with `pseudo_coordinates` {self.pseudo_coordinates} "
                "have no grid: take `spatial` or `linear` with `grid`, or the decoder `attention`"
            )
        if self.decoder_levels > 1 or self.decoder_heads is not None:
            raise ValueError(
                "`decoder` is local, which has one level and no heads: leave `decoder_levels` and `decoder_heads` out"
            )

    @property
    def least_weights(self) -> int:
        """Weights that the trunk has at least: the four maps of each block's attention."""
        return 4 * self.depth * self.width**2

    @property
    def query_width(self) -> int:
        """Width of the decoder."""
        return self.decoder_width or self.width

    @property
    def query_heads(self) -> int:
        """Heads of the decoder."""
        return self.decoder_heads or self.heads

    @property
    def has_positions(self) -> bool:
        """Whether every latent has a pseudo-coordinate."""
        return self.encoder == "linear" or (self.encoder == "spatial" and self.pseudo_coordinates != "hash")

    @property
    def cross_attention_blocks(self) -> list[int]:
        """Blocks of the trunk with another cross-attention to the context."""
        if self.encoder != "perceiver" or self.cross_attend_every == 0:
            return []
        return list(range(0, self.depth, self.cross_attend_every))

    @property
    def level_blocks(self) -> list[int]:
        """Blocks whose latents the decoder attends to: the last one, and earlier ones at equal distances."""
        return sorted(
            self.depth - 1 - level * (self.depth // self.decoder_levels) for level in range(self.decoder_levels)
        )
