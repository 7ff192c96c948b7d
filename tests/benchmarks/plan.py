"""What `inrflow train --dry-run` predicts, against what a training step takes: memory and operations, on a CPU.

    python tests/benchmarks/plan.py                    # all cases, about six minutes on one idle core
    python tests/benchmarks/plan.py --case image       # one kind, all its settings
    python tests/benchmarks/plan.py --json             # one list on stdout

Every case is a fresh process that builds the model, its engine and its averages, takes two steps so that all that is
made once is there, and measures the third: the most memory in use above what was in use when torch and DeepSpeed were
loaded and had trained a tiny model (`total`), and above what was in use when the step began (`activations`, with gradients and all else that comes
and goes). The C library gives memory back at once there (MALLOC_MMAP_THRESHOLD_, MALLOC_TRIM_THRESHOLD_), so that the
peak is that of living tensors. FLOPs are counted by torch's FlopCounterMode over forward and backward, with the
attention of a CPU, which it lacks.

Columns: predicted over measured. `flops` is what the network needs (three times a forward), `executed` what is computed.
"""

from __future__ import annotations

import argparse
import json
import os
import subprocess
import sys
from dataclasses import replace
from itertools import product
from pathlib import Path
from typing import Any

import torch

from inrflow_core import models
from inrflow_core.config import preset
from inrflow_core.methods._contract import StepState
from inrflow_core.planning import flops, memory_trace, plan
from inrflow_core.runtime import distributed
from inrflow_core.sets import CoordValueSet, TrainBatch
from inrflow_core.training.ema import EMA
from inrflow_core.training.engine import Engine

os.environ.setdefault("OMP_NUM_THREADS", "1")
sys.path.insert(0, str(Path(__file__).resolve().parents[2]))

WIDE = {"width": 256, "depth": 6, "heads": 4}
KINDS: dict[str, dict[str, dict[str, Any]]] = {
    "image": {
        "domain": {"name": "image", "resolution": 64},
        "network": {**WIDE, "latents": 256, "encoder": "spatial"},
        "method": {"num_queries": 2048},
        "condition": {"name": "label", "classes": 10},
    },
    "image-perceiver": {
        "domain": {"name": "image", "resolution": 32},
        "network": {**WIDE, "latents": 512, "encoder": "perceiver"},
        "condition": {"name": "label", "classes": 10},
    },
    "points": {
        "domain": {"name": "points", "num_points": 2048},
        "network": {**WIDE, "latents": 256, "encoder": "perceiver", "cross_attend_every": 2},
    },
    "protein": {
        "domain": {"name": "protein", "residues": 200},
        "network": {**WIDE, "latents": 200, "encoder": "spatial", "pseudo_coordinates": "residue"},
        "method": {"align": "prediction", "smooth_lddt": 1.0},
        "condition": {"name": "sequence", "embedder": "one-hot", "width": 20},
    },
}
"""Of each kind one network, large enough that its activations outweigh what varies from process to process."""
ARITHMETIC = [("fp32", 0), ("bf16", 1), ("fp32", 1), ("bf16", 0)]
"""Precision and ZeRO stage: all for one kind, and the first two for the others, whose states are alike."""
CASES = [
    {"kind": kind, "micro": micro, "checkpointed": checkpointed, "precision": precision, "stage": stage}
    for kind in KINDS
    for micro, checkpointed, (precision, stage) in product(
        (1, 4), (False, True), ARITHMETIC if kind == "image" else ARITHMETIC[:2]
    )
]
MALLOC = {"MALLOC_MMAP_THRESHOLD_": "65536", "MALLOC_TRIM_THRESHOLD_": "65536", "MALLOC_TOP_PAD_": "0"}
ALONE = distributed.World(0, 1, 0, torch.device("cpu"), False)
MOST = 0.15


