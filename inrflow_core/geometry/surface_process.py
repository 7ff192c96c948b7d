"""Surfaces through clouds, reconstructed in a process of their own.

Open3D holds Python's lock for the seconds that a surface takes: in this process progress, signals and the viewer's other
requests would wait for it. The process begins with the first surface, serves the next ones, and ends with this one, in any way.
"""

from __future__ import annotations

import contextlib
import os
import signal
import subprocess
import sys
import tempfile
import threading
import traceback
from multiprocessing import Pipe
from multiprocessing.connection import Connection
from pathlib import Path
from typing import IO

import numpy as np
from jaxtyping import Float

from inrflow_core.errors import InrflowError, OutOfMemory
from inrflow_core.geometry.mesh import Mesh, Method, reconstruct_surface

MOST_TEXT = 2000
"""Bytes of what a process that ended early had printed."""


class SurfaceProcess:
    """The process that reconstructs surfaces, one at a time."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._connection: Connection | None = None
        self._process: subprocess.Popen[bytes] | None = None
        self._messages: IO[bytes] | None = None

    @property
    def pid(self) -> int | None:
        """The number of the process; None if there is none."""
        return None if self._process is None else self._process.pid

    def reconstruct(self, points: Float[np.ndarray, "N C"], method: Method) -> Mesh:
        """`mesh.reconstruct_surface` of a cloud.

        Raises:
            OutOfMemory: the process was killed.
            RuntimeError: it ended otherwise.
            UsageError: as `mesh.reconstruct_surface`.
        """
        if not sys.executable:  # Python inside another program
            return reconstruct_surface(points, method=method)
        with self._lock:
            connection = self._connected()
            try:
                connection.send((points, method))
                result = connection.recv()
            except (EOFError, ConnectionError) as error:
                raise self._ended() from error
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
        found = [os.path.abspath(entry) for entry in sys.path if isinstance(entry, str) and entry]
        self._messages = tempfile.TemporaryFile()  # noqa: SIM115 (read when the process has ended)
        self._process = subprocess.Popen(
            [sys.executable, "-P", "-m", __name__],
            stdin=theirs.fileno(),
            stdout=subprocess.DEVNULL,
            stderr=self._messages,  # Open3D prints there too
            env=os.environ | {"PYTHONPATH": os.pathsep.join([*found, str(Path(__file__).parents[2])])},
        )
        theirs.close()
        self._connection = ours
        return ours

    def _ended(self) -> Exception:
        """The error for a process that ended before its answer."""
        assert self._process is not None and self._messages is not None
        code = self._process.wait()
        self._messages.seek(0)
        message = self._messages.read()[-MOST_TEXT:].decode(errors="replace").strip()
        self.stop()
        if code == -signal.SIGKILL:
            return OutOfMemory(
                "the process that reconstructs surfaces was killed, as the system does when memory runs out",
                hint="take fewer points, or end other programs",
            )
        return RuntimeError(f"the process that reconstructs surfaces ended with code {code}: {message}")

    def stop(self) -> None:
        """End the process, if there is one."""
        if self._connection is not None:
            self._connection.close()
        if self._process is not None:
            self._process.kill()
            self._process.wait()
        if self._messages is not None:
            self._messages.close()
        self._connection = self._process = self._messages = None

    def forget(self) -> None:
        """Leave the process to the one that was forked."""
        self.__init__()


def serve(connection: Connection) -> None:
    """Answer clouds with their surfaces or errors, until the other end is closed."""
    with contextlib.suppress(EOFError, ConnectionError, KeyboardInterrupt):
        while True:
            points, method = connection.recv()
            try:
                result = reconstruct_surface(points, method=method)
            except Exception as error:
                if not isinstance(error, InrflowError):
                    error.add_note(traceback.format_exc())
                result = error
            connection.send(result)


if __name__ == "__main__":
    serve(Connection(sys.stdin.fileno()))
