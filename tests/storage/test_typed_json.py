"""Our own JSON: every malformed value is an IntegrityError that names file, key, what was expected and what was found."""

from __future__ import annotations

import contextlib
import json
import os
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

import pytest

from inrflow_core.errors import Exit, IntegrityError, MissingError
from inrflow_core.mesh_files import gltf
from inrflow_core.preparation import job, journal, pipeline
from inrflow_core.runs import best, checkpoint_manifest
from inrflow_core.runs.run import open_run, resolve_weights
from inrflow_core.shards import manifest
from inrflow_core.storage import typed_json
from inrflow_core.training import checkpoint, run_folder
from tests import tiny


@dataclass(frozen=True)
class Part:
    """A table inside another."""

    name: str
    sizes: tuple[int, ...] = ()


@dataclass(frozen=True)
class Record:
    """One of every kind of value."""

    step: int
    rate: float
    parts: dict[str, Part]
    pair: tuple[str, int]
    note: str | None = None
    mode: Literal["fast", "slow"] = "fast"


GOOD = {"step": 3, "rate": 2, "parts": {"a": {"name": "x", "sizes": [1, 2]}}, "pair": ["y", 4]}
BAD: dict[str, tuple[Any, str]] = {
    "a list": ([], r"its content must be a table, and is \[\]"),
    "a missing key": ({key: value for key, value in GOOD.items() if key != "step"}, "`step` is missing"),
    "an unknown key": (GOOD | {"steps": 1}, "`steps` is not a key that belongs there"),
    "a text for a number": (GOOD | {"step": "3"}, "`step` must be a whole number, and is '3'"),
    "a number with a fraction": (GOOD | {"step": 3.5}, "`step` must be a whole number, and is 3.5"),
    "true for a number": (GOOD | {"step": True}, "`step` must be a whole number, and is True"),
    "nothing for a number": (GOOD | {"rate": None}, "`rate` must be a number, and is None"),
    "a number for a text": (GOOD | {"note": 1}, "`note` must be a text, and is 1"),
    "another word": (GOOD | {"mode": "quick"}, "`mode` must be one of 'fast', 'slow', and is 'quick'"),
    "a number for a word": (GOOD | {"mode": 1}, "`mode` must be one of 'fast', 'slow', and is 1"),
    "a list for a table": (GOOD | {"parts": [1]}, r"`parts` must be a table, and is \[1\]"),
    "a key inside": (GOOD | {"parts": {"a": {}}}, r"`parts\.a\.name` is missing"),
    "a list's entry": (
        GOOD | {"parts": {"a": {"name": "", "sizes": [1, "2"]}}},
        r"`parts\.a\.sizes\[1\]` must be a whole number, and is '2'",
    ),
    "a pair of three": (GOOD | {"pair": ["y", 4, 5]}, "`pair` must have 2 entries, and has 3"),
    "a long text": (GOOD | {"step": "x" * 100}, r"`step` must be a whole number, and is 'x{36}\.\.\."),
}


def test_a_record_is_typed_through_and_through(tmp_path: Path):
    (tmp_path / "a.json").write_text(json.dumps(GOOD))
    result = typed_json.read_record(tmp_path / "a.json", Record)
    assert result == Record(3, 2.0, {"a": Part("x", (1, 2))}, ("y", 4), None)
    assert isinstance(result.rate, float)
    (tmp_path / "a.json").write_text(json.dumps(GOOD | {"later": 1}))
    assert typed_json.read_record(tmp_path / "a.json", Record, extra=True) == result


@pytest.mark.parametrize(("value", "words"), BAD.values(), ids=BAD)
def test_a_wrong_value_names_file_key_and_both_kinds(value: Any, words: str, tmp_path: Path):
    (tmp_path / "a.json").write_text(json.dumps(value))
    with pytest.raises(IntegrityError, match=rf"a\.json` is damaged: {words}") as caught:
        typed_json.read_record(tmp_path / "a.json", Record)
    assert caught.value.code == Exit.INTEGRITY


