"""Inside and outside: parity of rays and winding numbers agree on closed meshes, and with what is known exactly."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
import trimesh

from inrflow_core.geometry import mesh_interior
from inrflow_core.geometry.mesh import Mesh

RNG = np.random.default_rng(0)
POINTS = RNG.uniform(-0.7, 0.7, (900, 3))


def mesh_of(body: Any) -> Mesh:
    return Mesh(np.asarray(body.vertices, np.float64), np.asarray(body.faces))


CUBE = mesh_of(trimesh.creation.box((1.0, 1.0, 1.0)))
BODIES = {
    "cube": CUBE,
    "ball": mesh_of(trimesh.creation.icosphere(3, 0.5)),
    "torus": mesh_of(trimesh.creation.torus(0.4, 0.15)),
    "two boxes apart": mesh_of(
        trimesh.util.concatenate(
            [trimesh.creation.box((0.3, 0.3, 0.3)).apply_translation((x, 0, 0)) for x in (-0.4, 0.4)]
        )
    ),
}


@pytest.mark.parametrize("name", BODIES)
def test_parity_and_winding_numbers_agree_on_closed_meshes(name: str) -> None:
    mesh = BODIES[name]
    winding = mesh_interior.winding_numbers(mesh, POINTS)
    np.testing.assert_allclose(winding, winding.round(), atol=1e-9)
    np.testing.assert_array_equal(mesh_interior.is_inside_by_parity(mesh, POINTS), winding > 0.5)
    assert mesh_interior.count_open_edges(mesh_interior.merged(mesh))[0] == 0


def test_a_cube_and_rays_along_its_edges() -> None:
    grid = np.stack(np.meshgrid(*[np.linspace(-0.75, 0.75, 13)] * 3, indexing="ij"), -1).reshape(-1, 3)
    off = grid[(np.abs(np.abs(grid) - 0.5) > 1e-6).all(1)]  # not on the faces' planes
    inside = (np.abs(off) < 0.5).all(1)
    np.testing.assert_array_equal(mesh_interior.is_inside_by_parity(CUBE, off), inside)
    np.testing.assert_allclose(mesh_interior.winding_numbers(CUBE, off), inside, atol=1e-9)


def test_an_open_half_of_a_closed_mesh_winds_half_at_its_center() -> None:
    ball = BODIES["ball"]
    half = Mesh(ball.vertices, ball.faces[ball.vertices[ball.faces].mean(1)[:, 2] > 0])
    rim = mesh_interior.winding_numbers(half, np.array([[0.0, 0.0, 0.0], [0.0, 0.0, 5.0], [0.0, 0.0, -5.0]]))
    np.testing.assert_allclose(rim[0], 0.5, atol=0.03)
    np.testing.assert_allclose(rim[1:], 0, atol=0.01)
    assert mesh_interior.count_open_edges(half)[0] > 0


def test_one_face_is_seen_under_its_solid_angle() -> None:
    octant = Mesh(np.eye(3) * 1e6, np.array([[0, 1, 2]]))
    assert mesh_interior.winding_numbers(octant, np.zeros((1, 3)))[0] == pytest.approx(1 / 8, abs=1e-9)
    flipped = Mesh(octant.vertices, octant.faces[:, ::-1])
    assert mesh_interior.winding_numbers(flipped, np.zeros((1, 3)))[0] == pytest.approx(-1 / 8, abs=1e-9)


def test_blocks_change_nothing(monkeypatch: pytest.MonkeyPatch) -> None:
    whole = mesh_interior.winding_numbers(BODIES["ball"], POINTS[:100])
    monkeypatch.setattr(mesh_interior, "POINT_BLOCK", 7)
    monkeypatch.setattr(mesh_interior, "FACE_BLOCK", 100)
    np.testing.assert_allclose(mesh_interior.winding_numbers(BODIES["ball"], POINTS[:100]), whole, atol=1e-12)


def test_two_overlapping_pieces_are_whole_by_winding_and_hollow_by_parity() -> None:
    boxes = [trimesh.creation.box((0.6, 0.6, 0.6)).apply_translation((x, x, x)) for x in (-0.1, 0.1)]
    mesh = mesh_of(trimesh.util.concatenate(boxes))
    center = np.array([[0.01, 0.02, 0.03]])
    assert mesh_interior.winding_numbers(mesh, center)[0] == pytest.approx(2)
    assert not mesh_interior.is_inside_by_parity(mesh, center)[0]


def test_vertices_that_each_face_repeats_are_merged_and_empty_faces_dropped() -> None:
    soup = Mesh(CUBE.vertices[CUBE.faces].reshape(-1, 3), np.arange(3 * len(CUBE.faces)).reshape(-1, 3))
    assert mesh_interior.count_open_edges(soup)[0] == 3 * len(CUBE.faces)
    whole = mesh_interior.merged(Mesh(soup.vertices, np.concatenate([soup.faces, [[0, 0, 1]]])))
    assert (len(whole.vertices), len(whole.faces)) == (8, 12)
    assert mesh_interior.count_open_edges(whole) == (0, 18)


def test_pieces_are_counted_by_shared_vertices():
    boxes = [
        trimesh.creation.box((1, 1, 1), trimesh.transformations.translation_matrix([3 * n, 0, 0])) for n in range(3)
    ]
    faces = np.concatenate([np.asarray(box.faces) + 8 * number for number, box in enumerate(boxes)])
    vertices = np.concatenate([np.asarray(box.vertices) for box in boxes])
    assert mesh_interior.num_components(Mesh(vertices, faces)) == 3
    assert mesh_interior.num_components(Mesh(vertices, faces[:12])) == 1
    assert mesh_interior.num_components(Mesh(np.empty((0, 3)), np.empty((0, 3), np.int64))) == 0
