"""Tables of `inrflow eval`: all scores, and all metrics."""

from __future__ import annotations

import math
from typing import TYPE_CHECKING

from inrflow_cli import console

if TYPE_CHECKING:
    from inrflow_core.evaluation.results import Results, Score


def show_scores(results: Results) -> None:
    """Print the table of all scores with the speed of sampling, and remarks on them."""
    from inrflow_core.evaluation import report_entries

    if len(results.scored) == 1:
        rows = [
            (
                f"{score.title} {_arrow(score)}",
                score.protocol,
                *value_texts(score),
                score.unit,
                score.samples,
                _of(score),
            )
            for score in results.scored[0].scores
        ]
        speeds = report_entries.speed_texts(results.scored[0].sample_set)
        rows += [(name, "", text, "-", "", "", "-") for name, text in speeds.items()]
        console.table(("metric", "protocol", "value", "95 %", "unit", "samples", "reference"), rows)
    else:
        metrics = {score.metric: score for one in results.scored for score in one.scores}
        heads = [f"{score.title} {_arrow(score)} {score.protocol} {score.unit}".strip() for score in metrics.values()]
        texts = [report_entries.speed_texts(one.sample_set) for one in results.scored]
        speeds = list(dict.fromkeys(name for each in texts for name in each))
        rows = []
        for one, speed in zip(results.scored, texts, strict=True):
            values = {score.metric: score for score in one.scores}
            cells = [" ".join(value_texts(values[name])[:2]) if name in values else "" for name in metrics]
            rows.append((one.sample_set.name, *cells, *(speed.get(name, "") for name in speeds)))
        console.table(("samples", *heads, *speeds), rows)
    for note in results.remarks():
        console.info(f"note: {note}")


def show_best(results: Results) -> None:
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
        shown = value if best.interval is None else f"{value} {reach}"
        console.info(f"best {best.title} {best.protocol}: `{name}`, {shown}{as_good}")


def show_metrics(*, as_json: bool) -> None:
    """Print every metric, its protocols, its direction, and by which protocol it is computed by default."""
    from inrflow_core import registry
    from inrflow_core.domains._contract import domain_classes
    from inrflow_core.metrics import _contract

    defaults = {
        registry.canonical("metrics", name): protocol or "yes"
        for domain in domain_classes()
        for name, _, protocol in (text.partition(":") for text in domain.DEFAULT_METRICS)
    }
    metrics = {name: _contract.find(name) for name in registry.names("metrics")}
    rows = [
        (
            name,
            metric.title,
            metric.domain,
            " ".join(metric.protocols),
            "higher" if metric.higher_is_better else "lower",
            defaults.get(name, "-"),
        )
        for name, metric in metrics.items()
    ]
    columns = ("name", "metric", "domain", "protocols", "better", "default")
    console.table(columns, rows)
    console.print_json([dict(zip(columns, row, strict=True)) for row in rows], as_json=as_json)


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


def _arrow(score: Score) -> str:
    """An arrow up if higher is better, else down."""
    return "\N{UPWARDS ARROW}" if score.higher_is_better else "\N{DOWNWARDS ARROW}"


def _of(score: Score) -> str:
    return "-" if score.reference is None else f"{score.reference:,}"
