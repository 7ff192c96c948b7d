"""The set transformer against a straightforward form of itself: CPU seconds, peak memory, and use of the CPU.

    python tests/benchmarks/network.py                 # all four cases, about ten minutes on one core
    python tests/benchmarks/network.py --case points   # one of them
    python tests/benchmarks/network.py --json          # one object on stdout

The straightforward form is written out below in plain operations on the same weights: keys and values of every pair
projected, every intermediate result kept by autograd, nothing shared between chunks or guidance halves. Both give the
same velocities and gradients, which is checked first. One thread, fp32. Times are the least CPU seconds of the repeats,
the two forms taking turns in one process, so that a busy machine slows both. Memory is measured in a fresh process for
each; it varies by a tenth between processes with what the allocator gives back in time: the median counts.

Columns, each ours over the straightforward form unless it says otherwise:
    step time    CPU seconds of forward and backward
    step memory  peak memory of the first step above weights and gradients
    10 steps     CPU seconds of ten Euler steps on the whole set (no target)
    matmul       FLOPs of our step (three times a forward, of the folded network) per CPU second, as a share of what a
                 1024 x 1024 x 1024 product reaches in the same process
"""

from __future__ import annotations

import argparse
import json
import os
import subprocess
import sys
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from statistics import median
from typing import Any

import torch
from torch import Tensor
from torch.nn import functional as F

from inrflow_core.networks import _set_config, _set_grouping, set_transformer
from inrflow_core.planning import flops
from inrflow_core.sets import ConditionEmbedding, Grid, Points, Queries, SetSpec

os.environ.setdefault("OMP_NUM_THREADS", "1")
sys.path.insert(0, str(Path(__file__).resolve().parents[2]))


@dataclass(frozen=True)
class Case:
    """One setting of the network, its number of queries, and the ratios that it must not exceed (or, the last, miss)."""

    config: _set_config.Config
    shape: SetSpec
    batch: int
    num_queries: int
    step_time: float
    step_memory: float
    matmul: float
    repeats: int = 4


CASES = {
    "image-256": Case(
        _set_config.Config(width=384, depth=12, heads=6, latents=1024),
        SetSpec(2, 3, Grid((256, 256))), 1, 4096, 0.75, 0.6, 0.6,
    ),
    "image-64": Case(
        _set_config.Config(width=384, depth=12, heads=6, latents=256),
        SetSpec(2, 3, Grid((64, 64))), 4, 4096, 0.92, 0.6, 0.75,
    ),
    "image-32": Case(
        _set_config.Config(width=384, depth=12, heads=6, latents=256),
        SetSpec(2, 3, Grid((32, 32))), 4, 1024, 0.95, 0.8, 0.75,
    ),
    "points": Case(
        _set_config.Config(width=512, depth=9, heads=4, latents=256, encoder="perceiver"),
        SetSpec(3, 3, Points(2048)), 2, 2048, 1.0, 0.8, 0.75,
    ),
}  # fmt: skip
EULER_STEPS = 10
CHUNK = 4096


