"""Find the rank, world size and device of this process."""

from __future__ import annotations

import os
import re
from collections.abc import Mapping
from dataclasses import dataclass

import torch

from inrflow_core.errors import UsageError
from inrflow_core.runtime.device import choose_device


@dataclass(frozen=True)
class World:
    """This process among those that train together."""

    rank: int
    size: int
    local_rank: int
    device: torch.device
    is_launched: bool
    """Whether a launcher (torchrun, deepspeed, srun) started this process."""
    address: tuple[str, int] | None = None
    """Host and port at which launched processes meet."""
    local_size: int = 1
    """Processes on this machine, if the launcher sets it."""

    @property
    def is_main(self) -> bool:
        """Whether this is the process of rank 0, which writes files and prints."""
        return self.rank == 0


def find(environment: Mapping[str, str], device: str | None = None) -> World:
    """This process's rank and device, from the environment variables of torchrun, the deepspeed launcher or srun.

    Raises:
        UsageError: the device does not exist, or the launcher did not set the address.
    """
    names = torchrun_variables(environment)
    meeting = address(names)
    if "RANK" not in names or _number(names, "WORLD_SIZE", 1) == 1:
        return World(0, 1, 0, choose_device(device, None), "RANK" in names, meeting)
    local_rank = _number(names, "LOCAL_RANK", 0)
    if meeting is None:
        raise UsageError(
            "the launcher set RANK but neither MASTER_ADDR nor MASTER_PORT",
            hint="start with `torchrun --standalone --nproc-per-node N --no-python inrflow train ...`",
        )
    own_device = choose_device(device, local_rank)
    local_size = _number(names, "LOCAL_WORLD_SIZE", 1)
    rank, size = _number(names, "RANK"), _number(names, "WORLD_SIZE")
    if rank >= size:
        raise UsageError(
            f"the launcher set the rank {rank} of {size} processes", hint="ranks are below the number of processes"
        )
    return World(rank, size, local_rank, own_device, True, meeting, local_size)


def process_device(name: str | None = None) -> str:
    """The device `name`, else a GPU if there is one; the processes of a launcher take one GPU each.

    Raises:
        UsageError: the device does not exist.
    """
    return str(find(os.environ, name).device)


def torchrun_variables(environment: Mapping[str, str]) -> Mapping[str, str]:
    """A launcher's variables under torchrun's names: RANK, WORLD_SIZE and so on; absent without a launcher."""
    return environment if "RANK" in environment else _from_slurm(environment)


def address(names: Mapping[str, str]) -> tuple[str, int] | None:
    """Host and port at which the processes meet; None if they are not set."""
    if "MASTER_ADDR" not in names or "MASTER_PORT" not in names:
        return None
    return names["MASTER_ADDR"], _number(names, "MASTER_PORT")


def _from_slurm(environment: Mapping[str, str]) -> dict[str, str]:
    """srun's variables under torchrun's names; empty outside a step of several tasks."""
    if _number(environment, "SLURM_STEP_NUM_TASKS", 1) < 2 or "SLURM_PROCID" not in environment:
        return {}
    job = _number(environment, "SLURM_JOB_ID", 0)
    return {
        "RANK": environment["SLURM_PROCID"],
        "WORLD_SIZE": environment["SLURM_STEP_NUM_TASKS"],
        "LOCAL_RANK": environment.get("SLURM_LOCALID", "0"),
        "MASTER_ADDR": environment.get("MASTER_ADDR", _first_host(environment.get("SLURM_STEP_NODELIST", "localhost"))),
        "MASTER_PORT": environment.get("MASTER_PORT", str(20000 + job % 20000)),
    }


def _number(environment: Mapping[str, str], name: str, default: int | None = None) -> int:
    """A variable that is a whole number from 0; UsageError where it is another text, or absent without a default."""
    text = environment.get(name, "" if default is None else str(default))
    if not (text.isascii() and text.isdigit() and len(text) < 10):
        raise UsageError(
            f"the environment variable `{name}` is {text[:40]!r}, expected a whole number from 0",
            hint="launchers set it; `unset` it to run one process",
        )
    return int(text)


def _first_host(nodes: str) -> str:
    """The first of Slurm's host list: `gpu[007-010,012],x` begins with `gpu007`."""
    match = re.match(r"([^,\[]+)(?:\[(\d+))?", nodes)
    return match[1] + (match[2] or "") if match else nodes
