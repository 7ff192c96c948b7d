"""Clouds are checked, thinned and put into a protocol's units before they are compared."""

from __future__ import annotations

import re
from pathlib import Path

import numpy as np
import pytest

from inrflow_core.errors import IntegrityError, UsageError
from inrflow_core.geometry import point_clouds
from inrflow_core.preparation.job import resolve_job
from inrflow_core.preparation.pipeline import prepare
from inrflow_core.sample_files import item_selection
from tests.distances import shapes


def test_the_box_protocol_centers_each_box_and_makes_its_longest_side_one():
    made = point_clouds.normalize(shapes.clouds(6, 100).astype(np.float64), "inrflow", None)
    low, high = made.min(1), made.max(1)
    np.testing.assert_allclose(low + high, 0, atol=1e-15)
    np.testing.assert_allclose((high - low).max(1), 1, rtol=1e-15)


def test_the_box_protocol_forgets_place_and_size():
    inputs = shapes.clouds(4, 100).astype(np.float64)
    moved = inputs * np.array([0.1, 1, 7, 300])[:, None, None] + np.arange(12).reshape(4, 1, 3)
    np.testing.assert_allclose(
        point_clouds.normalize(moved, "inrflow", None), point_clouds.normalize(inputs, "inrflow", None), atol=1e-13
    )


@pytest.mark.parametrize("protocol", ["lion-global", "pointflow"])
def test_the_global_protocols_bring_back_the_units_of_the_source(protocol: str):
    source = 3 * shapes.clouds(5, 100).astype(np.float64) + [1.0, 2.0, 3.0]
    low, high = source.min(1), source.max(1)
    condition = {"offset": (low + high) / 2, "scale": (high - low).max(1, keepdims=True) / 2}
    boxed = (source - condition["offset"][:, None]) / condition["scale"][:, None]
    by_shape = point_clouds.units({"kind": "shape"}, condition)
    np.testing.assert_allclose(point_clouds.normalize(boxed, protocol, by_shape), source, atol=1e-14)
    by_set = point_clouds.units({"kind": "global", "offset": [1.0, 2.0, 3.0], "scale": 0.5}, {})
    shared = (source - [1.0, 2.0, 3.0]) / 0.5
    np.testing.assert_allclose(point_clouds.normalize(shared, protocol, by_set), source, atol=1e-14)
    np.testing.assert_array_equal(point_clouds.normalize(source, protocol, point_clouds.SOURCE), source)


def test_units_are_those_that_export_raw_writes(tmp_path: Path):
    from inrflow_core.shards import shard_dataset

    prepare(resolve_job("solids", None, tmp_path / "s", _small_solids()))
    opened = shard_dataset.ShardDataset(tmp_path / "s")
    batch = opened.read("train", [0, 1, 2])
    known = point_clouds.units(opened.manifest.normalization, batch.condition)
    raw = item_selection.read(tmp_path / "s", items="0-2", is_raw=True).values
    assert isinstance(raw, np.ndarray)
    np.testing.assert_allclose(point_clouds.normalize(batch.values, "pointflow", known), raw, atol=1e-6)


def _small_solids():
    from inrflow_core.datasets import solids

    return solids.Config(points=64, train=4, val=2)


def test_the_global_protocols_refuse_clouds_whose_units_are_not_known():
    inputs = shapes.clouds(2, 50)
    with pytest.raises(UsageError, match="the units of the source, and those of the samples are unknown"):
        point_clouds.normalize(inputs, "lion-global", point_clouds.units({"kind": "shape"}, {}), what="samples")
    with pytest.raises(UsageError, match="no protocol for clouds is called `lion`"):
        point_clouds.normalize(inputs, "lion", None)


def test_thinning_keeps_points_of_the_cloud_by_its_key_alone():
    inputs = list(shapes.clouds(3, 500))
    remaining = point_clouds.subsample(inputs, 128, [7, 8, 9])
    for cloud, few in zip(inputs, remaining, strict=True):
        assert len(few) == 128 == len(np.unique(few, axis=0))
        assert {tuple(point) for point in few} <= {tuple(point) for point in cloud}
    np.testing.assert_array_equal(point_clouds.subsample(inputs[1:2], 128, [8])[0], remaining[1])
    assert (point_clouds.subsample(inputs[1:2], 128, [9])[0] != remaining[1]).any()
    assert point_clouds.subsample(inputs, 500, [7, 8, 9])[2] is inputs[2]


