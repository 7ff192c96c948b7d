"""Rendering: what is seen lies where the camera says, in its color, lit from the camera."""

from __future__ import annotations

import math

import numpy as np
import pytest

from inrflow_core.geometry import cameras, mesh_rendering
from inrflow_core.geometry.mesh import Mesh

SQUARE = Mesh(np.array([[-1.0, -1, 0], [1, -1, 0], [1, 1, 0], [-1, 1, 0]]), np.array([[0, 1, 2], [0, 2, 3]]))
RED_OR_BLUE = np.array([[255.0, 0, 0], [0, 0, 255.0]])


def flat(faces: np.ndarray, weights: np.ndarray) -> np.ndarray:
    """The first face red, the second blue."""
    return RED_OR_BLUE[faces]


def render(mesh: Mesh, camera: np.ndarray, resolution: int = 64, colors=flat) -> np.ndarray:
    return mesh_rendering.render(mesh, camera[None], resolution, colors)[0]


def test_the_outline_is_where_the_camera_projects_the_corners() -> None:
    image = render(SQUARE, cameras.orbit(), 200)
    corners, _ = cameras.project(cameras.orbit(), SQUARE.vertices)
    low, high = corners.min(0) * 200, corners.max(0) * 200
    rows, columns = np.nonzero(image[..., 3] == 255)
    np.testing.assert_allclose([columns.min(), columns.max() + 1], [low[0], high[0]], atol=1)
    np.testing.assert_allclose([rows.min(), rows.max() + 1], [low[1], high[1]], atol=1)
    covered = image[..., 3].astype(float).sum() / 255
    assert covered == pytest.approx(np.prod(high - low), rel=0.01)


def test_each_face_has_its_color_at_its_place() -> None:
    image = render(SQUARE, cameras.orbit())
    for corner, color in (([1, -1, 0], [255, 0, 0]), ([-1, 1, 0], [0, 0, 255])):
        seen, _ = cameras.project(cameras.orbit(), 0.9 * np.array([corner], dtype=float))
        column, row = np.floor(seen[0] * 64).astype(int)
        np.testing.assert_allclose(image[row, column], [*color, 255], atol=20)


def test_a_face_is_seen_from_behind_as_from_the_front() -> None:
    front = render(SQUARE, cameras.orbit(0), colors=None)
    np.testing.assert_array_equal(render(SQUARE, cameras.orbit(180), colors=None), front)


@pytest.mark.parametrize("azimuth", [0, 30, 60])
def test_brightness_falls_with_the_cosine_to_the_camera_down_to_the_ambient_light(azimuth: float) -> None:
    image = render(SQUARE, cameras.orbit(azimuth), 63, colors=None)
    light = mesh_rendering.AMBIENT + (1 - mesh_rendering.AMBIENT) * math.cos(math.radians(azimuth))
    np.testing.assert_allclose(image[31, 31, :3], mesh_rendering.PLAIN * light, atol=1)


def test_the_nearer_face_hides_the_farther() -> None:
    behind = Mesh(
        np.concatenate([SQUARE.vertices + [0, 0, 0.5], 0.5 * SQUARE.vertices]),
        np.concatenate([SQUARE.faces, SQUARE.faces + 4]),
    )
    colors = np.array([[255.0, 0, 0]] * 2 + [[0, 255.0, 0]] * 2)
    front = render(behind, cameras.orbit(0), 63, lambda faces, _: colors[faces])
    back = render(behind, cameras.orbit(180), 63, lambda faces, _: colors[faces])
    assert front[31, 31, 0] > 200 and front[31, 31, 1] == 0
    assert back[31, 31, 1] > 200 and back[31, 31, 0] == 0


def test_edges_are_partly_transparent_and_keep_their_color() -> None:
    image = render(SQUARE, cameras.orbit(7), 50, lambda faces, _: np.full((len(faces), 3), 200.0))
    is_edge = (image[..., 3] > 0) & (image[..., 3] < 255)
    assert 20 <= is_edge.sum() <= 200
    assert set(np.unique(image[is_edge, 3])) <= {64, 128, 191}
    assert image[is_edge][:, :3].min() > 190
    assert not image[image[..., 3] == 0].any()


def test_colors_are_evaluated_at_the_visible_points() -> None:
    """A color that is the place itself comes back as the place that the pixel's ray meets."""

    def places(faces: np.ndarray, weights: np.ndarray) -> np.ndarray:
        met = np.einsum("nk,nkd->nd", weights, SQUARE.vertices[SQUARE.faces[faces]])
        return 127.5 + 100 * met

    camera = cameras.orbit(20, 10)
    image = render(SQUARE, camera, 80, places)
    rows, columns = np.nonzero(image[..., 3] == 255)
    origin, directions = cameras.rays(camera, 80, 80)
    towards = directions.reshape(80, 80, 3)[rows, columns]
    met = origin - towards * (origin[2] / towards[:, 2:])
    light = mesh_rendering.AMBIENT + (1 - mesh_rendering.AMBIENT) * np.abs(towards[:, 2:])
    np.testing.assert_allclose(image[rows, columns, :3], (127.5 + 100 * met) * light, atol=1)


def test_what_is_transparent_shows_white() -> None:
    pixels = np.array([[[10, 20, 30, 255], [10, 20, 30, 0], [0, 100, 255, 51]]], dtype=np.uint8)
    np.testing.assert_array_equal(mesh_rendering.on_white(pixels), [[[10, 20, 30], [255, 255, 255], [204, 224, 255]]])
    np.testing.assert_array_equal(mesh_rendering.on_white(pixels[..., :3]), pixels[..., :3])
