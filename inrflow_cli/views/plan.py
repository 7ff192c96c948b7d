"""`inrflow train --dry-run`: memory, time and disk of a run, on this machine or on another GPU."""

from __future__ import annotations

import os
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import cache
from typing import TYPE_CHECKING, Any

import typer

from inrflow_cli import console
from inrflow_cli.views import launch
from inrflow_core.errors import MissingError, OutOfMemory
from inrflow_core.runtime.progress import format_bytes, format_duration

if TYPE_CHECKING:
    import numpy as np
    import torch

    from inrflow_core.config.training import Config
    from inrflow_core.planning.gpu_specs import Gpu
    from inrflow_core.planning.plan import Plan, Planner
    from inrflow_core.runtime.distributed import World
    from inrflow_core.training.setup import CheckedTrainJob, TrainJob

SAFE_FRACTION = 0.95
"""Fraction of a GPU's memory above which a plan fits only barely."""
SMALL = 0.005
"""Seconds of a step below which launching its kernels takes longer than running them."""


@dataclass(frozen=True)
class StagePlan:
    """The plan of one training stage."""

    name: str
    settings: Config
    planner: Planner
    micro: int
    plan: Plan
    optimizers: list[str]
    """The names of its optimizers."""


@dataclass(frozen=True)
class RunPlan:
    """The plan of a run: all of its stages, and the machine that they are planned for."""

    job: TrainJob
    stages: list[StagePlan]
    gpu: Gpu | None
    """None is this machine."""
    ready: CheckedTrainJob | None
    """The checked run, if its shards are on this machine."""
    is_here: bool
    """Planned for this machine, with the processes that this command would train with."""
    num_sets: int | None
    """Training and held-out sets; None if the shards are not on this machine."""

    @property
    def largest(self) -> StagePlan:
        """The stage that takes the most memory."""
        return max(self.stages, key=lambda stage: stage.plan.total_memory)

    @property
    def precomputed_bytes(self) -> int:
        """Bytes of the inputs that later stages read of earlier ones: of all sets, or of one if `num_sets` is None."""
        per_set = sum(stage.planner.precomputed_bytes for stage in self.stages)
        return per_set * (1 if self.num_sets is None else self.num_sets)

    @property
    def is_traced(self) -> bool:
        """Whether memory and time of every stage are known."""
        return all(stage.plan.problem is None for stage in self.stages)


def predict(job: TrainJob, gpu: str | None, processes: int | None, *, command: Sequence[str], as_json: bool) -> None:
    """Print memory, time and disk of a run, and the lines that launch `command`; exit code 5 if it does not fit.

    The JSON object describes the stage that takes the most memory, and in `training_stages` each of several stages. Its
    `steps`, `samples` and `gpu_hours` are those of all stages. `fits` is null if the memory there is is unknown: several
    processes are planned without `--plan-for`, or a loss cannot be traced.
    """
    run = _plan(job, gpu, processes)
    console.result(_verdict(run))
    costs = [_cost(run, stage) for stage in run.stages]
    for stage, cost in zip(run.stages, costs, strict=True):
        if len(run.stages) > 1:
            console.result(f"stage `{stage.name}`: {stage.settings.steps:,} steps")
        _show(run, stage, cost)
    answer = run.largest.plan.table() | costs[run.stages.index(run.largest)] | _total(costs)
    if len(run.stages) > 1:
        _show_total(run, costs, answer)
        each = zip(run.stages, costs, strict=True)
        answer["training_stages"] = [{"name": stage.name} | stage.plan.table() | cost for stage, cost in each]
    if run.precomputed_bytes:
        console.result(_precomputed(run))
        answer["precomputed"] = None if run.num_sets is None else run.precomputed_bytes
    problem = None
    answer["micro_batches"] = _micro_batches(run)
    try:
        answer |= _fit(run)
        answer["launch"] = launch.launch_lines(command, run.largest.planner.world)
        launch.show_launch_lines(answer["launch"])
        _note_consent(run, costs)
    except OutOfMemory as error:
        problem = error
        console.error(problem)
        answer |= {"error": problem.message, "hint": problem.hint}
    is_known = run.is_traced and (run.gpu is not None or run.is_here)
    console.print_json(answer | {"fits": problem is None if is_known else None}, as_json=as_json)
    if problem is not None:
        raise typer.Exit(int(problem.code))


