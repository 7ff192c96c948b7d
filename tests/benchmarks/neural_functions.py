"""What neural functions cost: one step of a consistency model against a flow, rays against pixels, memory of a NeRF step.

    python tests/benchmarks/neural_functions.py                      # all three tables, some three CPU minutes
    python tests/benchmarks/neural_functions.py --only sampling      # or rendering, memory

Times are CPU seconds of one thread, the least of several, and ratios of one run; weights are random, which costs what trained
ones do.

sampling: samples per second in one and two steps, and of a flow with as many weights by Euler's method.
rendering: a query of each read-out, at the sizes of cifar10-inrct and srncars-inrct (128 points a ray).
memory: a step of the stage `full` of a small srncars-inrct, in a fresh process as plan.py has them, against the dry run.
"""

from __future__ import annotations

import argparse
import json
import os
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch

sys.path.insert(0, str(Path(__file__).resolve().parents[2]))

from inrflow_core import models
from inrflow_core.config import preset
from inrflow_core.config.preset import Preset
from inrflow_core.methods._contract import StepState
from inrflow_core.models import Model
from inrflow_core.planning import plan
from inrflow_core.sampling import sample
from inrflow_core.sampling.options import sampling_options
from inrflow_core.sets import TrainBatch
from inrflow_core.training.ema import EMA
from inrflow_core.training.engine import Engine
from tests.benchmarks.plan import ALONE, MALLOC, peak, reset_peak, status

STEPS = (10, 25, 100)
"""Euler steps of the flow."""
FLOW: dict[str, Any] = {
    "data": {"path": "shards/none"},
    "domain": {"name": "image", "resolution": 16, "channels": 1},
    "method": {"name": "flow"},
    "network": {
        **{"name": "set-transformer", "width": 96, "depth": 3, "heads": 4, "latents": 16, "encoder": "spatial"},
        "decoder_levels": 1,
    },
    "sampler": {"name": "euler", "steps": 100},
    "training": {"batch": 32, "steps": 1},
}
"""A flow of the same images as mnist-inrct-demo; its width is chosen so that it has as many weights."""
SMALL = [
    *("domain.resolution=32", "network.hypernetwork.width=192", "network.hypernetwork.heads=3"),
    *("network.hypernetwork.encoder_depth=2", "network.hypernetwork.decoder_depth=2", "training.batch=2"),
    *("network.hypernetwork.mlp_width=768", "network.readout.token_width=192", "training.zero_stage=0"),
    *("training.precision=fp32", "method.num_queries=256"),
]
MICRO = (1, 2)
RUNS = 5


