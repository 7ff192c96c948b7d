"""Sample to files: what `inrflow sample` does, and `inrflow upsample` with new samples, as one call."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from types import MappingProxyType
from typing import NamedTuple

from inrflow_core.models import Model
from inrflow_core.runtime.progress import SILENT, Reporter
from inrflow_core.sample_files import writer
from inrflow_core.sampling import condition_inputs, fold, provenance, sharded, support_cameras, write_samples
from inrflow_core.sampling.request import SampleRequest
from inrflow_core.sampling.sharded import SampleJob
from inrflow_core.sets import Condition


class InputCondition(NamedTuple):
    """The condition of samples that a user's input makes."""

    rows: Condition = MappingProxyType({})
    """One row for all samples, or several that seeds take in turn (`condition_inputs.condition_of_seeds`)."""
    origin: Mapping[str, str] = MappingProxyType({})
    """Its entries in the provenance of all samples."""
    entries: Sequence[Mapping[str, str]] = ()
    """For each row what the file of one sample names; empty for nothing."""
    notes: Sequence[str] = ()
    """What a person may have overlooked in the input."""


MakeCondition = Callable[[Model], InputCondition]
"""Computes the condition of the samples of a model."""


@dataclass(frozen=True)
class OutputSettings:
    """How samples are written."""

    save_field: Path | None = None
    """Also save the functions of the samples in this .safetensors file."""
    half: bool = False
    """Save the functions in fp16."""
    fasta: Path | None = None
    """Fold every sequence of this file; `SampleJob.out` is then `FOLDER/name.pdb` or `FOLDER/name.cif` (see `fold`)."""
    encoder_weights: Path | None = None
    """Weights of the network that encodes the sequences. Default: those in the folder of all weights."""
    workers: int = 1
    """Processes that fill a folder of shards together."""
    sheet: Path | None = None
    """Also write a .png file of all samples with captions; not beside shards and folded sequences."""
    overwrite: bool = False


class WrittenSamples(NamedTuple):
    """The files of a request's samples and their provenance."""

    files: list[Path]
    """The files, or the folder of shards."""
    origin: dict[str, str]
    """The provenance that all samples share; with `fasta`, each file also names its sequence."""
    request: SampleRequest
    """The request with its conditions."""


def sample_to_files(
    job: SampleJob,
    *,
    model: Model | None = None,
    condition: MakeCondition | None = None,
    output: OutputSettings | None = None,
    reporter: Reporter = SILENT,
) -> WrittenSamples:
    """Draw the samples of a job and write them: a file by its suffix, a folder of shards, or a structure per sequence.

    Args:
        job: its `origin` has entries to add to the provenance, which is computed here.
        model: the model of `job.weights`, if the caller has loaded it.
        condition: makes the condition of the samples. Default: `job.request.condition`.

    Raises:
        UsageError: an option that the model does not have, no such format, or existing output without `overwrite`.
        MissingError, IntegrityError: a weights file does not exist, or is damaged.
        Diverged, OutOfMemory, Interrupted: sampling failed or was interrupted.
    """
    output = output or OutputSettings()
    source = job.open_source(reporter, model)
    origin = provenance.provenance(source.model, job.weights, job.request, source.options, job.guide)
    job = replace(job, origin={**origin, **support_cameras.provenance(source.model), **job.origin})
    if output.fasta is not None:
        weights, overwrite = output.encoder_weights, output.overwrite
        files = fold.fold(source, output.fasta, job.out, job.origin, weights=weights, overwrite=overwrite)
        return WrittenSamples(files, dict(job.origin), job.request)
    if condition is not None:
        made, seeds = condition(source.model), job.request.seeds
        for note in made.notes:
            reporter.warn(note)
        count = len(made.entries)
        unused = count - len({seed % count for seed in seeds}) if count else 0
        if unused:
            reporter.log(f"{unused:,} of {count:,} inputs are not used: `--num {count}` takes each of them once")
        request = replace(
            job.request,
            condition=condition_inputs.condition_of_seeds(made.rows, seeds),
            entries=[made.entries[seed % count] for seed in seeds] if count else None,
        )
        job = replace(job, request=request, origin={**job.origin, **made.origin})
        source = replace(source, request=job.request)
    return WrittenSamples(_write(job, source, output), dict(job.origin), job.request)


def _write(job: SampleJob, source: write_samples.SampleSource, output: OutputSettings) -> list[Path]:
    field, overwrite = None, output.overwrite
    is_file = writer.format_suffix(job.out, source.model.domain.NAME) not in ("", writer.SHARD)
    if is_file:
        write_samples.check_frame_rate(source.model, job.request.size, job.out)
    if output.save_field is not None:
        field = write_samples.save_fields(source, output.save_field, half=output.half, overwrite=overwrite)
    if not is_file:
        return sharded.sample_shards(
            job, workers=output.workers, overwrite=overwrite, reporter=source.reporter, source=source
        )
    return write_samples.write_samples(
        source, job.out, job.origin, overwrite=overwrite, field=field, sheet=output.sheet
    )
