"""How far the lengths of a sample's backbone bonds are from ideal: mean absolute difference, in Angstrom.

Of the bonds that `bond_lengths` counts: `backbone`, or the `ca-spacing` of neighbours. The references' own value is said
beside; experimental structures are refined towards the same ideal lengths.
"""

from __future__ import annotations

import numpy as np

from inrflow_core.evidence import Evidence, StructureNeed
from inrflow_core.metrics import _proteins, _steric
from inrflow_core.structures import Structure

TITLE = "Bond deviation"
DOMAIN = "protein"
PROTOCOLS = ("backbone", "ca-spacing")
HIGHER_IS_BETTER = False
LEAST = _proteins.LEAST


def unit(protocol: str) -> str:
    """Angstrom."""
    return "Å"


def need(protocol: str) -> StructureNeed:
    """Samples and references; how residues are paired does not matter."""
    return StructureNeed()


def compute(evidence: Evidence, protocol: str) -> float:
    """Mean over proteins of the mean over samples; raises UsageError as `_proteins.values`."""
    found = _proteins.values(
        evidence,
        f"bond-deviation:{protocol}",
        lambda protein, place: deviation(protein.samples[place], protocol),
    )
    return _proteins.together(found, protocol, higher_is_better=HIGHER_IS_BETTER)


def note(evidence: Evidence, protocol: str) -> str | None:
    """What the references have."""
    told = _proteins.of_references(evidence, lambda structure: deviation(structure, protocol))
    return f"of the references: {told:.{_proteins.DIGITS}g} {unit(protocol)}"


def deviation(structure: Structure, protocol: str) -> float:
    """Of one structure; NaN where it has no bond."""
    errors, _ = _steric.errors(structure, protocol)
    return float(np.abs(errors).mean()) if len(errors) else float("nan")
