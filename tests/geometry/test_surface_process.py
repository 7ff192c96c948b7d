"""Surfaces of another process are those of this one, and no process is left behind."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Iterator

import numpy as np
import pytest

from inrflow_core.errors import OutOfMemory, UsageError
from inrflow_core.geometry.mesh import reconstruct_surface
from inrflow_core.geometry.surface_process import SurfaceProcess


def ball(count: int) -> np.ndarray:
    points = np.random.default_rng(0).normal(size=(count, 3))
    return (points / np.linalg.norm(points, axis=1, keepdims=True)).astype(np.float32)


@pytest.fixture(scope="module")
def process() -> Iterator[SurfaceProcess]:
    process = SurfaceProcess()
    yield process
    process.stop()


@pytest.mark.parametrize("method", ["poisson", "pivoting"])
def test_a_surface_is_the_same_as_in_this_process(process: SurfaceProcess, method):
    points = ball(900)
    mesh, expected = process.reconstruct(points, method), reconstruct_surface(points, method=method)
    np.testing.assert_array_equal(mesh.vertices, expected.vertices)
    np.testing.assert_array_equal(mesh.faces, expected.faces)


def test_an_error_comes_back_and_the_process_serves_the_next_cloud(process: SurfaceProcess):
    process.reconstruct(ball(100), "pivoting")
    pid = process.pid
    with pytest.raises(UsageError, match="3 points are too few for a surface"):
        process.reconstruct(np.eye(3, dtype=np.float32), "poisson")
    assert len(process.reconstruct(ball(100), "pivoting").faces) > 100
    assert process.pid == pid


def test_a_killed_process_is_an_error_and_the_next_surface_starts_another(process: SurfaceProcess):
    process.reconstruct(ball(100), "pivoting")
    pid = process.pid
    assert pid is not None
    os.kill(pid, signal.SIGSTOP)
    killing = threading.Timer(0.2, os.kill, [pid, signal.SIGKILL])
    killing.start()
    with pytest.raises(OutOfMemory, match="was killed"):
        process.reconstruct(ball(100), "pivoting")
    killing.join()
    assert len(process.reconstruct(ball(100), "pivoting").faces) > 100
    assert process.pid != pid


def test_the_process_ends_with_the_one_that_started_it():
    code = (
        "import os, numpy as np; from inrflow_core.geometry.surface_process import SurfaceProcess; process = SurfaceProcess()\n"
        "process.reconstruct(np.random.default_rng(0).normal(size=(100, 3)).astype(np.float32), 'pivoting')\n"
        "print(process.pid, flush=True); os.kill(os.getpid(), 9)"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False)
    assert done.returncode == -signal.SIGKILL
    end = time.monotonic() + 20
    while is_running(int(done.stdout)):
        assert time.monotonic() < end
        time.sleep(0.05)


def is_running(pid: int) -> bool:
    """Whether a process runs, other than one that has ended and waits for its parent."""
    try:
        with open(f"/proc/{pid}/stat") as file:
            return file.read().rpartition(")")[2].split()[0] != "Z"
    except OSError:
        return False
