"""Spatial FID (Nash et al. 2021, arXiv:2103.03841): the Frechet distance of the first 7 channels of a middle layer.

7 x 17 x 17 = 2023 numbers that know where in the picture they were taken, where pooled ones do not.
"""

from __future__ import annotations

import numpy as np
from jaxtyping import Float64

from inrflow_core.evidence import Evidence, FeatureNeed
from inrflow_core.metrics import _frechet

TITLE = "sFID"
DOMAIN = "image"
PROTOCOLS = ("adm", "torch-fidelity")
HIGHER_IS_BETTER = False


def unit(protocol: str) -> str:
    """None: a squared distance of features."""
    return ""


def need(protocol: str) -> FeatureNeed:
    """Spatial features of Inception-v3."""
    return FeatureNeed("inception", "spatial", protocol, moments_suffice=True)


def compute(evidence: Evidence, protocol: str) -> float:
    """The distance; raises UsageError as `_features.checked`."""
    return _frechet.frechet(evidence)


def left_out(evidence: Evidence, protocol: str, parts: int) -> Float64[np.ndarray, " P"]:
    """The distance without each part."""
    return _frechet.frechet_left_out(evidence, parts)


def note(evidence: Evidence, protocol: str) -> str | None:
    """A warning where there are no more pictures than features."""
    return _frechet.bias_note(evidence)
