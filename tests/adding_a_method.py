"""The files and commands that docs/adding-a-method.md holds."""

from __future__ import annotations

import atexit
import functools
import re
import shutil
import tempfile
from pathlib import Path

PAGE = Path(__file__).parents[1] / "docs" / "adding-a-method.md"
METHOD = "inrflow_core/methods/denoise.py"
BLOCK = re.compile(r"^```(\w+)\n(.*?)^```$", re.MULTILINE | re.DOTALL)
PATH = re.compile(r"# (\S+/\S+)\n+")


def files() -> dict[str, str]:
    """Path to content: blocks begin with their file's path, and those of one file follow each other."""
    sources: dict[str, str] = {}
    for language, text in BLOCK.findall(PAGE.read_text(encoding="utf-8")):
        if language in ("python", "toml"):
            head = PATH.match(text)
            assert head is not None, f"a block of {PAGE.name} does not begin with its file's path: {text[:40]!r}"
            sources[head[1]] = sources.get(head[1], "") + ("\n\n" if head[1] in sources else "") + text[head.end() :]
    return sources


def commands() -> list[str]:
    """The commands of the page, in order."""
    blocks = [text for language, text in BLOCK.findall(PAGE.read_text(encoding="utf-8")) if language == "bash"]
    return [line for text in blocks for line in text.splitlines() if line and not line.startswith("#")]


@functools.cache
def method_file() -> Path:
    """The method's file, written to a temporary folder."""
    folder = Path(tempfile.mkdtemp(prefix="inrflow-docs-"))
    atexit.register(shutil.rmtree, folder, ignore_errors=True)
    file = folder / "denoise.py"
    file.write_text(files()[METHOD], encoding="utf-8")
    return file
