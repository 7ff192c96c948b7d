"""The contract of a network's file: settings, a network that encodes a context and decodes queries, and its decoder."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, ClassVar, Protocol, runtime_checkable

from jaxtyping import Bool, Float
from torch import Tensor, nn

from inrflow_core.sets import ConditionEmbedding, ConditionSpec, Queries, SetSpec


@runtime_checkable
class QueryDecoder(Protocol):
    """A decoder without its network, as in a saved field; called with (queries, values, decoder_kv, embedded)."""

    def decoder_kv(self, latents: Any) -> Any:
        """Keys, values and modulations of the latents, computed once for any number of queries."""
        ...

    def embed(self, queries: Queries) -> Float[Tensor, "*B M W"] | None:
        """The embedding of the coordinates (the decoder's `embedded`); None for points without fixed coordinates."""
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
        self, queries: Queries, values: Float[Tensor, "B M C"], decoder_kv: Any, embedded: Tensor | None = None
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
