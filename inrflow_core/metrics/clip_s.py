"""CLIP-S: how similar rendered views of a mesh are to the text that it was drawn under, by CLIP's embeddings.

100 times the cosine of the embeddings of a view and of the text, over 8 views of each mesh the mean, or the largest, then the mean
over meshes. The networks are those of ViT-B/32. An empty mesh has 0.

DDMI (arXiv:2401.12517, table 7) has a CLIP-S of 30.30, and names neither views nor the network.
"""

from __future__ import annotations

import numpy as np
from jaxtyping import Float64

from inrflow_core.metrics._shape_inputs import ItemValues
from inrflow_core.metrics._text_inputs import RenderedTextSpec

TITLE = "CLIP-S"
DOMAIN = "shape"
PROTOCOLS = tuple(f"vit-b32:8-views:elevation-20:fov-30:{over}" for over in ("mean", "max"))
HIGHER_IS_BETTER = True
MIN_ITEMS = 1
BOUNDS = (-100.0, 100.0)


def unit(protocol: str) -> str:
    """None: 100 times a cosine."""
    return ""


def inputs(protocol: str) -> RenderedTextSpec:
    """Views of the meshes at the preset's grid, and their texts."""
    _, views, elevation, _, over = protocol.split(":")
    return RenderedTextSpec(over, views=int(views.split("-")[0]), elevation=float(elevation.split("-")[1]))


def compute(inputs: ItemValues, protocol: str) -> float:
    """The mean over meshes."""
    return 100 * inputs.mean(_over(protocol))


def jackknife_values(inputs: ItemValues, protocol: str, parts: int) -> Float64[np.ndarray, " P"]:
    """The mean without each group of meshes, at the cost of one."""
    return 100 * inputs.means_without_each(_over(protocol), parts)


def remark(inputs: ItemValues, protocol: str) -> str | None:
    """How many meshes are empty, and so have 0."""
    count = int((inputs.values["components"] == 0).sum())
    return f"{count:,} of {len(inputs.names):,} meshes are empty, and have 0" if count else None


def _over(protocol: str) -> str:
    return inputs(protocol).measure
