"""Surfaces of another process are those of this one, and no process is left behind."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from multiprocessing.connection import Connection
from pathlib import Path

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
    pid, connection = process.pid, process._connection
    assert pid is not None and connection is not None

    class KillingConnection(Connection):
        def send(self, obj: object) -> None:
            super().send(obj)
            os.kill(pid, signal.SIGKILL)

    os.kill(pid, signal.SIGSTOP)
    process._connection = KillingConnection(os.dup(connection.fileno()))
    connection.close()
    with pytest.raises(OutOfMemory, match="was killed"):
        process.reconstruct(ball(100), "pivoting")
    assert len(process.reconstruct(ball(100), "pivoting").faces) > 100
    assert process.pid != pid


def test_files_of_the_current_folder_are_not_imported(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    for name in ("numpy.py", "queue.py", "open3d.py"):
        (tmp_path / name).write_text("raise SystemExit(3)")
    monkeypatch.chdir(tmp_path)
    process = SurfaceProcess()
    assert len(process.reconstruct(ball(100), "pivoting").faces) > 100
    process.stop()


def test_a_process_that_cannot_start_says_why(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    (tmp_path / "numpy.py").write_text("raise ImportError('of another numpy')")
    monkeypatch.syspath_prepend(str(tmp_path))
    process = SurfaceProcess()
    with pytest.raises(RuntimeError, match="(?s)ended with code 1: .*of another numpy"):
        process.reconstruct(ball(100), "pivoting")
    assert process.pid is None


def test_a_bug_keeps_its_traceback(process: SurfaceProcess):
    with pytest.raises(ValueError, match="finite") as raised:
        process.reconstruct(np.full((100, 3), np.nan, np.float32), "poisson")
    assert any("reconstruct_surface" in note for note in raised.value.__notes__)


def test_a_fork_has_a_process_of_its_own(process: SurfaceProcess):
    code = (
        "import os, numpy as np; from inrflow_core.geometry import surfaces; process = surfaces._process\n"
        "points = np.random.default_rng(0).normal(size=(100, 3)).astype(np.float32)\n"
        "process.reconstruct(points, 'pivoting'); first = process.pid; process._lock.acquire()\n"
        "if not (child := os.fork()):\n"
        "    process.reconstruct(points, 'pivoting'); assert process.pid != first; process.stop(); os._exit(0)\n"
        "assert os.waitpid(child, 0)[1] == 0; process._lock.release(); process.reconstruct(points, 'pivoting')\n"
        "assert process.pid == first"
    )
    subprocess.run([sys.executable, "-c", code], check=True, timeout=60)


def test_closed_standard_streams_are_no_trouble():
    code = (
        "import os; os.close(0); os.close(1); import numpy as np; from inrflow_core.geometry.surface_process import SurfaceProcess\n"
        "points = np.random.default_rng(0).normal(size=(100, 3)).astype(np.float32)\n"
        "assert len(SurfaceProcess().reconstruct(points, 'pivoting').faces) > 10"
    )
    subprocess.run([sys.executable, "-c", code], check=True, timeout=60)


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
