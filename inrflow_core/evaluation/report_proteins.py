"""The report's page for proteins: the worst and best structures, and how samples scatter."""

from __future__ import annotations

import numpy as np

from inrflow_core.errors import UsageError
from inrflow_core.evaluation.report_entries import reference_facts, report_entry, report_title, shown_indices
from inrflow_core.evaluation.results import INTERVALS, Results
from inrflow_core.metrics import clashes, lddt, rmsd, tm_score
from inrflow_core.metrics._protein_inputs import Protein, Structures
from inrflow_core.proteins import residue_alignment, structure, superposition
from inrflow_core.report import content, protein_tables

MAX_ROWS, MAX_TRACES = 20, 8
"""Proteins of a table, and those of them that are drawn: the worst and the best, half and half."""
LDDT, TM_SCORE, RMSD = "ca:auto:mean", "reference:auto:mean", "ca:auto:mean"
"""What is told of single proteins."""


def protein_page(results: Results) -> content.Page:
    """Scores, the worst and the best proteins of each set of samples, and how they scatter."""
    shown = [results.judged[place] for place in shown_indices(results.judged)]
    found = {one.subject.name: one.proteins for one in shown if one.proteins is not None and _is_told(one.proteins)}
    scattered = {
        f"samples of {name}": np.array([each.mean() for each in lddt.values(proteins, LDDT)])
        for name, proteins in found.items()
    }
    return content.Page(
        title=report_title(results.judged),
        entries=[report_entry(one) for one in results.judged],
        reference=reference_facts(results),
        interval=INTERVALS if any(score.interval for one in results.judged for score in one.scores) else "",
        histograms=[content.Histogram("lDDT of C-alphas, mean of a protein's samples", "", scattered)]
        if scattered
        else [],
        folds=[_folds(name, proteins) for name, proteins in found.items()],
    )


def _is_told(evidence: Structures) -> bool:
    """Whether every sample has what a row of the table tells; where not, a metric has said why."""
    try:
        lddt.values(evidence, LDDT)
        rmsd.values(evidence, RMSD)
    except UsageError:
        return False
    return True


def _folds(name: str, evidence: Structures) -> content.ProteinTable:
    """The proteins that score least and most, with pictures of the very least and most."""
    by_protein = {
        "lDDT": lddt.values(evidence, LDDT),
        "TM-score": tm_score.values(evidence, TM_SCORE),
        "RMSD, Å": rmsd.values(evidence, RMSD),
        "clashes /1000 atoms": clashes.values(evidence, clashes.PROTOCOLS[0]),
        "of the reference": [np.array([clashes.per_thousand(one.reference)]) for one in evidence.proteins],
    }
    means = {column: [float(each.mean()) for each in values] for column, values in by_protein.items()}
    places = protein_tables.spread(means["lDDT"], MAX_ROWS)
    drawn = set(protein_tables.spread(means["lDDT"], MAX_TRACES))
    rows = []
    for place in places:
        protein = evidence.proteins[place]
        traces = _traces(protein) if place in drawn else (None, None)
        values = [means[column][place] for column in means]
        rows.append(
            content.ProteinRow(protein.name, len(protein.reference.codes), len(protein.samples), values, *traces)
        )
    return content.ProteinTable(name, list(means), rows, len(evidence.proteins))


def _traces(protein: Protein) -> tuple[np.ndarray, np.ndarray]:
    """C-alphas of the first sample, laid on the reference as the TM-score has it, and those of the reference."""
    sample, reference = protein.samples[0], protein.reference
    _, motion = superposition.tm_score(*residue_alignment.c_alphas(sample, reference, protein.pairs[0]))
    return motion(_trace(sample)), _trace(reference)


def _trace(structure: structure.Structure) -> np.ndarray:
    """C-alphas, NaN where not known and where the chain has a gap."""
    places = np.where(structure.ca_is_known[:, None], structure.ca, np.nan).astype(np.float64)
    gaps = np.flatnonzero(np.diff(structure.numbers) > 1) + 1
    return np.insert(places, gaps, np.nan, axis=0)
