"""Clashes: pairs of a sample's heavy atoms that overlap, per 1000 atoms.

Two atoms clash if they are more than four bonds apart and nearer than the sum of their van der Waals radii (C 1.70, N 1.55,
O 1.52, S 1.80) less 0.4 Angstrom; less 0.8 if both are N or O, which may share a hydrogen bond. Sources, and differences
from MolProbity's clashscore: `proteins/sterics.py`. Experimental structures have clashes as well; a remark gives theirs.
"""

from __future__ import annotations

from inrflow_core.metrics import _protein_averages
from inrflow_core.proteins import sterics
from inrflow_core.proteins.structure import Structure

TITLE = "Clashes"
DOMAIN = "protein"
PROTOCOLS = ("heavy",)
HIGHER_IS_BETTER = False
MIN_ITEMS = _protein_averages.MIN_ITEMS


def unit(protocol: str) -> str:
    """Pairs per 1000 atoms."""
    return "/1000 atoms"


def per_thousand(structure: Structure, protocol: str = "heavy") -> float:
    """The value of one structure; NaN if no atom is known."""
    atoms = int(structure.is_known.sum())
    return 1000 * len(sterics.clashes(structure)) / atoms if atoms else float("nan")


_METRIC = _protein_averages.StructureMetric("clashes", per_thousand, "/1000 atoms")
inputs, compute, values, remark = _METRIC.inputs, _METRIC.compute, _METRIC.values, _METRIC.remark
item_values = _METRIC.item_values
