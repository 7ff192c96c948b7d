"""Clashes: pairs of a sample's heavy atoms that stand in each other's way, per 1000 atoms.

Two atoms clash that are more than four bonds apart and nearer than the sum of their van der Waals radii (C 1.70, N 1.55,
O 1.52, S 1.80) less 0.4 Angstrom; less 0.8 where both are N or O, which may be bridged by a hydrogen. Sources, and what
differs from MolProbity's clashscore: `_steric`. Experimental structures have some too; theirs is said beside.
"""

from __future__ import annotations

from inrflow_core.metrics import _protein_averages
from inrflow_core.metrics._inputs import MetricInputs, StructureSpec
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


def inputs(protocol: str) -> StructureSpec:
    """Samples; residues need not be paired, any pairing will do."""
    return StructureSpec()


def compute(evidence: MetricInputs, protocol: str) -> float:
    """Mean over proteins of the mean over samples; raises UsageError as `_protein_averages.values`."""
    return _protein_averages.average_over_proteins(values(evidence), protocol, higher_is_better=HIGHER_IS_BETTER)


def remark(evidence: MetricInputs, protocol: str) -> str | None:
    """What the references have."""
    return f"of the references: {_protein_averages.reference_value(evidence, per_thousand):.{_protein_averages.DIGITS}g} {unit(protocol)}"


def values(evidence: MetricInputs) -> _protein_averages.Values:
    """Of every sample of every protein."""
    return _protein_averages.values(evidence, "clashes", lambda protein, place: per_thousand(protein.samples[place]))


def per_thousand(structure: Structure) -> float:
    """Of one structure; NaN where no atom is known."""
    atoms = int(structure.is_known.sum())
    return 1000 * len(sterics.clashes(structure)) / atoms if atoms else float("nan")
