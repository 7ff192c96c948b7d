"""lDDT: the share of a protein's inner distances up to 15 Angstrom that a sample preserves, from 0 to 1; no superposition.

Mariani et al. 2013, "lDDT: a local superposition-free score for comparing protein structures and models using distance
difference tests"; all distances between residues pooled, mean over 0.5, 1, 2 and 4 Angstrom, as in Biotite.
`ca` compares C-alphas, `heavy` all heavy atoms but OXT. Equivalent atoms (of ASP, PHE, ...) are matched by name.
Residues and atoms that are missing on one side are not counted.
"""

from __future__ import annotations

from inrflow_core.metrics import _protein_averages
from inrflow_core.metrics._protein_inputs import Protein
from inrflow_core.proteins import residue_alignment, superposition

TITLE = "lDDT"
DOMAIN = "protein"
PROTOCOLS = _protein_averages.protocols(("ca", "heavy"), residue_alignment.ALIGNMENT_MODES)
HIGHER_IS_BETTER = True
MIN_ITEMS = _protein_averages.MIN_ITEMS
inputs = _protein_averages.inputs


def unit(protocol: str) -> str:
    """None: a share."""
    return ""


def of_pair(protein: Protein, index: int, atoms: str) -> float:
    """The value of one sample; NaN without a common distance with its reference."""
    sides = protein.samples[index], protein.reference, protein.pairs[index]
    if atoms == "heavy":
        return superposition.lddt(*residue_alignment.heavy_atoms(*sides))
    return superposition.lddt(*residue_alignment.c_alphas(*sides))


_METRIC = _protein_averages.PairMetric("lddt", of_pair, higher_is_better=HIGHER_IS_BETTER)
compute, values, remark = _METRIC.compute, _METRIC.values, _METRIC.remark
item_values = _METRIC.item_values
