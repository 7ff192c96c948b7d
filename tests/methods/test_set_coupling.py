"""Couplings of data and noise within sets: which pairs are mixed, and what stays as it was."""

from __future__ import annotations

import dataclasses
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor

from inrflow_core import models
from inrflow_core.errors import UsageError
from inrflow_core.methods._contract import StepState
from inrflow_core.methods.flow import FlowMatching
from inrflow_core.numerics import assignment, noise_field
from inrflow_core.sampling import options, sample
from inrflow_core.sets import CoordValueSet, TrainBatch
from tests import tiny
from tests.training import small

POINTS = 24
COUPLED = ["assignment", "blocked-assignment"]
SEEDS = torch.tensor([3, 4, 5, 2**62])


def method(coupling: str = "assignment", num_points: int = POINTS, **settings: Any) -> FlowMatching:
    changes = {"domain": {"num_points": num_points}, "method": {"coupling": coupling, **settings}}
    return tiny.model(tiny.POINTS, **changes).method


def clouds(num_points: int = POINTS, seeds: Tensor = SEEDS) -> CoordValueSet:
    """Flat clouds, labels in turn."""
    values = torch.randn(len(seeds), num_points, 3, generator=torch.Generator().manual_seed(0))
    queries = models.build(tiny.preset(tiny.POINTS, domain={"num_points": num_points})).domain.queries()
    return CoordValueSet(queries, values * torch.tensor([1, 0.5, 0.1]), seeds, {"label": torch.arange(len(seeds)) % 3})


def noise_of(sets: CoordValueSet) -> Tensor:
    return noise_field.normal(sets.seeds, sets.queries.noise_keys, purpose="noise", channels=3)


def prepared(built: FlowMatching, sets: CoordValueSet) -> CoordValueSet:
    batch = built.prepare_batch(TrainBatch.from_sets(sets))
    assert batch.is_shared
    return batch.context


def sorted_rows(values: Tensor) -> list[list[list[float]]]:
    return [sorted(rows) for rows in values.tolist()]


def mean_square(first: Tensor, second: Tensor) -> Tensor:
    return (first - second).square().sum(-1).mean(-1)


@pytest.mark.parametrize("coupling", COUPLED)
@pytest.mark.parametrize("num_points", [POINTS, 100])
def test_points_change_their_order_and_nothing_else_changes(coupling, num_points):
    sets = clouds(num_points)
    after = prepared(method(coupling, num_points), sets)
    assert sorted_rows(after.values) == sorted_rows(sets.values) and not torch.equal(after.values, sets.values)
    assert after.queries is sets.queries and after.seeds is sets.seeds and after.condition == sets.condition
    assert (mean_square(noise_of(sets), after.values) < 0.7 * mean_square(noise_of(sets), sets.values)).all()


def test_the_assignment_has_the_least_squared_distance_to_the_noise_of_training():
    sets = clouds()
    after = prepared(method(), sets)
    for noise, before, values in zip(noise_of(sets), sets.values, after.values, strict=True):
        order = assignment.exact(noise.double().numpy(), before.double().numpy())
        assert torch.equal(values, before[torch.from_numpy(order)])


@pytest.mark.parametrize("coupling", ["independent", *COUPLED])
def test_the_network_gets_the_same_noise_under_every_coupling(coupling, monkeypatch):
    """At t = 1 its noisy values are the noise: that of (seed, id), so N(0, 1) and independent of the data as a set."""
    built, sets = method(coupling), clouds()
    monkeypatch.setattr(built, "sample_times", lambda seeds: torch.ones(len(seeds), dtype=torch.float64))
    seen: list[Tensor] = []
    built.network.register_forward_pre_hook(lambda _, arguments: seen.append(arguments[1]))
    built.loss(built.prepare_batch(TrainBatch.from_sets(sets)), StepState("train", 0, 1))
    assert torch.equal(seen[0], noise_of(sets))


@pytest.mark.parametrize("coupling", COUPLED)
def test_a_set_is_coupled_alone_as_in_any_batch_and_whatever_the_order_of_its_points(coupling):
    built, sets = method(coupling), clouds()
    together = prepared(built, sets)
    for row in range(len(sets)):
        assert torch.equal(prepared(built, sets[row : row + 1]).values[0], together.values[row])
    other = dataclasses.replace(sets, values=sets.values[:, torch.randperm(POINTS)])
    assert torch.equal(prepared(built, other).values, together.values)
    again = dataclasses.replace(sets, seeds=sets.seeds + 1)
    assert not torch.equal(prepared(built, again).values, together.values)


