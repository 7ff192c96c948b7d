"""Metrics while a model is trained: they change nothing, they are those of `inrflow eval`, and the best is kept."""

from __future__ import annotations

import json
import os
import shutil
import signal
import subprocess
import sys
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from inrflow_cli import app, console
from inrflow_core.config import toml
from inrflow_core.config.preset import load, names, override, read, resolve
from inrflow_core.errors import IntegrityError, Interrupted, MissingError, UsageError
from inrflow_core.evaluation import evaluator, gather, metric_specs, pairwise_distances, results
from inrflow_core.runs.best import Best, read_best, record_best
from inrflow_core.runs.checkpoint_manifest import complete_steps
from inrflow_core.runs.run import open_run
from inrflow_core.sample_files import collection, readers
from inrflow_core.sampling import labels, sample
from inrflow_core.sampling.request import SampleRequest
from inrflow_core.shards.batch import Batch
from inrflow_core.training import periodic_eval, run_folder, setup
from inrflow_core.training.data import open_data
from inrflow_core.training.periodic_eval import REFERENCE_FILES, EvalResult
from inrflow_core.training.setup import TrainJob
from inrflow_core.training.trainer import Trainer
from tests import tiny
from tests.training import small

CHECKOUT = Path(__file__).parents[2]
IMAGE = {
    "domain": {"name": "image", "resolution": 8, "channels": 1},  # random features take no smaller ones
    "network": {**tiny.IMAGE["network"], "latents": 16},
}
KINDS = {"image": (IMAGE, "train"), "points": (tiny.POINTS, "val")}
KILLED = """
import os, signal, sys
from dataclasses import replace
from pathlib import Path
from inrflow_cli import app, console
from inrflow_core.evaluation.evaluator import Evaluator
from inrflow_core.training import setup, trainer
from tests.training import test_periodic_eval

data, out, place = Path(sys.argv[1]), Path(sys.argv[2]), sys.argv[3]
owner, name = {"evaluation": (Evaluator, "score"), "record": (trainer, "record_best")}[place]
calls, kept = [], getattr(owner, name)

def deadly(*given, **named):
    calls.append(given)
    if len(calls) == int(sys.argv[4]):
        os.kill(os.getpid(), signal.SIGKILL)
    return kept(*given, **named)

setattr(owner, name, deadly)
setup.train(test_periodic_eval.job("image", data, out))
"""


@pytest.fixture(scope="module")
def data(tmp_path_factory) -> dict[str, Path]:
    """Shards by domain."""
    parent = tmp_path_factory.mktemp("evaluation")
    return {"image": small.images(parent / "images", side=8), "points": small.clouds(parent / "clouds")}


def job(
    domain: str, data: Path, out: Path, *, training: Any = None, until: int | None = None, **settings: Any
) -> TrainJob:
    """Six steps, every second one evaluated on eight samples; `settings` are those of [eval]."""
    tables: dict[str, Any] = {
        "eval": {"every": 2, "num": 8, **settings},
        "training": {"steps": 6, "keep": 1, "save_every": 4, **(training or {})},
    }
    return TrainJob(small.preset(KINDS[domain][0], **tables), out, data=data, device="cpu", threads=1, until=until)


def records(out: Path) -> list[dict[str, Any]]:
    """What the evaluations of a run reported."""
    lines = [json.loads(line) for line in (out / "log.jsonl").read_text().splitlines()]
    return [line for line in lines if "eval" in line]


@pytest.fixture(scope="module")
def unbroken(data, tmp_path_factory) -> dict[str, Trainer]:
    """A run of each domain that nothing disturbed."""
    parent = tmp_path_factory.mktemp("unbroken")
    return {domain: setup.train(job(domain, data[domain], parent / domain)) for domain in KINDS}


@pytest.mark.parametrize("domain", KINDS)
def test_a_run_that_is_evaluated_has_the_weights_of_one_that_is_not(data, tmp_path, unbroken, domain):
    plain = job(domain, data[domain], tmp_path / "run")
    plain = replace(plain, preset=replace(plain.preset, eval=None))
    small.assert_equal(small.state(setup.train(plain)), small.state(unbroken[domain]))
    assert not records(tmp_path / "run") and not (tmp_path / "run/best.json").exists()


