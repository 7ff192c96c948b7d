"""`make setup` where something is missing and the user is not root: one sentence, a hint, exit code 3, no half .venv."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]
TOOLS = ("sh", "cat", "cksum", "dirname")


@pytest.fixture
def copy(tmp_path: Path) -> Path:
    """What setup.sh reads, and a PATH of the few programs that it needs, where `id` says that the user is not root."""
    for name in ("pyproject.toml", "constraints.txt", "tools/setup.sh"):
        (tmp_path / name).parent.mkdir(exist_ok=True)
        shutil.copy(ROOT / name, tmp_path / name)
    (tmp_path / "bin").mkdir()
    for name in TOOLS:
        (tmp_path / "bin" / name).symlink_to(shutil.which(name) or name)
    program(tmp_path / "bin" / "id", "echo 1000")
    return tmp_path


def program(path: Path, text: str) -> None:
    path.write_text(f"#!/bin/sh\n{text}\n")
    path.chmod(0o755)


def setup(copy: Path, **names: str) -> tuple[int, list[str]]:
    environment = {"PATH": str(copy / "bin"), **names}
    done = subprocess.run(["sh", "tools/setup.sh"], cwd=copy, env=environment, capture_output=True, text=True)
    assert done.stdout == "" and not (copy / ".venv").exists()
    return done.returncode, done.stderr.splitlines()


def test_a_python_without_venv_is_named_with_the_package_that_brings_it(copy: Path):
    python = copy / "bin" / "python3"
    program(python, f'case "$*" in *ensurepip*) exit 1;; esac; exec {sys.executable} "$@"')
    program(copy / "bin" / "apt-get", "echo called >> apt")
    code, lines = setup(copy)
    version = f"{sys.version_info[0]}.{sys.version_info[1]}"
    assert code == 3
    assert lines == [
        f"error: {python} cannot make virtual environments",
        "",
        f"hint: as root: apt-get install python{version}-venv",
    ]
    assert not (copy / "apt").exists()


def test_no_python_at_all_is_said(copy: Path):
    code, lines = setup(copy)
    assert code == 3
    assert lines[0] == "error: no Python >= 3.11 was found" and "make setup PYTHON=" in lines[2]


def test_an_open3d_that_cannot_be_loaded_is_an_error_with_a_hint_and_no_traceback():
    code = "import runpy, sys; sys.modules['open3d'] = None; runpy.run_module(sys.argv[1], run_name='__main__')"
    done = subprocess.run(
        [sys.executable, "-c", code, "inrflow_core.geometry.open3d_import"],
        cwd=ROOT,
        env=os.environ | {"PYTHONPATH": str(ROOT)},
        capture_output=True,
        text=True,
    )
    assert done.returncode == 3
    assert done.stderr.startswith("error: Open3D cannot be loaded: ")
    assert "Traceback" not in done.stderr and "\n\nhint: as root: " in done.stderr
