"""Training: resumed runs, what a run tells, what stops it."""

from __future__ import annotations

import json
import os
import resource
import shutil
import signal
from dataclasses import replace
from pathlib import Path

import pytest
import safetensors.torch
import torch

from inrflow_core import models
from inrflow_core.errors import Diverged, IntegrityError, Interrupted, MissingError, UsageError
from inrflow_core.methods import flow
from inrflow_core.planning import flops
from inrflow_core.runs import checkpoint_manifest, run
from inrflow_core.runtime.distributed import World
from inrflow_core.sampling import sample
from inrflow_core.sets import TrainBatch
from inrflow_core.training import engine, run_folder, setup
from inrflow_core.training.interruption import StopSignal
from inrflow_core.training.trainer import Trainer
from tests import tiny
from tests.training import small


@pytest.fixture(scope="module")
def data(tmp_path_factory) -> Path:
    return small.images(tmp_path_factory.mktemp("trainer") / "shards")


@pytest.fixture(scope="module")
def unbroken(data, tmp_path_factory):
    """A run of six steps that nothing disturbed, and its folder."""
    out = tmp_path_factory.mktemp("unbroken") / "run"
    return small.train(data, out), out


@pytest.mark.parametrize("stage", [0, 1, 2, pytest.param(3, marks=pytest.mark.slow)])
def test_a_resumed_run_equals_an_unbroken_one_to_the_bit(data, tmp_path, unbroken, stage):
    whole = unbroken[0] if stage == 1 else small.train(data, tmp_path / "whole", zero_stage=stage)
    small.train(data, tmp_path / "run", zero_stage=stage, until=3)
    resumed = small.train(data, tmp_path / "run", zero_stage=stage)
    small.assert_equal(small.state(resumed), small.state(whole))
    assert resumed.counters == whole.counters
    assert small.losses(tmp_path / "run") == small.losses(whole.out)


def test_a_run_may_go_on_in_another_stage_and_other_micro_batches(data, tmp_path, unbroken):
    small.train(data, tmp_path / "run", zero_stage=0, until=2, micro_batch=1)
    small.train(data, tmp_path / "run", zero_stage=2, until=4)
    result = small.train(data, tmp_path / "run", zero_stage=1, micro_batch=2)
    assert small.losses(tmp_path / "run") == pytest.approx(small.losses(unbroken[1]), rel=1e-5)
    small.assert_equal(small.state(result), small.state(unbroken[0]), tolerance=1e-4)


def test_a_longer_run_at_a_constant_rate_is_the_same_run(data, tmp_path, unbroken):
    small.train(data, tmp_path / "run", steps=3)
    resumed = small.train(data, tmp_path / "run", steps=6)
    small.assert_equal(small.state(resumed), small.state(unbroken[0]))


@pytest.mark.parametrize("stage", [1, pytest.param(3, marks=pytest.mark.slow)])
def test_looking_at_a_run_changes_nothing_of_it(data, tmp_path, unbroken, stage):
    preset = small.preset(
        data={"path": str(data), "held_out": "val"},
        training={
            "held_out_every": 2,
            "held_out_sets": 7,
            "samples_every": 3,
            "samples": 2,
            "save_every": 2,
            "keep": 2,
            "zero_stage": stage,
        },
    )
    watched = setup.train(setup.TrainJob(preset, tmp_path / "run", data=data, device="cpu", threads=1))
    small.assert_equal(small.state(watched), small.state(unbroken[0]), tolerance=0 if stage == 1 else 1e-5)
    assert [path.name for path in sorted((tmp_path / "run/samples").iterdir())] == ["00000003.png", "00000006.png"]
    assert checkpoint_manifest.complete_steps(tmp_path / "run") == [4, 6]
    records = [json.loads(line) for line in (tmp_path / "run/log.jsonl").read_text().splitlines()]
    held_out = {record["step"]: record for record in records if "held_out_loss" in record}
    assert list(held_out) == [2, 4, 6] and held_out[2]["held_out_of"] == "ema 0.9"
    assert watched.held_out_loss() == held_out[6]["held_out_loss"]


