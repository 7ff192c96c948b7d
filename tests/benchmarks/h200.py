"""An H200's numbers: the training step of imagenet256-xl, a cloud of 128,000 points, an image of 2048 x 2048.

    python tests/benchmarks/h200.py                    # all three, about 20 minutes on one GPU; writes Markdown
    python tests/benchmarks/h200.py --only points      # or training, or image
    python tests/benchmarks/h200.py --rehearse         # the same script in small, on a CPU, to see that it runs

Training: imagenet256-xl with 4096 queries, bf16, `training.compile = true`, stage 1 in one process; the trainer's own step
on shards made on the spot, so that reading, clipping, AdamW and the average are inside. Batches are doubled until one does
not fit, then the one between is tried, each in a fresh process. Model FLOP utilisation is three times the forward
operations of the folded network (recomputed ones do not count) times images per second, as a share of the GPU's dense
bf16 peak. Under it is the profile: the ten kernels that take longest in two steps.

Sampling: random weights, which take as long as trained ones; bf16 and compiled as `sample --compile` does, one at a time. `points` is
objaverse-xl (866.8M), 500 steps of its SDE without guidance; `image` is imagenet256-xl with 100 Euler steps and
guidance 1.5. Targets: 45 % of the peak, 7 s, 120 s. Without a GPU the table says "not measured".
"""

from __future__ import annotations

import argparse
import json
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

import numpy as np
import torch

from inrflow_core import models
from inrflow_core.config import preset
from inrflow_core.errors import OutOfMemory
from inrflow_core.runtime import distributed
from inrflow_core.sampling import optimize, options
from inrflow_core.sampling.sample import evaluate, sample_fields
from inrflow_core.shards import manifest, schema, writer
from inrflow_core.shards.manifest import ChannelStats, Manifest, Split
from inrflow_core.training import setup
from inrflow_core.training.step_metrics import StepMeter
from inrflow_core.training.trainer import Trainer, memory_used

sys.path.insert(0, str(Path(__file__).resolve().parents[2]))

PEAKS = {"H200": 989e12, "H100": 989e12, "A100": 312e12}
"""Dense bf16 operations per second, from the makers' data sheets."""
OUT_OF_MEMORY = 5
TINY = ["network.width=48", "network.depth=2", "network.heads=2", "network.latents=64"]
PARTS = {
    "training": ("imagenet256-xl", ["method.num_queries=4096"], [*TINY, "domain.resolution=32"]),
    "points": ("objaverse-xl", [], [*TINY, "domain.num_points=128", "condition.width=16", "condition.tokens=4"]),
    "image": ("imagenet256-xl", [], [*TINY, "domain.resolution=32"]),
}
"""Preset, its changes, and those of a rehearsal."""
IMAGES = 2048
KERNELS = 10


