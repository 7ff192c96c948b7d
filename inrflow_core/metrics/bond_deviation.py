"""How far the lengths of a sample's backbone bonds are from ideal: mean absolute difference, in Angstrom.

Of the bonds that `bond_lengths` counts: `backbone`, or the `ca-spacing` of neighbours. The references' own value is said
beside; experimental structures are refined towards the same ideal lengths.
"""

from __future__ import annotations

import numpy as np

from inrflow_core.metrics import _protein_averages
from inrflow_core.metrics._inputs import MetricInputs, StructureSpec
from inrflow_core.proteins import sterics
from inrflow_core.proteins.structure import Structure

TITLE = "Bond deviation"
DOMAIN = "protein"
PROTOCOLS = ("backbone", "ca-spacing")
HIGHER_IS_BETTER = False
MIN_ITEMS = _protein_averages.MIN_ITEMS


def unit(protocol: str) -> str:
    """Angstrom."""
    return "Å"


def inputs(protocol: str) -> StructureSpec:
    """Samples and references; how residues are paired does not matter."""
    return StructureSpec()


def compute(evidence: MetricInputs, protocol: str) -> float:
    """Mean over proteins of the mean over samples; raises UsageError as `_protein_averages.values`."""
    found = _protein_averages.values(
        evidence,
        f"bond-deviation:{protocol}",
        lambda protein, place: deviation(protein.samples[place], protocol),
    )
    return _protein_averages.average_over_proteins(found, protocol, higher_is_better=HIGHER_IS_BETTER)


def remark(evidence: MetricInputs, protocol: str) -> str | None:
    """What the references have."""
    told = _protein_averages.reference_value(evidence, lambda structure: deviation(structure, protocol))
    return f"of the references: {told:.{_protein_averages.DIGITS}g} {unit(protocol)}"


def deviation(structure: Structure, protocol: str) -> float:
    """Of one structure; NaN where it has no bond."""
    errors, _ = sterics.errors(structure, protocol)
    return float(np.abs(errors).mean()) if len(errors) else float("nan")
