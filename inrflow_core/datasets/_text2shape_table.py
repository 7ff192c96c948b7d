"""The table of descriptions of Text2Shape: a CSV with a row for each description of a model."""

from __future__ import annotations

import csv
import hashlib
import io
from collections import Counter
from collections.abc import Sequence
from pathlib import Path
from typing import NamedTuple

from inrflow_core.datasets import _descriptions
from inrflow_core.errors import IntegrityError, MissingError, UsageError
from inrflow_core.storage.plain_file import read_plain_file

COLUMNS = ("modelId", "description", "category")
MAX_BYTES = 1 << 30
"""Bytes of a table; Text2Shape's has 20 MB."""
MAX_FIELD = 1 << 24
"""Characters of a field, such as a description of 10,000 words."""
SHOWN = 5
"""Names in a message."""


class Table(NamedTuple):
    """The descriptions of a CSV."""

    texts: dict[str, tuple[str, ...]]
    """The descriptions of each model, in the order of the file, each once."""
    categories: tuple[str, ...]
    """The names in the column `category`, the most frequent one first."""
    identity: tuple[str, int]
    """A name with the digest of the file, and its bytes, for the fingerprint of the source."""
    notes: tuple[str, ...]
    """What is not used: rows without a model or a description."""


def find(source: Path, files: Sequence[tuple[str, int]], captions: str | None) -> Path:
    """The CSV: that of the settings, else the one directly below the source.

    Raises:
        MissingError: there is none.
        UsageError: there are several.
    """
    hint = "name it with `--set captions=FILE`"
    if captions is not None:
        if not Path(captions).is_file():
            raise MissingError(f"there is no table of descriptions `{captions}`", hint=hint)
        return Path(captions)
    names = [name for name, _ in files if "/" not in name and name.lower().endswith(".csv")]
    if not names:
        raise MissingError(f"`{source}` has no .csv of descriptions beside its categories", hint=hint)
    if len(names) > 1:
        raise UsageError(
            f"`{source}` has several tables: {', '.join(f'`{name}`' for name in names[:SHOWN])}", hint=hint
        )
    return source / names[0]


def read(path: Path) -> Table:
    """The descriptions of a CSV in UTF-8.

    Raises:
        MissingError: it has no description.
        IntegrityError: it cannot be read as a CSV in UTF-8, or lacks a column.
    """
    content = read_plain_file(path, MAX_BYTES, hint="copy it again")
    try:
        text = content.decode("utf-8-sig")
    except UnicodeDecodeError as error:
        raise IntegrityError(
            f"`{path}` is not a text in UTF-8: byte {error.start:,} is {content[error.start]:#04x}",
            hint="save it as UTF-8",
        ) from error
    texts: dict[str, dict[str, None]] = {}
    categories: Counter[str] = Counter()
    incomplete: list[int] = []
    for number, model, description, category in _rows(path, text):
        if not model or not description:
            incomplete.append(number)
            continue
        texts.setdefault(model, {})[description] = None
        categories[category] += 1
    if not texts:
        raise MissingError(f"`{path}` has no description", hint="name another table with `--set captions=FILE`")
    lines = ", ".join(map(str, incomplete[:SHOWN])) + (" ..." if len(incomplete) > SHOWN else "")
    notes = (f"rows of `{path.name}` without a model or a description: {len(incomplete):,}, at the lines {lines}",)
    return Table(
        {model: tuple(own) for model, own in texts.items()},
        tuple(name for name, _ in categories.most_common() if name),
        (f"captions {hashlib.sha256(content).hexdigest()}", len(content)),
        notes if incomplete else (),
    )


def categories(table: Table, root: Path, titles: Sequence[Sequence[str]]) -> tuple[str, ...]:
    """The categories that the table names and the source has.

    Args:
        titles: the names of each category of the source.

    Raises:
        MissingError: there is none.
    """
    known = {title.lower() for names in titles for title in names}
    found = tuple(name.lower() for name in table.categories if name.lower() in known)
    if not found:
        theirs, ours = (", ".join(f"`{name}`" for name in names[:SHOWN]) for names in (
            table.categories, [names[0] for names in titles]
        ))  # fmt: skip
        raise MissingError(
            f"the table describes {theirs or 'no category'}, and `{root}` has {ours}",
            hint='choose categories with `--set categories=["chair"]`',
        )
    return found


def _rows(path: Path, text: str) -> list[tuple[int, str, str, str]]:
    """The line at which a row ends, model, description in one line and category of every row."""
    before = csv.field_size_limit(MAX_FIELD)
    try:
        reader = csv.DictReader(io.StringIO(text, newline=""), strict=True)
        absent = [name for name in COLUMNS if name not in (reader.fieldnames or ())]
        if absent:
            found = ", ".join(f"`{name[:40]}`" for name in (reader.fieldnames or ())[:SHOWN]) or "none"
            raise IntegrityError(
                f"`{path}` has no column `{absent[0]}`; it has {found}",
                hint=f"it needs the columns {', '.join(f'`{name}`' for name in COLUMNS)}, in any order",
            )
        return [
            (
                reader.line_num,
                (row["modelId"] or "").strip(),
                _descriptions.cleaned(row["description"] or ""),
                (row["category"] or "").strip(),
            )
            for row in reader
        ]
    except csv.Error as error:
        raise IntegrityError(f"`{path}` is not a CSV: {error}", hint="copy it again") from error
    finally:
        csv.field_size_limit(before)