def main() -> None:
    """Measure the requested cases and print the table."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--case", choices=CASES, action="append", help="measure this one alone")
    parser.add_argument("--rounds", type=int, default=3, help="processes per form, for memory")
    parser.add_argument("--json", action="store_true", help="print one object instead of the table")
    parser.add_argument("--memory", nargs=2, metavar=("CASE", "FORM"), help=argparse.SUPPRESS)
    parser.add_argument("--times", metavar="CASE", help=argparse.SUPPRESS)
    arguments = parser.parse_args()
    if arguments.memory:
        print(json.dumps(measure_memory(CASES[arguments.memory[0]], FORMS[arguments.memory[1]])))
        return
    if arguments.times:
        print(json.dumps(measure_times(CASES[arguments.times])))
        return
    results = {name: compare(name, arguments.rounds) for name in arguments.case or CASES}
    print(json.dumps(results, indent=1) if arguments.json else table(results))


def compare(name: str, rounds: int) -> dict[str, float]:
    """The ratios of a case, and what they are made of."""
    check_equal(CASES[name])
    memory = {form: median(in_new_process("--memory", name, form) for _ in range(rounds)) for form in FORMS}
    times = in_new_process("--times", name)
    return {
        "step_seconds": times["ours"],
        "plain_step_seconds": times["plain"],
        "step_time": times["ours"] / times["plain"],
        "step_megabytes": memory["ours"] / 1e6,
        "plain_step_megabytes": memory["plain"] / 1e6,
        "step_memory": memory["ours"] / memory["plain"],
        "euler_seconds": times["ours euler"],
        "plain_euler_seconds": times["plain euler"],
        "euler_time": times["ours euler"] / times["plain euler"],
        "matmul_gflops": times["matmul"] / 1e9,
        "matmul": times["flops"] / times["ours"] / times["matmul"],
    }


def in_new_process(*arguments: str) -> Any:
    """What this file prints when it is called so."""
    command = [sys.executable, __file__, *arguments]
    return json.loads(subprocess.run(command, check=True, capture_output=True, text=True).stdout)


def table(results: dict[str, dict[str, float]]) -> str:
    """The ratios with their targets, and what they are made of."""
    head = ["case", "step time", "", "step memory", "", "10 steps", "", "matmul", ""]
    rows = [head, ["", "ratio", "seconds", "ratio", "MB", "ratio", "seconds", "share", "GFLOP/s"]]
    for name, r in results.items():
        case = CASES[name]
        rows.append([
            name,
            f"{r['step_time']:.2f} (<= {case.step_time})", f"{r['step_seconds']:.2f} / {r['plain_step_seconds']:.2f}",
            f"{r['step_memory']:.2f} (<= {case.step_memory})", f"{r['step_megabytes']:.0f} / {r['plain_step_megabytes']:.0f}",
            f"{r['euler_time']:.2f}", f"{r['euler_seconds']:.1f} / {r['plain_euler_seconds']:.1f}",
            f"{r['matmul']:.2f} (>= {case.matmul})", f"{r['matmul_gflops']:.0f}",
        ])  # fmt: skip
    widths = [max(len(row[i]) for row in rows) for i in range(len(head))]
    return "\n".join("  ".join(cell.ljust(width) for cell, width in zip(row, widths, strict=True)) for row in rows)


def measure_memory(case: Case, forward: Callable[..., Tensor]) -> float:
    """Peak memory of the first step above weights and gradients, in bytes."""
    torch.set_num_threads(1)
    network, arguments = prepare(case)
    before = reset_peak()
    step(network, forward, arguments)
    return peak() - before


def measure_times(case: Case) -> dict[str, float]:
    """CPU seconds of a step and of ten Euler steps of both forms in turns, and the rate that a product reaches."""
    torch.set_num_threads(1)
    network, arguments = prepare(case)
    seconds: dict[str, list[float]] = {}
    for _ in range(1 + case.repeats):
        for form, forward in FORMS.items():
            seconds.setdefault(form, []).append(cpu_seconds(lambda f=forward: step(network, f, arguments)))
        seconds.setdefault("product", []).append(min(cpu_seconds(product) for _ in range(5)))
    with torch.no_grad():
        for form, forward in FORMS.items():
            seconds[f"{form} euler"] = [cpu_seconds(lambda f=forward: generate(case, network, f, arguments))]
    least = {name: min(times) for name, times in seconds.items()}
    with torch.no_grad(), flops.counter() as counted:
        network(*arguments)
    return least | {"matmul": 2 * 1024**3 / least["product"], "flops": 3 * counted.get_total_flops()}


def step(network: Any, forward: Callable[..., Tensor], arguments: tuple[Any, ...]) -> None:
    """Forward and backward."""
    forward(network, *arguments).square().mean().backward()


def prepare(case: Case) -> tuple[set_transformer.SetTransformer, tuple[Any, ...]]:
    """The network with random weights, and the arguments of one training pass."""
    torch.manual_seed(0)
    network = set_transformer.build(case.config, case.shape)
    with torch.no_grad():
        for weight in network.parameters():
            weight += 0.1 * torch.randn_like(weight) / (weight.shape[-1] if weight.ndim > 1 else 1) ** 0.5
            weight.grad = torch.ones_like(weight)  # written to, so that its pages exist
    values = torch.randn(case.batch, case.shape.num_queries, case.shape.value_size)
    context = whole(case.shape)
    indices = torch.stack([torch.randperm(case.shape.num_queries)[: case.num_queries] for _ in range(case.batch)])
    coordinates = None if context.coordinates is None else context.coordinates[indices]
    queries = Queries(coordinates, torch.arange(case.num_queries))
    query_values = values.gather(1, indices[..., None].expand(-1, -1, values.shape[-1]))
    return network, (context, values, torch.rand(case.batch), ConditionEmbedding(), queries, query_values)


def whole(shape: SetSpec) -> Queries:
    """The queries of the training grid or cloud."""
    if not isinstance(shape.layout, Grid):
        return Queries(None, torch.arange(shape.num_queries))
    coordinates = torch.from_numpy(_set_grouping.cell_centers(shape.layout.shape)).float()
    return Queries(coordinates, torch.zeros(shape.num_queries, len(shape.layout.shape), dtype=torch.float64))


def generate(case: Case, network: Any, forward: Callable[..., Tensor], arguments: tuple[Any, ...]) -> Tensor:
    """Ten Euler steps of the whole set; ours shares what queries share between their chunks."""
    context, y = arguments[0], arguments[1]
    for index in range(EULER_STEPS):
        t = torch.full((case.batch,), 1 - index / EULER_STEPS)
        parts = [slice(i, i + CHUNK) for i in range(0, case.shape.num_queries, CHUNK)]
        if forward is ours:
            memory = network.decoder_kv(network.latents(network.encode(context, y), t, ConditionEmbedding()))
            velocity = torch.cat([network.decode(context[part], y[:, part], memory) for part in parts], 1)
        else:
            velocity = forward(network, context, y, t, ConditionEmbedding(), context, y)
        y = y - velocity / EULER_STEPS
    return y


def check_equal(case: Case) -> None:
    """Both forms answer the same and have the same gradients: nothing is compared that is not the same function."""
    small = Case(case.config, case.shape, 1, min(case.num_queries, 256), 0, 0, 0)
    network, arguments = prepare(small)
    results = []
    for forward in (ours, plain):
        network.zero_grad()
        answer = forward(network, *arguments)
        answer.square().mean().backward()
        results.append((answer.detach(), {name: weight.grad for name, weight in network.named_parameters()}))
    (mine, gradients), (reference, others) = results
    torch.testing.assert_close(mine, reference, atol=1e-4, rtol=1e-4)
    for name, gradient in gradients.items():
        other = others[name]
        assert gradient is not None and other is not None, f"`{name}` has a gradient in both forms"
        assert (gradient - other).norm() <= 1e-3 * other.norm() + 1e-7, f"the gradients of `{name}` differ"


def product(factors: list[Tensor] = []) -> None:  # noqa: B006 (kept between calls on purpose)
    """One 1024 x 1024 x 1024 product."""
    if not factors:
        factors += [torch.randn(1024, 1024), torch.randn(1024, 1024)]
    torch.mm(factors[0], factors[1])


def cpu_seconds(work: Callable[[], Any]) -> float:
    """CPU seconds of this process while it does the work."""
    start = time.process_time()
    work()
    return time.process_time() - start


def reset_peak() -> float:
    """Forget the peak so far; the memory in use comes back, in bytes (Linux)."""
    Path("/proc/self/clear_refs").write_text("5")
    return _status("VmRSS")


def peak() -> float:
    """The most memory in use since `reset_peak`, in bytes."""
    return _status("VmHWM")


def _status(key: str) -> float:
    lines = Path("/proc/self/status").read_text().splitlines()
    return next(float(line.split()[1]) * 1024 for line in lines if line.startswith(key + ":"))


def ours(network: Any, *arguments: Any) -> Tensor:
    """The network's own pass."""
    return network(*arguments)