TEXTS: dict[str, tuple[bytes, str]] = {
    "empty": (b"", "is not JSON"),
    "cut off": (b'{"step": 3, "ra', "is not JSON"),
    "not UTF-8": (b'{"step": "\xff"}', "is not UTF-8 text"),
    "nested a little too deep": (b"[" * 65 + b"]" * 65, "is nested more than 64 deep"),
    "nested very deep": (b"[" * 200_000, "is nested more than 64 deep|is not JSON"),
    "an integer of 5,000 digits": (b"1" * 5000, "whole number of 5,000 digits"),
    "not a number": (b'{"rate": NaN}', "NaN is not a number of JSON"),
    "infinity": (b'{"rate": -Infinity}', "-Infinity is not a number of JSON"),
    "an integer of 65 bits": (b'{"step": 18446744073709551616}', "more than 64 bits hold"),
}


@pytest.mark.parametrize(("content", "words"), TEXTS.values(), ids=TEXTS)
def test_text_that_is_not_our_json_is_named(content: bytes, words: str, tmp_path: Path):
    (tmp_path / "a.json").write_bytes(content)
    with pytest.raises(IntegrityError, match=r"a\.json` (is|has) "):
        typed_json.read_json(tmp_path / "a.json")
    with pytest.raises(IntegrityError, match=words):
        typed_json.read_json(tmp_path / "a.json")


def test_what_is_not_a_plain_file_of_limited_size_is_refused(tmp_path: Path):
    with pytest.raises(MissingError, match=r"none\.json` does not exist"):
        typed_json.read_json(tmp_path / "none.json")
    (tmp_path / "folder").mkdir()
    with pytest.raises(IntegrityError, match="is a folder, not a file"):
        typed_json.read_json(tmp_path / "folder")
    os.mkfifo(tmp_path / "pipe")
    with pytest.raises(IntegrityError, match="is a pipe or a device, not a file"):
        typed_json.read_json(tmp_path / "pipe")
    with (tmp_path / "large").open("wb") as file:
        file.truncate(typed_json.MAX_BYTES + 1)
    with pytest.raises(IntegrityError, match=r"has 67,108,865 bytes, more than 67,108,864"):
        typed_json.read_json(tmp_path / "large")


def test_torn_and_strange_lines_of_a_log_are_passed_over(tmp_path: Path):
    log = tmp_path / "log.jsonl"
    log.write_bytes(b'{"step": 1}\n[1]\n{"a": \xff}\n' + b"[" * 100_000 + b'\n{"step": 2}\n{"st')
    assert [line["step"] for line in typed_json.json_lines(log)] == [1, 2]
    assert list(typed_json.json_lines(tmp_path / "none.jsonl")) == []


def test_a_line_of_a_log_that_fills_the_memory_is_refused(tmp_path: Path):
    log = tmp_path / "log.jsonl"
    with log.open("wb") as file:
        file.write(b'{"step": 1}\n')
        file.truncate(6 << 30)  # a hole
    lines = typed_json.json_lines(log)
    assert next(lines) == {"step": 1}
    with pytest.raises(IntegrityError, match=r"has a line of more than 16,777,216 bytes"):
        next(lines)


def test_the_types_of_a_record_are_read_once_for_all_of_its_kind(monkeypatch: pytest.MonkeyPatch):
    read: list[type] = []
    hints = typed_json.typing.get_type_hints
    monkeypatch.setattr(typed_json.typing, "get_type_hints", lambda kind: read.append(kind) or hints(kind))
    table = {"nodes": [{"mesh": 0, "translation": [0, 0, 1.5]}] * 1000, "asset": {}}
    assert len(typed_json.typed(table, gltf.Tables, "a file", extra=True).nodes) == 1000
    assert len(read) < 100


# Every record of ours, through what the commands call to read it.

Reader = Callable[[Path], Any]


