"""A radiance field as a read-out: an MLP whose weights are written by a hyper-network, rendered along rays.

Source: INRCT, appendix B.2, with the weights of Trans-INR (Chen and Wang 2022): column c of a layer's weights is a shared
column times a generated vector, that of token c mod g, at unit length. Features, MLP and rendering are fp32.
"""

from __future__ import annotations

import itertools
import math
from dataclasses import dataclass
from typing import Literal, cast

import torch
from jaxtyping import Float, Int64
from torch import Tensor, nn
from torch.nn import functional

from inrflow_core.errors import UsageError
from inrflow_core.geometry import volume_rendering
from inrflow_core.layers.activations import to_fp32
from inrflow_core.layers.embeddings import geometric
from inrflow_core.networks._contract import PlainFunction, ReadoutState, TokenShape
from inrflow_core.networks._ray_rendering import RaySettings, render
from inrflow_core.sets import Queries, Rays, SetSpec

NORM_EPSILON = 1e-5
COUNTS = ("groups", "width", "token_width", "num_frequencies")


@dataclass(frozen=True)
class Config(RaySettings):
    """Sizes of the field, and how its rays are rendered."""

    groups: int = 64
    """Tokens of a layer, at most one for each of its outputs; they share its columns in turn."""
    width: int = 256
    """Width of the hidden layers."""
    depth: int = 6
    """Linear layers."""
    token_width: int = 768
    """Width of the hyper-network's tokens."""
    num_frequencies: int = 20
    """Frequencies per axis of the features of a point."""
    max_frequency: float = 256.0
    """The highest frequency, in rad per world unit; the lowest is 1."""
    near: float = 0.8
    """Depth along the optical axis at which rays start, in world units."""
    far: float = 1.8
    """Depth at which they end."""
    density: Literal["relu", "softplus"] = "relu"
    """How the MLP's output becomes a density. With `relu` a field that is empty everywhere has no gradient."""

    def __post_init__(self) -> None:
        super().__post_init__()
        for name in COUNTS:
            if getattr(self, name) < 1:
                raise ValueError(f"`{name}` is {getattr(self, name)}: at least 1")
        if self.depth < 2:
            raise ValueError(f"`depth` is {self.depth}: at least 2")
        if not 1 <= self.max_frequency <= 65536:
            raise ValueError(f"`max_frequency` is {self.max_frequency}: from 1 to 65,536")
        if not 0 <= self.near < self.far < math.inf:
            raise ValueError(f"`near` and `far` are {self.near} and {self.far}: from 0, `near` below `far`")

    @property
    def layer_sizes(self) -> tuple[tuple[int, int], ...]:
        """Inputs and outputs of each layer; the last gives a color and a density."""
        sizes = (6 * self.num_frequencies, *[self.width] * (self.depth - 1), 4)
        return tuple(itertools.pairwise(sizes))

    @property
    def least_weights(self) -> int:
        """A number of weights that such a read-out has at least."""
        return self.width * (self.token_width + (self.depth - 2) * (self.token_width + self.width))

    @property
    def layer_tokens(self) -> tuple[int, ...]:
        """Tokens of each layer."""
        return tuple(min(self.groups, outputs) for _, outputs in self.layer_sizes)


def build_readout(config: Config, spec: SetSpec) -> RadianceMlp:
    """The field for the rays of colored views.

    Raises:
        UsageError: the sets are not such rays.
    """
    if not isinstance(spec.layout, Rays) or spec.value_size != 3:
        raise UsageError(
            f"`radiance-mlp` answers rays with colors, not {spec.layout} with values of {spec.value_size} numbers",
            hint="take another read-out, or a domain of posed views",
        )
    return RadianceMlp(config)


