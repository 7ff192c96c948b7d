"""ULIP-I: the similarity of a cloud and its condition image in the embedding space of ULIP-2.

The cosine of ULIP-2's embedding of the cloud (10,000 points) and CLIP ViT-bigG/14's of the image, mean over samples.
The best value is below 1: a remark gives that of the objects' own clouds with the same images.

The INRFlow paper (section 4.2) names CLIP and not its size; ULIP-2 shares its space with this one alone. It generates no
colors, and does not say which ones ULIP-2's network gets: `gray` uses gray on both sides.

Source: Xue et al. 2024, arXiv:2305.08275; Zhang et al. 2024 (CLAY), arXiv:2406.13897.
"""

from __future__ import annotations

import numpy as np
from jaxtyping import Float32, Float64

from inrflow_core.errors import UsageError
from inrflow_core.metrics._image_pairs import means_without_each
from inrflow_core.metrics._inputs import FeatureSpec, by_name
from inrflow_core.metrics._matched_inputs import MatchedFeatureSpec, Matches

TITLE = "ULIP-I"
DOMAIN = "points"
PROTOCOLS = ("gray", "color")
HIGHER_IS_BETTER = True
MIN_ITEMS = 1


def unit(protocol: str) -> str:
    """None: a cosine, from -1 to 1."""
    return ""


def inputs(protocol: str) -> MatchedFeatureSpec:
    """Embeddings of clouds by ULIP-2 and of images by its CLIP."""
    return MatchedFeatureSpec(
        FeatureSpec("ulip2", "embedding", protocol), FeatureSpec("clip-bigg", "embedding", "openai")
    )


def compute(inputs: Matches, protocol: str) -> float:
    """The mean cosine of samples and their images.

    Raises:
        UsageError: there are no samples, or embeddings are not finite or 0.
    """
    matches = checked(inputs)
    return float(cosines(matches.samples, matches.images).mean())


def item_values(inputs: Matches, protocol: str) -> dict[str, float]:
    """Of each sample by its name; raises as `compute`."""
    matches = checked(inputs)
    return by_name(matches.names, cosines(matches.samples, matches.images))


def jackknife_values(inputs: Matches, protocol: str, parts: int) -> Float64[np.ndarray, " P"]:
    """The mean without each group, at the cost of one."""
    matches = checked(inputs)
    return means_without_each(cosines(matches.samples, matches.images), parts)


def remark(inputs: Matches, protocol: str) -> str | None:
    """The mean cosine of the objects' own clouds and their images."""
    matches = checked(inputs)
    return f"ground truth {cosines(matches.reference, matches.images).mean():.4f}: the objects' own clouds, same images"


def checked(inputs: Matches) -> Matches:
    """The same inputs; raises as `compute`."""
    if not len(inputs.samples):
        raise UsageError("there are no samples", hint="give one at least")
    for rows, what in (
        (inputs.samples, "samples"),
        (inputs.reference, "references"),
        (inputs.images, "images"),
    ):
        if not np.isfinite(rows).all() or not np.abs(rows).max(1).all():
            raise UsageError(
                f"embeddings of the {what} are not finite, or 0", hint="look for NaN or infinite values in the items"
            )
    return inputs


def cosines(a: Float32[np.ndarray, "N F"], b: Float32[np.ndarray, "N F"]) -> Float64[np.ndarray, " N"]:
    """The cosine of the angle of each pair of rows."""
    first, second = (rows.astype(np.float64) for rows in (a, b))
    return np.sum(first * second, axis=1) / (np.linalg.norm(first, axis=1) * np.linalg.norm(second, axis=1))
