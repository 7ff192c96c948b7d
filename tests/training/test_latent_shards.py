"""The latents that stage 1 of latent diffusion leaves: means and log-variances as float16, and what stage 2 takes of them."""

from __future__ import annotations

import shutil
from pathlib import Path
from typing import Any

import pytest
import torch

from inrflow_core.datasets import occupancy_solids
from inrflow_core.errors import Diverged
from inrflow_core.preparation import job, pipeline
from inrflow_core.shards.shard_dataset import ShardDataset
from inrflow_core.shards.shard_file import ShardFile
from inrflow_core.training import precompute, setup
from inrflow_core.training.setup import TrainJob
from tests import tiny
from tests.training import small, staged_runs

COUNT = 20
"""Training images."""


@pytest.fixture(scope="module")
def data(tmp_path_factory) -> Path:
    return small.images(tmp_path_factory.mktemp("latents") / "shards", side=staged_runs.SIDE)


@pytest.fixture(scope="module")
def run_of_first_stage(data, tmp_path_factory) -> Path:
    """A run that stopped after the last step of its first stage."""
    out = tmp_path_factory.mktemp("first-stage") / "run"
    train(data, out, until=3)
    return out


def train(data: Path, out: Path, until: int | None = None, **settings: Any) -> Any:
    preset = staged_runs.preset("latent")
    return setup.train(TrainJob(preset, out, data=data, device="cpu", threads=1, until=until, **settings))


def folder_of(run: Path) -> Path:
    (folder,) = (run / "precomputed").iterdir()
    return folder


def encoded(trainer: Any) -> tuple[torch.Tensor, torch.Tensor]:
    """Mean and deviation of the latents of all training images, as the encoder makes them."""
    loader, indices = trainer.loader, torch.arange(COUNT)
    sets = loader.domain.to_set(loader.shards.read("train", indices.numpy()), indices)
    with torch.no_grad():
        return trainer.model.method.autoencoder.encode(sets.values)


def test_shards_hold_means_and_log_variances_to_the_accuracy_of_float16(data, run_of_first_stage, tmp_path):
    out = shutil.copytree(run_of_first_stage, tmp_path / "run")
    trainer = train(data, out, until=4)
    stored = ShardDataset(folder_of(out))
    values = torch.from_numpy(stored.read("train", range(COUNT)).values)
    mean, std = encoded(trainer)
    assert stored.manifest.dtype == "float16" and values.dtype == torch.float16
    assert (folder_of(out) / "train-00000.h5").stat().st_size < 2 * values.numel() + 8192
    torch.testing.assert_close(values.float(), torch.cat([mean, 2 * std.log()], -1), rtol=2**-11, atol=1e-5)
    batch = trainer.loader.batch(5, range(4))
    buffer = trainer.loader.buffer(4)
    assert batch.values.dtype == torch.float16 and buffer is not None and buffer.dtype == "float16"


def test_the_variance_of_standardized_latents_is_that_of_drawn_ones(data, run_of_first_stage, tmp_path):
    out = shutil.copytree(run_of_first_stage, tmp_path / "run")
    method = (trainer := train(data, out, until=4)).model.method
    mean, std = encoded(trainer)
    noise = torch.randn(4000, *mean.shape, generator=torch.Generator().manual_seed(0))
    drawn = ((mean + std * noise - method.latent_mean) / method.latent_std).flatten(0, 2)
    torch.testing.assert_close(drawn.mean(0), torch.zeros(3), rtol=0, atol=0.01)
    torch.testing.assert_close(drawn.std(0), torch.ones(3), rtol=0.01, atol=0)
    exact = (mean.var((0, 1), correction=0) + std.square().mean((0, 1))).sqrt()
    torch.testing.assert_close(method.latent_std, exact, rtol=1e-3, atol=0)


def test_a_latent_beyond_float16_is_named_and_never_stored(data, run_of_first_stage, tmp_path, monkeypatch):
    out = shutil.copytree(run_of_first_stage, tmp_path / "run")
    module = staged_runs.preset("latent").method.module
    compute = module.LatentDiffusion.precompute

    def enlarged(self, name, sets):
        values = compute(self, name, sets)
        return torch.where(torch.arange(len(values))[:, None, None] == 2, 70_000.0, values)

    monkeypatch.setattr(module.LatentDiffusion, "precompute", enlarged)
    with pytest.raises(Diverged, match="`latents` of set 2 are as large as 7e[+]04: .* float16, up to 65,504"):
        train(data, out)
    assert not list((out / "precomputed").rglob("*.h5"))


def test_latents_that_were_stored_otherwise_are_computed_again(data, run_of_first_stage, tmp_path, monkeypatch):
    out = shutil.copytree(run_of_first_stage, tmp_path / "run")
    with monkeypatch.context() as patch:
        patch.setattr(precompute, "FORMAT", 1)
        train(data, out, until=4)
    old = folder_of(out)
    for shard in old.glob("*.h5"):
        shard.write_bytes(b"of an older inrflow")
    train(data, out)
    assert folder_of(out) != old and not old.exists()


def test_the_second_stage_has_the_same_losses_after_a_kill(data, run_of_first_stage, tmp_path):
    whole, cut = (shutil.copytree(run_of_first_stage, tmp_path / name) for name in ("whole", "cut"))
    expected = small.state(train(data, whole))
    train(data, cut, until=4)
    shard = folder_of(cut) / "train-00000.h5"
    content = shard.read_bytes()
    shard.write_bytes(content[:-9])
    said: list[str] = []
    resumed = train(data, cut, say=said.append)
    assert any(f"`{shard}` is damaged" in line and "computing it again" in line for line in said)
    assert shard.read_bytes() == content
    small.assert_equal(small.state(resumed), expected)


def test_the_second_stage_of_shapes_reads_no_surface_query_or_occupancy(tmp_path, monkeypatch):
    config = occupancy_solids.Config(train=8, val=4, points=100, queries=80)
    pipeline.prepare(job.resolve_job("occupancy-solids", out=tmp_path / "shards", config=config), workers=1)
    training = {**small.TRAINING, **staged_runs.TRAINING, "held_out_every": 2}
    domain = {"num_points": 50, "num_queries": 40}
    shapes = tiny.preset(
        tiny.SHAPES, data={"held_out": "val"}, domain=domain, condition={"classes": 8}, training=training
    )
    run = TrainJob(shapes, tmp_path / "run", data=tmp_path / "shards", device="cpu", threads=1, until=4)
    trainer = setup.train(run)
    reads: list[str] = []
    read = ShardFile.read

    def counted(self, rows, index, out, count=1):
        reads.append(self.path.parent.name)
        return read(self, rows, index, out, count)

    monkeypatch.setattr(ShardFile, "read", counted)
    batch = trainer.loader.batch(2, range(4))
    assert reads == [folder_of(tmp_path / "run").name] * 4
    assert set(batch.condition) == {"label"} and (batch.condition["label"] >= 0).all()
