"""Consistency models of MNIST at 16 x 16: reconstruction, Frechet distance of samples in one and two steps, and their speed.

    python -m tests.benchmarks.consistency [SHARDS [RUN ...]]

SHARDS are of `inrflow prepare mnist --resolution 16`, by default shards/mnist-16 (nothing is measured
without). Without RUN the preset mnist-inrct-demo and its `edm` form are trained into runs/consistency-*, five minutes each on one
core. A RUN of the flow method is sampled by Euler's method instead. neural_functions.py measures what such models cost.
"""

from __future__ import annotations

import argparse
import time
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch

from inrflow_core.config import preset
from inrflow_core.models import Model
from inrflow_core.sampling import sample
from inrflow_core.sampling.options import sampling_options
from inrflow_core.shards.batch import Batch
from inrflow_core.shards.shard_dataset import ShardDataset
from inrflow_core.training import setup

FORMS = {"clean": [], "edm": ["method.parametrization=edm"]}
EULER_STEPS = (10, 25, 100)
NUM_RECONSTRUCTED, NUM_SAMPLES, NUM_COMPONENTS = 500, 2000, 40


@dataclass(frozen=True)
class Figures:
    """What a run reaches."""

    psnr: float
    """Mean over held-out images, in dB, of values in [0, 1]; one call without noise."""
    distances: tuple[float, float]
    """Frechet distance of samples in one and two steps to held-out images, on their principal components."""
    deviation: float
    """Standard deviation of the pixels of samples in one step, in [-1, 1]."""
    rates: tuple[float, float]
    """Samples per second in one and two steps."""
    weave: float
    """Share of the variance of samples six times as fine, in one step, that has the period of the training pixels."""


def train(
    shards: Path,
    out: Path,
    overrides: list[str] | tuple[str, ...] = (),
    *,
    until: int | None = None,
    ema: float | None = None,
) -> Model:
    """The preset mnist-inrct-demo with some settings changed, trained on one thread, to the end or up to a step; resumed
    where it has begun. `ema` is as in `sample.load`."""
    settings = preset.load("mnist-inrct-demo", overrides)
    setup.train(setup.TrainJob(settings, out, data=shards, device="cpu", threads=1, until=until))
    return sample.load(out, ema=ema, device="cpu")


@torch.no_grad()
def measure(model: Model, shards: Path) -> Figures:
    """The figures of a model's average."""
    opened = ShardDataset(shards)
    held_out = opened.read("val", range(NUM_RECONSTRUCTED + NUM_SAMPLES))
    real = model.domain.to_set(held_out, torch.arange(len(held_out.values))).values.flatten(1)
    drawn, rates = zip(*(_samples(model, steps=steps) for steps in (1, 2)), strict=True)
    distances = tuple(_distance(real[NUM_RECONSTRUCTED:], each) for each in drawn)
    psnr = reconstruction_psnr(model, held_out, NUM_RECONSTRUCTED)
    return Figures(psnr, (distances[0], distances[1]), float(drawn[0].std()), (rates[0], rates[1]), weave(model))


@torch.no_grad()
def weave(model: Model, count: int = 64, factor: int = 6) -> float:
    """Share of the variance of finer samples at frequencies within a quarter of that of the training pixels, along an axis."""
    pixels = model.domain.config.resolution
    side = factor * pixels
    options = sampling_options(model, steps=1)
    values = sample.sample_fields(model, range(count), None, options).query(model.domain.queries((side, side)))
    images = values.unflatten(1, (side, side))[..., 0]
    power = torch.fft.fft2(images - images.mean((1, 2), keepdim=True)).abs().square().mean(0)
    frequencies = torch.fft.fftfreq(side, 1 / side).abs()
    is_near = (frequencies - pixels).abs() <= pixels / 4
    return float(power[is_near[:, None] | is_near].sum() / power.sum())


@torch.no_grad()
def reconstruction_psnr(model: Model, images: Batch, count: int, size: Any = None) -> float:
    """Mean PSNR of encoded images; at another `size`, of the means of their blocks."""
    sets = model.domain.to_set(images, torch.arange(len(images.values)))[slice(0, count)]
    field = model.method.invert(sets, sampling_options(model))
    side = model.domain.config.resolution
    values = field.query(model.domain.queries(size)).unflatten(1, size or (side, side)).clamp(-1, 1)
    factor = values.shape[1] // side
    values = values.reshape(count, side, factor, side, factor).mean((2, 4)).flatten(1)
    error = (values / 2 - sets.values.flatten(1) / 2).square().mean(1)
    return float((-10 * error.log10()).mean())


@torch.no_grad()
def measure_flow(model: Model, shards: Path) -> dict[int, tuple[float, float]]:
    """The Frechet distance and the samples per second of a flow's average, by the number of Euler steps."""
    held_out = ShardDataset(shards).read("val", range(NUM_RECONSTRUCTED, NUM_RECONSTRUCTED + NUM_SAMPLES))
    real = model.domain.to_set(held_out, torch.arange(NUM_SAMPLES)).values.flatten(1)
    found = {}
    for steps in EULER_STEPS:
        drawn, rate = _samples(model, sampler="euler", steps=steps)
        found[steps] = _distance(real, drawn), rate
    return found


def _samples(model: Model, **settings: Any) -> tuple[torch.Tensor, float]:
    options, queries = sampling_options(model, **settings), model.domain.queries()
    start, values = time.process_time(), []
    for first in range(0, NUM_SAMPLES, 250):
        values.append(sample.sample_fields(model, range(first, first + 250), None, options).query(queries))
    return torch.cat(values).flatten(1), NUM_SAMPLES / (time.process_time() - start)


def _distance(real: torch.Tensor, drawn: torch.Tensor) -> float:
    """The Frechet distance on the principal components of the real images."""
    from scipy.linalg import sqrtm

    center = real.mean(0)
    basis = torch.linalg.svd(real - center, full_matrices=False)[2][:NUM_COMPONENTS].T
    one, other = (((each - center) @ basis).double().numpy() for each in (real, drawn))
    covariances = np.cov(one.T), np.cov(other.T)
    root: Any = sqrtm(covariances[0] @ covariances[1])
    shift = np.square(one.mean(0) - other.mean(0)).sum()
    return float(shift + np.trace(covariances[0] + covariances[1] - 2 * np.real(root)))


def main() -> None:
    """Print the table."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("shards", type=Path, nargs="?", default=Path("shards/mnist-16"))
    parser.add_argument("runs", nargs="*", type=Path)
    given = parser.parse_args()
    if not given.shards.exists():
        print(f"no shards at {given.shards}: `inrflow prepare mnist --resolution 16` makes them")
        return
    torch.set_num_threads(1)
    runs = given.runs or [Path(f"runs/consistency-{form}") for form in FORMS]
    print("run                          PSNR   FD 1 step   FD 2 steps   deviation   weave   samples/s 1, 2 steps")
    for run in runs:
        form = run.name.removeprefix("consistency-")
        model = sample.load(run, device="cpu") if given.runs else train(given.shards, run, FORMS[form])
        if model.preset.sampler is not None:
            for steps, (distance, rate) in measure_flow(model, given.shards).items():
                print(f"{run.name:26} Euler in {steps} steps: FD {distance:.1f}, {rate:,.0f} samples/s")
            continue
        f = measure(model, given.shards)
        print(
            f"{run.name:26} {f.psnr:6.1f} {f.distances[0]:11.1f} {f.distances[1]:12.1f} {f.deviation:11.3f} {f.weave:7.4f}   "
            f"{f.rates[0]:,.0f}, {f.rates[1]:,.0f}"
        )


if __name__ == "__main__":
    main()
