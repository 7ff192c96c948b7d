"""Commands of `inrflow` one after the other, each in a process of its own that is forked, so that torch is imported once.

    python -m tests.training.forked_commands JOBS

JOBS is a JSON file: a list of {"arguments": [...], "kill": step or null}. With a step, the process kills itself (-9) when training
comes to it. Prints the exit codes as JSON, -9 for a killed one. The methods of `tests.own_methods` are found.
"""

from __future__ import annotations

import json
import os
import signal
import sys
from pathlib import Path

from inrflow_cli import app
from inrflow_core.training.trainer import Trainer
from tests import own_methods


def run(arguments: list[str], kill: int | None) -> int:
    """The exit code of a command in a child."""
    child = os.fork()
    if child == 0:
        if kill is not None:
            _prepare(kill)
        sys.argv = ["inrflow", *arguments]
        code = 1
        try:
            app.main()
            code = 0
        except SystemExit as end:
            code = end.code if isinstance(end.code, int) else int(bool(end.code))
        finally:
            sys.stdout.flush()
            os._exit(code)
    return os.waitstatus_to_exitcode(os.waitpid(child, 0)[1])


def _prepare(kill: int) -> None:
    advance = Trainer.advance

    def advancing(trainer: Trainer, batches: object) -> None:
        if trainer.counters.step == kill:
            os.kill(os.getpid(), signal.SIGKILL)
        advance(trainer, batches)  # pyright: ignore[reportArgumentType]

    Trainer.advance = advancing  # pyright: ignore[reportAttributeAccessIssue]


if __name__ == "__main__":
    own_methods.install()
    codes = [run(job["arguments"], job.get("kill")) for job in json.loads(Path(sys.argv[1]).read_text())]
    print(json.dumps(codes))
