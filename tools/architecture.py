"""Draw the architecture from the real imports: docs/images/architecture.svg.

    python -m tools.architecture            write the image
    python -m tools.architecture --check    exit 1 if the image does not match the imports

One box for each package and loose module, with the sentence of its docstring. A box is one row above the highest
box that it imports; a line is drawn to each import that does not follow from another line.
"""

from __future__ import annotations

import argparse
import ast
import sys
import textwrap
from collections.abc import Mapping
from pathlib import Path
from xml.sax.saxutils import escape

ROOT = Path(__file__).resolve().parent.parent
DRAWING = ROOT / "docs" / "images" / "architecture.svg"
ROOTS = ("inrflow_core", "inrflow_cli")
WIDTH, BOX, HEIGHT, GAP, ROW = 1240, 196, 74, 12, 118
"""Of the image, of a box, and between boxes and rows, in pixels."""
COLUMNS = (WIDTH - GAP) // (BOX + GAP)


def imports() -> dict[str, set[str]]:
    """The packages and loose modules of the program, each with those that its files import."""
    graph: dict[str, set[str]] = {}
    for path in sorted(path for root in ROOTS for end in ("py", "pyi") for path in (ROOT / root).rglob(f"*.{end}")):
        own = _unit(".".join(path.relative_to(ROOT).with_suffix("").parts))
        if own is None:
            continue
        graph.setdefault(own, set())
        for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
            if isinstance(node, ast.ImportFrom) and node.module is not None:
                names = {f"{node.module}.{alias.name}" for alias in node.names}
                graph[own] |= {unit for name in names if (unit := _unit(name)) not in (None, own)}  # type: ignore[misc]
    return {name: {other for other in others if other in graph} for name, others in graph.items()}


def rows(graph: Mapping[str, set[str]]) -> list[list[str]]:
    """The names from the ground up: each in the row above the highest that it imports.

    Raises:
        ValueError: the imports form a circle.
    """
    level: dict[str, int] = {}
    left = dict(graph)
    while left:
        ready = sorted(name for name, others in left.items() if others <= level.keys())
        if not ready:
            raise ValueError(f"imports form a circle among {', '.join(sorted(left))}")
        for name in ready:
            level[name] = 1 + max((level[other] for other in left.pop(name)), default=-1)
    return [sorted(name for name in level if level[name] == number) for number in range(max(level.values()) + 1)]


def direct(graph: Mapping[str, set[str]]) -> dict[str, set[str]]:
    """The imports that do not follow from others."""
    reach: dict[str, set[str]] = {}
    for row in rows(graph):
        for name in row:
            reach[name] = graph[name].union(*(reach[other] for other in graph[name]))
    return {
        name: {other for other in others if not any(other in reach[between] for between in others)}
        for name, others in graph.items()
    }


def draw() -> str:
    """The image as SVG, the same bytes for the same imports."""
    graph = imports()
    corners: dict[str, tuple[float, float]] = {}
    top = 0
    lines = [line for row in reversed(rows(graph)) for line in _broken(row)]
    for line in lines:
        start = (WIDTH - len(line) * (BOX + GAP) + GAP) / 2
        for number, name in enumerate(line):
            corners[name] = (start + number * (BOX + GAP), GAP + top)
        top += ROW
    parts = [
        f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {WIDTH} {top}" font-family="sans-serif">',
        f'<rect width="{WIDTH}" height="{top}" fill="white"/>',
    ]
    for name, others in sorted(direct(graph).items()):
        parts += [_line(corners[name], corners[other]) for other in sorted(others)]
    parts += [_box(name, corners[name]) for name in sorted(corners)]
    return "\n".join([*parts, "</svg>", ""])


def _unit(module: str) -> str | None:
    """The package or loose module of a dotted name."""
    first, *rest = module.split(".")
    if first == "inrflow_cli":
        return first
    return rest[0] if first == "inrflow_core" and rest and rest[0] != "__init__" else None


def _broken(row: list[str]) -> list[list[str]]:
    count = -(-len(row) // COLUMNS)
    size = -(-len(row) // count)
    return [row[start : start + size] for start in range(0, len(row), size)]


def _line(above: tuple[float, float], below: tuple[float, float]) -> str:
    (x, y), (u, v) = (above[0] + BOX / 2, above[1] + HEIGHT), (below[0] + BOX / 2, below[1])
    bend = (y + v) / 2
    return f'<path d="M{x:g} {y:g} C{x:g} {bend:g} {u:g} {bend:g} {u:g} {v:g}" fill="none" stroke="#9ab" stroke-width="1"/>'


def _box(name: str, corner: tuple[float, float]) -> str:
    x, y = corner
    text = [
        f'<rect x="{x:g}" y="{y:g}" width="{BOX}" height="{HEIGHT}" rx="6" fill="#eef4fa" stroke="#345"/>',
        f'<text x="{x + 8:g}" y="{y + 18:g}" font-size="14" font-weight="bold" fill="#123">{escape(name)}</text>',
    ]
    for number, line in enumerate(textwrap.wrap(_sentence(name), 30)[:3]):
        text.append(
            f'<text x="{x + 8:g}" y="{y + 35 + 14 * number:g}" font-size="11" fill="#345">{escape(line)}</text>'
        )
    return "\n".join(text)


def _sentence(name: str) -> str:
    """The first sentence of a package's or a module's docstring."""
    folder = ROOT / name if name in ROOTS else ROOT / "inrflow_core" / name
    path = folder / "__init__.py" if folder.is_dir() else folder.with_suffix(".py")
    docstring = ast.get_docstring(ast.parse(path.read_text(encoding="utf-8"))) or ""
    return " ".join(docstring.split("\n\n")[0].split())


def main() -> int:
    parser = argparse.ArgumentParser(description=(__doc__ or "").partition("\n")[0])
    parser.add_argument("--check", action="store_true", help="Write nothing; exit 1 if the image is out of date.")
    text = draw()
    if parser.parse_args().check:
        is_current = DRAWING.is_file() and DRAWING.read_text(encoding="utf-8") == text
        if not is_current:
            print(f"{DRAWING.relative_to(ROOT)} is out of date: run `python -m tools.architecture`", file=sys.stderr)
        return 0 if is_current else 1
    DRAWING.write_text(text, encoding="utf-8")
    return 0


if __name__ == "__main__":
    sys.exit(main())
