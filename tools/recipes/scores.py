"""The metrics of a finished run, as `inrflow eval` computes them, and those of a classifier of digits."""

from __future__ import annotations

import dataclasses
import math
from pathlib import Path
from typing import Any

from inrflow_cli import console
from inrflow_core.errors import Diverged
from inrflow_core.evaluation import job as evaluation
from inrflow_core.evaluation.sampling_plan import SamplingSettings
from inrflow_core.metrics._inputs import ReferenceStats
from inrflow_core.sample_files import readers
from tools.recipes import digit_classifier
from tools.recipes.kinds import Kind
from tools.recipes.trials import Trial, beside, digest, read_result, write_result

MOST_IMAGES = 50_000
"""Most samples of images; of clouds and proteins, as many as the reference has items."""
SHOWN = ("metric", "unit", "value", "interval", "samples", "reference")
"""What a result says of a score."""


def evaluate(trial: Trial, kind: Kind, out: Path, num: int | None = None) -> dict[str, Any]:
    """The scores of a finished run with `num` samples, by default the kind's: those of an earlier call, or computed now.

    1-NNA, MMD and the metrics of proteins compare with as many items as there are: `num` is at most the reference's.
    """
    reference = readers.open_collection(trial.shards, kind.split)
    count = min(num or kind.num, MOST_IMAGES if reference.domain == "image" else reference.count)
    settings = {"metrics": kind.metrics, "num": count, "reference": kind.reference, "split": kind.split}
    if kind.has_digits:
        settings["classifier"] = f"{digit_classifier.PROTOCOL}-{digit_classifier.VERSION}"
    folder = beside(trial.folder(out), f"-eval-{digest(settings)}")
    file = beside(folder, ".json")
    earlier = read_result(file)
    if earlier is not None:
        return earlier
    result: dict[str, Any] = {"key": trial.key, "num": count, "scores": [], "problem": None}
    try:
        result["scores"] = _scores(trial, kind, out, folder, count)
    except Diverged as error:
        result["problem"] = error.message
        console.warn(f"`{folder.name}`: {error.message}")
    write_result(file, result)
    return result


def _scores(trial: Trial, kind: Kind, out: Path, folder: Path, count: int) -> list[dict[str, Any]]:
    """The scores of `count` samples, which are in `folder`; raises Diverged where they or their scores are not finite."""
    reference = readers.open_collection(trial.shards, kind.split)
    job = evaluation.EvaluationJob(
        folder,
        runs=[trial.folder(out)],
        reference=trial.shards,
        metrics=kind.metrics,
        split=kind.split,
        reference_num=min(
            count if reference.domain == "points" else reference.count, kind.reference or reference.count
        ),
        searches_copies=False,
        sampling=SamplingSettings(num=count),
        workers=1,
        overwrite=True,
        reporter=console.reporter(),
    )
    evaluated = evaluation.run_evaluation(evaluation.check_job(job))
    assert evaluated is not None, "one process evaluates"
    assert not isinstance(evaluated.reference, ReferenceStats), "the reference is shards"
    (one,) = evaluated.scored
    scores = [
        {name: value for name, value in dataclasses.asdict(score).items() if name in SHOWN} for score in one.scores
    ]
    if kind.has_digits:
        classifier = digit_classifier.load(trial.shards, out / "classifiers")
        scores += digit_classifier.scores(classifier, one.sample_set.items, evaluated.reference)
    for score in scores:
        if not math.isfinite(score["value"]):
            raise Diverged(f"{score['metric']} of its samples is {score['value']}")
    return scores
