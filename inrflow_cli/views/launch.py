"""What follows a plan: memory and time of other micro-batches, and the command lines that start the planned run."""

from __future__ import annotations

import shlex
from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING, Any

from inrflow_cli import console
from inrflow_core.runtime.progress import format_bytes, format_duration

if TYPE_CHECKING:
    from inrflow_core.planning.plan import Plan, Planner
    from inrflow_core.runtime.distributed import World


def micro_batches(
    planner: Planner, micro: int, capacity: float | None, seconds: Callable[[Plan], float]
) -> list[dict[str, Any]]:
    """Memory and seconds of a step with other micro-batches, without and with recomputation of activations, by formula.

    They are those of `shown_counts`. `fits` is yes, no, or barely where the error of the formula could change it; None if the
    memory there is is unknown.
    """
    from inrflow_core.planning import advice

    share = planner.preset.training.config.batch // planner.world.size
    can_recompute = planner.can_checkpoint and not planner.is_checkpointed and planner.has_formula

    def row(count: int, error: float, **settings: Any) -> dict[str, Any]:
        plan = planner.plan(count, is_scaled=True, **settings)
        fits = None if capacity is None else _fits(plan.total_memory, capacity, error)
        return {"memory": plan.total_memory, "fits": fits, "seconds_per_step": seconds(plan)}

    rows = []
    for count in shown_counts(share, micro):
        own = {"micro_batch": count} | row(count, 0.0 if count == micro else advice.SCALED)
        rows.append(own | ({"recomputed": row(count, advice.NEAR, checkpointed=True)} if can_recompute else {}))
    return rows


def shown_counts(share: int, micro: int) -> list[int]:
    """Micro-batches of the table, the largest first: the next one above `micro`, `micro`, and on to 1 the largest that is at most half
    of the one before; all divide the `share` of a process. Of a power of two these are all smaller ones."""
    from inrflow_core.config.training import divisors

    counts = sorted(divisors(share), reverse=True)
    shown = counts[max(0, counts.index(micro) - 1) : counts.index(micro) + 1]
    while shown[-1] > 1:
        shown.append(next(count for count in counts if 2 * count <= shown[-1]))
    return shown


def show_micro_batches(rows: Sequence[dict[str, Any]]) -> None:
    """The table of `micro_batches`; recomputed is `--set network.checkpoint_activations=true`."""
    columns = ["micro-batch", "memory", "fits", "a step"]
    is_recomputed = any("recomputed" in row for row in rows)
    if is_recomputed:
        columns += ["recomputed: memory", "fits", "a step"]
    cells = []
    for row in rows:
        line: list[Any] = [row["micro_batch"], *_cells(row)]
        cells.append(line + (_cells(row["recomputed"]) if is_recomputed else []))
    console.table(columns, cells)


def launch_lines(command: Sequence[str], world: World) -> dict[str, str]:
    """The command lines that start a run on the processes of a plan: by torchrun and by srun in a Slurm job; of one process the command."""
    from inrflow_core.planning.zero_memory import PER_MACHINE

    per_machine = max(n for n in range(1, PER_MACHINE + 1) if world.size % n == 0)
    machines, text = world.size // per_machine, shlex.join(command)
    if world.size == 1:
        return {"command": text}
    if machines > 1:
        meeting = f"--nnodes {machines} --nproc-per-node {per_machine} --rdzv-backend c10d --rdzv-endpoint HOST:29500 --rdzv-id 7"
    else:
        meeting = f"--standalone --nproc-per-node {per_machine}"
    gpus = f" --gpus-per-node={per_machine}" if world.device.type == "cuda" else ""
    return {
        "torchrun": f"torchrun {meeting} --no-python {text}",
        "slurm": f"srun --nodes={machines} --ntasks-per-node={per_machine}{gpus} --kill-on-bad-exit=1 {text}",
    }


def show_launch_lines(lines: dict[str, str]) -> None:
    """The lines of `launch_lines`, and what they need."""
    if "command" in lines:
        console.result(f"to start it:\n  {lines['command']}")
        return
    several = " (on every machine; HOST is one of them)" if "HOST" in lines["torchrun"] else ""
    console.result(f"to launch it{several}:\n  {lines['torchrun']}\nor in a Slurm job:\n  {lines['slurm']}")


def _fits(memory: float, capacity: float, error: float) -> str:
    if (1 + error) * memory <= capacity:
        return "yes"
    return "barely" if (1 - error) * memory <= capacity else "no"


def _cells(row: dict[str, Any]) -> list[str]:
    seconds = row["seconds_per_step"]
    time = format_duration(seconds) if seconds >= 10 else f"{seconds:.3g} s"
    return [format_bytes(row["memory"]), row["fits"] or "unknown", time]
