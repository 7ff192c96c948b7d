"""`inrflow train --dry-run`: what the run would take, here or on GPUs that are elsewhere."""

from __future__ import annotations

import os
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import typer

from inrflow_cli import console
from inrflow_core.errors import MissingError, OutOfMemory
from inrflow_core.runtime import units

if TYPE_CHECKING:
    from inrflow_core.planning.gpu_specs import Gpu
    from inrflow_core.planning.plan import Plan, Planner
    from inrflow_core.training.setup import CheckedTrainJob, TrainJob

SAFE_FRACTION = 0.95
"""Of a GPU's memory: a plan that takes more may not fit in truth."""
SMALL = 0.005
"""Seconds of a step below which starting its kernels takes longer than computing them."""


@dataclass(frozen=True)
class PlanRequest:
    """What is planned, and for what."""

    job: TrainJob
    planner: Planner
    micro: int
    gpu: Gpu | None
    """None is this machine."""
    ready: CheckedTrainJob | None
    """The run on this machine, where its shards are here."""
    is_here: bool = True
    """It is planned as it would begin on this machine by this very command."""


def predict(job: TrainJob, gpu: str | None, processes: int | None, *, as_json: bool) -> None:
    """Tell what the run would take; exit code 5 where that is not there.

    `fits` of the answer is null where nothing says what there is: several processes are planned, and no GPU is named.
    """
    asked = _asked(job, gpu, processes)
    plan = asked.planner.plan(asked.micro)
    _tell(asked, plan)
    answer = plan.table() | _cost(asked, plan)
    problem = None
    try:
        answer |= _fit(asked, plan)
    except OutOfMemory as error:
        problem = error
        console.error(problem)
        answer |= {"error": problem.message, "hint": problem.hint}
    is_known = plan.problem is None and (asked.gpu is not None or asked.is_here)
    console.print_json(answer | {"fits": problem is None if is_known else None}, as_json=as_json)
    if problem is not None:
        raise typer.Exit(int(problem.code))


def _asked(job: TrainJob, name: str | None, processes: int | None) -> PlanRequest:
    """The run and its place, with everything checked that is here to be checked."""
    import torch

    from inrflow_core.planning import gpu_specs
    from inrflow_core.planning.plan import Planner
    from inrflow_core.runtime import distributed
    from inrflow_core.runtime.device import choose_precision
    from inrflow_core.training import setup
    from inrflow_core.training.loader import split_batch

    gpu = None if name is None else gpu_specs.find(name)
    settings = job.preset.training.config
    has_data = _look_at_data(job)
    if gpu is None and processes is None and has_data:
        ready = setup.check_job(job, dict(os.environ))
        planner = setup.planner_of_largest(ready)
        return PlanRequest(job, planner, len(ready.places[0]), None, ready)
    here = distributed.find({} if processes or gpu else dict(os.environ), "cpu" if gpu else job.device)
    count = processes or here.size
    device = torch.device("cuda") if gpu else here.device
    place = distributed.World(0, count, 0, device, count > 1)
    precision = choose_precision(settings.precision, device) if gpu is None else gpu.choose(settings.precision)
    micro = len(split_batch(batch=settings.batch, rank=0, size=count, micro=settings.micro_batch)[0])
    return PlanRequest(job, Planner(job.preset, place, precision), micro, gpu, None, gpu is None and processes is None)


def _look_at_data(job: TrainJob) -> bool:
    """Whether the shards are here; they are then those of the preset."""
    from inrflow_core.training import data

    try:
        data.open_data(job.preset, job.data)
    except MissingError as error:
        console.info(f"{error.message}; the plan is made without them, from what the preset says of its sets")
        return False
    return True


def _tell(asked: PlanRequest, plan: Plan) -> None:
    """The tables, and the cost in words."""
    from inrflow_core.planning.plan import row_title

    console.table(["parameters", "count"], [*plan.parameters.items(), ("all", plan.total_parameters)])
    if plan.problem is not None:
        console.info(f"memory, FLOPs and time are unknown: the loss cannot be traced ({plan.problem})")
        console.info(_checkpoints(plan))
        return
    parts = [(part, f"{count:.3g}", f"{plan.executed.get(part, 0):.3g}") for part, count in plan.flops.items()]
    total = ("all", f"{plan.total_flops:.3g}", f"{sum(plan.executed.values()):.3g}")
    console.table(["FLOPs of a step, all processes", "needed", "executed"], [*parts, total])
    rows = [
        (row_title(row), units.format_bytes(count), units.format_bytes(plan.most[row]))
        for row, count in plan.memory.items()
    ]
    console.table(
        ["memory of a process", "at the peak", "at its own most"],
        [*rows, ("all", units.format_bytes(plan.total_memory), "")],
    )
    for line in _words(asked, plan):
        console.info(line)


