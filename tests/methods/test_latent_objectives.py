"""Laws of the objectives of latent diffusion: velocity, flow matching, and the paper's noise with mixing."""

from __future__ import annotations

import math
from itertools import pairwise
from pathlib import Path
from typing import Any

import pytest
import safetensors.torch
import torch

from inrflow_core.config.preset import resolve
from inrflow_core.errors import UsageError
from inrflow_core.methods._contract import StepState
from inrflow_core.methods._latent_config import Config
from inrflow_core.methods._latent_field import LatentField
from inrflow_core.methods._latent_mixing import ConditionedDenoiser
from inrflow_core.methods._trained_weights import weights_by_optimizer
from inrflow_core.models import Model
from inrflow_core.numerics import paths
from inrflow_core.runs import checkpoint_manifest
from inrflow_core.sampling import sample
from inrflow_core.sampling.options import sampling_options
from inrflow_core.sets import ConditionEmbedding, CoordValueSet, TrainBatch
from inrflow_core.shards.manifest import ChannelStats
from inrflow_core.training import setup
from tests import tiny
from tests.training import small, staged_runs

STATE = StepState("diffusion", 8, 9)
PAPER = {"path": "scaled-linear", "standardize": False, "time": "steps"}
OBJECTIVES = {"noise": PAPER, "velocity": {"path": "trigonometric"}, "flow": {"path": "linear"}}
SAMPLERS = ["ddim", "ddpm", "heun", "euler-maruyama", "dopri5"]


def model(**settings: Any) -> Model:
    return tiny.model(tiny.LATENT, method={**PAPER, **settings})


def field(
    built: Model, sampler: str = "ddim", seeds: Any = range(3), labels: Any = (0, 1, 2), **settings: Any
) -> LatentField:
    fixed = {} if sampler == "dopri5" else {"steps": 5}
    own = {"max_nfe": 70} if sampler == "dopri5" else {}
    options = sampling_options(built, sampler=sampler, sampler_settings=own, **fixed, **settings)
    return sample.sample_fields(built, seeds, list(labels), options)  # pyright: ignore[reportReturnType]


def untrained(denoiser: ConditionedDenoiser) -> None:
    """Give the network and the mixing their initial values."""
    torch.nn.init.zeros_(denoiser.network.last.weight)  # pyright: ignore[reportArgumentType]
    torch.nn.init.zeros_(denoiser.network.last.bias)  # pyright: ignore[reportArgumentType]
    if denoiser.mixing is not None:
        denoiser.mixing.fill_(-6.0)


def normal_latents(built: Model, count: int) -> CoordValueSet:
    """Latents that are standard normal without noise of their own."""
    mean = torch.randn(count, 9, 3, generator=torch.Generator().manual_seed(2))
    sets = built.domain.dummy_batch(count)
    values = torch.cat([mean, torch.full_like(mean, -30.0)], -1)
    labels = {"label": torch.zeros(count).long()}
    return CoordValueSet(sets.with_values(values).queries, values, torch.arange(count), labels)


@pytest.mark.parametrize("t", [0.001, 0.25, 0.6, 1.0])
def test_an_untrained_model_predicts_the_expected_noise_of_standard_normal_latents(t: float):
    """E[noise | y] = sigma(t) y where latents are independent unit normals: the excess of the loss is below 1e-5."""
    denoiser = model().method.denoiser
    untrained(denoiser)
    y = torch.randn(50, 9, 3)
    answer = denoiser(y, torch.full((50,), t), ConditionEmbedding(torch.zeros(50, denoiser.network.vector_width)))
    sigma = paths.PATHS["scaled-linear"].sigma(torch.tensor(t, dtype=torch.float64)).float()
    assert (answer - sigma * y).square().mean() < 1e-5


@pytest.mark.parametrize(("objective", "expected"), [("noise", None), ("velocity", (math.pi / 2) ** 2)])
def test_the_loss_of_an_untrained_model_on_standard_normal_latents_is_the_least(objective: str, expected: float | None):
    """The variance of the target given y: (pi / 2)^2 of a velocity, 1 - sigma^2 of the noise at a time."""
    built = tiny.model(tiny.LATENT, method=OBJECTIVES[objective])
    untrained(built.method.denoiser)
    sets = normal_latents(built, 600)
    loss = built.method.loss(TrainBatch.from_sets(sets), STATE).mean()
    if expected is None:
        t = built.method.sample_times(sets.seeds)
        expected = float(built.method.path.alpha(t).square().mean())
    assert float(loss) == pytest.approx(expected, rel=0.03)


