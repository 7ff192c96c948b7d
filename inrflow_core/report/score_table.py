"""Scores as a table, and the metadata of entries."""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Iterator, Sequence
from html import escape

from inrflow_core.report import content, number_format
from inrflow_core.report.content import Entry, Page, Score

Metric = tuple[str, str, str, bool]
"""A column: name, protocol, unit, direction."""


def metric_of(score: Score) -> Metric:
    """The column of a score."""
    return score.name, score.protocol, score.unit, score.is_higher_better


def column_title(metric: Metric) -> str:
    """Name, direction, protocol and unit."""
    name, protocol, unit, is_higher_better = metric
    arrow, words = ("\N{UPWARDS ARROW}", "higher") if is_higher_better else ("\N{DOWNWARDS ARROW}", "lower")
    details = [f'<span class="protocol">{escape(protocol)}</span>'] if protocol else []
    details += [f'<span class="unit">{escape(unit)}</span>'] if unit else []
    return (
        f'{escape(name)}&nbsp;<span class="arrow" role="img" aria-label="{words} is better">{arrow}</span>'
        + "".join(details)
    )


def reference_list(page: Page) -> str:
    """The reference's metadata as a list."""
    if not page.reference:
        return ""
    items = "".join(
        f"<div><dt>{escape(name)}</dt><dd>{escape(value)}</dd></div>" for name, value in page.reference.items()
    )
    return f'<p class="kicker">Reference</p>\n<dl class="facts">{items}</dl>'


def table(page: Page) -> str:
    """All scores: a row for each metric of one entry, a column for each metric of several."""
    if not any(entry.scores for entry in page.entries):
        return ""
    notes = _Notes()
    best = set(_best(page.entries))
    build = _one_entry if len(page.entries) == 1 else _many_entries
    body = build(page.entries, best, notes)
    remarks = []
    if page.interval:
        remarks.append(f"Small figures: {escape(page.interval)}.")
    if best:
        remarks.append("Bold: the best of its column, among entries with as many samples as its heading says.")
    caption = f'<p class="says">{" ".join(remarks)}</p>' if remarks else ""
    return (
        '<section id="scores"><h2>Scores</h2>\n'
        f'<div class="wide" tabindex="0" role="region" aria-label="Scores">{body}</div>\n{caption}{notes.list()}</section>'
    )


def facts(entries: Sequence[Entry]) -> str:
    """The metadata of the entries: shared values once, others in a table."""
    names = list(dict.fromkeys(name for entry in entries for name in entry.facts))
    if not names:
        return ""
    shared = [name for name in names if len({entry.facts.get(name) for entry in entries}) == 1]
    varying = [name for name in names if name not in shared]
    parts = []
    if shared:
        items = "".join(
            f"<div><dt>{escape(name)}</dt><dd>{escape(entries[0].facts[name])}</dd></div>" for name in shared
        )
        parts.append(f'<dl class="facts">{items}</dl>')
    if varying:
        head = "".join(f'<th scope="col">{escape(name)}</th>' for name in varying)
        rows = "".join(_fact_row(entry, varying) for entry in entries)
        parts.append(
            '<div class="wide" tabindex="0" role="region" aria-label="Facts that differ">'
            f'<table class="own"><thead><tr><th scope="col">Entry</th>{head}</tr></thead><tbody>{rows}</tbody></table></div>'
        )
    return f'<section id="facts"><details><summary><h2>Facts</h2></summary>\n{"".join(parts)}</details></section>'


def _fact_row(entry: Entry, names: Sequence[str]) -> str:
    cells = "".join(f"<td>{escape(entry.facts.get(name, ''))}</td>" for name in names)
    return f'<tr><th scope="row">{escape(entry.name)}</th>{cells}</tr>'


