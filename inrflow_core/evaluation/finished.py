"""An evaluation that was finished before: its settings, recorded beside the cached features, and its stored results.

`cache/settings.json` is written after metrics.json and report.html. The same command then reads metrics.json instead of
computing it again; another one is refused, with the setting that differs. Paths are compared by what they hold.
"""

from __future__ import annotations

import json
import os
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from inrflow_core import __version__
from inrflow_core.errors import MissingError, UsageError
from inrflow_core.evaluation import results
from inrflow_core.evaluation.results import EvaluatedSamples, Results, Score, StoredResults, StoredSamples, StoredScores
from inrflow_core.evaluation.sampling_plan import EvaluatedModel, SamplingSettings
from inrflow_core.sample_files import readers
from inrflow_core.storage import atomic_write, plain_file, typed_json

SETTINGS = "settings.json"
DIGITS = 8
"""Hexadecimal digits of a digest in the text of a setting."""
HINT = "add `--overwrite` (samples and cached features are used again), or name another folder"
OF_SAMPLING = (
    "seed",
    "label",
    "sampler",
    "steps",
    "resolution",
    "points",
    "view",
    "samples_per_item",
    "ema",
    "precision",
)
"""Fields of `SamplingSettings` whose options have their names. The others do not change samples, or are part of the weights."""


@dataclass(frozen=True)
class Record:
    """The settings of a finished evaluation."""

    settings: dict[str, str]
    """By option, its value as text."""
    metrics: str
    """Digest of metrics.json."""
    report: str
    """Digest of report.html."""
    speeds: dict[str, float]
    """Samples per second by the name of the samples, which metrics.json leaves out."""


def text_of(value: Any) -> str:
    """A setting as text: `none` without one, several with commas."""
    if value is None or value == []:
        return "none"
    if isinstance(value, bool):
        return "yes" if value else "no"
    return ", ".join(map(str, value)) if isinstance(value, list | tuple) else str(value)


def sampling_texts(sampling: SamplingSettings) -> dict[str, str]:
    """The settings of samples by option, as text."""
    texts = {f"--{name.replace('_', '-')}": text_of(getattr(sampling, name)) for name in OF_SAMPLING}
    changes = {"sampler": sampling.sampler_settings, "method": sampling.method_settings}
    changed = {f"{table}.{key}": value for table, values in changes.items() for key, value in values.items()}
    texts["--set"] = text_of([f"{name}={text_of(value)}" for name, value in sorted(changed.items())])
    texts["--guide-run"] = "none" if sampling.guide is None else _file_text(sampling.guide.stem, sampling.guide)
    return texts


def setting_texts(job: Any, metrics: Sequence[str], num: int, classes: Sequence[str], networks: str) -> dict[str, str]:
    """The settings of an `EvaluationJob` by option, but for those that change no result; `networks` has digests of their weights."""
    own = {
        "--metrics": list(metrics),
        "--num": num,
        "--classes": list(classes),
        "--reference-num": job.reference_num,
        "--samples-split": job.samples_split,
        "--memorization-set": _items_text(job.memorization_set, ("train",)),
        "--copies": job.searches_copies,
        "--condition-images": _items_text(job.condition_images),
        "--weights": networks.removeprefix(", ") or None,
        "--sweep": [f"{each.setting}={text_of(each.values)}" for each in job.sweeps],
        "--interpolation-baselines": job.has_baselines,
        "version of inrflow": __version__,
    }
    return {name: text_of(value) for name, value in own.items()} | sampling_texts(job.sampling)


def input_texts(
    targets: Sequence[EvaluatedModel], existing: Sequence[EvaluatedSamples], reference: Mapping[str, Any]
) -> dict[str, str]:
    """The runs, samples and the reference by option, as names with digests; `reference` as in metrics.json."""
    labels = [one.label for one in targets if one.label is not None]
    named = {key: value for key, value in reference.items() if key != "digest" and value is not None}
    return {
        "--run": text_of([_file_text(one.name, one.weights) for one in targets]),
        "--samples": text_of([f"{one.name} ({one.items.digest[:DIGITS]}...)" for one in existing]),
        "--name": text_of(labels),
        "--reference": f"{text_of(list(named.values()))} ({reference['digest'][:DIGITS]}...)",
    }


