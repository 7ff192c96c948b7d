"""Laws of consistency models: what the loss compares, what a seed determines, and what fields do."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch

from inrflow_core.errors import IntegrityError, UsageError
from inrflow_core.methods._contract import StepState
from inrflow_core.methods._inr_field import InrField
from inrflow_core.models import Model
from inrflow_core.numerics import preconditioning
from inrflow_core.sampling import sample
from inrflow_core.sampling.options import sampling_options
from inrflow_core.sets import CoordValueSet, TrainBatch
from tests import tiny

FULL = StepState("full", 8, 9)


def model(**settings: Any) -> Model:
    built = tiny.model(tiny.INR, method=settings)
    built.method.begin_stage("full")
    return built


def sets(built: Model, count: int = 6, first: int = 0) -> CoordValueSet:
    generator = torch.Generator().manual_seed(1)
    values = torch.rand(count, 144, 1, generator=generator) * 2 - 1
    return CoordValueSet(built.domain.queries(), values, torch.arange(first, first + count))


def field(built: Model, count: int = 3, **settings: Any) -> InrField:
    return sample.sample_fields(built, range(count), None, sampling_options(built, method_settings=settings))  # pyright: ignore[reportReturnType]


@pytest.mark.parametrize("parametrization", ["clean", "edm"])
@pytest.mark.parametrize("stage", ["reconstruction", "full"])
def test_the_loss_of_a_set_depends_on_the_set_alone(parametrization: str, stage: str):
    built = model(parametrization=parametrization, num_queries=50)
    batch, state = TrainBatch.from_sets(sets(built)), StepState(stage, 8, 9)
    whole = built.method.loss(batch, state)
    parts = torch.cat([built.method.loss(batch[i : i + 2], state) for i in range(0, 6, 2)])
    torch.testing.assert_close(parts, whole, rtol=2e-4, atol=2e-5)
    assert whole.shape == (6,) and len(whole.unique()) == 6


def test_the_answer_and_the_target_are_of_the_same_noise():
    """In double precision: the gap over the difference of the levels settles, by half with each halving; of other noise
    it does not.
    """
    built = model(teacher_decay=0.0, anchor_below=0.0, jitter=0.0)
    method, data = built.method, sets(built, 4)
    t = torch.full((4,), 0.5, dtype=torch.float64)
    _, _, noise, _ = method._training_pairs(TrainBatch.from_sets(data))
    data, noise = data.map(lambda tensor: tensor.double() if tensor.is_floating_point() else tensor), noise.double()
    functions = method.double()._model()

    def answers(level: torch.Tensor, noise: torch.Tensor) -> torch.Tensor:
        tokens = functions.write_tokens(data.queries, data.values + level[:, None, None] * noise, level)
        return method.readout.query(method.readout.prepare(tokens), data.queries).flatten(1)

    def gap(halvings: int, other: torch.Tensor) -> torch.Tensor:
        return (answers(t, noise) - answers(preconditioning.lower_levels(t, halvings), other)).norm(dim=1)

    def slope(halvings: int) -> torch.Tensor:
        return gap(halvings, noise) / (t - preconditioning.lower_levels(t, halvings))

    limit = slope(20)
    assert ((slope(14) / slope(16) - 1).abs() < 0.001).all()
    torch.testing.assert_close(
        (slope(8) - limit) / (slope(9) - limit), torch.full((4,), 2.0).double(), rtol=0.05, atol=0
    )
    assert (gap(8, noise.flip(0)) > 50 * gap(8, noise)).all()


def test_no_gradient_reaches_the_teacher():
    built = model()
    for network in built.method.networks().values():
        network.requires_grad_(True)
    built.method.loss(TrainBatch.from_sets(sets(built)), FULL).mean().backward()
    assert all(weight.grad is None for weight in built.method.teacher.parameters())
    assert all(weight.grad is not None for weight in built.method.readout.parameters())


@pytest.mark.parametrize("parametrization", ["clean", "edm"])
def test_the_boundary_is_the_data(parametrization: str):
    """f(x, 0) = x to the bit, where the network is not called; near it `edm` is close to x."""
    built = model(parametrization=parametrization)
    method, data = built.method, sets(built)
    least = torch.full((6,), 0.003, dtype=torch.float64)
    noise, answer = torch.randn(6, 144, 1), torch.randn(6, 144, 1)
    if parametrization == "edm":
        zero = method._consistency(answer, data.values, noise, torch.zeros(6, dtype=torch.float64))
        assert torch.equal(zero, data.values)
        near = method._consistency(answer, data.values, noise, least)
        x = data.values + 0.003 * noise
        assert ((near - x).abs() <= 1.8e-5 * x.abs() + 0.0031 * answer.abs() + 1e-6).all()
    first = StepState("full", 0, 9)  # every lower level is 0: the data are the target, and no teacher is called
    method.teacher = None
    loss = method.loss(TrainBatch.from_sets(data), first)
    queries, y, noise, query_noise = method._training_pairs(TrainBatch.from_sets(data))
    t = method.sample_levels(data.seeds, "full")
    result = method._consistency(method._decode(method.networks(), data, noise, t, queries), y, query_noise, t)
    distance = (result - y).flatten(1).norm(dim=1)
    weight = method._weight(t, torch.zeros_like(t)).float()
    if parametrization == "clean":
        torch.testing.assert_close(loss, weight * distance, rtol=1e-4, atol=1e-5)
    else:
        assert (loss >= weight * distance - 1e-4).all()


def test_an_eighth_of_the_levels_is_reserved_for_reconstruction():
    built = model()
    t = built.method.sample_levels(torch.arange(20_000), "full")
    low = float((t < 0.007).double().mean())
    assert low == pytest.approx(0.125 + 0.875 * 0.0267, abs=0.006)
    assert built.method.sample_levels(torch.arange(1000), "reconstruction").max() < 0.007


def test_training_coordinates_move_by_a_quarter_of_a_cell_at_most_and_keep_their_values():
    built = model()
    data = sets(built)
    queries, y, _, _ = built.method._training_pairs(TrainBatch.from_sets(data))
    assert queries.coordinates is not None and torch.equal(y, data.values)
    shift = queries.coordinates - data.queries.coordinates
    cell = 2 / 12
    assert shift.abs().max() <= cell / 4 + 1e-7 and 0.05 * cell < float(shift.std()) < 0.2 * cell
    assert not torch.equal(shift[0], shift[1])


@pytest.mark.parametrize("steps", [1, 2])
def test_a_sample_is_the_same_in_any_batch_and_chunk(steps: int):
    built = model()
    queries = built.domain.queries((20, 20))
    whole = field(built, 4, steps=steps).query(queries)
    for chunk in (4, 28, 1024):
        torch.testing.assert_close(field(built, 4, steps=steps).query(queries, chunk=chunk), whole, rtol=0, atol=1e-5)
    options = sampling_options(built, method_settings={"steps": steps})
    alone = sample.sample_fields(built, [2], None, options).query(queries)
    torch.testing.assert_close(alone[0], whole[2], rtol=0, atol=1e-5)


@pytest.mark.parametrize("steps", [1, 2])
def test_a_field_at_three_times_the_resolution_has_the_training_values_at_every_third_pixel(steps: int):
    drawn = field(model(), steps=steps)
    coarse = drawn.query(model().domain.queries()).unflatten(1, (12, 12))
    fine = drawn.query(model().domain.queries((36, 36))).unflatten(1, (36, 36))
    torch.testing.assert_close(fine[:, 1::3, 1::3], coarse, rtol=0, atol=1e-5)


def test_other_seeds_and_steps_are_other_samples():
    built = model()
    queries = built.domain.queries()
    one, two = (field(built, steps=steps).query(queries) for steps in (1, 2))
    assert (one[0] - one[1]).abs().max() > 1e-3 and (one - two).abs().max() > 1e-3


@pytest.mark.parametrize("steps", [1, 2])
def test_a_saved_field_answers_the_same(tmp_path: Path, steps: int):
    built = model()
    drawn = field(built, steps=steps).cache_context()
    queries = built.domain.queries((15, 9))
    sample.save_field(built, drawn, tmp_path / "field.safetensors")
    assert abs((tmp_path / "field.safetensors").stat().st_size - drawn.size()) < 20_000
    _, loaded = sample.load_field(tmp_path / "field.safetensors", "cpu")
    assert torch.equal(loaded.query(queries), drawn.query(queries))
    sample.save_field(built, drawn, tmp_path / "half.safetensors", half=True)
    _, half = sample.load_field(tmp_path / "half.safetensors", "cpu")
    torch.testing.assert_close(half.query(queries), drawn.query(queries), rtol=0.05, atol=0.05)


def test_an_incomplete_field_is_named(tmp_path: Path):
    from inrflow_core import fields, models

    built = model()
    drawn = field(built).cache_context()
    tensors = {name: tensor for name, tensor in drawn._tensors().items() if not name.startswith("state.")}
    info = {"scale": 1.0, "steps": 1, "second_step": 0.8}
    models.save(tmp_path / "field.safetensors", tensors, built.preset, info, fields.FORMAT)
    with pytest.raises(IntegrityError, match="not a whole field"):
        sample.load_field(tmp_path / "field.safetensors", "cpu")


def test_an_image_is_encoded_by_one_call_without_noise():
    built = model()
    data = sets(built, 2)
    encoded = built.method.invert(data, sampling_options(built))
    t = torch.full((2,), 0.003, dtype=torch.float64)
    expected = built.method._decode(built.method.networks(), data, torch.zeros(2, 144, 1), t, data.queries)
    torch.testing.assert_close(encoded.query(data.queries), expected, rtol=0, atol=1e-5)


def test_one_step_of_edm_is_a_scaled_function_and_two_are_pixels(tmp_path: Path):
    built = model(parametrization="edm")
    queries = built.domain.queries()
    one = field(built, steps=1)
    values = one.query(queries)
    assert one.scale == pytest.approx(0.707079, abs=1e-5)
    assert (
        one.query(built.domain.queries((36, 36)))
        .unflatten(1, (36, 36))[:, 1::3, 1::3]
        .flatten(1, 2)
        .allclose(values, atol=1e-5)
    )
    two = field(built, steps=2).cache_context()
    assert two.query(queries).shape == values.shape
    with pytest.raises(UsageError, match="pixels of the training grid"):
        two.query(built.domain.queries((36, 36)))
    with pytest.raises(UsageError, match="no function to save"):
        sample.save_field(built, two, tmp_path / "field.safetensors")


@pytest.mark.parametrize(
    ("settings", "said"),
    [
        ({"steps": 3}, "1 or 2"),
        ({"t_min": 90.0}, "t_min < t_max"),
        ({"parametrization": "edm", "jitter": 0.3}, "jitter"),
        ({"teacher_decay": 1.0}, "below 1"),
        ({"second_step": 100.0}, "second_step"),
        ({"num_queries": 0}, "at least 1"),
        ({"reconstruction_below": 0.001}, "above `t_min`"),
        ({"max_halvings": 31}, "from 0 to 30"),
    ],
)
def test_impossible_settings_are_refused(settings: dict[str, Any], said: str):
    with pytest.raises(UsageError, match=said):
        tiny.preset(tiny.INR, method=settings)


def test_three_steps_guidance_and_a_condition_are_refused():
    built = model()
    with pytest.raises(UsageError, match="1 or 2"):
        sampling_options(built, steps=3)
    with pytest.raises(UsageError, match="without guidance"):
        sampling_options(built, guide=built)
    with pytest.raises(UsageError, match="without a condition"):
        tiny.model({**tiny.INR, "condition": dict(tiny.CONDITION)})


def test_networks_of_another_kind_are_refused():
    tables = tiny.INR["network"]
    assert tables is not None
    swapped = {"hypernetwork": tables["readout"], "readout": tables["hypernetwork"]}
    with pytest.raises(UsageError, match="cannot be the hypernetwork"):
        tiny.model({**tiny.INR, "network": swapped})


def test_the_loss_of_a_scene_depends_on_the_scene_alone():
    """The encoder reads one view, the decoder rays of another; depths along them are keyed by the seeds."""
    built = tiny.model(tiny.RADIANCE, method={"num_queries": 20})
    built.method.begin_stage("full")
    generator = torch.Generator().manual_seed(0)
    scenes = built.domain.dummy_batch(4)
    values = torch.rand(scenes.values.shape, generator=generator) * 2 - 1
    batch = built.domain.train_batch(replace(scenes, values=values, seeds=torch.arange(4)))
    for stage in ("reconstruction", "full"):
        state = StepState(stage, 8, 9)
        whole = built.method.loss(batch, state)
        parts = torch.cat([built.method.loss(batch[i : i + 1], state) for i in range(4)])
        torch.testing.assert_close(parts, whole, rtol=1e-4, atol=1e-5)
        assert len(whole.unique()) == 4
