"""Laws of the autoencoder's losses of whole images: an adversary whose weight is a ratio of gradients."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch

from inrflow_core.errors import UsageError
from inrflow_core.layers.patch_discriminator import PatchDiscriminator
from inrflow_core.methods import latent
from inrflow_core.methods._contract import StepState
from inrflow_core.methods._image_losses import adaptive_weight, as_images, hinge_loss, logits
from inrflow_core.methods._latent_config import Config
from inrflow_core.models import Model
from inrflow_core.planning.plan import Planner
from inrflow_core.runtime.distributed import World
from inrflow_core.sets import CoordValueSet, Queries, TrainBatch
from inrflow_core.training import setup
from tests import tiny
from tests.training import small

USUAL = {name: getattr(Config(), name) for name in ("adversarial_start", "discriminator_width", "discriminator_depth")}
ADVERSARY = {"adversarial": 0.5, "discriminator_width": 8, "discriminator_depth": 1}
STATE = StepState("autoencoder", 8, 9)
ALONE = World(0, 1, 0, torch.device("cpu"), False)


def model(**settings: Any) -> Model:
    built = tiny.model(tiny.LATENT, method={**ADVERSARY, **settings})
    built.method.requires_grad_(True)
    return built


def batch(built: Model, count: int = 4) -> TrainBatch:
    values = torch.rand(count, 144, 1, generator=torch.Generator().manual_seed(1)) * 2 - 1
    sets = CoordValueSet(built.domain.queries(), values, torch.arange(count), {"label": torch.arange(count) % 3})
    return TrainBatch.from_sets(sets)


def job(data: Path, out: Path, until: int | None = None, start: int = 1, **settings: Any) -> setup.TrainJob:
    """Two stages of 3 steps on images of 12 x 12 pixels."""
    training = {**small.TRAINING, "steps": 3, "autoencoder": {"discriminator": {"learning_rate": 2e-3}}}
    method = {**ADVERSARY, "adversarial_start": start, **settings}
    return setup.TrainJob(
        tiny.preset(tiny.LATENT, method=method, training=training), out, data=data, device="cpu", threads=1, until=until
    )


def test_the_adversarial_loss_has_the_same_gradient_as_the_error_in_the_last_layer():
    last, x = torch.nn.Parameter(torch.randn(3, 5)), torch.randn(7, 5)
    error, score = (x @ last.T).abs().mean(), 1e-3 * (x @ last.T).square().mean()
    weight = adaptive_weight(error, score, last)
    of_error, of_score = (torch.autograd.grad(loss, last, retain_graph=True)[0] for loss in (error, weight * score))
    torch.testing.assert_close(of_score.norm(), of_error.norm(), rtol=0.1, atol=0)
    assert not weight.requires_grad and weight > 1
    torch.testing.assert_close(adaptive_weight(error, 1e3 * score, last), weight / 1e3, rtol=0.1, atol=0)
    assert adaptive_weight(1e9 * error, 0 * score, last) == 1e4


def test_the_autoencoders_loss_is_the_error_and_the_weighted_score_of_what_it_makes():
    with_adversary, without = model(), model()
    without.method.config = replace(without.method.config, adversarial=0.0, **USUAL)
    data = batch(with_adversary)
    terms = with_adversary.method.loss(data, STATE) - without.method.loss(data, STATE)
    made, latents = with_adversary.method._decode(data, data.queries.queries)
    error = (made - data.queries.values).abs().mean((1, 2))
    score = -logits(with_adversary.method.discriminator, with_adversary.domain.shape, data.queries.queries, made).mean(
        (1, 2)
    )
    ratio = adaptive_weight(error.mean(), score.mean(), with_adversary.method.readout.last_weight)
    torch.testing.assert_close(terms, 0.5 * ratio * score, rtol=1e-4, atol=1e-6)
    assert latents.mean.shape == (4, 9, 3) and terms.abs().min() > 1e-4


def test_each_loss_reaches_the_weights_of_its_own_optimizer_alone():
    built = model()
    for optimizer, trained in built.method.STAGES[0].optimizers.items():
        for name, network in built.method.networks().items():
            network.requires_grad_(name in trained)  # as training does
        built.method.zero_grad()
        built.method.loss(batch(built), STATE, optimizer).sum().backward()
        for name, network in built.method.networks().items():
            reached = [weight.grad is not None for weight in network.parameters()]
            assert all(reached) if name in trained else not any(reached), (optimizer, name)


def test_the_hinge_loss_is_0_beyond_its_margins_and_half_the_sum_of_both_sides():
    real, made = torch.tensor([[[2.0, 1.0]], [[0.0, 0.5]]]), torch.tensor([[[-1.0, -3.0]], [[0.0, 1.0]]])
    assert hinge_loss(real, made).tolist() == [0.0, (1 + 0.5 + 1 + 2) / 4]


def test_before_its_start_the_discriminator_neither_learns_nor_counts():
    built, plain = model(adversarial_start=1), tiny.model(tiny.LATENT)
    before = StepState("autoencoder", 0, 9)
    plain.method.load_state_dict(built.method.state_dict(), strict=False)
    assert torch.equal(built.method.loss(batch(built), before), plain.method.loss(batch(built), before))
    loss = built.method.loss(batch(built), before, "discriminator")
    loss.sum().backward()
    assert loss.tolist() == [0.0] * 4
    assert all(not weight.grad.any() for weight in built.method.discriminator.parameters())
    with torch.no_grad():  # the held-out loss is without the adversary, which needs gradients
        assert torch.equal(model().method.loss(batch(built), STATE), plain.method.loss(batch(built), STATE))


def test_a_logit_depends_on_its_image_and_the_cell_size_alone():
    network = PatchDiscriminator(3, 8, 2)
    tiny.randomize(network)
    images, scale = torch.randn(3, 3, 16, 16), torch.tensor([0.0, 0.4, -0.3])
    whole = network(images, scale)
    torch.testing.assert_close(network(images[1:2], scale[1]), whole[1:2])
    assert (network(images, torch.tensor(0.2)) - whole).abs().amax((1, 2)).min() > 1e-3


def test_the_papers_discriminator_has_three_strided_layers_of_width_64():
    network = PatchDiscriminator(3, 64, 3)
    assert network(torch.zeros(1, 3, 256, 256), torch.zeros(())).shape == (1, 30, 30)
    assert network(torch.zeros(1, 3, network.least_side, network.least_side), torch.zeros(())).shape == (1, 1, 1)
    assert sum(weight.numel() for weight in network.parameters()) == 2_766_657


def test_without_an_adversary_stages_weights_and_settings_of_optimizers_are_those_of_before():
    built = tiny.model(tiny.LATENT)
    assert built.method.STAGES == latent.STAGES == built.preset.stages == latent.stages(Config())
    assert not any(name.startswith("discriminator") for name in built.method.state_dict())
    with pytest.raises(UsageError, match="discriminator"):
        tiny.preset(tiny.LATENT, training={"autoencoder": {"discriminator": {"learning_rate": 1.0}}})


def test_queries_that_are_no_image_or_a_small_one_are_refused():
    values = torch.zeros(1, 16, 1)
    with pytest.raises(UsageError, match="compares images, and 16 queries"):
        as_images(Queries(torch.zeros(16, 2), torch.arange(16)), values, 2)
    with pytest.raises(UsageError, match="needs images of 6 pixels along a side, and these have 4"):
        as_images(Queries(torch.zeros(16, 2), torch.arange(16), cell_sizes=torch.tensor(0.5)), values, 6)
    with pytest.raises(ValueError, match="`adversarial` needs whole images"):
        Config(adversarial=0.5, num_queries=20)


@pytest.mark.slow
def test_a_plan_counts_the_discriminator_and_both_passes():
    preset = tiny.preset(tiny.LATENT, method=ADVERSARY)
    planner = Planner(preset, ALONE, "fp32")
    parts, _ = planner.sizes()
    assert parts["discriminator"] == sum(w.numel() for w in model().method.discriminator.parameters())
    predicted = planner.plan(1)
    assert predicted.problem is None and predicted.executed["discriminator"] > 0


@pytest.mark.slow
def test_a_resumed_run_with_an_adversary_equals_an_unbroken_one_and_both_optimizers_move_their_weights(tmp_path: Path):
    data = small.images(tmp_path / "shards", side=12)
    setup.train(job(data, tmp_path / "resumed", until=2))
    resumed, whole = (setup.train(job(data, tmp_path / name)) for name in ("resumed", "whole"))
    small.assert_equal(small.state(resumed), small.state(whole))
    lines = [json.loads(line) for line in (tmp_path / "whole" / "log.jsonl").read_text().splitlines()]
    losses = [line["loss_discriminator"] for line in lines if "loss_discriminator" in line]
    assert losses[0] == 0 and min(losses[1:]) > 0 and len(losses) == 3
    idle = setup.train(job(data, tmp_path / "idle", until=2, start=2))
    first = setup.train(job(data, tmp_path / "first", until=1, start=2))
    moved = {
        name: not torch.equal(weight, idle.model.method.state_dict()[name])
        for name, weight in first.model.method.state_dict().items()
        if name.startswith(("discriminator", "autoencoder"))
    }
    assert any(moved.values()) and not any(now for name, now in moved.items() if name.startswith("discriminator"))
    assert not torch.equal(
        whole.model.method.discriminator.layers[0].weight, idle.model.method.discriminator.layers[0].weight
    )
