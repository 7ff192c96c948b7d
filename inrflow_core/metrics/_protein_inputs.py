"""Structures of proteins and their references."""

from __future__ import annotations

from collections.abc import Callable, Collection, Hashable, Sequence
from dataclasses import dataclass, field

import numpy as np
from jaxtyping import Float64, Int64

from inrflow_core.metrics._inputs import (
    GatherContext,
    InputSpec,
    ItemsT,
    MetricInputs,
    ReferenceStats,
    all_of,
    items_of,
    rows_in_groups,
)
from inrflow_core.proteins.structure import Structure


@dataclass(frozen=True)
class StructureSpec(InputSpec):
    """Structures of proteins and their references."""

    alignment: str = "auto"
    """How residues are aligned, one of `residue_alignment.ALIGNMENT_MODES`."""

    def key(self) -> Hashable:
        return "structures", self.alignment

    def gather(self, samples: ItemsT, reference: ItemsT | ReferenceStats, context: GatherContext[ItemsT]) -> Structures:
        items = items_of(reference)

        def read() -> Structures:
            context.verify(samples)
            context.verify(items)
            return context.proteins(samples, items, self.alignment)

        return context.once(self.key(), read)


@dataclass(frozen=True)
class Protein:
    """One reference and its samples."""

    name: str
    reference: Structure
    samples: Sequence[Structure]
    pairs: Sequence[Int64[np.ndarray, "K 2"]]
    """For each sample: indices of the aligned residues, in it and in the reference."""


@dataclass(frozen=True)
class Structures(MetricInputs):
    """Proteins, and values of metrics for each, computed once."""

    proteins: Sequence[Protein]
    note: str = ""
    """Which proteins were left out, and how residues were aligned."""
    cached_values: dict[str, Sequence[Float64[np.ndarray, " _"]]] = field(default_factory=dict)

    def each(
        self, name: str, measure: Callable[[Protein], Float64[np.ndarray, " _"]]
    ) -> Sequence[Float64[np.ndarray, " _"]]:
        """`measure` of every protein, cached under a name."""
        if name not in self.cached_values:
            self.cached_values[name] = [measure(protein) for protein in self.proteins]
        return self.cached_values[name]

    def counts(self) -> tuple[int, int]:
        """Samples of all proteins, and proteins."""
        return sum(len(protein.samples) for protein in self.proteins), len(self.proteins)

    def num_independent(self) -> int:
        """Proteins: samples of one protein are left out together."""
        return len(self.proteins)

    def select_groups(self, groups: Collection[int], num_groups: int) -> Structures:
        """The proteins of some groups."""
        rows = rows_in_groups(len(self.proteins), groups, num_groups)
        cached: dict[str, Sequence[Float64[np.ndarray, " _"]]] = {}
        for name, values in self.cached_values.items():
            cached[name] = all_of(values, rows)
        return Structures(all_of(self.proteins, rows), self.note, cached)
