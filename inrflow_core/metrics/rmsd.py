"""RMSD: root of the mean squared distance of paired atoms after superposition (Kabsch 1976), in Angstrom.

Over every pair, so that one loose end decides it: TM-score and lDDT tell more of a fold. `ca` looks at C-alphas, `heavy`
at all heavy atoms but OXT, superposed by those.
"""

from __future__ import annotations

from inrflow_core.metrics import _protein_averages
from inrflow_core.metrics._inputs import MetricInputs, Protein, StructureSpec
from inrflow_core.proteins import residue_alignment, superposition

TITLE = "RMSD"
DOMAIN = "protein"
PROTOCOLS = _protein_averages.protocols(("ca", "heavy"), residue_alignment.ALIGNMENT_MODES)
HIGHER_IS_BETTER = False
MIN_ITEMS = _protein_averages.MIN_ITEMS


def unit(protocol: str) -> str:
    """Angstrom."""
    return "Å"


def inputs(protocol: str) -> StructureSpec:
    """Samples and references, residues paired."""
    return _protein_averages.inputs(protocol)


def compute(evidence: MetricInputs, protocol: str) -> float:
    """Mean over proteins; raises UsageError as `_protein_averages.values`."""
    return _protein_averages.average_over_proteins(
        values(evidence, protocol), protocol, higher_is_better=HIGHER_IS_BETTER
    )


def remark(evidence: MetricInputs, protocol: str) -> str | None:
    """The best of several samples."""
    return _protein_averages.remark(evidence, values(evidence, protocol), protocol, higher_is_better=HIGHER_IS_BETTER)


def values(evidence: MetricInputs, protocol: str) -> _protein_averages.Values:
    """Of every sample of every protein."""
    atoms = protocol.split(":")[0]
    return _protein_averages.values(evidence, f"rmsd:{atoms}", lambda protein, place: of_pair(protein, place, atoms))


def of_pair(protein: Protein, place: int, atoms: str) -> float:
    """Of one sample; NaN where no atom is known on both sides."""
    sides = protein.samples[place], protein.reference, protein.pairs[place]
    mobile, fixed = (
        residue_alignment.heavy_atoms(*sides)[:2] if atoms == "heavy" else residue_alignment.c_alphas(*sides)
    )
    return superposition.rmsd(mobile, fixed) if len(mobile) else float("nan")
