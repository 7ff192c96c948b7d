"""The comparison of recipes: arithmetic of its tables, keys of its runs, and a whole small matrix that is done once."""

from __future__ import annotations

import dataclasses
import itertools
import json
import math
from pathlib import Path

import pytest

from inrflow_core.config.toml import to_toml
from inrflow_core.errors import MissingError, UsageError
from tools.recipes import __main__ as recipes
from tools.recipes import kinds, report, runs, tables, trials
from tools.recipes.kinds import KINDS
from tools.recipes.trials import Budget, Trial

SMALL = {
    "data": {"path": "shards/solids", "held_out": "val"},
    "domain": {"name": "points", "num_points": 24},
    "method": {"name": "flow"},
    "network": {
        **{"name": "set-transformer", "width": 16, "depth": 1, "heads": 2, "latents": 4, "encoder": "perceiver"},
        **{"num_frequencies": 4},
    },
    "condition": {"name": "label", "classes": 8},
    "sampler": {"name": "euler", "steps": 2},
    "training": {"steps": 1, "batch": 4, "ema": [0.9], "precision": "fp32", "held_out_sets": 4},
    "eval": {"every": 1, "metrics": ["mmd:cd"], "num": 4, "reference": 4},
}


def curve(*values: float, seconds: float = 1.0) -> list[dict[str, float]]:
    """Points at 100, 200, ... FLOPs and as many times `seconds`."""
    return [{"flops": 100.0 * n, "cpu_seconds": seconds * n, "value": value} for n, value in enumerate(values, start=1)]


def test_a_curve_reaches_a_value_on_the_line_between_two_points():
    assert tables.crossing([100, 200, 400], [4.0, 3.0, 1.0], 2.5) == 250
    assert tables.crossing([100, 200, 400], [4.0, 3.0, 1.0], 3.0) == 200
    assert tables.crossing([100, 200, 400], [4.0, 3.0, 1.0], 5.0) == 100
    assert tables.crossing([100, 200, 400], [4.0, 3.0, 1.0], 0.9) is None
    assert tables.crossing([100, 200], [0.2, 0.6], 0.5, higher_is_better=True) == pytest.approx(175)


def test_the_first_crossing_counts_where_a_curve_rises_again():
    assert tables.crossing([1, 2, 3, 4], [4.0, 2.0, 3.0, 1.0], 2.5) == 1.75


def test_intervals_are_those_of_students_t():
    three = tables.mean([1.0, 2.0, 3.0])
    assert three.half_width == pytest.approx(4.302653 / math.sqrt(3), rel=1e-6)
    assert (three.value, three.includes(4.4), three.includes(4.5)) == (2.0, True, False)
    assert tables.mean([1.5]) == tables.Mean(1.5, None, 1)
    assert tables.mean([1.5]).includes(1.5) is None


def test_shares_of_compute_are_of_the_mean_run_of_the_paper_recipe():
    paper = [curve(4, 3, 2, 1), curve(4, 3, 2, 2)]
    reached = tables.reach([curve(3, 1.5, 0.5), curve(2.5, 0.5)], paper)
    assert reached["flops"].shares == [0.5, 0.375]
    reached = tables.reach([curve(3, 1.5, 0.5, seconds=3)], paper)
    assert reached["cpu_seconds"].shares == [1.5]
    assert reached["flops"].mean == tables.Mean(0.5, None, 1)


def test_a_value_that_one_seed_misses_is_not_reached():
    reached = tables.reach([curve(3, 1), curve(3, 2)], [curve(4, 1.5)])["flops"]
    assert (reached.shares, reached.mean, reached.verdict) == ([0.875, None], None, "not reached")
    assert reached.text == "1 of 2 seeds"
    assert tables.reach([curve(3, 2)], [curve(4, 1.5)])["flops"].text == "not reached"


@pytest.mark.parametrize(
    ("shares", "verdict"),
    [
        ([0.5, 0.52, 0.51], "less"),
        ([0.8, 1.1, 0.9], "noise"),
        ([1.5, 1.52, 1.51], "more"),
        ([0.5], "one seed: no interval"),
    ],
)
def test_an_interval_that_includes_1_is_noise(shares, verdict):
    assert tables.Reach(shares).verdict == verdict


