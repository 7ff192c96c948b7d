"""Render scenes as the views of a reference show them: scenes encoded from one view or their surface, or drawn from noise.

A `ViewPlan` fixes scene, view and seed of every rendered view before rendering starts: any process can then render any part
at any time. Each view is rendered alone, from a function that is written alone: its bytes do not depend on the others.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from jaxtyping import Float32, Int64, UInt8

from inrflow_core.domains._contract import InputExample
from inrflow_core.errors import UsageError
from inrflow_core.fields import Field
from inrflow_core.geometry import cameras
from inrflow_core.models import Model, SamplingOptions
from inrflow_core.runtime.query_budget import QueryBudget
from inrflow_core.sample_files import scene_views
from inrflow_core.sample_files.collection import ArrayCollection, ShardCollection, in_memory
from inrflow_core.sample_files.subsets import evenly_spaced
from inrflow_core.sampling import invert, sample
from inrflow_core.sampling.request import SampleRequest
from inrflow_core.sampling.write_samples import SampleSource
from inrflow_core.sets import CAMERA, SURFACE

BATCH = 32
"""Views in a piece of a shard of samples: a kill loses at most one piece of each process."""


@dataclass(frozen=True)
class ViewPlan:
    """Scene, view and seed of every rendered view."""

    reference: ShardCollection
    """The scenes whose cameras are taken."""
    scenes: Int64[np.ndarray, " N"]
    """As indices into `reference`, in rising order."""
    views: Int64[np.ndarray, " N"]
    seeds: Int64[np.ndarray, " N"]
    """Of each view's scene."""
    support: Int64[np.ndarray, " N"] | None = None
    """The view that each scene is encoded from, or that is left out where it is encoded from its surface; None for scenes that
    are drawn from noise by their seeds."""

    def __len__(self) -> int:
        """Number of views."""
        return len(self.scenes)

    @property
    def sample_conditions(self) -> dict[str, np.ndarray]:
        """What each sample shows, as shards of samples store it (`evaluation.view_comparison`)."""
        support = {} if self.support is None else {"support": self.support}
        return {"item": self.reference.index_in_source(self.scenes), "view": self.views, **support}

    def to_json(self) -> dict[str, str]:
        """The plan's part of the provenance of its samples."""
        source = f"{self.reference.digest[:16]} {self.reference.split or ''}".strip()
        if self.support is None:
            return {"cameras_of": source}
        return {"encoded_from": source, "support": cameras.SUPPORT}


def plan_views(
    reference: ShardCollection, *, is_encoded: bool, seed: int = 0, most_views: int | None = None
) -> ViewPlan:
    """A plan for all views of all scenes of a reference; of scenes that are encoded, for all but the view that is read.

    Scene number i, from 0 on, has the seed `seed + i`.

    Args:
        most_views: of each scene, evenly spaced; None takes all.

    Raises:
        UsageError: a scene that would be encoded has a single view.
    """
    counts = scene_views.view_counts(reference)
    support = cameras.support_views(counts)
    scenes: list[int] = []
    views: list[int] = []
    for scene, count in enumerate(counts.tolist()):
        others = [view for view in range(count) if not (is_encoded and view == support[scene])]
        if not others:
            raise UsageError(
                f"the scene `{reference.item_names()[scene]}` of {reference.display_name} has one view, and novel views need "
                "another",
                hint="prepare it with two views or more",
            )
        selected = others if most_views is None else [others[i] for i in evenly_spaced(len(others), most_views)]
        scenes += [scene] * len(selected)
        views += selected
    shown = np.array(scenes, dtype=np.int64)
    return ViewPlan(
        reference, shown, np.array(views, dtype=np.int64), seed + shown, support[shown] if is_encoded else None
    )


@dataclass(frozen=True, kw_only=True)
class ViewSource(SampleSource):
    """A model and a plan, of which any part of the views can be rendered separately; the request has their seeds."""

    views: ViewPlan

    @property
    def batch(self) -> int:
        """Views in a piece."""
        return self.request.batch or BATCH

    def at(self, indices: Sequence[int]) -> Iterator[tuple[slice, np.ndarray]]:
        """Render the views at some indices of the plan: one slice, uint8 (B 1 H W 3)."""
        values = render(self.model, self.views, np.asarray(indices), self.options, budget=self.budget)
        yield slice(0, len(indices)), values


def render(
    model: Model,
    plan: ViewPlan,
    rows: Int64[np.ndarray, " B"],
    options: SamplingOptions | None = None,
    *,
    budget: QueryBudget | None = None,
) -> UInt8[np.ndarray, "B 1 H W 3"]:
    """The views at some rows of a plan, each as a scene of one view.

    Args:
        options: of scenes that are drawn; None: the preset's.

    Raises:
        Diverged, OutOfMemory: as `sample.evaluate`.
    """
    budget = budget or QueryBudget()
    result = np.empty((len(rows), *model.domain.output_spec().shape), dtype=np.uint8)
    for scene in np.unique(plan.scenes[rows]):
        mine = np.flatnonzero(plan.scenes[rows] == scene)
        poses = scene_views.read_cameras(plan.reference, int(scene))
        field = _function(model, plan, int(rows[mine[0]]), poses, options)
        for index in mine:
            field.condition = {CAMERA: torch.from_numpy(poses[plan.views[rows[index]]][None])}
            result[index] = sample.evaluate(model, field, chunk=budget)[0]
    return result


def render_in_memory(model: Model, plan: ViewPlan, source: Path) -> ArrayCollection:
    """All views of a plan, as samples; `source` is their path in messages."""
    values = render(model, plan, np.arange(len(plan)))
    return in_memory(
        values,
        model.domain.NAME,
        source=source,
        seeds=plan.seeds,
        normalization=plan.reference.normalization,
        condition=plan.sample_conditions,
        provenance=str(plan.to_json()),
    )


def request_of(plan: ViewPlan, batch: int | None = None) -> SampleRequest:
    """The request of a plan's samples: the seed of each."""
    return SampleRequest(plan.seeds.tolist(), batch=batch)


def _function(
    model: Model, plan: ViewPlan, row: int, poses: Float32[np.ndarray, "V 4 4"], options: SamplingOptions | None
) -> Field:
    """The function of the scene at a row of the plan."""
    seeds = plan.seeds[row : row + 1]
    if plan.support is None:
        return sample.sample_fields(model, seeds.tolist(), None, options)
    if not model.domain.reads_views:
        surface = scene_views.read_surface(plan.reference, int(plan.scenes[row]))
        nothing = np.empty((0, *plan.reference.shape[1:]), dtype=np.uint8)
        return invert.invert(model, InputExample(nothing, condition={SURFACE: surface}))
    support = plan.support[row : row + 1]
    view = scene_views.read_views(plan.reference, plan.scenes[row : row + 1], support)
    example = InputExample(view, condition={CAMERA: poses[support]})
    return invert.invert(model, example)
