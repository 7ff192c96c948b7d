"""FID-CLIP (Kynkaanniemi et al. 2022, arXiv:2203.06026): the Frechet distance of CLIP's image embeddings.

512 numbers of ViT-B/32, not normalised. The INRFlow paper reports it on FFHQ and LSUN Church.
"""

from __future__ import annotations

import numpy as np
from jaxtyping import Float64

from inrflow_core.evidence import Evidence, FeatureNeed
from inrflow_core.metrics import _frechet

TITLE = "FID-CLIP"
DOMAIN = "image"
PROTOCOLS = ("openai",)
HIGHER_IS_BETTER = False


def unit(protocol: str) -> str:
    """None: a squared distance of features."""
    return ""


def need(protocol: str) -> FeatureNeed:
    """Image embeddings of CLIP."""
    return FeatureNeed("clip", "embedding", protocol, moments_suffice=True)


def compute(evidence: Evidence, protocol: str) -> float:
    """The distance; raises UsageError as `_features.checked`."""
    return _frechet.frechet(evidence)


def left_out(evidence: Evidence, protocol: str, parts: int) -> Float64[np.ndarray, " P"]:
    """The distance without each part."""
    return _frechet.frechet_left_out(evidence, parts)


def note(evidence: Evidence, protocol: str) -> str | None:
    """A warning where there are no more pictures than features."""
    return _frechet.bias_note(evidence)
