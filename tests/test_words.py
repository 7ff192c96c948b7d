"""Words that the glossary replaced do not come back: in help and messages, README and docs."""

from __future__ import annotations

import ast
import re
from collections.abc import Iterator
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parent.parent
REPLACED = {
    r"asked at": "evaluated at",
    r"\b(goes|go) on\b": "resume, continue",
    r"so many": "N, the number of",
    r"(?<!there )\bis no (?!such\b|longer\b|more\b|larger\b|smaller\b)": "is not a",
    r"\bjudg(e|es|ed|ing)\b": "evaluate, score",
    r"\bnobody\b": "name it",
    r"\bstands?\b(?!-in)": "is",
    r"\btold\b": "embedding, metadata, reported",
    r"\bforet(ell|ells|old)\b": "estimate",
    r"(?<![*])\bpictures?\b": "image",
    r"\bdoes not suffice\b": "is not enough, out of memory",
    r"\bmend(s|ed|ing)?\b": "fix, repair",
    r"\bturned away\b": "rejected",
}
"""What is not written any more, as a regular expression, and what is written for it (docs/glossary.md)."""

PAGES = sorted([*ROOT.glob("*.md"), *(ROOT / "docs").glob("*.md")])
HISTORY = {"CHANGELOG.md", "log.md"}
"""Pages that say what was: their old entries keep their words."""

FILES = sorted(path for folder in ("inrflow_core", "inrflow_cli") for path in (ROOT / folder).rglob("*.py"))


def texts_of(path: Path) -> Iterator[tuple[int, str]]:
    """Every text of a Python file that a user may read, with its line: help and messages, and the help of commands."""
    tree = ast.parse(path.read_text(encoding="utf-8"))
    statements = {id(node.value) for node in ast.walk(tree) if isinstance(node, ast.Expr)}
    commands = "commands" in path.parts or path.name == "app.py"
    for node in ast.walk(tree):
        text = node.value if isinstance(node, ast.Constant) else None
        if isinstance(text, str) and " " in text and (commands or id(node) not in statements):
            yield getattr(node, "lineno", 0), text


def found_in(text: str) -> list[str]:
    """The replaced words of a text, with what to write; text in backticks is code."""
    plain = re.sub(r"`[^`\n]*`", "``", text)
    return [
        f"{match.group(0)!r}: write {better}"
        for pattern, better in REPLACED.items()
        for match in re.finditer(pattern, plain, re.IGNORECASE)
    ]


@pytest.mark.parametrize("path", FILES, ids=lambda path: str(path.relative_to(ROOT)))
def test_texts_of_the_code_use_the_words_of_the_glossary(path: Path):
    assert not [f"line {line}: {words}" for line, text in texts_of(path) if (words := found_in(text))]


@pytest.mark.parametrize("path", [path for path in PAGES if path.name not in HISTORY], ids=lambda path: path.name)
def test_pages_use_the_words_of_the_glossary(path: Path):
    text = re.sub(r"^```.*?^```$", "", path.read_text(encoding="utf-8"), flags=re.DOTALL | re.MULTILINE)
    assert not [f"line {n}: {words}" for n, line in enumerate(text.split("\n"), 1) if (words := found_in(line))]


def test_a_replaced_word_is_found():
    assert found_in("a sample is asked at 96 px and goes on") == [
        "'asked at': write evaluated at",
        "'goes on': write resume, continue",
    ]
    assert not found_in("`told` is code, and this is no longer so")
