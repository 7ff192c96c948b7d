"""The Dockerfile without Docker: what it copies is there and not ignored, its commands are shell, its extras are ours."""

from __future__ import annotations

import re
import subprocess
from pathlib import Path

import tomli

ROOT = Path(__file__).parents[1]
TEXT = (ROOT / "Dockerfile").read_text(encoding="utf-8").replace("\\\n", " ")


def instructions(name: str) -> list[str]:
    return re.findall(rf"^{name} (.+)$", TEXT, re.MULTILINE)


def test_what_is_copied_exists_and_is_all_that_is_not_ignored():
    copied = {source for line in instructions("COPY") for source in line.split()[:-1]}
    assert all((ROOT / source).exists() for source in copied)
    ignored = (ROOT / ".dockerignore").read_text(encoding="utf-8").splitlines()
    assert "*" in ignored and {line[1:] for line in ignored if line.startswith("!")} == copied


def test_what_the_package_is_built_of_is_copied_before_it_is_installed():
    project = tomli.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))
    wheel = project["tool"]["hatch"]["build"]["targets"]["wheel"]["only-include"]
    needed = {*wheel, project["project"]["readme"], *project["project"]["license-files"], "pyproject.toml"}
    before = TEXT.partition('".[$EXTRAS]"')[0]
    assert all(re.search(rf"^COPY .*\b{re.escape(name)}\b", before, re.MULTILINE) for name in needed)


def test_commands_are_shell_and_extras_are_those_of_the_package():
    for command in instructions("RUN"):
        done = subprocess.run(["sh", "-n"], input=command, capture_output=True, text=True, check=False)
        assert (done.returncode, done.stderr) == (0, ""), command
    (extras,) = re.findall(r"^ARG EXTRAS=(.+)$", TEXT, re.MULTILINE)
    known = tomli.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))["project"]["optional-dependencies"]
    assert set(extras.split(",")) <= set(known)


def test_the_system_libraries_are_those_that_a_missing_one_is_said_to_need():
    hint = (ROOT / "inrflow_core" / "geometry" / "open3d_import.py").read_text(encoding="utf-8")
    named = set(re.search(r"apt-get install ([\w .-]+)`", hint)[1].split())  # type: ignore[index]
    (line,) = [command for command in instructions("RUN") if "apt-get install" in command]
    assert named <= set(line.split())
