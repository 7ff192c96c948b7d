"""FID of held-out images that a model encodes by one call and evaluates again, against these images themselves (rFID).

Autoencoders are compared by it (Rombach et al. 2022, arXiv:2112.10752, table 8). The images are those of `reconstruction_psnr`, the
protocols those of `fid`.
"""

from __future__ import annotations

from collections.abc import Hashable
from dataclasses import dataclass

from inrflow_core.metrics._frechet import PROTOCOLS, compute, jackknife_values, pooled_features, remark, unit
from inrflow_core.metrics._inputs import FeatureSpec, MatchedBy

__all__ = ["PROTOCOLS", "compute", "jackknife_values", "inputs", "remark", "unit"]

TITLE = "reconstruction FID"
DOMAIN = "image"
HIGHER_IS_BETTER = False


@dataclass(frozen=True)
class ReconstructionFeatureSpec(FeatureSpec):
    """Features of reconstructions and of their originals."""

    @property
    def matched_by(self) -> MatchedBy:
        return "reconstruction"

    def key(self) -> Hashable:
        return "features of reconstructions", self.network, self.preprocessing


def inputs(protocol: str) -> ReconstructionFeatureSpec:
    """Pooled features of Inception-v3, or the random ones."""
    return ReconstructionFeatureSpec(*pooled_features(protocol), accepts_stats=True)
