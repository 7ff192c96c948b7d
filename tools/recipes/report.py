"""The tables of a folder of results, on the screen and as plain values."""

from __future__ import annotations

import dataclasses
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

from inrflow_cli import console
from inrflow_core.metrics import _contract
from inrflow_core.metrics._contract import Metric
from tools.recipes import tables
from tools.recipes.kinds import KINDS
from tools.recipes.tables import Mean, Reach, Result
from tools.recipes.trials import PAPER, read_result

LOSS = "held-out loss"
SKIPPED = "skipped.json"
"""Why a kind of data has no runs, in its folder."""


class Score(NamedTuple):
    """A metric at the end of a run, of a number of samples."""

    metric: str
    unit: str
    samples: int

    @property
    def head(self) -> str:
        """Its title, its unit and the number of samples."""
        return f"{label(self.metric)} {self.unit}".strip() + f" ({self.samples:,})"


@dataclasses.dataclass(frozen=True)
class Row:
    """The finished runs of one recipe with equal settings, one of each seed."""

    name: str
    runs: Sequence[Result]
    scores: Mapping[Score, Mean]
    """Metrics at the end."""
    reached: Mapping[str, Mapping[str, Reach]]
    """By what the curve is of: the shares of the paper recipe's FLOPs and CPU seconds; empty without runs of the paper recipe."""

    @property
    def loss(self) -> Mean:
        """The held-out loss at the end."""
        return tables.mean([run["losses"][-1]["value"] for run in self.runs])


@dataclasses.dataclass(frozen=True)
class Comparison:
    """Recipes of one kind of data under one budget, with the paper recipe first."""

    kind: str
    budget: Mapping[str, float | None]
    rows: Sequence[Row]
    problems: Sequence[str]
    """Runs that were stopped or diverged, which no mean includes, and those whose samples are not finite, which have no scores."""


def compare(out: Path) -> list[Comparison]:
    """All comparisons of a folder of results.

    Raises:
        IntegrityError: a result is damaged.
    """
    comparisons = []
    for kind in KINDS:
        results = [result for path in sorted((out / kind).glob("*.run.json")) if (result := read_result(path))]
        # A renamed recipe counts once for each seed: the finished run, and that of the paper recipe, if there is one.
        results.sort(key=lambda one: (not one["problem"], one["recipe"] == PAPER))
        results = list({result["key"]: result for result in results}.values())
        for group in dict.fromkeys(result["paper_group"] for result in results):
            comparable = [result for result in results if result["paper_group"] == group]
            comparisons.append(_comparison(kind, group, comparable, _scores(out / kind)))
    return comparisons


def _scores(folder: Path) -> dict[str, list[Result]]:
    """The evaluations of runs, by the key of the run; settings of an evaluation count once."""
    scores: dict[str, dict[str, Result]] = {}
    for path in sorted(folder.glob("*-eval-*.json")):
        result = read_result(path)
        if result is not None:
            scores.setdefault(result["key"], {})[path.name.rpartition("-eval-")[2]] = result
    return {key: list(each.values()) for key, each in scores.items()}


def _comparison(
    kind: str, paper_group: str, results: Sequence[Result], scores: Mapping[str, Sequence[Result]]
) -> Comparison:
    evaluations = {one["key"]: one["problem"] for each in scores.values() for one in each if one.get("problem")}
    problems = [
        f"{one['recipe']}, seed {one['seed']}: {problem}"
        for one in results
        if (problem := one["problem"] or evaluations.get(one["key"]))
    ]
    finished = [one for one in results if not one["problem"] and one["losses"]]
    groups = {
        group: [one for one in finished if one["group"] == group]
        for group in dict.fromkeys(one["group"] for one in finished)
    }
    names = [runs[0]["recipe"] for runs in groups.values()]
    paper = groups.get(paper_group, [])
    rows = []
    for group, runs in groups.items():
        name = runs[0]["recipe"]
        title = name if names.count(name) == 1 else f"{name} {group[:6]}"
        rows.append(Row(title, runs, _final_scores(runs, scores), reached(runs, paper)))
    rows.sort(key=lambda row: (row.runs[0]["group"] != paper_group, row.name))
    return Comparison(kind, results[0]["budget"], rows, problems)


def _final_scores(runs: Sequence[Result], scores: Mapping[str, Sequence[Result]]) -> dict[Score, Mean]:
    values: dict[Score, list[float]] = {}
    for run in runs:
        for score in (score for evaluated in scores.get(run["key"], ()) for score in evaluated["scores"]):
            of = Score(score["metric"], score["unit"], score["samples"])
            values.setdefault(of, []).append(score["value"])
    return {of: tables.mean(each) for of, each in values.items()}


