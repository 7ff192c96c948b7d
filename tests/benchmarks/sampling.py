"""What drawing costs on a CPU: against a loop that keeps nothing, in bf16, and with the `*-fast` presets.

    python tests/benchmarks/sampling.py                  # all three tables, about ten CPU minutes and 6 GB
    python tests/benchmarks/sampling.py --only loop      # or bf16, presets, latents
    python tests/benchmarks/sampling.py --only presets --names shapenet-l shapenet-l-fast

All numbers are CPU seconds of one thread, and ratios of one run; weights are random, which costs what trained ones do.

loop: the straightforward form computes encoder and trunk for each half of the guidance, the decoder's keys and values
for each chunk, and embedded positions in every step; its samples are the same to rounding.
bf16: one evaluation of a preset in fp32, under autocast that casts all weights each time, and with weights cast once.
presets: one encoder and trunk pass and one chunk of 4096 queries at full size, each in a fresh process.
latents: eight samples of a latent diffusion model by five steps of Heun, drawn one by one and together.
"""

from __future__ import annotations

import argparse
import gc
import json
import resource
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch

from inrflow_core import models
from inrflow_core.config import preset
from inrflow_core.models import Model
from inrflow_core.numerics import paths, solver
from inrflow_core.planning.plan import Planner
from inrflow_core.runtime import distributed, memory
from inrflow_core.runtime.query_budget import QueryBudget
from inrflow_core.sampling import optimize, options, sample

ALONE = distributed.World(0, 1, 0, torch.device("cpu"), False)

sys.path.insert(0, str(Path(__file__).resolve().parents[2]))

CHUNK = 4096
NAMES = [
    f"{name}{end}"
    for name in ("imagenet256-xl", "imagenet128-xl", "shapenet-l", "objaverse-xl")
    for end in ("", "-fast")
]
SMALL = {
    "image, guided": (
        "imagenet128-xl",
        ["domain.resolution=64", "network.latents=64", "network.depth=6"],
        {"sampler": "euler", "steps": 10, "guidance": 1.5},
        (96, 96),
    ),
    "image, guided, narrow decoder": (
        "imagenet128-xl-fast",
        ["domain.resolution=64", "network.latents=64", "network.depth=6", "network.decoder_width=96"],
        {"sampler": "euler", "steps": 10, "guidance": 1.5},
        (96, 96),
    ),
    "points, 500 SDE steps": (
        "shapenet-l",
        ["domain.num_points=256", "network.latents=64", "network.depth=2"],
        {"sampler": "euler-maruyama", "steps": 500},
        1024,
    ),
}
LATENTS = ("solids-ddmi-demo", "moving-digits-ddmi-demo", "objects-nerf-ddmi-demo", "digits-ddmi-demo")
WIDTH = ["network.width=192", "network.heads=6", "network.decoder_width=none", "network.decoder_heads=none"]


