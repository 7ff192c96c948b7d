"""Solids of formulas: points uniform on their surface, areas, reach."""

from __future__ import annotations

import numpy as np
import pytest

from inrflow_core.geometry.primitives import Box, Cone, Ellipsoid, Primitive, Torus, Union

SOLIDS = [
    Ellipsoid((0.5, 0.5, 0.5), (0.1, 0.0, 0.2)),
    Ellipsoid((0.8, 0.5, 0.3)),
    Box((-0.5, 0.0, 0.1), (0.5, 0.3, 1.0)),
    Cone((0.5, 0.0), 0.0, 1.0),
    Cone((0.3, 0.6), -0.5, 0.5, axis=0),
    Cone((0.4, 0.4), -1.0, 1.0, axis=1),
    Torus(0.7, 0.2),
]


@pytest.mark.parametrize("solid", SOLIDS, ids=str)
def test_points_are_on_the_surface_with_outward_unit_normals(solid: Primitive) -> None:
    points, normals = solid.sample(np.random.default_rng(0), 4000)
    np.testing.assert_allclose(np.linalg.norm(normals, axis=1), 1, atol=1e-12)
    assert not solid.is_inside(points + 1e-5 * normals).any()
    assert solid.is_inside(points - 1e-5 * normals).mean() > 0.999


@pytest.mark.parametrize("solid", SOLIDS, ids=str)
def test_area_times_the_mean_flux_is_three_times_the_volume(solid: Primitive) -> None:
    """The divergence theorem for the field x: it holds only if points are uniform on the surface."""
    rng = np.random.default_rng(1)
    points, normals = solid.sample(rng, 40_000)
    box = rng.uniform(-1.5, 1.5, (400_000, 3))
    volume = solid.is_inside(box).mean() * 27
    assert solid.area * (points * normals).sum(1).mean() / 3 == pytest.approx(volume, rel=0.03)


@pytest.mark.parametrize("solid", SOLIDS, ids=str)
def test_it_reaches_as_far_as_its_farthest_points(solid: Primitive) -> None:
    rng = np.random.default_rng(2)
    directions = rng.standard_normal((20, 3))
    directions /= np.linalg.norm(directions, axis=1, keepdims=True)
    points, _ = solid.sample(rng, 40_000)
    farthest = (points @ directions.T).max(0)
    assert (farthest <= solid.support(directions) + 1e-12).all()
    np.testing.assert_allclose(farthest, solid.support(directions), atol=0.03)


def test_the_surface_of_a_union_has_nothing_that_is_within_a_part() -> None:
    balls = Union([Ellipsoid((0.5, 0.5, 0.5), (x, 0.0, 0.0)) for x in (-0.25, 0.25)])
    points, _ = balls.sample(np.random.default_rng(0), 20_000)
    right, left = (np.linalg.norm(points - [x, 0, 0], axis=1) for x in (0.25, -0.25))
    assert np.minimum(right, left).min() == pytest.approx(0.5, abs=1e-9)
    # Each ball lacks the cap beyond x = 0, of height 0.25: a quarter of its surface.
    assert (points[:, 0] > 0.5).mean() == pytest.approx((0.25 / 1.0) / 1.5, abs=0.01)
    touching = Union([Box((0.0, 0.0, 0.0), (1.0, 1.0, 1.0)), Box((0.0, 0.0, 1.0), (1.0, 1.0, 2.0))])
    points, _ = touching.sample(np.random.default_rng(0), 5000)
    inner = (np.abs(points[:, 2] - 1) < 1e-9) & (points[:, :2] > 1e-6).all(1) & (points[:, :2] < 1 - 1e-6).all(1)
    assert not inner.any(), "where two boxes touch there is no surface"
    np.testing.assert_array_equal(balls.support(np.array([[1.0, 0.0, 0.0]])), [0.75])
