"""Frechet inception distance (Heusel et al. 2017, arXiv:1706.08500) on the 2048 pooled features of Inception-v3.

The protocol names how pictures are resized and quantised for the network, by which the value moves by whole units
(Parmar et al. 2022, arXiv:2104.11222); `random` is the distance of fixed random features, for machines without
weights: another scale, comparable to itself alone.
"""

from __future__ import annotations

import numpy as np
from jaxtyping import Float64

from inrflow_core.evidence import Evidence, FeatureNeed
from inrflow_core.metrics import _frechet

TITLE = "FID"
DOMAIN = "image"
PROTOCOLS = ("clean", "torch-fidelity", "adm", "random")
HIGHER_IS_BETTER = False


def unit(protocol: str) -> str:
    """None: a squared distance of features."""
    return ""


def need(protocol: str) -> FeatureNeed:
    """Pooled features of Inception-v3, or the random ones."""
    network, output, form = ("random", "all", "v1") if protocol == "random" else ("inception", "pool", protocol)
    return FeatureNeed(network, output, form, moments_suffice=True)


def compute(evidence: Evidence, protocol: str) -> float:
    """The distance; raises UsageError as `_features.checked`."""
    return _frechet.frechet(evidence)


def left_out(evidence: Evidence, protocol: str, parts: int) -> Float64[np.ndarray, " P"]:
    """The distance without each part."""
    return _frechet.frechet_left_out(evidence, parts)


def note(evidence: Evidence, protocol: str) -> str | None:
    """A warning where there are no more pictures than features."""
    return _frechet.bias_note(evidence)