@pytest.mark.parametrize("domain", KINDS)
def test_the_values_are_those_that_the_checkpoint_gets_afterwards(data, tmp_path, unbroken, domain):
    out = unbroken[domain].out
    reported = records(out)
    assert [record["step"] for record in reported] == [2, 4, 6]
    for step in open_run(out).steps:
        model = sample.load(out, step=step, device="cpu")
        seeds = range(8)
        request = SampleRequest(seeds, labels.resolve_labels(model, seeds))
        values = np.concatenate([part for _, part in sample.iter_samples(model, request)])
        arrays: dict[str, Any] = {"images" if domain == "image" else "points": values}
        np.savez(tmp_path / "samples.npz", **arrays)
        scorer = evaluator.Evaluator(
            readers.open_collection(data[domain], KINDS[domain][1]),
            gather.EvaluationSettings(tmp_path / f"kept-{step}"),
        )
        subject = results.EvaluatedSamples("samples", readers.open_collection(tmp_path / "samples.npz"))
        selected = metric_specs.parse_metrics(model.domain.DEFAULT_METRICS, domain)
        result = {metric.full: scorer.score(subject, metric, selected).value for metric in selected}
        (record,) = [record for record in reported if record["step"] == step]
        assert record["eval"] == pytest.approx(result, rel=1e-9) and len(result) == 4
        assert record["eval_of"] == "ema 0.9" and "seeds 0 to 7 against" in record["eval_by"]


@pytest.mark.parametrize("domain", KINDS)
@pytest.mark.parametrize("until", [3, 4])
def test_a_resumed_run_tells_and_keeps_what_an_unbroken_one_does(data, tmp_path, unbroken, domain, until):
    setup.train(job(domain, data[domain], tmp_path / "run", until=until))
    resumed = setup.train(job(domain, data[domain], tmp_path / "run"))
    small.assert_equal(small.state(resumed), small.state(unbroken[domain]))
    assert records(tmp_path / "run") == records(unbroken[domain].out)
    assert resumed.best == unbroken[domain].best == read_best(tmp_path / "run")


@pytest.mark.parametrize("domain", KINDS)
def test_the_best_is_kept_beside_the_newest_and_every_other_is_pruned(unbroken, domain):
    trainer = unbroken[domain]
    metric = trainer.best.metric if trainer.best else ""
    values = {record["step"]: record["eval"][metric] for record in records(trainer.out)}
    best = min(values, key=lambda step: values[step])
    assert trainer.best is not None and (trainer.best.step, trainer.best.value) == (best, values[best])
    run = open_run(trainer.out)
    assert run.steps == tuple(sorted({best, 6})) and run.best() == trainer.best
    assert run.checkpoint("best").name == f"{best:08d}"
    assert sample.load(trainer.out, step="best", device="cpu").metadata["step"] == best
    assert [record["best_step"] for record in records(trainer.out)][-1] == best


def scored(monkeypatch: pytest.MonkeyPatch, *values: float) -> None:
    """Evaluations find these values, one after the other."""
    left = iter(values)
    monkeypatch.setattr(
        periodic_eval.Evaluation, "find", lambda self, model: EvalResult({self.best.full: next(left)}, ())
    )


def test_a_checkpoint_that_stays_the_best_outlives_the_newer_ones(data, tmp_path, monkeypatch):
    scored(monkeypatch, 3.0, 1.0, 2.0, float("nan"), 1.0, 4.0)
    trainer = setup.train(job("image", data["image"], tmp_path / "run", every=1, training={"save_every": 1}))
    assert complete_steps(tmp_path / "run") == [2, 6]
    assert trainer.best is not None and trainer.best.step == 2
    assert [record["best_step"] for record in records(tmp_path / "run")] == [1, 2, 2, 2, 2, 2]
    assert [record["eval"]["fid:random"] for record in records(tmp_path / "run")] == [3.0, 1.0, 2.0, None, 1.0, 4.0]


def test_a_metric_that_is_better_high_keeps_the_highest(data, tmp_path):
    trainer = setup.train(job("points", data["points"], tmp_path / "run", metrics=["mmd", "cov"], best="cov"))
    values = {record["step"]: record["eval"]["cov:cd:inrflow"] for record in records(tmp_path / "run")}
    assert trainer.best is not None and trainer.best.value == max(values.values())
    assert trainer.best.step == min(step for step in values if values[step] == trainer.best.value)


