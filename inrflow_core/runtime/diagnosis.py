"""What this machine has for inrflow: versions, extras, processor, GPUs, memory and disk. Nothing is changed or written."""

from __future__ import annotations

import importlib.util
import os
import platform
import shutil
from dataclasses import dataclass
from importlib import metadata
from pathlib import Path

PACKAGES = ("inrflow", "torch", "deepspeed", "numpy", "h5py", "safetensors", "open3d", "typer", "rich")
"""Packages whose versions matter most in a report of an error; all are required."""
EXTRAS = {
    "cluster": ("ray",),
    "libusb": ("libusb_package",),
    "onnx": ("onnx", "onnxruntime", "onnxscript"),
    "pretrained": ("transformers",),
    "tensorboard": ("tensorboard",),
    "video": ("av", "imageio_ffmpeg"),
    "view": ("starlette", "uvicorn"),
}
"""The modules of each extra of pyproject.toml that adds a feature."""


@dataclass(frozen=True)
class Extra:
    """An extra of the package."""

    name: str
    missing: tuple[str, ...]
    """Its modules that are not installed."""

    @property
    def install(self) -> str:
        """The command that installs it."""
        return f"pip install 'inrflow[{self.name}]'"


@dataclass(frozen=True)
class Gpu:
    """A GPU that torch sees."""

    name: str
    memory: int
    """Bytes."""
    free: int
    """Bytes."""
    has_bf16: bool


@dataclass(frozen=True)
class Hardware:
    """Processor, GPUs, memory and disk."""

    cores: int
    """Processor cores that this process may use."""
    threads: int
    """Threads that torch computes with."""
    has_bf16: bool
    """Whether the processor computes bf16 in hardware."""
    memory: int | None
    """Bytes that this process can still allocate; None if unknown."""
    disk: int
    """Free bytes where the runs are written."""
    cuda: str | None
    """The CUDA version that torch is built for; None for a CPU build."""
    gpus: tuple[Gpu, ...]


def versions() -> dict[str, str | None]:
    """Versions of Python and `PACKAGES`; None for one that is not installed."""
    found: dict[str, str | None] = {"python": platform.python_version()}
    for name in PACKAGES:
        try:
            found[name] = metadata.version(name)
        except metadata.PackageNotFoundError:
            found[name] = None
    if found["inrflow"] is None:  # a checkout on the path
        from inrflow_core import __version__

        found["inrflow"] = __version__
    return found


def extras() -> list[Extra]:
    """All extras, each with what it lacks; nothing is imported."""
    return [
        Extra(name, tuple(module for module in modules if importlib.util.find_spec(module) is None))
        for name, modules in EXTRAS.items()
    ]


def hardware(folder: Path) -> Hardware:
    """The machine as this process sees it; `folder` is where runs are written, or will be.

    Raises:
        ImportError, OSError: torch is absent or damaged.
    """
    import torch

    from inrflow_core.runtime import device, memory

    while not folder.exists():
        folder = folder.absolute().parent
    gpus = []
    for index in range(torch.cuda.device_count() if torch.cuda.is_available() else 0):
        free, total = torch.cuda.mem_get_info(index)
        gpus.append(Gpu(torch.cuda.get_device_name(index), total, free, device.has_bf16(torch.device("cuda", index))))
    processor = torch.device("cpu")
    return Hardware(
        len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1,
        torch.get_num_threads(),
        device.has_bf16(processor),
        memory.free_memory(processor),
        shutil.disk_usage(folder).free,
        torch.version.cuda,
        tuple(gpus),
    )
