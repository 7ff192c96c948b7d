"""What a stage leaves for a later one: one process at a time computes it, counted on the disk, read in place of values."""

from __future__ import annotations

import shutil
import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from inrflow_core.errors import OutOfMemory, UsageError
from inrflow_core.methods._contract import Stage
from inrflow_core.runs import checkpoint_manifest
from inrflow_core.shards.shard_file import ShardFile
from inrflow_core.training import precompute, run_folder, setup
from inrflow_core.training.setup import TrainJob
from tests import own_methods
from tests.training import small, staged_runs

SET_BYTES = 3 * 3 * 2 * 2
"""Latents of one set, float16."""


@pytest.fixture(autouse=True)
def _found_by_name(monkeypatch):
    own_methods.install(monkeypatch.setattr)


@pytest.fixture(scope="module")
def data(tmp_path_factory) -> Path:
    return small.images(tmp_path_factory.mktemp("precompute") / "shards", side=staged_runs.SIDE)


@pytest.fixture(scope="module")
def run_of_first_stage(data, tmp_path_factory) -> Path:
    """A run that stopped after the last step of its first stage, before anything was precomputed."""
    out = tmp_path_factory.mktemp("first-stage") / "run"
    with pytest.MonkeyPatch.context() as patch:
        own_methods.install(patch.setattr)
        setup.train(job(data, out, until=3))
    return out


@pytest.fixture(scope="module")
def run_of_second_stage(data, run_of_first_stage, tmp_path_factory) -> Path:
    """That run after one step of its second stage."""
    out = shutil.copytree(run_of_first_stage, tmp_path_factory.mktemp("second-stage") / "run")
    with pytest.MonkeyPatch.context() as patch:
        own_methods.install(patch.setattr)
        setup.train(job(data, out, until=4))
    return out


def job(data: Path, out: Path, until: int | None = None, **changes: Any) -> TrainJob:
    """A job of the method of latents; its second stage begins after step 3."""
    preset = staged_runs.preset("adversarial", **changes)
    return TrainJob(preset, out, data=data, device="cpu", threads=1, until=until)


def patch_encode(monkeypatch: pytest.MonkeyPatch, before: Any) -> None:
    """Call `before` whenever sets are precomputed, but not when planning traces that."""
    latent = staged_runs.preset("adversarial").method.module.Latent
    compute = latent.precompute

    def wrapped(self, name, sets):
        if type(sets.values) is torch.Tensor:
            before()
        return compute(self, name, sets)

    monkeypatch.setattr(latent, "precompute", wrapped)


@pytest.mark.parametrize("is_resumed", [False, True])
def test_a_run_that_precomputes_refuses_another_process(
    data, run_of_first_stage, run_of_second_stage, tmp_path, monkeypatch, is_resumed
):
    out, refused = tmp_path / "run", []
    shutil.copytree(run_of_second_stage if is_resumed else run_of_first_stage, out)
    shutil.rmtree(out / "precomputed", ignore_errors=True)

    def train_again() -> None:
        with pytest.raises(UsageError, match="another process is training in"):
            setup.train(job(data, out))
        refused.append(True)

    patch_encode(monkeypatch, lambda: refused or train_again())
    assert setup.train(job(data, out, until=5)).counters.step == 5 and refused
    assert not (out / run_folder.LOCK).exists()


def test_another_process_that_holds_the_lock_is_named_and_a_kill_releases_it(data, tmp_path):
    out = tmp_path / "run"
    out.mkdir()
    lock = (
        "import fcntl, sys; f = open(sys.argv[1], 'a+'); fcntl.flock(f, fcntl.LOCK_EX); print(1, flush=True); input()"
    )
    command = [sys.executable, "-c", lock, str(out / run_folder.LOCK)]
    with subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE) as holder:
        assert holder.stdout is not None and holder.stdout.readline()
        with pytest.raises(UsageError, match=f"another process is training in `{out}`"):
            setup.train(job(data, out))
        assert [path.name for path in out.iterdir()] == [run_folder.LOCK]
        holder.kill()
    with run_folder.lock(out):
        pass


def test_the_lock_is_released_when_a_run_fails_and_a_new_folder_goes(data, tmp_path, monkeypatch):
    def fail(ready: Any) -> None:
        raise UsageError("damaged", hint=None)

    monkeypatch.setattr(setup, "_check_shards", fail)
    with pytest.raises(UsageError, match="damaged"):
        setup.train(job(data, tmp_path / "run"))
    assert not (tmp_path / "run").exists()


def test_a_run_that_another_process_trained_since_it_was_read_is_refused(data, run_of_first_stage, tmp_path):
    out = tmp_path / "run"
    ready = setup.check_job(job(data, out), {})
    shutil.copytree(run_of_first_stage, out)
    with pytest.raises(UsageError, match="another process trained in .* while this one started"):
        setup.build_trainer(ready)


