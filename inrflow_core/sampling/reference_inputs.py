"""Sample models conditioned on the items of a reference: clouds from its images, structures from its sequences.

A `ReferenceSamplingPlan` fixes item, view and seed of every sample before sampling starts: any process can then draw any
part at any time, and each sample's own reference is known.
"""

from __future__ import annotations

import hashlib
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import numpy as np
import torch
from jaxtyping import Int64

from inrflow_core.conditioners._contract import conditioner_part
from inrflow_core.config.preset import Preset
from inrflow_core.errors import IntegrityError, UsageError
from inrflow_core.models import Model, SamplingOptions
from inrflow_core.numerics import keyed_random
from inrflow_core.proteins.structure import Structure
from inrflow_core.sample_files import subsets
from inrflow_core.sample_files.collection import SampleCollection, ShardCollection, StructureCollection
from inrflow_core.sampling import condition_inputs, sample
from inrflow_core.sampling.request import SampleRequest, default_batch_size
from inrflow_core.sets import Condition

PAIRED_BY_SEED = "by-seed"
"""Option value: each sample's seed chooses the view."""


@dataclass(frozen=True)
class ReferenceSamplingPlan:
    """Item, view and seed of every sample."""

    kind: str
    """Name of the models' conditioner."""
    reference: SampleCollection
    """The items, each the condition of `samples_per_item` samples."""
    seeds: Int64[np.ndarray, " N"]
    views: Int64[np.ndarray, " N"]
    """0 for conditioners without views."""
    samples_per_item: int
    loaded_encoders: dict[str, Any] = field(default_factory=dict)
    """The conditioner's function from inputs to conditions, made once for all samples."""

    def __len__(self) -> int:
        """Number of samples."""
        return len(self.seeds)

    @property
    def has_views(self) -> bool:
        """Whether an item has several views, with conditions of one size; without, conditions differ in length."""
        return conditioner_part(self.kind).VIEWS is not None

    @property
    def reference_indices(self) -> Int64[np.ndarray, " N"]:
        """The item of each sample, as an index into `reference`."""
        return np.arange(len(self.seeds)) // self.samples_per_item

    @property
    def sample_conditions(self) -> dict[str, np.ndarray]:
        """Index in the whole split, and view, of each sample's item, as shards store them (`sample_matching.match_to_reference`)."""
        indices = (
            np.arange(self.reference.count) if self.reference.source_indices is None else self.reference.source_indices
        )
        return {"item": indices[self.reference_indices].astype(np.int64), "view": self.views}

    def to_json(self) -> dict[str, str]:
        """The plan's part of the provenance of its samples."""
        views = np.unique(self.views)
        view = {"view": str(views[0]) if len(views) == 1 else PAIRED_BY_SEED} if self.has_views else {}
        return {"drawn_from": f"{self.reference.digest[:16]} {self.reference.split or ''}".strip(), **view}


def condition_kind(preset: Preset) -> str | None:
    """The conditioner of a preset if the items of a reference provide its conditions, else None."""
    name = None if preset.condition is None else preset.condition.name
    return name if preset.condition is not None and preset.condition.module.FROM_REFERENCE else None


def noun_of(kind: str) -> str:
    """The conditions of a conditioner in messages: `images`."""
    return conditioner_part(kind).NOUN


def has_views(kind: str) -> bool:
    """Whether an item of a reference holds several such conditions, of which a sample takes one."""
    return conditioner_part(kind).VIEWS is not None


def metrics_of(kind: str | None) -> tuple[str, ...]:
    """Metrics of samples conditioned on a reference's items, in addition to those of their domain."""
    return () if kind is None else conditioner_part(kind).REFERENCE_METRICS


def plan_from_reference(
    kind: str, reference: SampleCollection, num: int, *, each: int = 1, seed: int = 0, view: int | None = 0
) -> ReferenceSamplingPlan:
    """A plan of `each` samples for `num` evenly spaced items of a reference, or for all if it has fewer.

    With views every sample has its own seed. Without, all items have the same seeds, as with `inrflow sample --fasta`.

    Args:
        view: index of the view of every item. None: the sample's seed chooses it.

    Raises:
        UsageError: the reference is not a folder of shards with such conditions, or has no such view.
    """
    items = subsets.evenly_spaced_items(reference, num)
    count = items.count * each
    viewed = conditioner_part(kind).VIEWS
    if viewed is None:
        seeds = np.tile(np.arange(seed, seed + each, dtype=np.int64), items.count)
        return ReferenceSamplingPlan(kind, items, seeds, np.zeros(count, np.int64), each)
    if not isinstance(reference, ShardCollection) or reference.split is None or not reference.has_views(viewed):
        raise UsageError(
            f"{reference.display_name} holds no {noun_of(kind)} to sample from",
            hint="give the shards that such a model learns from with `--reference`; docs/data-sets.md says how to prepare them",
        )
    assert isinstance(items, ShardCollection)
    seeds = np.arange(seed, seed + count, dtype=np.int64)
    views = reference.num_views(viewed)
    if view is not None and view >= max(views, 1):
        raise UsageError(f"{reference.display_name} has views 0 to {views - 1}, not {view}", hint="choose one of them")
    counts = np.repeat(items.view_counts(viewed), each)  # texts differ in number: view 3 of two texts is the second one
    u = keyed_random.uniform(torch.from_numpy(seeds), purpose="view")[:, 0].numpy()
    numbers = (u * counts).astype(np.int64) if view is None else view % np.maximum(counts, 1)
    return ReferenceSamplingPlan(kind, items, seeds, numbers, each)


