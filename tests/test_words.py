"""Words that the glossary replaced do not come back: in help, messages, README and docs; in comments, docstrings and names."""

from __future__ import annotations

import ast
import io
import re
import tokenize
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

PAGES = sorted([*ROOT.glob("*.md"), *(ROOT / "docs").rglob("*.md")])
HISTORY = {"CHANGELOG.md", "log.md"}
"""Pages that say what was: their old entries keep their words."""

FILES = sorted(path for folder in ("inrflow_core", "inrflow_cli") for path in (ROOT / folder).rglob("*.py"))


IN_SOURCES = {
    r"\btold\b": "metadata, provenance, reported, embedding",
    r"\bjudg(e|es|ed|ing)\b": "evaluate, score",
    r"\bforet(ell|ells|old)\b": "estimate",
    r"\basked\b": "requested, evaluated",
    r"\bnobody\b": "name it",
    r"\bgoes on\b": "resumes, continues",
    r"\bso many\b": "N, the number of",
    r"(?<!there )\bis no (?!such\b|longer\b|more\b|larger\b|smaller\b)": "is not a",
    r"\bstands\b": "is",
    r"\bpictures?\b": "image",
}
"""What comments, docstrings and names of the code do not say, and what they say for it."""
IN_NAMES = {
    r"\b(wanted|chosen|kept)\b": "the thing's own name: requested, selected, cached",
    r"\bgiven\b(?! as\b)": "the thing's own name: input",
    r"\bheld\b(?! out\b)": "the thing's own name: locked, cached",
    r"colour|centre|grey|neighbour|normalis|optimis|initialis|labell|randomis": "the American spelling",
}
"""What names of the code do not say, and what they say for it."""
SUPPORT = sorted(
    path for folder in ("tests", "tools") for path in (ROOT / folder).rglob("*.py") if path.name != "test_words.py"
)
"""Files of tests and tools."""
KEPT = {"inrflow_core/layers/attention.py": {"told"}}
"""Names by file that have to stay: keys of weights in users' files."""


def notes_of(source: str) -> Iterator[tuple[int, str]]:
    """Comments and docstrings of a Python source, with their lines; a paragraph of comments is one text."""
    for node in ast.walk(ast.parse(source)):
        value = node.value if isinstance(node, ast.Expr) else None
        if isinstance(value, ast.Constant) and isinstance(value.value, str):
            yield value.lineno, value.value
    for token in tokenize.generate_tokens(io.StringIO(source).readline):
        if token.type == tokenize.COMMENT:
            yield token.start[0], token.string


def names_of(source: str) -> Iterator[tuple[int, str]]:
    """Names that a Python source defines, with their lines, as words: `ReadableFile` and `readable_file` are two."""
    for node in ast.walk(ast.parse(source)):
        name = None
        if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef | ast.ClassDef):
            name = node.name
        elif isinstance(node, ast.arg):
            name = node.arg
        elif isinstance(node, ast.Name) and isinstance(node.ctx, ast.Store):
            name = node.id
        elif isinstance(node, ast.Attribute) and isinstance(node.ctx, ast.Store):
            name = node.attr
        elif isinstance(node, ast.alias):
            name = node.asname
        if name is not None:
            yield node.lineno, re.sub(r"(?<=[a-z0-9])(?=[A-Z])|_+", " ", name).strip().lower()


def texts_of(path: Path) -> Iterator[tuple[int, str]]:
    """Every text of a Python file that a user may read, with its line: help and messages, and the help of commands."""
    tree = ast.parse(path.read_text(encoding="utf-8"))
    statements = {id(node.value) for node in ast.walk(tree) if isinstance(node, ast.Expr)}
    commands = "commands" in path.parts or path.name == "app.py"
    for node in ast.walk(tree):
        text = node.value if isinstance(node, ast.Constant) else None
        if isinstance(text, str) and " " in text and (commands or id(node) not in statements):
            yield getattr(node, "lineno", 0), text


def found_in(text: str, replaced: dict[str, str] = REPLACED) -> list[str]:
    """The replaced words of a text, with what to write; text in backticks is code."""
    plain = re.sub(r"`[^`\n]*`", "``", text)
    return [
        f"{match.group(0)!r}: write {better}"
        for pattern, better in replaced.items()
        for match in re.finditer(pattern, plain, re.IGNORECASE)
    ]


@pytest.mark.parametrize("path", FILES, ids=lambda path: str(path.relative_to(ROOT)))
def test_texts_of_the_code_use_the_words_of_the_glossary(path: Path):
    assert not [f"line {line}: {words}" for line, text in texts_of(path) if (words := found_in(text))]


@pytest.mark.parametrize("path", [path for path in PAGES if path.name not in HISTORY], ids=lambda path: path.name)
def test_pages_use_the_words_of_the_glossary(path: Path):
    text = re.sub(r"^```.*?^```$", "", path.read_text(encoding="utf-8"), flags=re.DOTALL | re.MULTILINE)
    assert not [f"line {n}: {words}" for n, line in enumerate(text.split("\n"), 1) if (words := found_in(line))]


@pytest.mark.parametrize("path", FILES, ids=lambda path: str(path.relative_to(ROOT)))
def test_comments_docstrings_and_names_use_the_words_of_the_glossary(path: Path):
    source = path.read_text(encoding="utf-8")
    kept = KEPT.get(str(path.relative_to(ROOT)), set())
    names = [(line, name) for line, name in names_of(source) if name not in kept]
    texts = [*notes_of(source), *names]
    assert not [f"line {line}: {words}" for line, text in texts if (words := found_in(text, IN_SOURCES))]
    assert not [f"line {line}: {words}" for line, name in names if (words := found_in(name, IN_NAMES))]


@pytest.mark.parametrize("path", SUPPORT, ids=lambda path: str(path.relative_to(ROOT)))
def test_names_comments_and_docstrings_of_tests_and_tools_use_the_words_of_the_glossary(path: Path):
    spelling = {pattern: better for pattern, better in IN_NAMES.items() if "colour" in pattern}
    source = path.read_text(encoding="utf-8")
    names = list(names_of(source))
    texts = [*notes_of(source), *names]
    assert not [f"line {line}: {words}" for line, text in texts if (words := found_in(text, IN_SOURCES))]
    assert not [f"line {line}: {words}" for line, name in names if (words := found_in(name, spelling))]


def test_a_replaced_word_is_found_in_comments_docstrings_and_names():
    source = '"""What stands here."""\nasked = 1  # so many\n\ndef judge_all(toldToMe): ...\nclass PictureFile: ...\n'
    found = [(line, *found_in(text, IN_SOURCES)) for line, text in [*notes_of(source), *names_of(source)]]
    assert sorted(line for line, *words in found if words) == [1, 2, 2, 4, 4, 5]
    names = names_of("held_out = held = 1\ndef centre_crop(given, GIVEN_AS): ...\n")
    assert sorted(name for _, name in names if found_in(name, IN_NAMES)) == ["centre crop", "given", "held"]


def test_a_replaced_word_is_found():
    assert found_in("a sample is asked at 96 px and goes on") == [
        "'asked at': write evaluated at",
        "'goes on': write resume, continue",
    ]
    assert not found_in("`told` is code, and this is no longer so")
