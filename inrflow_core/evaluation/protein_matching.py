"""Match predicted structures with references by their names.

A sample belongs to the reference of its own name; else to that of its name without an ending of `-NUMBER` or `/NUMBER`.
The name of a file is its path inside the folder without the suffixes of format and compression, so that `1abc.cif`,
`1abc-0.pdb` and `1abc/3.pdb.gz` are all samples of `1abc.pdb`. A single reference matches samples of any name, if their
names differ in that ending alone.
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from inrflow_core.errors import UsageError
from inrflow_core.metrics._protein_inputs import Protein, Structures
from inrflow_core.proteins import residue_alignment
from inrflow_core.proteins.structure import Structure
from inrflow_core.sample_files.collection import SampleCollection

NUMBERED = re.compile(r"(.+)[-/]\d+")
NAMED = 5
"""Names that a message lists; the number of the others follows."""


@dataclass(frozen=True)
class ProteinMatches:
    """Indices of references and of their samples."""

    samples: dict[int, list[int]]
    """Samples of each reference that has any, in order."""
    unsampled: list[str]
    unmatched: list[str]


def match(samples: Sequence[str], references: Sequence[str]) -> ProteinMatches:
    """The samples of each reference, by their names."""
    if len(references) == 1 and len({_unnumbered(name) for name in samples}) == 1:
        return ProteinMatches({0: list(range(len(samples)))}, [], [])
    indices = {name: index for index, name in enumerate(references)}
    samples_by_reference: dict[int, list[int]] = {}
    unmatched = []
    for number, name in enumerate(samples):
        reference = indices.get(name, indices.get(_unnumbered(name)))
        if reference is None:
            unmatched.append(name)
        else:
            samples_by_reference.setdefault(reference, []).append(number)
    unsampled = [name for index, name in enumerate(references) if index not in samples_by_reference]
    return ProteinMatches(dict(sorted(samples_by_reference.items())), unsampled, unmatched)


def _unnumbered(name: str) -> str:
    numbered = NUMBERED.fullmatch(name)
    return name if numbered is None else numbered[1]


def load_matched(samples: SampleCollection, references: SampleCollection, rule: str) -> Structures:
    """Samples with their references, residues aligned by one of `residue_alignment.ALIGNMENT_MODES`.

    Raises:
        UsageError: no sample has a reference, two references have one name, or residues cannot be aligned.
        IntegrityError: a file cannot be read.
    """
    names = references.item_names()
    if len(set(names)) < len(names):
        twice = next(name for name in names if names.count(name) > 1)
        raise UsageError(f"{references.display_name} holds several proteins called `{twice}`", hint="keep one of each")
    matches = match(samples.item_names(), names)
    if not matches.samples:
        raise UsageError(
            f"no sample of {samples.display_name} has the name of a reference: {abbreviate_list(matches.unmatched)}; "
            f"{references.display_name} has {abbreviate_list(matches.unsampled)}",
            hint="name the samples of `NAME.pdb` `NAME.pdb`, `NAME-0.pdb` or `NAME/0.pdb`",
        )
    proteins = []
    for index, numbers in matches.samples.items():
        (reference,) = references.structures([index])
        predicted = samples.structures(numbers)
        pairs = [residue_alignment.align_residues(sample, reference, rule) for sample in predicted]
        proteins.append(Protein(reference.name, reference, predicted, pairs))
    return Structures(proteins, _note(matches, proteins, rule))


def abbreviate_list(names: Sequence[str]) -> str:
    """The first names for a message, and the number of the others."""
    more = f" and {len(names) - NAMED:,} more" if len(names) > NAMED else ""
    return ", ".join(f"`{name}`" for name in names[:NAMED]) + more


def _note(matches: ProteinMatches, proteins: Sequence[Protein], rule: str) -> str:
    """Which items have no partner, and how residues were aligned."""
    notes = []
    if matches.unmatched:
        notes.append(
            f"without a reference, and left out: {len(matches.unmatched):,} samples, "
            + abbreviate_list(matches.unmatched)
        )
    if matches.unsampled:
        notes.append(
            f"without a sample, and left out: {len(matches.unsampled):,} references, "
            + abbreviate_list(matches.unsampled)
        )
    several = [sum(one.other_chains > 0 for one in side) for side in _sides(proteins)]
    if any(several):
        notes.append(
            f"{several[0]:,} samples and {several[1]:,} references have several chains: the first of each is compared"
        )
    each = [
        (sample, protein.reference, pairs)
        for protein in proteins
        for sample, pairs in zip(protein.samples, protein.pairs, strict=True)
    ]
    if rule == "auto":
        aligned = sum(not residue_alignment.uses_numbering(sample, reference, rule) for sample, reference, _ in each)
        if aligned:
            notes.append(f"residues of {aligned:,} of {len(each):,} samples are aligned by sequence, not by number")
    shares = [_covered(sample, reference, pairs) for sample, reference, pairs in each]
    least = int(np.argmin(shares))
    if shares[least] < 1:
        partly = sum(share < 1 for share in shares)
        notes.append(
            f"{partly:,} of {len(each):,} samples lack residues of their reference; the worst, "
            f"`{each[least][0].name}`, has {100 * shares[least]:.0f} % of them"
        )
    return "; ".join(notes)


def _sides(proteins: Sequence[Protein]) -> tuple[list[Structure], list[Structure]]:
    """All samples, and all references."""
    samples = [sample for protein in proteins for sample in protein.samples]
    return samples, [protein.reference for protein in proteins]


def _covered(sample: Structure, reference: Structure, pairs: np.ndarray) -> float:
    """The share of the reference's known C-alphas that the sample has as well."""
    known = reference.ca_is_known
    both = sample.ca_is_known[pairs[:, 0]] & known[pairs[:, 1]]
    return float(both.sum() / max(1, known.sum()))
