"""Fold the proteins of a reference with a run under evaluation: one .pdb file for each sample."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Any

from inrflow_core.evaluation import drawn_shards
from inrflow_core.evaluation.sampling_plan import (
    EvaluatedModel,
    SamplingWork,
    plan_samples,
    sample_request,
    unique_names,
)
from inrflow_core.models import Model
from inrflow_core.runtime import distributed
from inrflow_core.sample_files import readers, writer
from inrflow_core.sample_files.collection import SampleCollection
from inrflow_core.sampling import optimize, provenance, reference_inputs
from inrflow_core.sampling.fold import is_folded, safe_filename
from inrflow_core.sampling.reference_inputs import ReferenceSamplingPlan


def sample_proteins(
    target: EvaluatedModel, work: SamplingWork, model: Model
) -> tuple[SampleCollection | None, dict[str, Any]]:
    """The structures of a target, one .pdb file each, and their metadata; existing files are reused.

    Each process of a launcher folds its share of the proteins. The main process waits for all files and returns them; the
    others return None.

    Raises:
        UsageError: a file exists with samples of other options, without `overwrite`.
    """
    plan, options = plan_samples(target, work), work.sampling.options(model)
    assert plan is not None
    reference_inputs.check(plan, model)
    request = sample_request(model, work, plan)
    origin = provenance.provenance(model, target.weights, request, options, work.sampling.guide)
    model, options = optimize.optimize_for_inference(model, options, compile=work.sampling.compile)
    names = plan.reference.item_names()
    folder = work.folder / target.name
    files = _files(folder, names, plan)
    origins = [
        {**origin, "seeds": str(seed), "protein": names[owner]}
        for seed, owner in zip(plan.seeds, plan.reference_indices, strict=True)
    ]
    here = distributed.find(os.environ, "cpu")
    rows = [
        range(i * plan.samples_per_item, (i + 1) * plan.samples_per_item)
        for i in range(here.rank, plan.reference.count, here.size)
    ]
    missing = [
        [row for row in item if not is_folded(files[row], origins[row], overwrite=work.overwrite)] for item in rows
    ]
    total, done = sum(map(len, missing)), 0
    with drawn_shards.timed(folder, total), work.reporter.progress("folding", "structures", total) as progress:
        for item in filter(None, missing):
            files[item[0]].parent.mkdir(parents=True, exist_ok=True)
            for row, structure in reference_inputs.sample_structures(model, plan, item, request, options):
                writer.write(files[row], [structure], model.domain.NAME, origin=origins[row], overwrite=True)
                done += 1
                progress(done, total)
    first, last = plan.seeds[0], plan.seeds[plan.samples_per_item - 1]
    facts = provenance_facts(target, work, model, options, origin)
    facts["seeds"] = str(first) if first == last else f"{first}-{last}"
    if here.rank != 0:
        return None, facts
    drawn_shards.await_samples(lambda: all(file.is_file() for file in files), work.reporter.log)
    stored = [(f"{names[item]}/{file.name}", file) for item, file in zip(plan.reference_indices, files, strict=True)]
    return readers.structures_in(folder, stored, model.domain.NAME), facts


def provenance_facts(
    target: EvaluatedModel, work: SamplingWork, model: Model, options: Any, origin: dict[str, str]
) -> dict[str, Any]:
    """The metadata of a target's samples in metrics.json and report.html."""
    return {
        **{key: text for key, text in origin.items() if key != "labels"},
        "samples_per_item": work.sampling.samples_per_item,
        "nfe": options.num_evaluations,
        "parameters": sum(parameter.numel() for parameter in model.method.parameters()),
        "samples_seen": model.metadata.get("samples_seen"),
        "flops": model.metadata.get("flops"),
        "run": target.run,
    }


def _files(folder: Path, names: list[str], plan: ReferenceSamplingPlan) -> list[Path]:
    """The file of each sample: `PROTEIN/NUMBER.pdb`."""
    stems = unique_names([safe_filename(name) for name in names])
    return [
        folder / stems[owner] / f"{row % plan.samples_per_item}.pdb" for row, owner in enumerate(plan.reference_indices)
    ]
