"""TM-score: how well the C-alphas of a sample can be laid on those of its reference, from 0 to 1; above 0.5 the fold is right.

Zhang and Skolnick 2004, "Scoring function for automated assessment of protein structure template quality"; the best
superposition is searched for as US-align searches it, with residues paired beforehand (its modes 1 and 5; its default is
a structural alignment, which is another quantity). `reference` divides by the reference's residues, `sample` by the
sample's. A pair's scale d0 grows with that length.
"""

from __future__ import annotations

from inrflow_core.metrics import _protein_averages
from inrflow_core.metrics._inputs import MetricInputs, Protein, StructureSpec
from inrflow_core.proteins import residue_alignment, superposition

TITLE = "TM-score"
DOMAIN = "protein"
PROTOCOLS = _protein_averages.protocols(("reference", "sample"), residue_alignment.ALIGNMENT_MODES)
HIGHER_IS_BETTER = True
MIN_ITEMS = _protein_averages.MIN_ITEMS


def unit(protocol: str) -> str:
    """None."""
    return ""


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
    by = protocol.split(":")[0]
    return _protein_averages.values(evidence, f"tm-score:{by}", lambda protein, place: of_pair(protein, place, by))


def of_pair(protein: Protein, place: int, by: str) -> float:
    """Of one sample; NaN where no C-alpha is known on both sides."""
    mobile, fixed = residue_alignment.c_alphas(protein.samples[place], protein.reference, protein.pairs[place])
    if not len(mobile):
        return float("nan")
    whole = protein.reference if by == "reference" else protein.samples[place]
    return superposition.tm_score(mobile, fixed, int(whole.ca_is_known.sum()))[0]
