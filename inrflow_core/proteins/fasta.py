"""Read protein sequences from FASTA files, plain or gzipped."""

from __future__ import annotations

import gzip
import io
import re
import zlib
from pathlib import Path

from inrflow_core.errors import IntegrityError, MissingError, UsageError
from inrflow_core.proteins import residues
from inrflow_core.storage.plain_file import did_you_mean_path

LARGEST = 1 << 28
"""Bytes of an unpacked file, some 500,000 sequences."""
GZIP = b"\x1f\x8b"
LINE_END = re.compile("\r\n|\r|\n")
"""Other control characters end no line: they may stand in a header."""
NUCLEOTIDES, SHORTEST_DNA = set("ACGT"), 10
"""Letters of DNA, which are amino acids too, and the length from which three kinds of them alone are no protein."""


def read_fasta(path: Path) -> list[tuple[str, str]]:
    """The names and sequences of a FASTA file, in order; a name is the first word behind `>`.

    Spaces and tabs between letters and a `*` at the end of a sequence are left out.

    Raises:
        MissingError: there is no such file.
        IntegrityError: its gzip is damaged.
        UsageError: it is not UTF-8 text, or too large; it holds no sequence, an empty one, letters that are no amino
            acid, nucleotides, something before the first name, or two of one name.
    """
    if not path.is_file():
        raise MissingError(
            f"the FASTA file `{path}` does not exist", hint=did_you_mean_path(path, "give a file of sequences")
        )
    records: dict[str, list[str]] = {}
    lines: list[str] | None = None
    try:
        text = _content(path).decode("utf-8-sig")
    except UnicodeDecodeError as error:
        raise UsageError(f"`{path}` is not text in UTF-8", hint="give a FASTA file in ASCII or UTF-8") from error
    for number, line in enumerate(LINE_END.split(text), start=1):
        if line.startswith(">"):
            words = line[1:].split()
            name = words[0] if words else f"sequence-{len(records) + 1}"
            if name in records:
                raise UsageError(f"`{path}` has two sequences named `{name}`, line {number}", hint="name them apart")
            lines = records[name] = []
        elif line.strip() and lines is None:
            raise UsageError(f"`{path}` begins without a name, line {number}", hint="put a line `>NAME` before it")
        elif lines is not None:
            lines.append(line.replace(" ", "").replace("\t", ""))
    if not records:
        raise UsageError(f"`{path}` holds no sequence", hint="a sequence is a line `>NAME` and lines of letters")
    sequences = {name: "".join(parts).removesuffix("*") for name, parts in records.items()}
    for name, sequence in sequences.items():
        if not sequence:
            raise UsageError(f"the sequence `{name}` in `{path}` is empty", hint="give it letters, or take it out")
        try:
            residues.to_codes(sequence)
        except UsageError as error:
            raise UsageError(f"`{name}` in `{path}`: {error.message}", hint=error.hint) from error
        letters = set(sequence.upper())
        if len(sequence) >= SHORTEST_DNA and letters <= NUCLEOTIDES and len(letters) > 2:
            raise UsageError(
                f"`{name}` in `{path}` is DNA: all its {len(sequence):,} letters are A, C, G or T",
                hint="translate it; a peptide of these residues alone can be given by `--sequence`",
            )
    return list(sequences.items())


def _content(path: Path) -> bytes:
    """The bytes of a file, unpacked where they are gzipped, by their first two and not by the name."""
    with path.open("rb") as file:
        content = file.read(LARGEST + 1)
    if content.startswith(GZIP):
        try:
            with gzip.GzipFile(fileobj=io.BytesIO(content)) as packed:
                content = packed.read(LARGEST + 1)
        except (OSError, EOFError, zlib.error) as error:
            raise IntegrityError(f"`{path}` is not a complete gzip file: {error}", hint="copy it again") from error
    if len(content) > LARGEST:
        raise UsageError(f"`{path}` is larger than {LARGEST >> 20} MiB", hint="split it into several files")
    return content
