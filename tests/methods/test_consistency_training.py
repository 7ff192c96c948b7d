"""What consistency training reaches: a toy of two modes, and MNIST at 16 x 16."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import nn

from inrflow_core.datasets import mnist as mnist_files
from inrflow_core.methods._consistency_config import SamplingOptions
from inrflow_core.methods._contract import StepState
from inrflow_core.methods.consistency import Config, Consistency
from inrflow_core.preparation.job import resolve_job
from inrflow_core.preparation.pipeline import prepare
from inrflow_core.sets import CoordValueSet, Grid, Queries, SetSpec, TrainBatch
from tests.benchmarks import consistency

AT = Queries(torch.linspace(-0.75, 0.75, 4)[:, None], torch.arange(4.0, dtype=torch.float64)[:, None])
STEPS, BATCH = 3000, 256
RECONSTRUCTION_STEPS, FULL_STEPS = 800, 1350
"""Of mnist-inrct-demo."""


class ToyNetwork(nn.Module):
    """Four noisy numbers and their level to four numbers."""

    def __init__(self) -> None:
        super().__init__()
        widths = (5, 128, 128, 128)
        layers = [each for a, b in zip(widths, widths[1:], strict=False) for each in (nn.Linear(a, b), nn.SiLU())]
        self.layers = nn.Sequential(*layers, nn.Linear(128, 4))

    def forward(self, context: Queries, values: torch.Tensor, level: torch.Tensor) -> torch.Tensor:
        return self.layers(torch.cat([values[..., 0], level[:, None]], -1))[:, None]


class ToyFunction(nn.Module):
    """The number of the nearest of the four positions."""

    def prepare(self, tokens: torch.Tensor) -> tuple[torch.Tensor]:
        return (tokens,)

    def query(self, state: tuple[torch.Tensor], queries: Queries, *, seeds: Any = None) -> torch.Tensor:
        assert queries.coordinates is not None
        return state[0].mT[:, ((queries.coordinates[:, 0] + 1) * 2 - 0.5).round().long()]


def toy(**settings: Any) -> Consistency:
    """A model of signals that are 0.5 or -0.5 at all four positions; its weights are their average."""
    torch.manual_seed(0)
    spec = SetSpec(1, 1, Grid((4,)))
    method = Consistency(Config(jitter=0.0, **settings), ToyNetwork(), ToyFunction(), spec)
    method.begin_stage("full")
    weights = [weight for weight in method.parameters() if weight.requires_grad]
    optimizer, averages = torch.optim.RAdam(weights, lr=1e-3), [weight.detach().clone() for weight in weights]
    generator = torch.Generator().manual_seed(0)
    for step in range(STEPS):
        values = signals(torch.randint(0, 2, (BATCH,), generator=generator))
        seeds, state = torch.randint(0, 2**62, (BATCH,), generator=generator), StepState("full", step, STEPS)
        optimizer.zero_grad()
        method.loss(TrainBatch.from_sets(CoordValueSet(AT, values, seeds)), state).mean().backward()
        optimizer.step()
        with torch.no_grad():
            method.after_step(state)
            torch._foreach_lerp_(averages, [weight.detach() for weight in weights], 0.005)  # pyright: ignore[reportPrivateImportUsage]
    for weight, average in zip(weights, averages, strict=True):
        weight.data.copy_(average)
    return method


def signals(modes: torch.Tensor) -> torch.Tensor:
    return (modes - 0.5).float()[:, None, None].expand(-1, 4, 1).clone()


def near(method: Consistency, steps: int) -> tuple[float, float]:
    """The share of samples within 0.1 of a mode at all positions, and of these that of the upper mode."""
    values = method.sample(AT, torch.arange(4000), {}, SamplingOptions(steps, 0.821)).query(AT)[..., 0]
    upper, lower = (float(((values - mode).abs() < 0.1).all(1).double().mean()) for mode in (0.5, -0.5))
    return upper + lower, upper / max(upper + lower, 1e-9)


def reconstruction_error(method: Consistency) -> float:
    data = signals(torch.arange(100) % 2)
    field = method.invert(CoordValueSet(AT, data, torch.arange(100)), SamplingOptions(1, 0.821))
    return float((field.query(AT) - data).square().mean().sqrt())


@pytest.mark.slow
def test_a_toy_is_learned_in_the_clean_form_and_not_without_its_anchor():
    method = toy()
    for steps, least in ((1, 0.5), (2, 0.75)):
        share, upper = near(method, steps)
        assert share >= least and 0.35 <= upper <= 0.65
    assert reconstruction_error(method) < 0.01
    drifting = toy(anchor_below=0.0, weight="gap", teacher_decay=0.0)
    assert near(drifting, 1)[0] < 0.2 and reconstruction_error(drifting) > 0.1


@pytest.fixture(scope="module")
def mnist(real_data: Callable[[str], Path], tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Shards of MNIST at 16 x 16."""
    out = tmp_path_factory.mktemp("mnist") / "shards"
    prepare(
        resolve_job("mnist", source=real_data("images/mnist_idx"), out=out, config=mnist_files.Config(resolution=16))
    )
    return out


@pytest.mark.slow
def test_the_demo_of_mnist_reaches_its_figures(mnist: Path, tmp_path: Path):
    """Five minutes on one core. The bounds are those of INRCT's reference runs; measured: 27.8 dB, 14.2, 7.6, 0.43.

    Reconstruction is measured after the stage `reconstruction` and after each of the nine parts of the stage `full`.
    """
    images = consistency.ShardDataset(mnist).read("val", range(500))
    model = consistency.train(mnist, tmp_path / "run", until=RECONSTRUCTION_STEPS, ema=0)  # the average begins later
    psnr = [consistency.reconstruction_psnr(model, images, 500)]
    for part in range(1, 10):
        model = consistency.train(mnist, tmp_path / "run", until=RECONSTRUCTION_STEPS + part * FULL_STEPS // 9)
        psnr.append(consistency.reconstruction_psnr(model, images, 500))
    assert psnr[0] >= 23  # measured: 25.0, then rising from 26.0 to 27.8
    assert min(psnr) >= psnr[0] - 1
    figures = consistency.measure(model, mnist)
    assert figures.weave < 0.01  # measured: 0.003; with four times the frequencies, and jitter: 0.032
    assert figures.psnr >= 26
    assert figures.distances[0] <= 18 and figures.distances[1] <= 11
    assert 0.38 <= figures.deviation <= 0.52


@pytest.mark.slow
def test_jitter_or_low_frequencies_make_the_values_between_pixels_those_of_a_finer_image(mnist: Path, tmp_path: Path):
    """After 300 steps the means of 2 x 2 pixels of an image twice as fine are as good as the pixels themselves; without jitter, at
    frequencies up to 1024 pi, they lose more than 2 dB (measured: 5.8; with jitter 0.07)."""
    lost = {}
    for jitter, frequency in ((0.3, 16), (0.0, 4), (0.0, 1024)):
        overrides = [
            f"method.jitter={jitter}",
            f"network.readout.max_frequency={frequency}",
            "training.reconstruction.steps=300",
        ]
        out = tmp_path / f"{frequency}"
        model = consistency.train(mnist, out, overrides, until=300, ema=0)
        images = consistency.ShardDataset(mnist).read("val", range(200))
        pixels, finer = (consistency.reconstruction_psnr(model, images, 200, size) for size in (None, (32, 32)))
        lost[frequency] = pixels - finer
    assert lost[16] < 0.5 and lost[4] < 0.5 and lost[1024] > 2
