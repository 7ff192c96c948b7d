"""Laws of latent diffusion: what its losses compare, what a seed determines, and what fields do."""

from __future__ import annotations

import math
from pathlib import Path
from typing import Any

import pytest
import torch

from inrflow_core.errors import IntegrityError, UsageError
from inrflow_core.methods._autoencoder_loss import divergence
from inrflow_core.methods._contract import StepState
from inrflow_core.methods._latent_config import Config
from inrflow_core.methods._latent_field import LatentField
from inrflow_core.models import Model
from inrflow_core.sampling import sample
from inrflow_core.sampling.options import sampling_options
from inrflow_core.sets import CoordValueSet, TrainBatch
from inrflow_core.shards.manifest import ChannelStats
from tests import tiny

FIRST, SECOND = StepState("autoencoder", 8, 9), StepState("diffusion", 8, 9)

LATENT_NETWORKS: dict[str, Any] = tiny.LATENT["network"] or {}
CELL_SIZE_READOUT = {"name": "basis-readout", "width": 16, "reads_cell_size": True}


def model(**settings: Any) -> Model:
    return tiny.model(tiny.LATENT, method=settings)


def sets(built: Model, count: int = 4) -> CoordValueSet:
    generator = torch.Generator().manual_seed(1)
    values = torch.rand(count, 144, 1, generator=generator) * 2 - 1
    labels = torch.arange(count) % 3
    return CoordValueSet(built.domain.queries(), values, torch.arange(count), {"label": labels})


def latent_sets(built: Model, count: int = 4) -> CoordValueSet:
    data = sets(built, count)
    return data.with_values(built.method.precompute("latents", data))


def field(built: Model, seeds: Any = range(3), labels: Any = (0, 1, 2), **settings: Any) -> LatentField:
    options = sampling_options(built, method_settings=settings)
    return sample.sample_fields(built, seeds, list(labels), options)  # pyright: ignore[reportReturnType]


