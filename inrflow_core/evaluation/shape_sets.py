"""Shapes that runs under evaluation encode again or draw, as the functions that they are and not as points alone."""

from __future__ import annotations

import hashlib
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import torch
from jaxtyping import Int64

from inrflow_core.domains._contract import HasSurfaces, batch_of
from inrflow_core.errors import UsageError
from inrflow_core.evaluation import metric_specs
from inrflow_core.evaluation.metric_specs import MetricSpec
from inrflow_core.evaluation.results import EvaluatedSamples
from inrflow_core.evaluation.sample_proteins import provenance_facts
from inrflow_core.evaluation.sampling_plan import EvaluatedModel, SamplingWork, plan_samples, sample_request
from inrflow_core.fields import Field, PointwiseField
from inrflow_core.geometry import mesh_interior
from inrflow_core.geometry.mesh import Mesh, sample_surface_with_normals
from inrflow_core.metrics._inputs import ReferenceStats
from inrflow_core.metrics._text_inputs import RenderedTextSpec
from inrflow_core.models import Model
from inrflow_core.runtime.query_budget import CHUNK
from inrflow_core.sample_files.collection import ArrayCollection, SampleCollection, ShardCollection
from inrflow_core.sampling import invert, provenance, reference_inputs, sample
from inrflow_core.sampling.reference_inputs import ReferenceSamplingPlan
from inrflow_core.shards.batch import Batch, ConditionSelection
from inrflow_core.visualization import mesh_grid

NAME = "meshes"
"""Appended to the name of a run: the meshes that it draws."""
MOST_MESHES = 256
"""Drawn shapes whose meshes are examined, at most: they are drawn again, and extracted one by one."""
MOST_POINTS = 100_000
"""Points compared on each surface."""
TEXTS = "descriptions"
"""The condition of shards with the texts of each item (`datasets/_descriptions.py`)."""
STORED = ("queries", "occupancies", "normals")
"""Conditions of shards that reconstructions are compared with."""


@dataclass(frozen=True, kw_only=True)
class FunctionCollection(ArrayCollection):
    """Shapes that are computed when they are read, with what is known of their functions."""

    load_batch: Callable[[Int64[np.ndarray, " S"]], Batch]

    def _load(self, indices: Int64[np.ndarray, " S"]) -> Batch:
        return replace(self.load_batch(indices), names=[self.names[int(index)] for index in indices])


def default_metrics(domain: str) -> tuple[str, ...]:
    """The metrics of drawn meshes of a domain that need no weights."""
    specs = metric_specs.parse_metrics(metric_specs.metrics_of_domain(domain), domain)
    return tuple(spec.name for spec in specs if spec.inputs.matched_by == "mesh" and not spec.inputs.features)


def check(
    metrics: Sequence[MetricSpec],
    targets: Sequence[EvaluatedModel],
    files: Sequence[SampleCollection],
    reference: SampleCollection | ReferenceStats,
) -> None:
    """Raise UsageError if a metric compares meshes with texts, and a run or the reference has none, or if all metrics are of
    meshes, and some samples are files, which hold points.
    """
    for metric in metrics:
        if not isinstance(metric.inputs, RenderedTextSpec):
            continue
        for target in targets:
            if target.kind != metric.inputs.condition:
                raise UsageError(
                    f"`{metric.full}` compares meshes with their texts, and `{target.name}` is conditioned on none",
                    hint="leave the metric out, or evaluate the run of a model conditioned on texts",
                )
        check_texts(reference)
    if files and all(metric.inputs.matched_by == "mesh" for metric in metrics):
        raise UsageError(
            f"`{metrics[0].full}` is of the meshes that a run draws, and {files[0].display_name} holds points",
            hint="evaluate the run with `--run`, or add a metric of points, as in `--metrics mmd`",
        )


def check_stored(items: SampleCollection) -> ShardCollection:
    """The shapes; raises UsageError unless they are shards with all that reconstructions are compared with."""
    if not isinstance(items, ShardCollection) or not set(STORED) <= set(items.conditions):
        raise UsageError(
            f"{items.display_name} has no {', '.join(STORED)} of its shapes",
            hint="give shards of `inrflow prepare occupancy` or `inrflow prepare occupancy-solids`",
        )
    return items


