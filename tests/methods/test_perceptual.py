"""Laws of the perceptual loss of the autoencoder: its value, its gradient, its images, and what is refused."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch

from inrflow_core import models
from inrflow_core.config.preset import resolve
from inrflow_core.errors import UsageError
from inrflow_core.feature_networks import lpips
from inrflow_core.methods import latent
from inrflow_core.methods._contract import StepState
from inrflow_core.methods._image_losses import adaptive_weight, logits
from inrflow_core.models import Model
from inrflow_core.planning.plan import Planner
from inrflow_core.runtime.distributed import World
from inrflow_core.sets import CoordValueSet, TrainBatch
from tests import tiny
from tests.feature_networks import published

STATE = StepState("autoencoder", 8, 9)
ALONE = World(0, 1, 0, torch.device("cpu"), False)


@pytest.fixture(autouse=True)
def file(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """The weights of a narrow LPIPS."""
    monkeypatch.setattr(lpips, "WIDTHS", (4, 6, 8, 10, 12))
    published.lpips_file(tmp_path / "lpips.safetensors")
    return tmp_path / "lpips.safetensors"


def model(file: Path | None, domain: dict[str, Any] | None = None, **method: Any) -> Model:
    """A model of gray images of 16 x 16 pixels in its first stage; without a perceptual loss if there is no file."""
    settings = {} if file is None else {"perceptual": 0.5}
    domain = {"resolution": 16, **(domain or {})}
    built = tiny.model(tiny.LATENT, domain=domain, method={**settings, **method})
    built.method.requires_grad_(True)
    built.method.begin_stage("autoencoder")
    built.method.load_pretrained({} if file is None else {"lpips": file})
    return built


def batch(built: Model, count: int = 3) -> TrainBatch:
    """Random images with the domain's queries; with crops those of a crop."""
    sample = built.domain.train_batch(built.domain.dummy_batch(count))
    generator = torch.Generator().manual_seed(1)

    def filled(sets: CoordValueSet) -> CoordValueSet:
        values = torch.rand(sets.values.shape, generator=generator) * 2 - 1
        return replace(sets, values=values * built.domain.config.value_scale, seeds=torch.arange(count))

    return TrainBatch(filled(sample.context), filled(sample.queries))


def rgb(values: torch.Tensor, side: int) -> torch.Tensor:
    return values.mT.unflatten(2, (side, side)).expand(-1, 3, -1, -1)


@pytest.mark.parametrize(("channels", "scale"), [(1, 1.0), (3, 1.0), (3, 2.5)])
def test_the_loss_is_that_without_it_and_the_weighted_distance_of_colors_from_minus_1_to_1(file, channels, scale):
    domain = {"channels": channels, "value_scale": scale}
    with_it, without = model(file, domain), model(None, domain)
    data = batch(with_it)
    terms = with_it.method.loss(data, STATE) - without.method.loss(data, STATE)
    made, _ = with_it.method._decode(data, data.queries.queries)
    distance = lpips.load(file)(rgb(made / scale, 16), rgb(data.queries.values / scale, 16))
    torch.testing.assert_close(terms, 0.5 * distance, rtol=1e-4, atol=1e-5)
    torch.testing.assert_close(with_it.method.loss_terms()["perceptual"], distance.mean())
    assert distance.min() > 0.05 and without.method.loss_terms() == {}


def test_crops_are_compared_as_images_of_their_own(file):
    built = model(file, {"scales": [1.0, 2.0]})
    data = batch(built)
    assert not data.is_shared
    built.method.loss(data, STATE)
    made, _ = built.method._decode(data, data.queries.queries)
    expected = lpips.load(file)(rgb(made, 16), rgb(data.queries.values, 16)).mean()
    torch.testing.assert_close(built.method.loss_terms()["perceptual"], expected)


def test_with_sums_it_counts_as_often_as_the_error_of_a_value(file):
    sums, means = (model(file, kl=0.0, reduction=reduction) for reduction in ("sum", "mean"))
    data = batch(sums)
    torch.testing.assert_close(sums.method.loss(data, STATE), 256 * means.method.loss(data, STATE))


def test_under_bf16_the_distance_is_that_of_fp32(file):
    built = model(file)
    data = batch(built)
    with torch.autocast("cpu", torch.bfloat16):
        built.method.loss(data, STATE)
        made, _ = built.method._decode(data, data.queries.queries)
    expected = lpips.load(file)(rgb(made, 16), rgb(data.queries.values, 16)).mean()
    torch.testing.assert_close(built.method.loss_terms()["perceptual"], expected, rtol=1e-5, atol=0)


