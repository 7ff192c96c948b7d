"""Compare recipes of training under one budget: what each reaches, and with which share of the paper recipe's compute.

    python -m tools.recipes run --data DATA --out runs/recipes --kinds mnist,solids --seeds 0,1,2
    python -m tools.recipes table --out runs/recipes

`run` prepares the data, trains every recipe of `recipes.toml` with every seed and computes metrics. The same command resumes; what
has a result is not done again. Started a second time at once, it takes the runs that the first has not begun. docs/recipes.md.
"""

from __future__ import annotations

import argparse
import math
import sys
from collections.abc import Callable
from pathlib import Path
from typing import TypeVar

import torch

from inrflow_cli import console
from inrflow_core.errors import InrflowError, MissingError
from inrflow_core.storage import file_lock
from tools.recipes import kinds, report, runs, scores, trials
from tools.recipes.kinds import KINDS
from tools.recipes.trials import Budget, Trial, beside

DEFAULT_LIMIT = 900.0
"""CPU seconds of a run."""
T = TypeVar("T")


def main(arguments: list[str] | None = None) -> int:
    """The exit code: that of the error that ended the call, else 0."""
    options = parser().parse_args(arguments)
    try:
        options.command(options)
    except InrflowError as error:
        console.error(error)
        return int(error.code)
    return 0


def parser() -> argparse.ArgumentParser:
    """The options of both commands."""
    shape = argparse.RawDescriptionHelpFormatter
    parser = argparse.ArgumentParser(prog="python -m tools.recipes", description=__doc__, formatter_class=shape)
    commands = parser.add_subparsers(required=True)
    run = commands.add_parser("run", help="prepare, train and evaluate what has no result yet")
    run.set_defaults(command=run_all)
    table = commands.add_parser("table", help="print the results")
    table.set_defaults(command=show)
    for command in (run, table):
        command.add_argument("--out", type=Path, default=Path("runs/recipes"), help="folder of runs and results")
    run.add_argument("--data", type=Path, help="folder of raw data: each kind's is found below it by its name")
    run.add_argument("--kinds", type=names, default=list(KINDS), metavar="KIND,...", help=f"of {', '.join(KINDS)}")
    run.add_argument("--recipes", type=names, default=[], metavar="NAME,...", help="default: all of each kind")
    run.add_argument("--seeds", type=numbers, default=[0, 1, 2], metavar="N,...", help="default: 0,1,2")
    budget = run.add_mutually_exclusive_group()
    budget.add_argument("--flops", type=positive, help="training FLOPs of a run; default: the kind's")
    budget.add_argument(
        "--cpu-seconds", type=positive, help="CPU seconds of training instead, at a rate measured before it"
    )
    run.add_argument(
        "--limit", type=positive, default=DEFAULT_LIMIT, help="CPU seconds of training after which a run is stopped"
    )
    run.add_argument("--items", type=count, metavar="N", help="at most N items of each split, for a trial of the tool")
    run.add_argument("--num", type=count, help="samples for the metrics at the end; default: the kind's")
    run.add_argument("--recipe-file", type=Path, default=trials.RECIPES, help="recipes to compare, as TOML")
    table.add_argument("--json", action="store_true", help="also as one JSON object on stdout")
    return parser


def names(text: str) -> list[str]:
    """The names in a text with commas."""
    return [name.strip() for name in text.split(",") if name.strip()]


def numbers(text: str) -> list[int]:
    """The seeds in a text with commas.

    Raises:
        ArgumentTypeError: one is not a whole number from 0 on.
    """
    if not all(name.isdecimal() for name in names(text)):
        raise argparse.ArgumentTypeError(f"`{text}`: seeds are whole numbers, as in 0,1,2")
    return [int(name) for name in names(text)]


def positive(text: str) -> float:
    """The finite number above 0 in a text.

    Raises:
        ArgumentTypeError: it is none.
    """
    try:
        number = float(text)
    except ValueError:
        number = math.nan
    if not 0 < number < math.inf:
        raise argparse.ArgumentTypeError(f"`{text}` is not a finite number above 0")
    return number


def count(text: str) -> int:
    """The whole number from 1 on in a text.

    Raises:
        ArgumentTypeError: it is none.
    """
    if not text.isdecimal() or int(text) < 1:
        raise argparse.ArgumentTypeError(f"`{text}` is not a whole number from 1 on")
    return int(text)


def run_all(options: argparse.Namespace) -> None:
    """Every requested recipe and seed, seed by seed, so that an unfinished matrix has all recipes of the first seeds.

    Raises:
        UsageError: a kind or a recipe is unknown, or a recipe has a setting that cannot be; before the first run.
    """
    recipes = trials.read_recipes(options.recipe_file)
    selected = trials.select(recipes, options.kinds, options.recipes)
    todo = list[Trial]()
    for name in options.kinds:
        shards = _prepared(name, options)
        if shards is None:
            continue
        budget = Budget(cpu_seconds=options.cpu_seconds)
        if options.cpu_seconds is None:
            budget = Budget(flops=options.flops or KINDS[name].flops)
        todo += [
            Trial(name, recipe, seed, recipes[name][recipe], budget, shards)
            for seed in options.seeds
            for recipe in selected[name]
        ]
    for trial in todo:
        trial.preset(1)
    for number, trial in enumerate(todo, start=1):
        console.info(f"{number} of {len(todo)}: `{trial.recipe}` of {trial.kind}, seed {trial.seed}")
        _unless_locked(trial, options, lambda trial=trial: _run(trial, options))


def _prepared(kind: str, options: argparse.Namespace) -> Path | None:
    """The shards of a kind; None without its raw data, which the table then says."""
    skipped = options.out / kind / report.SKIPPED
    try:
        shards = kinds.prepare(KINDS[kind], options.data, options.out, options.items)
    except MissingError as error:
        trials.write_result(skipped, {"reason": error.message})
        console.warn(f"{kind} is skipped: {error.message}; {error.hint}")
        return None
    skipped.unlink(missing_ok=True)
    return shards


def _unless_locked(trial: Trial, options: argparse.Namespace, work: Callable[[], T]) -> T | None:
    """The result of some work on a trial; None where another process does it."""
    lock = beside(trial.folder(options.out), ".lock")
    try:
        with file_lock.try_lock(lock):
            try:
                return work()
            finally:
                lock.unlink(missing_ok=True)
    except BlockingIOError:
        console.info("another process is at it")
        return None


def _run(trial: Trial, options: argparse.Namespace) -> None:
    result = runs.run(trial, options.out, options.limit)
    if result["problem"] is None:
        scores.evaluate(trial, KINDS[trial.kind], options.out, options.num)


def show(options: argparse.Namespace) -> None:
    """Print the tables.

    Raises:
        MissingError: the folder has no results.
    """
    comparisons = report.compare(options.out)
    if not comparisons and not report.skipped(options.out):
        raise MissingError(
            f"`{options.out}` has no results", hint="make them with `run`, or name their folder with `--out`"
        )
    console.reserve_stdout(options.json)
    report.show(options.out, comparisons)
    console.print_json(report.to_plain(options.out, comparisons), as_json=options.json)


if __name__ == "__main__":
    torch.set_num_threads(1)  # of evaluations and the classifier; a run sets its own
    sys.exit(main())
