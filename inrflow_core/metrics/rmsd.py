"""RMSD: root of the mean squared distance of paired atoms after superposition (Kabsch 1976), in Angstrom.

Over every pair, so that one loose end decides it: TM-score and lDDT tell more of a fold. `ca` looks at C-alphas, `heavy`
at all heavy atoms but OXT, superposed by those.
"""

from __future__ import annotations

from inrflow_core import residue_pairs, structures
from inrflow_core.evidence import Evidence, Protein, StructureNeed
from inrflow_core.metrics import _proteins

TITLE = "RMSD"
DOMAIN = "protein"
PROTOCOLS = _proteins.protocols(("ca", "heavy"), residue_pairs.RULES)
HIGHER_IS_BETTER = False
LEAST = _proteins.LEAST


def unit(protocol: str) -> str:
    """Angstrom."""
    return "Å"


def need(protocol: str) -> StructureNeed:
    """Samples and references, residues paired."""
    return _proteins.need(protocol)


def compute(evidence: Evidence, protocol: str) -> float:
    """Mean over proteins; raises UsageError as `_proteins.values`."""
    return _proteins.together(values(evidence, protocol), protocol, higher_is_better=HIGHER_IS_BETTER)


def note(evidence: Evidence, protocol: str) -> str | None:
    """The best of several samples."""
    return _proteins.note(evidence, values(evidence, protocol), protocol, higher_is_better=HIGHER_IS_BETTER)


def values(evidence: Evidence, protocol: str) -> _proteins.Values:
    """Of every sample of every protein."""
    atoms = protocol.split(":")[0]
    return _proteins.values(evidence, f"rmsd:{atoms}", lambda protein, place: of_pair(protein, place, atoms))


def of_pair(protein: Protein, place: int, atoms: str) -> float:
    """Of one sample; NaN where no atom is known on both sides."""
    sides = protein.samples[place], protein.reference, protein.pairs[place]
    mobile, fixed = residue_pairs.heavy_atoms(*sides)[:2] if atoms == "heavy" else residue_pairs.c_alphas(*sides)
    return structures.rmsd(mobile, fixed) if len(mobile) else float("nan")