def test_fields_that_are_decoded_in_parts_are_those_of_all_sets_at_once(monkeypatch: pytest.MonkeyPatch):
    built = model()
    latents = torch.randn(5, *built.method.precompute("latents", sets(built)).shape[1:])[..., :3]
    whole, parts = field(built), field(built)
    whole.set_latents(latents)
    monkeypatch.setattr("inrflow_core.methods._latent_field.DECODED", 2 * 144)  # cells of two sets
    parts.set_latents(latents)
    assert whole.state is not None and parts.state is not None
    assert [len(each) for each in parts.state] == [5, 5, 5]
    for one, other in zip(whole.state, parts.state, strict=True):
        torch.testing.assert_close(one, other, rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("state", [FIRST, SECOND], ids=["autoencoder", "diffusion"])
def test_the_loss_of_a_set_depends_on_the_set_alone(state: StepState):
    built = model(num_queries=50)
    batch = TrainBatch.from_sets(sets(built) if state is FIRST else latent_sets(built))
    whole = built.method.loss(batch, state)
    parts = torch.cat([built.method.loss(batch[row : row + 1], state) for row in range(4)])
    torch.testing.assert_close(parts, whole, rtol=2e-4, atol=2e-5)
    assert whole.shape == (4,) and len(whole.unique()) == 4


def test_gradients_of_a_stage_reach_its_networks_alone():
    built = model()
    built.method.requires_grad_(True).train()
    for state, batch, trained in (
        (FIRST, sets(built), ("autoencoder", "readout")),
        (SECOND, latent_sets(built).map(torch.detach), ("denoiser",)),
    ):
        built.method.zero_grad()
        built.method.loss(TrainBatch.from_sets(batch), state).sum().backward()
        for name, network in built.method.networks().items():
            reached = [weight.grad is not None for weight in network.parameters()]
            assert all(reached) if name in trained else not any(reached), name


def test_the_divergence_is_that_of_torch_and_its_weight_grows_to_its_end():
    mean, std = torch.randn(2, 5, 3), torch.rand(2, 5, 3) + 0.1
    ours = divergence(mean, std)
    normal = torch.distributions.Normal
    expected = torch.distributions.kl_divergence(normal(mean, std), normal(torch.zeros(()), torch.ones(())))
    torch.testing.assert_close(ours, expected)
    config = Config(kl=0.5, kl_ramp=0.8)
    assert [config.kl_at(step, 100) for step in (0, 40, 80, 99)] == [0, 0.25, 0.5, 0.5]
    assert Config(kl=0.5, kl_ramp=0).kl_at(0, 100) == 0.5


def test_sums_have_the_gradient_of_means_with_the_converted_weight():
    gradients = {}
    for reduction, kl in (("sum", 0.5), ("mean", 0.5 * (9 * 3) / 144)):  # 3 x 3 cells of 3 latents, 12 x 12 gray pixels
        built = model(reduction=reduction, kl=kl, kl_ramp=0.0)
        built.method.requires_grad_(True)
        built.method.loss(TrainBatch.from_sets(sets(built)), FIRST).mean().backward()
        weights = built.method.named_parameters()
        gradients[reduction] = {name: weight.grad for name, weight in weights if weight.grad is not None}
    assert gradients["sum"].keys() == gradients["mean"].keys()
    for name, gradient in gradients["mean"].items():
        torch.testing.assert_close(gradients["sum"][name], 144 * gradient, rtol=1e-4, atol=1e-5)


def test_without_noise_and_divergence_the_first_loss_is_the_error_of_the_reconstruction():
    built = model(kl=0.0)
    data, options = sets(built), sampling_options(built)
    last = built.method.autoencoder.encoder.latents
    last.weight[3:], last.bias[3:] = 0, -30  # the logarithms of the variances
    made = built.method.invert(data, options).query(data.queries)
    expected = (made - data.values).abs().mean((1, 2))
    torch.testing.assert_close(built.method.loss(TrainBatch.from_sets(data), FIRST), expected, rtol=1e-4, atol=1e-5)


def test_latents_are_standardized_by_all_their_variance():
    """Of means with deviation 2 and Gaussians of deviation 1.5 and 0.5, whose mean variance is 1.25, it is 4 + 1.25."""
    built, size = model(), 3
    statistics = ChannelStats((1.0,) * size + (1.25,) * size, (2.0,) * size + (0.5,) * size)
    built.method.begin_precomputed("latents", statistics)
    torch.testing.assert_close(built.method.latent_mean, torch.ones(size))
    torch.testing.assert_close(built.method.latent_std, torch.full((size,), math.sqrt(4 + 1.25)))
    data = torch.randn(2, 9, size)
    back = (built.method.unscaled(data) - built.method.latent_mean) / built.method.latent_std
    torch.testing.assert_close(back, data)


def test_a_velocity_of_0_is_the_best_answer_for_standard_normal_latents():
    """E[v | y] = 0 for independent unit normals on the trigonometric path: v is uncorrelated with y."""
    built = model()
    torch.nn.init.zeros_(built.method.denoiser.network.last.weight)
    torch.nn.init.zeros_(built.method.denoiser.network.last.bias)
    generator = torch.Generator().manual_seed(2)
    mean = torch.randn(500, 9, 3, generator=generator)
    values = torch.cat([mean, torch.full_like(mean, -30.0)], -1)
    batch = CoordValueSet(latent_sets(built).queries, values, torch.arange(500), {"label": torch.zeros(500).long()})
    loss = built.method.loss(TrainBatch.from_sets(batch), SECOND).mean()
    assert abs(loss / (math.pi / 2) ** 2 - 1) < 0.03


def test_a_sample_depends_on_its_seed_and_label_alone():
    built = model()
    at = built.domain.queries((20, 28))
    whole = field(built).query(at)
    one = field(built, [1], [1]).query(at, chunk=37)
    torch.testing.assert_close(one, whole[1:2], rtol=1e-4, atol=1e-5)
    assert (field(built, [1], [2]).query(at) - one).abs().max() > 1e-3
    assert (field(built, [7], [1]).query(at) - one).abs().max() > 1e-3


def test_two_queries_of_one_field_are_equal_to_the_bit():
    built = model()
    made, queries = field(built), built.domain.queries((10, 6))
    assert torch.equal(made.query(queries), made.query(queries))


def test_finer_samples_hold_the_training_pixels():
    built = model()
    made = field(built)
    coarse = made.query(built.domain.queries()).unflatten(1, (12, 12))
    fine = made.query(built.domain.queries((36, 36))).unflatten(1, (36, 36))
    assert (fine[:, 1::3, 1::3] - coarse).abs().max() < 1e-5
    assert coarse.std() > 1e-3


def test_a_function_that_reads_the_cell_size_answers_by_it_and_not_by_the_chunk(tmp_path: Path):
    built = tiny.model(tiny.LATENT, network={**LATENT_NETWORKS, "readout": CELL_SIZE_READOUT})
    made = field(built).cache_context()
    whole, coarse = built.domain.queries((36, 36)), made.query(built.domain.queries())
    values = made.query(whole, chunk=1000)
    torch.testing.assert_close(made.query(whole, chunk=7), values, rtol=1e-4, atol=1e-5)
    window = made.query(built.domain.queries((18, 18), (0.5, 0.0, 1.0, 0.5)))
    torch.testing.assert_close(window.unflatten(1, (18, 18)), values.unflatten(1, (36, 36))[:, 18:, :18])
    assert (values.unflatten(1, (36, 36))[:, 1::3, 1::3] - coarse.unflatten(1, (12, 12))).abs().max() > 1e-3
    made.save(tmp_path / "field.safetensors", built.preset)
    _, loaded = sample.load_field(tmp_path / "field.safetensors", "cpu")
    assert torch.equal(loaded.query(whole, chunk=1000), values)


def test_guidance_compares_with_no_class_and_1_is_none():
    built = model()
    at = built.domain.queries()
    plain, same, guided = (field(built, guidance=scale).query(at) for scale in (1.0, 1.0, 3.0))
    assert torch.equal(plain, same)
    assert (guided - plain).abs().max() > 1e-4
    nothing = field(built, guidance=0.0).query(at)
    unconditional = field(built, labels=(-1, -1, -1), guidance=1.0).query(at)
    torch.testing.assert_close(nothing, unconditional, rtol=1e-4, atol=1e-5)


def test_a_guide_must_have_the_same_autoencoder():
    built, other = model(), model()
    assert sampling_options(built, guide=other, method_settings={"guidance": 2.0}).guide is other.method
    tiny.randomize(other.method.autoencoder, seed=5)
    with pytest.raises(UsageError, match="has another autoencoder"):
        sampling_options(built, guide=other, method_settings={"guidance": 2.0})


@pytest.mark.parametrize("kind", ["drawn", "encoded"])
def test_a_saved_field_answers_the_same_without_the_model(tmp_path: Path, kind: str):
    built = model()
    options = sampling_options(built)
    made = field(built).cache_context() if kind == "drawn" else built.method.invert(sets(built), options)
    at = built.domain.queries((20, 28))
    expected = made.query(at)
    made.save(tmp_path / "field.safetensors", built.preset)
    _, loaded = sample.load_field(tmp_path / "field.safetensors", "cpu")
    assert torch.equal(loaded.query(at), expected)
    made.save(tmp_path / "half.safetensors", built.preset, half=True)
    _, half = sample.load_field(tmp_path / "half.safetensors", "cpu")
    assert (half.query(at) - expected).abs().max() < 0.02 * expected.abs().max()
    assert (tmp_path / "half.safetensors").stat().st_size < 0.7 * (tmp_path / "field.safetensors").stat().st_size


def test_a_field_whose_planes_are_of_another_preset_is_refused(tmp_path: Path):
    built = model()
    made = field(built).cache_context()
    assert made.state is not None
    made.state = made.state[:1] + made.state[:1] + made.state[2:]
    made.save(tmp_path / "field.safetensors", built.preset)
    with pytest.raises(IntegrityError, match="its basis fields are not whole"):
        sample.load_field(tmp_path / "field.safetensors", "cpu")


def test_networks_of_other_kinds_are_refused():
    with pytest.raises(UsageError, match="`localized-inr` cannot be the readout of latent diffusion"):
        tiny.model(tiny.LATENT, network={"readout": {"name": "localized-inr"}})


@pytest.mark.parametrize(
    ("settings", "problem"),
    [
        ({"kl": -1.0}, "`kl` is -1.0: 0 or more"),
        ({"kl_ramp": 2.0}, "`kl_ramp` is 2.0"),
        ({"num_queries": 0}, "at least 1"),
    ],
)
def test_settings_out_of_range_are_refused(settings: dict[str, Any], problem: str):
    with pytest.raises(ValueError, match=problem):
        Config(**settings)