def test_a_kill_while_a_preview_is_drawn_loses_no_step(data, tmp_path, monkeypatch):
    def killed(*_: object, **__: object) -> None:
        raise KeyboardInterrupt

    monkeypatch.setattr(sample, "preview", killed)
    with pytest.raises(KeyboardInterrupt):
        small.train(data, tmp_path / "run", samples_every=4, save_every=2)
    assert checkpoint_manifest.complete_steps(tmp_path / "run")[-1] == 4


def test_every_average_follows_the_weights_by_its_decay(data, tmp_path, monkeypatch):
    seen: list[list[torch.Tensor]] = []
    step = engine.Engine.step

    def spy(self, rate):
        if not seen:
            seen.append([weight.detach().clone() for weight in self.local_weights()])
        norm = step(self, rate)
        seen.append([weight.detach().clone() for weight in self.local_weights()])
        return norm

    monkeypatch.setattr(engine.Engine, "step", spy)
    trainer = small.train(data, tmp_path / "run", ema=[0.9, 0.5])
    assert len(seen) == 7
    for average in trainer.averages:
        expected = seen[0]
        for weights in seen[1:]:
            expected = [average.decay * a + (1 - average.decay) * w for a, w in zip(expected, weights, strict=True)]
        torch.testing.assert_close(average.values, expected, rtol=1e-5, atol=1e-6)


def test_the_held_out_loss_is_the_mean_over_the_split_by_the_average(data, tmp_path):
    preset = small.preset(data={"path": str(data), "held_out": "val"}, training={"held_out_every": 6})
    trainer = setup.train(setup.TrainJob(preset, tmp_path / "run", data=data, device="cpu", threads=1))
    assert trainer.held_out is not None
    model = sample.load(tmp_path / "run", ema=0.9, device="cpu")
    sets = trainer.held_out.batch(0, range(10), augment=False)
    assert trainer.held_out_loss() == pytest.approx(
        float(model.method.loss(TrainBatch.from_sets(sets)).mean()), rel=1e-6
    )


def test_a_run_tells_what_it_learned_from_and_how_fast(unbroken):
    trainer, out = unbroken
    last = run.open_run(out).last_record()
    assert last["step"] == 6 and last["samples_seen"] == 24 and last["learning_rate"] == 1e-2
    sets = trainer.loader.batch(0, range(1), augment=False)
    with flops.counter() as counted:
        trainer.model.method.loss(TrainBatch.from_sets(sets))
    assert last["flops"] == pytest.approx(6 * 4 * 3 * counted.get_total_flops())
    assert 0 <= last["data_wait"] <= 1 and last["samples_per_second"] > 0 and last["skipped"] == 0
    environment = json.loads((out / "environment.json").read_text())
    assert environment["precision"] == "fp32" and environment["threads"] == 1 and environment["processes"] == 1
    assert run.open_run(out).preset == trainer.model.preset


def test_every_line_tells_the_steps_since_the_last_and_what_is_left(data, tmp_path, monkeypatch):
    norms, losses = [], []
    backward, step = engine.Engine.backward, engine.Engine.step
    monkeypatch.setattr(engine.Engine, "step", lambda self, rate: norms.append(step(self, rate)) or norms[-1])
    monkeypatch.setattr(engine.Engine, "backward", lambda *given: losses.append(backward(*given)) or losses[-1])
    small.train(data, tmp_path / "run", log_every=3, steps=7)
    first, second, last = records = [json.loads(line) for line in (tmp_path / "run/log.jsonl").read_text().splitlines()]
    assert [record["step"] for record in records] == [3, 6, 7]
    assert [record["gradient_norm"] for record in records] == [norms[2], norms[5], norms[6]]
    assert second["loss"] == pytest.approx(float(sum(losses[3:6])) / 3, rel=1e-6)
    assert [record["samples_seen"] for record in records] == [12, 24, 28]
    for record in records:
        left = (7 - record["step"]) * 4
        assert record["seconds_left"] * record["samples_per_second"] == pytest.approx(left)
        assert 1e8 < record["memory"] <= resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024
    named = {"step", "loss", "gradient_norm", "learning_rate", "samples_per_second", "samples_seen", "flops"}
    assert set(first) == set(last) == named | {"data_wait", "memory", "skipped", "seconds_left"}