def test_thinning_refuses_clouds_of_fewer_points():
    with pytest.raises(UsageError, match=r"number 1 of the samples has 90 points, fewer than the 100 requested"):
        point_clouds.subsample([np.zeros((100, 3)), np.zeros((90, 3))], 100, [1, 2], what="samples")


def _spoiled(place: int, number: float) -> list[np.ndarray]:
    inputs = list(shapes.clouds(4, 50))
    inputs[place][3, 1] = number
    return inputs


@pytest.mark.parametrize(
    ("given", "error", "message"),
    [
        (list(shapes.clouds(1, 50)), UsageError, "the samples are too few: 1"),
        (
            [np.ones((50, 3)), np.ones((40, 3)) * np.arange(3)],
            IntegrityError,
            "`a` of the samples has all its 50 points",
        ),
        (
            [*shapes.clouds(2, 50), shapes.clouds(1, 40)[0]],
            UsageError,
            "unequal sizes: 50 points in `a` of the samples, 40 in `c` of the samples",
        ),
        (_spoiled(2, np.nan), IntegrityError, "`c` of the samples is damaged: 1 of its 50 points are not finite"),
        (_spoiled(0, np.inf), IntegrityError, "`a` of the samples is damaged: 1 of its 50 points are not finite"),
        ([np.zeros((0, 3)), np.ones((2, 3))], IntegrityError, r"`a` of the samples is not a cloud: .*\(0, 3\)"),
        ([np.ones((1, 3)), np.ones((1, 3))], IntegrityError, "`a` of the samples has one point"),
        ([np.ones((5, 2)), np.ones((2, 3))], IntegrityError, r"`a` of the samples is not a cloud: .*\(5, 2\)"),
    ],
)
def test_bad_clouds_are_named(given: list[np.ndarray], error: type, message: str):
    with pytest.raises(error, match=message):
        point_clouds.stack_checked(given, what="samples", names=["a", "b", "c", "d"][: len(given)])


def test_a_cloud_without_a_name_is_known_by_its_place():
    with pytest.raises(IntegrityError, match=re.escape("number 3 of the reference is damaged")):
        point_clouds.stack_checked(_spoiled(3, np.nan), what="reference")


def test_a_cloud_without_extent_is_put_at_0():
    np.testing.assert_array_equal(point_clouds.normalize(np.full((2, 5, 3), 7.0), "inrflow", None), 0)


def test_colors_are_left_out():
    inputs = [np.concatenate([cloud, np.ones((50, 3), np.float32)], 1) for cloud in shapes.clouds(2, 50)]
    np.testing.assert_array_equal(point_clouds.stack_checked(inputs, what="samples"), shapes.clouds(2, 50))


def test_the_sphere_of_ddmi_is_around_the_center_of_the_box_and_reaches_the_farthest_point():
    cloud = np.array([[[0, 0, 0], [4, 0, 0], [0, 2, 0], [1, 1, 1.0]]])
    (made,) = point_clouds.normalize(cloud * 7 + [1, 2, 3], "ddmi", None)
    np.testing.assert_allclose(made.min(0) + made.max(0), 0, atol=1e-12)
    assert np.linalg.norm(made, axis=1).max() == pytest.approx(1)
    np.testing.assert_allclose(made * np.sqrt(2**2 + 1 + 0.25), cloud[0] - [2, 1, 0.5], atol=1e-12)
    assert not point_clouds.normalize(np.full((1, 5, 3), 2.0), "ddmi", None).any()


def test_a_sample_without_a_surface_is_a_point_where_that_is_allowed():
    clouds = [np.zeros((4, 3)), np.eye(4)[:, :3]]
    assert point_clouds.stack_checked(clouds, what="samples", may_be_empty=True).shape == (2, 4, 3)
    with pytest.raises(IntegrityError, match="has all its 4 points in one place"):
        point_clouds.stack_checked(clouds, what="samples")
