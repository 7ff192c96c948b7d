"""The loss of sets of unequal size, and what is drawn of them: padding and unknown atoms change nothing."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import numpy as np
import pytest
import torch

from inrflow_core import models
from inrflow_core.methods._ragged_batches import MAX_PADDING, bucket_by_size
from inrflow_core.models import Model
from inrflow_core.samplers import dopri5
from inrflow_core.sampling import options, sample
from inrflow_core.sets import CoordValueSet, TrainBatch
from inrflow_core.training.data import open_data
from tests import tiny
from tests.training import conditioned_runs

KINDS: dict[str, dict[str, Any]] = {
    "attention": {},
    "linear": {"encoder": "linear"},
    "rope and skip": {"rope": True, "residue_skip": True},
}


@pytest.fixture(scope="module")
def sets(tmp_path_factory) -> CoordValueSet:
    """Eight chains of 3 to 9 residues in one batch; one atom is unknown."""
    folder = conditioned_runs.folded(tmp_path_factory.mktemp("groups") / "shards")
    loader, _ = open_data(conditioned_runs.preset(tiny.PROTEIN, training={"batch": 8}), folder)
    return loader.batch(0, range(8))


def alone(sets: CoordValueSet, row: int) -> CoordValueSet:
    """One of the sets as if it had been read by itself."""
    one = sets[row : row + 1]
    assert one.queries.group_ids is not None and one.mask is not None
    size, groups = int((one.queries.group_ids >= 0).sum()), int(one.queries.group_ids.max()) + 1
    condition = {name: value[:, :groups] for name, value in one.condition.items()}
    return CoordValueSet(one.queries[:size], one.values[:, :size], one.seeds, condition, one.mask[:, :size])


def model(network: dict[str, Any], **method: Any) -> Model:
    return tiny.model(tiny.PROTEIN, network=network, method=method)


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize(
    "method",
    [{}, {"align": "noise"}, {"align": "prediction", "smooth_lddt": 1.0, "noise_draws_per_example": 2}],
    ids=["paper", "noise", "all"],
)
def test_the_loss_of_a_batch_is_that_of_its_sets_one_by_one(sets, kind, method):
    flow = model(KINDS[kind], **method).method
    together = flow.loss(TrainBatch.from_sets(sets))
    apart = torch.cat([flow.loss(TrainBatch.from_sets(alone(sets, row))) for row in range(8)])
    torch.testing.assert_close(together, apart, atol=1e-5, rtol=1e-5)
    assert apart.std() > 1e-3


@pytest.mark.parametrize("kind", KINDS)
def test_the_gradient_of_a_batch_is_that_of_its_sets_one_by_one_whatever_fills_the_padding(sets, kind):
    result = []
    dirty = replace(sets, values=sets.values.masked_fill(~sets.mask[..., None], torch.nan))
    for parts in ([sets], [dirty], [alone(sets, row) for row in range(8)]):
        flow = model(KINDS[kind]).method.requires_grad_(True)
        for part in parts:
            (flow.loss(TrainBatch.from_sets(part)).sum() / 8).backward()
        result.append([weight.grad for weight in flow.parameters()])
        assert all(torch.isfinite(gradient).all() for gradient in result[-1])
    torch.testing.assert_close(result[1], result[0], rtol=0, atol=0)
    torch.testing.assert_close(result[2], result[0], atol=1e-5, rtol=1e-4)


def test_an_unknown_atom_has_no_part_in_the_loss(sets):
    flow = model({}).method
    row = int((sets.mask.sum(1) < (sets.queries.group_ids >= 0).sum(1)).nonzero())
    (index,) = ((sets.queries.group_ids[row] >= 0) & ~sets.mask[row]).nonzero()[0].tolist()
    other = sets.values.clone()
    other[row, index] = 7.0
    torch.testing.assert_close(
        flow.loss(TrainBatch.from_sets(replace(sets, values=other))),
        flow.loss(TrainBatch.from_sets(sets)),
        rtol=0,
        atol=0,
    )
    seen = sets.mask.clone()
    seen[row, index] = True
    difference = flow.loss(TrainBatch.from_sets(replace(sets, values=other, mask=seen))) - flow.loss(
        TrainBatch.from_sets(sets)
    )
    assert difference[row].abs() > 1e-3 and difference.abs().sum() == difference[row].abs()


def test_the_loss_of_random_atoms_is_the_mean_over_all_of_them(sets):
    one = alone(sets, 0)
    many = replace(one[torch.zeros(3000, dtype=torch.int64)], seeds=torch.arange(3000))
    some, every = (
        model({}, **requested).method.loss(TrainBatch.from_sets(many)).mean() for requested in ({"num_queries": 11}, {})
    )
    assert float(some) == pytest.approx(float(every), rel=0.03)


def test_random_atoms_of_a_set_do_not_depend_on_what_is_padded_beside_it(sets):
    flow = model({}, num_queries=12).method
    together = flow.loss(TrainBatch.from_sets(sets))
    apart = torch.cat([flow.loss(TrainBatch.from_sets(alone(sets, row))) for row in range(8)])
    assert torch.isfinite(together).all() and torch.isfinite(apart).all()
    torch.testing.assert_close(together, apart, atol=1e-5, rtol=1e-5)


def test_a_fresh_network_has_the_loss_of_the_zero_velocity(sets):
    torch.manual_seed(0)
    built = models.build(tiny.preset(tiny.PROTEIN))
    pairs = sets[torch.arange(8).repeat(16)]
    many = replace(pairs, values=torch.zeros_like(pairs.values), seeds=torch.arange(128))
    assert float(built.method.loss(TrainBatch.from_sets(many)).mean()) == pytest.approx(1.0, abs=0.05)


@pytest.mark.parametrize("sampler", ["euler", "heun", "euler-maruyama", "dopri5"])
@pytest.mark.parametrize("kind", KINDS)
def test_a_fold_depends_on_its_seed_and_sequence_and_not_on_its_batch(sets, kind, sampler):
    built = model(KINDS[kind])
    how = options.sampling_options(built, sampler=sampler, steps=None if sampler == "dopri5" else 4)
    seeds = list(range(8))
    field = sample.sample_fields(built, seeds, None, how, sets.condition)
    together = field.query(built.domain.queries(condition=sets.condition))
    for row in (0, 3, 5):
        own = alone(sets, row)
        one = sample.sample_fields(built, [row], None, how, own.condition).query(own.queries, chunk=9)
        tolerance = 0.02 if sampler == "dopri5" else 1e-4  # its steps carry rounding on, to 0.006 here
        torch.testing.assert_close(one[0], together[row, : one.shape[1]], atol=tolerance, rtol=0)
    assert together.std() > 0.1


def test_what_is_padded_changes_no_step_of_an_adaptive_sampler():
    y = torch.randn(2, 9, 3, generator=torch.Generator().manual_seed(0))
    times = torch.tensor([0.9, 0.8], dtype=torch.float64), torch.tensor([0.6, 0.7], dtype=torch.float64)
    real = torch.arange(9) < torch.tensor([[9], [5]])
    padded = y.masked_fill(~real[..., None], 1e3)

    def error(values: torch.Tensor, part: slice, **given: torch.Tensor) -> torch.Tensor:
        t, t_next = (end[part] for end in times)
        return dopri5.trial_step(lambda y, t: y.sin() * 3 + y**2, values[part], t, t_next, dopri5.Config(), **given)[1]

    expected = torch.cat([error(y, slice(0, 1)), error(y[:, :5], slice(1, 2))])
    torch.testing.assert_close(error(padded, slice(0, 2), real=real), expected, rtol=1e-6, atol=0)
    assert (error(padded, slice(0, 2)) - expected).abs()[1] > 0.1


def test_packs_keep_every_set_once_and_waste_little():
    generator = np.random.default_rng(0)
    for _ in range(300):
        count = int(generator.integers(1, 65))
        sizes = np.exp(generator.uniform(0, generator.uniform(0.1, 8), count)).astype(int) + 1
        result = bucket_by_size(sizes.tolist())
        assert sorted(index for pack in result for index in pack) == list(range(count))
        for pack in result:
            assert len(pack) * max(sizes[pack]) <= MAX_PADDING * sizes[pack].sum() + 1e-9
        assert result == bucket_by_size(sizes.tolist())
    assert bucket_by_size([5, 5, 5]) == [[0, 1, 2]] and bucket_by_size([]) == []
    lengths = generator.lognormal(5.7, 0.6, 256).astype(int) + 30  # about those of Swiss-Prot
    assert len(bucket_by_size(lengths.tolist())) <= 12
