"""Tables of `inrflow eval`: all scores, and the best of a sweep."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import TYPE_CHECKING

from inrflow_cli import console

if TYPE_CHECKING:
    from inrflow_core.evaluation.results import Results, SampleScores, Score, StoredResults, StoredScores


def show_scores(results: Results | StoredResults) -> None:
    """Print all scores with the speed of sampling as tables that fit the terminal, and remarks on them."""
    from inrflow_core.evaluation.results import remarks

    (_show_single if len(results.scored) == 1 else _show_several)(results.scored)
    for note in remarks(results.scored):
        console.warn(note)


def _show_single(scored: Sequence[SampleScores] | Sequence[StoredScores]) -> None:
    """A row for each score; in a narrow terminal without the columns that all rows share."""
    from inrflow_core.evaluation import report_entries

    (one,) = scored
    rows = [
        (f"{score.title} {_arrow(score)}", score.protocol, *value_texts(score), score.unit, score.samples, _of(score))
        for score in one.scores
    ]
    speeds = report_entries.speed_texts(one.sample_set)
    rows += [(name, "", text, "-", "", "", "-") for name, text in speeds.items()]
    columns = ("metric", "protocol", "value", "95 %", "unit", "samples", "reference")
    if console.fits(columns, rows):
        console.table(columns, rows)
        return
    console.table(("metric", "value", "unit"), [(_joined(row[:2]), _joined(row[2:4]), row[4]) for row in rows])
    for samples, reference in dict.fromkeys((score.samples, _of(score)) for score in one.scores):
        console.result(f"{samples:,} samples, {reference} of the reference")


def _show_several(scored: Sequence[SampleScores] | Sequence[StoredScores]) -> None:
    """A row for each set of samples and a column for each metric; in a narrow terminal a table for each metric."""
    from inrflow_core.evaluation import report_entries

    metrics = {score.metric: score for one in scored for score in one.scores}
    heads = {
        name: _joined((f"{score.title} {_arrow(score)}", score.protocol, score.unit)) for name, score in metrics.items()
    }
    names = [one.sample_set.name for one in scored]
    values = [{score.metric: _joined(value_texts(score)) for score in one.scores} for one in scored]
    speeds = [report_entries.speed_texts(one.sample_set) for one in scored]
    rates = list(dict.fromkeys(name for each in speeds for name in each))
    cells = [value | speed for value, speed in zip(values, speeds, strict=True)]

    def rows(columns: Sequence[str]) -> list[Sequence[str]]:
        return [(name, *(each.get(one, "") for one in columns)) for name, each in zip(names, cells, strict=True)]

    columns = ("samples", *heads.values(), *rates)
    if console.fits(columns, rows([*heads, *rates])):
        console.table(columns, rows([*heads, *rates]))
        return
    for metric, head in heads.items():
        console.table((head, ""), [row for row in rows([metric]) if row[1]])
    if rates:
        console.table(("sampling", *rates), rows(rates))


def show_best(results: Results | StoredResults) -> None:
    """Print for each metric the samples that are best by it, and how many of the others have an interval that includes its value."""
    for metric in dict.fromkeys(score.metric for one in results.scored for score in one.scores):
        found = [
            (one.sample_set.name, score) for one in results.scored for score in one.scores if score.metric == metric
        ]
        sign = 1 if found[0][1].higher_is_better else -1
        name, best = max(found, key=lambda pair: sign * pair[1].value)
        near = [
            other
            for other, score in found
            if other != name and score.interval is not None and score.interval[0] <= best.value <= score.interval[1]
        ]
        as_good = f"; its value is in the intervals of {len(near)} of {len(found) - 1} others" if best.interval else ""
        value, reach = value_texts(best)
        console.result(f"best {best.title} {best.protocol}: `{name}`, {_joined((value, reach))}{as_good}")


def value_texts(score: Score) -> tuple[str, str]:
    """A value and half the width of its interval, with its significant digits."""
    if score.interval is None:
        return f"{score.value:.4g}", "-"
    low, high = score.interval
    reach = (high - low) / 2
    digits = max(0, 1 - math.floor(math.log10(reach)))
    if digits > 6:
        return f"{score.value:.2g}", f"\N{PLUS-MINUS SIGN} {reach:.2g}"
    return f"{score.value:.{digits}f}", f"\N{PLUS-MINUS SIGN} {reach:.{digits}f}"


def _joined(words: Sequence[str]) -> str:
    """The words that are there, in one cell."""
    return " ".join(word for word in words if word not in ("", "-"))


def _arrow(score: Score) -> str:
    """An arrow up if higher is better, else down."""
    return "\N{UPWARDS ARROW}" if score.higher_is_better else "\N{DOWNWARDS ARROW}"


def _of(score: Score) -> str:
    return "-" if score.reference is None else f"{score.reference:,}"