def test_ddim_of_an_untrained_model_only_shrinks_its_noise_by_little():
    """With noise sigma y each step multiplies y by the cosine of the change of angle, up to the mixing's share."""
    built = model()
    untrained(built.method.denoiser)
    made = field(built)
    start = made._noise("start", 0)
    decoded: list[torch.Tensor] = []
    built.method.autoencoder.decode = lambda latents: decoded.append(latents) or ()
    made.cache_context()
    path, factor = built.method.path, 1.0
    for t, t_next in pairwise(torch.linspace(1, 0, 6, dtype=torch.float64)):
        factor *= float(path.alpha(t) * path.alpha(t_next) + path.sigma(t) * path.sigma(t_next))
    torch.testing.assert_close(decoded[0], factor * start, rtol=0.02, atol=0.02)


def test_the_mixing_weighs_the_network_channel_by_channel():
    denoiser = model().method.denoiser
    denoiser.mixing.copy_(torch.tensor([-40.0, 0.0, 40.0]))
    y, t = torch.randn(2, 9, 3), torch.tensor([0.2, 0.9])
    embedding = ConditionEmbedding(torch.zeros(2, denoiser.network.vector_width))
    network = denoiser.network(y, t - 0.001, embedding)
    best = denoiser.path.sigma(t.double()).float()[:, None, None] * y
    answer = denoiser(y, t, embedding)
    torch.testing.assert_close(answer[..., 0], best[..., 0])
    torch.testing.assert_close(answer[..., 1], (best[..., 1] + network[..., 1]) / 2)
    torch.testing.assert_close(answer[..., 2], network[..., 2])


@pytest.mark.parametrize("objective", OBJECTIVES)
def test_the_loss_of_a_set_depends_on_the_set_alone(objective: str):
    built = tiny.model(tiny.LATENT, method=OBJECTIVES[objective])
    batch = TrainBatch.from_sets(normal_latents(built, 4))
    whole = built.method.loss(batch, STATE)
    parts = torch.cat([built.method.loss(batch[row : row + 1], STATE) for row in range(4)])
    torch.testing.assert_close(parts, whole, rtol=2e-4, atol=2e-5)
    assert whole.shape == (4,) and len(whole.unique()) == 4


@pytest.mark.parametrize("objective", OBJECTIVES)
@pytest.mark.parametrize("sampler", SAMPLERS)
def test_a_sample_of_every_sampler_depends_on_its_seed_and_label_alone(sampler: str, objective: str):
    built = tiny.model(tiny.LATENT, method=OBJECTIVES[objective])
    at = built.domain.queries((20, 28))
    whole = field(built, sampler).query(at)
    one = field(built, sampler, [1], [1]).query(at, chunk=37)
    assert whole.isfinite().all()
    torch.testing.assert_close(one, whole[1:2], rtol=1e-3, atol=1e-4)
    assert (field(built, sampler, [7], [1]).query(at) - one).abs().max() > 1e-3
    assert (field(built, sampler, [1], [2]).query(at) - one).abs().max() > 1e-4


def test_guided_velocities_are_those_of_the_guided_noise():
    """Noise and velocity at a point are affine in each other, and the weights of guidance add up to 1."""
    built = model()
    y, t = torch.randn(3, 9, 3), torch.tensor([0.1, 0.5, 1.0], dtype=torch.float64)
    method = built.method
    given = method.embed_condition({"label": torch.tensor([0, 1, 2])})
    nothing = method.null_condition(3)
    velocity = paths.guided_velocity(
        method.denoiser.velocity(y, t, given), method.denoiser.velocity(y, t, nothing), 3.0, t
    )
    own, other = (method.denoiser(y, t.float(), embedding) for embedding in (given, nothing))
    expected = paths.velocity_of_noise(method.path, other + 3 * (own - other), y, t)
    torch.testing.assert_close(velocity, expected, rtol=1e-3, atol=1e-3)


def test_guidance_and_a_guide_act_on_the_noise_as_on_velocities():
    built, other = model(), model()
    at = built.domain.queries()
    plain, guided = (field(built, guidance=scale).query(at) for scale in (1.0, 3.0))
    assert (guided - plain).abs().max() > 1e-4
    unconditional = field(built, labels=(-1, -1, -1), guidance=1.0).query(at)
    torch.testing.assert_close(field(built, guidance=0.0).query(at), unconditional, rtol=1e-4, atol=1e-5)
    itself = field(built, guidance=3.0, guide=other).query(at)  # equal weights: nothing to be guided away from
    torch.testing.assert_close(itself, plain, rtol=1e-4, atol=1e-5)
    tiny.randomize(other.method.denoiser, seed=3)
    assert (field(built, guidance=3.0, guide=other).query(at) - plain).abs().max() > 1e-4