def test_tensorboard_has_every_number_of_the_log(unbroken):
    pytest.importorskip("tensorboard")
    from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

    board = EventAccumulator(str(unbroken[1] / "tensorboard")).Reload()
    records = [json.loads(line) for line in (unbroken[1] / "log.jsonl").read_text().splitlines()]
    assert set(board.Tags()["scalars"]) == set(records[0]) - {"step"}
    for name in board.Tags()["scalars"]:
        result = [(event.step, event.value) for event in board.Scalars(name)]
        assert result == [(record["step"], pytest.approx(record[name], rel=1e-6)) for record in records]


def test_a_checkpoint_is_enough_to_sample_from(unbroken):
    trainer, out = unbroken
    for decay, name in ((None, "weights"), (0.9, "ema_0.9"), (0.99, "ema_0.99")):
        model = models.load(out / "checkpoints/00000006" / f"{name}.safetensors")
        assert (
            model.metadata["step"] == 6
            and model.metadata["decay"] == decay
            and model.metadata["classes"] == ["up", "down", "flat"]
        )
    whole = dict(trainer.model.method.state_dict())
    small.assert_equal(safetensors.torch.load_file(out / "checkpoints/00000006/weights.safetensors"), whole)


def test_a_run_begins_with_the_weights_of_another(data, tmp_path, unbroken):
    source = unbroken[1]
    job = small.job(data, tmp_path / "run", seed=5)
    trainer = setup.build_trainer(setup.check_job(setup.TrainJob(job.preset, job.out, data=data, init_from=source), {}))
    assert trainer.log is not None
    trainer.log.close()
    expected = safetensors.torch.load_file(source / "checkpoints/00000006/ema_0.9.safetensors")
    small.assert_equal(dict(trainer.model.method.state_dict()), expected)


@pytest.mark.parametrize(("file", "is_noted"), [("ema_0.9", True), ("weights", False)])
def test_initial_weights_that_hardly_trained_are_noted(data, tmp_path, unbroken, file, is_noted):
    said: list[str] = []
    source = unbroken[1] / f"checkpoints/00000006/{file}.safetensors"
    job = replace(small.job(data, tmp_path / "run", steps=2), init_from=source, say=said.append)
    trainer = setup.build_trainer(setup.check_job(job, {}))
    assert trainer.log is not None
    trainer.log.close()
    assert any("53% of the initial weights; name `weights.safetensors`" in text for text in said) == is_noted


def test_a_run_resumes_only_from_the_weights_that_it_was_begun_with(data, tmp_path, unbroken):
    source = unbroken[1] / "checkpoints/00000006"
    average, raw = source / "ema_0.9.safetensors", source / "weights.safetensors"

    def train(out: str, init_from: Path | None) -> Trainer:
        return setup.train(replace(small.job(data, tmp_path / out, steps=2), init_from=init_from))

    train("random", None)
    with pytest.raises(UsageError, match="was begun with random weights, not with those of"):
        train("random", average)
    train("run", average)
    for same in (average, unbroken[1], None):
        assert train("run", same).counters.step == 2
    with pytest.raises(UsageError, match="was begun with other weights than those of"):
        train("run", raw)
    shutil.rmtree(tmp_path / "run/checkpoints/00000002")  # as if killed before the first one was complete
    with pytest.raises(UsageError, match="has no checkpoint yet, and this command names no weights"):
        train("run", None)
    small.assert_equal(small.state(train("run", average)), small.state(train("other", average)))


def test_a_finished_run_is_left_alone(data, tmp_path, unbroken):
    out = unbroken[1]
    before = {path: path.read_bytes() for path in (out / "checkpoints").rglob("*") if path.is_file()}
    again = small.train(data, out)
    assert again.counters.step == 6
    assert {path: path.read_bytes() for path in (out / "checkpoints").rglob("*") if path.is_file()} == before


def test_a_run_beyond_the_steps_of_its_settings_is_refused_and_one_beyond_until_has_nothing_to_do(data, unbroken):
    with pytest.raises(UsageError, match="has done 6 steps, and its settings would end at 5"):
        small.train(data, unbroken[1], steps=5)
    assert setup.check_job(small.job(data, unbroken[1], until=1), {}).last == 6


def test_a_run_with_other_settings_is_refused_and_the_setting_is_named(data, unbroken):
    with pytest.raises(UsageError, match=r"begun with \[training\] `batch` = 4, and this command says 2"):
        small.train(data, unbroken[1], batch=2)


