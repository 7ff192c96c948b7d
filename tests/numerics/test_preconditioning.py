"""The scalings and levels of consistency models: the numbers of INRCT's and ECT's formulas."""

from __future__ import annotations

import math

import pytest
import torch

from inrflow_core.numerics import keyed_random, preconditioning
from inrflow_core.numerics.preconditioning import Scalings

HALF = Scalings(math.sqrt(0.5))
TABLE = [
    # t, c_skip, c_out, coefficient of the data and of the noise in what `edm` makes the network predict
    (0.003, 0.999982, 0.0030, 0.006, -1.000),
    (0.0865, 0.985256, 0.085860, 0.172, -0.993),
    (0.821, 0.425879, 0.535780, 1.072, -0.653),
    (1.526, 0.176761, 0.641576, 1.283, -0.420),
    (80.0, 7.812e-5, 0.707079, 1.414, -0.009),
]


@pytest.mark.parametrize(("level", "skip", "out", "of_data", "of_noise"), TABLE)
def test_the_scalings_are_those_of_edm(level: float, skip: float, out: float, of_data: float, of_noise: float):
    t = torch.tensor([level], dtype=torch.float64)
    assert float(HALF.c_skip(t)) == pytest.approx(skip, rel=1e-3, abs=1e-6)
    assert float(HALF.c_out(t)) == pytest.approx(out, rel=1e-3)
    # G of c_skip (y + t z) + c_out G = y
    c_skip, c_out = float(HALF.c_skip(t)), float(HALF.c_out(t))
    assert (1 - c_skip) / c_out == pytest.approx(of_data, abs=6e-4)
    assert -c_skip * level / c_out == pytest.approx(of_noise, abs=6e-4)


def test_scaled_noisy_data_have_variance_1():
    t = torch.tensor([0.003, 0.5, 80.0], dtype=torch.float64)
    torch.testing.assert_close((t.square() + 0.5) * HALF.c_in(t).square(), torch.ones(3, dtype=torch.float64))


def levels() -> torch.Tensor:
    u = keyed_random.uniform(torch.arange(1000), purpose="time", count=1000).flatten()
    return preconditioning.sample_levels(u)


def test_levels_are_log_normal_and_clamped():
    t = levels()
    assert float(t.median()) == pytest.approx(0.333, abs=0.002)
    assert float((t == 0.003).double().mean()) == pytest.approx(0.009, abs=0.001)
    assert float((t == 80).double().mean()) == pytest.approx(0.003, abs=0.001)
    assert float((t < 0.007).double().mean()) == pytest.approx(0.0267, abs=0.002)
    assert float((t < 0.0865).double().mean()) == pytest.approx(0.2502, abs=0.002)


AT_ZERO = {0: 1.0, 1: 0.811, 2: 0.584}
BELOW_ANCHOR = (1, 0.818, 0.660, 0.402, 0.309, 0.277, 0.263, 0.256, 0.253)


@pytest.mark.parametrize("halvings", range(9))
def test_the_lower_levels_have_the_shares_of_the_schedule(halvings: int):
    r = preconditioning.lower_levels(levels(), halvings)
    assert float((r < 0.0865).double().mean()) == pytest.approx(BELOW_ANCHOR[halvings], abs=0.002)
    at_zero = preconditioning.lower_levels(levels(), halvings, least=0.0) <= 0
    assert float(at_zero.double().mean()) == pytest.approx(AT_ZERO.get(halvings, 0.0), abs=0.002)
    assert ((r == 0) | (r >= 0.003)).all()


@pytest.mark.parametrize(
    ("level", "halvings", "ratio"),
    [(0.821, 2, 0.139), (0.821, 8, 0.987), (80, 0, 0), (80, 1, 0.5), (80, 2, 0.75), (80, 8, 0.9961)],
)
def test_the_ratio_of_the_levels(level: float, halvings: int, ratio: float):
    r = preconditioning.lower_levels(torch.tensor([level], dtype=torch.float64), halvings)
    assert float(r) / level == pytest.approx(ratio, abs=0.001)


def test_the_gap_is_halved_in_equal_parts_of_the_stage():
    steps = [preconditioning.num_halvings(step, 900) for step in range(900)]
    assert [steps.count(halvings) for halvings in range(9)] == [100] * 9
    assert preconditioning.num_halvings(10**6, 900) == 8 and preconditioning.num_halvings(5, 2, most=0) == 0
