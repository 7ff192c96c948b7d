"""Render the scenes of runs under evaluation: drawn ones with the cameras of the reference, and encoded ones as novel views."""

from __future__ import annotations

import time
from collections.abc import Iterator
from pathlib import Path

import numpy as np

from inrflow_core.errors import UsageError
from inrflow_core.evaluation import drawn_shards, results, scene_baselines
from inrflow_core.evaluation.sample_proteins import provenance_facts
from inrflow_core.evaluation.sampling_plan import EvaluatedModel, SamplingWork, plan_samples
from inrflow_core.metrics._inputs import ReferenceStats
from inrflow_core.models import Model
from inrflow_core.sample_files import readers, scene_views, subsets
from inrflow_core.sample_files.collection import ShardCollection
from inrflow_core.sampling import invert, labels, novel_views, provenance, support_cameras
from inrflow_core.sampling.novel_views import ViewPlan, ViewSource

FROM_VIEW, FROM_SURFACE = "from one view", "from its surface"
"""Appended to the name of a run: its scenes, each encoded from one view of the reference, or from points of its surface."""
TRAIN = "train"
"""The split of the training scenes."""
TIMED = 2
"""Views that are rendered to estimate the time."""


def check(target: EvaluatedModel, work: SamplingWork) -> None:
    """Raise UsageError for options that do not apply to scenes, a reference that cannot be rendered, scenes of one view, or
    scenes without the surfaces that the model encodes; renders nothing."""
    plan_samples(target, work)
    expected, scenes = target.domain.output_spec().shape[1:], posed_reference(work)
    if scenes.shape[1:] != expected:
        raise UsageError(
            f"`{target.name}` renders views of {expected[0]} x {expected[1]} pixels, and {scenes.display_name} holds views of "
            f"{scenes.shape[1]} x {scenes.shape[2]}",
            hint=f"prepare the reference with `--resolution {expected[0]}`",
        )
    if any(plan.support is not None for plan in view_plans(work)) and not target.domain.reads_views:
        scene_views.check_surfaces(scenes)


def iter_scene_sets(target: EvaluatedModel, work: SamplingWork, model: Model) -> Iterator[results.EvaluatedSamples]:
    """The views of drawn scenes, for metrics of features, and those of encoded scenes, for metrics of novel views.

    A process that is not the main one renders its share and yields nothing.
    """
    labels.resolve_labels(model, [work.sampling.seed], work.sampling.label)
    for plan in view_plans(work):
        is_drawn = plan.support is None
        encoded = FROM_VIEW if model.domain.reads_views else FROM_SURFACE
        name = target.name if is_drawn else f"{target.name}, {encoded}"
        request = novel_views.request_of(plan, work.sampling.batch)
        options = work.sampling.options(model) if is_drawn else invert.inversion_options(model)
        guide = work.sampling.guide if is_drawn else None
        origin = provenance.provenance(model, target.weights, request, options, guide) | plan.to_json()
        origin |= support_cameras.provenance(model) if is_drawn else {"encoded": encoded}
        path = work.folder / (f"{target.name}.h5" if is_drawn else f"{target.name}-encoded.h5")
        drawn_shards.complete_shard(
            path,
            ViewSource(model, request, options, reporter=work.reporter, views=plan),
            origin,
            work,
            condition=plan.sample_conditions,
            title="rendering drawn scenes" if is_drawn else "rendering encoded scenes",
        )
        if drawn_shards.is_main():
            facts = {**provenance_facts(target, work, model, options, origin), "scenes": len(np.unique(plan.scenes))}
            if not is_drawn:
                del facts["seeds"]  # nothing is random
            matched_by = "" if is_drawn else "view"
            speed = drawn_shards.speed_of(path)
            yield results.EvaluatedSamples(name, readers.open_collection(path), facts, matched_by, speed=speed)


def iter_baselines(work: SamplingWork, training: Path | None = None) -> Iterator[results.EvaluatedSamples]:
    """The training data as predictions of the novel views, if metrics need these (`scene_baselines`).

    Args:
        training: shards of training scenes. None: the `train` split of the reference.
    """
    encoded = [plan for plan in view_plans(work) if plan.support is not None]
    for plan in encoded:
        items = training_scenes(plan.reference, training)
        if items is None:
            work.reporter.warn(
                f"novel views are compared with no baseline: {plan.reference.display_name} are the training scenes, or have none "
                "beside them; `--memorization-set PATH` names other ones"
            )
            continue
        yield from scene_baselines.iter_baselines(plan, items, work.reporter)


def training_scenes(reference: ShardCollection, training: Path | None = None) -> ShardCollection | None:
    """The training scenes of a reference; None if it is the training split itself, or its shards have no such split.

    Raises:
        UsageError: `training` has no cameras, or views of another size.
    """
    if training is None and (reference.split == TRAIN or TRAIN not in readers.split_names(reference.source)):
        return None
    found = readers.open_collection(training or reference.source, TRAIN if training is None else None, prefer=(TRAIN,))
    scenes = scene_views.check_posed(found)
    if scenes.shape[1:] != reference.shape[1:]:
        raise UsageError(
            f"{scenes.display_name} holds views of {scenes.shape[1]} x {scenes.shape[2]} pixels, and "
            f"{reference.display_name} of {reference.shape[1]} x {reference.shape[2]}",
            hint="give training scenes of that size",
        )
    return scenes


def view_plans(work: SamplingWork) -> list[ViewPlan]:
    """What the metrics need rendered: drawn scenes, encoded ones, or both.

    Raises:
        UsageError: the reference has no cameras, or a scene of a single view.
    """
    scenes, kinds = posed_reference(work), {metric.inputs.matched_by for metric in work.metrics}
    plans = []
    if "" in kinds:
        plans.append(novel_views.plan_views(scenes, is_encoded=False, seed=work.sampling.seed))
    if "view" in kinds:
        plans.append(novel_views.plan_views(scenes, is_encoded=True))
    return plans


def posed_reference(work: SamplingWork) -> ShardCollection:
    """The scenes of the reference that are rendered, `work.num` of them, evenly spaced.

    Raises:
        UsageError: they have no cameras.
    """
    if isinstance(work.reference, ReferenceStats):
        raise UsageError(
            f"`{work.reference.source}` holds statistics, and scenes are rendered with the cameras of a reference",
            hint="give shards of scenes with `--reference`",
        )
    return scene_views.check_posed(subsets.evenly_spaced_items(work.reference, work.num))


def estimate_seconds(work: SamplingWork, model: Model) -> float:
    """Seconds to render the scenes of a run, from a few timed views."""
    options, seconds = work.sampling.options(model), 0.0
    for plan in view_plans(work):
        rows = np.arange(min(TIMED, len(plan)))
        start = time.perf_counter()
        novel_views.render(model, plan, rows, options)
        seconds += (time.perf_counter() - start) / len(rows) * len(plan)
    return seconds
