"""The network of INRFlow and ASFT: sets in, a velocity for each query out.

Source: INRFlow, arXiv:2412.03791, section 3.4 and appendix A. Context pairs become latents (encoder), latents become
latents (trunk), and each query reads them (decoder). One network serves all domains; what differs is `SetShape` and
the settings. Rows come before columns everywhere: in the context, in the latents' places and in the queries.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Literal, cast

import torch
from jaxtyping import Bool, Float
from torch import Tensor, nn
from torch.nn import functional
from torch.utils.checkpoint import checkpoint

from inrflow_core.errors import UsageError
from inrflow_core.networks import _costs as costs
from inrflow_core.networks._attention import Block, Reading
from inrflow_core.networks._decoder import Decoder, Latents, Memory
from inrflow_core.networks._embeddings import Fourier, TimeEmbedding, Tokens, geometric, rotary
from inrflow_core.networks._encoders import Linear, Spatial
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
    """How the context becomes latents: nearest pairs, a linear map of each patch, or every latent reads every pair."""
    pseudo_coordinates: Literal["grid", "random", "kmeans", "hash"] = "grid"
    """Where the spatial encoder's latents are; `hash` groups pairs by the hash code of their cell instead.

    Moving points are grouped anew in every evaluation: there rounding can move a point across a border, and samples are
    then not the same to rounding in any batch."""
    reread: int = 1
    """The perceiver reads the context again in every so-many-th block; 0 reads it at the start alone."""
    levels: int = 1
    """Decoder levels; each attends to the latents of another depth, the earliest first."""
    decoder_width: int | None = None
    """Numbers in a query token; the width where left out."""
    decoder_heads: int | None = None
    """Heads of the decoder; as many as in the trunk where left out."""
    mlp_ratio: float = 4.0
    """Hidden size of the MLPs over their width."""
    rope: bool = False
    """Rotary positions of the latents in the trunk, beside the added ones."""
    top_frequency: float | None = None
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
            "levels",
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
        if self.levels > self.depth:
            raise ValueError(f"`levels` is {self.levels}: at most `depth`, {self.depth}")
        if self.reread < 0:
            raise ValueError(f"`reread` is {self.reread}: 1 or more, or 0 to read at the start alone")
        if not 0 < self.mlp_ratio < math.inf:
            raise ValueError(f"`mlp_ratio` is {self.mlp_ratio}: above 0")
        if self.top_frequency is not None and not 1 <= self.top_frequency < math.inf:
            raise ValueError(f"`top_frequency` is {self.top_frequency}: at least 1, in units of pi")
        if self.encoder == "linear" and self.pseudo_coordinates != "grid":
            raise ValueError(
                f"`pseudo_coordinates` is {self.pseudo_coordinates}: `encoder = linear` takes a grid's patches"
            )
        if self.rope and not self.has_places:
            raise ValueError(
                "`rope` turns latents by their place: the perceiver's have none, and those of `hash` neither"
            )

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
        if self.encoder != "perceiver" or self.reread == 0:
            return []
        return list(range(0, self.depth, self.reread))

    @property
    def level_blocks(self) -> list[int]:
        """Blocks whose latents the decoder attends to: the last, and others at equal distance before it."""
        return sorted(self.depth - 1 - level * (self.depth // self.levels) for level in range(self.levels))


@dataclass(frozen=True)
class Encoded:
    """What the encoder leaves of a context. It depends on neither time nor condition: guidance computes it once.

    The perceiver's latents are learned and know nothing yet; its `readings` are the keys and values of every block
    that reads the context, the first block's first. In training there are the `tokens` instead, and each block makes
    its own: the backward pass then leaves a block's keys and values behind before it comes to the next.
    """

    latents: Float[Tensor, "B L W"]
    tokens: Float[Tensor, "B N W"] | None = None
    readings: tuple[Reading, ...] = ()
    mask: Bool[Tensor, "B N"] | None = None


def build(config: Config, shape: SetShape) -> SetTransformer:
    """The network for sets of that shape; its first answers are exactly 0.

    Raises:
        UsageError: the settings do not fit the sets, or each other.
    """
    head_size = config.width // config.heads
    if config.rope and (head_size % 2 or head_size < 2 * shape.coordinate_size):
        raise UsageError(
            f"[network] `rope` turns pairs of numbers along {shape.coordinate_size} axes, and a head has {head_size} numbers",
            hint=f"choose an even head size (`width` / `heads`) of at least {2 * shape.coordinate_size}, or `rope = false`",
        )
    if config.pseudo_coordinates == "hash" and shape.coordinate_size > 3:
        raise UsageError(
            "[network] `pseudo_coordinates` is `hash`, which has codes for up to 3 axes", hint="use `random`"
        )
    return SetTransformer(config, shape)


def build_decoder(config: Config, shape: SetShape) -> Decoder:
    """The decoder alone, all that a saved field needs: its own weights are those of `SetTransformer.decoder`."""
    decoder = Decoder(
        _tokens(config, shape, config.query_width),
        width=config.query_width,
        heads=config.query_heads,
        mlp_ratio=config.mlp_ratio,
        levels=config.levels,
        latent_width=config.width,
        value_size=shape.value_size,
    )
    _initialise(decoder)
    return decoder


class SetTransformer(nn.Module):
    """Encoder, trunk and decoder, each callable by itself."""

    places: Tensor
    turns: Tensor | None
    start: Layer | None
    latent: nn.Parameter | None

    def __init__(self, config: Config, shape: SetShape) -> None:
        super().__init__()
        self.config, self.shape = config, shape
        self.time = TimeEmbedding(config.width)
        self.encoder = _encoder(config, shape)
        self.latent = self.start = None
        if config.encoder == "perceiver":
            self.latent = nn.Parameter(torch.randn(config.latents, config.width))
            self.start = Layer(config, reads=True)
        reading = config.reading_blocks
        self.trunk = nn.ModuleList(Layer(config, reads=index in reading) for index in range(config.depth))
        _initialise(self)
        self.decoder = build_decoder(config, shape)
        self._place_latents()

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
        """What the context says; `mask` is False at padding. The context of a grid is the whole training grid."""
        if not isinstance(self.encoder, Tokens):
            latents = self.encoder(context, values, mask)
            return Encoded(latents + self.places.to(latents.dtype))
        assert self.latent is not None
        if mask is not None:
            values = values.masked_fill(~mask[..., None], 0)
        tokens = self.encoder(context.coordinates, values)[0]
        latents = self.latent.expand(values.shape[0], -1, -1)
        if torch.is_grad_enabled():
            return Encoded(latents, tokens, (), mask)
        return Encoded(
            latents, None, tuple(layer.read.read(tokens) for layer in self.layers() if layer.read is not None), mask
        )

    def latents(self, encoded: Encoded, t: Float[Tensor, " B"], vector: Float[Tensor, "B W"] | None) -> Latents:
        """The trunk: latents of each decoder level at a time, under a condition."""
        total = self.time(t) if vector is None else self.time(t) + vector
        condition = functional.silu(total)
        readings = iter(encoded.readings)
        x, levels = encoded.latents, []
        for index, layer in enumerate(self.layers(), start=0 if self.start is None else -1):
            source = None
            if layer.read is not None:
                source = encoded.tokens if encoded.tokens is not None else next(readings)
            arguments = (x, condition, self.turns, source, encoded.mask)
            if self._is_checkpointed():
                x = checkpoint(layer, *arguments, use_reentrant=False, preserve_rng_state=False)
            else:
                x = layer(*arguments)
            if index in self.config.level_blocks:
                levels.append(x)
        return Latents(tuple(levels), total)

    def memory(self, latents: Latents) -> Memory:
        """What all queries of one evaluation share."""
        return self.decoder.memory(latents)

    def decode(self, queries: Queries, values: Float[Tensor, "B M C"], memory: Memory) -> Float[Tensor, "B M C"]:
        """The velocity of each query; queries never see each other."""
        return self.decoder(queries, values, memory)

    def flops(self, num_queries: int) -> dict[str, float]:
        """Operations of one evaluation for one set with so many queries, by part (see `_costs`)."""
        pairs, latents = self.shape.num_pairs, self.config.latents
        if isinstance(self.encoder, Spatial):
            encoder = costs.spatial(self.encoder)
        elif isinstance(self.encoder, Linear):
            encoder = 2 * latents * self.encoder.linear.weight.numel()
        else:
            encoder = costs.tokens(self.encoder, pairs)
        trunk = costs.time(self.time) + sum(layer.flops(latents, pairs) for layer in self.layers())
        decoder = costs.tokens(self.decoder.tokens, num_queries)
        decoder += sum(costs.block(block, num_queries, latents) for block in self.decoder.levels())
        decoder += 2 * (num_queries * self.decoder.final.weight.numel() + self.decoder.modulation.weight.numel())
        return {"encoder": float(encoder), "trunk": float(trunk), "decoder": float(decoder)}

    def parts(self) -> dict[str, int]:
        """Parameters by part; the time embedding and the perceiver's first layer count to the trunk."""
        part_of = {"trunk": "trunk", "time": "trunk", "start": "trunk", "decoder": "decoder"}
        counts = {"encoder": 0, "trunk": 0, "decoder": 0}
        for name, weight in self.named_parameters():
            counts[part_of.get(name.partition(".")[0], "encoder")] += weight.numel()
        return counts

    def layers(self) -> list[Layer]:
        """All layers that the latents pass: the trunk's, behind the one that the perceiver starts with."""
        trunk = cast("list[Layer]", list(self.trunk))
        return trunk if self.start is None else [self.start, *trunk]

    def _is_checkpointed(self) -> bool:
        return self.config.checkpoint_activations and torch.is_grad_enabled()

    def _place_latents(self) -> None:
        """What is added to the encoder's latents: features of their pseudo-coordinates, or for hash codes a table."""
        config, turns = self.config, None
        if isinstance(self.encoder, Spatial) and not config.has_places:
            self.places = nn.Parameter(0.02 * torch.randn(config.latents, config.width))
        elif isinstance(self.encoder, Spatial | Linear):
            positions = self.encoder.positions
            assert positions is not None
            along = config.latents ** (1 / positions.shape[-1])
            frequencies = _frequencies(config, self.shape, config.width)
            if self.shape.is_moving:
                count = config.width // (2 * self.shape.coordinate_size)
                frequencies = geometric(math.pi, math.pi * max(1.0, along / 2), count)
            self.register_buffer(
                "places", Fourier(frequencies, config.width)(positions.to(frequencies.device)), persistent=False
            )
            turns = rotary(positions * along / 2, config.width // config.heads) if config.rope else None
        self.register_buffer("turns", turns, persistent=False)


class Layer(nn.Module):
    """One layer of the trunk: a block of self-attention, behind a block that reads the context where it `reads`."""

    def __init__(self, config: Config, *, reads: bool) -> None:
        super().__init__()
        width, heads, ratio = config.width, config.heads, config.mlp_ratio
        self.read = Block(width, heads, ratio, condition_width=width, source_width=width) if reads else None
        self.own = Block(width, heads, ratio, condition_width=width)

    def forward(
        self,
        x: Float[Tensor, "B L W"],
        condition: Float[Tensor, "B W"],
        turns: Float[Tensor, "2 L d"] | None,
        source: Reading | Float[Tensor, "B N W"] | None,
        mask: Bool[Tensor, "B N"] | None,
    ) -> Float[Tensor, "B L W"]:
        """The latents behind this layer; `source` is its reading, or the tokens to make it from."""
        if self.read is not None:
            assert source is not None
            reading = self.read.read(source) if isinstance(source, Tensor) else source
            x = self.read(x, self.read.modulate(condition), reading, mask)
        return self.own(x, self.own.modulate(condition), turns)

    def flops(self, latents: int, pairs: int) -> int:
        """Operations of this layer for one set."""
        return (costs.block(self.read, latents, pairs) if self.read else 0) + costs.block(self.own, latents, latents)


def _encoder(config: Config, shape: SetShape) -> Spatial | Linear | Tokens:
    if config.encoder == "linear":
        return Linear(shape, width=config.width, latents=config.latents)
    tokens = _tokens(config, shape, config.width)
    if config.encoder == "perceiver":
        return tokens
    kind = config.pseudo_coordinates
    return Spatial(shape, tokens, width=config.width, heads=config.heads, latents=config.latents, kind=kind)


def _tokens(config: Config, shape: SetShape, width: int) -> Tokens:
    frequencies = _frequencies(config, shape, width)
    if shape.is_moving:
        return Tokens(shape.value_size, width, Fourier(frequencies), shape.coordinate_size)
    return Tokens(shape.value_size, width, Fourier(frequencies, width), None)


def _frequencies(config: Config, shape: SetShape, width: int) -> Float[Tensor, " F"]:
    """Frequencies of coordinates in rad: octaves for moving points, else from pi to the highest of the settings."""
    top = config.top_frequency
    if shape.is_moving:
        count = config.num_frequencies or 10
        return geometric(1.0, 2.0 ** (count - 1) if top is None else math.pi * top, count)
    room = width // (2 * shape.coordinate_size)
    count = config.num_frequencies or room
    if not 0 < count <= room:
        raise UsageError(
            f"[network] a token of {width} numbers has room for {room} frequencies of each coordinate, not {count}",
            hint="lower `num_frequencies` or widen the network and its decoder",
        )
    side = min(shape.grid) if shape.grid else shape.num_pairs ** (1 / shape.coordinate_size)
    return geometric(math.pi, math.pi * (top or max(1.0, side / 4)), count)


def _initialise(network: nn.Module) -> None:
    """Xavier-uniform matrices, zero biases, and zero modulations and output: every answer is exactly 0 at first."""
    for module in network.modules():
        if isinstance(module, nn.Linear):
            nn.init.xavier_uniform_(module.weight)
            if module.bias is not None:
                nn.init.zeros_(module.bias)
    for module in network.modules():
        if isinstance(module, Block | Decoder):
            nn.init.zeros_(module.modulation.weight)
        if isinstance(module, Decoder):
            nn.init.zeros_(module.final.weight)
        if isinstance(module, TimeEmbedding):
            for layer in (module.inner, module.outer):
                nn.init.normal_(layer.weight, std=0.02)
