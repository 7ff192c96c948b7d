"""Solids: made from their names alone, of eight classes that differ."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from scipy.spatial import cKDTree

from inrflow_core.datasets import solids

NOWHERE = Path("nowhere")


def make(config: solids.Config, split: str) -> list:
    return [solids.read(item, config) for item in solids.scan(NOWHERE, config).splits[split]]


def test_a_solid_depends_on_its_name_alone() -> None:
    few, many = solids.Config(train=3, val=1, points=100), solids.Config(train=9, val=1, points=100)
    backwards = [solids.read(item, many) for item in reversed(solids.scan(NOWHERE, many).splits["train"])]
    for first, again in zip(make(few, "train"), reversed(backwards[-3:]), strict=True):
        np.testing.assert_array_equal(first.values, again.values)


def test_train_and_val_share_no_solid() -> None:
    config = solids.Config(train=8, val=8, points=50)
    for train, held_out in zip(make(config, "train"), make(config, "val"), strict=True):
        assert train.label == held_out.label
        assert not np.array_equal(train.values, held_out.values)


def test_every_solid_fills_its_box_and_the_box_is_undone() -> None:
    for example in make(solids.Config(train=16, val=0), "train"):
        assert np.abs(example.values).max() == pytest.approx(1, abs=1e-6)
        np.testing.assert_allclose(example.values.min(0) + example.values.max(0), 0, atol=1e-5)
        raw = example.values * example.condition["scale"] + example.condition["offset"]
        assert np.ptp(raw, axis=0).max() == pytest.approx(2 * example.condition["scale"][0], rel=1e-5)


def test_the_first_points_cover_the_surface_as_all_do() -> None:
    for example in make(solids.Config(train=8, val=0, points=2048), "train"):
        near = cKDTree(example.values[:256]).query(example.values)[0]
        assert near.mean() < 0.12


def test_the_nearest_solid_by_chamfer_has_the_same_class() -> None:
    config = solids.Config(train=160, val=32, points=256)
    known = [(cKDTree(example.values), example.label) for example in make(config, "train")]
    right = 0
    for example in make(config, "val"):
        own = cKDTree(example.values)
        distances = [
            np.square(tree.query(example.values)[0]).mean() + np.square(own.query(tree.data)[0]).mean()
            for tree, _ in known
        ]
        right += known[int(np.argmin(distances))][1] == example.label
    assert right >= 31


def test_impossible_numbers_are_refused() -> None:
    with pytest.raises(ValueError, match="`points` is 0: at least 1"):
        solids.Config(points=0)
    with pytest.raises(ValueError, match="`val` is -1: at least 0"):
        solids.Config(val=-1)
