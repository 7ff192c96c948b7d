"""What a network's file has: settings, a network that encodes a context and decodes queries, and its decoder alone."""

from __future__ import annotations

from typing import Any, Protocol, runtime_checkable

from jaxtyping import Bool, Float
from torch import Tensor, nn

from inrflow_core.sets import ConditionEmbedding, ConditionSpec, Queries, SetSpec


@runtime_checkable
class QueryDecoder(Protocol):
    """A decoder by itself, as a saved field keeps it; it is called with (queries, values, decoder_kv, embedded)."""

    def decoder_kv(self, latents: Any) -> Any:
        """Keys, values and modulations of the latents, computed once for any number of queries."""
        ...

    def embed(self, queries: Queries) -> Float[Tensor, "*B M W"] | None:
        """The embedding of the coordinates alone, which the decoder takes as `embedded`; None where they move."""
        ...


@runtime_checkable
class Network(QueryDecoder, Protocol):
    """The module that `build` returns: context and values become latents, and each query is decoded from them alone."""

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
        told: ConditionEmbedding,
        queries: Queries,
        query_values: Float[Tensor, "B M C"],
        *,
        mask: Bool[Tensor, "B N"] | None = None,
    ) -> Float[Tensor, "B M C"]:
        """The answer at each query; `mask` is False at padding of the context."""
        ...

    def project_kv(self, told: ConditionEmbedding) -> ConditionEmbedding:
        """The embedding with its tokens as keys and values of every block, computed once for many evaluations."""
        ...

    def encode(
        self,
        context: Queries,
        values: Float[Tensor, "B N C"],
        mask: Bool[Tensor, "B N"] | None,
        told: ConditionEmbedding,
    ) -> Any:
        """What the context says, without the time."""
        ...

    def latents(self, encoded: Any, t: Float[Tensor, " B"], told: ConditionEmbedding) -> Any:
        """The latents at a time and under a condition: a `Latents` of the part."""
        ...

    def decode(
        self, queries: Queries, values: Float[Tensor, "B M C"], decoder_kv: Any, embedded: Tensor | None = None
    ) -> Float[Tensor, "B M C"]:
        """The answer at each query, from the latents' keys and values."""
        ...


@runtime_checkable
class NetworkPart(Protocol):
    """A network's module."""

    Config: Any
    Latents: Any
    """The latents of an evaluation, (levels, vector), which a saved field stores."""

    def build(self, config: Any, shape: SetSpec, told: ConditionSpec = ...) -> nn.Module:
        """The network for sets of a spec under a condition of a spec; a `Network`.

        Raises:
            UsageError: the settings do not fit the sets, or each other.
        """
        ...

    def build_decoder(self, config: Any, shape: SetSpec, told: ConditionSpec = ...) -> nn.Module:
        """Its decoder alone, without weights; a `QueryDecoder`."""
        ...
