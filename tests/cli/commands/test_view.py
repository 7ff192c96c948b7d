"""`inrflow view`: the address that it prints answers, Ctrl-C ends it, and what cannot be shown is an error before it listens."""

from __future__ import annotations

import importlib.util
import json
import os
import signal
import socket
import subprocess
import sys
import threading
import time
import urllib.error
import urllib.request
from pathlib import Path

import pytest

from inrflow_cli.app import run
from tests import tiny


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("runs") / "images"
    tiny.run_folder(folder, tiny.LOCAL_IMAGE)
    return folder


def status(url: str) -> int:
    try:
        with urllib.request.urlopen(url, timeout=20) as answer:
            return answer.status
    except urllib.error.HTTPError as error:
        return error.code


@pytest.mark.slow
def test_the_printed_address_answers_until_ctrl_c(folder: Path, checkout: Path):
    command = [
        sys.executable,
        "-m",
        "inrflow_cli.app",
        "view",
        str(folder),
        "--model",
        "glyphs",
        "--threads",
        "1",
        "--json",
    ]
    environment = os.environ | {"PYTHONPATH": os.pathsep.join([str(checkout), os.environ.get("PYTHONPATH", "")])}
    server = subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, env=environment)
    try:
        assert server.stdout is not None
        url = json.loads(server.stdout.readline())["url"]
        assert url.startswith("http://127.0.0.1:") and len(url.rstrip("/").rpartition("/")[2]) >= 20
        assert [status(url), status(f"{url}page/app.js"), status(f"{url}api/record")] == [200, 200, 200]
        assert status(url.replace(url.rstrip("/").rpartition("/")[2], "token")) == 403
        long = (
            f"{url}api/file?suffix=png&resolution=2048&sampler=heun&steps=1000"  # minutes: Ctrl-C does not wait for it
        )
        waiting = [threading.Thread(target=status, args=(long,), daemon=True) for _ in range(2)]
        for thread in waiting:
            thread.start()
        time.sleep(1)
        server.send_signal(signal.SIGINT)
        _, words = server.communicate(timeout=20)
    finally:
        server.kill()
        server.wait()
    assert server.returncode == 0, words
    assert f"showing `{folder}`, `glyphs` at {url} " in " ".join(words.split())
    assert "stopped" in words and "Traceback" not in words and "ERROR" not in words
    for thread in waiting:
        thread.join(10)
    assert not any(thread.is_alive() for thread in waiting)


def test_without_the_extra_the_command_says_what_to_install(
    folder: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
):
    plain = importlib.util.find_spec
    monkeypatch.setattr(
        importlib.util, "find_spec", lambda name, *rest: None if name == "uvicorn" else plain(name, *rest)
    )
    assert run(["view", str(folder)]) == 3
    words = capsys.readouterr().err
    assert "the page needs the package `uvicorn`" in words and "pip install 'inrflow[view]'" in words


def test_a_port_in_use_and_a_run_that_is_not_there_are_errors(
    folder: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
):
    with socket.create_server(("127.0.0.1", 0)) as other:
        assert run(["view", str(folder), "--port", str(other.getsockname()[1])]) == 2
    assert "name another `--port`" in capsys.readouterr().err
    assert run(["view", str(tmp_path / "none")]) == 3
