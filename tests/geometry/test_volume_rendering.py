"""Rendering agrees with closed forms, and cameras' rays with their projection."""

from __future__ import annotations

import math

import numpy as np
import pytest
import torch
from torch import Tensor

from inrflow_core.geometry import cameras, volume_rendering

NEAR, FAR, SAMPLES = 0.8, 1.8, 128
AXIS = torch.tensor([[0.0, 0.0, 1.0]])


def constant(density: float, color: float, directions: Tensor, jitter: Tensor | None = None):
    """What rays see of a uniform medium from near to far."""
    at = volume_rendering.depths(NEAR, FAR, torch.zeros(len(directions), SAMPLES) if jitter is None else jitter)
    return volume_rendering.composite(torch.full_like(at, density), torch.full((*at.shape, 3), color), at, directions)


def vectors(camera: np.ndarray, side: int) -> tuple[Tensor, Tensor]:
    """The origins and the vectors of depth 1 of a camera's pixels."""
    return cameras.depth_rays(torch.from_numpy(camera), side, side)


def test_a_ray_without_density_is_exactly_white() -> None:
    seen = constant(0, 0.3, torch.randn(7, 3, generator=torch.Generator().manual_seed(0)))
    assert (seen.color == 1).all() and (seen.opacity == 0).all() and (seen.depth == 0).all()


@pytest.mark.parametrize(("density", "value"), [(1.0, 0.55726), (10.0, 0.30003)])
def test_a_uniform_medium_has_the_closed_form(density: float, value: float) -> None:
    """0.3 (1 - e^(-1.001 d)) + e^(-1.001 d), as the samples cover the depths from near to far + 0.001."""
    passed = math.exp(-1.001 * density)
    seen = constant(density, 0.3, AXIS)
    expected = 0.3 * (1 - passed) + passed
    assert expected == pytest.approx(value, abs=1e-5)
    np.testing.assert_allclose((seen.color[0] + 1) / 2, expected, atol=1e-5)
    assert seen.opacity.item() == pytest.approx(1 - passed, abs=1e-5)


def test_an_oblique_ray_passes_more_of_the_medium_by_its_length() -> None:
    oblique = torch.tensor([[3.0, 0.0, 4.0]]) / 4
    assert constant(1.0, 0.3, oblique).opacity.item() == pytest.approx(1 - math.exp(-1.001 * 1.25), abs=1e-5)


def test_the_depth_of_an_opaque_wall_is_where_it_starts() -> None:
    at = volume_rendering.depths(NEAR, FAR, torch.zeros(1, SAMPLES))
    density = torch.where(at >= 1.3, 1e6, 0.0)
    color = torch.where(at < 1.4, 0.0, 1.0)[..., None].expand(1, SAMPLES, 3)
    seen = volume_rendering.composite(density, color, at, AXIS)
    assert 1.3 <= seen.depth.item() < 1.3 + 1 / 127 + 1e-6
    assert (seen.color == -1).all(), "what is behind the wall does not count"


def test_samples_go_from_near_to_far_and_jitter_keeps_each_in_its_step() -> None:
    exact = volume_rendering.depths(NEAR, FAR, torch.zeros(1, SAMPLES))[0]
    torch.testing.assert_close(exact, torch.linspace(NEAR, FAR, SAMPLES))
    numbers = torch.rand(1000, SAMPLES, generator=torch.Generator().manual_seed(0))
    moved = (volume_rendering.depths(NEAR, FAR, numbers) - exact) * (SAMPLES - 1)
    torch.testing.assert_close(moved, numbers, atol=1e-4, rtol=0)


def test_jitter_leaves_the_color_of_a_smooth_medium_where_it_is() -> None:
    """The mean optical depth of jittered samples is that of the medium: from near to far, less half a step in the mean."""
    numbers = torch.rand(500, SAMPLES, generator=torch.Generator().manual_seed(1))
    seen = constant(2.0, 0.0, AXIS.expand(500, 3), numbers)
    assert -torch.log1p(-seen.opacity).mean().item() == pytest.approx(2.0, abs=0.005)


def test_gradients_reach_densities_behind_an_opaque_wall_as_finite_numbers() -> None:
    at = volume_rendering.depths(NEAR, FAR, torch.zeros(1, 8))
    density = torch.tensor([[0.0, 0.0, 1e4, 1e4, 0.0, 1e30, 1e4, 0.0]], requires_grad=True)
    color = torch.full((1, 8, 3), 0.5, requires_grad=True)
    volume_rendering.composite(density, color, at, AXIS).color.sum().backward()
    assert density.grad is not None and color.grad is not None
    assert density.grad.isfinite().all() and color.grad.isfinite().all()


@pytest.mark.parametrize("azimuth", [0, 40, 200])
def test_the_ray_of_the_central_pixel_corner_meets_the_optical_axis(azimuth: int) -> None:
    """The four central rays are at one distance from the axis at every depth, and their mean is on it."""
    camera = cameras.orbit(azimuth, 25, 1.3)
    origins, directions = (one.reshape(128, 128, 3)[63:65, 63:65].reshape(4, 3) for one in vectors(camera, 128))
    at = volume_rendering.depths(NEAR, FAR, torch.zeros(4, 16))
    points = volume_rendering.points_on_rays(origins, directions, at)
    on_axis = camera[:3, 3] + at[0, :, None].numpy() * camera[:3, 2]
    np.testing.assert_allclose(points.mean(0), on_axis, atol=1e-6)
    np.testing.assert_allclose(camera[:3, 3] + 1.3 * camera[:3, 2], 0, atol=1e-6)


