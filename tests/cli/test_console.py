"""What reaches a person's eyes (stderr) and what reaches a program (stdout)."""

from __future__ import annotations

import contextlib
import dataclasses
import io
import json
import os
import subprocess
import sys
import threading
import time
from pathlib import Path

import numpy as np
import pytest
from rich.console import Console

from inrflow_cli import console
from inrflow_cli.views import lists
from inrflow_core.errors import UsageError


@pytest.fixture(autouse=True)
def _fresh_console():
    console.stderr.cache_clear()
    console.reserve_stdout(False)
    console.begin()
    yield
    console.stderr.cache_clear()
    console.reserve_stdout(False)


def test_an_error_is_one_sentence_a_blank_line_and_a_hint(capsys):
    console.error(UsageError("[network] has no setting `num_laters`", hint="did you mean `num_layers`?"))
    captured = capsys.readouterr()
    assert captured.err == "error: [network] has no setting `num_laters`\n\nhint: did you mean `num_layers`?\n"
    assert captured.out == ""


def test_with_json_an_error_is_one_object_on_stdout_too(capsys):
    console.error(UsageError("no", hint="yes"), as_json=True)
    assert json.loads(capsys.readouterr().out) == {"error": "no", "hint": "yes", "code": 2}


def test_a_long_line_is_not_wrapped_so_that_paths_can_be_copied(capsys):
    console.info("x" * 500)
    assert capsys.readouterr().err == "x" * 500 + "\n"


def test_the_name_of_a_metric_is_not_an_emoji(capsys):
    console.info("mmd:cd:inrflow")
    console.warn("mmd:cd:inrflow")
    assert capsys.readouterr().err == "mmd:cd:inrflow\nnote: mmd:cd:inrflow\n"


def test_results_of_numpy_paths_and_data_classes_become_plain_json(capsys):
    @dataclasses.dataclass
    class Point:
        x: int

    answer = {"path": Path("a/b"), "loss": np.float64(0.5), "seeds": np.arange(3), "point": Point(4)}
    console.print_json(answer, as_json=True)
    assert json.loads(capsys.readouterr().out) == {"path": "a/b", "loss": 0.5, "seeds": [0, 1, 2], "point": {"x": 4}}


def test_tables_are_results_on_stdout_and_on_stderr_where_a_program_reads_stdout(capsys):
    console.print_json({"a": 1}, as_json=False)
    console.table(["name", "count"], [["a", 1200]])
    console.result("one line")
    captured = capsys.readouterr()
    assert captured.err == "" and "1,200" in captured.out and captured.out.endswith("\none line\n")
    console.reserve_stdout()
    console.table(["name", "count"], [["a", 1200]])
    console.result("one line")
    console.print_json({"a": 1}, as_json=True)
    reserved = capsys.readouterr()
    assert reserved.out == '{"a": 1}\n' and reserved.err == captured.out


def test_without_a_terminal_a_table_has_its_full_width_and_no_colors(capsys, monkeypatch):
    monkeypatch.delenv("COLUMNS", raising=False)
    cells = ["x" * 150, "y" * 150]
    console.table(["a", "b"], [cells])
    text = capsys.readouterr().out
    assert any("   ".join(cells) in line for line in text.splitlines()) and "\x1b" not in text
    assert not console.fits(["a", "b"], [cells]) and console.fits(["a", "b"], [["x" * 90, "y" * 90]])


def test_a_table_fits_a_terminal_to_the_column(monkeypatch):
    written = io.StringIO()
    terminal = Console(file=written, force_terminal=True, width=80, color_system=None)
    monkeypatch.setattr(console, "stdout", lambda: terminal)
    fitting = [width for width in range(20, 60) if console.fits(["a", "b"], [["x" * 30, "y" * width]])]
    assert fitting == list(range(20, fitting[-1] + 1)) and 40 < fitting[-1] < 50
    console.table(["a", "b"], [["x" * 30, "y" * fitting[-1]]])
    assert max(map(len, written.getvalue().splitlines())) == 80


def test_metrics_are_listed_in_lines_where_the_terminal_is_too_narrow_for_the_table(monkeypatch):
    written = io.StringIO()
    terminal = Console(file=written, force_terminal=True, width=80, color_system=None)
    monkeypatch.setattr(console, "stdout", lambda: terminal)
    lists.show_metrics(as_json=False)
    words = written.getvalue().split()
    assert "fid: FID, image, lower is better, default: random" in " ".join(words) and "cd:inrflow" in words


