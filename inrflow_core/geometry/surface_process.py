"""Surfaces through clouds, reconstructed in a process of their own.

Open3D holds Python's lock for the seconds that a surface takes: in this process progress, signals and the viewer's other
requests would wait for it. The process begins with the first surface, serves the next ones, and ends with this one, in any way.
"""

from __future__ import annotations

import atexit
import contextlib
import os
import subprocess
import sys
import threading
from multiprocessing import Pipe
from multiprocessing.connection import Connection

import numpy as np
from jaxtyping import Float

from inrflow_core.errors import OutOfMemory
from inrflow_core.geometry.mesh import Mesh, Method, check_near, reconstruct_surface


def surface_of(sample: Float[np.ndarray, "N C"] | Mesh, suffix: str, *, method: Method = "poisson") -> Mesh:
    """A mesh as it is, and the surface through a cloud, for a file with that suffix.

    Raises:
        UsageError: see `mesh.reconstruct_surface` and `mesh.check_near`.
        OutOfMemory: the process was killed.
    """
    if isinstance(sample, Mesh):
        return sample
    check_near(sample, suffix)
    return _process.reconstruct(sample, method)


class SurfaceProcess:
    """The process that reconstructs surfaces, one at a time."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._connection: Connection | None = None
        self._process: subprocess.Popen[bytes] | None = None

    @property
    def pid(self) -> int | None:
        """The number of the process; None if there is none."""
        return None if self._process is None else self._process.pid

    def reconstruct(self, points: Float[np.ndarray, "N C"], method: Method) -> Mesh:
        """`mesh.reconstruct_surface` of a cloud. Raises as that does, and OutOfMemory if the process was killed."""
        with self._lock:
            connection = self._connected()
            try:
                connection.send((points, method))
                result = connection.recv()
            except (EOFError, ConnectionError) as error:
                self.stop()
                raise OutOfMemory(
                    "the process that reconstructs surfaces was killed, as the system does when memory runs out",
                    hint="take fewer `--points`",
                ) from error
            except BaseException:  # an interrupt: its answer would be taken for that of the next cloud
                self.stop()
                raise
        if isinstance(result, Exception):
            raise result
        return result

    def _connected(self) -> Connection:
        """The connection to the process, which is started if there is none."""
        if self._connection is not None and self._process is not None and self._process.poll() is None:
            return self._connection
        self.stop()
        ours, theirs = Pipe()
        path = os.pathsep.join(entry or os.getcwd() for entry in sys.path)
        self._process = subprocess.Popen(
            [sys.executable, "-m", __name__, str(theirs.fileno())],
            pass_fds=[theirs.fileno()],
            stdin=subprocess.DEVNULL,
            stdout=subprocess.DEVNULL,
            stderr=subprocess.DEVNULL,  # Open3D prints there
            env=os.environ | {"PYTHONPATH": path},
        )
        theirs.close()
        self._connection = ours
        return ours

    def stop(self) -> None:
        """End the process, if there is one."""
        if self._connection is not None:
            self._connection.close()
        if self._process is not None:
            self._process.kill()
            self._process.wait()
        self._connection = self._process = None


_process = SurfaceProcess()
atexit.register(_process.stop)


def serve(connection: Connection) -> None:
    """Answer clouds with their surfaces or errors, until the other end is closed."""
    with contextlib.suppress(EOFError, ConnectionError, KeyboardInterrupt):
        while True:
            points, method = connection.recv()
            try:
                result = reconstruct_surface(points, method=method)
            except Exception as error:
                result = error
            connection.send(result)


if __name__ == "__main__":
    serve(Connection(int(sys.argv[1])))