def reconstructed(model: Model, items: SampleCollection, digest: str, batch: int) -> ArrayCollection:
    """Held-out shapes as a run encodes and evaluates them: points on their surfaces, beside what the shards store."""
    shards = check_stored(items)

    def load(indices: Int64[np.ndarray, " S"]) -> Batch:
        parts = [
            _reconstructed_batch(model, shards, indices[start : start + batch])
            for start in range(0, len(indices), batch)
        ]
        condition = {name: np.concatenate([part.condition[name] for part in parts]) for name in parts[0].condition}
        return batch_of(np.concatenate([part.values for part in parts]), condition)

    return _collection(items.source, items.domain, digest, items.item_names(), load, split=items.split)


def mesh_set(target: EvaluatedModel, work: SamplingWork, model: Model) -> EvaluatedSamples | None:
    """The meshes of the first samples of a run, computed when they are read; None if no metric needs them."""
    if not any(metric.inputs.matched_by == "mesh" for metric in work.metrics):
        return None
    plan = plan_samples(target, work)
    request = sample_request(model, work, plan)
    options = work.sampling.options(model, request.labels)
    origin = provenance.provenance(model, target.weights, request, options, work.sampling.guide)
    if plan is not None:
        reference_inputs.check(plan, model)
        origin |= plan.to_json()
    facts: Mapping[str, Any] = provenance_facts(target, work, model, options, origin)
    count = min(len(request.seeds), MOST_MESHES)
    rendering = next((one.inputs for one in work.metrics if isinstance(one.inputs, RenderedTextSpec)), None)
    texts = None if plan is None or rendering is None else sample_texts(plan, count)

    def load(indices: Int64[np.ndarray, " S"]) -> Batch:
        seeds = [request.seeds[int(index)] for index in indices]
        labels = None if request.labels is None else [request.labels[int(index)] for index in indices]
        condition = {} if plan is None else reference_inputs.condition(model, plan, indices.tolist())
        batch = _mesh_batch(model, sample.sample_fields(model, seeds, labels, options, condition), rendering)
        return batch if texts is None else replace(batch, condition={**batch.condition, "text": texts[indices]})

    digest = hashlib.sha256(f"meshes {origin} {count}".encode()).hexdigest()
    names = [f"seed-{seed}" for seed in request.seeds[:count]]
    items = _collection(target.weights, model.domain.NAME, digest, names, load)
    return EvaluatedSamples(
        f"{target.name}, {NAME}", items, {**facts, "run": f"{target.run}, {NAME}"}, matched_by="mesh"
    )


def sample_texts(plan: ReferenceSamplingPlan, count: int) -> np.ndarray:
    """The texts of the first `count` samples of a plan; raises UsageError unless the shards store texts."""
    items = check_texts(plan.reference)
    rows = items.index_in_source(plan.reference_indices[:count])
    unique, index = np.unique(rows, return_inverse=True)
    stored = items.shards.read(
        items.shard_split, unique.tolist(), with_values=False, conditions=ConditionSelection((TEXTS,))
    )
    texts = [
        bytes(stored.condition[TEXTS][row, :length]).decode(errors="replace").split("\n")
        for row, length in enumerate(stored.condition_lengths[TEXTS])
    ]
    return np.array([texts[row][view] for row, view in zip(index.reshape(-1), plan.views[:count], strict=True)], object)


def check_texts(items: SampleCollection | ReferenceStats) -> ShardCollection:
    """The items; raises UsageError unless they are shards with their texts."""
    if not isinstance(items, ShardCollection) or TEXTS not in items.conditions:
        name = f"`{items.source}`" if isinstance(items, ReferenceStats) else items.display_name
        raise UsageError(
            f"{name} has no texts of its items",
            hint="give shards of `inrflow prepare text2shape`, or of `inrflow prepare occupancy-solids --set embedder=words`",
        )
    return items