def main() -> None:
    """The requested tables, on stdout."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").partition("\n")[0])
    parser.add_argument("--only", choices=["loop", "bf16", "presets", "latents"])
    parser.add_argument("--names", nargs="*", default=NAMES)
    parser.add_argument("--one", help="one preset, in this process")
    arguments = parser.parse_args()
    torch.set_num_threads(1)
    torch.set_grad_enabled(False)
    memory.retain_freed_pages()
    if arguments.one:
        print(json.dumps(preset_cost(arguments.one)))
        return
    if arguments.only in (None, "loop"):
        _print(("what", "straightforward s", "ours s", "ratio", "largest difference"), map(loop_row, SMALL))
    if arguments.only in (None, "bf16"):
        _print(("preset", "fp32 s", "autocast s", "cast once s", "error of bf16"), [bf16_row("shapenet-l-fast")])
    if arguments.only in (None, "presets"):
        head = (
            "preset",
            "parameters",
            "training TFLOP",
            "evaluation TFLOP",
            "trunk pass s",
            "4096 queries s",
            "peak GB",
        )
        _print(head, map(preset_row, arguments.names))
    if arguments.only in (None, "latents"):
        _print(("preset", "one by one s", "together s", "ratio", "largest difference"), map(latents_row, LATENTS))


def latents_row(name: str, num: int = 8) -> tuple[str, ...]:
    """Samples of one by one, and of all together."""
    model = built(name, [])
    how = options.sampling_options(model, steps=5)

    def states(together: int) -> list[torch.Tensor]:
        rows = [list(range(start, start + together)) for start in range(0, num, together)]
        labels = [own if model.preset.condition else None for own in rows]
        fields = [sample.sample_fields(model, own, label, how) for own, label in zip(rows, labels, strict=True)]
        return [field.cache_context().state[0] for field in fields]  # pyright: ignore[reportAttributeAccessIssue]

    (alone, expected), (joint, result) = timed(lambda: states(1)), timed(lambda: states(num))
    difference = (torch.cat(expected) - result[0]).abs().max()
    return name, f"{alone:.2f}", f"{joint:.2f}", f"{joint / alone:.2f}", f"{difference:.0e}"


def loop_row(name: str) -> tuple[str, ...]:
    """A sample by the straightforward loop and by ours."""
    preset, changes, settings, size = SMALL[name]
    narrow = [change for change in changes if "decoder" in change]
    model = built(preset, [*changes, *(change for change in WIDTH if not (narrow and "decoder_width" in change))])
    how = options.sampling_options(model, **settings)
    field = sample.sample_fields(model, [3], [1] if model.preset.condition else None, how)
    queries = model.domain.queries(size)
    plain, expected = timed(lambda: straightforward(model, field, queries), times=1)
    ours, result = timed(lambda: field.query(queries, chunk=QueryBudget(CHUNK)), times=1)
    return name, f"{plain:.2f}", f"{ours:.2f}", f"{ours / plain:.2f}", f"{(expected - result).abs().max():.0e}"


def straightforward(model: Model, field: Any, queries: Any) -> torch.Tensor:
    """The samples with nothing cached: every velocity of every chunk from the context on."""
    flow, how = model.method, field.options
    network, context = flow.network, field.context
    halves = [flow.embed_condition(field.condition)]
    if how.guidance != 1 and flow.is_guidable:
        halves.append(flow.conditioner.null_condition(len(field.seeds)))
    states = [field._initial_noise(context), field._initial_noise(queries)]
    query_sets = [context, queries]
    grid = how.sampler.time_grid(how.config)
    for index, (t, t_next) in enumerate(zip(grid[:-1], grid[1:], strict=True)):
        ends = [torch.full((len(field.seeds),), float(end), dtype=torch.float64) for end in (t, t_next)]
        step, seen = solver.Step(index, *ends), states[0]

        def velocity(
            queries_at: Any, y: torch.Tensor, seen: torch.Tensor = seen, t: torch.Tensor = ends[0]
        ) -> torch.Tensor:
            velocities = []
            for embedding in halves:
                latents = network.latents(network.encode(context, seen, None, embedding), t.float(), embedding)
                velocities.append(network.decode(queries_at, y, network.decoder_kv(latents)))
            return (
                velocities[0]
                if len(velocities) == 1
                else paths.guided_velocity(velocities[0], velocities[1], how.guidance, t)
            )

        for index_of_set, (where, y) in enumerate(zip(query_sets, list(states), strict=True)):
            moved = []
            for start in range(0, len(where), CHUNK):
                part = slice(start, start + CHUNK)
                own = where[part]
                moved.append(
                    solver.replay_step(
                        how.sampler,
                        how.config,
                        lambda y, _, own=own: velocity(own, y),
                        y[:, part],
                        step,
                        path=flow.path,
                        noise=lambda index, own=own: field._increment(own, index),
                    )  # fmt: skip
                )
            states[index_of_set] = torch.cat(moved, 1)
    return states[1]


def bf16_row(name: str) -> tuple[str, ...]:
    """One evaluation, encoder to velocity, of one set and one chunk."""
    model = built(name, [])
    seconds, answers = [], []
    for precision, is_cast in (("fp32", False), ("bf16", False), ("bf16", True)):
        method = optimize.cast_to_bf16(model.method) if is_cast else model.method
        with torch.autocast("cpu", torch.bfloat16, enabled=precision == "bf16"):
            spent, answer = timed(lambda method=method: evaluation(model, method))
        seconds.append(spent)
        answers.append(answer.float())
    error = (answers[2] - answers[0]).square().mean().sqrt() / answers[0].square().mean().sqrt()
    return name, *(f"{spent:.2f}" for spent in seconds), f"{error:.1e}"


def evaluation(model: Model, method: Any) -> torch.Tensor:
    """The velocities of one chunk."""
    network, context, y, embedding = _inputs(model, method)
    latents = network.latents(network.encode(context, y, None, embedding), torch.tensor([0.5]), embedding)
    return network.decode(context[:CHUNK], y[:, :CHUNK], network.decoder_kv(latents))


def preset_row(name: str) -> tuple[str, ...]:
    """A preset's cost, measured in a process of its own."""
    done = subprocess.run([sys.executable, __file__, "--one", name], stdout=subprocess.PIPE, text=True, check=True)
    cost = json.loads(done.stdout.splitlines()[-1])
    return (
        f"`{name}`", f"{cost['parameters'] / 1e6:.1f}M", f"{cost['training'] / 1e12:.2f}",
        f"{cost['evaluation'] / 1e12:.2f}", f"{cost['trunk']:.1f}", f"{cost['queries']:.2f}", f"{cost['peak'] / 1e9:.1f}",
    )  # fmt: skip


