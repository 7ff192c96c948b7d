"""A neural function that reads a few of its tokens at each coordinate: localized attention, then an MLP (INRCT, appendix B.2).

The coordinate's Fourier features attend to the tokens; weights below a threshold are set to 0, so that a token describes a
part of the domain. Source of the form: ANR (Zhang et al. 2024). There is no residual and no norm, and queries never see each
other. All of it is computed in fp32: the highest frequencies turn by thousands of radians.
"""

from __future__ import annotations

import math
from collections.abc import Iterator
from dataclasses import dataclass

import torch
from jaxtyping import Float, Int64
from torch import Tensor, nn
from torch.nn import functional

from inrflow_core.errors import UsageError
from inrflow_core.layers.activations import to_fp32
from inrflow_core.layers.embeddings import geometric
from inrflow_core.networks._contract import PlainFunction, ReadoutState, TokenShape
from inrflow_core.sets import Queries, Rays, SetSpec

THRESHOLD = 0.384
"""Attention weights below this share of a uniform weight, 1 / tokens, are set to 0 (0.0015 of 256 tokens; ANR)."""


@dataclass(frozen=True)
class Config:
    """Sizes of the function; the defaults are the paper's."""

    tokens: int = 256
    """Tokens of a function."""
    token_width: int = 768
    """Width of the tokens, that of the hyper-network."""
    width: int = 512
    """Width of the function."""
    heads: int = 8
    """Attention heads; they divide the width."""
    depth: int = 4
    """Hidden layers of the MLP."""
    num_frequencies: int = 128
    """Frequencies per coordinate, in geometric progression from pi."""
    max_frequency: float = 1024.0
    """Highest frequency in units of pi on [-1, 1]; a grid of R pixels resolves R / 2."""
    query_gain: float = 1.0
    """Factor of the initial weights of the queries: above 1 the attention is not nearly uniform at the start, which shortens
    the time in which a small model draws the mean image."""

    def __post_init__(self) -> None:
        for name in ("tokens", "token_width", "width", "heads", "depth", "num_frequencies"):
            if getattr(self, name) < 1:
                raise ValueError(f"`{name}` is {getattr(self, name)}: at least 1")
        if self.width % self.heads:
            raise ValueError(f"`width` is {self.width}: a multiple of `heads` ({self.heads})")
        if not 1 <= self.max_frequency < math.inf:
            raise ValueError(f"`max_frequency` is {self.max_frequency}: at least 1, in units of pi")
        if not 0 < self.query_gain < math.inf:
            raise ValueError(f"`query_gain` is {self.query_gain}: above 0")


def build_readout(config: Config, spec: SetSpec) -> LocalizedINR:
    """The function for sets with coordinates.

    Raises:
        UsageError: points that move have no coordinates; rays need the rendering of a radiance field.
    """
    if not spec.layout.has_coordinates or isinstance(spec.layout, Rays):
        raise UsageError(
            f"`localized-inr` is a function of fixed coordinates, and these sets are {spec.layout}",
            hint='for posed views take `name = "radiance-mlp"` in [network.readout]',
        )
    return LocalizedINR(config, spec)


class LocalizedINR(nn.Module):
    """Functions of a coordinate, one for each set of tokens."""

    PARTS = {"scale": "head", "shift": "head"}
    frequencies: Tensor

    def __init__(self, config: Config, spec: SetSpec) -> None:
        super().__init__()
        self.config = config
        width = config.width
        self.head = nn.Sequential(nn.LayerNorm(config.token_width), nn.Linear(config.token_width, width))
        self.scale, self.shift = (
            nn.Parameter(torch.ones(config.tokens, width)),
            nn.Parameter(torch.randn(config.tokens, width)),
        )
        features = 2 * spec.coordinate_size * config.num_frequencies
        self.query_layer = nn.Linear(features, width, bias=False)
        self.key, self.value = (nn.Linear(width, width, bias=False) for _ in range(2))
        self.out = nn.Linear(width, width)
        hidden = [layer for _ in range(config.depth) for layer in (nn.Linear(width, width), nn.ReLU())]
        self.mlp = nn.Sequential(*hidden, nn.Linear(width, spec.value_size))
        with torch.no_grad():
            self.query_layer.weight *= config.query_gain
        frequencies = math.pi * geometric(1.0, config.max_frequency, config.num_frequencies)
        self.register_buffer("frequencies", frequencies, persistent=False)

    @property
    def token_shape(self) -> TokenShape:
        """Number and width of the tokens."""
        return TokenShape(self.config.tokens, self.config.token_width)

    def fp32_layers(self) -> Iterator[nn.Module]:
        """All layers, which are not cast to bf16."""
        return (module for module in self.modules() if isinstance(module, nn.Linear))

    def prepare(self, tokens: Float[Tensor, "B L W"]) -> ReadoutState:
        """The keys and the values of the tokens, each (B, heads, L, width of a head)."""
        with torch.autocast(tokens.device.type, enabled=False):
            described = torch.addcmul(self.shift, self.scale, self.head(to_fp32(tokens)))
            return self._split(self.key(described)), self._split(self.value(described))

    def query(
        self, state: ReadoutState, queries: Queries, *, seeds: Int64[Tensor, " B"] | None = None
    ) -> Float[Tensor, "B M C"]:
        """The values at the queries' coordinates; nothing is random."""
        keys, values = state
        assert queries.coordinates is not None
        with torch.autocast(keys.device.type, enabled=False):
            query = self._split(self.query_layer(self.features(queries.coordinates)))
            weights = local_weights(query, keys)
            read = (weights @ values).transpose(1, 2).flatten(2)
            return self.mlp(self.out(read))

    def plain_function(self, state: ReadoutState, scale: float) -> PlainFunction:
        """Its keys and values, and the layers that all functions share; the last one takes the scale."""
        keys, values = state
        layers = [layer for layer in self.mlp if isinstance(layer, nn.Linear)]
        named = {"query": self.query_layer, "out": self.out} | {f"mlp.{n}": layer for n, layer in enumerate(layers)}
        tensors = {f"{name}.{key}": weight for name, layer in named.items() for key, weight in layer.named_parameters()}
        last = f"mlp.{len(layers) - 1}"
        tensors |= {name: scale * tensors[name] for name in (f"{last}.weight", f"{last}.bias")}
        tensors |= {"frequencies": self.frequencies, "keys": keys[0], "values": values[0]}
        return PlainFunction(tensors, {"function": "localized-inr", "threshold": repr(THRESHOLD / keys.shape[-2])})

    def features(self, coordinates: Float[Tensor, "*B M D"]) -> Float[Tensor, "_ M E"]:
        """The cosines of all frequencies of each coordinate, then their sines, for one set or each."""
        phase = (to_fp32(coordinates)[..., None] * self.frequencies).flatten(-2)
        waves = torch.cat([phase.cos(), phase.sin()], -1)
        return waves if waves.ndim == 3 else waves[None]

    def _split(self, x: Float[Tensor, "B L W"]) -> Float[Tensor, "B H L d"]:
        return x.unflatten(-1, (self.config.heads, -1)).transpose(1, 2)


def local_weights(query: Float[Tensor, "_ H M d"], keys: Float[Tensor, "B H L d"]) -> Float[Tensor, "B H M L"]:
    """Softmax weights less the threshold, at least 0, renormalized; the largest always stays above 0."""
    logits = query @ keys.transpose(-1, -2) / math.sqrt(query.shape[-1])
    weights = functional.relu(logits.softmax(-1) - THRESHOLD / keys.shape[-2])
    return weights / weights.sum(-1, keepdim=True)
