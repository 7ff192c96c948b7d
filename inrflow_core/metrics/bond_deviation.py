"""Mean absolute deviation of a sample's backbone bonds from their ideal lengths, in Angstrom.

The bonds are those of `bond_lengths`: `backbone`, or the `ca-spacing` of neighbors. A remark gives the value of the
references; experimental structures are refined towards the same ideal lengths.
"""

from __future__ import annotations

import numpy as np

from inrflow_core.metrics import _protein_averages
from inrflow_core.proteins import sterics
from inrflow_core.proteins.structure import Structure

TITLE = "Bond deviation"
DOMAIN = "protein"
PROTOCOLS = ("backbone", "ca-spacing")
HIGHER_IS_BETTER = False
MIN_ITEMS = _protein_averages.MIN_ITEMS


def unit(protocol: str) -> str:
    """Angstrom."""
    return "Å"


def deviation(structure: Structure, protocol: str) -> float:
    """The value of one structure; NaN without a bond."""
    errors, _ = sterics.errors(structure, protocol)
    return float(np.abs(errors).mean()) if len(errors) else float("nan")


_METRIC = _protein_averages.StructureMetric("bond-deviation", deviation, "Å")
inputs, compute, values, remark = _METRIC.inputs, _METRIC.compute, _METRIC.values, _METRIC.remark
item_values = _METRIC.item_values