def plain(
    network: Any,
    context: Queries,
    values: Tensor,
    t: Tensor,
    embedding: ConditionEmbedding,
    queries: Queries,
    query_values: Tensor,
) -> Tensor:
    """The same function, straightforwardly."""
    c = network.time(t) if embedding.vector is None else network.time(t) + embedding.vector
    levels, x = [], None
    if network.start is None:
        x = plain_spatial(network.encoder, values) + network.places
        tokens = None
    else:
        x = network.latent.expand(len(values), -1, -1)
        tokens, _ = plain_tokens(network.encoder, context.coordinates, values)
    for index, layer in enumerate(network.all_layers(), start=0 if network.start is None else -1):
        if layer.read is not None:
            x = plain_block(layer.read, x, c, tokens, None)
        x = plain_block(layer.own, x, c, None, network.rope)
        if index in network.config.level_blocks:
            levels.append(x)
    q, value = plain_tokens(network.decoder.tokens, queries.coordinates, query_values)
    for block, level in zip(network.decoder.blocks, levels, strict=True):
        q = plain_block(block, q, c, level, None)
    shift, scale = network.decoder.modulation(F.silu(c))[:, None].chunk(2, -1)
    return F.linear(
        plain_modulate(torch.cat([q, value], -1), shift, scale),
        network.decoder.final.weight,
        network.decoder.final.bias,
    )


