"""What an evaluation of the set transformer costs: matrix products and attention, two operations a multiply-add.

The network is counted as it is computed: keys and values of the spatial encoder folded, decoder keys and values once.
"""

from __future__ import annotations

from inrflow_core.layers.attention import Block, CrossAttention
from inrflow_core.layers.embeddings import FOLDED_SIZE, Projection, TimeEmbedding, Tokens
from inrflow_core.networks._set_encoders import SpatialEncoder
from inrflow_core.networks._set_residues import AtomEmbedding, ResidueEncoder


def projection(module: Projection, rows: int) -> int:
    """Values or features into tokens."""
    width, size = module.weight.shape
    if size > FOLDED_SIZE:
        return 2 * rows * size * width
    return 2 * (rows * (size + 1) * (width + size + 1) + width * (size + 1) ** 2)


def tokens(module: Tokens, rows: int) -> int:
    """Pairs into tokens."""
    parts = [module.value] if module.moving_size is None else [module.value, module.coordinate, module.join]
    return sum(projection(part, rows) for part in parts)


def atom_tokens(module: AtomEmbedding, rows: int, groups: int) -> int:
    """Atoms into tokens; what the atoms of a group share is computed once."""
    return (
        projection(module.value, rows) + projection(module.coordinate, rows) + 2 * groups * module.group.weight.numel()
    )


def groups(module: ResidueEncoder, pairs: int, latents: int) -> int:
    """The encoder with one latent for each group: folded keys and values, or one linear layer."""
    if module.kind == "linear":
        return 2 * latents * (module.linear.weight.numel() + module.tokens.group.weight.numel())
    width = module.query.numel()
    pooling = 4 * pairs * module.heads * width
    return atom_tokens(module.tokens, pairs, latents) + pooling + 6 * latents * width * width


def block(module: Block, rows: int, source_rows: int, told: int = 0) -> int:
    """A block on `rows` tokens that attend to `source_rows`, and to `told` of a condition.

    The sources' projections are included, as in training; drawing makes those of a condition once a sample.
    """
    products = (
        rows * module.inner.weight.numel() + rows * module.outer.weight.numel() + module.modulation.weight.numel()
    )
    if module.told is not None:
        products += _cross(module.told, rows, told)
    if isinstance(module.attention, CrossAttention):
        return 2 * (products + _cross(module.attention, rows, source_rows))
    own = module.attention
    width = own.out.out_features
    return 2 * (products + rows * (own.qkv.weight.numel() + own.out.weight.numel()) + 2 * rows * source_rows * width)


def _cross(module: CrossAttention, rows: int, source_rows: int) -> int:
    """Multiply-adds of attention to other tokens, whose keys and values are made."""
    products = rows * (module.query.weight.numel() + module.out.weight.numel())
    return products + 2 * source_rows * (module.key.weight.numel() + rows * module.out.out_features)


def spatial(module: SpatialEncoder) -> int:
    """The spatial encoder: one query per latent, folded keys and values."""
    width = module.query.out_features
    pooling = 4 * module.num_slots * module.heads * width
    return tokens(module.tokens, module.num_slots) + pooling + 10 * module.latents * width * width


def time(module: TimeEmbedding) -> int:
    """The time's vector."""
    return 2 * (module.inner.weight.numel() + module.outer.weight.numel())
