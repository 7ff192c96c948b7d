"""Lists of `--list`: the metrics of `inrflow eval`, and the data sets of `inrflow prepare`."""

from __future__ import annotations

from inrflow_cli import console
from inrflow_core import registry
from inrflow_core.domains._contract import domain_classes
from inrflow_core.metrics import _contract


def show_metrics(*, as_json: bool) -> None:
    """Print every metric, its protocols, its direction, and by which protocol it is computed by default.

    A table, or where the terminal is too narrow for it two lines for each.
    """
    defaults = {
        registry.canonical("metrics", name): protocol or "yes"
        for domain in domain_classes()
        for name, _, protocol in (text.partition(":") for text in domain.DEFAULT_METRICS)
    }
    metrics = {name: _contract.find(name) for name in registry.parts("metrics")}
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
    if console.fits(columns, rows):
        console.table(columns, rows)
    else:
        for name, title, domain, protocols, better, default in rows:
            console.result(f"{name}: {title}, {domain}, {better} is better, default: {default}\n  {protocols}")
    console.print_json([dict(zip(columns, row, strict=True)) for row in rows], as_json=as_json)


def show_datasets(*, as_json: bool) -> None:
    """Print every data set, its domain, and what `prepare` reads and makes."""
    parts = registry.parts("datasets")
    rows = [(name, part.DOMAIN, *_split_description(part.DESCRIPTION)) for name, part in parts.items()]
    console.table(("name", "domain", "reads", "makes"), rows)
    datasets = [dict(zip(("name", "domain", "reads", "makes"), row, strict=True)) for row in rows]
    console.print_json(datasets, as_json=as_json)


def _split_description(description: str) -> tuple[str, str]:
    reads, _, makes = description.partition(" -> ")
    return reads, makes
