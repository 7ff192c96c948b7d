"""Databases are read page by page: every key and value as `lmdb` reads them, and damage is an error."""

from __future__ import annotations

import random
from pathlib import Path

import lmdb
import pytest

from inrflow_core.datasets import _lmdb_pages
from inrflow_core.errors import IntegrityError, UnreadableItemError


@pytest.fixture(scope="module")
def database(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, dict[bytes, bytes]]:
    """A database with values on leaves and on pages of their own, some of them written twice and some deleted."""
    folder, rng = tmp_path_factory.mktemp("database"), random.Random(0)
    content = {f"{rng.getrandbits(160):040x}".encode(): rng.randbytes(rng.choice((3, 900, 9000))) for _ in range(400)}
    with lmdb.open(str(folder), map_size=1 << 26) as environment:
        for part in (list(content)[:250], list(content)):
            with environment.begin(write=True) as transaction:
                for key in part:
                    transaction.put(key, content[key])
        with environment.begin(write=True) as transaction:
            for key in list(content)[:40]:
                transaction.delete(key)
                del content[key]
    return folder / "data.mdb", content


def test_every_key_and_value_is_as_lmdb_reads_it(database: tuple[Path, dict[bytes, bytes]]):
    path, content = database
    assert [(key, record.read()) for key, record in _lmdb_pages.records(path)] == sorted(content.items())
    assert any(record.page >= 0 for _, record in _lmdb_pages.records(path))


def test_an_empty_database_has_no_keys(tmp_path: Path):
    lmdb.open(str(tmp_path)).close()
    assert _lmdb_pages.records(tmp_path / "data.mdb") == []


def test_a_database_that_is_cut_off_anywhere_is_refused(database: tuple[Path, dict[bytes, bytes]], tmp_path: Path):
    path, _ = database
    content, copy = path.read_bytes(), tmp_path / "data.mdb"
    for number in range(20):
        copy.write_bytes(content[: len(content) * number // 20])
        with pytest.raises(IntegrityError, match="is not a complete database"):
            _lmdb_pages.records(copy)


def test_damaged_bytes_are_errors_and_never_the_end_of_the_process(
    database: tuple[Path, dict[bytes, bytes]], tmp_path: Path
):
    path, content = database
    whole, copy, rng = path.read_bytes(), tmp_path / "data.mdb", random.Random(0)
    for _ in range(150):
        damaged = bytearray(whole)
        start = rng.randrange(2, len(whole) // 4096) * 4096 + rng.randrange(120)  # headers and tables of entries
        damaged[start : start + 4] = rng.randbytes(4)
        copy.write_bytes(damaged)
        try:
            for key, record in _lmdb_pages.records(copy):
                assert len(record.read()) <= len(whole) and len(key) <= 511 and content
        except (IntegrityError, UnreadableItemError):
            continue
