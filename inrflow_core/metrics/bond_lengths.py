"""The share of a sample's backbone bonds with the length of a protein's, whatever the fold.

`backbone` counts N-CA, CA-C and C-N, correct within four standard deviations (0.06 to 0.08 Angstrom) of their ideal
lengths; `ca-spacing` the distance between the C-alphas of neighbors, correct within 0.10 of 3.80 Angstrom. Sources:
`proteins/sterics.py`. A remark gives the value of the references.
"""

from __future__ import annotations

import numpy as np

from inrflow_core.metrics import _protein_averages
from inrflow_core.proteins import sterics
from inrflow_core.proteins.structure import Structure

TITLE = "Bond lengths"
DOMAIN = "protein"
PROTOCOLS = ("backbone", "ca-spacing")
HIGHER_IS_BETTER = True
MIN_ITEMS = _protein_averages.MIN_ITEMS


def unit(protocol: str) -> str:
    """Per cent of the bonds."""
    return "%"


def share(structure: Structure, protocol: str) -> float:
    """The value of one structure; NaN without a bond."""
    errors, limits = sterics.errors(structure, protocol)
    return float(100 * np.mean(np.abs(errors) <= limits)) if len(errors) else float("nan")


_METRIC = _protein_averages.StructureMetric("bond-lengths", share, "%")
inputs, compute, values, remark = _METRIC.inputs, _METRIC.compute, _METRIC.values, _METRIC.remark
item_values = _METRIC.item_values