def main() -> None:
    """Measure the requested cases, print the table, and fail where a prediction is too far off."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").partition("\n")[0])
    parser.add_argument("--case", choices=KINDS, action="append", help="this kind alone")
    parser.add_argument("--json", action="store_true", help="one list instead of the table")
    parser.add_argument("--one", type=json.loads, help=argparse.SUPPRESS)
    arguments = parser.parse_args()
    if arguments.one:
        print(json.dumps(measure(arguments.one)))
        return
    rows = [compare(case) for case in CASES if case["kind"] in (arguments.case or KINDS)]
    print(json.dumps(rows, indent=1) if arguments.json else table(rows))
    sys.exit(0 if all(abs(row[name] - 1) <= MOST for row in rows for name in RATIOS) else 1)


RATIOS = ("total", "activations", "executed")


def compare(case: dict[str, Any]) -> dict[str, Any]:
    """A case with its predictions over what was measured."""
    command = [sys.executable, __file__, "--one", json.dumps(case)]
    done = subprocess.run(command, capture_output=True, text=True, env={**os.environ, **MALLOC})
    if done.returncode:
        raise SystemExit(done.stderr)
    result = json.loads(done.stdout.splitlines()[-1])  # DeepSpeed says something first
    return (
        case
        | result
        | {
            "total": result["predicted"]["total"] / result["measured"]["total"],
            "activations": result["predicted"]["activations"] / result["measured"]["activations"],
            "flops": result["predicted"]["flops"] / result["measured"]["flops"],
            "executed": result["predicted"]["executed"] / result["measured"]["flops"],
        }
    )


def table(rows: list[dict[str, Any]]) -> str:
    """The ratios, and the bytes behind them."""
    lines = [f"{'case':<42}{'total':>16}{'activations':>20}{'flops':>8}{'executed':>10}"]
    for row in rows:
        name = f"{row['kind']} x{row['micro']} {row['precision']} stage {row['stage']}"
        name += " checkpointed" if row["checkpointed"] else ""
        size = [f"({row['measured'][what] / 1e6:,.0f} MB)" for what in ("total", "activations")]
        lines.append(
            f"{name:<42}{row['total']:>6.2f} {size[0]:>10}{row['activations']:>8.2f} {size[1]:>10}"
            f"{row['flops']:>8.2f}{row['executed']:>10.2f}"
        )
    return "\n".join(lines)


def preset_of(case: dict[str, Any], changes: dict[str, Any] | None = None) -> preset.Preset:
    """The preset of a case; `changes` are settings of its network."""
    tables: dict[str, dict[str, Any]] = {
        "data": {"path": "shards/none"},
        "method": {"name": "flow"},
        "sampler": {"name": "euler", "steps": 4},
        "training": {"batch": case["micro"], "steps": 4, "zero_stage": case["stage"], "ema": [0.99]},
    }
    for name, values in KINDS[case["kind"]].items():
        tables[name] = {**tables.get(name, {}), **values}
    network = {**tables["network"], **(changes or {}), "checkpoint_activations": case["checkpointed"]}
    tables["network"] = {"name": "set-transformer", **network}
    return preset.resolve("case", tables)


def measure(case: dict[str, Any]) -> dict[str, Any]:
    """What a step of the case takes, and what is predicted of it."""
    torch.set_num_threads(1)
    preset = preset_of(case)
    predicted = plan.predict(preset, ALONE, precision=case["precision"], micro=case["micro"])
    settings, loaded = preset.training.config, load_everything(case)
    with torch.random.fork_rng(devices=[]):
        model = models.build(preset)
    sets = filled(model, case["micro"])
    driven = Engine(model.method, settings, ALONE, precision=case["precision"], num_micro=1)
    averages = [EMA(decay, driven.local_weights()) for decay in settings.ema]
    for _ in range(2):
        step(driven, averages, sets)
    before = reset_peak()
    step(driven, averages, sets)
    total, rise = peak() - loaded, peak() - before
    return {
        "measured": {"total": total, "activations": rise, "flops": operations(driven, sets)},
        "predicted": {
            "total": predicted.total_memory - predicted.memory["program"],
            "activations": predicted.transient,
            "flops": predicted.total_flops,
            "executed": sum(predicted.executed.values()),
        },
    }


def load_everything(case: dict[str, Any]) -> float:
    """Bytes in use when a tiny model of the same kind has taken a step: libraries are there, and their own buffers."""
    tiny = {"width": 32, "depth": 1, "heads": 2, "latents": 16}
    tiny |= {"latents": 4} if case["kind"] == "protein" else {}
    preset = preset_of({**case, "micro": 1}, tiny)
    model = models.build(preset)
    driven = Engine(model.method, preset.training.config, ALONE, precision=case["precision"], num_micro=1)
    step(driven, [], filled(model, 1))
    return status("VmRSS")


def step(driven: Engine, averages: list[EMA], sets: CoordValueSet) -> None:
    """One step, as the trainer takes it."""
    driven.backward(TrainBatch.from_sets(sets), StepState("train", 0, 1))
    driven.step(1e-4)
    for average in averages:
        average.update()


def filled(model: models.Model, count: int) -> CoordValueSet:
    """Sets of random values, with seeds of their own."""
    sets = memory_trace.repeat(memory_trace.dummy_set(model), count)
    return replace(sets, values=torch.randn(sets.values.shape), seeds=torch.arange(count))


def operations(driven: Engine, sets: CoordValueSet) -> float:
    """Operations of forward and backward by torch's own counter."""
    with flops.counter() as counted:
        driven.backward(TrainBatch.from_sets(sets), StepState("train", 0, 1))
    return counted.get_total_flops()


def reset_peak() -> float:
    """Forget the peak so far; the bytes in use come back (Linux)."""
    Path("/proc/self/clear_refs").write_text("5")
    return status("VmRSS")


def peak() -> float:
    """The most bytes in use since `reset_peak`."""
    return status("VmHWM")


def status(key: str) -> float:
    """A line of this process's status, in bytes."""
    lines = Path("/proc/self/status").read_text().splitlines()
    return next(float(line.split()[1]) * 1024 for line in lines if line.startswith(key + ":"))


if __name__ == "__main__":
    main()
