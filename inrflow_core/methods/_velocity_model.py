"""A velocity model: a network, its path, and the conditioner that embeds its condition."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from jaxtyping import Bool, Float
from torch import Tensor

from inrflow_core.numerics.paths import Path
from inrflow_core.sets import Condition, ConditionEmbedding, Queries, SetSpec


@dataclass(frozen=True)
class VelocityModel:
    """A velocity model of sets; fields are sampled from one, and another can guide them.

    `network` encodes a context into latents and decodes queries from them; in a saved field it is a `SavedDecoder`.
    """

    network: Any
    path: Path
    spec: SetSpec
    conditioner: Any = None
    """Embeds conditions for the network; None for models without conditions and saved fields."""

    @property
    def is_guidable(self) -> bool:
        """Whether training dropped the condition at times, so that there is a velocity without condition."""
        return self.conditioner is not None and self.conditioner.dropout > 0

    def networks(self) -> dict[str, Any]:
        """The one network."""
        return {"network": self.network}

    def embed_condition(self, condition: Condition, *, dropped: Bool[Tensor, " B"] | None = None) -> ConditionEmbedding:
        """The embedding of a condition; an empty one of a model without conditions. `dropped` marks unconditional sets."""
        return ConditionEmbedding() if self.conditioner is None else self.conditioner(condition, dropped)

    def null_condition(self, count: int) -> ConditionEmbedding:
        """The embedding of no condition, for `count` sets; only of a model that `is_guidable`."""
        return self.conditioner.null_condition(count)


@dataclass(frozen=True)
class SavedDecoder:
    """The part of a network that a saved field keeps: it decodes queries from stored latents and encodes nothing."""

    decoder: Any
    config: Any
    """The settings of the network that it is a part of."""

    def decoder_kv(self, latents: Any) -> Any:
        """Keys and values of the latents, computed once for many queries."""
        return self.decoder.decoder_kv(latents)

    def embed(self, queries: Queries) -> Any:
        """The embedding of the coordinates; None for points without fixed coordinates."""
        return self.decoder.embed(queries)

    def decode(
        self, queries: Queries, values: Float[Tensor, "B M C"], decoder_kv: Any, embedded: Any = None
    ) -> Float[Tensor, "B M C"]:
        """The velocity at each query."""
        return self.decoder(queries, values, decoder_kv, embedded)