def result(recipe: str, seed: int, *values: float, objective: str = "a") -> dict:
    """A result as a run leaves it."""
    return {
        **{"recipe": recipe, "seed": seed, "key": f"{recipe}{seed}", "group": recipe, "paper_group": "paper"},
        **{"objective": objective, "problem": None, "steps": 4, "budget": {"flops": 400.0, "cpu_seconds": None}},
        **{"flops": 400.0, "cpu_seconds": 4.0, "losses": curve(*values), "metrics": {"mmd:cd:inrflow": curve(*values)}},
    }


def test_losses_of_another_objective_are_not_compared():
    paper, coupled = [result("paper", 0, 4, 3, 2)], [result("coupled", 0, 2, 1, 0.5, objective="b")]
    assert list(report.reached(coupled, paper)) == ["mmd:cd:inrflow"]
    assert list(report.reached(paper, paper)) == [report.LOSS, "mmd:cd:inrflow"]


def test_runs_with_problems_are_named_and_in_no_mean(tmp_path, capsys):
    stopped = {**result("paper", 1, 9), "problem": "stopped after step 1"}
    for one in (result("paper", 0, 4, 3, 2), stopped, result("quick", 0, 4, 2, 1)):
        trials.write_result(tmp_path / "solids" / f"{one['key']}.run.json", one)
    not_finite = {"key": "quick0", "num": 8, "scores": [], "problem": "not finite"}
    trials.write_result(tmp_path / "solids/quick-0-eval-1.json", not_finite)
    trials.write_result(tmp_path / "flowers" / report.SKIPPED, {"reason": "no `flower*photo*` below `data`"})
    assert recipes.main(["table", "--out", str(tmp_path), "--json"]) == 0
    shown = capsys.readouterr()
    answer = json.loads(shown.out)
    (comparison,) = answer["comparisons"]
    assert comparison["rows"][0]["scores"] == []
    assert [(row["recipe"], row["seeds"]) for row in comparison["rows"]] == [("paper", [0]), ("quick", [0])]
    assert comparison["rows"][1]["reached"][report.LOSS]["flops"]["shares"] == [pytest.approx(2 / 3)]
    assert comparison["problems"] == ["paper, seed 1: stopped after step 1", "quick, seed 0: not finite"]
    assert answer["skipped"] == {"flowers": "no `flower*photo*` below `data`"}
    assert "another" not in shown.err


def test_a_renamed_recipe_is_not_another_seed(tmp_path):
    for seed in (0, 1):
        one = result("paper", seed, 4, 2 + seed, 1)
        for name, problem in (("paper", None), ("same", None), ("stopped", "stopped after step 1")):
            trials.write_result(
                tmp_path / f"solids/{name}-{seed}.run.json", {**one, "recipe": name, "problem": problem}
            )
            score = {"metric": "mmd:cd", "unit": "", "value": 1.0 + seed, "samples": 8}
            trials.write_result(
                tmp_path / f"solids/{name}-{seed}-eval-1.json", {"key": one["key"], "scores": [score], "problem": None}
            )
    (comparison,) = report.compare(tmp_path)
    (row,) = comparison.rows
    assert (row.name, len(row.runs), row.loss.count, comparison.problems) == ("paper", 2, 2, [])
    assert [mean.count for mean in row.scores.values()] == [2]


def test_lines_of_many_metrics_are_as_wide_as_a_terminal(tmp_path, capsys, monkeypatch):
    monkeypatch.setenv("COLUMNS", "80")
    names = ("fid:random", "kid:random", "mmd:cd", "one-nna:cd")
    for recipe, seed in itertools.product(("paper", "late-times"), (0, 1)):
        one = result(recipe, seed, 4.123, 3.123 + seed, 2.123)
        scores = [{"metric": name, "unit": "10^-3", "value": 23.45 + seed, "samples": 1000} for name in names]
        trials.write_result(tmp_path / f"mnist/{recipe}-{seed}.run.json", one)
        evaluated = {"key": one["key"], "scores": scores, "problem": None}
        trials.write_result(tmp_path / f"mnist/{recipe}-{seed}-eval-1.json", evaluated)
    assert recipes.main(["table", "--out", str(tmp_path)]) == 0
    lines = capsys.readouterr().out.splitlines()
    assert any(
        "FID ↓ random 10^-3 (1,000)" in line and "late-times" in line and "23.95 ± 6.4" in line for line in lines
    )


def test_a_folder_without_results_is_named(tmp_path, capsys):
    assert recipes.main(["table", "--out", str(tmp_path / "nowhere")]) != 0
    assert "nowhere` has no results" in capsys.readouterr().err


