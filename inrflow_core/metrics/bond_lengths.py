"""Whether a sample's backbone has the bonds of a protein, whatever its fold: the share of lengths that are right.

`backbone` looks at N-CA, CA-C and C-N, right within four standard deviations (0.06 to 0.08 Angstrom) of their ideal
lengths; `ca-spacing` at the distance between the C-alphas of neighbours, right at 3.80 Angstrom within 0.10. Sources:
`_steric`. The references' own value is said beside.
"""

from __future__ import annotations

import numpy as np

from inrflow_core.evidence import Evidence, StructureNeed
from inrflow_core.metrics import _proteins, _steric
from inrflow_core.structures import Structure

TITLE = "Bond lengths"
DOMAIN = "protein"
PROTOCOLS = ("backbone", "ca-spacing")
HIGHER_IS_BETTER = True
LEAST = _proteins.LEAST


def unit(protocol: str) -> str:
    """Per cent of the bonds."""
    return "%"


def need(protocol: str) -> StructureNeed:
    """Samples and references; how residues are paired does not matter."""
    return StructureNeed()


def compute(evidence: Evidence, protocol: str) -> float:
    """Mean over proteins of the mean over samples; raises UsageError as `_proteins.values`."""
    found = _proteins.values(
        evidence,
        f"bond-lengths:{protocol}",
        lambda protein, place: share(protein.samples[place], protocol),
    )
    return _proteins.together(found, protocol, higher_is_better=HIGHER_IS_BETTER)


def note(evidence: Evidence, protocol: str) -> str | None:
    """What the references have."""
    told = _proteins.of_references(evidence, lambda structure: share(structure, protocol))
    return f"of the references: {told:.{_proteins.DIGITS}g} {unit(protocol)}"


def share(structure: Structure, protocol: str) -> float:
    """Of one structure; NaN where it has no bond."""
    errors, limits = _steric.errors(structure, protocol)
    return float(100 * np.mean(np.abs(errors) <= limits)) if len(errors) else float("nan")