@pytest.mark.parametrize(("azimuth", "elevation"), [(0, 0), (30, 20), (250, -35)])
def test_vertices_of_a_body_project_into_its_rendered_silhouette(azimuth: float, elevation: float) -> None:
    """An opaque box: every vertex, pulled inwards by a pixel, is in front of an opaque pixel, and none outside."""
    half, side = np.array([0.15, 0.08, 0.3]), 64
    camera = cameras.orbit(azimuth, elevation, 1.3)
    origins, directions = vectors(camera, side)
    at = volume_rendering.depths(NEAR, FAR, torch.zeros(side * side, SAMPLES))
    points = volume_rendering.points_on_rays(origins, directions, at)
    density = 1e4 * (points.abs() <= torch.from_numpy(half).float()).all(-1).float()
    opacity = volume_rendering.composite(density, torch.zeros_like(points), at, directions).opacity
    is_seen = opacity.reshape(side, side).numpy() > 0.5
    vertices = np.stack(np.meshgrid(*[[-1, 1]] * 3), -1).reshape(-1, 3) * (half - 0.015)
    column, row = (cameras.project(camera, vertices)[0] * side).astype(int).T
    assert is_seen[row, column].all()
    rows, columns = is_seen.nonzero()
    outline = cameras.project(camera, vertices * 1.15)[0] * side
    assert outline[:, 1].min() - 1 < rows.min() and rows.max() < outline[:, 1].max() + 1
    assert outline[:, 0].min() - 1 < columns.min() and columns.max() < outline[:, 0].max() + 1


def test_rays_are_in_the_cube_between_the_depths_at_which_they_enter_and_leave_it() -> None:
    generator = torch.Generator().manual_seed(4)
    origins, directions = torch.randn(1, 400, 3, generator=generator), torch.randn(1, 400, 3, generator=generator)
    near, far = volume_rendering.depths_in_cube(origins, directions, 0.5)
    is_hit = (far > near)[..., 0]
    assert 40 < is_hit.sum() < 360 and (near >= 0).all() and (far[~is_hit] == 0).all()
    for share in (0.01, 0.5, 0.99):
        points = volume_rendering.points_on_rays(origins, directions, near + share * (far - near))[:, :, 0]
        assert (points[is_hit].abs() <= 0.5 + 1e-5).all()
    for at in (far + 0.01, (near - 0.01).clamp(min=0)):
        points = volume_rendering.points_on_rays(origins, directions, at)[:, :, 0]
        is_start = (at < near)[..., 0] | (at > far)[..., 0]
        assert (points[is_hit & is_start].abs().amax(-1) > 0.5 - 1e-5).all()
    missed = volume_rendering.points_on_rays(origins, directions, torch.linspace(0, 20, 4000).expand(1, 400, -1))
    assert (missed[~is_hit].abs().amax(-1) > 0.5 - 1e-2).all()


def test_rays_along_an_axis_hit_the_cube_where_they_should() -> None:
    origins = torch.tensor([[[0.1, 0.2, -2.0], [0.1, 0.7, -2.0], [0.0, 0.0, 0.0]]])
    near, far = volume_rendering.depths_in_cube(origins, torch.tensor([[0.0, 0.0, 1.0]]).expand(1, 3, 3), 0.5)
    torch.testing.assert_close(near[..., 0], torch.tensor([[1.5, 0, 0]]))
    torch.testing.assert_close(far[..., 0], torch.tensor([[2.5, 0, 0.5]]))
    directions = torch.tensor([[0.0, 0.0, 1.0]]).expand(1, 3, 3)
    near, far = volume_rendering.depths_in_cube(origins, directions, 0.5, 0.2, 2.0)
    torch.testing.assert_close(
        (near[..., 0], far[..., 0]), (torch.tensor([[1.5, 0, 0.2]]), torch.tensor([[2.0, 0, 0.5]]))
    )
    near, far = volume_rendering.depths_in_cube(origins, directions, 0.5, 0.6, 1.4)
    assert (near == 0).all() and (far == 0).all()


def test_a_ray_without_length_absorbs_nothing() -> None:
    at = torch.tensor([[[1.0, 1.0, 1.0]], [[1.0, 1.5, 2.0]]])
    seen = volume_rendering.composite(torch.full((2, 1, 3), 1e6), torch.zeros(2, 1, 3, 3), at, torch.ones(2, 1, 3))
    assert seen.color[:, 0, 0].tolist() == [1, -1] and seen.depth[:, 0].tolist() == [0, 1]


def test_depths_of_absorption_follow_the_absorption() -> None:
    """Of evenly spaced shares, as many lie in each interval as its ends absorb in the mean, evenly."""
    at, weights = torch.tensor([[[0.0, 1.0, 3.0, 4.0]]]), torch.tensor([[[0.2, 0.4, 0.8, 0.0]]])
    u = (torch.arange(1000) + 0.5)[None, None] / 1000
    found = volume_rendering.depths_of_absorption(at, weights, u)[0, 0]
    assert (found.diff() >= 0).all() and found.min() >= 0 and found.max() <= 4
    counts = [int(((found >= low) & (found < high)).sum()) for low, high in ((0, 1), (1, 3), (3, 4.1))]
    assert all(abs(count - expected) <= 2 for count, expected in zip(counts, (231, 461, 308), strict=True))
    torch.testing.assert_close(found[(found >= 1) & (found < 3)].mean(), torch.tensor(2.0), atol=0.01, rtol=0)
    even = volume_rendering.depths_of_absorption(at, torch.zeros_like(weights), u)[0, 0]
    assert abs(int((even < 1).sum()) - 333) <= 1
