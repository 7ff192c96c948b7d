"""The network of INRFlow and ASFT: sets in, a velocity for each query out.

Source: INRFlow, arXiv:2412.03791, section 3.4 and appendix A. Context pairs become latents (encoder), latents become
latents (trunk), and each query attends to them (decoder). One network serves all domains, which differ in `SetSpec` and
the settings. Rows come before columns everywhere: in the context, the latents and the queries.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, ClassVar, cast

import torch
from jaxtyping import Bool, Float
from torch import Tensor, nn
from torch.nn import functional
from torch.utils.checkpoint import checkpoint

from inrflow_core.errors import UsageError
from inrflow_core.layers.attention import Block, KeyValue
from inrflow_core.layers.embeddings import Fourier, TimeEmbedding, Tokens, geometric
from inrflow_core.layers.rope import rotary
from inrflow_core.networks._local_decoder import LocalDecoder
from inrflow_core.networks._set_config import Config as Config  # part of this module's interface
from inrflow_core.networks._set_decoder import Decoder, Latents
from inrflow_core.networks._set_encoders import PatchEncoder, SpatialEncoder
from inrflow_core.networks._set_residues import AtomEmbedding, ResidueEncoder
from inrflow_core.sets import ConditionEmbedding, ConditionSpec, Grid, Groups, Points, Queries, Rays, SetSpec

NOTHING = ConditionSpec()
"""The spec of no condition, or of a condition that is a vector alone."""


@dataclass(frozen=True)
class EncoderOutput:
    """The encoding of a context. It depends on neither time nor condition, so that guidance computes it once.

    The perceiver's latents are learned and do not depend on the context; its `keys_values` are those of every block
    that attends to the context, in order. In training it has `tokens` instead, and each block computes its own keys and
    values, so that the backward pass frees those of a block before it reaches the next.
    """

    latents: Float[Tensor, "B L W"]
    tokens: Float[Tensor, "B N W"] | None = None
    keys_values: tuple[KeyValue, ...] = ()
    mask: Bool[Tensor, "B N"] | None = None


def build(config: Config, shape: SetSpec, condition: ConditionSpec = NOTHING) -> SetTransformer:
    """The network for sets and conditions of these specs; its initial outputs are exactly 0.

    Raises:
        UsageError: the settings do not fit the sets, or each other.
    """
    has_groups = isinstance(shape.layout, Groups)
    if isinstance(shape.layout, Rays):
        raise UsageError("[network] the set transformer does not support rays: it ignores the directions of queries")
    head_size, axes = config.width // config.heads, 1 if has_groups else shape.coordinate_size
    if config.rope and (head_size % 2 or head_size < 2 * axes):
        raise UsageError(
            f"[network] `rope` rotates pairs of numbers along {axes} axes, and a head has {head_size} numbers",
            hint=f"choose an even head size (`width` / `heads`) of at least {2 * axes}, or `rope = false`",
        )
    if config.pseudo_coordinates == "hash" and shape.coordinate_size > 3:
        raise UsageError("[network] `pseudo_coordinates` is `hash`, which supports up to 3 axes", hint="use `random`")
    if has_groups != (config.pseudo_coordinates == "residue") or (
        config.pseudo_coordinates == "residue" and (config.encoder == "perceiver" or condition.features is None)
    ):
        raise UsageError(
            f"[network] `pseudo_coordinates` is `{config.pseudo_coordinates}` with the encoder `{config.encoder}`, and "
            f"the sets have {'' if has_groups else 'no '}groups",
            hint="sets in groups (proteins), and only these, need `residue` with the encoder `spatial` or `linear`, and the "
            "condition `sequence`",
        )
    if condition.is_padded:
        raise UsageError(
            "`set-transformer` reads as many tokens of every condition, and texts have more or fewer",
            hint="take the denoiser `latent-unet` of the method `latent`, or another [condition]",
        )
    return SetTransformer(config, shape, condition)


def build_decoder(config: Config, shape: SetSpec, condition: ConditionSpec = NOTHING) -> Decoder | LocalDecoder:
    """The decoder alone, for saved fields: its weights are those of `SetTransformer.decoder`."""
    if config.decoder == "local":
        local = LocalDecoder(config, shape)
        _initialize(local)
        return local
    width = config.query_width
    tokens = (
        _tokens(config, shape, width) if condition.features is None else AtomEmbedding(shape, width, condition.features)
    )
    decoder = Decoder(config, tokens, shape.value_size)
    _initialize(decoder)
    return decoder


class SetTransformer(nn.Module):
    """Encoder, trunk and decoder, each callable by itself.

    (Submodules and parameters keep their names, also `places`: these are keys of weights files.)
    """

    PARTS: ClassVar[Mapping[str, str]] = {
        **dict.fromkeys(("encoder", "latent", "places"), "encoder"),
        **dict.fromkeys(("time", "start", "trunk", "rereading"), "trunk"),
        "decoder": "decoder",
    }
    """The part of a plan to which each child belongs, in the order of the forward pass."""

    places: Tensor
    rope: Tensor | None
    start: Layer | None
    latent: nn.Parameter | None

    def __init__(self, config: Config, shape: SetSpec, condition: ConditionSpec) -> None:
        super().__init__()
        self.config, self.shape = config, shape
        self.time = TimeEmbedding(config.width)
        self.encoder = _encoder(config, shape, condition)
        self.latent = self.start = None
        if config.encoder == "perceiver":
            self.latent = nn.Parameter(torch.randn(config.latents, config.width))
            self.start = Layer(config, has_source=True)
        cross_attention = config.cross_attention_blocks
        inside = [] if config.separate_cross_attention else cross_attention
        self.trunk = nn.ModuleList(
            Layer(config, has_source=index in inside, has_tokens=condition.tokens > 0) for index in range(config.depth)
        )
        self.rereading = nn.ModuleList(
            Layer(config, has_source=True) for _ in cross_attention if config.separate_cross_attention
        )
        _initialize(self)
        self.decoder = build_decoder(config, shape, condition)
        self._create_latent_positions()

    @property
    def vector_width(self) -> int:
        """Width of the condition vector that is added to the time embedding."""
        return self.config.width

    def forward(
        self,
        context: Queries,
        values: Float[Tensor, "B N C"],
        t: Float[Tensor, " B"],
        embedding: ConditionEmbedding,
        queries: Queries,
        query_values: Float[Tensor, "B M C"],
        *,
        mask: Bool[Tensor, "B N"] | None = None,
    ) -> Float[Tensor, "B M C"]:
        """The velocities at `queries` of the function with this context at time t."""
        latents = self.latents(self.encode(context, values, mask, embedding), t, embedding)
        return self.decode(queries, query_values, self.decoder_kv(latents))

    def project_kv(self, embedding: ConditionEmbedding) -> ConditionEmbedding:
        """The embedding with its tokens as keys and values of every block: once for all evaluations of a sample."""
        if embedding.tokens is None:
            return embedding
        blocks = [layer.own.told for layer in self.all_layers()]
        return embedding._replace(
            tokens=None,
            projected_kv=tuple(None if block is None else block.project_kv(embedding.tokens) for block in blocks),
        )

    def encode(
        self,
        context: Queries,
        values: Float[Tensor, "B N C"],
        mask: Bool[Tensor, "B N"] | None = None,
        embedding: ConditionEmbedding = ConditionEmbedding(),  # noqa: B008, it cannot change
    ) -> EncoderOutput:
        """The encoding of the context; `mask` is False at padding. The context of a grid is the whole training grid.

        Of the condition only the features of groups are used: they are a part of the context's coordinates.
        """
        if isinstance(self.encoder, ResidueEncoder):
            return EncoderOutput(self.encoder(context, values, mask, embedding), mask=mask)
        if not isinstance(self.encoder, Tokens):
            latents = self.encoder(context, values, mask)
            return EncoderOutput(latents + self.places.to(latents.dtype))
        assert self.latent is not None
        if mask is not None:
            values = values.masked_fill(~mask[..., None], 0)
        tokens = self.encoder(context.coordinates, values)[0]
        latents = self.latent.expand(values.shape[0], -1, -1)
        if torch.is_grad_enabled():
            return EncoderOutput(latents, tokens, (), mask)
        return EncoderOutput(
            latents,
            None,
            tuple(layer.read.project_kv(tokens) for layer in self.all_layers() if layer.read is not None),
            mask,
        )

    def latents(self, encoded: EncoderOutput, t: Float[Tensor, " B"], embedding: ConditionEmbedding) -> Latents:
        """The trunk: latents of each decoder level at a time, under a condition."""
        total = self.time(t) if embedding.vector is None else self.time(t) + embedding.vector
        condition = functional.silu(total)
        keys_values = iter(encoded.keys_values)
        x, levels = encoded.latents, []
        rope = self._rope_of_latents(x.shape[1])
        ends = [self.trunk[index] for index in self.config.level_blocks]
        for index, layer in enumerate(self.all_layers()):
            source = None
            if layer.read is not None:
                source = encoded.tokens if encoded.tokens is not None else next(keys_values)
            tokens = embedding.projected_kv[index] if embedding.projected_kv else embedding.tokens
            masks = (encoded.mask, embedding.is_group)
            arguments = (x, condition, rope, source, masks, None if layer.own.told is None else tokens)
            if self._is_checkpointed():
                x = checkpoint(layer, *arguments, use_reentrant=False, preserve_rng_state=False)
            else:
                x = layer(*arguments)
            if any(layer is end for end in ends):
                levels.append(x)
        return Latents(tuple(levels), total, embedding.features, embedding.is_group)

    def decoder_kv(self, latents: Latents) -> Any:
        """The keys, values and modulations that all queries of one evaluation share."""
        return self.decoder.decoder_kv(latents)

    def fp32_layers(self) -> list[nn.Module]:
        """Layers that compute in fp32 under autocast as well."""
        return self.decoder.exact_layers()

    def embed(self, queries: Queries) -> Any:
        """The part of the queries' evaluation that depends on fixed coordinates alone, of the decoder's own type."""
        return self.decoder.embed(queries)

    def decode(
        self,
        queries: Queries,
        values: Float[Tensor, "B M C"],
        decoder_kv: Any,
        embedded: Any = None,
    ) -> Float[Tensor, "B M C"]:
        """The velocity of each query, independent of other queries; `embedded` is a precomputed result of `embed`."""
        return self.decoder(queries, values, decoder_kv, embedded)

    def all_layers(self) -> list[Layer]:
        """All layers of the trunk in order; the perceiver has one more at the start."""
        layers: list[Layer] = [] if self.start is None else [self.start]
        separate = iter(cast("list[Layer]", list(self.rereading)))
        for index, layer in enumerate(cast("list[Layer]", list(self.trunk))):
            if self.config.separate_cross_attention and index in self.config.cross_attention_blocks:
                layers.append(next(separate))
            layers.append(layer)
        return layers

    def recomputed_blocks(self) -> list[Layer]:
        """The layers of the trunk."""
        return self.all_layers()

    def _rope_of_latents(self, count: int) -> Float[Tensor, "2 L d"] | None:
        """Cosines and sines of RoPE for the latents; latents of groups are rotated by their index in the chain."""
        if not (self.config.rope and isinstance(self.encoder, ResidueEncoder)):
            return self.rope
        numbers = torch.arange(count, device=self.decoder.final.weight.device)[:, None]
        return rotary(numbers.float(), self.config.width // self.config.heads)

    def _is_checkpointed(self) -> bool:
        return self.config.checkpoint_activations and torch.is_grad_enabled()

    def _create_latent_positions(self) -> None:
        """Create what is added to the encoder's latents: features of pseudo-coordinates, or a table for hash codes."""
        config, rope = self.config, None
        if isinstance(self.encoder, SpatialEncoder) and not config.has_positions:
            self.places = nn.Parameter(0.02 * torch.randn(config.latents, config.width))
        elif isinstance(self.encoder, SpatialEncoder | PatchEncoder):
            positions = self.encoder.positions
            assert positions is not None
            side = config.latents ** (1 / positions.shape[-1])
            frequencies = _frequencies(config, self.shape, config.width)
            if not self.shape.layout.has_coordinates:
                count = config.width // (2 * self.shape.coordinate_size)
                frequencies = geometric(math.pi, math.pi * max(1.0, side / 2), count)
            self.register_buffer(
                "places", Fourier(frequencies, config.width)(positions.to(frequencies.device)), persistent=False
            )
            rope = rotary(positions * side / 2, config.width // config.heads) if config.rope else None
        self.register_buffer("rope", rope, persistent=False)


class Layer(nn.Module):
    """One layer of the trunk: a block of self-attention, with `has_source` after a block that attends to the context.

    With `has_tokens` it also attends to the tokens of a condition.
    """

    def __init__(self, config: Config, *, has_source: bool, has_tokens: bool = False) -> None:
        super().__init__()
        width, heads, ratio = config.width, config.heads, config.mlp_ratio
        self.read = Block(width, heads, ratio, condition_width=width, source_width=width) if has_source else None
        self.own = Block(width, heads, ratio, condition_width=width, has_tokens=has_tokens)

    def forward(
        self,
        x: Float[Tensor, "B L W"],
        condition: Float[Tensor, "B W"],
        rope: Float[Tensor, "2 L d"] | None,
        source: KeyValue | Float[Tensor, "B N W"] | None,
        masks: tuple[Bool[Tensor, "B N"] | None, Bool[Tensor, "B L"] | None],
        condition_tokens: KeyValue | Float[Tensor, "B K W"] | None,
    ) -> Float[Tensor, "B L W"]:
        """The latents after this layer; `source` and `condition_tokens` are tokens, or their keys and values.

        The masks are False at padding of the pairs, and of the latents.
        """
        if self.read is not None:
            assert source is not None
            keys_values = self.read.project_kv(source) if isinstance(source, Tensor) else source
            x = self.read(x, self.read.modulate(condition), keys_values, masks[0])
        return self.own(x, self.own.modulate(condition), rope, masks[1], condition_tokens=condition_tokens)


def _encoder(
    config: Config, shape: SetSpec, condition: ConditionSpec
) -> SpatialEncoder | PatchEncoder | Tokens | ResidueEncoder:
    if condition.features is not None:
        kind = "linear" if config.encoder == "linear" else "attention"
        return ResidueEncoder(shape, width=config.width, heads=config.heads, features=condition.features, kind=kind)
    if config.encoder == "linear":
        return PatchEncoder(shape, width=config.width, latents=config.latents)
    tokens = _tokens(config, shape, config.width)
    if config.encoder == "perceiver":
        return tokens
    kind = config.pseudo_coordinates
    return SpatialEncoder(shape, tokens, width=config.width, heads=config.heads, latents=config.latents, kind=kind)


def _tokens(config: Config, shape: SetSpec, width: int) -> Tokens:
    frequencies = _frequencies(config, shape, width)
    if shape.layout.has_coordinates:
        return Tokens(shape.value_size, width, Fourier(frequencies, width), None)
    return Tokens(shape.value_size, width, Fourier(frequencies), shape.coordinate_size)


def _frequencies(config: Config, shape: SetSpec, width: int) -> Float[Tensor, " F"]:
    """Frequencies of coordinates in rad: octaves for points without fixed coordinates, else pi to `max_frequency`.

    `min_frequency` replaces the lowest one.
    """
    top, lowest = config.max_frequency, None if config.min_frequency is None else math.pi * config.min_frequency
    match shape.layout:
        case Points(has_coordinates=False):
            count = config.num_frequencies or 10
            return geometric(lowest or 1.0, 2.0 ** (count - 1) if top is None else math.pi * top, count)
        case Grid(sides):
            side = min(sides)
        case _:
            side = shape.num_queries ** (1 / shape.coordinate_size)
    most = width // (2 * shape.coordinate_size)
    count = config.num_frequencies or most
    if not 0 < count <= most:
        raise UsageError(
            f"[network] a token of {width} numbers has room for {most} frequencies per coordinate axis, not {count}",
            hint="lower `num_frequencies` or widen the network and its decoder",
        )
    return geometric(lowest or math.pi, math.pi * (top or max(1.0, side / 4)), count)


def _initialize(network: nn.Module) -> None:
    """Xavier-uniform matrices, zero biases, and zero modulations and output: all outputs are exactly 0 at first."""
    for module in network.modules():
        if isinstance(module, nn.Linear):
            nn.init.xavier_uniform_(module.weight)
            if module.bias is not None:
                nn.init.zeros_(module.bias)
    for module in network.modules():
        if isinstance(module, Block | Decoder):
            nn.init.zeros_(module.modulation.weight)
        if isinstance(module, Block) and module.told is not None:
            nn.init.zeros_(module.told.out.weight)
        if isinstance(module, Decoder):
            nn.init.zeros_(module.final.weight)
        if isinstance(module, LocalDecoder):
            for layer in module.zeros():
                nn.init.zeros_(layer.weight)
        if isinstance(module, TimeEmbedding):
            for layer in (module.inner, module.outer):
                nn.init.normal_(layer.weight, std=0.02)