def test_a_character_that_stdout_cannot_encode_is_replaced(monkeypatch):
    written = io.BytesIO()
    stream = io.TextIOWrapper(written, encoding="ascii")
    monkeypatch.setattr(sys, "stdout", stream)
    console.print_stdout("0.5 \N{PLUS-MINUS SIGN} 0.1\n")
    assert written.getvalue() == b"0.5 ? 0.1\n"


@pytest.mark.parametrize("command", ["presets", "prepare --list", "eval --list", "runs ."])
def test_a_command_ends_quietly_where_the_reader_of_its_list_leaves(command, tmp_path):
    line = f"{sys.executable} -m inrflow_cli {command} | head -c 1 > /dev/null; echo ${{PIPESTATUS[0]}}"
    done = subprocess.run(["bash", "-c", line], capture_output=True, text=True, check=False)
    assert done.stdout == "0\n"
    assert "Traceback" not in done.stderr and "Exception" not in done.stderr


def test_quick_work_in_a_log_file_has_one_closing_line(capsys):
    with console.progress(1000, "images", title="prepared") as progress:
        for _ in range(1000):
            progress.advance(note="b.png")
    (line,) = capsys.readouterr().err.splitlines()
    assert line.startswith("prepared: 1,000 of 1,000 images, ")
    assert line.endswith(", b.png")


def wait_for_lines(capsys: pytest.CaptureFixture[str], number: int) -> list[str]:
    """The lines on stderr once there are `number`; fails after ten seconds."""
    lines: list[str] = []
    end = time.monotonic() + 10
    while len(lines) < number:
        assert time.monotonic() < end, lines
        time.sleep(0.01)
        lines += capsys.readouterr().err.splitlines()
    return lines


def test_work_that_reports_nothing_is_never_silent(capsys, monkeypatch):
    monkeypatch.setattr(console, "REPEAT", 0.05)
    with console.progress(10, "files", title="upsampling") as progress:
        lines = wait_for_lines(capsys, 3)
        assert set(lines) == {"upsampling: first of 10 files"}
        progress.advance(4)
        wait_for_lines(capsys, 1)  # of before the step
        assert wait_for_lines(capsys, 1)[0].startswith("upsampling: 4 of 10 files, ")
        progress.advance(6)
        wait_for_lines(capsys, 1)
        line = wait_for_lines(capsys, 1)[0]
        assert line.startswith("upsampling: 10 of 10 files, finishing, ") and line.endswith(" so far")
    assert capsys.readouterr().err.splitlines()[-1].startswith("upsampling: 10 of 10 files")


def test_of_nested_work_the_innermost_has_the_lines(capsys, monkeypatch):
    monkeypatch.setattr(console, "REPEAT", 0.05)
    with console.progress(10, "steps", title="training"):
        wait_for_lines(capsys, 1)
        with console.progress(5, "images", title="evaluating"):
            wait_for_lines(capsys, 1)  # one of the outer work may be on its way
            lines = wait_for_lines(capsys, 3)
        assert set(lines) == {"evaluating: first of 5 images"}
        wait_for_lines(capsys, 1)
        assert wait_for_lines(capsys, 1)[0] == "training: first of 10 steps"


def test_announced_work_is_named_and_counts_its_units(capsys, monkeypatch):
    with console.announce("quick"):
        pass
    monkeypatch.setattr(console, "REPEAT", 0.05)
    with console.announce("writing 64", "files") as report:
        assert wait_for_lines(capsys, 1)[0] == "writing 64"
        report(16, 64)
        wait_for_lines(capsys, 1)
        line = wait_for_lines(capsys, 1)[0]
    assert line.startswith("writing 64: 16 of 64 files, ") and line.endswith(" left")


def test_of_several_processes_the_first_announces(capsys, monkeypatch):
    monkeypatch.setattr(console, "REPEAT", 0.0)
    monkeypatch.setenv("RANK", "1")
    with console.announce("reading") as report:
        report(1, 2)
        time.sleep(0.1)
    assert capsys.readouterr().err == ""


def test_silence_counts_from_the_last_line_and_not_from_the_beginning_of_the_work(capsys, monkeypatch):
    monkeypatch.setattr(console, "_last_line", time.monotonic() - 2 * console.REPEAT)
    with console.announce("reading"):
        assert wait_for_lines(capsys, 1) == ["reading"]