def main() -> None:
    """The requested tables, on stdout."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").partition("\n")[0])
    parser.add_argument("--only", choices=["sampling", "rendering", "memory"])
    parser.add_argument("--one", type=json.loads, help=argparse.SUPPRESS)
    arguments = parser.parse_args()
    torch.set_num_threads(1)
    if arguments.one:
        print(json.dumps(measure_step(**arguments.one)))
        return
    if arguments.only in (None, "sampling"):
        sampling()
    if arguments.only in (None, "rendering"):
        rendering()
    if arguments.only in (None, "memory"):
        memory()


@torch.no_grad()
def sampling(count: int = 32) -> None:
    """Samples per second of mnist-inrct-demo, and of the flow."""
    consistency = models.build(preset.load("mnist-inrct-demo", []))
    flow = flow_of(parameters(consistency))
    print(f"{parameters(consistency):,} and {parameters(flow):,} weights, {count} images of 16 x 16 a batch")
    ways: list[tuple[Model, dict[str, Any], str]] = [(consistency, {"steps": steps}, "consistency") for steps in (1, 2)]
    ways += [(flow, {"sampler": "euler", "steps": steps}, "flow, Euler") for steps in STEPS]
    seconds = {}
    for model, settings, name in ways:
        model.method.eval()
        options = sampling_options(model, **settings)
        queries = model.domain.queries()

        def draw(model: Model = model, options: Any = options, queries: Any = queries) -> None:
            sample.sample_fields(model, range(count), None, options).query(queries)

        seconds[name, settings["steps"]] = least_seconds(draw)
    first = seconds["consistency", 1]
    for (name, steps), each in seconds.items():
        print(f"{name:<12} {steps:>4} steps {count / each:>9,.0f} samples/s   {each / first:>6.1f} times one step")


@torch.no_grad()
def rendering(count: int = 256) -> None:
    """CPU time of a query of both read-outs, for one function."""
    pixel, ray = (_query_seconds(name, count) for name in ("cifar10-inrct", "srncars-inrct"))
    print(f"a pixel takes {1e6 * pixel:.0f} us, a ray {1e6 * ray:.0f} us: {ray / pixel:.1f} times as much")


def _query_seconds(name: str, count: int) -> float:
    settings = preset.load(name, [])
    part, domain = settings.networks["readout"], settings.domain.module.Domain(settings.domain.config)
    readout: Any = part.module.build_readout(part.config, domain.shape)
    state, queries = readout.prepare(torch.randn(1, *readout.token_shape)), domain.queries()[:count]
    return least_seconds(lambda: readout.query(state, queries)) / count


def memory() -> None:
    """The peak of a step over what the dry run predicts of it."""
    for micro in MICRO:
        for checkpointed in (False, True):
            case = {"micro": micro, "checkpointed": checkpointed}
            command = [sys.executable, __file__, "--one", json.dumps(case)]
            done = subprocess.run(command, capture_output=True, text=True, env={**os.environ, **MALLOC})
            if done.returncode:
                raise SystemExit(done.stderr)
            row = json.loads(done.stdout.splitlines()[-1])
            ratios = {key: row["predicted"][key] / row["measured"][key] for key in row["measured"]}
            print(
                f"{micro} scenes{' checkpointed' * checkpointed:<13} "
                + "  ".join(
                    f"{key} {ratio:.2f} ({row['measured'][key] / 1e6:,.0f} MB)" for key, ratio in ratios.items()
                )
            )


def measure_step(micro: int, *, checkpointed: bool) -> dict[str, dict[str, float]]:
    """Bytes of the third step of the stage `full`, in all and above what was there before it, and as predicted."""
    settings = step_preset(SMALL, checkpointed=checkpointed)
    stage = settings.method.module.STAGES[1]
    predicted = plan.predict(settings, ALONE, precision="fp32", micro=micro, stage=stage)
    tiny = [*SMALL, "network.readout.width=16", "network.readout.samples=4", "method.num_queries=4"]
    take_steps(step_preset(tiny, checkpointed=checkpointed), 1)
    loaded = status("VmRSS")
    step = take_steps(settings, micro)
    before = reset_peak()
    step()
    measured = {"total": peak() - loaded, "activations": peak() - before}
    total = predicted.total_memory - predicted.memory["program"]
    return {"measured": measured, "predicted": {"total": total, "activations": predicted.transient}}


def step_preset(overrides: list[str], *, checkpointed: bool) -> Preset:
    """srncars-inrct in small."""
    return preset.load("srncars-inrct", overrides).with_network_settings(checkpoint_activations=checkpointed)


def take_steps(settings: Preset, micro: int) -> Callable[[], None]:
    """Take two steps of the last part of the stage `full`; returns the function that takes one more."""
    model = models.build(settings)
    model.method.begin_stage("full")
    sets = model.domain.dummy_batch(micro)
    batch = model.domain.train_batch(sets)
    driven = Engine(model.method, settings.training.config, ALONE, precision="fp32", num_micro=1)
    averages = [EMA(decay, driven.local_weights()) for decay in settings.training.config.ema]

    def step(batch: TrainBatch = batch) -> None:
        state = StepState("full", 9, 10)
        driven.backward(batch, state)
        driven.step(1e-4)
        model.method.after_step(state)
        for average in averages:
            average.update()

    for _ in range(2):
        step()
    return step


def flow_of(weights: int) -> Model:
    """The flow whose number of weights is nearest."""
    widths = range(64, 161, 4)
    sizes = {width: parameters(models.build(_flow(width))) for width in widths}
    return models.build(_flow(min(widths, key=lambda width: abs(sizes[width] - weights))))


def _flow(width: int) -> Preset:
    return preset.resolve("flow", {**FLOW, "network": {**FLOW["network"], "width": width}})


def parameters(model: Model) -> int:
    """The number of weights."""
    return sum(weight.numel() for weight in model.method.parameters())


def least_seconds(work: Callable[[], Any]) -> float:
    """CPU seconds of the fastest of several calls, after a first one."""
    work()
    seconds = []
    for _ in range(RUNS):
        start = time.process_time()
        work()
        seconds.append(time.process_time() - start)
    return min(seconds)


if __name__ == "__main__":
    main()
