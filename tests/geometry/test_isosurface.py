"""A mesh of a density is closed, where the density has the level, and faces outwards."""

from __future__ import annotations

import re

import numpy as np
import pytest
import torch
import trimesh
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
