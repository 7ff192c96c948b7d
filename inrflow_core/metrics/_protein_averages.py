"""Metrics of proteins: a value of each sample, averaged over the samples of a protein, then over proteins.

`PairMetric` compares a sample with its reference, `StructureMetric` measures the sample alone; a metric's file builds one
of them from its own function.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from itertools import product

import numpy as np
from jaxtyping import Float64

from inrflow_core.errors import UsageError
from inrflow_core.metrics._inputs import by_name
from inrflow_core.metrics._protein_inputs import Protein, Structures, StructureSpec
from inrflow_core.proteins.structure import Structure

SEVERAL = ("mean", "best")
"""How several samples of one protein are combined."""
MIN_ITEMS = 1
DIGITS = 4

Values = Sequence[Float64[np.ndarray, " _"]]
"""For every protein the values of its samples."""


def protocols(*words: Sequence[str]) -> tuple[str, ...]:
    """All combinations of one word of each, in order; the last word is `mean` or `best`."""
    return tuple(":".join(combination) for combination in product(*words, SEVERAL))


def inputs(protocol: str) -> StructureSpec:
    """Structures, with residues aligned by the last word but one."""
    return StructureSpec(protocol.split(":")[-2])


@dataclass(frozen=True)
class PairMetric:
    """A metric that compares each sample with its reference; protocols are WORD:ALIGNMENT:mean|best."""

    name: str
    of_pair: Callable[[Protein, int, str], float]
    """Called with a protein, a sample's index and the protocol's first word; NaN if nothing can be compared."""
    higher_is_better: bool

    def values(self, inputs: Structures, protocol: str) -> Values:
        """Of every sample of every protein; raises UsageError as `values`."""
        word = protocol.split(":")[0]
        return values(inputs, f"{self.name}:{word}", lambda protein, index: self.of_pair(protein, index, word))

    def compute(self, inputs: Structures, protocol: str) -> float:
        """Mean over proteins; raises UsageError as `values`."""
        scores = self.values(inputs, protocol)
        return average_over_proteins(scores, protocol, higher_is_better=self.higher_is_better)

    def item_values(self, inputs: Structures, protocol: str) -> dict[str, float]:
        """Of each protein by its name, the mean or the best of its samples; raises UsageError as `values`."""
        means = means_of_proteins(self.values(inputs, protocol), protocol, higher_is_better=self.higher_is_better)
        return by_name([protein.name for protein in inputs.proteins], means)

    def remark(self, inputs: Structures, protocol: str) -> str | None:
        """The best of several samples beside their mean."""
        scores = self.values(inputs, protocol)
        return remark(inputs, scores, protocol, higher_is_better=self.higher_is_better)


@dataclass(frozen=True)
class StructureMetric:
    """A metric of each sample alone, whatever its reference."""

    name: str
    of_structure: Callable[[Structure, str], float]
    """Called with a structure and the protocol; NaN if nothing can be measured."""
    unit: str

    def inputs(self, protocol: str) -> StructureSpec:
        """Samples and references; how residues are aligned does not matter."""
        return StructureSpec()

    def values(self, inputs: Structures, protocol: str) -> Values:
        """Of every sample of every protein; raises UsageError as `values`."""
        return values(
            inputs,
            f"{self.name}:{protocol}",
            lambda protein, index: self.of_structure(protein.samples[index], protocol),
        )

    def compute(self, inputs: Structures, protocol: str) -> float:
        """Mean over proteins of the mean over samples; raises UsageError as `values`."""
        return float(np.mean([each.mean() for each in self.values(inputs, protocol)]))

    def item_values(self, inputs: Structures, protocol: str) -> dict[str, float]:
        """Of each protein by its name, the mean over its samples; raises UsageError as `values`."""
        means = np.array([each.mean() for each in self.values(inputs, protocol)])
        return by_name([protein.name for protein in inputs.proteins], means)

    def remark(self, inputs: Structures, protocol: str) -> str | None:
        """The value of the references."""
        value = reference_value(inputs, lambda structure: self.of_structure(structure, protocol))
        return f"of the references: {value:.{DIGITS}g} {self.unit}"


def values(inputs: Structures, name: str, of_sample: Callable[[Protein, int], float]) -> Values:
    """The measure of every sample of every protein, computed once; `of_sample` gets a protein and a sample's index.

    Raises:
        UsageError: there are no proteins, or a sample has too little in common with its reference.
    """
    if not inputs.proteins:
        raise UsageError("there are no proteins to evaluate", hint="give predictions and references of the same names")
    scores = inputs.each(
        name, lambda protein: np.array([of_sample(protein, index) for index in range(len(protein.samples))])
    )
    for protein, measured in zip(inputs.proteins, scores, strict=True):
        if not np.isfinite(measured).all():
            worst = protein.samples[int(np.flatnonzero(~np.isfinite(measured))[0])]
            raise UsageError(
                f"too few atoms of `{worst.name}`, or of its reference, are known for this metric",
                hint="leave it out, or compare structures of one protein",
            )
    return scores


def average_over_proteins(scores: Values, protocol: str, *, higher_is_better: bool) -> float:
    """Mean over proteins of the mean, or of the best, of each protein's samples."""
    return float(means_of_proteins(scores, protocol, higher_is_better=higher_is_better).mean())


def means_of_proteins(scores: Values, protocol: str, *, higher_is_better: bool) -> Float64[np.ndarray, " N"]:
    """Of each protein the mean, or the best, of its samples."""
    best = np.max if higher_is_better else np.min
    return np.array([best(each) if protocol.endswith(":best") else each.mean() for each in scores])


def remark(inputs: Structures, scores: Values, protocol: str, *, higher_is_better: bool) -> str | None:
    """The best of several samples beside their mean, and the remark of the inputs."""
    notes = [inputs.note]
    counts = sorted({len(each) for each in scores})
    if counts[-1] > 1:
        other = protocol.rpartition(":")[0] + (":mean" if protocol.endswith(":best") else ":best")
        value = f"{average_over_proteins(scores, other, higher_is_better=higher_is_better):.{DIGITS}g}"
        count = f"{counts[0]} to {counts[-1]}" if len(counts) > 1 else f"{counts[0]}"
        what = "mean of" if other.endswith(":mean") else "best of"
        notes.insert(0, f"{what} {count} samples of each protein: {value}")
    return "; ".join(part for part in notes if part) or None


def reference_value(inputs: Structures, measure: Callable[[Structure], float]) -> float:
    """Mean over the references of a measure: its value in experiments, or in the data."""
    measured = np.array([measure(protein.reference) for protein in inputs.proteins])
    return float(np.nanmean(measured)) if np.isfinite(measured).any() else float("nan")