def main() -> None:
    """Measure the requested parts, or make one trial in this process; Markdown goes to stdout."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").partition("\n")[0])
    parser.add_argument("--only", choices=PARTS)
    parser.add_argument("--rehearse", action="store_true", help="in small, on the CPU")
    parser.add_argument("--eager", action="store_true", help="nothing is compiled")
    parser.add_argument("--points", type=int, default=128_000)
    parser.add_argument("--side", type=int, default=2048)
    parser.add_argument("--chunk", type=int, default=65_536)
    parser.add_argument("--batch", type=int, help="one training trial with this batch, in this process")
    parser.add_argument("--trial", choices=["points", "image"], help="one sampling trial, in this process")
    arguments = parser.parse_args()
    if arguments.batch is not None:
        print(json.dumps(train(arguments)))
    elif arguments.trial is not None:
        print(json.dumps(sample(arguments)))
    else:
        print(report(arguments))


def report(arguments: argparse.Namespace) -> str:
    """All measurements as Markdown."""
    is_measured = arguments.rehearse or torch.cuda.is_available()
    rows, kernels = [], []
    for part in [arguments.only] if arguments.only else PARTS:
        if part == "training":
            best = largest(arguments) if is_measured else None
            rows.append(("imagenet256-xl, training step, 4096 queries", _training_row(best)))
            kernels = [] if best is None else best["kernels"]
        else:
            what = (
                f"{arguments.points:,} points, 500"
                if part == "points"
                else f"{arguments.side} x {arguments.side}, 100 guided"
            )
            measured = trial(arguments, "--trial", part) if is_measured else None
            rows.append((f"{PARTS[part][0]}, {what} steps", _sampling_row(measured)))
    device = "no GPU at hand" if not is_measured else "a rehearsal on a CPU" if arguments.rehearse else _name()
    lines = [f"| what ({device}) | result |", "| --- | --- |", *(f"| {what} | {result} |" for what, result in rows)]
    if kernels:
        lines += ["", "| kernel | share | calls |", "| --- | --- | --- |"]
        lines += [f"| `{name}` | {share:.1%} | {calls} |" for name, share, calls in kernels]
    return "\n".join(lines)


def largest(arguments: argparse.Namespace) -> dict[str, Any] | None:
    """The fastest of the trials that fit."""
    trials, batch = [], 2 if arguments.rehearse else 16
    while done := trial(arguments, "--batch", str(batch)):
        trials.append(done)
        batch *= 2
        if arguments.rehearse and batch > 4:
            break
    trials.append(trial(arguments, "--batch", str(3 * batch // 4)))
    return max((one for one in trials if one), key=lambda one: one["images_per_second"], default=None)


def trial(options: argparse.Namespace, *arguments: str) -> dict[str, Any] | None:
    """One measurement in a fresh process; None where it does not fit."""
    common = ["--points", str(options.points), "--side", str(options.side), "--chunk", str(options.chunk)]
    common += [f"--{name}" for name in ("rehearse", "eager") if getattr(options, name)]
    done = subprocess.run([sys.executable, __file__, *arguments, *common], stdout=subprocess.PIPE, text=True)
    if done.returncode == OUT_OF_MEMORY:
        return None
    done.check_returncode()
    return json.loads(done.stdout.strip().splitlines()[-1])


def train(arguments: argparse.Namespace, warm: int = 5, steps: int = 20) -> dict[str, Any]:
    """Images per second of one batch size; leaves with a code of its own where it does not fit."""
    precision, compiled = ("fp32", "false") if arguments.rehearse else ("bf16", "false" if arguments.eager else "true")
    training = {"batch": arguments.batch, "precision": precision, "compile": compiled, "log_every": 1000, "steps": 1000}
    preset = _preset("training", arguments, [f"training.{name}={value}" for name, value in training.items()])
    with tempfile.TemporaryDirectory() as folder:
        data = images(Path(folder) / "shards", preset.domain.config.resolution, 64 if arguments.rehearse else IMAGES)
        job = setup.TrainJob(
            preset, Path(folder) / "run", data, "cpu" if arguments.rehearse else None, check_data=False
        )
        checked = setup.check_job(job, {})
        trainer = setup.build_trainer(checked)
        requests = ((step, positions) for step in range(1000) for positions in trainer.micro_batches)
        batches = trainer.loader.stream(
            requests, trainer.world.device, preset.data.config.prefetch, prepare=trainer.model.method.prepare_batch
        )
        trainer.model.method.train()
        trainer.meter = StepMeter(batches)
        try:
            for count in (warm, steps):
                _synchronise()
                start, waited = time.perf_counter(), batches.seconds_blocked
                for _ in range(count):
                    trainer.advance(batches)
                _synchronise()
                seconds, waited = (time.perf_counter() - start) / count, (batches.seconds_blocked - waited) / count
            kernels = profiled(trainer, batches)
        except torch.OutOfMemoryError:
            sys.exit(OUT_OF_MEMORY)
        finally:
            batches.close()
            trainer.lock.close()
    operations = checked.stages[0].plan.total_flops
    peak = next((peak for name, peak in PEAKS.items() if name in _name()), None)
    return {
        "batch": arguments.batch,
        "images_per_second": arguments.batch / seconds,
        "utilisation": None if peak is None else operations / seconds / peak,
        "waiting": waited / seconds,
        "memory": memory_used(trainer.world.device),
        "kernels": kernels,
    }


def profiled(trainer: Trainer, batches: Any, steps: int = 2) -> list[tuple[str, float, int]]:
    """Name, share of the time and calls of the kernels that take longest; on a CPU the operations."""
    is_cuda = torch.cuda.is_available()
    activities = [torch.profiler.ProfilerActivity.CUDA if is_cuda else torch.profiler.ProfilerActivity.CPU]
    with torch.profiler.profile(activities=activities) as profile:
        for _ in range(steps):
            trainer.advance(batches)
        _synchronise()
    of = "self_device_time_total" if is_cuda else "self_cpu_time_total"
    kernels = sorted(((getattr(one, of), one.key, one.count) for one in profile.key_averages()), reverse=True)
    total = sum(time for time, _, _ in kernels) or 1
    return [(name[:80], time / total, count) for time, name, count in kernels[:KERNELS]]


def images(folder: Path, side: int, count: int) -> Path:
    """Shards of random images of 1000 classes."""
    folder.mkdir(parents=True)
    generator = np.random.default_rng(0)
    values = generator.integers(0, 256, (count, side, side, 3), dtype=np.uint8)
    classes = tuple(f"class {number}" for number in range(1000))
    splits = {}
    for split in ("train", "val"):
        header = schema.Header("image", "random", split, {}, classes, {})
        columns = schema.ShardColumns(np.arange(count) % 1000)
        name = folder / f"{split}-00000.h5"
        entry = writer.write(name, header, [values], columns, shape=values.shape, dtype="uint8")
        splits[split] = Split(count, (entry,), ChannelStats((0.0,) * 3, (1.0,) * 3))
    manifest.save(Manifest("random", "image", "0", (side, side, 3), "uint8", classes, {}, {}, {}, splits), folder)
    return folder


def sample(arguments: argparse.Namespace) -> dict[str, Any]:
    """Seconds and memory of one cloud or one image."""
    preset = _preset(arguments.trial, arguments, [])
    world = distributed.find({}, "cpu" if arguments.rehearse else None)
    with torch.device(world.device):
        model = models.build(preset)
    model.method.eval().requires_grad_(False)
    precision = "fp32" if arguments.rehearse else "bf16"
    short: dict[str, Any] = {"precision": precision} | ({"guidance": 1.0} if arguments.trial == "points" else {})
    how = options.sampling_options(model, **short)
    model, _ = optimize.optimize_for_inference(
        model, how, compile=not (arguments.rehearse or arguments.eager)
    )  # as `sample --compile` does
    size: Any = arguments.points if arguments.trial == "points" else (arguments.side, arguments.side)
    condition = model.method.conditioner.dummy_batch(model.domain.dummy_batch(1))
    labels = [0] if "label" in condition else None
    other_condition = None if labels else condition
    steps = 4 if arguments.rehearse else preset.sampler.config.steps
    try:
        for seed, count in ((0, 2), (1, steps)):  # the first compiles
            how = options.sampling_options(model, steps=count, **short)
            _synchronise()
            start = time.perf_counter()
            values = evaluate(
                model, sample_fields(model, [seed], labels, how, other_condition), size, chunk=arguments.chunk
            )
            _synchronise()
    except (torch.OutOfMemoryError, OutOfMemory):
        sys.exit(OUT_OF_MEMORY)
    return {"seconds": time.perf_counter() - start, "shape": values.shape, "memory": memory_used(world.device)}


def _preset(part: str, arguments: argparse.Namespace, changes: list[str]) -> Any:
    name, own, small = PARTS[part]
    return preset.load(name, [*own, *(small if arguments.rehearse else []), *changes])


def _training_row(measured: dict[str, Any] | None) -> str:
    if measured is None:
        return "not measured"
    use = "" if measured["utilisation"] is None else f", {measured['utilisation']:.1%} of the peak"
    wait = f", waiting for data {measured['waiting']:.1%}"
    return f"batch {measured['batch']}: {measured['images_per_second']:.1f} images/s{use}{wait}, {measured['memory'] / 1e9:.1f} GB"


def _sampling_row(measured: dict[str, Any] | None) -> str:
    return "not measured" if measured is None else f"{measured['seconds']:.1f} s, {measured['memory'] / 1e9:.2f} GB"


def _synchronise() -> None:
    if torch.cuda.is_available():
        torch.cuda.synchronize()


def _name() -> str:
    return torch.cuda.get_device_name() if torch.cuda.is_available() else "CPU"


if __name__ == "__main__":
    main()