def test_the_last_unit_has_one_line(capsys):
    with console.progress(2, "steps", title="training") as progress:
        progress.advance(1, note="loss 2")
        progress.advance(1, note="loss 1")
        progress.advance(0, note="loss 1, gradient 3")
    (line,) = capsys.readouterr().err.splitlines()
    assert line.startswith("training: 2 of 2 steps") and line.endswith("loss 1, gradient 3")


def test_progress_says_how_much_time_is_left(monkeypatch):
    moments = iter([0.0, 10.0, 10.0])
    monkeypatch.setattr(console.time, "monotonic", lambda: next(moments))
    progress = console.Progress(80, "images", "prepared", lambda state: None)
    progress.advance(20)
    assert progress.line() == "prepared: 20 of 80 images, 2/s, 30 s left"


def test_no_color_means_no_color(monkeypatch):
    monkeypatch.setenv("NO_COLOR", "1")
    monkeypatch.setenv("FORCE_COLOR", "1")
    assert console.stderr().no_color


def test_at_80_columns_a_line_of_progress_shows_total_and_time_left_and_cuts_its_end(monkeypatch):
    written = io.StringIO()
    terminal = Console(file=written, force_terminal=True, width=80, highlight=False, soft_wrap=True, color_system=None)
    monkeypatch.setattr(console, "stderr", lambda: terminal)
    with console.progress(100_000, "steps", title="training from step 1,000") as progress:
        progress.started -= 100
        progress.advance(12_345, note="loss 0.1234, gradient 1.23, 345 samples/s, 3 h to the last step, and more")
    lines = written.getvalue().rstrip("\x1b[?25h").splitlines()
    assert all(len(piece) <= 80 for line in lines for piece in line.split("\x1b[2K"))
    assert "12,345 of 100,000 steps" in lines[-1] and "/s" in lines[-1] and lines[-1].rstrip().endswith("\u2026")


SHOW_A_BAR = """
import sys
from inrflow_cli import console
with console.progress(20, "images", title="sampling") as progress:
    for number in range(20):
        progress.advance()
        console.info(f"image {number}")
    print("from a library", file=sys.stderr)
    console.print_stdout("to a program\\n")
console.warn("done")
"""


def test_a_bar_in_a_terminal_shows_messages_above_it_and_ends(tmp_path):
    pty = pytest.importorskip("pty")
    (tmp_path / "command.py").write_text(SHOW_A_BAR)
    leader, follower = pty.openpty()
    environment = {**os.environ, "TERM": "xterm", "COLUMNS": "100"}
    command = subprocess.Popen(
        [sys.executable, tmp_path / "command.py"], stdout=subprocess.PIPE, stderr=follower, env=environment
    )
    os.close(follower)
    limit = threading.Timer(60, command.kill)
    limit.start()
    shown = b""
    with contextlib.suppress(OSError):  # of a terminal whose other side is closed
        while block := os.read(leader, 65536):
            shown += block
    os.close(leader)
    out, _ = command.communicate()
    limit.cancel()
    assert command.returncode == 0 and out == b"to a program\n"
    text = shown.decode()
    assert all(text.count(f"image {number}\r\n") == 1 for number in range(20))
    assert "20 of 20 images" in text and "from a library" in text and "done" in text


PRINT_TWICE = """
import json, os, sys
from inrflow_cli import console
console.reserve_stdout()
for number in range(3):
    console.info("x" * 100_000)
    console.result("x" * 100_000)
console.print_json({"done": True}, as_json=True)
sys.exit(7)
"""


@pytest.mark.parametrize(
    ("shell", "out"),
    [
        ("{} 2>&1 | head -c 10 > /dev/null; exit ${{PIPESTATUS[0]}}", ""),
        ("{} 2>&-", '{"done": true}\n'),
        ("{} 2>/dev/full", '{"done": true}\n'),
        ("{} >&-", ""),
        ("{} >/dev/full", ""),
    ],
)
def test_output_without_a_reader_ends_no_command(tmp_path, shell, out):
    (tmp_path / "command.py").write_text(PRINT_TWICE)
    line = shell.format(f"{sys.executable} {tmp_path / 'command.py'}")
    done = subprocess.run(["bash", "-c", line], capture_output=True, text=True, check=False)
    assert (done.returncode, done.stdout) == (7, out)
    assert "Traceback" not in done.stderr and "Exception" not in done.stderr
    if ">&-" in line.replace("2>&-", "") or " >/dev/full" in line:
        assert "note: nothing could be written to stdout" in done.stderr
