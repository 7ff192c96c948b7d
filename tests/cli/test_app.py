"""The program: quick help, and the one place where an error meets the user."""

from __future__ import annotations

import errno
import json
import os
import re
import subprocess
import sys
from typing import Any

import pytest
import torch
import typer

from inrflow_cli import app, console, help_groups
from inrflow_core.errors import Diverged
from inrflow_core.sample_files import writer


@pytest.fixture(autouse=True)
def _fresh_console():
    console.stderr.cache_clear()
    yield
    console.stderr.cache_clear()


def program(*arguments: str, **environment: str) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, "-m", "inrflow_cli.app", *arguments]
    return subprocess.run(command, capture_output=True, text=True, env=os.environ | environment, check=False)


def fail_with(error: BaseException):
    def fails() -> None:
        raise error

    return fails


@pytest.mark.parametrize("arguments", [["--help"], *([name, "--help"] for name in app.COMMANDS)], ids=" ".join)
def test_help_is_printed_without_torch_or_numpy(arguments: list[str]):
    code = (
        "import sys; from inrflow_cli.app import run; code = run(sys.argv[1:]);"
        "heavy = {'torch', 'numpy', 'h5py', 'deepspeed', 'open3d'} & set(sys.modules); print(*heavy, file=sys.stderr);"
        "sys.exit(code or len(heavy))"
    )
    done = subprocess.run([sys.executable, "-c", code, *arguments], capture_output=True, text=True, check=False)
    assert (done.returncode, done.stderr.strip()) == (0, "")
    assert "Usage: inrflow" in done.stdout


@pytest.mark.parametrize(("command", "argument"), [("sample", "out"), ("export", "paths")])
def test_help_names_every_suffix_that_samples_can_have(command: str, argument: str):
    parsed = app.typer.main.get_command(app.app).get_command(None, command)
    (text,) = [parameter.help for parameter in parsed.params if parameter.name == argument]
    assert set(re.findall(r"(\.[a-z]\w+)\b", text.rpartition("OUT: ")[2])) - {".safetensors", ".onnx"} == (
        set(writer.suffixes()) - ({".h5"} if command == "export" else set())
    )


def test_every_command_is_in_the_help_with_a_sentence():
    text = program("--help", COLUMNS="200").stdout
    for name in app.COMMANDS:
        assert [line for line in text.splitlines() if f" {name} " in line and line.rstrip("│ ").endswith(".")], name


def parsed(name: str) -> Any:
    return app.typer.main.get_command(app.app).get_command(None, name)  # pyright: ignore


@pytest.mark.parametrize("name", app.COMMANDS)
def test_the_options_of_a_command_are_in_panels_by_what_they_are_for(name: str):
    options = [one for one in parsed(name).params if one.param_type_name == "option"]
    panels = [one.rich_help_panel for one in options]
    if len(options) < help_groups.LEAST:
        assert set(panels) <= {None}
        return
    order = list(help_groups.PANELS)
    assert panels == sorted(panels, key=order.index)
    assert len(options) <= 12 or max(map(panels.count, panels)) <= len(options) * 2 / 3
    text = program(name, "--help", COLUMNS="100").stdout
    assert all(f"─ {panel} ─" in text for panel in panels) and "─ Options ─" not in text and " -h " in text


def test_every_option_of_the_panels_is_one_of_a_command():
    known = {option for name in app.COMMANDS for one in parsed(name).params for option in one.opts} | {"--help"}
    tables = [help_groups.PANELS, *help_groups.ELSEWHERE.values()]
    named = [option for table in tables for options in table.values() for option in options.split()]
    once = " ".join(help_groups.PANELS.values()).split()
    assert set(named) <= known and len(set(once)) == len(once)


@pytest.mark.parametrize("name", app.COMMANDS)
def test_the_help_ends_with_examples_whose_options_exist(name: str):
    known = {option for one in parsed(name).params for option in (*one.opts, *one.secondary_opts)}
    text = " ".join(program(name, "--help", COLUMNS="200").stdout.split())
    for line, what in help_groups.EXAMPLES[name]:
        assert line.split()[:2] == ["inrflow", name] and f"{what}: {line}" in text.partition("Examples:")[2]
        assert set(re.findall(r"(?<!\S)--[a-z-]+", line)) <= known


@pytest.mark.parametrize("name", app.COMMANDS)
def test_the_help_fits_a_narrow_terminal(name: str):
    text = program(name, "--help", COLUMNS="70").stdout
    assert max(map(len, text.splitlines())) <= 70
    assert all(option in text for one in parsed(name).params for option in one.opts if option.startswith("--"))


def test_the_version_goes_to_stdout_alone():
    done = program("--version")
    assert (done.returncode, done.stderr) == (0, "")
    assert done.stdout.startswith("inrflow ")