def _note_consent(run: RunPlan, costs: Sequence[Mapping[str, Any]]) -> None:
    """Say that `train` asks for `--yes` on this CPU, where it does: for the steps that are left."""
    from inrflow_core.training import time_estimate

    if run.gpu is not None or run.largest.planner.world.device.type != "cpu" or not run.is_traced:
        return
    counts, ready = [cost["steps"] for cost in costs], run.ready
    if ready is not None:
        counts = time_estimate.remaining_steps(ready.stages, ready.done, ready.last)
    each = zip(costs, counts, strict=True)
    if sum(cost["seconds_per_step"] * count for cost, count in each) > time_estimate.LONG_ON_CPU:
        console.result("on a CPU that is more than three days, for which `train` asks for `--yes`")


def _verdict(run: RunPlan) -> str:
    """The answer first, before the tables: the memory that the largest stage needs, and the memory there is."""
    plan = run.largest.plan
    if plan.problem is not None:
        return "memory: unknown"
    needed = f"memory of a process: {format_bytes(plan.total_memory)} needed"
    there = _capacity(run)
    if there is None:
        return needed
    where = "free" if run.gpu is None else f"on {run.gpu.name}"
    return f"{needed}, {format_bytes(there)} {where}: {'enough' if plan.total_memory <= there else 'too little'}"


def _capacity(run: RunPlan) -> float | None:
    """The bytes that a process may take; None if they are unknown."""
    from inrflow_core.runtime import memory

    if run.gpu is not None:
        return run.gpu.memory
    world = run.largest.planner.world
    there = memory.free_memory(world.device) if run.is_here else None
    is_shared = world.device.type == "cpu"  # the processes of a machine share its memory
    return there // world.local_size if there is not None and is_shared else there


def _micro_batches(run: RunPlan) -> list[dict[str, Any]]:
    """Other micro-batches of the stage that takes the most memory, also as a table; none if its memory is unknown."""
    stage = run.largest
    if stage.plan.problem is not None:
        return []
    rows = launch.micro_batches(
        stage.planner, stage.micro, _capacity(run), lambda plan: _seconds(run, stage.planner, plan)
    )
    if len(rows) > 1:
        launch.show_micro_batches(rows)
    return rows


def _plan(job: TrainJob, name: str | None, processes: int | None) -> RunPlan:
    """Check everything that can be checked here, and plan each stage."""
    import torch

    from inrflow_core.planning import gpu_specs
    from inrflow_core.runtime import distributed
    from inrflow_core.runtime.device import choose_precision
    from inrflow_core.training import setup

    gpu = None if name is None else gpu_specs.find(name)
    num_sets, sizes = _find_sets(job)
    if gpu is None and processes is None and num_sets is not None:
        ready = setup.check_job(job, dict(os.environ))
        return RunPlan(
            job, _stages(job, ready.world, ready.precision, sizes), None, ready, is_here=True, num_sets=num_sets
        )
    here = distributed.find({} if processes or gpu else dict(os.environ), "cpu" if gpu else job.device)
    count = processes or here.size
    device = torch.device("cuda") if gpu else here.device
    world = distributed.World(0, count, 0, device, count > 1)
    precision = job.preset.training.config.precision
    equal = job.preset.domain.module.Domain(job.preset.domain.config).shape.has_equal_sizes
    precision = choose_precision(precision, device, has_equal_sizes=equal) if gpu is None else gpu.choose(precision)
    is_here = gpu is None and processes is None
    return RunPlan(job, _stages(job, world, precision, sizes), gpu, None, is_here=is_here, num_sets=num_sets)


def _stages(job: TrainJob, world: World, precision: str, sizes: np.ndarray | None) -> list[StagePlan]:
    """The plan of each stage for this process of `world`, for sets of these sizes, None for those of the preset."""
    from inrflow_core.planning.plan import optimizer_names
    from inrflow_core.training import planned_sizes, stages
    from inrflow_core.training.loader import split_batch

    plans = []
    for stage in job.preset.stages:
        preset = stages.preset_of(job.preset, stage.name)
        settings = preset.training.config
        micro = len(split_batch(batch=settings.batch, rank=world.rank, size=world.size, micro=settings.micro_batch)[0])
        plan, planner = planned_sizes.predict_with_planner(
            preset, sizes, world, precision=precision, micro=micro, stage=stage
        )
        names = optimizer_names(job.preset.training.config, stage)
        plans.append(StagePlan(stage.name, settings, planner, micro, plan, names))
    return plans