def plain_block(block: Any, x: Tensor, c: Tensor, source: Tensor | None, turns: Tensor | None) -> Tensor:
    """adaLN-Zero block."""
    shift, scale, gate, shift_mlp, scale_mlp, gate_mlp = block.modulation(F.silu(c))[:, None].chunk(6, -1)
    x = x + gate * plain_attention(block.attention, plain_modulate(x, shift, scale), source, turns)
    hidden = F.gelu(
        F.linear(plain_modulate(x, shift_mlp, scale_mlp), block.inner.weight, block.inner.bias), approximate="tanh"
    )
    return x + gate_mlp * F.linear(hidden, block.outer.weight, block.outer.bias)


def plain_attention(attention: Any, x: Tensor, source: Tensor | None, turns: Tensor | None) -> Tensor:
    """Attention with normed queries and keys."""
    size = (attention.heads, x.shape[-1] // attention.heads)
    if source is None:
        q, k, v = F.linear(x, attention.qkv.weight).chunk(3, -1)
    else:
        q = F.linear(x, attention.query.weight)
        k, v = F.linear(source, torch.cat([attention.key.weight, attention.value.weight])).chunk(2, -1)
    q = F.rms_norm(q.unflatten(-1, size), size[1:], attention.gains[0], 1e-6)
    k = F.rms_norm(k.unflatten(-1, size), size[1:], attention.gains[1], 1e-6)
    assert turns is None, "no case turns its latents"
    q, k, v = (part.transpose(1, 2) for part in (q, k, v.unflatten(-1, size)))
    return attention.out(F.scaled_dot_product_attention(q, k, v).transpose(1, 2).flatten(2))


def plain_modulate(x: Tensor, shift: Tensor, scale: Tensor) -> Tensor:
    """Layer norm, scale and shift."""
    return F.layer_norm(x, x.shape[-1:], eps=1e-6) * (1 + scale) + shift


def plain_projection(projection: Any, x: Tensor) -> Tensor:
    """Linear layer, layer norm, SiLU."""
    x = F.linear(x, projection.weight, projection.bias)
    return F.silu(F.layer_norm(x, x.shape[-1:], projection.gain, projection.shift))


def plain_tokens(tokens: Any, coordinates: Tensor | None, values: Tensor) -> tuple[Tensor, Tensor]:
    """Pairs as tokens, and their values without a position."""
    value = plain_projection(tokens.value, values)
    if tokens.moving_size is None:
        return value + tokens.fourier(coordinates), value
    coordinate = plain_projection(tokens.coordinate, tokens.fourier(values[..., : tokens.moving_size]))
    return plain_projection(tokens.join, torch.cat([coordinate, value], -1)), value


def plain_spatial(encoder: Any, values: Tensor) -> Tensor:
    """Each patch's learned query attends to its tokens, whose keys and values are all projected."""
    batch, latents, heads = len(values), encoder.latents, encoder.heads
    tokens = plain_projection(encoder.tokens.value, values[:, encoder.tile_pairs]) + encoder.tokens.fourier(
        encoder.offsets
    )
    bias = torch.cat([torch.zeros_like(encoder.value_bias), encoder.value_bias])
    k, v = F.linear(tokens, torch.cat([encoder.key, encoder.value]), bias).chunk(2, -1)  # [B L P W]
    k, v = (part.unflatten(-1, (heads, -1)).transpose(2, 3).flatten(0, 1) for part in (k, v))  # [B*L H P d]
    q = encoder.query(encoder.latent + encoder.middle).unflatten(-1, (heads, -1))[:, :, None]  # [L H 1 d]
    q = q.expand(batch, -1, -1, -1, -1).flatten(0, 1)
    x = F.scaled_dot_product_attention(q, k, v).reshape(batch, latents, -1)
    hidden = F.gelu(encoder.inner(F.layer_norm(x, x.shape[-1:], eps=1e-6)), approximate="tanh")
    return F.linear(hidden, encoder.outer.weight, encoder.outer.bias)


FORMS: dict[str, Callable[..., Tensor]] = {"ours": ours, "plain": plain}


if __name__ == "__main__":
    main()