def reached(runs: Sequence[Result], paper: Sequence[Result]) -> dict[str, dict[str, Reach]]:
    """The shares of the paper recipe's compute, by the held-out loss where the objectives are equal, and by each metric."""
    result: dict[str, dict[str, Reach]] = {}
    if not paper:
        return result
    if runs[0]["objective"] == paper[0]["objective"]:
        result[LOSS] = tables.reach([run["losses"] for run in runs], [run["losses"] for run in paper])
    for name in paper[0]["metrics"]:
        if all(name in run["metrics"] for run in [*runs, *paper]):
            better = metric(name).higher_is_better
            curves = [[run["metrics"][name] for run in side] for side in (runs, paper)]
            result[name] = tables.reach(*curves, higher_is_better=better)
    return result


def metric(full: str) -> Metric:
    """The metric of a full name."""
    return _contract.find(full.partition(":")[0])


def label(full: str) -> str:
    """The title of a metric with its direction and the first word of its protocol: `FID ↓ random`."""
    name, _, protocol = full.partition(":")
    return f"{metric(full).title} {'↑' if metric(full).higher_is_better else '↓'} {protocol.partition(':')[0]}"


def show(out: Path, comparisons: Sequence[Comparison]) -> None:
    """Print three tables for each comparison, and what is missing."""
    for one in comparisons:
        budget = one.budget["flops"], one.budget["cpu_seconds"]
        of = f"{budget[0]:.3g} FLOPs" if budget[0] is not None else f"{budget[1]:,.0f} CPU seconds"
        console.result(f"\n{one.kind}, {of} a run; ± is Student's t interval over seeds, {tables.LEVEL:.0%}")
        if one.rows:
            console.table(("recipe", "seeds", "steps", "FLOPs", "CPU s", LOSS), [_cells(row) for row in one.rows])
            scores = list(dict.fromkeys(score for row in one.rows for score in row.scores))
            cells = [
                [score.head, row.name, row.scores[score].text, row.scores[score].count]
                for score in scores
                for row in one.rows
                if score in row.scores
            ]
            if cells:
                console.table(("at the end", "recipe", "mean", "seeds"), cells)
            if not one.rows[0].reached:
                console.result(f"no finished run of `{PAPER}`: nothing to compare with")
            else:
                console.result("share of the paper recipe's compute at which a curve reaches its final mean")
                columns = ("recipe", "curve of", "FLOPs", "CPU s", "in FLOPs", "in CPU s")
                console.table(columns, list(_reach_cells(one.rows)))
        for problem in one.problems:
            console.warn(problem)
    for kind, reason in skipped(out).items():
        console.warn(f"{kind} was skipped: {reason}")


def skipped(out: Path) -> dict[str, str]:
    """Why kinds of data have no runs, by kind."""
    return {kind: result["reason"] for kind in KINDS if (result := read_result(out / kind / SKIPPED))}


def _cells(row: Row) -> list[str]:
    seeds, steps = ",".join(str(run["seed"]) for run in row.runs), sorted({run["steps"] for run in row.runs})
    flops = tables.mean([run["flops"] for run in row.runs]).value
    seconds = tables.mean([run["cpu_seconds"] for run in row.runs])
    return [row.name, seeds, " ".join(f"{number:,}" for number in steps), f"{flops:.3g}", seconds.text, row.loss.text]


def _reach_cells(rows: Sequence[Row]) -> Iterator[list[str]]:
    for row in rows:
        if LOSS not in row.reached:
            yield [row.name, LOSS, "-", "-", "another objective", "another objective"]
        for curve, reach in row.reached.items():
            flops, seconds = reach["flops"], reach["cpu_seconds"]
            verdicts = ("", "") if row is rows[0] else (flops.verdict, seconds.verdict)
            yield [row.name, LOSS if curve == LOSS else label(curve), flops.text, seconds.text, *verdicts]


def to_plain(out: Path, comparisons: Sequence[Comparison]) -> dict[str, Any]:
    """The comparisons as plain values, for `--json`."""
    return {"comparisons": [_plain(one) for one in comparisons], "skipped": skipped(out)}


def _plain(one: Comparison) -> dict[str, Any]:
    rows = []
    for row in one.rows:
        reached = {
            curve: {
                name: {"shares": reach.shares, "mean": _mean(reach.mean), "verdict": reach.verdict}
                for name, reach in by.items()
            }
            for curve, by in row.reached.items()
        }
        runs, scores = (
            row.runs,
            [{**score._asdict(), **dataclasses.asdict(value)} for score, value in row.scores.items()],
        )
        rows.append(
            {
                **{"recipe": row.name, "seeds": [run["seed"] for run in runs], "steps": [run["steps"] for run in runs]},
                **{name: _mean(tables.mean([run[name] for run in runs])) for name in tables.RESOURCES},
                **{"held_out_loss": _mean(row.loss), "scores": scores, "reached": reached},
            }
        )
    return {"kind": one.kind, "budget": one.budget, "rows": rows, "problems": list(one.problems)}


def _mean(value: Mean | None) -> dict[str, Any] | None:
    return None if value is None else dataclasses.asdict(value)
