"""A mesh of a density is closed, where the density has the level, and faces outwards."""

from __future__ import annotations

import re
from collections.abc import Callable

import numpy as np
import pytest
import torch
import trimesh
from scipy.spatial import cKDTree
from torch import Tensor

from inrflow_core.errors import UsageError
from inrflow_core.geometry import isosurface

BOX = ((-1.0, -1.0, -1.0), (1.0, 1.0, 1.0))


def ellipsoid(points: Tensor) -> tuple[Tensor, Tensor]:
    """A soft body with the half-axes 0.8, 0.4 and 0.2 at density 5, around (0.1, 0, -0.1), colored by position."""
    scaled = (points - torch.tensor([0.1, 0.0, -0.1])) / torch.tensor([0.8, 0.4, 0.2])
    return (10 - 5 * scaled.norm(dim=-1)).clamp(min=0), (points + 1) / 2


def ring(points: Tensor) -> tuple[Tensor, Tensor]:
    """A torus around z with the radii 0.6 and 0.25."""
    around = torch.stack([points[:, :2].norm(dim=-1) - 0.6, points[:, 2]], -1).norm(dim=-1)
    return (1 + 4 * (0.25 - around)).clamp(min=0), torch.zeros_like(points)


def everywhere(points: Tensor) -> tuple[Tensor, Tensor]:
    return torch.full((len(points),), 7.0), torch.ones_like(points)


def body(mesh: isosurface.Mesh) -> trimesh.Trimesh:
    return trimesh.Trimesh(mesh.vertices, mesh.faces, process=False)


def test_the_surface_is_where_the_density_has_the_level() -> None:
    mesh = isosurface.extract_surface(ellipsoid, BOX, level=5, resolution=96)
    scaled = (mesh.vertices - [0.1, 0, -0.1]) / [0.8, 0.4, 0.2]
    np.testing.assert_allclose(np.linalg.norm(scaled, axis=1), 1, atol=0.01)
    assert body(mesh).volume == pytest.approx(4 / 3 * np.pi * 0.8 * 0.4 * 0.2, rel=0.01)
    assert mesh.colors is not None
    np.testing.assert_allclose(mesh.colors, (mesh.vertices + 1) * 127.5, atol=0.51)


@pytest.mark.parametrize(("field", "level", "characteristic"), [(ellipsoid, 5, 2), (ring, 1, 0)])
def test_the_surface_is_closed_faces_outwards_and_has_the_bodys_characteristic(field, level, characteristic) -> None:
    found = body(isosurface.extract_surface(field, BOX, level=level, resolution=48))
    assert found.is_watertight and found.is_winding_consistent
    assert found.euler_number == characteristic
    assert found.volume > 0


def test_the_box_closes_a_body_that_reaches_its_border() -> None:
    box = ((0.0, -0.5, 0.0), (1.0, 0.5, 0.25))
    found = body(isosurface.extract_surface(everywhere, box, level=0.5, resolution=17))
    assert found.is_watertight and found.euler_number == 2
    np.testing.assert_allclose(found.bounds, box, atol=1e-6)
    assert found.volume == pytest.approx(0.25, rel=0.02)


def test_chunks_change_nothing() -> None:
    whole, parts = (
        isosurface.extract_surface(ellipsoid, BOX, level=5, resolution=24, chunk=chunk) for chunk in (1 << 20, 777)
    )
    np.testing.assert_array_equal(whole.faces, parts.faces)
    np.testing.assert_allclose(whole.vertices, parts.vertices, atol=1e-6)


class Counted:
    """Logits of an ellipsoid, and how many were evaluated."""

    def __init__(self, half_axes: tuple[float, float, float] = (0.8, 0.4, 0.2)) -> None:
        self.count, self.largest, self.half_axes = 0, 0, torch.tensor(half_axes)

    def __call__(self, points: Tensor) -> Tensor:
        self.count, self.largest = self.count + len(points), max(self.largest, len(points))
        return 20 * (1 - ((points - torch.tensor([0.1, 0.0, -0.1])) / self.half_axes).norm(dim=-1))


def dense(field: Callable[[Tensor], Tensor], resolution: int) -> isosurface.Mesh:
    """The surface of the whole grid."""
    axis = np.linspace(-1, 1, resolution)
    points = torch.from_numpy(np.stack(np.meshgrid(axis, axis, axis, indexing="ij"), -1).reshape(-1, 3))
    values = field(points.float()).numpy().reshape([resolution] * 3)
    return isosurface.surface_of_grid(values, [axis] * 3, level=0.0, outside=-1.0)


def sheets(points: Tensor) -> Tensor:
    """Thin bent plates and small balls: where a cell of the coarse grid has no corner inside, and where it leaves the box."""
    plates = 0.02 - (torch.sin(4 * points[:, 0]) / 3 + points[:, 1] - 0.1).abs()
    balls = 0.12 - (points - torch.tensor([0.5, -0.6, 0.4])).norm(dim=-1)
    return 30 * torch.maximum(plates, balls)


