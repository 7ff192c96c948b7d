"""The program `inrflow`: its commands, and the one place where an error meets the user.

A command is a file beside this one that holds a function of the same name. What it needs is imported inside that
function, so that help and completion are fast and never import torch.
"""

from __future__ import annotations

import errno
import importlib
import os
import signal
import sys
import threading
import warnings
from typing import Annotated, Any

import typer
from typer.core import TyperGroup

from inrflow_cli import console, help_groups
from inrflow_core.errors import Exit, InrflowError, Interrupted, MissingError, OutOfMemory, UsageError, did_you_mean
from inrflow_core.registry import BrokenPartWarning
from inrflow_core.runtime.announcement import SLOW
from inrflow_core.runtime.progress import first_line

COMMANDS = (
    "prepare",
    "train",
    "sample",
    "upsample",
    "eval",
    "export",
    "view",
    "runs",
    "presets",
    "weights",
    "demo",
    "doctor",
)
"""In the order of a user's work; each is the file of that name in `commands/`, which holds a function or a `Typer` of that name."""
RENAMED = {
    "prepare": {"--num-shards": "--array-size", "--shard-index": "--array-index"},
    "train": {"--until": "--stop-at-step", "--skip-check": "--no-verify", "--for": "--plan-for"},
    "sample": {"--guide": "--guide-run", "--half-field": "--field-fp16"},
    "eval": {
        "--enlarged": "--interpolation-baselines",
        "--training": "--memorization-set",
        "--pictures": "--condition-images",
    },
    "export": {"--colours": "--colors", "--no-colours": "--no-colors"},
}
"""Old names of options by command, which are accepted for one release and not shown in help."""
UNUSABLE_NAMES = {
    errno.ENAMETOOLONG: "its name is too long",
    errno.ELOOP: "it is a loop of links",
    errno.EISDIR: "it is a folder",
    errno.ENOTDIR: "a part of its name is a file",
    errno.EEXIST: "it exists and is not a folder",
    errno.ENXIO: "it is a pipe or a device",
}
"""What is wrong with a file that a user names, by the system's error."""
IMPORTING = "<frozen importlib._bootstrap>"
"""The file name of Python's import system in the frames of a thread."""
SPIN_COUNT = "1000"
"""Turns of OpenMP's waiting loops before a thread sleeps: those that libgomp itself takes with more threads than cores."""
SETTINGS = {"help_option_names": ["-h", "--help"]}
MARKUP = "markdown"
LESS_MEMORY = "take a smaller `--chunk`, batch (`--set training.batch=...`) or preset, or another `--device`"


class Commands(TyperGroup):
    """The commands, each imported when it is first used."""

    def list_commands(self, ctx: Any) -> list[str]:
        return list(COMMANDS)

    def get_command(self, ctx: Any, cmd_name: str) -> Any:
        if cmd_name not in self.commands and cmd_name in COMMANDS:
            command = getattr(importlib.import_module(f"inrflow_cli.commands.{cmd_name}"), cmd_name)
            if not isinstance(command, typer.Typer):
                single = typer.Typer(add_completion=False, rich_markup_mode=MARKUP, context_settings=SETTINGS)
                single.command(cmd_name, cls=help_groups.Command)(command)
                command = single
            self.commands[cmd_name] = help_groups.arrange(typer.main.get_command(command), cmd_name)
        return self.commands.get(cmd_name)

    def resolve_command(self, ctx: Any, args: list[str]) -> Any:
        if args[0] not in COMMANDS:
            raise UsageError(f"inrflow has no command `{args[0]}`", hint=did_you_mean(args[0], COMMANDS))
        return super().resolve_command(ctx, args)


app = typer.Typer(
    name="inrflow",
    cls=Commands,
    rich_markup_mode=MARKUP,
    pretty_exceptions_enable=False,
    context_settings=SETTINGS,
)


def _print_version(is_set: bool) -> None:
    if is_set:
        from inrflow_core import __version__

        console.print_stdout(f"inrflow {__version__}\n")
        raise typer.Exit


@app.callback(
    epilog="Exit codes: 0 done, 1 bug, 2 usage, 3 missing, 4 damaged, 5 memory, 6 partly, 7 diverged, 130 stopped."
)
def inrflow(
    version: Annotated[
        bool, typer.Option("--version", callback=_print_version, is_eager=True, help="Print the version.")
    ] = False,
) -> None:
    """Generative models of functions: sample images, point clouds and proteins, and evaluate them at any resolution."""


def main() -> None:
    """Run the command line and leave with its exit code."""
    _limit_spinning()
    _announce_imports()
    _note_broken_parts()
    if not _is_shared(sys.argv[1:]):  # a launcher ends processes that wait for one that failed
        _stop_as_on_ctrl_c()
    code = run(sys.argv[1:])
    if code != Exit.DONE and _is_shared(sys.argv[1:]):  # tearing down what processes share may hang, or change the code
        sys.stdout.flush()
        sys.stderr.flush()
        os._exit(code)
    sys.exit(code)


def _limit_spinning() -> None:
    """Let OpenMP's threads sleep after a short wait for each other, unless the environment says otherwise.

    Torch's OpenMP (GCC's libgomp, which reads this when it is loaded) else waits for milliseconds at full load. Where other programs
    use the cores, the threads take them from each other, and small models become many times slower.
    """
    if "OMP_WAIT_POLICY" not in os.environ:
        os.environ.setdefault("GOMP_SPINCOUNT", SPIN_COUNT)