def _find_sets(job: TrainJob) -> tuple[int | None, np.ndarray | None]:
    """The number of training and held-out sets in the shards, which are those of the preset, None without shards; and the
    sizes of the training sets, None where they are equal or unknown."""
    from inrflow_core.training import data

    try:
        loader, held_out = data.open_data(job.preset, job.data)
    except MissingError as error:
        console.info(f"{error.message}; the plan is made without them, from what the preset says of its sets")
        return None, None
    return len(loader) + len(held_out or ()), loader.sizes()


def _show(run: RunPlan, stage: StagePlan, cost: Mapping[str, Any]) -> None:
    """The tables of a stage, and its time and cost in words."""
    from inrflow_core.planning.plan import row_title

    plan = stage.plan
    console.table(["parameters", "count"], [*plan.parameters.items(), ("all", plan.total_parameters)])
    if plan.problem is not None:
        console.result(f"memory, FLOPs and time are unknown: the loss cannot be traced ({plan.problem})")
        console.result(_checkpoints(plan))
        return
    parts = [(part, f"{count:.3g}", f"{plan.executed.get(part, 0):.3g}") for part, count in plan.flops.items()]
    total = ("all", f"{plan.total_flops:.3g}", f"{sum(plan.executed.values()):.3g}")
    console.table(["FLOPs of a step, all processes", "needed", "executed"], [*parts, total])
    rows = [
        (row_title(row, stage.optimizers), format_bytes(count), format_bytes(plan.most[row]))
        for row, count in plan.memory.items()
    ]
    console.table(
        ["memory of a process", "at the peak", "at its own most"],
        [*rows, ("all", format_bytes(plan.total_memory), "")],
    )
    for line in _words(run, stage, cost):
        console.result(line)


def _show_total(run: RunPlan, costs: Sequence[Mapping[str, Any]], total: Mapping[str, Any]) -> None:
    """One line for each of several stages, and all together: the largest memory decides, times add up."""
    rows = []
    for stage, cost in zip(run.stages, costs, strict=True):
        known = stage.plan.problem is None
        memory = format_bytes(stage.plan.total_memory) if known else "unknown"
        time = format_duration(cost["seconds_per_step"] * cost["steps"]) if known else "unknown"
        rows.append((stage.name, f"{cost['steps']:,}", memory, time))
    memory = format_bytes(run.largest.plan.total_memory) if run.is_traced else "unknown"
    time = format_duration(total["gpu_hours"] * 3600 / total["processes"]) if run.is_traced else "unknown"
    console.table(
        ["stage", "steps", "memory of a process", "time"], [*rows, ("all", f"{total['steps']:,}", memory, time)]
    )


def _words(run: RunPlan, stage: StagePlan, cost: Mapping[str, Any]) -> list[str]:
    """Time and cost of a stage, and what they assume."""
    settings = stage.settings
    count, precision, gpu = cost["processes"], cost["precision"], run.gpu
    seconds = cost["seconds_per_step"]
    if gpu is None:
        how = f"at the {cost['rate'] / 1e9:,.0f} GFLOP/s that a matrix product reaches here in {precision}"
        least, unit = "at least ", f"{count} x {stage.planner.world.device}"
    else:
        how = (
            f"assumed: {gpu.assumed_mfu(precision):.0%} of the {gpu.peak(precision) / 1e12:,.0f} TFLOP/s that the data sheet "
            f"says of {precision}, and no waiting for data or for other GPUs"
        )
        if seconds < SMALL:
            how += "; so small a step takes longer, for a CPU must start its kernels"
        least, unit = "", f"{count} x {gpu.name}"
    per_second = settings.batch / seconds
    step = format_duration(seconds) if seconds >= 10 else f"{seconds:.3g} s"
    what = "run" if len(run.stages) == 1 else "stage"
    processor = "GPU" if stage.planner.world.device.type == "cuda" else "processor"
    needed = (
        ""
        if gpu is None
        else f"; {_hours(cost['needed_gpu_hours'])} by the FLOPs needed alone, which `inrflow presets` counts in bf16"
    )
    return [
        f"on {unit} in {precision}, micro-batches of {stage.micro}, ZeRO stage {settings.zero_stage}",
        f"a step takes {least}{step} ({per_second:,.3g} sets/s), {settings.steps:,} steps of {settings.batch} sets "
        f"{format_duration(seconds * settings.steps)}: {how}",
        f"the {what} sees {cost['samples']:,} sets and costs {_hours(cost['gpu_hours'])} {processor}-hours{needed}",
        _checkpoints(stage.plan),
    ]


def _hours(hours: float) -> str:
    return f"{hours:,.0f}" if hours >= 100 else f"{hours:.3g}"


def _checkpoints(plan: Plan) -> str:
    return f"a checkpoint takes {format_bytes(plan.checkpoint)}, all of them {format_bytes(plan.disk)}"


