"""FID-CLIP (Kynkaanniemi et al. 2022, arXiv:2203.06026): the Frechet distance of CLIP's image embeddings.

512 numbers of ViT-B/32, not normalized. The INRFlow paper reports it on FFHQ and LSUN Church; `inrflow` resizes images as
its authors' release does, whose 8-bit cast wraps values that overshoot (`feature_networks/clip.py`).
"""

from __future__ import annotations

from inrflow_core.metrics._frechet import compute, jackknife_values, remark, unit
from inrflow_core.metrics._inputs import FeatureSpec

__all__ = ["compute", "jackknife_values", "inputs", "remark", "unit"]

TITLE = "FID-CLIP"
DOMAIN = "image"
PROTOCOLS = ("openai", "inrflow")
HIGHER_IS_BETTER = False


def inputs(protocol: str) -> FeatureSpec:
    """Image embeddings of CLIP."""
    return FeatureSpec("clip", "embedding", protocol, accepts_stats=True)
