"""Whether a sample's backbone has the bonds of a protein, whatever its fold: the share of lengths that are right.

`backbone` looks at N-CA, CA-C and C-N, right within four standard deviations (0.06 to 0.08 Angstrom) of their ideal
lengths; `ca-spacing` at the distance between the C-alphas of neighbours, right at 3.80 Angstrom within 0.10. Sources:
`proteins/sterics.py`. The references' own value is said beside.
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
    """Of one structure; NaN where it has no bond."""
    errors, limits = sterics.errors(structure, protocol)
    return float(100 * np.mean(np.abs(errors) <= limits)) if len(errors) else float("nan")


_METRIC = _protein_averages.StructureMetric("bond-lengths", share, "%")
inputs, compute, values, remark = _METRIC.inputs, _METRIC.compute, _METRIC.values, _METRIC.remark
