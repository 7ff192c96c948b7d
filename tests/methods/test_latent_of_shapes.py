"""Laws of latent diffusion of shapes: it reads points of a surface, and is trained on and queried at other positions."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import numpy as np
import pytest
import torch
from torch.nn import functional

from inrflow_core.domains._contract import batch_of
from inrflow_core.errors import UsageError
from inrflow_core.methods._contract import StepState
from inrflow_core.models import Model
from inrflow_core.sampling import sample
from inrflow_core.sampling.options import sampling_options
from inrflow_core.sets import CoordValueSet, Queries, TrainBatch
from tests import tiny

FIRST, SECOND = StepState("autoencoder", 8, 9), StepState("diffusion", 8, 9)


def model(**settings: Any) -> Model:
    return tiny.model(tiny.SHAPES, method=settings)


def sets(built: Model, count: int = 4) -> CoordValueSet:
    """Points in [-0.9, 0.9]^3 and queries, of which half are inside."""
    config, rng = built.domain.config, np.random.default_rng(1)
    half = built.domain.half
    points = rng.uniform(-0.9, 0.9, (count, config.num_points, 3)).astype(np.float32) * half
    bits = rng.integers(0, 256, (count, -(-config.num_queries // 8)), dtype=np.uint8)
    queries = rng.uniform(-1, 1, (count, config.num_queries, 3)).astype(np.float32) * half
    arrays = {"queries": queries, "occupancies": bits}
    return built.domain.to_set(batch_of(points, arrays), torch.arange(count), np.arange(count) % 3)


def train_batch(built: Model, count: int = 4) -> TrainBatch:
    return built.domain.train_batch(sets(built, count))


def field(built: Model, seeds: Any = range(3), labels: Any = (0, 1, 2)) -> Any:
    return sample.sample_fields(built, seeds, list(labels), sampling_options(built))


def anywhere(count: int = 50) -> Queries:
    return Queries(torch.rand(count, 3, generator=torch.Generator().manual_seed(3)) * 2 - 1, torch.arange(count))


def test_the_loss_of_a_shape_depends_on_the_shape_alone():
    built = model()
    batch = train_batch(built)
    latents = batch.context.with_values(built.method.precompute("latents", batch.context))
    for each, state in ((batch, FIRST), (TrainBatch.from_sets(latents), SECOND)):
        whole = built.method.loss(each, state)
        parts = torch.cat([built.method.loss(each[row : row + 1], state) for row in range(4)])
        torch.testing.assert_close(parts, whole, rtol=2e-4, atol=2e-5)
        assert whole.shape == (4,) and len(whole.unique()) == 4


def test_without_noise_and_divergence_the_first_loss_is_the_cross_entropy_at_the_queries():
    built = model(kl=0.0)
    batch, options = train_batch(built), sampling_options(built)
    last = built.method.autoencoder.encoder.latents
    for plane in range(3):  # the second half of each plane's channels: the logarithms of the variances
        last.weight[6 * plane + 3 : 6 * plane + 6], last.bias[6 * plane + 3 : 6 * plane + 6] = 0, -30
    logits = built.method.invert(batch.context, options).query(batch.queries.queries)
    expected = functional.binary_cross_entropy_with_logits(logits, batch.queries.values, reduction="none")
    torch.testing.assert_close(built.method.loss(batch, FIRST), expected.mean((1, 2)), rtol=1e-4, atol=1e-5)


def test_the_order_of_the_surface_points_changes_neither_latents_nor_function():
    built = model()
    data, at = sets(built), anywhere()
    mixed = replace(data, values=data.values[:, torch.randperm(data.values.shape[1])])
    one, other = (built.method.invert(each, sampling_options(built)).query(at) for each in (data, mixed))
    torch.testing.assert_close(one, other, rtol=1e-4, atol=1e-5)
    assert one.std() > 1e-3


def test_a_drawn_shape_depends_on_its_seed_and_label_alone_and_not_on_the_chunk():
    built, at = model(), anywhere()
    whole = field(built).query(at)
    one = field(built, [1], [1]).query(at, chunk=7)
    torch.testing.assert_close(one, whole[1:2], rtol=1e-4, atol=1e-5)
    assert (field(built, [1], [2]).query(at) - one).abs().max() > 1e-3
    assert (field(built, [7], [1]).query(at) - one).abs().max() > 1e-3


def test_a_saved_shape_answers_the_same_without_the_model(tmp_path):
    built, at = model(), anywhere()
    made = field(built).cache_context()
    made.save(tmp_path / "field.safetensors", built.preset)
    _, loaded = sample.load_field(tmp_path / "field.safetensors", "cpu")
    assert torch.equal(loaded.query(at), made.query(at))


def test_errors_that_the_values_do_not_have_are_refused():
    with pytest.raises(UsageError, match="the values of the sets are occupancies"):
        model(reconstruction="l1")
    with pytest.raises(UsageError, match="the values of the sets are no occupancies"):
        tiny.model(tiny.LATENT, method={"reconstruction": "cross-entropy"})
