"""The notebook keeps its word: its cells run in order, and print what it stores; it is small and was executed from top to bottom."""

from __future__ import annotations

import ast
import contextlib
import io
import json
from pathlib import Path
from typing import Any

import pytest

NOTEBOOK = Path(__file__).parents[1] / "docs" / "tutorials" / "python-notebook.ipynb"
CELLS = [cell for cell in json.loads(NOTEBOOK.read_text(encoding="utf-8"))["cells"] if cell["cell_type"] == "code"]
LARGEST = 300_000


def stored_text(cell: dict[str, Any]) -> str:
    """What a cell printed, and the text of its last value, as the notebook stores them."""
    texts = []
    for output in cell["outputs"]:
        is_image = "image/png" in output.get("data", {})
        texts += [] if is_image else output.get("text") or output["data"]["text/plain"]
    return "".join(texts).rstrip("\n")


def text_of(source: str, names: dict[str, Any]) -> str:
    """What a cell prints now, and the text of its last value unless that is an image."""
    tree, printed = ast.parse(source), io.StringIO()
    last = tree.body.pop() if isinstance(tree.body[-1], ast.Expr) else None
    with contextlib.redirect_stdout(printed):
        exec(compile(tree, NOTEBOOK.name, "exec"), names)
        value = None if last is None else eval(compile(ast.Expression(last.value), NOTEBOOK.name, "eval"), names)
    if value is not None and not hasattr(value, "_repr_png_"):
        printed.write(repr(value))
    return printed.getvalue().rstrip("\n")


def test_the_notebook_is_small_and_was_run_from_top_to_bottom():
    assert NOTEBOOK.stat().st_size < LARGEST
    assert [cell["execution_count"] for cell in CELLS] == list(range(1, len(CELLS) + 1))
    assert sum("image/png" in output.get("data", {}) for cell in CELLS for output in cell["outputs"]) >= 5
    assert all(output["output_type"] != "error" for cell in CELLS for output in cell["outputs"])


@pytest.mark.slow
def test_every_cell_prints_what_the_notebook_stores(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr("tempfile.tempdir", str(tmp_path))
    names: dict[str, Any] = {}
    for cell in CELLS:
        assert text_of("".join(cell["source"]), names) == stored_text(cell)
    assert {path.suffix for path in names["folder"].iterdir()} == {".png", ".ply", ".safetensors"}