def test_a_run_with_other_data_is_refused(tmp_path, unbroken):
    other = small.images(tmp_path / "shards", count=24)
    with pytest.raises(UsageError, match="begun with other data"):
        small.train(other, unbroken[1])


def test_settings_that_divide_or_tell_may_change_and_those_that_decide_may_not():
    was = small.preset()

    def changed(**settings) -> list[str]:
        return [key for _, key, _, _ in run_folder.differences(was, small.preset(training=settings))]

    assert changed(micro_batch=1, zero_stage=2, keep=1, log_every=3, save_every=9, steps=99) == []
    assert changed(clip=1.0) == ["clip"] and changed(seed=1) == ["seed"] and changed(ema=[0.9]) == ["ema"]
    assert changed(schedule="cosine") == ["schedule"]


def test_bf16_is_recorded_and_near_fp32_with_weights_in_fp32(data, tmp_path, unbroken):
    from inrflow_core.runtime import device

    if not device.has_bf16(torch.device("cpu")):
        pytest.skip("this CPU has no bf16 arithmetic")
    trainer = small.train(data, tmp_path / "run", precision="bf16")
    assert small.losses(tmp_path / "run") == pytest.approx(small.losses(unbroken[1]), rel=0.05)
    assert small.losses(tmp_path / "run") != small.losses(unbroken[1])
    assert json.loads((tmp_path / "run/environment.json").read_text())["precision"] == "bf16"
    assert {tensor.dtype for tensor in small.state(trainer).values()} == {torch.float32}


def test_one_bad_set_is_skipped_and_counted(tmp_path):
    data = small.clouds(tmp_path / "shards", bad=slice(0, 1))
    trainer = small.train(data, tmp_path / "run", kind=tiny.POINTS, steps=8, max_skipped=1)
    assert trainer.counters.skipped == 2 and trainer.counters.step == 8  # 16 examples, 4 a step: twice in 8 steps
    assert trainer.engine.num_updates == 6
    assert all(bool(torch.isfinite(tensor).all()) for tensor in small.state(trainer).values())
    assert sum(loss is None for loss in small.losses(tmp_path / "run")) == 2


def test_a_run_without_finite_steps_stops_with_the_exit_code_for_it(tmp_path):
    data = small.clouds(tmp_path / "shards", bad=slice(None))
    with pytest.raises(Diverged, match="3 steps in a row had no finite gradient, the last is step 3") as caught:
        small.train(data, tmp_path / "run", kind=tiny.POINTS, max_skipped=2)
    assert caught.value.code == 7 and "`--overwrite`" in (caught.value.hint or "")
    with pytest.raises(Diverged) as caught:
        small.train(data, tmp_path / "saved", kind=tiny.POINTS, max_skipped=2, save_every=2)
    assert f"from step 2 of this one: `--init-from {tmp_path}/saved`" in (caught.value.hint or "")


def test_absent_shards_are_named_with_folder_and_command(tmp_path):
    with pytest.raises(
        MissingError, match=r"looked for the shards of the preset `tiny` in .*none.*does not exist"
    ) as caught:
        small.train(tmp_path / "none", tmp_path / "run")
    assert caught.value.hint == "make them with `inrflow prepare none`, or name another place with `--data`"
    assert not (tmp_path / "run").exists()


@pytest.mark.parametrize(
    ("changes", "says"),
    [
        ({"kind": tiny.POINTS}, "hold images, and the preset `tiny` learns point clouds"),
        ({"kind": {**tiny.IMAGE, "condition": {"classes": 5}}}, "learns 5 classes, and the shards in .* have 3"),
        (
            {"kind": {**tiny.IMAGE, "domain": {"name": "image", "resolution": 12, "channels": 1}}},
            "36 pairs of 1 numbers",
        ),
        (
            {"kind": {**tiny.IMAGE, "data": {"held_out": "tset"}}, "held_out_every": 1},
            "no split `tset` for the held-out",
        ),
        ({"held_out_every": 5}, "`held_out_every` is 5, and .data. names no split for that loss"),
    ],
)
def test_data_that_do_not_fit_are_refused_before_the_first_step(data, tmp_path, changes, says):
    with pytest.raises(UsageError, match=says):
        small.train(data, tmp_path / "run", **changes)
    assert not (tmp_path / "run").exists()