def _precomputed(run: RunPlan) -> str:
    """The disk that precomputed inputs take, as text."""
    size = format_bytes(run.precomputed_bytes)
    if run.num_sets is None:
        return f"the inputs that later stages precompute take {size} of disk per set, and the number of sets is unknown"
    return f"the inputs that later stages precompute take {size} of disk"


def _cost(run: RunPlan, stage: StagePlan) -> dict[str, Any]:
    """Seconds and hours of a stage, and what they are computed from; both are None if its FLOPs are unknown.

    `gpu_hours` are of what a step executes, `needed_gpu_hours` of the FLOPs needed alone: without recomputation and updates.
    """
    settings, plan, gpu = stage.settings, stage.plan, run.gpu
    world, precision = stage.planner.world, stage.planner.precision
    rate = _measured_rate(world.device, precision) if gpu is None else gpu.rate(precision)
    seconds = _seconds(run, stage.planner, plan)
    return {
        "precision": precision,
        "processes": world.size,
        "micro_batch": stage.micro,
        "zero_stage": settings.zero_stage,
        "gpu": None if gpu is None else vars(gpu) | {"share": gpu.assumed_mfu(precision)},
        "rate": rate,
        "seconds_per_step": None if plan.problem else seconds,
        "steps": settings.steps,
        "samples": settings.steps * settings.batch,
        "gpu_hours": None if plan.problem else seconds * settings.steps * world.size / 3600,
        "needed_gpu_hours": None if plan.problem else plan.total_flops * settings.steps / rate / 3600,
    }


def _seconds(run: RunPlan, planner: Planner, plan: Plan) -> float:
    """Seconds of a step: by the rate of a matrix product on this machine, or by the data sheet of the GPU."""
    from inrflow_core.planning import checks

    world, precision = planner.world, planner.precision
    if run.gpu is not None:
        return plan.seconds(run.gpu, precision, world.size)
    return checks.step_seconds(plan, lambda each: _measured_rate(world.device, each), precision, world.size)


def _total(costs: Sequence[Mapping[str, Any]]) -> dict[str, Any]:
    """Steps, samples and hours of all stages; hours are None if those of a stage are."""

    def hours(name: str) -> float | None:
        each = [cost[name] for cost in costs]
        return None if None in each else sum(each)

    return {
        "steps": sum(cost["steps"] for cost in costs),
        "samples": sum(cost["samples"] for cost in costs),
        **{name: hours(name) for name in ("gpu_hours", "needed_gpu_hours")},
    }


@cache
def _measured_rate(device: torch.device, precision: str) -> float:
    """The rate of a matrix product on this machine."""
    from inrflow_core.planning import checks

    return checks.measure_rate(device, precision)


def _fit(run: RunPlan) -> dict[str, Any]:
    """Memory in each ZeRO stage of the largest training stage, for a GPU that it fits on; on this machine, nothing.

    Raises:
        OutOfMemory: the run does not fit; says by how much, and what would.
    """
    from inrflow_core.planning import advice
    from inrflow_core.planning.checks import check_disk, check_memory
    from inrflow_core.training import setup

    plan, planner, micro = run.largest.plan, run.largest.planner, run.largest.micro
    if run.gpu is None:
        if run.ready is not None:
            setup.check_resources(run.ready)
        elif run.is_here:
            check_disk(max((stage.plan for stage in run.stages), key=lambda each: each.disk), run.job.out, 0)
            check_memory(plan, planner.world, lambda free: advice.find(planner, micro, free, is_exact=False).hint())
        return {}
    if plan.problem is not None:
        return {}
    capacity, name = run.gpu.memory, run.gpu.name
    stages = advice.stages(planner, micro)
    rows = [(stage, format_bytes(memory), "yes" if memory <= capacity else "no") for stage, memory in stages.items()]
    console.table(["ZeRO stage", "memory of a process", "fits"], rows)
    if plan.total_memory > capacity:
        raise OutOfMemory(
            f"a process needs about {format_bytes(plan.total_memory)}, and {name} has {format_bytes(capacity)}: "
            f"{format_bytes(plan.total_memory - capacity)} too little",
            hint=advice.find(planner, micro, capacity).hint(),
        )
    how = (
        "it fits"
        if plan.total_memory <= SAFE_FRACTION * capacity
        else "it fits barely, by numbers that are partly assumed"
    )
    console.result(f"{how}: {format_bytes(plan.total_memory)} of {format_bytes(capacity)}")
    return {"stages": stages}