def is_recorded(out: Path, cache: Path) -> bool:
    """Whether `out` has results that record their settings."""
    return all(os.path.isfile(path) for path in (out / results.METRICS, out / results.REPORT, cache / SETTINGS))


def stored(
    out: Path, cache: Path, settings: Mapping[str, str], missing: Mapping[str, MissingError]
) -> StoredResults | None:
    """The results in `out` if they were finished with these settings; None if there are none.

    `missing` are the metrics whose weights are absent now; results that lack others are of other settings.

    Raises:
        UsageError: they are of other settings; names the first that differs.
        IntegrityError: metrics.json or the record cannot be read.
    """
    file = out / results.METRICS
    if not is_recorded(out, cache):
        return None
    record = typed_json.read_record(cache / SETTINGS, Record, hint=f"delete it; {HINT}")
    for written, digest in ((file, record.metrics), (out / results.REPORT, record.report)):
        if digest != plain_file.file_digest(written):
            raise UsageError(f"`{written}` exists already, and was changed since it was written", hint=HINT)
    for name in sorted({*record.settings, *settings}):
        was, now = record.settings.get(name, "none"), settings.get(name, "none")
        if was != now:
            raise UsageError(f"`{file}` exists already, with `{name}` = {was}, and this command says {now}", hint=HINT)
    read = _read(file, record.speeds, missing)
    if not {*(read.table.get("missing") or ())} <= {*missing}:
        raise UsageError(f"`{file}` exists already, and lacks metrics whose weights are here now", hint=HINT)
    return read


def record(out: Path, cache: Path, settings: Mapping[str, str], evaluated: Results) -> None:
    """Record that an evaluation is finished, with all of its metrics."""
    samples = [one.sample_set for one in evaluated.scored]
    speeds = {one.name: one.speed for one in samples if one.speed is not None}
    metrics, report = (plain_file.file_digest(out / name) for name in (results.METRICS, results.REPORT))
    entry = Record(dict(settings), metrics, report, speeds)
    cache.mkdir(parents=True, exist_ok=True)
    with atomic_write.atomic_write(cache / SETTINGS) as beside:
        beside.write_text(json.dumps(typed_json.to_plain(entry), indent=1) + "\n", encoding="utf-8")


def forget(cache: Path) -> None:
    """Remove the record of an evaluation whose files are about to be replaced."""
    (cache / SETTINGS).unlink(missing_ok=True)


def _read(file: Path, speeds: Mapping[str, float], missing: Mapping[str, MissingError]) -> StoredResults:
    """The results in metrics.json."""
    table = typed_json.read_table(file, hint=HINT)
    scored = []
    for entry in typed_json.typed(table.get("results"), list[dict[str, Any]], f"`results` of `{file}`", hint=HINT):
        what = f"the scores of `{file}`"
        scores = typed_json.typed(entry.get("scores"), list[Score], what, hint=HINT)
        facts = typed_json.typed(entry.get("facts"), dict[str, Any], what, hint=HINT)
        name = str(entry.get("name"))
        scored.append(StoredScores(StoredSamples(name, facts, speeds.get(name)), scores))
    return StoredResults(table, scored, missing)


def _items_text(path: Path | None, prefer: Sequence[str] = ()) -> str | None:
    """A folder or file of samples as its name with its digest."""
    return None if path is None else f"{path.name} ({readers.open_collection(path, prefer=prefer).digest[:DIGITS]}...)"


def _file_text(name: str, weights: Path) -> str:
    return f"{name} ({plain_file.file_digest(weights)[:DIGITS]}...)"