@pytest.fixture(scope="module")
def made(tmp_path_factory) -> Path:
    """A run with one checkpoint and all its records, and a folder of shards."""
    parent = tmp_path_factory.mktemp("made")
    tiny.run_folder(parent / "run", tiny.POINTS)
    best.record_best(parent / "run", best.Best(2, "fid", 1.5, "words"))
    environment = {"precision": "fp32", "data": "0" * 64, "init_from": None, "versions": {}}
    (parent / "run" / "environment.json").write_text(json.dumps(environment))
    folder = parent / "run" / "checkpoints" / "00000002"
    (folder / "state").mkdir()
    (folder / checkpoint.COUNTERS).write_text(json.dumps({"step": 2, "samples_seen": 4, "flops": 1.0, "updates": 2}))
    pipeline.prepare(job.resolve_job("digits", out=parent / "digits", limit=12), workers=1)
    record = {"file": "train-00000.h5", "split": "train", "skipped": [["a", "b"]], "sums": [1.0], "squares": [1.0]}
    (parent / "digits" / journal.NAME).write_text(json.dumps(record | {"pairs": 3}) + "\n")
    return parent


def read_environment(path: Path) -> Any:
    return run_folder.read_existing_run(path.parent, open_run(path.parent).preset)


RECORDS: dict[str, tuple[str, Reader, tuple[str, ...]]] = {
    "shards' manifest": (
        "digits/manifest.json", lambda path: manifest.load(path.parent),
        ("dataset", "domain", "version", "shape", "dtype", "classes", "normalisation", "settings", "source", "splits"),
    ),
    "checkpoint's manifest": (
        "run/checkpoints/00000002/manifest.json", lambda path: resolve_weights(path.parents[2]), ("files", "ema"),
    ),
    "checkpoint's manifest, resumed": (
        "run/checkpoints/00000002/manifest.json", lambda path: checkpoint_manifest.verify(path.parent), ("files", "ema"),
    ),
    "best.json": ("run/best.json", lambda path: open_run(path.parent).best(), ("step", "metric", "value", "by")),
    "environment.json": ("run/environment.json", read_environment, ("precision", "data", "init_from")),
    "counters.json": (
        "run/checkpoints/00000002/state/counters.json",
        lambda path: typed_json.read_record(path, checkpoint.Counters), (),
    ),
    "journal": (
        f"digits/{journal.NAME}", lambda path: journal.completed_shards(path.parent),
        ("split", "skipped", "sums", "squares", "pairs"),
    ),
}  # fmt: skip
WRONG: list[Any] = [None, -1.5, "²", [["x"]], {"x": {"y": 1}}, True]


def changed(path: Path, content: dict[str, Any]) -> None:
    if path.parent.name == "digits" and path.name == manifest.NAME:
        content.pop("digest", None)
        content["digest"] = manifest._own_digest(content)
    path.write_text(json.dumps(content) + "\n")


@pytest.mark.parametrize("name", RECORDS)
def test_every_record_of_ours_is_an_integrity_error_where_a_key_is_missing_or_of_another_type(name: str, made: Path):
    file, read, required = RECORDS[name]
    path = made / file
    before = path.read_bytes()
    good = json.loads(before)
    try:
        read(path)
        for key in required:
            changed(path, {other: value for other, value in good.items() if other != key})
            with pytest.raises(IntegrityError, match=key):
                read(path)
        for key in good:
            for value in WRONG:
                changed(path, good | {key: value})
                with contextlib.suppress(IntegrityError):  # a few of these values are right for a few keys
                    read(path)
    finally:
        path.write_bytes(before)


@pytest.mark.parametrize("content", ["{", "[]", "3", "", "[" * 100_000, "9" * 5000])
@pytest.mark.parametrize("name", [name for name in RECORDS if name != "journal"])
def test_every_record_of_ours_is_an_integrity_error_where_it_is_not_a_table(name: str, content: str, made: Path):
    file, read, _ = RECORDS[name]
    path = made / file
    before = path.read_bytes()
    try:
        for text in (content.encode(), content.encode() + b"\xff"):
            path.write_bytes(text)
            with pytest.raises(IntegrityError, match=rf"{path.name}`"):
                read(path)
    finally:
        path.write_bytes(before)