@pytest.mark.parametrize(
    "option", ["--flops=0", "--flops=nan", "--cpu-seconds=-1", "--limit=inf", "--items=0", "--num=0", "--num=-4"]
)
def test_budgets_and_numbers_are_above_0(option, capsys):
    with pytest.raises(SystemExit):
        recipes.main(["run", option])
    assert "above 0" in (shown := capsys.readouterr().err) or "from 1 on" in shown


@pytest.fixture
def shards(tmp_path, monkeypatch) -> Path:
    """A folder with a manifest; the paper recipe of solids is a small one."""
    monkeypatch.setattr(trials, "PRESETS", tmp_path / "presets")
    (tmp_path / "presets").mkdir()
    (tmp_path / "presets/solids.toml").write_text(to_toml(SMALL))
    (tmp_path / "shards").mkdir()
    (tmp_path / "shards/manifest.json").write_text("{}")
    return tmp_path / "shards"


def test_another_setting_budget_seed_or_data_is_another_run(shards):
    trial = Trial("solids", "paper", 0, {}, Budget(flops=1e9), shards)
    others = [
        dataclasses.replace(trial, seed=1),
        dataclasses.replace(trial, changes={"method": {"coupling": "assignment"}}),
        dataclasses.replace(trial, budget=Budget(cpu_seconds=1e9)),
    ]
    key = trial.key
    assert len({key, *(other.key for other in others)}) == 4
    assert dataclasses.replace(trial, recipe="same").key == key
    assert [other.group == trial.group for other in others] == [True, False, False]
    assert [other.paper_group == trial.group for other in others] == [True, True, False]
    (shards / "manifest.json").write_text("{ }")
    assert trial.key != key


def test_settings_that_the_loss_depends_on_make_another_objective(shards):
    trial = Trial("solids", "paper", 0, {}, Budget(flops=1e9), shards)
    is_equal = [
        dataclasses.replace(trial, changes=changes).objective() == trial.objective()
        for changes in (
            {"network": {"depth": 1}},
            {"method": {"coupling": "assignment"}},
            {"method": {"time_shift": 2.0}},
        )
    ]
    assert is_equal == [True, False, False]


def test_the_recipes_of_the_repository_have_settings_that_exist(tmp_path):
    (tmp_path / "manifest.json").write_text("{}")
    for kind, recipes_of_kind in trials.read_recipes().items():
        assert next(iter(recipes_of_kind)) == trials.PAPER
        for name, changes in recipes_of_kind.items():
            preset = Trial(kind, name, 0, changes, Budget(flops=1e9), tmp_path).preset(1000)
            training = preset.training.config
            assert (training.steps, training.log_every, training.held_out_every) == (1000, 10, 50)
            assert preset.eval is not None and preset.eval.config.every == 200


def test_unknown_kinds_and_recipes_are_refused():
    known = trials.read_recipes()
    with pytest.raises(UsageError, match="unknown kind of data `solid`"):
        trials.select(known, ["solid"], [])
    with pytest.raises(UsageError, match="no recipe of mnist is called `skip`"):
        trials.select(known, ["mnist"], ["skip"])
    assert trials.select(known, ["mnist", "proteins"], ["paper", "skip"]) == {
        "mnist": ["paper"],
        "proteins": ["paper", "skip"],
    }


@pytest.mark.parametrize(
    ("text", "problem"),
    [
        ("[mnist.paper]\nmethod.time_shift = 2.0\n", "changes the paper recipe"),
        ("[mnist.same]\n", "changes nothing"),
        ("[digit.late]\n", "has recipes of `digit`"),
    ],
)
def test_files_of_recipes_that_compare_nothing_are_refused(tmp_path, text, problem):
    (tmp_path / "recipes.toml").write_text(text)
    with pytest.raises(UsageError, match=problem):
        trials.read_recipes(tmp_path / "recipes.toml")


def test_raw_data_are_found_by_name_nearest_to_the_top(tmp_path):
    (tmp_path / "a/deeper/mnist").mkdir(parents=True)
    (tmp_path / "a/mnist_idx").mkdir()
    assert kinds.find_source(KINDS["mnist"], tmp_path) == tmp_path / "a/mnist_idx"
    (tmp_path / "out/mnist").mkdir(parents=True)
    (tmp_path / "out/raw/mnist").mkdir(parents=True)
    assert kinds.find_source(KINDS["mnist"], tmp_path, tmp_path / "out") == tmp_path / "a/mnist_idx"
    with pytest.raises(MissingError, match="no `kaykit\\*` below"):
        kinds.find_source(KINDS["clouds"], tmp_path)


