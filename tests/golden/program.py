"""The program as its users run it: a command line in, an exit code and files out.

This is the only file of the golden tests that knows a name inside the code, and it knows only the console entry.
"""

from __future__ import annotations

import contextlib
import importlib
import io
import os
import sys
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

CONSOLE_ENTRY = "inrflow_cli.app:main"
"""What [project.scripts] of pyproject.toml says; the one name of the code that is in these tests."""
PLAIN = {"INRFLOW_DATA": None, "INRFLOW_RUNS": None, "INRFLOW_WEIGHTS": None, "WORLD_SIZE": None, "COLUMNS": "100"}


@dataclass(frozen=True)
class Outcome:
    """What a command left beside its files."""

    code: int
    out: str
    err: str


def call(*words: object, cwd: Path) -> Outcome:
    """Run `inrflow WORDS` in this process, in the folder `cwd`."""
    module, _, name = CONSOLE_ENTRY.partition(":")
    main = getattr(importlib.import_module(module), name)
    out, err, code = io.StringIO(), io.StringIO(), 0
    with _settled(["inrflow", *map(str, words)], cwd), contextlib.redirect_stdout(out), contextlib.redirect_stderr(err):
        try:
            main()
        except SystemExit as left:
            code = left.code if isinstance(left.code, int) else int(left.code is not None)
    return Outcome(code, out.getvalue(), err.getvalue())


def succeed(*words: object, cwd: Path, code: int = 0) -> Outcome:
    """The same for a command that must leave with `code`; its words are shown where it does not."""
    outcome = call(*words, cwd=cwd)
    assert outcome.code == code, f"inrflow {' '.join(map(str, words))}\nleft with {outcome.code}:\n{outcome.err}"
    return outcome


@contextlib.contextmanager
def _settled(arguments: list[str], cwd: Path) -> Iterator[None]:
    """Arguments, folder, environment and threads of a command, and afterwards those of before."""
    import torch

    before = sys.argv, Path.cwd(), {name: os.environ.get(name) for name in PLAIN}, torch.get_num_threads()
    sys.argv = arguments
    os.chdir(cwd)
    _set(PLAIN)
    torch.set_num_threads(1)
    try:
        yield
    finally:
        sys.argv = before[0]
        os.chdir(before[1])
        _set(before[2])
        torch.set_num_threads(before[3])


def _set(values: dict[str, str | None]) -> None:
    for name, value in values.items():
        if value is None:
            os.environ.pop(name, None)
        else:
            os.environ[name] = value