def test_a_guide_that_standardizes_otherwise_is_refused():
    built, other = model(standardize=True), model(standardize=True)
    other.method.latent_std.mul_(2)
    with pytest.raises(UsageError, match="standardizes latents otherwise"):
        sampling_options(built, guide=other, guidance=2.0)


def test_latents_that_are_not_standardized_keep_mean_0_and_deviation_1():
    built = model()
    built.method.begin_precomputed("latents", ChannelStats((1.0,) * 6, (2.0,) * 6))
    assert torch.equal(built.method.latent_mean, torch.zeros(3))
    assert torch.equal(built.method.latent_std, torch.ones(3))


def test_times_of_training_are_steps_of_the_schedule():
    t = 1000 * model().method.sample_times(torch.arange(3000))
    torch.testing.assert_close(t, t.round())
    assert (float(t.min()), float(t.max())) == (1, 1000)
    assert model(time="uniform").method.sample_times(torch.arange(3000)).unique().numel() == 3000


def test_the_mixing_belongs_to_the_weights_of_the_stage_diffusion():
    built = model()
    built.method.requires_grad_(True)
    by_optimizer = weights_by_optimizer(built.method, built.method.STAGES[1])
    assert "denoiser.mixing" in by_optimizer["main"]
    assert "denoiser.mixing" in built.method.state_dict()
    assert "denoiser.mixing" not in tiny.model(tiny.LATENT).method.state_dict()


@pytest.mark.slow
def test_the_mixing_is_trained_with_the_denoiser_and_is_in_checkpoints_and_averages(tmp_path: Path):
    data = small.images(tmp_path / "shards", side=staged_runs.SIDE)
    tables = staged_runs.tables("latent", ema=[0.5])
    tables["method"] |= PAPER
    job = setup.TrainJob(resolve("tiny", tables), tmp_path / "run", data=data, device="cpu", threads=1)
    setup.train(job)
    folder = checkpoint_manifest.checkpoint_folder(tmp_path / "run", 6)
    weights, average = (
        safetensors.torch.load_file(folder / name)["denoiser.mixing"]
        for name in ("weights.safetensors", "ema_0.5.safetensors")
    )
    assert weights.shape == (3,) and (weights != -6).all()
    assert (average != -6).all() and (average != weights).all()


def test_a_saved_field_of_the_papers_readout_answers_the_same_without_the_model(tmp_path: Path):
    built = tiny.model(tiny.LATENT, method=PAPER, network={"readout": {"name": "modulated-readout"}})
    made = field(built).cache_context()
    made.save(tmp_path / "field.safetensors", built.preset)
    _, loaded = sample.load_field(tmp_path / "field.safetensors", "cpu")
    for side in (12, 20):
        at = built.domain.queries((side, side))
        assert torch.equal(loaded.query(at), made.query(at))


@pytest.mark.parametrize("path", ["linear", "trigonometric"])
def test_steps_of_the_schedule_on_another_path_are_refused(path: str):
    with pytest.raises(ValueError, match=f"`time` is steps and `path` is {path}: only `scaled-linear` has steps"):
        Config(time="steps", path=path)  # pyright: ignore[reportArgumentType]


@pytest.mark.parametrize(("name", "value"), [("time_mean", -0.5), ("time_std", 2.0)])
def test_a_density_of_times_that_does_not_act_is_refused(name: str, value: float):
    with pytest.raises(UsageError, match=f"`{name}` is set, and `time` is uniform"):
        model(time="uniform", **{name: value})
    assert model(time="logit-normal", path="trigonometric", **{name: value}).method.config.time == "logit-normal"


def test_an_adversary_that_never_begins_is_refused_when_the_preset_is_read():
    def preset(start: int, **training: Any) -> Any:
        method = {"adversarial": 0.5, "adversarial_start": start}
        return tiny.preset(tiny.LATENT, method=method, training={"steps": 30, **training})

    for training in ({}, {"autoencoder": {"steps": 30}, "steps": 90}):
        with pytest.raises(
            UsageError, match="`method.adversarial_start` is 30, and the stage `autoencoder` has 30 steps"
        ):
            preset(30, **training)
        assert preset(29, **training).method.config.adversarial_start == 29
    assert preset(30, autoencoder={"steps": 0}).method.config.adversarial
