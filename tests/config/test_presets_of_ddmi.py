"""Presets of latent diffusion: the release's parameters and settings, and leaner ones."""

from __future__ import annotations

import math
from dataclasses import replace

import pytest
import torch

from inrflow_core import models
from inrflow_core.config.preset import load, names
from inrflow_core.methods._contract import StepState
from tools import preset_table

AFHQ, CELEBA = (57_201_088, 519_220_416), (69_598_144, 1_014_986_816)
PARAMETERS = {
    "afhq256-cat-ddmi": AFHQ,
    "afhq256-dog-ddmi": AFHQ,
    "celebahq256-ddmi": CELEBA,
    "church256-ddmi": CELEBA,
    "cifar10-ddmi": AFHQ,
}
"""Of the autoencoder and of the denoiser, as counted in the release for the networks of AFHQ and of CelebA-HQ."""
READOUT = 1_880_021 - 12
"""The release's without the weights of the noise in twelve layers (tests/networks/test_modulated_readout.py)."""
MIXING = 64
"""A logit for each channel of the latents, which the count of the denoiser leaves out."""
EPOCHS = {
    "afhq256-cat-ddmi": (5065, 80, 80),
    "afhq256-dog-ddmi": (4678, 80, 80),
    "celebahq256-ddmi": (30_000, 200, 100),
}
"""Images, and the batches of both stages: devices (4) x images x accumulated batches."""
SCENES = ["srncars-ddmi", "srncars-ddmi-lean"]
SCENE = {"autoencoder": 124_067_296 + 2_309_152, "readout": 554_116, "denoiser": 678_673_600 + 192}
"""As counted in the release: of the autoencoder with its point encoder, the read-out, and the denoiser with a logit for each of
192 channels."""
SMALL = [
    *("network.autoencoder.width=16", "network.autoencoder.latent_channels=4", "network.denoiser.width=16"),
    *("network.readout.width=16", "network.denoiser.head_width=16"),
]
OF_IMAGES = ("latent", "image")
PRESETS = [
    name for name in names() if (preset_table.load(name).method.name, preset_table.load(name).domain.name) == OF_IMAGES
]
EXAMPLE = "flowers-ddmi"
PAPERS = [name for name in PRESETS if not name.endswith(("-demo", "-lean")) and name != EXAMPLE]
LEAN = [name for name in PRESETS if name.endswith("-lean")]


def test_every_data_set_of_the_paper_has_a_faithful_and_a_lean_preset():
    assert set(PAPERS) == set(PARAMETERS)
    assert {f"{name}-lean" for name in PAPERS} == set(LEAN)


@pytest.mark.parametrize("name", PAPERS)
def test_parameters_are_those_of_the_release_to_the_unit(name: str):
    with torch.device("meta"):
        networks = models.build(load(name)).method.networks()
    counts = {part: sum(weight.numel() for weight in network.parameters()) for part, network in networks.items()}
    autoencoder, denoiser = PARAMETERS[name]
    assert counts == {"autoencoder": autoencoder, "readout": READOUT, "denoiser": denoiser + MIXING}


@pytest.mark.parametrize("name", PAPERS)
def test_the_objective_and_the_sampling_are_the_papers(name: str):
    preset = load(name)
    method, sampler = preset.method.config, preset.sampler
    assert (method.path, method.time, method.standardize) == ("scaled-linear", "steps", False)
    assert sampler is not None and (sampler.name, sampler.config.steps) == ("ddim", 50)
    with torch.device("meta"):
        latents = models.build(preset).method.autoencoder.latent_spec
    values = 3 * preset.domain.config.resolution**2
    assert method.kl == pytest.approx(0.5 * latents.num_queries * latents.value_size / values, rel=1e-3)
    diffusion, autoencoder = (preset.training.config.for_stage(stage) for stage in ("diffusion", "autoencoder"))
    assert (diffusion.schedule, diffusion.warmup, diffusion.weight_decay) == ("constant", 0, 0.0)
    assert diffusion.ema == (0.99999,) and pytest.approx(0.9999, rel=1e-6) == 0.99999**10
    assert (autoencoder.schedule, autoencoder.betas, autoencoder.weight_decay) == ("cosine", (0.9, 0.99), 0.01)
    assert autoencoder.final_rate * autoencoder.learning_rate == pytest.approx(1e-6)
    for stage in (diffusion, autoencoder):
        assert (stage.optimizer, stage.learning_rate, stage.clip) == ("adamw", 1e-4, None)