def test_a_refined_mesh_is_that_of_the_whole_grid() -> None:
    for resolution in (65, 100):
        for field in (Counted(), sheets):
            found, whole = isosurface.extract_occupied(field, BOX, resolution=resolution), dense(field, resolution)
            np.testing.assert_array_equal(found.faces, whole.faces)
            np.testing.assert_allclose(found.vertices, whole.vertices, atol=1e-4)
            assert body(found).is_watertight and body(found).is_winding_consistent


@pytest.fixture(scope="module")
def fine() -> tuple[isosurface.Mesh, Counted]:
    field = Counted()
    return isosurface.extract_occupied(field, BOX, resolution=256, chunk=50_000, with_normals=False), field


def test_an_ellipsoid_at_256_takes_a_tenth_of_the_evaluations(fine: tuple[isosurface.Mesh, Counted]) -> None:
    found, field = fine
    assert field.count * 10 < 256**3 and field.largest == 50_000
    assert body(found).is_watertight
    assert body(found).volume == pytest.approx(4 / 3 * np.pi * 0.8 * 0.4 * 0.2, rel=0.01)
    scaled = (found.vertices - [0.1, 0, -0.1]) / [0.8, 0.4, 0.2]
    np.testing.assert_allclose(np.linalg.norm(scaled, axis=1), 1, atol=2e-3)


def test_coarse_and_fine_surfaces_differ_by_less_than_half_a_coarse_cell(fine: tuple[isosurface.Mesh, Counted]) -> None:
    coarse = isosurface.extract_occupied(Counted(), BOX, resolution=64, with_normals=False)
    assert cKDTree(fine[0].vertices).query(coarse.vertices)[0].max() < 0.5 * 2 / 63


def test_normals_are_against_the_gradient() -> None:
    found = isosurface.extract_occupied(Counted(), BOX, resolution=64)
    expected = (found.vertices - [0.1, 0, -0.1]) / np.square([0.8, 0.4, 0.2])
    expected /= np.linalg.norm(expected, axis=1, keepdims=True)
    assert found.normals is not None
    assert (found.normals * expected).sum(1).min() > 0.99
    steps = isosurface.extract_occupied(lambda p: torch.sign(Counted()(p)), BOX, resolution=32)
    assert steps.normals is not None
    np.testing.assert_allclose(np.linalg.norm(steps.normals, axis=1), 1, atol=1e-6)


def test_a_body_that_fills_a_box_of_unequal_sides_is_cut_at_its_border() -> None:
    box = ((0.0, -0.5, 0.0), (1.0, 0.5, 0.25))
    found = body(isosurface.extract_occupied(lambda p: torch.full((len(p),), 3.0), box, resolution=129))
    assert found.is_watertight and found.euler_number == 2
    np.testing.assert_allclose(found.bounds, box, atol=1e-6)
    tall = isosurface.extract_occupied(Counted((0.3, 0.3, 0.9)), ((-0.5, -0.5, -1.5), (0.7, 0.5, 1.5)), resolution=129)
    assert body(tall).is_watertight
    assert body(tall).volume == pytest.approx(4 / 3 * np.pi * 0.3 * 0.3 * 0.9, rel=0.01)


@pytest.mark.parametrize("resolution", [2, 32, 100])
def test_where_nothing_is_inside_the_mesh_is_empty(resolution: int) -> None:
    for value in (-1.0, 0.0):
        found = isosurface.extract_occupied(lambda p, v=value: torch.full((len(p),), v), BOX, resolution=resolution)
        assert found.vertices.shape == found.faces.shape == (0, 3)
        assert found.normals is not None and found.normals.shape == (0, 3)


def test_the_level_is_a_logit_and_points_on_it_are_outside() -> None:
    whole, part = (isosurface.extract_occupied(Counted(), BOX, resolution=64, level=level) for level in (0, 4))
    assert body(part).volume == pytest.approx(body(whole).volume * 0.8**3, rel=0.02)
    stepped = isosurface.extract_occupied(lambda p: (8 * (0.5 - p.norm(dim=-1))).round(), BOX, resolution=40)
    assert body(stepped).is_watertight


def test_a_logit_that_is_not_finite_is_an_error() -> None:
    with pytest.raises(UsageError, match="the occupancy is not finite at some points of the box"):
        isosurface.extract_occupied(lambda p: p[:, 0] / 0, BOX, resolution=80)


def not_finite(points: Tensor) -> tuple[Tensor, Tensor]:
    return torch.full((len(points),), float("nan")), points


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"level": 100.0}, "no density in the box is above the level 100: the highest is "),
        ({"level": 0.0}, "the level of a surface is 0"),
        ({"resolution": 5000}, "a grid of 5,000 points along a side"),
        ({"box": (BOX[1], BOX[0])}, "the box from (1.0, 1.0, 1.0) to (-1.0, -1.0, -1.0) is empty"),
        ({"field": not_finite}, "the density is not finite at some points of the box"),
    ],
)
def test_what_has_no_surface_is_an_error(changes: dict, message: str) -> None:
    arguments = {"field": ellipsoid, "box": BOX, "level": 5, "resolution": 16} | changes
    with pytest.raises(UsageError, match=re.escape(message)):
        isosurface.extract_surface(**arguments)