def test_a_run_that_resumes_from_an_earlier_step_forgets_the_later_best(data, tmp_path, monkeypatch):
    out, training = tmp_path / "run", {"keep": 3, "save_every": 2}
    scored(monkeypatch, 3.0, 2.0, 1.0, 2.5)
    setup.train(job("image", data["image"], out, training=training))
    assert complete_steps(out) == [2, 4, 6] and open_run(out).checkpoint("best").name == "00000006"
    shutil.rmtree(out / "checkpoints/00000006")
    resumed = setup.train(job("image", data["image"], out, training=training))
    assert resumed.best is not None and (resumed.best.step, resumed.best.value) == (4, 2.0)
    assert read_best(out) == resumed.best and [record["best_step"] for record in records(out)] == [2, 4, 4]


def test_a_best_whose_record_was_lost_or_broken_is_found_in_the_log(data, tmp_path, unbroken):
    out = unbroken["image"].out
    expected = read_best(out)
    for damage in (lambda path: path.unlink(), lambda path: path.write_text("{")):
        damage(out / "best.json")
        again = setup.train(job("image", data["image"], out))
        assert again.best == expected == read_best(out)


def test_values_by_other_samples_are_not_compared(data, tmp_path, unbroken):
    ready = setup.check_job(job("image", data["image"], tmp_path / "run"), {})
    one = ready.evaluation
    assert one is not None
    low, high = EvalResult({one.best.full: 1.0}, ()), EvalResult({one.best.full: 2.0}, ())
    best = one.better(2, low, None)
    assert best is not None and best == Best(2, "fid:random", 1.0, one.by) and one.better(4, high, best) is best
    assert one.better(4, low, best) is best, "the earlier one of two equals"
    other = one.better(4, high, replace(best, by="seeds 0 to 99"))
    assert other is not None and other.step == 4
    assert one.better(4, EvalResult({one.best.full: None}, ("why",)), best) is best


def test_a_resumed_run_may_change_what_is_evaluated(data, tmp_path):
    out = tmp_path / "run"
    setup.train(job("points", data["points"], out, until=2))
    first = next(iter((out / "references").iterdir()))
    changed = job("points", data["points"], out, every=3, num=6, metrics=["one-nna", "mmd"], reference=5)
    assert run_folder.differences(open_run(out).preset, changed.preset) == []
    trainer = setup.train(changed)
    assert [record["step"] for record in records(out)] == [2, 3, 6]
    assert "5 of `val`" in records(out)[-1]["eval_by"] and list(records(out)[-1]["eval"])[0] == "one-nna:cd:inrflow"
    assert trainer.best is not None and trainer.best.metric == "one-nna:cd:inrflow" and trainer.best.step in (3, 6)
    assert not first.exists()


def test_a_run_that_is_not_a_longer_evaluated_keeps_its_best(data, tmp_path):
    out = tmp_path / "run"
    best = setup.train(job("image", data["image"], out, until=2)).best
    plain = job("image", data["image"], out)
    setup.train(replace(plain, preset=replace(plain.preset, eval=None)))
    assert best is not None and read_best(out) == best
    assert complete_steps(out) == sorted({best.step, 6})


def test_later_evaluations_add_nothing_to_what_the_first_kept_of_the_reference(data, tmp_path):
    out = tmp_path / "run"
    setup.train(job("points", data["points"], out, until=2))
    (folder,) = (out / "references").iterdir()
    before = {path: path.read_bytes() for path in folder.rglob("*") if path.is_file()}
    assert folder / REFERENCE_FILES in before and len(before) == 4  # across, among the samples, among the reference
    setup.train(job("points", data["points"], out))
    assert {path: path.read_bytes() for path in folder.rglob("*") if path.is_file()} == before


def test_samples_that_are_not_finite_are_reported_and_stop_nothing(data, tmp_path):
    expected = job("points", data["points"], tmp_path / "run")
    tables = expected.preset.table()
    tables["method"]["guidance"] = 1e39  # no number of 32 bits
    trainer = setup.train(replace(expected, preset=resolve("tiny", tables)))
    assert trainer.counters.step == 6 and trainer.best is None
    for record in records(tmp_path / "run"):
        assert record["note"] == "the samples left the finite numbers on their way" and record["best_step"] is None
        assert list(record["eval"].values()) == [None] * 4
    with pytest.raises(MissingError, match="has no best checkpoint") as caught:
        sample.load(tmp_path / "run", step="best", device="cpu")
    assert caught.value.code == 3 and "eval.every" in (caught.value.hint or "")


