"""The camera of the noise that a scene is drawn from.

The hyper-network of a radiance field reads a view with its rays, and pure noise has none: each scene takes the camera of a
training view, chosen by its seed. INRCT does not say which (section 3.3 and appendix C.2 read a view of the scene). Training records cameras
of its views in the weights' metadata (`Loader.support_cameras`); weights without them have the domain's default camera.
"""

from __future__ import annotations

import hashlib
from collections.abc import Mapping
from typing import Any

import numpy as np
import torch
from jaxtyping import Float32, Int64
from torch import Tensor

from inrflow_core.errors import IntegrityError
from inrflow_core.models import Model
from inrflow_core.numerics import keyed_random

KEY = "support_cameras"
"""The key of the cameras in the metadata of weights: lists of 16 numbers, row by row."""


def support_cameras(model: Model, seeds: Int64[Tensor, " B"]) -> Float32[Tensor, "B 4 4"] | None:
    """The camera that each seed chooses of the recorded ones; None where none are recorded.

    Raises:
        IntegrityError: what is recorded are no cameras.
    """
    recorded = _recorded(model.metadata)
    if recorded is None:
        return None
    numbers = (keyed_random.uniform(seeds.cpu(), purpose="support")[:, 0] * len(recorded)).long()
    return torch.from_numpy(recorded)[numbers].to(seeds.device)


def provenance(model: Model) -> dict[str, str]:
    """The digest of the recorded cameras, of which the seed of a sample chooses one; empty where none are recorded."""
    recorded = _recorded(model.metadata)
    return {} if recorded is None else {KEY: hashlib.sha256(recorded.tobytes()).hexdigest()[:16]}


def _recorded(metadata: Mapping[str, Any]) -> Float32[np.ndarray, "K 4 4"] | None:
    """The cameras in the metadata of weights."""
    numbers = metadata.get(KEY)
    if numbers is None:
        return None
    try:
        with np.errstate(over="ignore"):  # such numbers become infinite
            cameras = np.array(numbers, dtype=np.float32).reshape(-1, 4, 4)
    except (TypeError, ValueError, OverflowError):
        cameras = np.full((0, 4, 4), np.nan, dtype=np.float32)
    if not len(cameras) or not np.isfinite(cameras).all() or not (cameras[:, 3, :2] > 0).all():
        raise IntegrityError(f"the weights' `{KEY}` are no cameras", hint="export the weights again, or train again")
    return cameras
