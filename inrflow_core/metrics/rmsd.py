"""RMSD: root of the mean squared distance of paired atoms after superposition (Kabsch 1976), in Angstrom.

Over every pair, so that one flexible end dominates it: TM-score and lDDT describe a fold better. `ca` compares C-alphas,
`heavy` all heavy atoms but OXT, superposed by those.
"""

from __future__ import annotations

from inrflow_core.metrics import _protein_averages
from inrflow_core.metrics._protein_inputs import Protein
from inrflow_core.proteins import residue_alignment, superposition

TITLE = "RMSD"
DOMAIN = "protein"
PROTOCOLS = _protein_averages.protocols(("ca", "heavy"), residue_alignment.ALIGNMENT_MODES)
HIGHER_IS_BETTER = False
MIN_ITEMS = _protein_averages.MIN_ITEMS
inputs = _protein_averages.inputs


def unit(protocol: str) -> str:
    """Angstrom."""
    return "Å"


def of_pair(protein: Protein, index: int, atoms: str) -> float:
    """The value of one sample; NaN without an atom that is known on both sides."""
    sides = protein.samples[index], protein.reference, protein.pairs[index]
    mobile, fixed = (
        residue_alignment.heavy_atoms(*sides)[:2] if atoms == "heavy" else residue_alignment.c_alphas(*sides)
    )
    return superposition.rmsd(mobile, fixed) if len(mobile) else float("nan")


_METRIC = _protein_averages.PairMetric("rmsd", of_pair, higher_is_better=HIGHER_IS_BETTER)
compute, values, remark = _METRIC.compute, _METRIC.values, _METRIC.remark
item_values = _METRIC.item_values
