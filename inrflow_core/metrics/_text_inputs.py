"""Inputs of the metrics that compare drawn meshes with their texts: rendered views and the text in one space of embeddings.

A collection of meshes has, as conditions beside the facts of each, `renders` (V H W 3) from cameras at equal steps around it, on
white, and its `text`.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from jaxtyping import Float, Float64

from inrflow_core.metrics._inputs import Cost, CostTimer, FeatureSpec, GatherContext, Items, ReferenceStats
from inrflow_core.metrics._shape_inputs import MeshSpec
from inrflow_core.shards.batch import Batch

OVER_VIEWS = {"mean": np.mean, "max": np.max}
"""How the similarities of the views of a mesh become one number."""


@dataclass(frozen=True)
class RenderedTextSpec(MeshSpec):
    """The cosine of embeddings of rendered views of each mesh and of its text; `measure` is one of `OVER_VIEWS`."""

    condition: str = "text"
    """What the samples must be conditioned on."""
    views: int = 8
    elevation: float = 20.0
    """Of the cameras, in degrees above the ground."""
    side: int = 224
    """Of a view, in pixels."""
    images: FeatureSpec = FeatureSpec("clip", "embedding", "openai", needs_reference=False)
    texts: FeatureSpec = FeatureSpec("clip-text-b32", "embedding", "openai", needs_reference=False)

    @property
    def features(self) -> tuple[FeatureSpec, ...]:
        return self.images, self.texts

    def check(self, reference: Items | ReferenceStats, metric: str, context: GatherContext[Any]) -> None:
        """Raise MissingError or IntegrityError unless the text encoder and its tokenizer can be loaded, before anything is drawn."""
        super().check(reference, metric, context)
        context.extractor(self.texts.network)

    def measured(self, batch: Batch, context: GatherContext[Any]) -> dict[str, list[float]]:
        """The mean and the largest cosine over the views of each mesh, in [-1, 1]; 0 of an empty mesh."""
        renders, texts = batch.condition["renders"], [str(text) for text in batch.condition["text"]]
        shown = _embedded(context, self.images, renders.reshape(-1, *renders.shape[2:]))
        described = _embedded(context, self.texts, texts)
        similarities = view_similarities(shown.reshape(*renders.shape[:2], -1), described)
        similarities[~batch.values.any(axis=(1, 2))] = 0
        return {name: reduce(similarities, axis=1).tolist() for name, reduce in OVER_VIEWS.items()}

    def estimate(self, num_samples: int, num_points: int | None, timer: CostTimer[Any]) -> list[Cost]:
        return [timer.features(self.images, num_samples * self.views)]


def view_similarities(views: Float[np.ndarray, "N V F"], texts: Float[np.ndarray, "N F"]) -> Float64[np.ndarray, "N V"]:
    """The cosine of the angle between each view's embedding and that of its text."""
    first, second = views.astype(np.float64), texts.astype(np.float64)[:, None]
    lengths = np.linalg.norm(first, axis=2) * np.linalg.norm(second, axis=2)
    return (first * second).sum(2) / lengths


def _embedded(context: GatherContext[Any], spec: FeatureSpec, items: Any | Sequence[str]) -> Float[np.ndarray, "N F"]:
    return context.extractor(spec.network)(items, (spec.output,), spec.preprocessing)[spec.output].numpy()