def test_one_metric_that_fails_leaves_the_others(data, tmp_path, monkeypatch):
    score = evaluator.Evaluator.score

    def failing(self, samples, metric, all_metrics=()):
        if metric.name == "kid":
            raise UsageError("too few", hint=None)
        return score(self, samples, metric, all_metrics)

    monkeypatch.setattr(evaluator.Evaluator, "score", failing)
    setup.train(job("image", data["image"], tmp_path / "run", until=2))
    (record,) = records(tmp_path / "run")
    assert record["eval"]["kid:random"] is None and record["eval"]["fid:random"] > 0 and record["note"] == "too few"


def test_only_the_presets_classes_and_the_requested_number_are_the_reference(data, tmp_path):
    tables = job("image", data["image"], tmp_path / "run").preset.table()
    tables["data"]["classes"] = ["flat", "up"]
    tables["condition"]["classes"] = 2
    preset = resolve("tiny", tables)
    loader, _ = open_data(preset, data["image"])
    one = periodic_eval.prepare(preset, loader.shards, tmp_path / "run", "cpu")
    assert one is not None and one.reference.count == 13
    assert set(one.reference.read(range(13)).labels.tolist()) == {0, 2}
    fewer = resolve("tiny", {**tables, "eval": {"every": 1, "reference": 3, "metrics": ["fid:random"]}})
    three = periodic_eval.prepare(fewer, loader.shards, tmp_path / "run", "cpu")
    assert three is not None and three.reference.count == 3 and three.reference.digest != one.reference.digest
    whole = one.reference.read(range(13))
    assert isinstance(whole, Batch)
    assert three.reference.read(range(3)).names == [whole.names[index] for index in (0, 6, 12)]


@pytest.mark.parametrize(
    ("domain", "settings", "says", "code"),
    [
        ("image", {"metrics": ["fdi"]}, "no metric is called `fdi`", 2),
        ("image", {"metrics": ["mmd"]}, "`mmd` evaluates point clouds", 2),
        ("points", {"metrics": ["mmd"], "best": "cov"}, r"`best` is `cov`, and `metrics` does not name it", 2),
        ("points", {"split": "tset"}, r"no split `tset` for \[eval\]", 2),
        ("image", {"metrics": ["psnr"]}, "compares each sample with its own reference", 2),
        ("points", {"metrics": ["paired-cd"]}, "compares each sample with its own reference", 2),
        ("image", {"reference": 3}, "`precision:random` needs 4 or more, and `reference` gives it 3", 2),
        ("image", {"every": 0}, "`every` is 0: it must be at least 1", 2),
        ("image", {"num": 1}, "`num` is 1: it must be at least 2", 2),
        ("image", {"weights": "nowhere"}, "folder of weights `nowhere` .* does not exist", 3),
        ("image", {"metrics": ["fid:clean"]}, "inception", 3),
    ],
)
def test_what_cannot_be_computed_is_found_before_the_first_step(data, tmp_path, domain, settings, says, code):
    with pytest.raises((UsageError, MissingError), match=says) as caught:
        setup.check_job(job(domain, data[domain], tmp_path / "run", **settings), {})
    assert caught.value.code == code and not (tmp_path / "run").exists()


@pytest.mark.parametrize("name", [name for name in names() if "eval" in read(name)[1]])
def test_the_metrics_of_every_preset_are_of_its_domain_and_need_no_weights(name):
    preset = load(name)
    assert preset.eval is not None
    selected = metric_specs.parse_metrics(preset.eval.config.metrics, preset.domain.name)
    assert len(selected) == len(preset.eval.config.metrics) > 1
    assert all(spec.network == "random" for metric in selected for spec in metric.inputs.features)


def test_a_reference_that_no_metric_can_be_taken_of_is_found_before_the_first_step(tmp_path):
    data = small.images(tmp_path / "images")
    with pytest.raises(UsageError, match="images of 6 x 6 are too small for random features"):
        setup.check_job(TrainJob(small.preset(eval={"every": 1}), tmp_path / "run", data=data, device="cpu"), {})
    data = small.clouds(tmp_path / "clouds", bad=slice(20, 21))
    with pytest.raises(IntegrityError, match="not finite"):
        setup.check_job(job("points", data, tmp_path / "run"), {})
    assert not (tmp_path / "run").exists()


def test_the_estimate_is_of_as_many_points_as_the_model_samples(tmp_path, monkeypatch):
    data, counted = small.clouds(tmp_path / "clouds"), []
    expected = job("points", data, tmp_path / "run")
    sampled = expected.preset.domain.config.num_points
    predict = pairwise_distances.estimate_cost
    monkeypatch.setattr(
        pairwise_distances,
        "estimate_cost",
        lambda a, b, *given, **named: (counted.append((a.shape[1], b.shape[1])), predict(a, b, *given, **named))[1],
    )
    monkeypatch.setattr(collection.ShardCollection, "shape", (10 * sampled, 3))  # shards keep more than a model learns
    monkeypatch.setattr(pairwise_distances, "TRIAL_SECONDS", 1e-9)
    setup.check_job(expected, {})
    assert counted and set(counted) == {(sampled, sampled)}