def test_shards_without_classes_are_refused_by_a_preset_with_classes(tmp_path):
    data = small.images(tmp_path / "shards", classes=())
    with pytest.raises(UsageError, match="learns 3 classes, and the shards in .* have none"):
        small.train(data, tmp_path / "run")


def test_a_flipped_byte_in_a_shard_is_found_before_the_first_step(tmp_path):
    data = small.images(tmp_path / "shards")
    content = bytearray((data / "train-00000.h5").read_bytes())
    content[-5] ^= 1
    (data / "train-00000.h5").write_bytes(content)
    with pytest.raises(IntegrityError, match="train-00000.h5` is damaged"):
        small.train(data, tmp_path / "run")


def test_a_run_in_which_another_process_trains_is_not_replaced(data, tmp_path):
    out = tmp_path / "run"
    small.train(data, out, steps=2)
    before = {path: path.read_bytes() for path in (out / "checkpoints").rglob("*") if path.is_file()}
    with run_folder.lock(out):
        for overwrite in (False, True):
            with pytest.raises(UsageError, match="another process is training"):
                setup.train(replace(small.job(data, out, steps=4), overwrite=overwrite))
    assert {path: path.read_bytes() for path in (out / "checkpoints").rglob("*") if path.is_file()} == before
    assert len(small.losses(out)) == 2


def test_overwrite_removes_what_a_run_wrote_and_nothing_else(data, tmp_path):
    out = tmp_path / "run"
    small.train(data, out, steps=2)
    mine = [out / name for name in ("notes.txt", "samples/mine.npz", "checkpoints/best of all/weights.bin")]
    for path in mine:
        path.parent.mkdir(exist_ok=True)
        path.write_bytes(b"mine")
    setup.train(replace(small.job(data, out, steps=3), overwrite=True))
    assert all(path.read_bytes() == b"mine" for path in mine)
    assert len(small.losses(out)) == 3 and [path.name for path in sorted(out.glob("checkpoints/0*"))] == ["00000003"]


def test_overwrite_refuses_a_folder_without_a_run(data, tmp_path):
    out = tmp_path / "project"
    for name in ("samples/00000001.png", "checkpoints/00000100/model.bin", "log.jsonl", "preset.toml"):
        (out / name).parent.mkdir(parents=True, exist_ok=True)
        (out / name).write_text("mine")
    before = {path: path.read_bytes() for path in out.rglob("*") if path.is_file()}
    with pytest.raises(UsageError, match="holds no run that `--overwrite` could replace"):
        setup.train(replace(small.job(data, out, steps=3), overwrite=True))
    assert {path: path.read_bytes() for path in out.rglob("*") if path.is_file()} == before


def test_a_folder_that_holds_something_else_is_left_alone(data, tmp_path):
    (tmp_path / "run").mkdir()
    (tmp_path / "run/thesis.txt").write_text("mine")
    with pytest.raises(UsageError, match="exists and holds no run"):
        small.train(data, tmp_path / "run")


@pytest.mark.parametrize("file", [None, "environment.json", ".preset.toml.7.partial", run_folder.LOCK])
def test_what_a_kill_at_the_start_leaves_does_not_prevent_a_start(data, tmp_path, unbroken, file):
    out = tmp_path / "run"
    for name in ("samples", "checkpoints"):
        (out / name).mkdir(parents=True)
    if file is not None:
        (out / file).write_text("{")
    small.train(data, out)
    assert small.losses(out) == small.losses(unbroken[1])
    assert not list(out.rglob("*.partial"))


def test_a_method_that_needs_its_weights_whole_refuses_stage_3(data, tmp_path, monkeypatch):
    monkeypatch.setattr(flow.FlowMatching, "CAN_SHARD_WEIGHTS", False)
    with pytest.raises(UsageError, match="needs them whole") as caught:
        small.train(data, tmp_path / "run", zero_stage=3)
    assert caught.value.hint == "take stage 2: `--set training.zero_stage=2`" and not (tmp_path / "run").exists()


