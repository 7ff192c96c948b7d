"""Read protein sequences from FASTA files."""

from __future__ import annotations

from pathlib import Path

from inrflow_core.errors import MissingError, UsageError
from inrflow_core.proteins import residues


def read_fasta(path: Path) -> list[tuple[str, str]]:
    """The names and sequences of a FASTA file, in order; a name is the first word behind `>`.

    Raises:
        MissingError: there is no such file.
        UsageError: it holds no sequence, an empty one, letters that are no amino acid, something before the first name,
            or two of one name.
    """
    if not path.is_file():
        raise MissingError(f"the FASTA file `{path}` does not exist", hint="name a file of sequences")
    records: dict[str, list[str]] = {}
    lines: list[str] | None = None
    try:
        text = path.read_text(encoding="utf-8-sig")
    except UnicodeDecodeError as error:
        raise UsageError(f"`{path}` is not text", hint="give a FASTA file") from error
    for number, line in enumerate(text.splitlines(), start=1):
        if line.startswith(">"):
            words = line[1:].split()
            name = words[0] if words else f"sequence-{len(records) + 1}"
            if name in records:
                raise UsageError(f"`{path}` has two sequences named `{name}`, line {number}", hint="name them apart")
            lines = records[name] = []
        elif line.strip() and lines is None:
            raise UsageError(f"`{path}` begins without a name, line {number}", hint="put a line `>NAME` before it")
        elif lines is not None:
            lines.append("".join(line.split()))
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
    return list(sequences.items())