def test_the_disk_check_counts_what_is_precomputed_until_it_is_there(data, tmp_path, monkeypatch):
    ready = setup.check_job(job(data, tmp_path / "run"), {})
    disk = max(stage.plan.disk for stage in ready.stages)
    needed = disk + (20 + 10) * SET_BYTES
    for free, is_enough in ((needed, True), (needed - 1, False)):
        monkeypatch.setattr(shutil, "disk_usage", lambda place, free=free: type("Usage", (), {"free": free}))
        if is_enough:
            setup.check_resources(ready)
        else:
            with pytest.raises(OutOfMemory, match=r"the checkpoints and the precomputed inputs \(1.08 kB\) need"):
                setup.check_resources(ready)
    folder = tmp_path / "run" / "precomputed" / "latents-0123456789abcdef"
    folder.mkdir(parents=True)
    (folder / "train-00000.h5").write_bytes(bytes(30 * SET_BYTES))
    monkeypatch.setattr(shutil, "disk_usage", lambda place: type("Usage", (), {"free": disk}))
    setup.check_resources(ready)


def test_a_stage_of_precomputed_inputs_reads_no_value_of_the_data(data, run_of_second_stage, tmp_path, monkeypatch):
    shutil.copytree(run_of_second_stage, tmp_path / "run")
    trainer = setup.train(job(data, tmp_path / "run", until=4))
    reads: dict[str, int] = {}
    read = ShardFile.read

    def counted(self, rows, index, out, count=1):
        reads[self.path.parent.name] = reads.get(self.path.parent.name, 0) + count
        return read(self, rows, index, out, count)

    monkeypatch.setattr(ShardFile, "read", counted)
    batch = trainer.loader.batch(7, range(2))
    (folder,) = (tmp_path / "run" / "precomputed").iterdir()
    assert reads == {folder.name: 2} and batch.values.shape == (2, 9, 2)
    assert torch.equal(batch.condition["label"], super_labels(trainer.loader))


def super_labels(loader: Any) -> torch.Tensor:
    """The labels of the examples of that batch, from the data."""
    examples, _ = loader.order(7, range(2))
    return torch.from_numpy(np.asarray(loader.shards.read("train", examples).labels))


def test_progress_of_a_resumed_computation_counts_what_this_call_computes(
    data, run_of_first_stage, tmp_path, monkeypatch
):
    shutil.copytree(run_of_first_stage, tmp_path / "run")
    monkeypatch.setattr(precompute, "SHARD_SETS", 4)
    monkeypatch.setattr(precompute, "SECONDS_BETWEEN_LINES", -1.0)

    def interrupt() -> None:
        if len(list((tmp_path / "run" / "precomputed").rglob("train-*.h5"))) == 3:
            raise KeyboardInterrupt

    with monkeypatch.context() as patch:
        patch_encode(patch, interrupt)
        with pytest.raises(KeyboardInterrupt):
            setup.train(job(data, tmp_path / "run"))
    lines: list[str] = []
    setup.train(TrainJob(**{**vars(job(data, tmp_path / "run", until=4)), "say": lines.append}))
    progress = [line.partition(" sets")[0] for line in lines if line.startswith("`latents`")]
    assert progress == [f"`latents`: {n} of 8" for n in (4, 8)] + [f"`latents`: {n} of 10" for n in (4, 8, 10)]


def test_shards_of_other_weights_stay_until_a_checkpoint_of_the_new_stage_exists(
    data, run_of_first_stage, tmp_path, monkeypatch
):
    out = shutil.copytree(run_of_first_stage, tmp_path / "run")
    older = out / "precomputed" / "latents-0000000000000000"
    older.mkdir(parents=True)
    there: list[tuple[list[int], bool]] = []
    save = setup.Trainer.save

    def saved(self) -> None:
        there.append((checkpoint_manifest.complete_steps(out), older.exists()))
        save(self)

    monkeypatch.setattr(setup.Trainer, "save", saved)
    setup.train(job(data, out, until=4))
    assert there == [([3], True)] and checkpoint_manifest.complete_steps(out) == [3, 4] and not older.exists()


def test_the_held_out_loss_is_that_of_the_stages_first_optimizer_whatever_its_name(data, tmp_path, monkeypatch):
    module = staged_runs.preset("adversarial").method.module
    autoencoder = Stage("autoencoder", {"reconstruction": ("encoder", "decoder"), "adversary": ("critic",)})
    for owner in (module, module.Latent):
        monkeypatch.setattr(owner, "STAGES", (autoencoder, module.STAGES[1]))
    optimizers: list[str] = []
    loss = module.Latent.loss

    def recorded(self, batch, state, optimizer="main"):
        optimizers.append(optimizer)
        return loss(self, batch, state, optimizer)

    monkeypatch.setattr(module.Latent, "loss", recorded)
    trainer = setup.train(job(data, tmp_path / "run", until=1, held_out_every=1))
    optimizers.clear()
    reconstruction = trainer.held_out_loss()
    assert set(optimizers) == {"reconstruction"} and reconstruction is not None and reconstruction > 0
