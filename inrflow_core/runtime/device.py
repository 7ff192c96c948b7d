"""Choose the device and its precision."""

from __future__ import annotations

import re
from pathlib import Path

import torch

from inrflow_core.errors import UsageError


def choose_device(name: str | None, local_rank: int | None) -> torch.device:
    """The device `name`. Default: a GPU if there is one, else the CPU. Launched processes take one GPU each.

    Raises:
        UsageError: the device does not exist.
    """
    name = name or ("cuda" if torch.cuda.is_available() else "cpu")
    try:
        device = torch.device(name)
    except RuntimeError as error:
        raise UsageError(f"`{name}` is not a device", hint="`cpu`, `cuda` or `cuda:N`") from error
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


def choose_precision(
    requested: str, device: torch.device, recorded: str | None = None, *, has_equal_sizes: bool = True
) -> str:
    """`bf16` or `fp32`: the precision with which the run started, else the preset's, else bf16 if the device has it.

    On a CPU with AVX-512 bf16 or AMX, bf16 doubles the speed; without, it is 80 times slower. The capability decides,
    never a timing. For sets of unequal sizes a CPU takes fp32: its library (oneDNN) compiles the products in bf16 anew
    for each size and keeps all of them, some 0.6 MB a product.

    Raises:
        UsageError: bf16 is required, and this device does not have it.
    """
    able = has_bf16(device)
    is_faster = able and (has_equal_sizes or device.type != "cpu")
    precision = recorded or (requested if requested != "auto" else ("bf16" if is_faster else "fp32"))
    if precision == "bf16" and not able:
        reason = "the run was begun in bf16" if recorded else "`precision` is bf16"
        raise UsageError(
            f"{reason}, and this {device.type} has no bf16 arithmetic (on a CPU: AVX-512 bf16 or AMX)",
            hint="start a run with `--precision fp32`, or train on another device",
        )
    return precision


def has_bf16(device: torch.device, cpuinfo: Path = Path("/proc/cpuinfo")) -> bool:
    """Whether the device computes bf16 in hardware."""
    if device.type == "cuda":
        return torch.cuda.get_device_capability(device) >= (8, 0)
    text = cpuinfo.read_text(encoding="utf-8", errors="replace") if cpuinfo.is_file() else ""
    return bool(re.search(r"\b(avx512_bf16|amx_bf16|bf16)\b", text))
