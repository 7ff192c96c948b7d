"""What every test runs under: one thread, no display, and shapes checked at every call of inrflow_core."""

from __future__ import annotations

import functools
import os
import shutil
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest

import tests.type_checks

# Before NumPy and torch are imported: OpenMP's barriers collapse on cores that other tests use too.
os.environ.setdefault("OMP_NUM_THREADS", "1")
os.environ.setdefault("MPLBACKEND", "Agg")

tests.type_checks.install()

CHECKOUT = Path(__file__).resolve().parent.parent


@pytest.fixture(scope="session", autouse=True)
def _one_thread() -> None:
    import torch

    torch.set_num_threads(1)


@pytest.fixture(scope="session")
def checkout() -> Path:
    """The root of the checkout: README.md, presets and so on."""
    return CHECKOUT


def _below_shared(folder: str, name: str) -> Path:
    path = CHECKOUT.parent / "shared" / folder / name
    if not path.exists():
        pytest.skip(f"nothing at ../shared/{folder}/{name}")
    return path


@pytest.fixture(scope="session")
def real_data() -> Callable[[str], Path]:
    """A path below the folder of real data beside the checkout; where that is absent the test is skipped."""
    return lambda name: _below_shared("data", name)


@pytest.fixture(scope="session")
def real_cases() -> Callable[[str], Path]:
    """A path below the folder of reported cases beside the checkout; where that is absent the test is skipped."""
    return lambda name: _below_shared("cases", name)


@pytest.fixture(scope="session")
def case(real_cases: Callable[[str], Path], tmp_path_factory: pytest.TempPathFactory) -> Callable[[str], Path]:
    """The folder that the script of a case fills, in a copy."""
    copy = tmp_path_factory.mktemp("cases") / "files"
    shutil.copytree(real_cases("files"), copy)

    @functools.cache
    def make(name: str) -> Path:
        folder = copy / name
        script = copy / ("13_stl" if name == "14_off" else name) / "make.py"
        subprocess.run([sys.executable, str(script)], check=True, capture_output=True, timeout=60)
        return folder / "in" if (folder / "in").is_dir() else folder

    return make