def test_a_clock_resumes_at_the_step_of_the_checkpoint(tmp_path):
    file = tmp_path / "clock.jsonl"
    file.write_text("".join(json.dumps({"step": n, "cpu_seconds": 10.0 * n}) + "\n" for n in (1, 2, 3)))
    clock = runs.Clock(file, 2, limit=21.0)
    assert clock.seconds == 20.0
    clock({"step": 2, "held_out_loss": 1.0})
    clock({"step": 3, "loss": 1.0})
    assert 20.0 <= clock.seconds < 21.0
    assert [json.loads(line)["step"] for line in file.read_text().splitlines()] == [1, 2, 3]
    clock.seconds = 22.0
    with pytest.raises(runs.BeyondLimit, match="stopped after step 4: 22 CPU seconds are above the limit of 21"):
        clock({"step": 4, "loss": 1.0})


def test_a_setting_that_does_not_exist_ends_the_command_before_the_first_run(shards, tmp_path, monkeypatch, capsys):
    arguments = matrix(tmp_path)
    (tmp_path / "recipes.toml").write_text("[solids.wider]\nnetwork.breadth = 32\n")
    monkeypatch.setattr(kinds, "prepare", lambda *arguments: shards)
    monkeypatch.setattr(runs, "run", lambda *arguments: pytest.fail("a run began"))
    assert recipes.main(arguments) == 2
    assert "[network] has no setting `breadth`" in capsys.readouterr().err


def matrix(tmp_path: Path, *more: str) -> list[str]:
    """A command of solids, small enough for a test."""
    (tmp_path / "recipes.toml").write_text('[solids.coupled]\nmethod.coupling = "assignment"\n')
    few = ["--kinds", "solids", "--seeds", "0", "--items", "24", "--num", "24"]
    return ["run", "--out", str(tmp_path / "out"), *few, "--recipe-file", str(tmp_path / "recipes.toml"), *more]


@pytest.mark.slow
def test_a_finished_matrix_is_not_repeated(shards, tmp_path, monkeypatch, capsys):
    arguments = matrix(tmp_path, "--flops", "2e7")
    assert recipes.main([*arguments, "--recipes", "paper", "--limit", "1e-9"]) == 0
    (comparison,) = report.compare(tmp_path / "out")
    assert len(comparison.problems) == 1 and not comparison.rows
    assert recipes.main(arguments) == 0
    (comparison,) = report.compare(tmp_path / "out")
    assert [(row.name, len(row.scores)) for row in comparison.rows] == [("paper", 2), ("coupled", 2)]
    (run,) = comparison.rows[0].runs
    assert run["steps"] == int(2e7 / run["flops_per_step"]) > 1
    assert run["losses"][-1]["flops"] == run["steps"] * run["flops_per_step"] <= 2e7
    before = {path: path.read_bytes() for path in (tmp_path / "out").rglob("*.json*")}
    monkeypatch.setattr(runs, "train", lambda *arguments: pytest.fail("a finished run was trained again"))
    assert recipes.main(arguments) == 0
    assert {path: path.read_bytes() for path in (tmp_path / "out").rglob("*.json*")} == before
    capsys.readouterr()


@pytest.mark.slow
def test_a_budget_of_cpu_seconds_plans_steps_from_a_rate_that_is_measured_once(shards, tmp_path, monkeypatch):
    arguments = matrix(tmp_path, "--cpu-seconds", "0.2", "--recipes", "paper")
    assert recipes.main(arguments) == 0
    (file,) = (tmp_path / "out/solids").glob("paper-rate-*.json")
    (comparison,) = report.compare(tmp_path / "out")
    ((run,),) = [row.runs for row in comparison.rows]
    rate = trials.read_result(file)
    assert rate is not None and run["steps"] == int(0.2 / rate["cpu_seconds"])
    assert comparison.budget == {"flops": None, "cpu_seconds": 0.2}
    monkeypatch.setattr(runs, "train", lambda *arguments: pytest.fail("a rate was measured again"))
    trial = Trial("solids", "paper", 1, {}, Budget(cpu_seconds=0.2), tmp_path / "out/shards/solids-24")
    assert runs.plan_steps(trial, tmp_path / "out")[0] == run["steps"]
