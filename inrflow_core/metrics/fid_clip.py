"""FID-CLIP (Kynkaanniemi et al. 2022, arXiv:2203.06026): the Frechet distance of CLIP's image embeddings.

512 numbers of ViT-B/32, not normalised. The INRFlow paper reports it on FFHQ and LSUN Church.
"""

from __future__ import annotations

from inrflow_core.evidence import FeatureNeed
from inrflow_core.metrics._frechet import compute, left_out, note, unit

__all__ = ["compute", "left_out", "need", "note", "unit"]

TITLE = "FID-CLIP"
DOMAIN = "image"
PROTOCOLS = ("openai",)
HIGHER_IS_BETTER = False


def need(protocol: str) -> FeatureNeed:
    """Image embeddings of CLIP."""
    return FeatureNeed("clip", "embedding", protocol, moments_suffice=True)
