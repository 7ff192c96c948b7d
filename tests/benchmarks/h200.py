"""An H200's numbers: the training step of imagenet256-xl, and a cloud of 128,000 points in 500 SDE steps.

    python tests/benchmarks/h200.py                    # both, about 15 minutes on one GPU; writes a table
    python tests/benchmarks/h200.py --only sampling
    python tests/benchmarks/h200.py --rehearse         # the same script in small, on a CPU, to see that it runs

Training: `torch.compile`, bf16, DeepSpeed stage 1 in one process, synthetic pixels that lie on the GPU; batches are
doubled until one does not fit, then the one between is tried, each in a fresh process. Model FLOP utilisation is
three times the forward operations of the folded network (recomputed ones do not count) times images per second, as a
share of the GPU's dense bf16 peak. Sampling: `shapenet-l` with random weights, which take as long as trained ones.
Without a GPU the table says "not measured".
"""

from __future__ import annotations

import argparse
import json
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

sys.path.insert(0, str(Path(__file__).resolve().parents[2]))

import torch

from inrflow_core import generate, models, presets
from inrflow_core.training import world
from inrflow_core.training.engine import Engine

PEAKS = {"H200": 989e12, "H100": 989e12, "A100": 312e12}
"""Dense bf16 operations per second, from the makers' data sheets."""
OUT_OF_MEMORY = 5
SMALL = {
    "training": [
        "network.width=32",
        "network.depth=2",
        "network.heads=2",
        "network.latents=64",
        "domain.resolution=32",
    ],
    "sampling": [
        "network.width=32",
        "network.depth=2",
        "network.heads=2",
        "network.latents=64",
        "domain.num_points=128",
    ],
}


