"""Laws of latent diffusion of clips: one function of time and space behind every frame rate and every size."""

from __future__ import annotations

from typing import Any

import pytest
import torch

from inrflow_core.errors import UsageError
from inrflow_core.methods._contract import StepState
from inrflow_core.models import Model
from inrflow_core.sampling import sample
from inrflow_core.sampling.options import sampling_options
from inrflow_core.sets import CoordValueSet, Queries, TrainBatch
from tests import tiny

FIRST, SECOND = StepState("autoencoder", 8, 9), StepState("diffusion", 8, 9)


def model(**settings: Any) -> Model:
    return tiny.model(tiny.VIDEO, method=settings)


def sets(built: Model, count: int = 4) -> CoordValueSet:
    values = torch.rand(count, 4 * 8 * 8, 3, generator=torch.Generator().manual_seed(1)) * 2 - 1
    blank = built.domain.dummy_batch(count)
    condition = {"label": torch.arange(count) % 3}
    return CoordValueSet(blank.queries, values, torch.arange(count), condition)


def field(built: Model, seeds: Any = range(3), labels: Any = (0, 1, 2)) -> Any:
    return sample.sample_fields(built, seeds, list(labels), sampling_options(built))


def grid(times: torch.Tensor, side: int) -> Queries:
    axis = (2 * torch.arange(side) + 1) / side - 1
    at = torch.stack(torch.meshgrid(times, axis, axis, indexing="ij"), -1).flatten(0, 2)
    return Queries(at, torch.arange(len(at)))


def frames(count: int) -> torch.Tensor:
    return (2 * torch.arange(count) + 1) / count - 1


def test_the_loss_of_a_clip_depends_on_the_clip_alone():
    built = model(num_queries=100)
    batch = TrainBatch.from_sets(sets(built))
    latents = batch.context.with_values(built.method.precompute("latents", batch.context))
    for each, state in ((batch, FIRST), (TrainBatch.from_sets(latents), SECOND)):
        whole = built.method.loss(each, state)
        parts = torch.cat([built.method.loss(each[row : row + 1], state) for row in range(4)])
        torch.testing.assert_close(parts, whole, rtol=2e-4, atol=2e-5)
        assert whole.shape == (4,) and len(whole.unique()) == 4


def test_a_drawn_clip_depends_on_its_seed_and_label_alone_and_not_on_the_chunk():
    built, at = model(), grid(frames(5), 6)
    whole = field(built).query(at)
    one = field(built, [1], [1]).query(at, chunk=7)
    torch.testing.assert_close(one, whole[1:2], rtol=1e-4, atol=1e-5)
    assert (field(built, [1], [2]).query(at) - one).abs().max() > 1e-3
    assert (field(built, [7], [1]).query(at) - one).abs().max() > 1e-3


def test_a_clip_of_twice_the_frame_rate_has_the_training_frames_at_every_second():
    built = model()
    made = field(built).cache_context()
    training = made.query(built.domain.queries()).unflatten(1, (4, 64))
    faster = made.query(grid(frames(4)[0] + torch.arange(8) / 4, 8)).unflatten(1, (8, 64))
    assert torch.equal(faster[:, ::2], training)
    assert (faster[:, 1:-1:2] - training[:, 1:]).abs().max() > 1e-3


def test_a_saved_clip_answers_the_same_without_the_model(tmp_path):
    built, at = model(), grid(frames(7), 5)
    made = field(built).cache_context()
    made.save(tmp_path / "field.safetensors", built.preset)
    _, loaded = sample.load_field(tmp_path / "field.safetensors", "cpu")
    assert torch.equal(loaded.query(at), made.query(at))


def test_an_encoded_clip_is_the_function_of_its_own_latents():
    built, data = model(), sets(model())
    mean, _ = built.method.autoencoder.encode(data.values)
    state = built.method.autoencoder.decode(mean)
    expected = built.method.readout.query(state, data.queries)
    made = built.method.invert(data, sampling_options(built)).query(data.queries)
    torch.testing.assert_close(made, expected, rtol=1e-5, atol=1e-6)


def test_losses_of_images_are_refused():
    with pytest.raises(UsageError, match="`adversarial` of \\[method\\] compares images"):
        model(adversarial=0.5)
    with pytest.raises(UsageError, match="`perceptual` of \\[method\\] compares images"):
        model(perceptual=1.0)