class RadianceMlp(nn.Module):
    """The shared part of all fields: base weights and biases, and a head that turns tokens into factors of each layer."""

    frequencies: Tensor

    def __init__(self, config: Config) -> None:
        super().__init__()
        self.config = config
        self.layers = nn.ModuleList(
            GeneratedLinear(inputs, outputs, tokens, config.token_width)
            for (inputs, outputs), tokens in zip(config.layer_sizes, config.layer_tokens, strict=True)
        )
        self.register_buffer(
            "frequencies", geometric(1.0, config.max_frequency, config.num_frequencies), persistent=False
        )

    @property
    def token_shape(self) -> TokenShape:
        """The tokens of all layers, the first layer's first."""
        return TokenShape(sum(self.config.layer_tokens), self.config.token_width)

    @property
    def generated(self) -> list[GeneratedLinear]:
        """The layers, from the first to the last."""
        return cast("list[GeneratedLinear]", list(self.layers))

    def prepare(self, tokens: Float[Tensor, "B L W"]) -> ReadoutState:
        """The weights of each layer, inputs by outputs."""
        parts = tokens.split(self.config.layer_tokens, dim=1)
        return tuple(layer.weights(part) for layer, part in zip(self.generated, parts, strict=True))

    def query(
        self, state: ReadoutState, queries: Queries, *, seeds: Int64[Tensor, " B"] | None = None
    ) -> Float[Tensor, "B M 3"]:
        """The colors of rays, in [-1, 1], in front of white.

        With seeds, `samples` depths of each ray are drawn, keyed by the set's seed, the ray's position among the queries and
        the sample; without, there are `eval_samples` at equal steps.
        """
        return self.render(state, queries, seeds=seeds).color

    def render(
        self, state: ReadoutState, queries: Queries, *, seeds: Int64[Tensor, " B"] | None = None
    ) -> volume_rendering.Rendered:
        """The colors of rays as `query`, their expected depths and opacities."""
        return render(
            self.config,
            lambda points, _: self.density_and_color(state, points),
            lambda _origins, _directions, jitter: volume_rendering.depths(self.config.near, self.config.far, jitter),
            queries,
            state,
            seeds,
        )

    def plain_function(self, state: ReadoutState, scale: float) -> PlainFunction:
        """The MLP from a point's features to color and density: weights (inputs, outputs) and biases."""
        assert scale == 1, "colors are of the field itself"
        tensors = {"frequencies": self.frequencies}
        for number, (layer, weights) in enumerate(zip(self.generated, state, strict=True)):
            tensors |= {f"mlp.{number}.weight": weights[0], f"mlp.{number}.bias": layer.bias}
        config = self.config
        depths = {"near": str(config.near), "far": str(config.far), "samples": str(config.eval_samples)}
        return PlainFunction(tensors, {"function": "radiance-mlp", "density": config.density, **depths})

    def density_and_color(
        self, state: ReadoutState, points: Float[Tensor, "*B P 3"]
    ) -> tuple[Float[Tensor, "B P"], Float[Tensor, "B P 3"]]:
        """The density (at least 0, per world unit) and the color (in [0, 1]) at points in the world, of every set at once."""
        with torch.autocast(points.device.type, enabled=False):
            phase = (to_fp32(points)[..., None] * self.frequencies).flatten(-2)
            x = torch.cat([phase.cos(), phase.sin()], dim=-1).expand(state[0].shape[0], -1, -1)
            for index, (layer, weights) in enumerate(zip(self.generated, state, strict=True)):
                x = torch.baddbmm(layer.bias, functional.relu(x) if index else x, weights)
            raw = x[..., 3]
            density = functional.relu(raw) if self.config.density == "relu" else functional.softplus(raw)
            return density, x[..., :3].sigmoid()


class GeneratedLinear(nn.Module):
    """A linear layer whose weights are shared ones times generated factors, each output's at unit length over the inputs."""

    turns: Tensor

    def __init__(self, inputs: int, outputs: int, tokens: int, token_width: int) -> None:
        super().__init__()
        bound = inputs**-0.5
        self.base = nn.Parameter(torch.empty(inputs, outputs).uniform_(-bound, bound))
        self.bias = nn.Parameter(torch.empty(outputs).uniform_(-bound, bound))
        self.norm, self.head = nn.LayerNorm(token_width, eps=NORM_EPSILON), nn.Linear(token_width, inputs)
        self.register_buffer("turns", torch.arange(outputs) % tokens, persistent=False)

    def weights(self, tokens: Float[Tensor, "B g W"]) -> Float[Tensor, "B inputs outputs"]:
        """The weights that tokens describe: column c by token c mod g."""
        with torch.autocast(tokens.device.type, enabled=False):
            factors = self.head(self.norm(to_fp32(tokens))).mT
            return functional.normalize(self.base * factors[..., self.turns], dim=1)