def main() -> None:
    """Measure both, or one trial in this process; the table goes to stdout."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").partition("\n")[0])
    parser.add_argument("--only", choices=["training", "sampling"])
    parser.add_argument("--rehearse", action="store_true", help="in small, on the CPU")
    parser.add_argument("--points", type=int, default=128_000)
    parser.add_argument("--steps", type=int, default=500, help="of the SDE")
    parser.add_argument("--batch", type=int, help="one training trial with this batch, in this process")
    parser.add_argument("--precision", choices=["fp32", "bf16"], help="one sampling trial, in this process")
    parser.add_argument("--chunk", type=int, default=65_536)
    given = parser.parse_args()
    if given.batch is not None:
        print(json.dumps(train(given.batch, rehearse=given.rehearse)))
    elif given.precision is not None:
        print(json.dumps(sample(given)))
    else:
        print(table(given))


def table(given: argparse.Namespace) -> str:
    """Both measurements as Markdown."""
    is_measured = given.rehearse or torch.cuda.is_available()
    rows = []
    if given.only != "sampling":
        best = largest(given) if is_measured else None
        rows.append(("imagenet256-xl, training step (compiled, bf16)", _training_row(best)))
    if given.only != "training":
        for precision in ("bf16", "fp32"):
            found = trial(given, "--precision", precision, "--chunk", str(given.chunk)) if is_measured else None
            what = f"shapenet-l, {given.points:,} points, {given.steps} SDE steps ({precision})"
            rows.append((what, _sampling_row(found)))
    device = (
        "a rehearsal on a CPU" if given.rehearse else torch.cuda.get_device_name() if is_measured else "no GPU at hand"
    )
    lines = [f"| what ({device}) | result |", "| --- | --- |", *(f"| {what} | {result} |" for what, result in rows)]
    return "\n".join(lines)


def largest(given: argparse.Namespace) -> dict[str, Any] | None:
    """The trial with the largest batch that fits."""
    best, batch = None, 2 if given.rehearse else 16
    while found := trial(given, "--batch", str(batch)):
        best, batch = found, 2 * batch
        if given.rehearse and batch > 4:
            return best
    between = trial(given, "--batch", str(3 * batch // 4))
    return between or best


def trial(given: argparse.Namespace, *arguments: str) -> dict[str, Any] | None:
    """One measurement in a fresh process; None where it does not fit."""
    common = ["--points", str(given.points), "--steps", str(given.steps)] + (["--rehearse"] if given.rehearse else [])
    done = subprocess.run([sys.executable, __file__, *arguments, *common], stdout=subprocess.PIPE, text=True)
    if done.returncode == OUT_OF_MEMORY:
        return None
    done.check_returncode()
    return json.loads(done.stdout.strip().splitlines()[-1])


def train(batch: int, *, rehearse: bool, warm: int = 5, steps: int = 10) -> dict[str, Any]:
    """Images per second of one batch size; leaves with a code of its own where it does not fit."""
    small = [*SMALL["training"], "training.compile=false"] if rehearse else ["training.compile=true"]
    precision = "fp32" if rehearse else "bf16"
    changes = [f"training.batch={batch}", f"training.precision={precision}", *small]
    preset = presets.load("imagenet256-xl", changes)
    place = world.find({}, "cpu" if rehearse else None)
    with torch.device(place.device):
        model = models.build(preset)
    try:
        driven = Engine(model.method.train(), preset.training.config, place, precision=precision, num_micro=1)
        side = preset.domain.config.resolution
        pixels = torch.randint(0, 256, (batch, side, side, 3), dtype=torch.uint8).numpy()
        labels = (torch.arange(batch) % 1000).numpy()
        sets = model.domain.to_set(pixels, torch.arange(batch), labels).to(place.device)
        for count in (warm, steps):
            _synchronise(place.device)
            start = time.perf_counter()
            for _ in range(count):
                driven.backward(sets)
                driven.step(1e-4)
            _synchronise(place.device)
            seconds = (time.perf_counter() - start) / count
    except torch.OutOfMemoryError:
        sys.exit(OUT_OF_MEMORY)
    operations = 3 * batch * sum(model.method.flops().values())
    peak = next((peak for name, peak in PEAKS.items() if name in _name(place.device)), None)
    return {
        "batch": batch,
        "images_per_second": batch / seconds,
        "utilisation": None if peak is None else operations / seconds / peak,
        "memory": _memory(place.device),
    }


def sample(given: argparse.Namespace) -> dict[str, Any]:
    """Seconds and memory of one cloud."""
    changes = SMALL["sampling"] if given.rehearse else []
    preset = presets.load("shapenet-l", changes)
    place = world.find({}, "cpu" if given.rehearse else None)
    with torch.device(place.device):
        model = models.build(preset)
    model.method.eval().requires_grad_(False)
    how = generate.drawing(model, sampler="euler-maruyama", steps=given.steps, precision=given.precision)
    try:
        generate.query(
            model, generate.draw(model, [0], None, generate.drawing(model, steps=2)), 1024, chunk=given.chunk
        )
        _synchronise(place.device)
        start = time.perf_counter()
        cloud = generate.query(model, generate.draw(model, [1], None, how), given.points, chunk=given.chunk)
    except torch.OutOfMemoryError:
        sys.exit(OUT_OF_MEMORY)
    assert cloud.shape == (1, given.points, 3)
    return {"seconds": time.perf_counter() - start, "memory": _memory(place.device)}


def _training_row(found: dict[str, Any] | None) -> str:
    if found is None:
        return "not measured"
    use = "" if found["utilisation"] is None else f", {found['utilisation']:.1%} of the peak"
    return f"batch {found['batch']}: {found['images_per_second']:.1f} images/s{use}, {found['memory'] / 1e9:.1f} GB"


def _sampling_row(found: dict[str, Any] | None) -> str:
    return "not measured" if found is None else f"{found['seconds']:.1f} s, {found['memory'] / 1e9:.2f} GB"


def _synchronise(device: torch.device) -> None:
    if device.type == "cuda":
        torch.cuda.synchronize(device)


def _name(device: torch.device) -> str:
    return torch.cuda.get_device_name(device) if device.type == "cuda" else "CPU"


def _memory(device: torch.device) -> int:
    from inrflow_core.training.trainer import memory_used

    return memory_used(device)


if __name__ == "__main__":
    main()
