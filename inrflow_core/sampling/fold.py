"""Fold every sequence of a FASTA file, each into one structure file."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path

from inrflow_core.errors import IntegrityError, UsageError
from inrflow_core.proteins import fasta, structure_writer
from inrflow_core.sample_files import writer
from inrflow_core.sampling import condition_inputs, sample
from inrflow_core.sampling.write_samples import SampleSource

SAFE_CHARACTERS = "-_.+"
"""Allowed in a file's name beside ASCII letters and digits."""


def fold(
    source: SampleSource,
    sequences: Path,
    out: Path,
    origin: Mapping[str, str],
    *,
    weights: Path | None = None,
    overwrite: bool = False,
) -> list[Path]:
    """Fold every sequence of a FASTA file with the seeds of the request; returns one file of each sequence.

    A file of the same provenance that exists already is not sampled again: the same call resumes.

    Args:
        out: the folder, and a file's name in it whose suffix is the format: `FOLDER/name.pdb` or `FOLDER/name.cif`.
        weights: the folder of the sequence encoder's weights, if it is not the default.

    Raises:
        UsageError: two names give one file, or a file has another provenance, without `overwrite`; both are raised
            before sampling starts. A letter is not one of the 20 amino acids.
    """
    model, request = source.model, source.request
    records = fasta.read_fasta(sequences)
    files = output_paths([name for name, _ in records], out)
    origins = [{**origin, "sequence": sequence.upper()} for _, sequence in records]
    missing = [i for i, path in enumerate(files) if overwrite or not is_folded(path, origins[i])]
    device = str(next(model.method.parameters()).device)
    encode = condition_inputs.make_encoder(model, "sequence", weights, device)
    out.parent.mkdir(parents=True, exist_ok=True)
    if len(missing) < len(files):
        source.reporter.log(f"{len(files) - len(missing):,} of {len(files):,} sequences are folded already")
    if not missing:
        return files
    with source.reporter.progress("folding", "sequences", len(missing)) as progress:
        for done, index in enumerate(missing, 1):
            condition = condition_inputs.repeat_condition(encode(records[index][1]), len(request.seeds))
            own = replace(request, condition=condition)
            parts = [values for _, values in source.draw(own)]
            structures = sample.concatenate(parts)
            writer.write(files[index], structures, model.domain.NAME, origin=origins[index], overwrite=overwrite)
            progress(done, len(missing))
    return files


def output_paths(names: list[str], out: Path) -> list[Path]:
    """The file of each sequence, in the folder and with the suffix of `out`.

    Raises:
        UsageError: two names give the same file.
    """
    names_of_files: dict[str, str] = {}
    for name in names:
        file = f"{safe_filename(name)}{out.suffix}"
        first = names_of_files.setdefault(file, name)
        if first != name:
            raise UsageError(
                f"the sequences `{first}` and `{name}` would both become `{file}`", hint="rename one of them"
            )
    return [out.with_name(f"{safe_filename(name)}{out.suffix}") for name in names]


def is_folded(path: Path, origin: Mapping[str, str], *, overwrite: bool = False) -> bool:
    """Whether a structure file exists and has this provenance.

    Raises:
        UsageError: it exists with another one, and `overwrite` is off.
        IntegrityError: it does not match its digest, and `overwrite` is off.
    """
    if not path.exists():
        return False
    if path.is_file() and structure_writer.is_damaged(path):
        if overwrite:
            return False
        raise IntegrityError(
            f"`{path}` is damaged: its content does not match the digest in it", hint="delete it, or add `--overwrite`"
        )
    is_same = path.is_file() and structure_writer.has_provenance(path, origin)
    if not is_same and not overwrite:
        raise UsageError(
            f"`{path}` exists, with samples of other options", hint="add `--overwrite`, or choose another folder"
        )
    return is_same


def safe_filename(name: str) -> str:
    """A sequence's name as a file name: path separators, and all that is not ASCII, become `_`."""
    safe = "".join(
        letter if letter.isascii() and (letter.isalnum() or letter in SAFE_CHARACTERS) else "_" for letter in name
    )
    return safe.lstrip(".")[:128] or "_"
