"""The report of proteins: the worst and best structures, and a histogram of lDDT."""

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
"""Most rows of a table, and most rows with a trace: half of them the worst, half the best."""
LDDT, TM_SCORE, RMSD = "ca:auto:mean", "reference:auto:mean", "ca:auto:mean"
"""Protocols of the columns."""


def protein_page(results: Results) -> content.Page:
    """Scores, the worst and best proteins of each set of samples, and a histogram of lDDT."""
    shown = [results.scored[index] for index in shown_indices(results.scored)]
    proteins_by_name = {
        one.sample_set.name: one.proteins for one in shown if one.proteins is not None and _has_values(one.proteins)
    }
    histogram = {
        f"samples of {name}": np.array([each.mean() for each in lddt.values(proteins, LDDT)])
        for name, proteins in proteins_by_name.items()
    }
    return content.Page(
        title=report_title(results.scored),
        entries=[report_entry(one) for one in results.scored],
        reference=reference_facts(results),
        interval=INTERVALS if any(score.interval for one in results.scored for score in one.scores) else "",
        histograms=[content.Histogram("lDDT of C-alphas, mean of a protein's samples", "", histogram)]
        if histogram
        else [],
        protein_tables=[_protein_table(name, proteins) for name, proteins in proteins_by_name.items()],
    )


def _has_values(structures: Structures) -> bool:
    """Whether every sample has the values of a row; if not, a metric reports the error."""
    try:
        lddt.values(structures, LDDT)
        rmsd.values(structures, RMSD)
    except UsageError:
        return False
    return True


def _protein_table(name: str, structures: Structures) -> content.ProteinTable:
    """The proteins with the lowest and highest lDDT; the extreme ones with traces."""
    by_protein = {
        "lDDT": lddt.values(structures, LDDT),
        "TM-score": tm_score.values(structures, TM_SCORE),
        "RMSD, Å": rmsd.values(structures, RMSD),
        "clashes /1000 atoms": clashes.values(structures, clashes.PROTOCOLS[0]),
        "of the reference": [np.array([clashes.per_thousand(one.reference)]) for one in structures.proteins],
    }
    means = {column: [float(each.mean()) for each in values] for column, values in by_protein.items()}
    indices = protein_tables.spread(means["lDDT"], MAX_ROWS)
    traced = set(protein_tables.spread(means["lDDT"], MAX_TRACES))
    rows = []
    for index in indices:
        protein = structures.proteins[index]
        traces = _traces(protein) if index in traced else (None, None)
        values = [means[column][index] for column in means]
        rows.append(
            content.ProteinRow(protein.name, len(protein.reference.codes), len(protein.samples), values, *traces)
        )
    return content.ProteinTable(name, list(means), rows, len(structures.proteins))


def _traces(protein: Protein) -> tuple[np.ndarray, np.ndarray]:
    """C-alphas of the first sample, superposed by its TM-score, and those of the reference."""
    sample, reference = protein.samples[0], protein.reference
    _, motion = superposition.tm_score(*residue_alignment.c_alphas(sample, reference, protein.pairs[0]))
    return motion(_trace(sample)), _trace(reference)


def _trace(structure: structure.Structure) -> np.ndarray:
    """C-alphas; NaN if unknown, and between the ends of a gap in the chain."""
    positions = np.where(structure.ca_is_known[:, None], structure.ca, np.nan).astype(np.float64)
    gaps = np.flatnonzero(np.diff(structure.numbers) > 1) + 1
    return np.insert(positions, gaps, np.nan, axis=0)