@pytest.mark.parametrize("name", EPOCHS)
def test_steps_are_the_releases_epochs(name: str):
    """200 epochs of the autoencoder with 5 of warm-up, 1500 of the denoiser; a step more or less than a whole one."""
    images, first, second = EPOCHS[name]
    settings = load(name).training.config
    autoencoder, diffusion = settings.for_stage("autoencoder"), settings.for_stage("diffusion")
    assert (autoencoder.batch, diffusion.batch) == (first, second)
    assert autoencoder.steps == math.floor(200 * images / first)
    assert diffusion.steps == pytest.approx(1500 * images / second, abs=1)
    assert autoencoder.warmup == pytest.approx(5 * images / first, abs=1)


@pytest.mark.parametrize("name", LEAN)
def test_a_lean_preset_has_small_latents_and_a_tenth_of_the_weights(name: str):
    preset = load(name)
    with torch.device("meta"):
        method = models.build(preset).method
        paper = models.build(load(name.removesuffix("-lean"))).method
    is_small = preset.domain.config.resolution == 32
    spec = method.autoencoder.latent_spec
    assert (spec.value_size, spec.layout.shape) == (16, (16, 16) if is_small else (32, 32))
    counts = [sum(weight.numel() for weight in each.denoiser.parameters()) for each in (method, paper)]
    assert counts[0] == (42_878_736 if is_small else 89_565_584)
    assert counts[0] < counts[1] / 5
    assert preset.method.config.path == "trigonometric"
    assert preset.data == load(name.removesuffix("-lean")).data


@pytest.mark.parametrize("name", PAPERS + LEAN)
def test_every_preset_builds_and_has_a_loss_in_each_stage(name: str):
    torch.manual_seed(0)
    model = models.build(load(name, ["domain.resolution=64", *SMALL]))
    batch = model.domain.train_batch(replace(model.domain.dummy_batch(2), seeds=torch.tensor([3, 4])))
    first = model.method.loss(batch, StepState("autoencoder", 8, 9))
    spec = model.method.autoencoder.latent_spec
    mean = torch.randn(2, spec.num_queries, spec.value_size)
    stored = replace(batch, context=batch.context.with_values(torch.cat([mean, torch.full_like(mean, -30.0)], -1)))
    second = model.method.loss(stored, StepState("diffusion", 8, 9))
    for loss in (first, second):
        assert loss.shape == (2,) and loss.isfinite().all() and (loss > 0).all()


CLIPS = "sky256-ddmi"
VIDEOS = 2392
"""Short videos of the training split, of which an epoch has one clip each."""
SMALL_CLIPS = [
    *("domain.resolution=16", "domain.frames=8", "network.autoencoder.width=8", "network.autoencoder.token_width=16"),
    *("network.autoencoder.token_depth=1", "network.autoencoder.heads=1", "network.autoencoder.latent_channels=4"),
    *("network.autoencoder.patch=2", "network.readout.width=16", "network.denoiser.width=16"),
    *("network.denoiser.head_width=16", "network.autoencoder.field_channels=8"),
]


def test_parameters_and_settings_of_videos_are_those_of_the_release():
    preset = load(CLIPS)
    with torch.device("meta"):
        method = models.build(preset).method
    counts = {part: sum(each.numel() for each in network.parameters()) for part, network in method.networks().items()}
    assert counts == {"autoencoder": 88_634_240, "readout": 858_819, "denoiser": 767_856_704 + MIXING}
    settings, latents = preset.method.config, method.autoencoder.latent_spec
    assert (settings.path, settings.time, settings.standardize) == ("scaled-linear", "steps", False)
    values = method.shape.num_queries * method.shape.value_size
    assert settings.kl == pytest.approx(0.1 * latents.num_queries * latents.value_size / values, rel=1e-3)
    assert preset.sampler is not None and (preset.sampler.name, preset.sampler.config.steps) == ("ddim", 200)
    diffusion, autoencoder = (preset.training.config.for_stage(stage) for stage in ("diffusion", "autoencoder"))
    assert (autoencoder.batch, diffusion.batch) == (4 * 2 * 5, 4 * 2)
    assert autoencoder.steps == 200 * VIDEOS // 40 and diffusion.steps == 1500 * VIDEOS // 8
    assert autoencoder.warmup == 5 * VIDEOS // 40
    assert diffusion.ema == (0.99998,) and pytest.approx(0.9999, rel=1e-6) == 0.99998**5
    for stage in (diffusion, autoencoder):
        assert (stage.learning_rate, stage.weight_decay, stage.clip) == (1e-4, 0.01, None)


