"""The network of INRFlow and ASFT: sets in, a velocity for each query out.

Source: INRFlow, arXiv:2412.03791, section 3.4 and appendix A. Context pairs become latents (encoder), latents become
latents (trunk), and each query reads them (decoder). One network serves all domains; what differs is `SetShape` and
the settings.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Literal

import torch
from jaxtyping import Bool, Float
from torch import Tensor, nn
from torch.utils.checkpoint import checkpoint

from inrflow_core.networks._decoder import Decoder, Latents, Memory, Points
from inrflow_core.networks._encoders import Linear, Spatial
from inrflow_core.networks._layers import Block, Projection, TimeEmbedding, fourier, rotary
from inrflow_core.sets import Queries, SetShape


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
    """How the context becomes latents."""
    pseudo_coordinates: Literal["grid", "random", "kmeans", "hash"] = "grid"
    """Where the latents of the spatial encoder are; `hash` groups moving points by their cell."""
    reread: int = 1
    """The perceiver reads the context again in every so-many-th block; 0 only at the start."""
    levels: int = 1
    """Decoder levels; each attends to the latents of another depth."""
    decoder_width: int | None = None
    """Numbers in a query token; the width where left out."""
    decoder_heads: int | None = None
    """Heads of the decoder; as many as in the trunk where left out."""
    mlp_ratio: float = 4.0
    """Hidden size of the MLPs over their width."""
    rope: bool = False
    """Rotary positions on the latents' pseudo-coordinates."""
    top_frequency: float | None = None
    """Highest frequency of fixed coordinates in units of pi on [-1, 1]; a quarter of the grid's side where left out."""
    num_frequencies: int = 10
    """Octaves of a moving point's embedding: 1, 2, 4, ... rad per unit."""
    checkpoint_activations: bool = False
    """Compute the trunk's activations again in the backward pass instead of keeping them."""

    def __post_init__(self) -> None:
        for name in ("width", "depth", "heads", "latents", "levels", "num_frequencies"):
            if getattr(self, name) < 1:
                raise ValueError(f"`{name}` is {getattr(self, name)}: at least 1")
        if self.width % self.heads:
            raise ValueError(f"`heads` is {self.heads} and does not divide `width`, {self.width}")
        if self.query_width % self.query_heads:
            raise ValueError(
                f"`decoder_heads` is {self.query_heads} and does not divide the decoder's width, {self.query_width}"
            )
        if self.depth < self.levels:
            raise ValueError(f"`levels` is {self.levels}: at most `depth`, {self.depth}")
        if self.reread < 0:
            raise ValueError(f"`reread` is {self.reread}: 0 or more")
        if self.mlp_ratio <= 0 or (self.top_frequency is not None and self.top_frequency < 1):
            raise ValueError("`mlp_ratio` must be above 0 and `top_frequency` at least 1")
        if self.rope and (self.encoder == "perceiver" or self.pseudo_coordinates == "hash"):
            raise ValueError("`rope` needs latents that have a place: not the perceiver's, and not `hash`")
        if self.rope and (self.width // self.heads) % 4:
            raise ValueError(f"`rope` needs a head size that 4 divides, and it is {self.width // self.heads}")

    @property
    def query_width(self) -> int:
        """Width of the decoder."""
        return self.decoder_width or self.width

    @property
    def query_heads(self) -> int:
        """Heads of the decoder."""
        return self.decoder_heads or self.heads


@dataclass
class Encoded:
    """What the encoder leaves of a context: latents, or for the perceiver tokens and what blocks read of them.

    It depends on neither time nor condition, so that guidance computes it once.
    """

    latents: Float[Tensor, "B L W"]
    tokens: Float[Tensor, "B N W"] | None
    mask: Bool[Tensor, "B N"] | None
    reads: dict[int, tuple[Tensor, Tensor]]

    def read(self, place: int, block: Block) -> tuple[Tensor, Tensor]:
        """Keys and values of the context for a block, made when first asked for."""
        if place not in self.reads:
            assert self.tokens is not None
            self.reads[place] = block.attention.read(self.tokens)
        return self.reads[place]


def build(config: Config, shape: SetShape) -> SetTransformer:
    """The network for sets of that shape; its first answers are exactly 0."""
    if config.pseudo_coordinates == "hash" and not shape.is_moving:
        raise ValueError("`pseudo_coordinates` is `hash`, which groups moving points")
    if config.encoder == "spatial" and shape.is_moving and config.pseudo_coordinates == "grid":
        raise ValueError(
            "`pseudo_coordinates` is `grid`, and moving points have none: use `hash`, `random` or `kmeans`"
        )
    if config.encoder == "linear" and shape.grid is None:
        raise ValueError("`encoder` is `linear`, which needs a grid: use `perceiver` or `spatial`")
    return SetTransformer(config, shape)


def build_decoder(config: Config, shape: SetShape) -> Decoder:
    """The decoder alone: all that a saved field needs."""
    return Decoder(
        shape, width=config.query_width, source_width=config.width, heads=config.query_heads, ratio=config.mlp_ratio,
        levels=config.levels, top_frequency=top_frequency(config, shape), num_frequencies=config.num_frequencies,
    )  # fmt: skip


class SetTransformer(nn.Module):
    """Encoder, trunk and decoder, each callable by itself."""

    def __init__(self, config: Config, shape: SetShape) -> None:
        super().__init__()
        self.config, self.shape = config, shape
        width = config.width
        self.top_frequency = top_frequency(config, shape)
        self.time = TimeEmbedding(width)
        self.points = Points(shape, width, config.num_frequencies) if shape.is_moving else None
        self.join = Projection(2 * width, width) if shape.is_moving else None
        self._make_encoder()
        self.trunk = nn.ModuleList([Block(width, config.heads, config.mlp_ratio) for _ in range(config.depth)])
        if config.encoder == "perceiver":
            reading = [place for place in range(config.depth) if config.reread and place % config.reread == 0]
            block = Block(width, config.heads, config.mlp_ratio, source_width=width)
            self.readers = nn.ModuleDict(
                {str(p): Block(width, config.heads, config.mlp_ratio, source_width=width) for p in reading}
            )
            self.readers["start"] = block
            self.start = Block(width, config.heads, config.mlp_ratio)
        self.decoder = build_decoder(config, shape)
        self.levels = _level_places(config.depth, config.levels)
        _initialise(self)

    @property
    def vector_width(self) -> int:
        """Width of what a condition adds to the time embedding."""
        return self.config.width

    def forward(
        self,
        context: Queries,
        values: Float[Tensor, "B N C"],
        t: Float[Tensor, " B"],
        vector: Float[Tensor, "B W"] | None,
        queries: Queries,
        query_values: Float[Tensor, "B M C"],
        *,
        mask: Bool[Tensor, "B N"] | None = None,
    ) -> Float[Tensor, "B M C"]:
        """The velocities at `queries` of the function that the context shows at time t."""
        latents = self.latents(self.encode(context, values, mask), t, vector)
        return self.decode(queries, query_values, self.memory(latents))

    def encode(
        self, context: Queries, values: Float[Tensor, "B N C"], mask: Bool[Tensor, "B N"] | None = None
    ) -> Encoded:
        """The context as latents; `mask` is False at padding."""
        tokens = coordinates = None
        if self.points is not None and self.join is not None:
            coordinates = values[..., : self.shape.coordinate_size]
            tokens = self.join(torch.cat(self.points(values), -1))
        if self.config.encoder == "perceiver":
            if tokens is None:
                assert context.coordinates is not None and self.value is not None
                tokens = self.value(values) + fourier(context.coordinates, self.config.width, self.top_frequency)
            return Encoded(self.latent.expand(len(values), -1, -1), tokens, mask, {})
        if isinstance(self.encoder, Linear):
            latents = self.encoder(values)
        else:
            latents = self.encoder(values, tokens, coordinates, mask)
        return Encoded(latents + self.place if self.place is not None else latents, None, None, {})

    def latents(self, encoded: Encoded, t: Float[Tensor, " B"], vector: Float[Tensor, "B W"] | None) -> Latents:
        """The trunk: latents of each decoder level under a time and a condition."""
        condition = self.time(t)
        if vector is not None:
            condition = condition + vector
        x = encoded.latents
        if self.config.encoder == "perceiver":
            x = self._read(x, "start", -1, encoded, condition)
            x = self._run(self.start, x, condition, None)
        kept = []
        for place, block in enumerate(self.trunk):
            if self.config.encoder == "perceiver" and str(place) in self.readers:
                x = self._read(x, str(place), place, encoded, condition)
            x = self._run(block, x, condition, self.rope)
            if place in self.levels:
                kept.append(x)
        return Latents(tuple(kept), condition)

    def memory(self, latents: Latents) -> Memory:
        """What all queries of one evaluation share."""
        return self.decoder.memory(latents)

    def decode(self, queries: Queries, values: Float[Tensor, "B M C"], memory: Memory) -> Float[Tensor, "B M C"]:
        """The velocity of each query; queries never see each other."""
        return self.decoder(queries, values, memory)

    def flops(self, num_queries: int) -> dict[str, float]:
        """Operations of one evaluation for one set, by part: two for each multiply-add of the matrix products."""
        return flops(self.config, self.shape, num_queries)

    def parts(self) -> dict[str, int]:
        """Parameters by part."""
        counts = {"encoder": 0, "trunk": 0, "decoder": 0}
        for name, weight in self.named_parameters():
            part = name.partition(".")[0]
            part = "trunk" if part in ("trunk", "time", "readers", "start") else part
            counts[part if part in counts else "encoder"] += weight.numel()
        return counts

    def _make_encoder(self) -> None:
        config, shape = self.config, self.shape
        self.value = self.encoder = self.place = self.rope = None
        if config.encoder == "perceiver":
            self.latent = nn.Parameter(torch.randn(config.latents, config.width))
            self.value = None if shape.is_moving else Projection(shape.value_size, config.width)
            return
        if config.encoder == "linear":
            self.encoder = Linear(config.width, config.latents, shape)
        else:
            self.encoder = Spatial(config.width, config.heads, config.latents, config.pseudo_coordinates, shape)
        if config.pseudo_coordinates == "hash" and config.encoder == "spatial":
            self.place = nn.Parameter(torch.randn(config.latents, config.width))
            return
        positions = self.encoder.positions
        del self.place, self.rope
        self.register_buffer("place", fourier(positions, config.width, self.top_frequency), persistent=False)
        turns = rotary(positions * self._latents_along_half_an_axis(), config.width // config.heads)
        self.register_buffer("rope", turns if config.rope else None, persistent=False)

    def _latents_along_half_an_axis(self) -> float:
        return self.config.latents ** (1 / self.shape.coordinate_size) / 2

    def _read(self, x: Tensor, name: str, place: int, encoded: Encoded, condition: Tensor) -> Tensor:
        block = self.readers[name]
        return self._run(block, x, condition, encoded.read(place, block), encoded.mask)

    def _run(self, block: nn.Module, x: Tensor, condition: Tensor, *attended) -> Tensor:
        modulation = block.modulate(condition)
        if self.config.checkpoint_activations and torch.is_grad_enabled():
            return checkpoint(block, x, modulation, *attended, use_reentrant=False)
        return block(x, modulation, *attended)


def top_frequency(config: Config, shape: SetShape) -> float:
    """The highest frequency of fixed coordinates, in units of pi: below the Nyquist frequency of the training grid."""
    if config.top_frequency is not None:
        return config.top_frequency
    side = min(shape.grid) if shape.grid else shape.num_pairs ** (1 / max(shape.coordinate_size, 1))
    return max(1.0, side / 4)


def flops(config: Config, shape: SetShape, num_queries: int) -> dict[str, float]:
    """Operations of the folded network for one set, by part."""
    w, q, n, k = config.width, config.query_width, shape.num_pairs, config.latents
    mlp = 2 * config.mlp_ratio
    own = 2 * k * w * w * (4 + mlp) + 4 * k * k * w + 12 * w * w
    reading = 2 * k * w * w * (2 + mlp) + 4 * n * w * w + 4 * k * n * w + 12 * w * w
    entry = 2 * n * shape.value_size * w
    if shape.is_moving:
        entry += 2 * n * w * (2 * config.num_frequencies * shape.coordinate_size + 2 * w)
    trunk = config.depth * own + 2 * w * (256 + w)
    if config.encoder == "perceiver":
        encoder = entry
        times = len([p for p in range(config.depth) if config.reread and p % config.reread == 0])
        trunk += own + (1 + times) * reading
    elif config.encoder == "linear":
        encoder = 2 * n * shape.value_size * w
    else:
        encoder = entry + 4 * n * w * config.heads + 2 * k * w * w * 5
    m = num_queries
    level = 2 * m * q * q * (2 + mlp) + 4 * k * w * q + 4 * m * k * q + 12 * w * q
    enter = 2 * m * shape.value_size * q
    if shape.is_moving:
        enter += 2 * m * q * (2 * config.num_frequencies * shape.coordinate_size + 2 * q)
    decoder = enter + config.levels * level + 4 * m * q * shape.value_size + 8 * w * q
    return {"encoder": float(encoder), "trunk": float(trunk), "decoder": float(decoder)}


def _level_places(depth: int, levels: int) -> tuple[int, ...]:
    """Trunk blocks whose latents the decoder reads: the last, and others at equal distance before it."""
    interval = depth // levels
    return tuple(sorted(depth - 1 - level * interval for level in range(levels)))


def _initialise(network: SetTransformer) -> None:
    """Xavier-uniform matrices, zero biases, and zero modulations and output: every answer is exactly 0 at first."""
    for module in network.modules():
        if isinstance(module, nn.Linear):
            nn.init.xavier_uniform_(module.weight)
            if module.bias is not None:
                nn.init.zeros_(module.bias)
    for layer in (network.time.inner, network.time.outer):
        nn.init.normal_(layer.weight, std=0.02)
    for module in network.modules():
        if isinstance(module, Block | Decoder):
            nn.init.zeros_(module.modulation.weight)
    nn.init.zeros_(network.decoder.final.weight)
    assert math.isfinite(network.top_frequency)
