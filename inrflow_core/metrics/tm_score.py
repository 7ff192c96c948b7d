"""TM-score: how well the C-alphas of a sample can be laid on those of its reference, from 0 to 1; above 0.5 the fold is right.

Zhang and Skolnick 2004, "Scoring function for automated assessment of protein structure template quality"; the best
superposition is searched for as US-align searches it, with residues paired beforehand (its modes 1 and 5; its default is
a structural alignment, which is another quantity). `reference` divides by the reference's residues, `sample` by the
sample's. A pair's scale d0 grows with that length.
"""

from __future__ import annotations

from inrflow_core import residue_pairs, structures
from inrflow_core.evidence import Evidence, Protein, StructureNeed
from inrflow_core.metrics import _proteins

TITLE = "TM-score"
DOMAIN = "protein"
PROTOCOLS = _proteins.protocols(("reference", "sample"), residue_pairs.RULES)
HIGHER_IS_BETTER = True
LEAST = _proteins.LEAST


def unit(protocol: str) -> str:
    """None."""
    return ""


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
    by = protocol.split(":")[0]
    return _proteins.values(evidence, f"tm-score:{by}", lambda protein, place: of_pair(protein, place, by))


def of_pair(protein: Protein, place: int, by: str) -> float:
    """Of one sample; NaN where no C-alpha is known on both sides."""
    mobile, fixed = residue_pairs.c_alphas(protein.samples[place], protein.reference, protein.pairs[place])
    if not len(mobile):
        return float("nan")
    whole = protein.reference if by == "reference" else protein.samples[place]
    return structures.tm_score(mobile, fixed, int(whole.ca_is_known.sum()))[0]