def _words(asked: PlanRequest, plan: Plan) -> list[str]:
    """Time and cost, and what they assume."""
    cost, settings = _cost(asked, plan), asked.job.preset.training.config
    count, precision, gpu = cost["processes"], cost["precision"], asked.gpu
    seconds = cost["seconds_per_step"]
    if gpu is None:
        how = f"at the {cost['rate'] / 1e9:,.0f} GFLOP/s that a matrix product reaches here in {precision}"
        least, unit = "at least ", f"{count} x {asked.planner.world.device}"
    else:
        how = (
            f"assumed: {gpu.assumed_mfu(precision):.0%} of the {gpu.peak(precision) / 1e12:,.0f} TFLOP/s that the data sheet "
            f"says of {precision}, and no waiting for data or for other GPUs"
        )
        if seconds < SMALL:
            how += "; so small a step takes longer, for a CPU must start its kernels"
        least, unit = "", f"{count} x {gpu.name}"
    per_second = settings.batch / seconds
    step = units.format_duration(seconds) if seconds >= 10 else f"{seconds:.3g} s"
    return [
        f"on {unit} in {precision}, micro-batches of {asked.micro}, ZeRO stage {settings.zero_stage}",
        f"a step takes {least}{step} ({per_second:,.3g} sets/s), {settings.steps:,} steps of {settings.batch} sets "
        f"{units.format_duration(seconds * settings.steps)}: {how}",
        f"the run sees {cost['samples']:,} sets and costs {cost['gpu_hours']:,.0f} {'GPU' if _on_gpu(asked) else 'processor'}-hours",
        _checkpoints(plan),
    ]


def _checkpoints(plan: Plan) -> str:
    return f"a checkpoint takes {units.format_bytes(plan.checkpoint)}, all of them {units.format_bytes(plan.disk)}"


def _on_gpu(asked: PlanRequest) -> bool:
    return asked.planner.world.device.type == "cuda"


def _cost(asked: PlanRequest, plan: Plan) -> dict[str, Any]:
    """Seconds and hours, and what they are computed from; both are None where the plan's FLOPs are unknown."""
    settings, world = asked.job.preset.training.config, asked.planner.world
    precision, gpu = asked.planner.precision, asked.gpu
    if gpu is None:
        rate = _measured(asked)
        seconds = sum(plan.executed.values()) / (rate * world.size)
    else:
        rate, seconds = gpu.rate(precision), plan.seconds(gpu, precision, world.size)
    return {
        "precision": precision,
        "processes": world.size,
        "micro_batch": asked.micro,
        "zero_stage": settings.zero_stage,
        "gpu": None if gpu is None else vars(gpu) | {"share": gpu.assumed_mfu(precision)},
        "rate": rate,
        "seconds_per_step": None if plan.problem else seconds,
        "steps": settings.steps,
        "samples": settings.steps * settings.batch,
        "gpu_hours": None if plan.problem else seconds * settings.steps * world.size / 3600,
    }


def _measured(asked: PlanRequest, found: dict[str, float] = {}) -> float:  # noqa: B006, measured once
    """The rate of a matrix product on this machine."""
    from inrflow_core.planning import checks

    key = f"{asked.planner.world.device} {asked.planner.precision}"
    if key not in found:
        found[key] = checks.measure_rate(asked.planner.world.device, asked.planner.precision)
    return found[key]


def _fit(asked: PlanRequest, plan: Plan) -> dict[str, Any]:
    """Memory in each ZeRO stage, where the run fits; on this machine nothing beside its fitting.

    Raises:
        OutOfMemory: it does not fit; says by how much, and what would.
    """
    from inrflow_core.planning import advice
    from inrflow_core.planning.checks import check_disk, check_memory
    from inrflow_core.training import setup

    planner, micro = asked.planner, asked.micro
    if asked.gpu is None:
        if asked.ready is not None:
            setup.check_resources(asked.ready)
        elif asked.is_here:
            check_disk(plan, asked.job.out, 0)
            check_memory(plan, planner.world, lambda free: advice.find(planner, micro, free).hint())
        return {}
    if plan.problem is not None:
        return {}
    room, name = asked.gpu.memory, asked.gpu.name
    stages = advice.stages(planner, micro)
    rows = [(stage, units.format_bytes(memory), "yes" if memory <= room else "no") for stage, memory in stages.items()]
    console.table(["ZeRO stage", "memory of a process", "fits"], rows)
    if plan.total_memory > room:
        raise OutOfMemory(
            f"a process needs about {units.format_bytes(plan.total_memory)}, and {name} has {units.format_bytes(room)}: "
            f"{units.format_bytes(plan.total_memory - room)} too little",
            hint=advice.find(planner, micro, room).hint(),
        )
    how = (
        "it fits" if plan.total_memory <= SAFE_FRACTION * room else "it fits barely, by numbers that are partly assumed"
    )
    console.info(f"{how}: {units.format_bytes(plan.total_memory)} of {units.format_bytes(room)}")
    return {"stages": stages}
