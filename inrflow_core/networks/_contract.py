"""The contracts of a network's file, one for each kind of network; the function that builds it says which kind it is.

A `NetworkPart` has a velocity network, which encodes a context and decodes queries (`build`); a `HypernetworkPart` one that
writes the tokens of a neural function (`build_hypernetwork`); a `ReadoutPart` the neural function (`build_readout`). Latent
diffusion has an `AutoencoderPart` (`build_autoencoder`), whose fields a `FieldReadoutPart` evaluates (`build_field_readout`),
and a `DenoiserPart` (`build_denoiser`).
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, ClassVar, NamedTuple, Protocol, runtime_checkable

from jaxtyping import Bool, Float, Int64
from torch import Tensor, nn

from inrflow_core.sets import ConditionEmbedding, ConditionSpec, Queries, SetSpec


@runtime_checkable
class QueryDecoder(Protocol):
    """A decoder without its network, as in a saved field; called with (queries, values, decoder_kv, embedded)."""

    def decoder_kv(self, latents: Any) -> Any:
        """Keys, values and modulations of the latents, computed once for any number of queries."""
        ...

    def embed(self, queries: Queries) -> Any:
        """The embedding of the coordinates (the decoder's `embedded`); None for points without fixed coordinates.

        A tensor, or an object of the decoder with the same `nbytes`, the size in bytes.
        """
        ...


@runtime_checkable
class Network(QueryDecoder, Protocol):
    """The module that `build` returns: it encodes a context as latents and decodes each query from them alone."""

    config: Any
    decoder: nn.Module

    @property
    def vector_width(self) -> int:
        """Size of a condition's vector and tokens."""
        ...

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
        """The output at each query; `mask` is False at padding of the context."""
        ...

    def project_kv(self, embedding: ConditionEmbedding) -> ConditionEmbedding:
        """The embedding with its tokens as keys and values of every block, computed once for many evaluations."""
        ...

    def encode(
        self,
        context: Queries,
        values: Float[Tensor, "B N C"],
        mask: Bool[Tensor, "B N"] | None,
        embedding: ConditionEmbedding,
    ) -> Any:
        """Encode the context, independently of the time."""
        ...

    def latents(self, encoded: Any, t: Float[Tensor, " B"], embedding: ConditionEmbedding) -> Any:
        """The latents at time t under a condition: a `Latents` of the module."""
        ...

    def decode(
        self, queries: Queries, values: Float[Tensor, "B M C"], decoder_kv: Any, embedded: Any = None
    ) -> Float[Tensor, "B M C"]:
        """The output at each query, from the latents' keys and values."""
        ...


@runtime_checkable
class NamedParts(Protocol):
    """A network that assigns its children to the parts that a plan lists."""

    PARTS: ClassVar[Mapping[str, str]]
    """The part of each child; several children can belong to one part."""


@runtime_checkable
class RecomputingConfig(Protocol):
    """Settings of a network that can recompute its activations in the backward pass."""

    @property
    def checkpoint_activations(self) -> bool:
        """Whether it recomputes them."""
        ...


@runtime_checkable
class RecomputingNetwork(Protocol):
    """A network that says which activations it recomputes; plans then need no second trace for it."""

    def recomputed_blocks(self) -> Sequence[nn.Module]:
        """Modules, none inside another, whose activations `checkpoint_activations` recomputes: those of each call, by itself."""
        ...


@runtime_checkable
class NetworkPart(Protocol):
    """A network's module."""

    Config: Any
    Latents: Any
    """The class of the latents of an evaluation, (levels, vector), which a saved field stores."""

    def build(self, config: Any, shape: SetSpec, condition: ConditionSpec = ...) -> nn.Module:
        """The network, a `Network`, for sets and conditions of these specs.

        Raises:
            UsageError: the settings do not fit the sets, or each other.
        """
        ...

    def build_decoder(self, config: Any, shape: SetSpec, condition: ConditionSpec = ...) -> nn.Module:
        """The network's decoder alone, a `QueryDecoder`, with initial weights."""
        ...


class TokenShape(NamedTuple):
    """The tokens that describe one function: their number and width."""

    num: int
    width: int


ReadoutState = tuple[Tensor, ...]
"""What a read-out makes of tokens once, for any number of queries; the first axis of each tensor is B."""


class PlainFunction(NamedTuple):
    """One function as tensors and text alone, for readers without inrflow; docs/inrct.md has one for each read-out."""

    tensors: dict[str, Tensor]
    settings: dict[str, str]
    """What a reader needs beside the tensors; `function` is the kind of the read-out."""


@runtime_checkable
class Readout(Protocol):
    """A neural function: a hyper-network writes its tokens, and it is evaluated at each query alone.

    A module. Its weights are shared by all functions.
    """

    config: Any

    @property
    def token_shape(self) -> TokenShape:
        """The tokens that it reads."""
        ...

    def prepare(self, tokens: Float[Tensor, "B L W"]) -> ReadoutState:
        """What queries need of the tokens, such as keys and values, or generated weights."""
        ...

    def plain_function(self, state: ReadoutState, scale: float) -> PlainFunction:
        """The first function of a state, with its values times `scale`."""
        ...

    def query(
        self, state: ReadoutState, queries: Queries, *, seeds: Int64[Tensor, " B"] | None = None
    ) -> Float[Tensor, "B M C"]:
        """The values of B functions at the queries.

        Args:
            seeds: of the sets, in training: they key whatever it draws at random, such as depths along rays. None: nothing
                is random.
        """
        ...


@runtime_checkable
class RadianceReadout(Protocol):
    """A read-out whose functions are scenes: densities and colors in space, rendered along rays."""

    def density_and_color(
        self, state: ReadoutState, points: Float[Tensor, "*B P 3"]
    ) -> tuple[Float[Tensor, "B P"], Float[Tensor, "B P 3"]]:
        """The density (at least 0, per world unit) and the color (in [0, 1]) at points in the world, of every set at once."""
        ...


@runtime_checkable
class Hypernetwork(Protocol):
    """A module that reads the noisy values of a whole set and writes the tokens of its function."""

    config: Any

    def __call__(
        self, context: Queries, values: Float[Tensor, "B N C"], level: Float[Tensor, " B"]
    ) -> Float[Tensor, "B L W"]:
        """The tokens of each set's function.

        Args:
            values: the noisy values, scaled to unit variance.
            level: the level of the noise, as a number of order one.
        """
        ...


@runtime_checkable
class ReadoutPart(Protocol):
    """The module of a read-out."""

    Config: Any

    def build_readout(self, config: Any, spec: SetSpec) -> nn.Module:
        """The `Readout` for sets of this spec.

        Raises:
            UsageError: the settings do not fit the sets, or each other.
        """
        ...


@runtime_checkable
class HypernetworkPart(Protocol):
    """The module of a hyper-network."""

    Config: Any

    def build_hypernetwork(self, config: Any, spec: SetSpec, tokens: TokenShape) -> nn.Module:
        """The `Hypernetwork` that reads sets of this spec and writes such tokens.

        Raises:
            UsageError: the settings do not fit the sets, or each other.
        """
        ...


@runtime_checkable
class Autoencoder(Protocol):
    """A module between the values of whole sets and fields of features, by way of latents on a plane."""

    config: Any
    latent_spec: SetSpec
    """The latents of a set as a set: the plane's grid, and their number in each cell."""

    def encode(self, values: Float[Tensor, "B N C"]) -> tuple[Float[Tensor, "B K E"], Float[Tensor, "B K E"]]:
        """Mean and standard deviation of the latents of whole sets."""
        ...

    def decode(self, latents: Float[Tensor, "B K E"]) -> ReadoutState:
        """The fields, from coarse to fine; the first axis of each is B."""
        ...


@runtime_checkable
class AutoencoderPart(Protocol):
    """The module of an autoencoder."""

    Config: Any

    def field_shapes(self, config: Any, spec: SetSpec) -> Sequence[tuple[int, ...]]:
        """The shape of each field of one set, channels first, from coarse to fine; nothing is built."""
        ...

    def build_autoencoder(self, config: Any, spec: SetSpec) -> nn.Module:
        """The `Autoencoder` of sets of this spec.

        Raises:
            UsageError: the settings do not fit the sets, or each other.
        """
        ...


@runtime_checkable
class FieldReadout(Protocol):
    """A function that reads fields at each query alone; its weights are shared by all functions."""

    config: Any
    """Its settings; `reads_cell_size` says whether the function reads that of the queries."""

    @property
    def last_weight(self) -> Tensor:
        """The weights of its last layer, in which the gradients of losses are compared."""
        ...

    def query(
        self, state: ReadoutState, queries: Queries, *, seeds: Int64[Tensor, " B"] | None = None
    ) -> Float[Tensor, "B M C"]:
        """The values of B functions at the queries."""
        ...


@runtime_checkable
class FieldReadoutPart(Protocol):
    """The module of a function that reads fields."""

    Config: Any

    def build_field_readout(self, config: Any, spec: SetSpec, field_widths: Sequence[int]) -> nn.Module:
        """The `FieldReadout` of sets of this spec, for fields of these widths.

        Raises:
            UsageError: the settings do not fit the sets.
        """
        ...


@runtime_checkable
class Denoiser(Protocol):
    """A module that predicts the velocity of noisy latents."""

    config: Any

    @property
    def vector_width(self) -> int:
        """Size of a condition's vector."""
        ...

    def __call__(
        self, latents: Float[Tensor, "B K E"], t: Float[Tensor, " B"], embedding: ConditionEmbedding
    ) -> Float[Tensor, "B K E"]:
        """The velocity at times t in [0, 1], 1 being noise."""
        ...


@runtime_checkable
class DenoiserPart(Protocol):
    """The module of a denoiser."""

    Config: Any

    def build_denoiser(self, config: Any, spec: SetSpec, condition: ConditionSpec) -> nn.Module:
        """The `Denoiser` of latents of this spec.

        Raises:
            UsageError: the settings do not fit the latents or the condition.
        """
        ...
