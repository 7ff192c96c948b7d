"""lDDT: the share of a protein's inner distances up to 15 Angstrom that a sample keeps, from 0 to 1; no superposition.

Mariani et al. 2013, "lDDT: a local superposition-free score for comparing protein structures and models using distance
difference tests"; all distances between residues pooled, mean over 0.5, 1, 2 and 4 Angstrom, as Biotite takes it.
`ca` looks at C-alphas, `heavy` at all heavy atoms but OXT. Atoms that look alike (of ASP, PHE, ...) go by their names.
Residues and atoms that one side lacks are not counted.
"""

from __future__ import annotations

from inrflow_core import residue_pairs, structures
from inrflow_core.evidence import Evidence, Protein, StructureNeed
from inrflow_core.metrics import _proteins

TITLE = "lDDT"
DOMAIN = "protein"
PROTOCOLS = _proteins.protocols(("ca", "heavy"), residue_pairs.RULES)
HIGHER_IS_BETTER = True
LEAST = _proteins.LEAST


def unit(protocol: str) -> str:
    """None: a share."""
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
    atoms = protocol.split(":")[0]
    return _proteins.values(evidence, f"lddt:{atoms}", lambda protein, place: of_pair(protein, place, atoms))


def of_pair(protein: Protein, place: int, atoms: str) -> float:
    """Of one sample; NaN where it shares no distance with its reference."""
    sides = protein.samples[place], protein.reference, protein.pairs[place]
    if atoms == "heavy":
        return structures.lddt(*residue_pairs.heavy_atoms(*sides))
    return structures.lddt(*residue_pairs.c_alphas(*sides))