def check(plan: ReferenceSamplingPlan, model: Model) -> None:
    """Raise IntegrityError unless the reference and the model's training data were embedded by the same weights."""
    if _shards(plan) is None:
        return
    mine, theirs = (
        (normalization or {}).get("embedder_digest")
        for normalization in (model.metadata.get("normalization"), plan.reference.normalization)
    )
    if mine and theirs and mine != theirs:
        raise IntegrityError(
            f"the {noun_of(plan.kind)} of {plan.reference.display_name} were embedded by weights of the digest {theirs[:16]}, "
            f"and `{model.name}` learned from {mine[:16]}",
            hint="prepare the reference with the embedder that the model was trained with",
        )


def condition(model: Model, plan: ReferenceSamplingPlan, rows: Sequence[int]) -> Condition:
    """The conditions of some samples, one row each. Without views, all samples must be of one item.

    Raises:
        UsageError: the shards do not have the model's conditions.
        MissingError: the reference stores no embeddings, and the weights of the model's embedder do not exist.
    """
    indices = np.asarray(rows, dtype=np.int64)
    if not plan.has_views:
        (index,) = np.unique(plan.reference_indices[indices])
        return condition_inputs.repeat_condition(_item_condition(model, plan, int(index), 0), len(indices))
    parts = [_item_condition(model, plan, int(plan.reference_indices[row]), int(plan.views[row])) for row in indices]
    return {name: torch.cat([part[name] for part in parts]) for name in parts[0]}


def sample_from_reference(model: Model, plan: ReferenceSamplingPlan, source: Path) -> SampleCollection:
    """Draw all samples of a plan in memory, as a collection with the item of each.

    Raises:
        Diverged: some samples have values that are not finite.
    """
    request = SampleRequest(plan.seeds.tolist())
    if model.domain.MAKES_STRUCTURES:
        return _fold(model, plan, request, source)
    batch = default_batch_size(model, request)
    parts = (range(start, min(start + batch, len(plan))) for start in range(0, len(plan), batch))
    requests = (
        replace(request, seeds=plan.seeds[rows].tolist(), condition=condition(model, plan, rows)) for rows in parts
    )
    samples = sample.sample_in_memory(model, requests, source, plan.reference.normalization, str(plan.to_json()))
    return replace(samples, condition=plan.sample_conditions)


def _fold(model: Model, plan: ReferenceSamplingPlan, request: SampleRequest, source: Path) -> SampleCollection:
    names = [name for name in plan.reference.item_names() for _ in range(plan.samples_per_item)]
    structures: dict[int, Structure] = {}
    for index in range(plan.reference.count):
        rows = range(index * plan.samples_per_item, (index + 1) * plan.samples_per_item)
        structures |= dict(sample_structures(model, plan, rows, request))
    return StructureCollection(
        source=source,
        domain=model.domain.NAME,
        digest=hashlib.sha256(b"".join(structures[row].positions.tobytes() for row in range(len(plan)))).hexdigest(),
        names=[f"{name}/{row % plan.samples_per_item}" for row, name in enumerate(names)],
        load_structure=structures.__getitem__,
    )


def sample_structures(
    model: Model,
    plan: ReferenceSamplingPlan,
    rows: Sequence[int],
    request: SampleRequest,
    options: SamplingOptions | None = None,
) -> Iterator[tuple[int, Structure]]:
    """Draw some samples of one protein: pairs of row and structure, not superposed."""
    part_request = replace(request, seeds=plan.seeds[list(rows)].tolist(), condition=condition(model, plan, rows))
    for part, structures in sample.iter_samples(model, part_request, options):
        yield from zip(rows[part], structures, strict=True)


def _item_condition(model: Model, plan: ReferenceSamplingPlan, index: int, view: int) -> Condition:
    whole = plan.reference
    shards = _shards(plan)
    if shards is None:
        (structure,) = whole.structures([index])
        if plan.kind not in plan.loaded_encoders:
            device = str(next(model.method.parameters()).device)
            plan.loaded_encoders[plan.kind] = condition_inputs.make_encoder(model, plan.kind, device=device)
        return plan.loaded_encoders[plan.kind](conditioner_part(plan.kind).input_from_structure(structure))
    in_split = index if whole.source_indices is None else int(whole.source_indices[index])
    return condition_inputs.conditions_from_shards(model, shards.shards, shards.shard_split, [in_split], view)


def _shards(plan: ReferenceSamplingPlan) -> ShardCollection | None:
    """The reference if it is a folder of shards; None for structure files, which provide their sequences alone."""
    whole = plan.reference
    return whole if isinstance(whole, ShardCollection) and whole.split is not None else None
