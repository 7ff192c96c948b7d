"""Drawn scenes: the camera that the hyper-network reads noise at is one of training, chosen by the seed."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from inrflow_core.config.training import DataConfig
from inrflow_core.errors import IntegrityError
from inrflow_core.geometry import cameras
from inrflow_core.models import Model
from inrflow_core.sampling import sample, support_cameras
from inrflow_core.sampling.options import sampling_options
from inrflow_core.sets import Queries
from inrflow_core.shards.shard_dataset import ShardDataset
from inrflow_core.training.loader import NUM_CAMERAS, Loader
from tests import tiny
from tests.domains import scenes

SEEDS = [0, 1, 2, 3, 9]
POSES = np.stack([cameras.orbit(30 * number, 5 * number, 1.3) for number in range(7)])


@pytest.fixture(scope="module")
def model() -> Model:
    built = tiny.model(tiny.RADIANCE)
    return replace(built, metadata={support_cameras.KEY: POSES.reshape(-1, 16).astype(float).tolist()})


@pytest.fixture
def contexts(model: Model, monkeypatch: pytest.MonkeyPatch) -> list[Queries]:
    """The rays that the hyper-network has read."""
    read, forward = list[Queries](), model.method.hypernetwork.forward
    monkeypatch.setattr(
        model.method.hypernetwork, "forward", lambda rays, *rest: (read.append(rays), forward(rays, *rest))[1]
    )
    return read


def drawn(model: Model, seeds: list[int], steps: int = 1) -> np.ndarray:
    options = sampling_options(model, steps=steps)
    return sample.evaluate(model, sample.sample_fields(model, seeds, None, options))


def test_the_noise_of_each_seed_has_the_rays_of_its_own_training_camera(model: Model, contexts: list[Queries]):
    chosen = support_cameras.support_cameras(model, torch.tensor(SEEDS))
    assert chosen is not None
    numbers = [int(np.flatnonzero((one.numpy() == POSES).all((1, 2)))[0]) for one in chosen]
    assert len(set(numbers)) > 1
    views = drawn(model, SEEDS)
    origins, directions = cameras.depth_rays(chosen, 8, 8)
    torch.testing.assert_close(contexts[-1].coordinates, origins, rtol=0, atol=0)
    torch.testing.assert_close(contexts[-1].directions, directions, rtol=0, atol=0)
    for steps in (1, 2):
        alone = np.concatenate([drawn(model, [seed], steps) for seed in SEEDS])
        assert np.abs(alone.astype(int) - drawn(model, SEEDS, steps)).max() <= 1
    plain = replace(model, metadata={})
    default = drawn(plain, SEEDS)
    assert contexts[-1].coordinates is not None and contexts[-1].coordinates.ndim == 2
    assert (default != views).any() and default.shape == views.shape


def test_many_seeds_take_every_camera(model: Model):
    chosen = support_cameras.support_cameras(model, torch.arange(2000))
    assert chosen is not None
    counts = [(chosen.numpy() == pose).all((1, 2)).mean() for pose in POSES]
    assert sum(counts) == 1 and min(counts) > 0.1 and max(counts) < 0.19


def test_training_records_cameras_of_its_views_exactly(tmp_path: Path):
    rng = np.random.default_rng(0)
    made = [
        (
            np.zeros((count, 8, 8, 3), np.uint8),
            np.stack([cameras.orbit(rng.uniform(0, 80), rng.uniform(0, 80), 1.3) for _ in range(count)]),
        )
        for count in (3, 5, 2)
    ]
    shards = ShardDataset(scenes.write(tmp_path / "shards", made))
    domain = tiny.model(tiny.RADIANCE).domain
    loader = Loader(shards, domain, DataConfig(str(tmp_path)), split="train", seed=0, batch=2)
    recorded = loader.support_cameras()
    assert recorded is not None and len(recorded) == NUM_CAMERAS == 256 and recorded == loader.support_cameras()
    known = {tuple(pose.reshape(-1).tolist()) for _, poses in made for pose in poses}
    assert {tuple(camera) for camera in np.array(recorded, dtype=np.float32).tolist()} == known
    built = replace(tiny.model(tiny.RADIANCE), metadata={support_cameras.KEY: recorded})
    assert len(support_cameras.provenance(built)[support_cameras.KEY]) == 16 and not support_cameras.provenance(
        tiny.model(tiny.IMAGE)
    )


@pytest.mark.parametrize(
    "numbers", [[], "x", [[1.0] * 15], [[float("nan")] * 16], [[0.0] * 16], {"a": 1}, [[1e300] * 16], [None]]
)
def test_records_of_other_numbers_are_refused(model: Model, numbers: Any):
    broken = replace(model, metadata={support_cameras.KEY: numbers})
    with pytest.raises(IntegrityError, match="are no cameras"):
        sample.sample_fields(broken, [0])