def test_a_misspelt_command_gets_the_nearest_one():
    done = program("smaple", "out.ply")
    assert done.returncode == 2
    assert done.stderr == "error: inrflow has no command `smaple`\n\nhint: did you mean `sample`?\n"


def test_a_misspelt_option_gets_the_nearest_one():
    done = program("sample", "--pionts", "4", "out.ply")
    assert done.returncode == 2
    assert done.stderr == "error: `inrflow sample` has no option `--pionts`\n\nhint: did you mean `--points`?\n"


def test_a_missing_argument_says_which_and_where_to_read():
    done = program("sample")
    assert done.returncode == 2
    assert done.stderr == "error: missing argument `OUT`\n\nhint: `inrflow sample --help` shows how it is used\n"


def test_with_json_an_error_is_one_object_on_stdout():
    done = program("sample", "--seeds", "9-3", "--json", "out.ply")
    answer = json.loads(done.stdout)
    assert (done.returncode, answer["code"]) == (2, 2)
    assert f"error: {answer['error']}\n" in done.stderr  # a slow machine says that it loads torch before it


ERRORS = {
    "diverged": (Diverged("the loss is not finite"), 7),
    "no memory": (MemoryError(), 5),
    "no memory on the GPU": (torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 3 GiB"), 5),
    "no memory for torch": (
        RuntimeError("DefaultCPUAllocator: can't allocate memory: you tried to allocate 9 bytes"),
        5,
    ),
    "full disk": (OSError(errno.ENOSPC, "No space left on device", "out.ply"), 5),
    "long name": (OSError(errno.ENAMETOOLONG, "File name too long", "x" * 300), 2),
    "loop of links": (OSError(errno.ELOOP, "Too many levels of symbolic links", "out.ply"), 2),
    "folder": (IsADirectoryError(errno.EISDIR, "Is a directory", "out.ply"), 2),
    "device": (FileExistsError(errno.EEXIST, "File exists", "/dev/null"), 2),
    "closed folder": (PermissionError(errno.EACCES, "Permission denied", "out.ply"), 2),
    "Ctrl-C": (KeyboardInterrupt(), 130),
}


@pytest.mark.parametrize(("error", "code"), ERRORS.values(), ids=ERRORS)
def test_what_a_user_can_act_on_is_one_sentence_and_an_exit_code(error, code, monkeypatch, capsys):
    monkeypatch.setattr("inrflow_cli.commands.runs.runs", fail_with(error))
    assert app.run(["runs"]) == code
    captured = capsys.readouterr()
    assert captured.err.startswith("error: ")
    assert "Traceback" not in captured.err
    assert captured.out == ""


@pytest.mark.parametrize("error", [RuntimeError("our bug"), FileNotFoundError(errno.ENOENT, "gone")], ids=repr)
def test_our_own_bugs_keep_their_traceback(error, monkeypatch):
    monkeypatch.setattr("inrflow_cli.commands.runs.runs", fail_with(error))
    with pytest.raises(type(error), match="our bug|gone"):
        app.run(["runs"])


def test_a_command_says_how_it_ended_by_what_it_returns(monkeypatch):
    monkeypatch.setattr("inrflow_cli.commands.runs.runs", lambda: 6)
    assert app.run(["runs"]) == 6
    monkeypatch.setattr("inrflow_cli.commands.runs.runs", lambda: None)
    assert app.run(["runs"]) == 0


COMPLETIONS = {
    "inrflow sam": ["sample"],
    "inrflow train --preset digits": ["digits-ddmi-demo", "digits-demo", "digits-inrct-demo"],
    "inrflow prepare shape": ["shapenet"],
    "inrflow sample --sampler eul": ["euler", "euler-maruyama"],
    "inrflow weights check so": ["solids"],
    "inrflow weights convert clip": ["clip", "clip-bigg", "clip-text", "clip-text-b32"],
}


@pytest.mark.parametrize(("line", "offered"), COMPLETIONS.items(), ids=COMPLETIONS)
def test_the_shell_completes_commands_presets_and_data_sets(line: str, offered: list[str]):
    words = {"_INRFLOW_COMPLETE": "complete_bash", "COMP_CWORD": str(len(line.split()) - 1), "COMP_WORDS": line}
    assert program(**words).stdout.split() == offered


def test_weights_and_models_are_completed_without_torch():
    code = (
        "import sys; from inrflow_cli import options; options.complete_weights(''); options.complete_models('');"
        "sys.exit('torch' in sys.modules)"
    )
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 0


@pytest.mark.parametrize(("command", "old"), [(c, o) for c, names in app.RENAMED.items() for o in names])
def test_the_old_name_of_an_option_is_accepted_and_not_shown(command: str, old: str, capsys):
    new = app.RENAMED[command][old]
    assert app.with_present_names([command, old, "2", f"{old}=3"]) == [command, new, "2", f"{new}=3"]
    assert app.with_present_names([command, "--", old]) == [command, "--", old]
    parsed = app.typer.main.get_command(app.app).get_command(None, command)
    names = {name for parameter in parsed.params for name in (*parameter.opts, *parameter.secondary_opts)}
    assert new in names and old not in names


def test_a_missing_compiler_is_an_error_with_a_hint():
    known = app.known_error(RuntimeError("InvalidCxxCompiler: No working C++ compiler found in torch._inductor"))
    assert known is not None and known.code == 3 and "`--compile`" in (known.hint or "")


@pytest.mark.parametrize("words", ["-h", "sample -h", "weights -h", "weights list -h", "weights convert -h"])
def test_h_is_help(words: str):
    done = program(*words.split())
    assert done.returncode == 0 and "Usage: inrflow" in done.stdout


@pytest.mark.parametrize("arguments", [["--help"], ["sample", "--help"]])
def test_help_whose_reader_has_left_exits_with_0(arguments: list[str]):
    reader, writer_end = os.pipe()
    os.close(reader)
    try:
        done = subprocess.run(
            [sys.executable, "-m", "inrflow_cli.app", *arguments],
            stdout=writer_end,
            stderr=subprocess.PIPE,
            text=True,
            check=False,
        )
    finally:
        os.close(writer_end)
    assert (done.returncode, done.stderr) == (0, "")


@pytest.mark.parametrize("number", ["SIGTERM", "SIGHUP", "SIGUSR1"])
def test_a_signal_ends_a_command_as_ctrl_c_does(number: str):
    code = (
        "import os, signal; from inrflow_cli import app; import inrflow_cli.commands.runs as runs;"
        f"runs.runs = lambda: os.kill(os.getpid(), signal.{number}); app.sys.argv = ['inrflow', 'runs']; app.main()"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False)
    assert done.returncode == 130 and "error: interrupted" in done.stderr


@pytest.mark.parametrize("words", [*app.COMMANDS, "weights list", "weights convert", "weights check"])
def test_help_at_80_columns_shows_names_of_values_whole(
    words: str, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
):
    monkeypatch.setenv("COLUMNS", "80")
    assert app.run([*words.split(), "--help"]) == 0
    shown = capsys.readouterr().out
    command: Any = typer.main.get_command(app.app)
    for word in words.split():
        command = command.get_command(typer.Context(command), word)
    for one in command.params:
        assert one.metavar is not None and (one.metavar in shown), one.name
    assert not re.search(r"<[a-zA-Z]|9223372036854775807|\{", shown)


@pytest.mark.parametrize(
    ("name", "rank", "line"),
    [("torch", "0", True), ("torch", "1", False), ("", "0", False), ("torch, after output", "0", False)],
)
def test_slow_imports_are_named_on_stderr_by_the_first_process(name: str, rank: str, line: bool):
    code = (
        "import sys, time; from inrflow_cli import app; import inrflow_cli.commands.runs as runs; app.SLOW = 1.0\n"
        "class Slow:\n"
        "    def find_spec(self, name, path=None, target=None): time.sleep(2 * (name == 'wave'))\n"
        f"def work():\n    if 'output' in {name!r}: app.console.info('')\n    if {name!r}:\n        sys.meta_path.insert(0, Slow()); import wave\n    else:\n        time.sleep(2)\n"
        "runs.runs = work; app.sys.argv = ['inrflow', 'runs']; app.main()"
    )
    variables = os.environ | {"RANK": rank}
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False, env=variables)
    assert (done.returncode, done.stdout) == (0, "")
    assert done.stderr.strip("\n") == ("loading torch and other libraries" if line else "")


@pytest.mark.parametrize(
    ("set_before", "expected"),
    [({}, "1000"), ({"GOMP_SPINCOUNT": "7"}, "7"), ({"OMP_WAIT_POLICY": "ACTIVE"}, "None")],
)
def test_threads_that_wait_leave_the_cores_to_other_programs(set_before: dict[str, str], expected: str):
    code = "import os, sys; from inrflow_cli import app; app.run = lambda words: print(os.environ.get('GOMP_SPINCOUNT')); app.main()"
    variables = {name: text for name, text in os.environ.items() if name not in ("GOMP_SPINCOUNT", "OMP_WAIT_POLICY")}
    done = subprocess.run(
        [sys.executable, "-c", code], capture_output=True, text=True, check=False, env=variables | set_before
    )
    assert done.stdout.strip() == expected
