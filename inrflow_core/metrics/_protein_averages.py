"""What the metrics of proteins share: each sample is judged, the samples of a protein are brought together, then the proteins."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from itertools import product

import numpy as np
from jaxtyping import Float64

from inrflow_core.errors import UsageError
from inrflow_core.metrics._inputs import MetricInputs, Protein, Structures, StructureSpec
from inrflow_core.proteins.structure import Structure

TOGETHER = ("mean", "best")
"""What becomes of several samples of one protein."""
MIN_ITEMS = 1
DIGITS = 4

Values = Sequence[Float64[np.ndarray, " _"]]
"""Of every protein: those of its samples."""


def protocols(*words: Sequence[str]) -> tuple[str, ...]:
    """Every choice of one word of each, the first ones first; the last word is `mean` or `best`."""
    return tuple(":".join(chosen) for chosen in product(*words, TOGETHER))


def inputs(protocol: str) -> StructureSpec:
    """Structures, their residues paired as the last word but one says."""
    return StructureSpec(protocol.split(":")[-2])


def values(evidence: MetricInputs, name: str, of_sample: Callable[[Protein, int], float]) -> Values:
    """What is measured of every sample of every protein, once; a sample is a protein's of that place.

    Raises:
        UsageError: there is no protein, or a sample shares too little with its reference to be measured.
    """
    assert isinstance(evidence, Structures)
    if not evidence.proteins:
        raise UsageError("there are no proteins to judge", hint="give predictions and references of the same names")
    found = evidence.each(
        name, lambda protein: np.array([of_sample(protein, place) for place in range(len(protein.samples))])
    )
    for protein, measured in zip(evidence.proteins, found, strict=True):
        if not np.isfinite(measured).all():
            worst = protein.samples[int(np.flatnonzero(~np.isfinite(measured))[0])]
            raise UsageError(
                f"too few atoms of `{worst.name}`, or of its reference, are known for this",
                hint="leave it out, or compare structures of one protein",
            )
    return found


def average_over_proteins(found: Values, protocol: str, *, higher_is_better: bool) -> float:
    """Mean over proteins of the mean, or of the best, of each protein's samples."""
    best = np.max if higher_is_better else np.min
    return float(np.mean([best(each) if protocol.endswith(":best") else each.mean() for each in found]))


def remark(evidence: MetricInputs, found: Values, protocol: str, *, higher_is_better: bool) -> str | None:
    """The best of several samples beside their mean, and what the evidence has to say."""
    assert isinstance(evidence, Structures)
    notes = [evidence.note]
    counts = sorted({len(each) for each in found})
    if counts[-1] > 1:
        other = protocol.rpartition(":")[0] + (":mean" if protocol.endswith(":best") else ":best")
        told = f"{average_over_proteins(found, other, higher_is_better=higher_is_better):.{DIGITS}g}"
        spelled = f"{counts[0]} to {counts[-1]}" if len(counts) > 1 else f"{counts[0]}"
        what = "mean of" if other.endswith(":mean") else "best of"
        notes.insert(0, f"{what} {spelled} samples of each protein: {told}")
    return "; ".join(part for part in notes if part) or None


def reference_value(evidence: MetricInputs, measure: Callable[[Structure], float]) -> float:
    """Mean over the references of what is measured of each: what experiment has, or the data."""
    assert isinstance(evidence, Structures)
    measured = np.array([measure(protein.reference) for protein in evidence.proteins])
    return float(np.nanmean(measured)) if np.isfinite(measured).any() else float("nan")
