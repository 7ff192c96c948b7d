"""Which processes train together, on which device, with which arithmetic: found out before anything heavy starts."""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

import torch

from inrflow_core.errors import UsageError


@dataclass(frozen=True)
class World:
    """This process among those that train together."""

    rank: int
    size: int
    local_rank: int
    device: torch.device
    is_launched: bool
    """Started by a launcher (torchrun, deepspeed, srun); else this process is alone."""
    address: tuple[str, int] | None = None
    """Host and port at which launched processes meet."""
    local_size: int = 1
    """Processes on this machine, where the launcher tells."""

    @property
    def leads(self) -> bool:
        """This is the process that writes and tells."""
        return self.rank == 0


def find(environment: Mapping[str, str], device: str | None = None) -> World:
    """This process's place, from what torchrun, the deepspeed launcher or srun put into the environment.

    Raises:
        UsageError: the device is not there, or a launcher left out where to meet.
    """
    names = named(environment)
    meeting = address(names)
    if "RANK" not in names or int(names.get("WORLD_SIZE", "1")) == 1:
        return World(0, 1, 0, choose_device(device, None), "RANK" in names, meeting)
    local_rank = int(names.get("LOCAL_RANK", "0"))
    if meeting is None:
        raise UsageError(
            "the launcher set RANK but neither MASTER_ADDR nor MASTER_PORT",
            hint="start with `torchrun --standalone --nproc-per-node N --no-python inrflow train ...`",
        )
    place = choose_device(device, local_rank)
    together = int(names.get("LOCAL_WORLD_SIZE", "1"))
    return World(int(names["RANK"]), int(names["WORLD_SIZE"]), local_rank, place, True, meeting, together)


def named(environment: Mapping[str, str]) -> Mapping[str, str]:
    """A launcher's variables in torchrun's words: RANK, WORLD_SIZE and so on; none of them in a process alone."""
    return environment if "RANK" in environment else _from_slurm(environment)


def address(names: Mapping[str, str]) -> tuple[str, int] | None:
    """Host and port at which the processes meet; None where the launcher names neither."""
    if "MASTER_ADDR" not in names or "MASTER_PORT" not in names:
        return None
    return names["MASTER_ADDR"], int(names["MASTER_PORT"])


def choose_device(name: str | None, local_rank: int | None) -> torch.device:
    """The device asked for, else a GPU where there is one; launched processes take one GPU each.

    Raises:
        UsageError: there is no such device.
    """
    name = name or ("cuda" if torch.cuda.is_available() else "cpu")
    try:
        device = torch.device(name)
    except RuntimeError as error:
        raise UsageError(f"`{name}` is no device", hint="`cpu`, `cuda` or `cuda:N`") from error
    if device.type == "cpu":
        return torch.device("cpu")
    if device.type != "cuda" or not torch.cuda.is_available():
        raise UsageError(f"the device `{name}` is not there", hint="`--device cpu` always works")
    index = local_rank if local_rank is not None else (device.index or 0)
    if index >= torch.cuda.device_count():
        raise UsageError(
            f"the device `cuda:{index}` is not there: this machine shows {torch.cuda.device_count()}",
            hint="start as many processes per machine as it has GPUs, each of which sees all of them (with Slurm "
            "`--gpus-per-node`, not `--gpus-per-task`)",
        )
    return torch.device("cuda", index)


def choose_precision(wanted: str, device: torch.device, recorded: str | None = None) -> str:
    """`bf16` or `fp32`: what the preset asks for, else what the run began with, else bf16 where it is quick.

    bf16 on a CPU is a matter of the CPU: with AVX-512 bf16 or AMX it doubles the speed, without them the same program
    runs 80 times slower. So the capability decides, never a timing.

    Raises:
        UsageError: bf16 is asked for, or the run was begun in it, and this device does not compute it.
    """
    able = has_bf16(device)
    chosen = recorded or (wanted if wanted != "auto" else ("bf16" if able else "fp32"))
    if chosen == "bf16" and not able:
        reason = "the run was begun in bf16" if recorded else "`precision` is bf16"
        raise UsageError(
            f"{reason}, and this {device.type} has no bf16 arithmetic (on a CPU: AVX-512 bf16 or AMX)",
            hint="start a run with `--precision fp32`, or train on another device",
        )
    return chosen


def has_bf16(device: torch.device, cpuinfo: Path = Path("/proc/cpuinfo")) -> bool:
    """Whether the device computes bf16 in hardware."""
    if device.type == "cuda":
        return torch.cuda.get_device_capability(device) >= (8, 0)
    text = cpuinfo.read_text(encoding="utf-8", errors="replace") if cpuinfo.is_file() else ""
    return bool(re.search(r"\b(avx512_bf16|amx_bf16|bf16)\b", text))


def _from_slurm(environment: Mapping[str, str]) -> dict[str, str]:
    """srun's names in torchrun's words; empty outside a step of several tasks."""
    if int(environment.get("SLURM_STEP_NUM_TASKS", "1")) < 2 or "SLURM_PROCID" not in environment:
        return {}
    job = int(environment.get("SLURM_JOB_ID", "0"))
    return {
        "RANK": environment["SLURM_PROCID"],
        "WORLD_SIZE": environment["SLURM_STEP_NUM_TASKS"],
        "LOCAL_RANK": environment.get("SLURM_LOCALID", "0"),
        "MASTER_ADDR": environment.get("MASTER_ADDR", _first_host(environment.get("SLURM_STEP_NODELIST", "localhost"))),
        "MASTER_PORT": environment.get("MASTER_PORT", str(20000 + job % 20000)),
    }


def _first_host(nodes: str) -> str:
    """The first of Slurm's host list: `gpu[007-010,012],x` begins with `gpu007`."""
    match = re.match(r"([^,\[]+)(?:\[(\d+))?", nodes)
    return match[1] + (match[2] or "") if match else nodes
