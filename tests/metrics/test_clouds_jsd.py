"""JSD of clouds: its laws, and the papers' rule by all distances to all nodes."""

from __future__ import annotations

import numpy as np
import pytest

from inrflow_core.errors import UsageError
from inrflow_core.geometry import point_clouds
from inrflow_core.metrics import jsd
from inrflow_core.metrics._cloud_inputs import Clouds
from tests.distances import shapes


def boxed(count: int, points: int, seed: int = 0) -> np.ndarray:
    return point_clouds.normalize(shapes.clouds(count, points, seed=seed), "inrflow", None)


def by_all_distances(p: np.ndarray, q: np.ndarray) -> float:
    axis = np.arange(28) / 27 - 0.5
    nodes = np.stack(np.meshgrid(axis, axis, axis, indexing="ij"), -1).reshape(-1, 3)
    nodes = nodes[np.linalg.norm(nodes, axis=1) <= 0.5]
    shares = []
    for side in (p, q):
        counts = np.zeros(len(nodes))
        for point in side.reshape(-1, 3):
            counts[np.square(nodes - point).sum(1).argmin()] += 1
        shares.append(counts / counts.sum())
    middle = (shares[0] + shares[1]) / 2
    divergences = [sum(a * np.log2(a / m) for a, m in zip(side, middle, strict=True) if a > 0) for side in shares]
    return sum(divergences) / 2


def test_values_are_those_of_the_papers_rule():
    p, q = boxed(4, 120), boxed(3, 120, seed=2) * 1.1
    p[0, :5] = [[0.5, 0.5, 0.5], [-0.5, 0.5, -0.5], [0.5, 0, 0], [0.4, 0.4, 0], [2, 0.1, -3]]  # outside of the ball too
    assert jsd.compute(Clouds(p, q), "inrflow") == pytest.approx(by_all_distances(p, q), abs=1e-12)


def test_it_is_zero_for_one_set_and_one_bit_for_sets_apart():
    inputs = boxed(4, 200)
    assert jsd.compute(Clouds(inputs, inputs[::-1].copy()), "inrflow") == pytest.approx(0, abs=1e-12)
    small = inputs / 8
    assert jsd.compute(Clouds(small - 0.2, small + 0.2), "inrflow") == pytest.approx(1, abs=1e-12)


def test_it_is_symmetric_and_knows_nothing_of_which_cloud_a_point_is_in():
    p, q = boxed(4, 100), boxed(6, 100, seed=1)
    value = jsd.compute(Clouds(p, q), "inrflow")
    assert jsd.compute(Clouds(q, p), "inrflow") == pytest.approx(value, rel=1e-12)
    mixed = np.random.default_rng(0).permutation(p.reshape(-1, 3)).reshape(p.shape)
    assert jsd.compute(Clouds(mixed, q), "inrflow") == pytest.approx(value, rel=1e-12)


def test_pointflows_tables_are_in_hundredths():
    p, q = boxed(4, 100), boxed(6, 100, seed=1)
    assert jsd.unit("inrflow") == jsd.unit("lion-global") == "" and jsd.unit("pointflow") == "10^-2"
    assert jsd.compute(Clouds(p, q), "pointflow") == pytest.approx(100 * jsd.compute(Clouds(p, q), "inrflow"))


def test_the_grid_has_as_many_nodes_as_the_ball_holds():
    nodes, _ = jsd._nodes()
    axis = np.float32(1 / 27) * np.arange(28, dtype=np.float32) - np.float32(0.5)
    radii = np.linalg.norm(np.stack(np.meshgrid(axis, axis, axis), -1).reshape(-1, 3), axis=1)
    assert len(nodes) == (radii <= 0.5).sum()


def test_one_cloud_is_too_few():
    with pytest.raises(UsageError, match="there are too few samples: 1"):
        jsd.compute(Clouds(boxed(1, 10), boxed(2, 10)), "inrflow")
