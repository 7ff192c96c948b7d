"""FASTA files: lines end as the format says, control characters stay in their header, gzip is unpacked."""

from __future__ import annotations

import gzip
from pathlib import Path

import pytest

from inrflow_core.errors import IntegrityError, UsageError
from inrflow_core.proteins.fasta import read_fasta

SEQUENCE = "MKTAYIAKQR"


def read(folder: Path, content: bytes) -> list[tuple[str, str]]:
    (folder / "a.fa").write_bytes(content)
    return read_fasta(folder / "a.fa")


@pytest.mark.parametrize("character", "\v\f\x1c\x1d\x1e\x85\u2028\u2029")
def test_a_control_character_in_a_header_begins_no_sequence(character: str, tmp_path: Path) -> None:
    assert read(tmp_path, f">one a{character}MKT\n{SEQUENCE}\n".encode()) == [("one", SEQUENCE)]


@pytest.mark.parametrize("end", ["\n", "\r\n", "\r"], ids=["lf", "crlf", "cr"])
def test_lines_end_at_line_feeds_and_carriage_returns(end: str, tmp_path: Path) -> None:
    content = f">one first{end}MKTA\tYIA{end}KQR {end}>two{end}ACD*{end}".encode()
    assert read(tmp_path, content) == [("one", SEQUENCE), ("two", "ACD")]


@pytest.mark.parametrize("character", ["\v", "\u00a0", "\u2028"])
def test_other_white_space_between_letters_is_refused(character: str, tmp_path: Path) -> None:
    with pytest.raises(UsageError, match="letters that are no amino acid: .* at 4"):
        read(tmp_path, f">one\nMKT{character}AYI\n".encode())


def test_a_gzipped_file_is_unpacked_and_a_cut_one_is_damaged(tmp_path: Path) -> None:
    packed = gzip.compress(f">one\n{SEQUENCE}\n".encode())
    assert read(tmp_path, packed) == [("one", SEQUENCE)]
    assert read(tmp_path, packed + gzip.compress(b">two\nACD\n")) == [("one", SEQUENCE), ("two", "ACD")]
    with pytest.raises(IntegrityError, match="not a complete gzip file"):
        read(tmp_path, packed[:-9])


@pytest.mark.parametrize("packed", [True, False])
def test_a_file_is_not_unpacked_beyond_its_bound(packed: bool, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("inrflow_core.proteins.fasta.LARGEST", 1 << 20)
    content = b">one\n" + b"A" * (2 << 20)
    with pytest.raises(UsageError, match="larger than 1 MiB"):
        read(tmp_path, gzip.compress(content) if packed else content)


@pytest.mark.parametrize("content", [f">caf\xe9\n{SEQUENCE}\n".encode("latin-1"), f">a\n{SEQUENCE}".encode("utf-16")])
def test_another_encoding_is_named(content: bytes, tmp_path: Path) -> None:
    with pytest.raises(UsageError, match="not text in UTF-8"):
        read(tmp_path, content)


def test_letters_of_dna_are_refused_and_short_peptides_of_them_are_not(tmp_path: Path) -> None:
    path = tmp_path / "a.fa"
    path.write_text(">dna\nACGTACGTGGCC\n")
    with pytest.raises(UsageError, match="`dna` in .* is DNA: all its 12 letters"):
        read_fasta(path)
    path.write_text(">tag\nGGGGGGGGGGGG\n>short\nACGT\n")
    assert read_fasta(path) == [("tag", "GGGGGGGGGGGG"), ("short", "ACGT")]