def _one_entry(entries: Sequence[Entry], best: set[int], notes: _Notes) -> str:
    (entry,) = entries
    rows = "".join(
        f'<tr><th scope="row">{column_title(metric_of(score))}</th>{_cell(score, best, notes)}<td class="count">{score.count:,}</td></tr>'
        for score in entry.scores
    )
    rows += "".join(
        f'<tr><th scope="row">{escape(name)}</th>{_speed_cell(name, text)}<td class="count"></td></tr>'
        for name, text in entry.speed.items()
    )
    return (
        f'<table class="scores one"><caption>{escape(entry.name)}</caption><thead><tr><th scope="col">Metric</th>'
        f'<th scope="col">Value</th><th scope="col">Samples</th></tr></thead><tbody>{rows}</tbody></table>'
    )


def _many_entries(entries: Sequence[Entry], best: set[int], notes: _Notes) -> str:
    metrics = list(dict.fromkeys(metric_of(score) for entry in entries for score in entry.scores))
    usual = _usual_counts(entries)
    head = "".join(
        f'<th scope="col">{column_title(metric)}<span class="count">n = {usual[metric]:,}</span></th>'
        for metric in metrics
    )
    speeds = list(dict.fromkeys(name for entry in entries for name in entry.speed))
    head += "".join(f'<th scope="col">{escape(name)}</th>' for name in speeds)
    rows = ""
    for entry in entries:
        score_of = {metric_of(score): score for score in entry.scores}
        cells = "".join(
            _cell(score_of[metric], best, notes, with_count=score_of[metric].count != usual[metric])
            if metric in score_of
            else '<td class="absent">\N{EM DASH}</td>'
            for metric in metrics
        )
        cells += "".join(_speed_cell(name, entry.speed.get(name, "")) for name in speeds)
        rows += f'<tr><th scope="row">{escape(entry.name)}</th>{cells}</tr>'
    return (
        f'<table class="scores"><thead><tr><th scope="col">Entry</th>{head}</tr></thead><tbody>{rows}</tbody></table>'
    )


def _speed_cell(name: str, text: str) -> str:
    return f'<td class="rate">{escape(text)}</td>' if name == content.RATE else f"<td>{escape(text)}</td>"


def _cell(score: Score, best: set[int], notes: _Notes, *, with_count: bool = False) -> str:
    value, interval = number_format.with_interval(score.value, score.interval)
    value = f"<strong>{value}</strong>" if id(score) in best else value
    value += notes.mark(score.note)
    if interval:
        value += f'<span class="interval">{interval}</span>'
    if with_count:
        value += f'<span class="count">n = {score.count:,}</span>'
    return f"<td>{value}</td>"


def _usual_counts(entries: Sequence[Entry]) -> dict[Metric, int]:
    """The most frequent number of samples by metric; of equally frequent ones the larger."""
    counts: dict[Metric, Counter[int]] = {}
    for entry in entries:
        for score in entry.scores:
            counts.setdefault(metric_of(score), Counter())[score.count] += 1
    return {metric: max(usage, key=lambda count: (usage[count], count)) for metric, usage in counts.items()}


def _best(entries: Sequence[Entry]) -> Iterator[int]:
    """Identities of the best scores of each metric, among at least two with its usual number of samples."""
    usual = _usual_counts(entries)
    groups: dict[Metric, list[Score]] = {}
    for entry in entries:
        for score in entry.scores:
            if math.isfinite(score.value) and score.count == usual[metric_of(score)]:
                groups.setdefault(metric_of(score), []).append(score)
    for (*_, is_higher_better), scores in groups.items():
        values = [score.value for score in scores]
        top = max(values) if is_higher_better else min(values)
        if min(values) < max(values):
            yield from (id(score) for score in scores if score.value == top)


class _Notes:
    """Footnotes, each listed once."""

    def __init__(self) -> None:
        self._numbers: dict[str, int] = {}

    def mark(self, note: str | None) -> str:
        """The reference mark beside a value."""
        if not note:
            return ""
        number = self._numbers.setdefault(note, len(self._numbers) + 1)
        return f'<sup><a href="#note-{number}" aria-label="note {number}">{number}</a></sup>'

    def list(self) -> str:
        """The notes themselves."""
        items = "".join(f'<li id="note-{number}">{escape(note)}</li>' for note, number in self._numbers.items())
        return f'<ol class="notes">{items}</ol>' if items else ""
