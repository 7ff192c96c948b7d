"""Proteins in the report: a table of the worst and the best, and their traces superposed on the references."""

from __future__ import annotations

from collections.abc import Sequence
from html import escape

import numpy as np

from inrflow_core.proteins import structure
from inrflow_core.report import number_format
from inrflow_core.report.content import ProteinRow, ProteinTable

SIDE, MARGIN = 220.0, 8.0
"""Size and margin of an image of traces, in SVG units."""
SLICES = 14
"""Steps of depth: farther parts are drawn first, thinner and paler."""
SAMPLE, REFERENCE = "#d9731a", "#2f8f4e"
"""Orange and green, as in the paper's figure 3."""
THIN, THICK, PALEST = 1.2, 3.4, 0.35


def section(content: ProteinTable) -> str:
    """The proteins of one set of samples."""
    if not content.rows:
        return ""
    of = f" of {content.title}" if content.title else ""
    shown = len(content.rows)
    shown_rows = (
        f"All {content.count:,}, the worst first."
        if shown == content.count
        else f"{shown:,} of {content.count:,}: the worst and the best by {content.columns[0]}, the worst first."
    )
    several = " Of several samples this is the mean." if any(row.samples > 1 for row in content.rows) else ""
    return (
        f'<section id="proteins"><h2>Proteins{escape(of)}</h2>\n<p class="says">{escape(shown_rows)}{several}</p>'
        f'<div class="wide" tabindex="0" role="region" aria-label="Proteins">{_table(content)}</div>\n{_overlays(content)}'
        "</section>"
    )


def _table(content: ProteinTable) -> str:
    head = "".join(f'<th scope="col">{escape(name)}</th>' for name in ("Residues", "Samples", *content.columns))
    rows = "".join(
        f'<tr><th scope="row">{escape(row.name)}</th><td>{row.residues:,}</td><td>{row.samples:,}</td>'
        + "".join(f"<td>{number_format.format_compact(value)}</td>" for value in row.values)
        + "</tr>"
        for row in content.rows
    )
    return f'<table><thead><tr><th scope="col">Protein</th>{head}</tr></thead><tbody>{rows}</tbody></table>'


def _overlays(content: ProteinTable) -> str:
    tiles = "".join(
        f'<figure class="tile">{overlay(row)}<figcaption>{escape(row.name)}<br>{escape(content.columns[0])}'
        f" {number_format.format_compact(row.values[0])}</figcaption></figure>"
        for row in content.rows
        if row.sample is not None and row.reference is not None
    )
    if not tiles:
        return ""
    legend = "".join(
        f'<li><svg viewBox="0 0 28 12" width="28" height="12" aria-hidden="true"><path d="M1 6H27" stroke="{color}"'
        f' stroke-width="3"/></svg>{name}</li>'
        for name, color in (("sample", SAMPLE), ("reference", REFERENCE))
    )
    return (
        '<p class="says">C-alphas of the first sample, superposed on the reference by its TM-score.</p>'
        f'<div class="tiles folds">{tiles}</div><ul class="legend">{legend}</ul>'
    )


def overlay(row: ProteinRow) -> str:
    """Two traces in one image, seen along the reference's shortest axis; nearer parts are thicker and cover the rest."""
    assert row.sample is not None and row.reference is not None
    axes = structure.principal_axes(row.reference)
    placed = [(trace - np.nanmean(row.reference, axis=0)) @ axes.T for trace in (row.reference, row.sample)]
    together = np.concatenate(placed)
    together = together[np.isfinite(together).all(1)]
    low, high = together.min(0), together.max(0)
    scale = (SIDE - 2 * MARGIN) / max(float((high - low)[:2].max()), 1e-6)
    middle = (low + high) / 2
    strokes: list[list[str]] = [[] for _ in range(SLICES)]
    for trace, color in zip(placed, (REFERENCE, SAMPLE), strict=True):
        flat = (trace[:, :2] - middle[:2]) * scale * [1, -1] + SIDE / 2
        near = (trace[:, 2] - low[2]) / max(float(high[2] - low[2]), 1e-6)
        for depth, path in enumerate(_paths(flat, near)):
            if path:
                share = (depth + 0.5) / SLICES
                width = THIN + (THICK - THIN) * share
                opacity = PALEST + (1 - PALEST) * share
                strokes[depth].append(
                    f'<path d="{path}" stroke="{color}" stroke-width="{width:.1f}" stroke-opacity="{opacity:.2f}"/>'
                )
    label = f"{row.name}: C-alpha traces of a sample (orange) and of the reference (green)"
    return (
        f'<svg viewBox="0 0 {SIDE:.0f} {SIDE:.0f}" role="img" aria-label="{escape(label)}" fill="none"'
        f' stroke-linecap="round">{"".join("".join(slice) for slice in strokes)}</svg>'
    )


def _paths(flat: np.ndarray, near: np.ndarray) -> list[str]:
    """The segments of a trace in each slice of depth, from residue to residue; none across a gap."""
    paths = [""] * SLICES
    last = [-2] * SLICES
    for index in range(len(flat) - 1):
        if not np.isfinite(flat[index : index + 2]).all():
            continue
        depth = min(SLICES - 1, int(SLICES * (near[index] + near[index + 1]) / 2))
        (x, y), (to_x, to_y) = flat[index], flat[index + 1]
        start = "" if last[depth] == index - 1 else f"M{x:.1f} {y:.1f}"
        paths[depth] += f"{start}L{to_x:.1f} {to_y:.1f}"
        last[depth] = index
    return paths


def spread(values: Sequence[float], most: int) -> list[int]:
    """Indices of the lowest and highest values, in order: `most` in all."""
    order = np.argsort(np.asarray(values), kind="stable").tolist()
    return order if len(order) <= most else [*order[: most // 2], *order[len(order) - most // 2 :]]