def test_the_adversarys_ratio_is_of_the_gradient_of_error_and_distance(file):
    adversary = {"adversarial": 0.5, "discriminator_width": 8, "discriminator_depth": 1}
    built, without = model(file, **adversary), model(file)
    without.method.load_state_dict(
        {name: tensor for name, tensor in built.method.state_dict().items() if not name.startswith("discriminator")}
    )
    data = batch(built)
    terms = built.method.loss(data, STATE) - without.method.loss(data, STATE)
    method, queries = built.method, data.queries.queries
    made, _ = method._decode(data, queries)
    score = -logits(method.discriminator, built.domain.shape, queries, made).mean((1, 2))
    error = (made - data.queries.values).abs().mean((1, 2))
    error = error + 0.5 * method.perceptual(rgb(made, 16), rgb(data.queries.values, 16))
    ratio = adaptive_weight(error.mean(), score.mean(), method.readout.last_weight)
    torch.testing.assert_close(terms, 0.5 * ratio * score, rtol=1e-3, atol=1e-5)


def test_the_network_is_frozen_and_there_in_the_first_stage_alone(file):
    built = model(file)
    built.method.loss(batch(built), STATE).sum().backward()
    assert built.method.perceptual is not None
    assert all(weight.grad is None and not weight.requires_grad for weight in built.method.perceptual.parameters())
    assert all(weight.grad is not None for weight in built.method.readout.parameters())
    built.method.begin_stage("diffusion")
    assert built.method.perceptual is None and built.method.loss_terms() == {}
    fresh = models.build(built.preset).method
    assert fresh.perceptual is None and list(fresh.state_dict()) == list(built.method.state_dict())


def test_what_lpips_does_not_compare_is_refused_with_the_setting(file):
    with pytest.raises(
        UsageError, match="`perceptual` of .* needs images of 16 pixels along a side, and these have 12"
    ):
        tiny.model(tiny.LATENT, method={"perceptual": 1.0})
    with pytest.raises(UsageError, match="compares gray or RGB images, and these have 4 channels"):
        model(file, {"channels": 4})
    with pytest.raises(UsageError, match=r"`perceptual` of \[method\] compares images, and these sets are Points"):
        tiny.model(tiny.SHAPES, method={"perceptual": 1.0})
    for method, message in (
        ({"perceptual": 1.0, "num_queries": 20}, "`num_queries` is set, and `perceptual` needs whole images"),
        ({"perceptual_weights": "a.safetensors"}, "`perceptual_weights` is set, and `perceptual` is 0"),
        ({"perceptual": -1.0}, "`perceptual` is -1.0: 0 or more"),
    ):
        with pytest.raises(UsageError, match=message):
            resolve("tiny", tiny.tables(tiny.LATENT, method=method))


def test_crops_that_are_too_small_are_refused_when_the_run_is_planned(file):
    preset = tiny.preset(tiny.LATENT, domain={"resolution": 24, "scales": [0.5, 1.0]}, method={"perceptual": 1.0})
    with pytest.raises(UsageError, match="needs images of 16 pixels along a side, and these have 12") as caught:
        Planner(preset, ALONE, "fp32").plan(1)
    assert "`domain.scales`" in (caught.value.hint or "") and "`domain.resolution`" in (caught.value.hint or "")


@pytest.mark.parametrize("precision", ["fp32", "bf16"])
def test_a_plan_needs_no_file_and_counts_the_network(precision: str):
    plain, with_it = (
        Planner(tiny.preset(tiny.LATENT, domain={"resolution": 16}, method=method), ALONE, precision).plan(2)
        for method in ({}, {"perceptual": 1.0, "perceptual_weights": "absent.safetensors"})
    )
    frozen = sum(weight.numel() for weight in lpips.LPIPS().parameters())
    assert with_it.parameters == plain.parameters and with_it.checkpoint == plain.checkpoint
    assert with_it.memory["weights"] - plain.memory["weights"] == 4 * frozen
    assert with_it.memory["moments"] == plain.memory["moments"]
    assert with_it.most["activations_perceptual"] > 4 * 2 * 2 * 4 * 16 * 16  # two layers of two images
    # Forward for both images, backward for one; the first layer's gradient reaches the image.
    convolutions, side, before = 0, 16, 3
    for count, width in zip(lpips.STAGES, lpips.WIDTHS, strict=True):
        for _ in range(count):
            convolutions += 2 * 9 * before * width * side * side
            before = width
        side //= 2
    assert with_it.flops["perceptual"] == pytest.approx(2 * 3 * convolutions, rel=1e-6)  # a batch of two
    assert "perceptual" not in plain.flops and with_it.executed["perceptual"] == with_it.flops["perceptual"]
    assert with_it.problem is None and latent.pretrained(latent.Config()) == {}