def _announce_imports() -> None:
    """Print a line on stderr if the imports of a command are not done some seconds after its start, in the first process of several."""
    if not console.is_first_process():
        return
    main_thread = threading.get_ident()

    def announce() -> None:
        if console.has_begun():
            return
        frame = sys._current_frames().get(main_thread)
        while frame is not None and frame.f_code.co_filename != IMPORTING:
            frame = frame.f_back
        if frame is not None:
            # The console would import, and the import system is busy.
            print("loading torch and other libraries", file=sys.stderr, flush=True)

    timer = threading.Timer(SLOW, announce)
    timer.daemon = True
    timer.start()


def _note_broken_parts() -> None:
    """Print warnings about parts of other packages as notes."""
    show = warnings.showwarning

    def show_or_note(message: Warning | str, category: type[Warning], *rest: Any, **more: Any) -> None:
        if issubclass(category, BrokenPartWarning):
            console.warn(str(message))
        else:
            show(message, category, *rest, **more)

    warnings.showwarning = show_or_note


def _stop_as_on_ctrl_c() -> None:
    """End a command on SIGTERM, SIGUSR1, and SIGHUP unless that is ignored (`nohup`), as on Ctrl-C: finished work is kept."""
    for number in (signal.SIGTERM, signal.SIGHUP, signal.SIGUSR1):
        if signal.getsignal(number) == signal.SIG_DFL:
            signal.signal(number, signal.default_int_handler)


def run(arguments: list[str]) -> int:
    """Run a command line and return its exit code. Errors that a user can act on are printed; others keep their traceback."""
    arguments = with_present_names(arguments)
    console.begin()
    console.reserve_stdout("--json" in arguments)
    try:
        code = app(arguments or ["--help"], prog_name="inrflow", standalone_mode=False)
    except (InrflowError, typer.TyperException, typer.Abort, MemoryError, OSError, RuntimeError) as error:
        known = known_error(error)
        if _is_shared(arguments):
            from inrflow_core.runtime import rank_errors

            known = rank_errors.abandoned(error) or known
            if not rank_errors.should_report(known or error, os.environ):
                return int(known.code if known else Exit.BUG)
        if known is None:
            raise
        console.error(known, as_json="--json" in arguments)
        return int(known.code)
    except SystemExit:  # Typer leaves so where the reader of its help is gone, as in `| head`
        return int(Exit.DONE)
    if code == Exit.INTERRUPTED:  # Typer makes this of Ctrl-C; commands that save first raise `Interrupted`
        console.error(Interrupted("interrupted"), as_json="--json" in arguments)
    return int(code) if isinstance(code, int) else int(Exit.DONE)


def with_present_names(arguments: list[str]) -> list[str]:
    """A command line in which options have their present names (`RENAMED`); words behind `--` stay."""
    names = RENAMED.get(arguments[0], {}) if arguments else {}
    end = arguments.index("--") if "--" in arguments else len(arguments)
    renamed = []
    for word in arguments[:end]:
        option, equals, value = word.partition("=")
        renamed.append(names.get(option, option) + equals + value)
    return renamed + arguments[end:]


def _is_shared(arguments: list[str]) -> bool:
    """Whether a launcher started several processes for this command."""
    names = ("WORLD_SIZE",) if arguments[:1] != ["train"] else ("WORLD_SIZE", "SLURM_STEP_NUM_TASKS")
    return any(os.environ.get(name, "1") != "1" for name in names)


def known_error(error: BaseException) -> InrflowError | None:
    """The error as one that a user can act on; None for a bug of ours."""
    if isinstance(error, InrflowError):
        return error
    if isinstance(error, typer.TyperException):
        return _usage_error(error)
    if isinstance(error, typer.Abort):
        return Interrupted("interrupted")
    if isinstance(error, OSError):
        return _file_error(error)
    if "No working C++ compiler found" in str(error):  # of torch.compile
        return MissingError(
            "compiling needs a C++ compiler, and none works here",
            hint="install one (g++), or leave out `--compile` or `training.compile`",
        )
    # Without importing torch: its error is recognized by its name, that of the CPU allocator by its text.
    if isinstance(error, MemoryError) or type(error).__name__ == "OutOfMemoryError" or "allocate memory" in str(error):
        return OutOfMemory(f"not enough memory: {first_line(error)}", hint=LESS_MEMORY)
    return None


def _usage_error(error: typer.TyperException) -> UsageError:
    """Typer's error about the command line, in our form."""
    context = getattr(error, "ctx", None)
    path = context.command_path if context else "inrflow"
    hint = f"`{path} --help` shows how it is used"
    option = getattr(error, "option_name", None)
    if option is not None and hasattr(error, "possibilities"):
        near = list(error.possibilities or ())
        hint = f"did you mean `{near[0]}`?" if near else hint
        return UsageError(f"`{path}` has no option `{option}`", hint=hint)
    text = error.format_message().rstrip(".").replace("'", "`")
    return UsageError(text[:1].lower() + text[1:], hint=hint)


def _file_error(error: OSError) -> InrflowError | None:
    """A full disk, missing permission or a name that cannot be used as an error of the user; None for other errors."""
    name = f"`{_shortened(str(error.filename2 or error.filename))}`" if error.filename else "the output"
    if error.errno in (errno.ENOSPC, errno.EDQUOT):
        return OutOfMemory(f"the disk is full: {name} could not be written", hint="free some space, or write elsewhere")
    if error.errno in (errno.EACCES, errno.EPERM, errno.EROFS):
        return UsageError(
            f"{name} may not be read or written here: {error.strerror}",
            hint="name another place, or change its permissions",
        )
    if error.filename and error.errno in UNUSABLE_NAMES:
        return UsageError(f"{name} cannot be used: {UNUSABLE_NAMES[error.errno]}", hint="name another file")
    return None


def _shortened(name: str) -> str:
    return name if len(name) <= 120 else f"{name[:60]}...{name[-57:]}"


if __name__ == "__main__":
    main()
