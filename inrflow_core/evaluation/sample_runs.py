"""Sample the runs under evaluation; existing samples are reused.

Images and point clouds of a run are one shard, structures one .pdb file each. Every process of a launcher samples its
share; the main process waits for the others.
"""

from __future__ import annotations

import time
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

from inrflow_core.evaluation import (
    drawn_shards,
    reconstructions,
    results,
    sample_proteins,
    sample_scenes,
    shape_sets,
)
from inrflow_core.evaluation.sample_proteins import provenance_facts
from inrflow_core.evaluation.sampling_plan import (
    EvaluatedModel,
    SamplingWork,
    class_counts,
    load_model,
    num_samples,
    plan_samples,
    sample_request,
)
from inrflow_core.metrics._inputs import Cost
from inrflow_core.models import Model
from inrflow_core.sample_files import readers, subsets
from inrflow_core.sampling import labels, provenance, reference_inputs, request, sample
from inrflow_core.sampling.options import options_for_labels
from inrflow_core.sampling.request import Size
from inrflow_core.sampling.write_samples import SampleSource

INTERPOLATION_BASELINES = ("bilinear", "bicubic")
PROBED = 4
"""Samples that time is measured on where a batch follows from the latents, and may have many queries."""


def iter_sample_sets(
    target: EvaluatedModel, work: SamplingWork, *, has_baselines: bool
) -> Iterator[results.EvaluatedSamples]:
    """The samples of one target, and its interpolation baselines: interpolated samples at the training resolution.

    A process that is not the main one samples its share and yields nothing.
    """
    model = load_model(target, work)
    if model.domain.HAS_CAMERAS:
        yield from sample_scenes.iter_scene_sets(target, work, model)
        return
    size = work.sampling.size(model.domain)
    if model.domain.MAKES_STRUCTURES:
        samples, facts = sample_proteins.sample_proteins(target, work, model)
        if samples is not None:
            speed = drawn_shards.speed_of(samples.source)
            yield results.EvaluatedSamples(target.name, samples, facts, speed=speed)
        return
    if drawn_shards.is_main():
        meshes = shape_sets.mesh_set(target, work, model)
        if meshes is not None:
            yield meshes
    if work.draws_samples:
        path, facts = _sample(target, work, model, size)
        if drawn_shards.is_main():
            speed = drawn_shards.speed_of(path)
            yield results.EvaluatedSamples(target.name, readers.open_collection(path), facts, speed=speed)
    if drawn_shards.is_main():
        yield from reconstructions.iter_sets(target, work, model, INTERPOLATION_BASELINES if has_baselines else ())
    if has_baselines and work.draws_samples and isinstance(size, tuple):
        path, facts = _sample(target, work, model, None)
        for filter in INTERPOLATION_BASELINES if drawn_shards.is_main() else ():
            resized = subsets.resized(readers.open_collection(path), size, filter)
            name = f"{target.name}, {filter}"
            yield results.EvaluatedSamples(name, resized, {**facts, "enlarged": filter, "run": name})


def estimate_costs(target: EvaluatedModel, work: SamplingWork) -> Iterator[Cost]:
    """What is generated, rendered and encoded of a target, with the seconds."""
    model = load_model(target, work)
    if model.domain.HAS_CAMERAS:
        count = num_samples(target, work)
        yield f"render the views of {count:,} scenes of `{target.name}`", sample_scenes.estimate_seconds(work, model)
        return
    if work.draws_samples:
        yield (
            f"generate {num_samples(target, work):,} samples of `{target.name}`",
            _drawing_seconds(target, work, model),
        )
    meshes = shape_sets.mesh_set(target, work, model)
    if meshes is not None:
        title = f"draw and examine {meshes.items.count:,} meshes of `{target.name}`"
        yield title, shape_sets.estimate_seconds(meshes.items)
    if work.originals is not None and reconstructions.is_reconstructed(target, work):
        title = f"encode {work.originals.count:,} held-out {model.domain.NOUN} by `{target.name}`"
        yield title, reconstructions.estimate_seconds(work, model)


def _drawing_seconds(target: EvaluatedModel, work: SamplingWork, model: Model) -> float:
    """Seconds to sample a target, measured on one batch: two solver steps, or whole samples if there is no solver."""
    settings, plan = work.sampling, plan_samples(target, work)
    whole = sample_request(model, work, plan)
    probe = options = settings.options(model, whole.labels)
    if model.preset.sampler is not None:
        probe = options_for_labels(
            model, whole.labels, sampler="euler", steps=2, method_settings=settings.method_settings
        )
    batch = settings.batch or request.default_batch_size(model, whole)
    most = batch if model.method.num_latents is None else PROBED
    rows = range(min(batch, most, len(whole.seeds)))
    if plan is not None and model.domain.MAKES_STRUCTURES:
        rows = range(min(batch, plan.samples_per_item))
    own_labels = None if whole.labels is None else [whole.labels[row] for row in rows]
    condition = {} if plan is None else reference_inputs.condition(model, plan, rows)
    part = replace(whole, seeds=[whole.seeds[row] for row in rows], labels=own_labels, batch=batch, condition=condition)
    start = time.perf_counter()
    for _ in sample.iter_samples(model, part, probe):
        pass
    each = (time.perf_counter() - start) / len(rows) / probe.num_evaluations
    return each * options.num_evaluations * len(whole.seeds)


def _sample(target: EvaluatedModel, work: SamplingWork, model: Model, size: Size) -> tuple[Path, dict[str, Any]]:
    """The shard of a target's samples, of which missing parts are sampled, and its metadata."""
    plan = plan_samples(target, work)
    sized_request = replace(sample_request(model, work, plan), size=size)
    options = work.sampling.options(model, sized_request.labels)
    origin = provenance.provenance(model, target.weights, sized_request, options, work.sampling.guide)
    if plan is not None:
        reference_inputs.check(plan, model)
        origin |= plan.to_json()
    suffix = "" if size is None else f"-{origin['size']}"
    path = work.folder / f"{target.name}{suffix}.h5"
    drawn_shards.complete_shard(
        path,
        SampleSource(model, sized_request, options, plan, work.reporter),
        origin,
        work,
        condition={} if plan is None else plan.sample_conditions,
        title="sampling" if plan is None else f"sampling from {reference_inputs.noun_of(plan.kind)}",
    )
    facts = provenance_facts(target, work, model, options, origin)
    if sized_request.labels is None:
        return path, facts | {"label": None}
    frequencies = labels.class_frequencies(model, class_counts(work.reference))
    return path, facts | {"label": work.sampling.label or ("uniform" if frequencies is None else "as in the reference")}
