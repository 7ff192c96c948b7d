"""TM-score: how well a sample's C-alphas superpose on its reference's, from 0 to 1; above 0.5 the fold is correct.

Zhang and Skolnick 2004, "Scoring function for automated assessment of protein structure template quality"; the best
superposition is searched for as in US-align, with residues aligned beforehand (its modes 1 and 5; its default is a
structural alignment, another quantity). `reference` divides by the reference's residues, `sample` by the
sample's. A pair's scale d0 grows with that length.
"""

from __future__ import annotations

from inrflow_core.metrics import _protein_averages
from inrflow_core.metrics._protein_inputs import Protein
from inrflow_core.proteins import residue_alignment, superposition

TITLE = "TM-score"
DOMAIN = "protein"
PROTOCOLS = _protein_averages.protocols(("reference", "sample"), residue_alignment.ALIGNMENT_MODES)
HIGHER_IS_BETTER = True
MIN_ITEMS = _protein_averages.MIN_ITEMS
inputs = _protein_averages.inputs


def unit(protocol: str) -> str:
    """None."""
    return ""


def of_pair(protein: Protein, index: int, by: str) -> float:
    """The value of one sample; NaN without a C-alpha that is known on both sides."""
    mobile, fixed = residue_alignment.c_alphas(protein.samples[index], protein.reference, protein.pairs[index])
    if not len(mobile):
        return float("nan")
    whole = protein.reference if by == "reference" else protein.samples[index]
    return superposition.tm_score(mobile, fixed, int(whole.ca_is_known.sum()))[0]


_METRIC = _protein_averages.PairMetric("tm-score", of_pair, higher_is_better=HIGHER_IS_BETTER)
compute, values, remark = _METRIC.compute, _METRIC.values, _METRIC.remark
item_values = _METRIC.item_values