def test_a_gpu_without_room_costs_the_value_and_not_the_training(data, tmp_path, monkeypatch):
    def full(self, subject, metric, together=()):
        raise torch.OutOfMemoryError("CUDA out of memory")

    monkeypatch.setattr(evaluator.Evaluator, "score", full)
    trainer = setup.train(job("image", data["image"], tmp_path / "run", until=2))
    (record,) = records(tmp_path / "run")
    assert trainer.counters.step == 2 and record["note"] == "the GPU has no room for it"


def test_a_preset_without_the_table_is_written_without_it_and_one_may_be_taken_out():
    preset = small.preset(eval={"every": 5})
    assert resolve("tiny", preset.table()) == preset and "eval" not in small.preset().table()
    assert override(preset.table(), ["eval=none"]) == small.preset().table()
    added = resolve("tiny", override(small.preset().table(), ["eval.every=7"]))
    assert added.eval is not None and added.eval.config.every == 7
    with pytest.raises(UsageError, match=r"\[eval\] needs the setting `every`"):
        small.preset(eval={"num": 4})


def test_a_broken_record_of_the_best_is_named(tmp_path):
    tiny.run_folder(tmp_path / "run", tiny.IMAGE)
    (tmp_path / "run/best.json").write_text('{"step": 2}')
    with pytest.raises(IntegrityError, match="is damaged: `metric` is missing"):
        sample.load(tmp_path / "run", step="best", device="cpu")
    record_best(tmp_path / "run", Best(9, "fid:random", 1.0, "seeds"))
    with pytest.raises(MissingError, match="has no checkpoint of step 9"):
        sample.load(tmp_path / "run", step="best", device="cpu")


def test_tensorboard_shows_the_metrics_in_one_group(unbroken):
    pytest.importorskip("tensorboard")
    from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

    out = unbroken["image"].out
    board = EventAccumulator(str(out / "tensorboard")).Reload()
    result = [(event.step, event.value) for event in board.Scalars("eval/fid:random")]
    expected = [(record["step"], pytest.approx(record["eval"]["fid:random"], rel=1e-6)) for record in records(out)]
    assert result == expected
    assert [event.value for event in board.Scalars("best_step")] == [record["best_step"] for record in records(out)]


def test_an_interruption_inside_an_evaluation_saves_the_step_and_its_record(data, tmp_path, monkeypatch, unbroken):
    score, came = evaluator.Evaluator.score, []

    def interrupted(self, subject, metric, together=()):
        if len(records(tmp_path / "run")) == 1 and not came:
            came.append(metric)
            os.kill(os.getpid(), signal.SIGINT)
        return score(self, subject, metric, together)

    monkeypatch.setattr(evaluator.Evaluator, "score", interrupted)
    with pytest.raises(Interrupted, match="after step 4, which is saved") as caught:
        setup.train(job("image", data["image"], tmp_path / "run"))
    assert caught.value.code == 130 and [record["step"] for record in records(tmp_path / "run")] == [2, 4]
    setup.train(job("image", data["image"], tmp_path / "run"))
    assert records(tmp_path / "run") == records(unbroken["image"].out)


@pytest.mark.slow
@pytest.mark.parametrize(("place", "call"), [("evaluation", 10), ("record", 3)])
def test_a_run_killed_in_an_evaluation_or_before_its_record_resumes_as_if_nothing_had_been(
    data, tmp_path, unbroken, place, call
):
    script = tmp_path / "killed.py"
    script.write_text(KILLED)
    arguments = [str(script), str(data["image"]), str(tmp_path / "run"), place, str(call)]
    environment = os.environ | {"OMP_NUM_THREADS": "1", "PYTHONPATH": str(CHECKOUT)}
    done = subprocess.run([sys.executable, *arguments], cwd=CHECKOUT, env=environment, capture_output=True, text=True)
    assert done.returncode == -signal.SIGKILL, done.stderr
    before = open_run(tmp_path / "run")
    assert before.checkpoint("best").is_dir()
    resumed = setup.train(job("image", data["image"], tmp_path / "run"))
    small.assert_equal(small.state(resumed), small.state(unbroken["image"]))
    assert records(tmp_path / "run") == records(unbroken["image"].out)
    assert read_best(tmp_path / "run") == unbroken["image"].best
    assert complete_steps(tmp_path / "run") == complete_steps(unbroken["image"].out)


