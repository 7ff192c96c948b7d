"""Shapes: the encoder reads noisy subsets of the surface, the decoder learns whether subsets of the queries are inside."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from inrflow_core.config.training import DataConfig
from inrflow_core.datasets import occupancy_solids
from inrflow_core.domains.shape import OCCUPANCIES, QUERIES, Config, Domain
from inrflow_core.errors import UsageError
from inrflow_core.formats import ply
from inrflow_core.preparation import job as preparation_job
from inrflow_core.preparation import pipeline
from inrflow_core.sample_files import readers
from inrflow_core.sets import TrainBatch
from inrflow_core.shards.batch import Batch, ConditionSelection
from inrflow_core.shards.shard_dataset import ShardDataset
from inrflow_core.training.loader import Loader

DOMAIN = Domain(Config(num_points=50, num_queries=30, grid=24))
SEEDS = torch.tensor([3, 4])


def ball_batch(points: int = 200, queries: int = 101) -> Batch:
    """Two balls of radius 0.4 and 0.5."""
    rng = np.random.default_rng(0)
    directions = rng.standard_normal((2, points, 3))
    directions /= np.linalg.norm(directions, axis=2, keepdims=True)
    radii = np.array([0.4, 0.5])[:, None]
    positions = rng.uniform(-0.55, 0.55, (2, queries, 3)).astype(np.float32)
    bits = np.packbits(np.linalg.norm(positions, axis=2) < radii, axis=1)
    condition = {QUERIES: positions, OCCUPANCIES: bits, "normals": directions, "scale": np.ones((2, 1))}
    values = (radii[..., None] * directions).astype(np.float32)
    return Batch(values, np.array([0, 1]), ["a", "b"], np.empty(0, np.int64), condition=condition)


def split(batch: Batch, seeds: torch.Tensor = SEEDS, *, augment: bool = False) -> TrainBatch:
    return DOMAIN.train_batch(DOMAIN.to_set(batch, seeds, batch.labels, augment=augment))


def test_targets_are_whether_the_positions_are_inside() -> None:
    made = split(ball_batch())
    coordinates, values = made.queries.queries.coordinates, made.queries.values
    assert coordinates is not None and coordinates.shape == (2, 30, 3) and values.shape == (2, 30, 1)
    radii = torch.tensor([0.4, 0.5])[:, None] / 0.55
    torch.testing.assert_close(values[..., 0], (coordinates.norm(dim=-1) < radii).float())
    assert coordinates.abs().max() <= 1 and set(made.queries.condition) == {"label"}


def test_the_encoder_reads_points_of_the_surface_in_the_networks_scale() -> None:
    made = split(ball_batch()).context
    torch.testing.assert_close(
        made.values.norm(dim=-1), torch.tensor([0.4, 0.5])[:, None].expand(2, 50) / 0.55, atol=1e-6, rtol=0
    )
    assert made.queries.coordinates is made.values and made.values.shape == (2, 50, 3)
    assert set(made.condition) == {"label"}


def test_noise_is_that_of_training_and_has_its_deviation() -> None:
    many = Domain(Config(num_points=2000, num_queries=30))
    batch = ball_batch(points=2000)
    quiet, noisy = (many.to_set(batch, SEEDS, augment=augment).values for augment in (False, True))
    assert (noisy - quiet).std().item() * 0.55 == pytest.approx(0.005, rel=0.03)
    torch.testing.assert_close(many.to_set(batch, SEEDS, augment=True).values, noisy)


def test_what_is_random_is_keyed_by_the_seed_alone() -> None:
    both = split(ball_batch(), augment=True)
    batch = ball_batch()
    second = Batch(
        batch.values[1:],
        batch.labels[1:],
        ["b"],
        batch.seeds,
        condition={name: array[1:] for name, array in batch.condition.items()},
    )
    alone, other = (split(second, torch.tensor([seed]), augment=True) for seed in (4, 5))
    for part in ("context", "queries"):
        torch.testing.assert_close(getattr(alone, part).values, getattr(both, part).values[1:])
        assert not torch.equal(getattr(alone, part).queries.coordinates, getattr(other, part).queries.coordinates)


def test_too_few_points_or_queries_are_an_error_that_names_the_setting() -> None:
    with pytest.raises(UsageError, match="the shapes have 20 surface points, and the preset needs 50"):
        split(ball_batch(points=20), augment=True)
    with pytest.raises(UsageError, match="the shapes have 10 queries, and the preset needs 30"):
        split(ball_batch(queries=10))
    refused: list[tuple[dict[str, Any], str]] = [
        ({"num_points": 0}, "at least 1"),
        ({"noise": -1.0}, "from 0"),
        ({"grid": 900}, "at most"),
    ]
    for settings, message in refused:
        with pytest.raises(ValueError, match=message):
            Config(**settings)


def test_values_become_points_on_the_surface_where_the_logit_is_0() -> None:
    positions = DOMAIN.queries().coordinates
    assert positions is not None and positions.abs().max() == 1
    logits = torch.stack([10 * (radius / 0.55 - positions.norm(dim=-1)) for radius in (0.3, 0.5)])[..., None]
    points = DOMAIN.decode_values(logits, 400)
    np.testing.assert_allclose(np.linalg.norm(points, axis=2), [[0.3] * 400, [0.5] * 400], atol=0.01)
    np.testing.assert_allclose(points.mean(1), 0, atol=0.05)
    assert not DOMAIN.decode_values(logits * 0 - 1).any(), "empty space has no surface"
    assert DOMAIN.render(points).size[0] > 0 and DOMAIN.render(DOMAIN.decode_values(logits * 0 - 1)).size[0] > 0


def test_a_cloud_from_a_file_is_read_in_its_cube(tmp_path: Path) -> None:
    cloud = ball_batch().values[0] * [3, 3, 6] + [10, 20, 30]
    ply.write(tmp_path / "a.ply", cloud.astype(np.float32), origin={})
    example = DOMAIN.read_input(tmp_path / "a.ply", {})
    np.testing.assert_allclose(np.ptp(example.values, axis=0).max(), 1, atol=1e-5)
    np.testing.assert_allclose(example.to_source_units(example.values), cloud, atol=1e-4)
    assert DOMAIN.accepts(tmp_path / "a.PLY") and not DOMAIN.accepts(tmp_path / "a.png")
    assert DOMAIN.compare(example.values, example.values)["chamfer"] == pytest.approx(0, abs=1e-6)


def test_prepared_solids_are_read_in_training(tmp_path: Path) -> None:
    config = occupancy_solids.Config(train=16, val=4, points=60, queries=203)
    pipeline.prepare(preparation_job.resolve_job("occupancy-solids", out=tmp_path, config=config), workers=1)
    shards = ShardDataset(tmp_path)
    loader = Loader(shards, DOMAIN, DataConfig(path=str(tmp_path)), split="train", seed=0, batch=4)
    made = loader.train_batch(loader.batch(0, range(4)))
    assert made.context.values.shape == (4, 50, 3) and made.queries.values.shape == (4, 30, 1)
    assert 0 < made.queries.values.mean() < 1
    stored = shards.read("train", range(16), conditions=ConditionSelection())
    inside = np.unpackbits(stored.condition[OCCUPANCIES], axis=1)[:, :203]
    assert (inside.mean(1) > 0).all() and (inside.mean(1) < 1).all()
    collection = readers.open_collection(tmp_path, "val")
    assert (collection.domain, collection.count, collection.shape) == ("shape", 4, (60, 3))
