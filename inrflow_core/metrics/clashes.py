"""Clashes: pairs of a sample's heavy atoms that stand in each other's way, per 1000 atoms.

Two atoms clash that are more than four bonds apart and nearer than the sum of their van der Waals radii (C 1.70, N 1.55,
O 1.52, S 1.80) less 0.4 Angstrom; less 0.8 where both are N or O, which may be bridged by a hydrogen. Sources, and what
differs from MolProbity's clashscore: `_steric`. Experimental structures have some too; theirs is said beside.
"""

from __future__ import annotations

from inrflow_core.evidence import Evidence, StructureNeed
from inrflow_core.metrics import _proteins, _steric
from inrflow_core.structures import Structure

TITLE = "Clashes"
DOMAIN = "protein"
PROTOCOLS = ("heavy",)
HIGHER_IS_BETTER = False
LEAST = _proteins.LEAST


def unit(protocol: str) -> str:
    """Pairs per 1000 atoms."""
    return "/1000 atoms"


def need(protocol: str) -> StructureNeed:
    """Samples; residues need not be paired, any pairing will do."""
    return StructureNeed()


def compute(evidence: Evidence, protocol: str) -> float:
    """Mean over proteins of the mean over samples; raises UsageError as `_proteins.values`."""
    return _proteins.together(values(evidence), protocol, higher_is_better=HIGHER_IS_BETTER)


def note(evidence: Evidence, protocol: str) -> str | None:
    """What the references have."""
    return f"of the references: {_proteins.of_references(evidence, per_thousand):.{_proteins.DIGITS}g} {unit(protocol)}"


def values(evidence: Evidence) -> _proteins.Values:
    """Of every sample of every protein."""
    return _proteins.values(evidence, "clashes", lambda protein, place: per_thousand(protein.samples[place]))


def per_thousand(structure: Structure) -> float:
    """Of one structure; NaN where no atom is known."""
    atoms = int(structure.is_known.sum())
    return 1000 * len(_steric.clashes(structure)) / atoms if atoms else float("nan")