def preset_cost(name: str) -> dict[str, float]:
    """CPU seconds of a trunk pass and of a chunk of queries at full size, and the most memory that the process used."""
    model = built(name, [])
    network, context, y, embedding = _inputs(model, model.method)
    trunk, latents = timed(
        lambda: network.latents(network.encode(context, y, None, embedding), torch.tensor([0.5]), embedding), times=1
    )
    memory, chunk = network.decoder_kv(latents), context[:CHUNK]
    if len(chunk) < CHUNK:
        chunk = model.domain.queries(CHUNK)
    state = torch.randn(1, CHUNK, y.shape[-1])
    embedded = None if chunk.coordinates is None else network.embed(chunk)
    queries, _ = timed(lambda: network.decode(chunk, state, memory, embedded))
    return {
        "parameters": sum(weight.numel() for weight in model.method.parameters()),
        "training": 3 * forward_flops(name, []),
        "evaluation": forward_flops(name, ["method.num_queries=none"]),
        "trunk": trunk,
        "queries": queries,
        "peak": 1024 * resource.getrusage(resource.RUSAGE_SELF).ru_maxrss,
    }


def forward_flops(name: str, changes: list[str]) -> float:
    """FLOPs of a forward pass of one set."""
    return sum(Planner(preset.load(name, changes), ALONE, "fp32").sizes()[1].values())


def built(name: str, changes: list[str]) -> Model:
    """A preset's model with random weights, none of them 0."""
    torch.manual_seed(0)
    model = models.build(preset.load(name, changes))
    for weight in model.method.parameters():
        if not weight.any():
            weight.data.normal_(std=0.25 / weight.shape[-1] ** 0.5)
    model.method.eval().requires_grad_(False)
    return model


def timed(function: Callable[[], Any], times: int = 2) -> tuple[float, Any]:
    """CPU seconds of this thread, the least of some times, and what came out."""
    best, result = float("inf"), None
    for _ in range(times):
        gc.collect()
        start = time.thread_time()
        result = function()
        best = min(best, time.thread_time() - start)
    return best, result


def _inputs(model: Model, method: Any) -> tuple[Any, Any, torch.Tensor, Any]:
    """Network, context, a state and the condition embedding, for one set."""
    blank = model.domain.dummy_batch(1)
    condition = {} if method.conditioner is None else method.conditioner.dummy_batch(blank)
    y = torch.randn(blank.values.shape, generator=torch.Generator().manual_seed(1))
    return (
        method.network,
        blank.queries,
        y,
        method.network.project_kv(method.embed_condition({**blank.condition, **condition})),
    )


def _print(head: tuple[str, ...], rows: Any) -> None:
    print("| " + " | ".join(head) + " |\n" + "|" + " --- |" * len(head))
    for row in rows:
        print("| " + " | ".join(row) + " |", flush=True)
    print()


if __name__ == "__main__":
    main()