TWO = """
import os, sys
from pathlib import Path
from inrflow_core.runtime import process_group
from inrflow_core.training import setup
from tests.training import test_periodic_eval

data, out = Path(sys.argv[1]), Path(sys.argv[2])
for stage in map(int, sys.argv[3].split(",")):
    job = test_periodic_eval.job("image", data, out / f"stage{stage}", training={"zero_stage": stage})
    ready = setup.check_job(job, dict(os.environ))
    setup.build_trainer(ready).run(ready.last)
process_group.exit_process(ready.world, 0)
"""


@pytest.mark.slow
def test_two_processes_find_what_one_does_in_every_stage(data, tmp_path, unbroken):
    script = tmp_path / "two.py"
    script.write_text(TWO)
    launch = [sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc_per_node", "2"]
    environment = os.environ | {"OMP_NUM_THREADS": "1", "PYTHONPATH": str(CHECKOUT)}
    done = subprocess.run(
        [*launch, str(script), str(data["image"]), str(tmp_path), "1,3"],
        cwd=CHECKOUT, env=environment, capture_output=True, text=True,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    expected = records(unbroken["image"].out)
    for stage in (1, 3):
        result = records(tmp_path / f"stage{stage}")
        assert [record["step"] for record in result] == [2, 4, 6]
        for mine, theirs in zip(result, expected, strict=True):
            # Rounding of another order moves a few pixels of 8 bits by one.
            assert mine["eval"]["fid:random"] == pytest.approx(theirs["eval"]["fid:random"], rel=1e-2)
            assert mine["best_step"] == theirs["best_step"]
        assert complete_steps(tmp_path / f"stage{stage}") == complete_steps(unbroken["image"].out)


def run(*arguments: object) -> int:
    """A command's exit code."""
    console.stderr.cache_clear()
    return app.run([str(argument) for argument in arguments])


def test_the_commands_take_the_best_checkpoint_and_list_it(tmp_path, unbroken, capsys, monkeypatch):
    out, best = unbroken["points"].out, unbroken["points"].best
    assert best is not None
    assert run("sample", tmp_path / "a.npz", "--run", out, "--checkpoint", "best", "--json") == 0
    reported = json.loads(capsys.readouterr().out)
    assert reported["origin"]["step"] == str(best.step)
    assert run("upsample", tmp_path / "b.npz", "--run", out, "--checkpoint", "best", "--points", 30) == 0
    assert run("export", out, tmp_path / "c.safetensors", "--checkpoint", "best") == 0
    capsys.readouterr()
    monkeypatch.setenv("COLUMNS", "240")
    assert run("runs", out.parent, "--json") == 0
    captured = capsys.readouterr()
    result = {Path(row["run"]).name: row["best"] for row in json.loads(captured.out)["runs"]}
    assert result["points"]["step"] == best.step and result["points"]["value"] == best.value
    assert f"fid:random {result['image']['value']:.4g} at {result['image']['step']}" in captured.err
    assert run("sample", tmp_path / "d.npz", "--run", out, "--checkpoint", "bets") == 2
    assert "error: `--checkpoint bets` is not a checkpoint" in capsys.readouterr().err
    tiny.run_folder(tmp_path / "plain", tiny.POINTS)
    assert run("sample", tmp_path / "d.npz", "--run", tmp_path / "plain", "--checkpoint", "best") == 3
    assert f"error: the run `{tmp_path}/plain` has no best checkpoint" in capsys.readouterr().err


def test_the_command_prints_its_result(data, tmp_path, capsys):
    file = tmp_path / "small.toml"
    file.write_text(toml.to_toml(job("image", data["image"], tmp_path).preset.table()))
    command = ["train", "--preset", file, "--data", data["image"], "--out", tmp_path / "run", "--device", "cpu"]
    assert run(*command, "--set", "eval.metrics=['fid:random']", "--stop-at-step", 2) == 0
    (record,) = records(tmp_path / "run")
    assert f"fid:random {record['eval']['fid:random']:.4g}, the best so far" in capsys.readouterr().err
    assert run(*command, "--set", "eval.metrics=['mmd']") == 2
    assert "`mmd` evaluates point clouds" in capsys.readouterr().err