def test_the_lean_preset_of_videos_has_an_eighth_of_the_weights_and_an_ordinary_denoiser():
    with torch.device("meta"):
        method = models.build(load(f"{CLIPS}-lean")).method
    assert method.autoencoder.latent_spec.value_size == 16
    assert sum(weight.numel() for weight in method.denoiser.parameters()) == 89_565_584
    assert sum(weight.numel() for weight in method.parameters()) < 857_349_827 / 7


@pytest.mark.parametrize("name", [CLIPS, f"{CLIPS}-lean"])
def test_presets_of_videos_build_and_have_a_loss_in_each_stage(name: str):
    torch.manual_seed(0)
    model = models.build(load(name, SMALL_CLIPS))
    batch = model.domain.train_batch(replace(model.domain.dummy_batch(2), seeds=torch.tensor([3, 4])))
    first = model.method.loss(batch, StepState("autoencoder", 8, 9))
    spec = model.method.autoencoder.latent_spec
    mean = torch.randn(2, spec.num_queries, spec.value_size)
    stored = replace(batch, context=batch.context.with_values(torch.cat([mean, torch.full_like(mean, -30.0)], -1)))
    second = model.method.loss(stored, StepState("diffusion", 8, 9))
    for loss in (first, second):
        assert loss.shape == (2,) and loss.isfinite().all() and (loss > 0).all()


def test_the_preset_of_scenes_has_the_parameters_and_the_objective_of_the_release():
    preset = load("srncars-ddmi")
    with torch.device("meta"):
        method = models.build(preset).method
    counts = {
        part: sum(weight.numel() for weight in network.parameters()) for part, network in method.networks().items()
    }
    assert counts == SCENE
    config, sampler = preset.method.config, preset.sampler
    assert (config.path, config.time, config.standardize) == ("scaled-linear", "steps", False)
    assert sampler is not None and (sampler.name, sampler.config.steps) == ("ddim", 200)
    latents = method.autoencoder.latent_spec
    values = 3 * config.num_queries
    assert latents.num_queries * latents.value_size == 49_152
    # 20 x the sum of errors in [0, 1] is 10 x that in [-1, 1]; 0.05 x the sum of the divergence.
    assert config.kl == pytest.approx(0.05 / 10 * 49_152 / values, rel=2e-3)
    scenes, settings = 2811, preset.training.config
    autoencoder, diffusion = settings.for_stage("autoencoder"), settings.for_stage("diffusion")
    assert (autoencoder.batch, autoencoder.steps) == (40, math.floor(4000 * scenes / 40))
    assert (diffusion.batch, diffusion.steps) == (640, math.floor(3000 * scenes / 640))
    assert (autoencoder.learning_rate, diffusion.learning_rate) == (5e-5, 1e-4)
    assert autoencoder.final_rate * autoencoder.learning_rate == pytest.approx(1e-6)


@pytest.mark.parametrize("name", SCENES)
def test_the_whole_object_is_between_near_and_far_of_the_cameras(name: str):
    preset = load(name)
    scenes, readout = preset.domain.config, preset.networks["readout"].config
    assert (readout.near, readout.far) == (2.0, 6.0)
    assert readout.near <= scenes.distance - scenes.extent < scenes.distance + scenes.extent <= readout.far


@pytest.mark.parametrize("name", SCENES)
def test_every_preset_of_scenes_builds_and_has_a_loss_in_each_stage(name: str):
    torch.manual_seed(0)
    rays = ["method.num_queries=6", "network.readout.samples=4", "network.autoencoder.resolution=32"]
    points = ["domain.surface_points=20", "network.autoencoder.point_width=16", "domain.resolution=8"]
    model = models.build(load(name, [*SMALL, *rays, *points]))
    batch = model.domain.train_batch(replace(model.domain.dummy_batch(2), seeds=torch.tensor([3, 4])))
    first = model.method.loss(batch, StepState("autoencoder", 8, 9))
    spec = model.method.autoencoder.latent_spec
    mean = torch.randn(2, spec.num_queries, spec.value_size)
    stored = replace(batch, context=batch.context.with_values(torch.cat([mean, torch.full_like(mean, -30.0)], -1)))
    second = model.method.loss(stored, StepState("diffusion", 8, 9))
    for loss in (first, second):
        assert loss.shape == (2,) and loss.isfinite().all() and (loss > 0).all()
