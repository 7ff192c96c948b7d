"""`inrflow train` in which one process comes to harm while a checkpoint is written.

    python -m tests.training.sabotage HOW RANK STEP train ...

HOW is `kill-writing` (-9 in the middle of the optimiser's file), `kill-gathering` (-9 while others wait for its part of
the moments) or `full` (no room for the optimiser's file).
"""

from __future__ import annotations

import os
import signal
import sys
from collections.abc import Iterator
from typing import Any

from torch import Tensor

from inrflow_cli import app
from inrflow_core.storage import safetensors_file
from inrflow_core.training import checkpoint
from inrflow_core.training.engine import Engine
from tests import own_methods


def main() -> None:
    """Prepare the harm where it is this process's turn, and run the command line."""
    how, rank, step = sys.argv[1], sys.argv[2], int(sys.argv[3])
    del sys.argv[1:4]
    if os.environ.get("RANK", os.environ.get("SLURM_PROCID", "0")) == rank:
        prepare(how, step)
    own_methods.install()
    app.main()


def prepare(how: str, step: int) -> None:
    """Let the harm come with the checkpoint of that step."""
    save, write = checkpoint.save, safetensors_file.write
    moments, now = Engine.moments, {"step": 0}

    def saving(run: Any, engine: Any, averages: Any, preset: Any, counters: Any, **rest: Any) -> Any:
        now["step"] = counters.step
        return save(run, engine, averages, preset, counters, **rest)

    def writing(path: Any, *rest: Any) -> Any:
        if now["step"] == step and path.name == "main.safetensors":
            if how == "full":
                raise OSError(28, "No space left on device", str(path))
            if how == "kill-writing":
                path.write_bytes(b"half a file")
                die()
        return write(path, *rest)

    def gathering(self: Engine) -> Iterator[Tensor]:
        for count, moment in enumerate(moments(self)):
            if how == "kill-gathering" and now["step"] == step and count == 3:
                die()
            yield moment

    checkpoint.save, safetensors_file.write, Engine.moments = saving, writing, gathering  # pyright: ignore


def die() -> None:
    """As by `kill -9`."""
    os.kill(os.getpid(), signal.SIGKILL)


if __name__ == "__main__":
    main()
