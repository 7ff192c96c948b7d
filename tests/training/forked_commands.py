"""Commands of `inrflow` one after the other, each in a process of its own that is forked, so that torch is imported once."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

CHECKOUT = Path(__file__).parents[2]


def run(jobs: Sequence[dict[str, Any]], folder: Path, code: Path) -> list[tuple[int, str]]:
    """The exit code (-9 of a killed one) and the output of each command, run in `folder` with the packages in `code`.

    A job is {"arguments": [...]}, with "kill": the step at which training kills itself (-9), and with "own": whether
    the methods of `tests.own_methods` are found.
    """
    file = folder / "jobs.json"
    file.write_text(json.dumps(jobs))
    environment = os.environ | {
        "PYTHONPATH": os.pathsep.join(map(str, dict.fromkeys((code, CHECKOUT)))),
        "OMP_NUM_THREADS": "1",
        "COLUMNS": "200",
    }
    command = [sys.executable, "-m", "tests.training.forked_commands", str(file)]
    done = subprocess.run(command, cwd=folder, env=environment, capture_output=True, text=True)
    assert done.returncode == 0, done.stdout + done.stderr
    return [(code, Path(f"{file}.{number}").read_text()) for number, code in enumerate(json.loads(done.stdout))]


def _fork(job: dict[str, Any], output: str) -> int:
    """The exit code of a command in a child that writes to a file."""
    child = os.fork()
    if child == 0:
        code = 1
        try:
            with open(output, "w") as file:
                os.dup2(file.fileno(), 1)
                os.dup2(file.fileno(), 2)
            code = _command(job)
        finally:
            sys.stdout.flush()
            sys.stderr.flush()
            os._exit(code)
    return os.waitstatus_to_exitcode(os.waitpid(child, 0)[1])


def _command(job: dict[str, Any]) -> int:
    from inrflow_cli import app
    from tests import own_methods

    if job.get("own"):
        own_methods.install()
    if job.get("kill") is not None:
        _kill_at(job["kill"])
    sys.argv = ["inrflow", *job["arguments"]]
    try:
        app.main()
    except SystemExit as end:
        return end.code if isinstance(end.code, int) else int(bool(end.code))
    return 0


def _kill_at(step: int) -> None:
    from inrflow_core.training.trainer import Trainer

    advance = Trainer.advance

    def advancing(trainer: Any, batches: Any) -> None:
        if trainer.counters.step == step:
            os.kill(os.getpid(), signal.SIGKILL)
        advance(trainer, batches)

    Trainer.advance = advancing


if __name__ == "__main__":
    import inrflow_core.training.setup  # noqa: F401, what takes long is imported before the forks

    print(
        json.dumps(
            [_fork(job, f"{sys.argv[1]}.{n}") for n, job in enumerate(json.loads(Path(sys.argv[1]).read_text()))]
        )
    )