def estimate_seconds(items: SampleCollection) -> float:
    """Seconds to compute all shapes of a collection, measured on the first."""
    start = time.perf_counter()
    items.read([0])
    return (time.perf_counter() - start) * items.count


def _collection(
    source: Path,
    domain: str,
    digest: str,
    names: list[str],
    load: Callable[[Int64[np.ndarray, " S"]], Batch],
    split: str | None = None,
) -> FunctionCollection:
    return FunctionCollection(
        source=source,
        domain=domain,
        digest=digest,
        split=split,
        names=names,
        load_values=lambda indices: load(indices).values,
        load_batch=load,
    )


@torch.no_grad()
def _reconstructed_batch(model: Model, items: ShardCollection, indices: Int64[np.ndarray, " S"]) -> Batch:
    device = next(model.method.parameters()).device
    stored = items.shards.read(
        items.shard_split, items.index_in_source(indices).tolist(), conditions=ConditionSelection(STORED)
    )
    sets = model.domain.to_set(batch_of(stored.values), torch.from_numpy(indices)).to(device)
    field = model.method.invert(sets, invert.inversion_options(model))
    queries = stored.condition["queries"]
    count = min(stored.values.shape[1], MOST_POINTS)
    rows: dict[str, list[np.ndarray]] = {"points": [], "normals": [], "is_inside": []}
    for row, function in enumerate(_functions(field)):
        points, normals = _surface(model.domain.grid_mesh(function, chunk=CHUNK), count)
        rows["points"].append(points)
        rows["normals"].append(normals)
        rows["is_inside"].append(model.domain.is_inside(function, queries[row], chunk=CHUNK))
    made = {name: np.stack(values) for name, values in rows.items()}
    original = np.unpackbits(stored.condition["occupancies"], axis=1, count=queries.shape[1]).astype(bool)
    return batch_of(
        made.pop("points"),
        {
            **made,
            "original_points": stored.values[:, :count],
            "original_normals": stored.condition["normals"][:, :count],
            "original_inside": original,
        },
    )


@torch.no_grad()
def _mesh_batch(model: Model, field: Field, rendering: RenderedTextSpec | None) -> Batch:
    field.cache_context()
    points, is_watertight, components, views = [], [], [], []
    for function in _functions(field):
        mesh = model.domain.grid_mesh(function, chunk=CHUNK)
        points.append(_surface(mesh, model.domain.output_spec().shape[0])[0])
        is_watertight.append(_is_watertight(model.domain, mesh))
        components.append(mesh_interior.num_components(mesh))
        if rendering is not None:
            size = {"count": rendering.views, "elevation": rendering.elevation, "size": rendering.side}
            views.append(mesh_grid.render_around(mesh, **size))
    condition = {"is_watertight": np.array(is_watertight)[:, None], "components": np.array(components)[:, None]}
    condition |= {"renders": np.stack(views)} if views else {}
    return batch_of(np.stack(points), condition)


def _functions(field: Field) -> list[Any]:
    assert isinstance(field, PointwiseField)
    return [partial(field.values_at, index) for index in range(len(field.seeds))]


def _surface(mesh: Mesh, count: int) -> tuple[np.ndarray, np.ndarray]:
    """Points on a mesh with normals, float32; all 0 where it is empty."""
    if not len(mesh.faces):
        return np.zeros((count, 3), np.float32), np.zeros((count, 3), np.float32)
    points, normals = sample_surface_with_normals(mesh, count, seed=0)
    return points.astype(np.float32), normals.astype(np.float32)


def _is_watertight(domain: HasSurfaces, mesh: Mesh) -> bool:
    """Whether a mesh is not empty, closed, and nowhere at the border of the box, which would have closed it."""
    if not len(mesh.faces) or mesh_interior.count_open_edges(mesh)[0]:
        return False
    low, high = (np.array(corner) for corner in domain.box)
    margin = 1e-9 * (high - low)
    return bool((mesh.vertices > low + margin).all() and (mesh.vertices < high - margin).all())