def test_independent_leaves_a_batch_as_it_is():
    batch = TrainBatch.from_sets(clouds())
    assert method("independent").prepare_batch(batch) is batch
    assert tiny.model(tiny.POINTS).method.config.coupling == "independent"


def test_a_set_with_values_that_are_not_finite_stays_for_the_step_to_skip():
    sets = clouds()
    sets.values[1, 3] = torch.nan
    after = prepared(method(), sets)
    torch.testing.assert_close(after.values[1], sets.values[1], rtol=0, atol=0, equal_nan=True)
    assert torch.equal(after.values[[0, 2, 3]], prepared(method(), sets[torch.tensor([0, 2, 3])]).values)


@pytest.mark.parametrize("kind", [tiny.IMAGE, tiny.PROTEIN], ids=["image", "protein"])
def test_sets_whose_values_belong_to_their_coordinates_are_refused(kind):
    with pytest.raises(UsageError, match="each value of this domain belongs to its coordinate") as caught:
        models.build(tiny.preset(kind, method={"coupling": "assignment"}))
    assert caught.value.code == 2 and "unordered points" in str(caught.value.hint)


def test_several_noises_for_a_set_are_refused():
    with pytest.raises(UsageError, match="`noise_draws_per_example` is 2, and `coupling` is `assignment`"):
        tiny.preset(tiny.POINTS, method={"coupling": "assignment", "noise_draws_per_example": 2})


def test_a_guide_of_another_coupling_is_refused():
    plain, coupled = tiny.model(tiny.POINTS), tiny.model(tiny.POINTS, method={"coupling": "assignment"})
    with pytest.raises(
        UsageError, match="the guide was trained with `coupling` `independent`, the model with `assignment`"
    ):
        options.sampling_options(coupled, guide=plain, guidance=2.0)
    assert options.sampling_options(coupled, guide=coupled, guidance=2.0).guide is not None


@pytest.mark.parametrize("coupling", COUPLED)
def test_the_same_weights_sample_and_invert_alike_under_every_coupling(coupling):
    plain, coupled = (tiny.model(tiny.POINTS, method={"coupling": name}) for name in ("independent", coupling))
    sets = clouds(seeds=torch.tensor([7]))
    for built in (plain, coupled):
        built.method.load_state_dict(plain.method.state_dict())
    drawn, inverted = [], []
    for built in (plain, coupled):
        drawing, queries = options.sampling_options(built, sampler="euler", steps=3), built.domain.queries(72)
        drawn.append(sample.sample_fields(built, [5, 6], [0, 1], drawing).query(queries))
        inverted.append(built.method.invert(sets, drawing).query(queries))
    assert torch.equal(*drawn) and torch.equal(*inverted)


def test_a_resumed_run_equals_an_unbroken_one_to_the_bit_and_processes_see_one_batch(tmp_path):
    data = small.clouds(tmp_path / "shards")
    kind = tiny.COUPLED_POINTS
    whole = small.train(data, tmp_path / "whole", kind=kind)
    small.train(data, tmp_path / "stopped", kind=kind, until=3)
    small.assert_equal(small.state(small.train(data, tmp_path / "stopped", kind=kind)), small.state(whole))
    assert small.losses(tmp_path / "whole") == small.losses(tmp_path / "stopped")
    small.train(data, tmp_path / "independent", kind=tiny.POINTS)
    assert small.losses(tmp_path / "independent")[0] != small.losses(tmp_path / "whole")[0]
    parts = [prepared(whole.model.method, whole.loader.batch(2, positions)) for positions in (range(2), range(2, 4))]
    together = prepared(whole.model.method, whole.loader.batch(2, range(4)))
    assert torch.equal(torch.cat([part.values for part in parts]), together.values)
    stored = next(
        whole.loader.stream([(2, range(4))], torch.device("cpu"), 1, prepare=whole.model.method.prepare_batch)
    )
    assert torch.equal(stored.context.values, together.values)
    assert np.isfinite(small.losses(tmp_path / "whole")).all()
