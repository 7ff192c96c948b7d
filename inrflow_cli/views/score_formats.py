"""The scores of `inrflow eval` for a paper or a spreadsheet, on stdout: LaTeX, Markdown or CSV.

LaTeX and Markdown have a row for each set of samples and a column for each metric, with half the width of the 95 % interval. CSV has
a row for each score, with all digits.
"""

from __future__ import annotations

import csv
import io
import re
from typing import TYPE_CHECKING

from inrflow_cli.views.scores import value_texts
from inrflow_core.errors import UsageError, did_you_mean

if TYPE_CHECKING:
    from inrflow_core.evaluation.results import Results, Score, StoredResults

FORMATS = ("latex", "csv", "markdown")
COLUMNS = ("samples", "metric", "value", "low", "high", "unit", "higher_is_better", "num_samples", "num_reference")
"""Columns of CSV; `low` and `high` are the ends of the 95 % interval."""
UP, DOWN = ("$\\uparrow$", "\N{UPWARDS ARROW}"), ("$\\downarrow$", "\N{DOWNWARDS ARROW}")
"""In LaTeX, and as a character."""
LATEX = {"\\": r"\textbackslash{}", "~": r"\textasciitilde{}", "^": r"\textasciicircum{}"}
LATEX |= {character: "\\" + character for character in "&%$#_{}"}
"""Characters that LaTeX reads as commands, and what prints them."""


def check_format(name: str) -> None:
    """Raise UsageError unless there is such a format."""
    if name not in FORMATS:
        raise UsageError(f"scores cannot be printed as `{name}`", hint=did_you_mean(name, FORMATS))


def table_text(results: Results | StoredResults, name: str) -> str:
    """All scores in one of `FORMATS`."""
    if name == "csv":
        return _csv(results)
    metrics = {score.metric: score for one in results.scored for score in one.scores}
    rows = []
    for one in results.scored:
        scores = {score.metric: score for score in one.scores}
        rows.append([one.sample_set.name, *(_cell(scores.get(metric), name) for metric in metrics)])
    head = ["Samples", *(_head(score, name) for score in metrics.values())]
    if name == "markdown":
        rows = [head, ["---", *("---:" for _ in metrics)], *([row[0].replace("|", "\\|"), *row[1:]] for row in rows)]
        return "".join(f"| {' | '.join(row)} |\n" for row in rows)
    lines = [" & ".join(head), *(" & ".join([escape_latex(row[0]), *row[1:]]) for row in rows)]
    body = f"{lines[0]} \\\\\n\\hline\n" + "".join(f"{line} \\\\\n" for line in lines[1:])
    return f"\\begin{{tabular}}{{l{'r' * len(metrics)}}}\n{body}\\end{{tabular}}\n"


def escape_latex(text: str) -> str:
    """A text that LaTeX prints as it is."""
    return re.sub(r"[\\~^&%$#_{}]", lambda found: LATEX[found[0]], text)


def _head(score: Score, name: str) -> str:
    """Metric, protocol, unit and direction."""
    unit = f"({score.unit})" if score.unit else ""
    words = " ".join(word for word in (score.title, score.protocol, unit) if word)
    if name == "latex":
        words = re.sub(r"10\\textasciicircum\{\}(-?\d+)", r"$10^{\1}$", escape_latex(words))
    latex, plain = UP if score.higher_is_better else DOWN
    return f"{words} {latex if name == 'latex' else plain}"


def _cell(score: Score | None, name: str) -> str:
    """A value with half the width of its interval; `-` where there is none."""
    if score is None:
        return "-"
    value, reach = value_texts(score)
    if reach == "-":
        return f"${value}$" if name == "latex" else value
    return f"${value} \\pm {reach.split()[-1]}$" if name == "latex" else f"{value} {reach}"


def _csv(results: Results | StoredResults) -> str:
    """A row for each score."""
    text = io.StringIO()
    rows = csv.writer(text, lineterminator="\n")
    rows.writerow(COLUMNS)
    for one in results.scored:
        for score in one.scores:
            low, high = score.interval or ("", "")
            reference = "" if score.reference is None else score.reference
            direction = str(score.higher_is_better).lower()
            row = (
                one.sample_set.name,
                score.metric,
                score.value,
                low,
                high,
                score.unit,
                direction,
                score.samples,
                reference,
            )
            rows.writerow(row)
    return text.getvalue()
