"""The image of the architecture is drawn from the imports, and current."""

from __future__ import annotations

import pytest

from tools import architecture


def test_the_drawing_is_what_the_imports_say():
    assert architecture.DRAWING.read_text(encoding="utf-8") == architecture.draw(), "run `python -m tools.architecture`"


def test_every_package_is_above_what_it_imports():
    graph = architecture.imports()
    level = {name: number for number, row in enumerate(architecture.rows(graph)) for name in row}
    assert level.keys() == graph.keys() and all(level[other] < level[name] for name in graph for other in graph[name])


def test_a_circle_is_named():
    with pytest.raises(ValueError, match="imports form a circle among a, b"):
        architecture.rows({"a": {"b"}, "b": {"a"}})