@pytest.mark.parametrize("name", ['a"b', "a\\b", "a\nb"])
def test_a_run_is_read_whatever_the_name_of_its_preset(data, tmp_path, name):
    job = small.job(data, tmp_path / "run", steps=1)
    setup.train(replace(job, preset=replace(job.preset, name=name)))
    assert run.open_run(tmp_path / "run").preset_name == name
    assert sample.load(tmp_path / "run", device="cpu").metadata["step"] == 1


def test_an_average_with_a_warm_up_resumes_to_the_bit(data, tmp_path):
    whole = small.train(data, tmp_path / "whole", ema_warmup=10)
    small.train(data, tmp_path / "run", ema_warmup=10, until=3)
    small.assert_equal(small.state(small.train(data, tmp_path / "run", ema_warmup=10)), small.state(whole))


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGHUP, signal.SIGUSR1])
def test_signals_of_a_terminal_and_of_a_queue_save_and_stop(data, tmp_path, number):
    before = {number: signal.getsignal(number) for number in (signal.SIGTERM, signal.SIGHUP, signal.SIGUSR1)}
    trainer = setup.build_trainer(setup.check_job(small.job(data, tmp_path / "run"), {}))
    trainer.report = lambda record: os.kill(os.getpid(), number) if record["step"] == 2 else None
    with pytest.raises(Interrupted, match="after step 2, which is saved"):
        trainer.run(6)
    assert run.open_run(tmp_path / "run").steps == (2,)
    assert {number: signal.getsignal(number) for number in before} == before


def test_a_second_sighup_does_not_end_the_process_before_it_has_saved():
    said = []
    with StopSignal(said.append, World(0, 1, 0, torch.device("cpu"), False)) as stop:
        for _ in range(3):
            os.kill(os.getpid(), signal.SIGHUP)
        assert stop.is_stop_requested() and len(said) == 1


def test_sighup_stays_ignored_where_it_is():
    before = signal.signal(signal.SIGHUP, signal.SIG_IGN)
    try:
        with StopSignal(lambda text: None, World(0, 1, 0, torch.device("cpu"), False)) as stop:
            os.kill(os.getpid(), signal.SIGHUP)
            assert not stop.is_stop_requested()
    finally:
        signal.signal(signal.SIGHUP, before)


def test_training_follows_a_folder_that_is_moved_saves_there_and_stops(data, tmp_path):
    trainer = setup.build_trainer(setup.check_job(small.job(data, tmp_path / "run"), {}))
    said = []
    trainer.say = said.append
    trainer.report = lambda record: (tmp_path / "run").rename(tmp_path / "moved") if record["step"] == 2 else None
    with pytest.raises(Interrupted, match=f"after step 3, which is saved in `{tmp_path / 'moved'}`"):
        trainer.run(6)
    assert f"--out {tmp_path / 'moved'}" in "".join(said)
    assert not (tmp_path / "run").exists()
    resumed, whole = small.train(data, tmp_path / "moved"), small.train(data, tmp_path / "whole")
    small.assert_equal(small.state(resumed), small.state(whole))


def test_a_folder_that_is_removed_while_the_run_trains_is_an_error(data, tmp_path):
    trainer = setup.build_trainer(setup.check_job(small.job(data, tmp_path / "run"), {}))
    trainer.report = lambda record: shutil.rmtree(tmp_path / "run") if record["step"] == 2 else None
    with pytest.raises(MissingError, match="was removed while the run trained"):
        trainer.run(6)


def test_a_run_none_of_whose_steps_was_applied_has_diverged(tmp_path):
    data = small.clouds(tmp_path / "shards", bad=slice(None))
    with pytest.raises(Diverged, match="none of the 6 steps had a finite gradient"):
        small.train(data, tmp_path / "run", kind=tiny.POINTS)


@pytest.mark.parametrize(("steps", "warmup", "is_much"), [(6, None, True), (6, 10, False), (60, None, False)])
def test_an_average_of_mostly_initial_weights_is_noted(steps, warmup, is_much):
    built = tiny.model(tiny.IMAGE, training={"steps": steps, "ema": [0.9], "ema_warmup": warmup or "none"})
    note = sample.note_on_average(built.preset, {"decay": 0.9, "step": steps})
    assert (note is not None) == is_much
    assert note is None or ("53%" in note and "`--ema 0`" in note)
    assert sample.note_on_average(built.preset, {"decay": None, "step": steps}) is None
