"""The points that networks of clouds use, against plain loops in float64."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from torch import Tensor

from inrflow_core.feature_networks import _point_features


def cloud(count: int, seed: int = 0) -> Tensor:
    return torch.randn(count, 3, generator=torch.Generator().manual_seed(seed))


def test_the_farthest_points_are_those_of_a_plain_loop():
    clouds = torch.stack([cloud(200, seed) for seed in range(3)])
    for indices, points in zip(
        _point_features.farthest_point_sampling(clouds, 40).tolist(), clouds.double().numpy(), strict=True
    ):
        expected = [0]
        for _ in range(39):
            squares = ((points[:, None] - points[expected]) ** 2).sum(2).min(1)
            expected.append(int(squares.argmax()))
        assert indices == expected


def test_points_near_the_origin_are_passed_over_but_for_the_first():
    points = torch.cat([torch.zeros(1, 3), 0.03 * torch.eye(3), torch.eye(3)])[None]
    assert sorted(_point_features.farthest_point_sampling(points, 4, least_square=1e-3)[0].tolist()) == [0, 4, 5, 6]
    assert sorted(_point_features.farthest_point_sampling(points, 7)[0].tolist()) == list(range(7))


def test_a_ball_holds_its_first_points_in_their_order_and_then_its_first_again():
    points = torch.stack([cloud(150, 1), cloud(150, 2)])
    centers = points[:, 20:40]
    neighbors = _point_features.ball_query(centers, points, 0.6, 8).numpy()
    sizes = set()
    for b, s in np.ndindex(2, 20):
        squares = ((points[b].double() - centers[b, s].double()) ** 2).sum(1).numpy()
        inside = [n for n in range(150) if squares[n] <= 0.36]
        sizes.add(min(len(inside), 9))
        assert neighbors[b, s].tolist() == (inside[:8] + [inside[0]] * 8)[:8]
    assert {1, 9} < sizes, "balls of one point, of too many, and between"


def test_the_nearest_points_are_those_of_a_plain_loop():
    points = torch.stack([cloud(150, 1), cloud(150, 2)])
    centers = points[:, :20]
    neighbors = _point_features.nearest(centers, points, 7)
    for b, s in np.ndindex(2, 20):
        squares = ((points[b].double() - centers[b, s].double()) ** 2).sum(1)
        assert set(neighbors[b, s].tolist()) == set(squares.argsort()[:7].tolist())


def test_which_points_are_seen_is_fixed_and_mixed():
    some, every = _point_features.point_subset(5000, 4096), _point_features.point_subset(4096, 4096)
    assert torch.equal(some, _point_features.point_subset(5000, 4096))
    assert len(set(some.tolist())) == 4096 and sorted(every.tolist()) == list(range(4096))
    # Of points that lie face by face, the first eighth are of all faces.
    counts = torch.bincount(every[:512] // 512, minlength=8)
    assert counts.min() > 35 and counts.max() < 95


def test_a_cloud_is_put_into_the_unit_ball_and_its_colors_stay():
    points = torch.cat([7 * cloud(50) + 3, cloud(50, 1)], dim=1)[None]
    scaled = _point_features.in_unit_ball(points)[0]
    assert float(scaled[:, :3].norm(dim=1).max()) == pytest.approx(1, abs=1e-6)
    torch.testing.assert_close(scaled[:, :3].mean(0), torch.zeros(3), rtol=0, atol=1e-6)
    assert torch.equal(scaled[:, 3:], points[0, :, 3:])
    assert torch.equal(_point_features.in_unit_ball(torch.ones(1, 4, 3)), torch.zeros(1, 4, 3))


def test_a_layer_is_torchs_linear_layer_and_batch_normalization():
    layer, norm = _point_features.Layer(5, 4), torch.nn.BatchNorm1d(4).eval()
    generator = torch.Generator().manual_seed(0)
    for name, own in (("weight", "gamma"), ("bias", "beta"), ("running_mean", "mean"), ("running_var", "variance")):
        values = torch.rand(4, generator=generator) + 0.5
        layer.get_buffer(own).copy_(values)
        getattr(norm, name).data.copy_(values)
    x = torch.randn(9, 5, generator=generator)
    torch.testing.assert_close(layer(x), norm(layer.linear(x)))
