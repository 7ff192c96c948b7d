"""Samples that are drawn from the items of a reference: clouds from their pictures, structures from their sequences.

Which items, how often each, from which view and with which seeds is known before anything is drawn (`Plan`), so that any
part can be drawn by any process at any time, and a sample's own reference is never a guess.
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

from inrflow_core import registry
from inrflow_core.config.preset import Preset
from inrflow_core.errors import IntegrityError, UsageError
from inrflow_core.models import Model, SamplingOptions
from inrflow_core.numerics import keyed_random
from inrflow_core.proteins.structure import Structure
from inrflow_core.sample_files import collection
from inrflow_core.sample_files.collection import SampleCollection, ShardCollection, StructureCollection
from inrflow_core.sampling import condition_inputs, sample
from inrflow_core.sampling.request import SampleRequest, default_batch_size
from inrflow_core.sets import Condition

PAIRED_BY_SEED = "by-seed"
"""The view of an object that its sample's seed chooses."""


@dataclass(frozen=True)
class ReferenceSamplingPlan:
    """Of every sample: the item that it is drawn from, its view, its seed."""

    kind: str
    """The condition that an item gives: `image` or `sequence`."""
    reference: SampleCollection
    """The items that are drawn from, `each` times."""
    seeds: Int64[np.ndarray, " N"]
    views: Int64[np.ndarray, " N"]
    """0 of sequences."""
    samples_per_item: int
    loaded_conditions: dict[str, Any] = field(default_factory=dict)
    """What reads such sequences, once it was made: an embedder is loaded once for all."""

    def __len__(self) -> int:
        """Samples in all."""
        return len(self.seeds)

    @property
    def reference_indices(self) -> Int64[np.ndarray, " N"]:
        """The item of each sample, by its place in `reference`."""
        return np.arange(len(self.seeds)) // self.samples_per_item

    @property
    def sample_conditions(self) -> dict[str, np.ndarray]:
        """What a shard of samples keeps of each: its item's place in the whole split, and the view (`sample_matching.match_to_reference`)."""
        places = (
            np.arange(self.reference.count) if self.reference.source_indices is None else self.reference.source_indices
        )
        return {"item": places[self.reference_indices].astype(np.int64), "view": self.views}

    def to_json(self) -> dict[str, str]:
        """What samples say of it in their origin."""
        views = np.unique(self.views)
        seen = {"view": str(views[0]) if len(views) == 1 else PAIRED_BY_SEED} if self.kind == "image" else {}
        return {"drawn_from": f"{self.reference.digest[:16]} {self.reference.split or ''}".strip(), **seen}


def condition_kind(preset: Preset) -> str | None:
    """What a preset's models draw from that an item of a reference gives: the name of a condition, or None."""
    name = None if preset.condition is None else preset.condition.name
    return name if preset.condition is not None and preset.condition.module.FROM_REFERENCE else None


def noun_of(kind: str) -> str:
    """What models of a condition draw from, for messages."""
    return registry.find("conditioners", kind).NOUN


def has_views(kind: str) -> bool:
    """Whether an item of a reference holds several such conditions, of which a sample takes one."""
    return registry.find("conditioners", kind).HAS_VIEWS


def metrics_of(kind: str | None) -> tuple[str, ...]:
    """What samples of a reference's items are evaluated by, beside the metrics of their domain."""
    return () if kind is None else registry.find("conditioners", kind).REFERENCE_METRICS


def plan_from_reference(
    kind: str, reference: SampleCollection, num: int, *, each: int = 1, seed: int = 0, view: int | None = 0
) -> ReferenceSamplingPlan:
    """`each` samples from `num` items of a reference (all, where it has no more), evenly spread.

    Of pictures every sample has a seed of its own. Of sequences the samples of each have the same, as
    `inrflow sample --fasta` gives them.

    Args:
        view: of every object, from 0 on; None: the one that the sample's seed chooses.

    Raises:
        UsageError: the reference is no shards with such conditions, or has no such view.
    """
    chosen = collection.evenly_spaced_items(reference, num)
    count = chosen.count * each
    if kind == "sequence":
        seeds = np.tile(np.arange(seed, seed + each, dtype=np.int64), chosen.count)
        return ReferenceSamplingPlan(kind, chosen, seeds, np.zeros(count, np.int64), each)
    if not isinstance(reference, ShardCollection) or reference.split is None or not reference.has_views():
        raise UsageError(
            f"{reference.display_name} holds no images to sample from",
            hint="give shards of `inrflow prepare objaverse` with `--reference`",
        )
    seeds = np.arange(seed, seed + count, dtype=np.int64)
    views = reference.num_views()
    if view is not None and view >= views:
        raise UsageError(
            f"{reference.display_name} has views 0 to {views - 1}, and no {view}", hint="choose one of them"
        )
    if view is not None:
        return ReferenceSamplingPlan(kind, chosen, seeds, np.full(count, view, np.int64), each)
    drawn = keyed_random.uniform(torch.from_numpy(seeds), purpose="view")[:, 0].numpy()
    return ReferenceSamplingPlan(kind, chosen, seeds, (drawn * views).astype(np.int64), each)


def check(plan: ReferenceSamplingPlan, model: Model) -> None:
    """Nothing, where a model can be told what the reference's items hold.

    Raises:
        IntegrityError: their pictures or sequences went through another network than those that it learned from.
    """
    if _shards(plan) is None:
        return
    mine, theirs = (
        (told or {}).get("embedder_digest")
        for told in (model.metadata.get("normalisation"), plan.reference.normalization)
    )
    if mine and theirs and mine != theirs:
        raise IntegrityError(
            f"the {noun_of(plan.kind)} of {plan.reference.display_name} were embedded by weights of the digest {theirs[:16]}, "
            f"and `{model.preset.name}` learned from {mine[:16]}",
            hint="prepare the reference with the embedder that the model was trained with",
        )


def condition(model: Model, plan: ReferenceSamplingPlan, rows: Sequence[int]) -> Condition:
    """What some samples are drawn under, a row for each; of sequences, samples of one item alone.

    Raises:
        UsageError: the shards lack what the model draws from.
        MissingError: the weights of the model's embedder are absent, where the reference holds no embeddings.
    """
    chosen = np.asarray(rows, dtype=np.int64)
    if plan.kind == "sequence":
        (owner,) = np.unique(plan.reference_indices[chosen])
        return condition_inputs.repeat_condition(_of_item(model, plan, int(owner), 0), len(chosen))
    parts = [_of_item(model, plan, int(plan.reference_indices[row]), int(plan.views[row])) for row in chosen]
    return {name: torch.cat([part[name] for part in parts]) for name in parts[0]}


def sample_from_reference(model: Model, plan: ReferenceSamplingPlan, source: Path) -> SampleCollection:
    """All samples of a plan, drawn now and kept in memory, with what each was drawn from.

    Raises:
        Diverged: they left the finite numbers.
    """
    request = SampleRequest(plan.seeds.tolist())
    if plan.kind == "sequence":
        return _folded(model, plan, request, source)
    batch = default_batch_size(model, request)
    parts = (range(start, min(start + batch, len(plan))) for start in range(0, len(plan), batch))
    requests = (
        replace(request, seeds=plan.seeds[rows].tolist(), condition=condition(model, plan, rows)) for rows in parts
    )
    found = sample.sample_in_memory(model, requests, source, plan.reference.normalization, str(plan.to_json()))
    return replace(found, condition=plan.sample_conditions)


def _folded(model: Model, plan: ReferenceSamplingPlan, request: SampleRequest, source: Path) -> SampleCollection:
    owners = [name for name in plan.reference.item_names() for _ in range(plan.samples_per_item)]
    made: dict[int, Structure] = {}
    for place in range(plan.reference.count):
        rows = range(place * plan.samples_per_item, (place + 1) * plan.samples_per_item)
        made |= dict(sample_structures(model, plan, rows, request))
    return StructureCollection(
        source=source,
        domain=model.domain.NAME,
        digest=hashlib.sha256(b"".join(made[row].positions.tobytes() for row in range(len(plan)))).hexdigest(),
        names=[f"{name}/{row % plan.samples_per_item}" for row, name in enumerate(owners)],
        load_structure=made.__getitem__,
    )


def sample_structures(
    model: Model,
    plan: ReferenceSamplingPlan,
    rows: Sequence[int],
    request: SampleRequest,
    options: SamplingOptions | None = None,
) -> Iterator[tuple[int, Structure]]:
    """Some samples of one protein, under their numbers; each lies as it was drawn."""
    asking = replace(request, seeds=plan.seeds[list(rows)].tolist(), condition=condition(model, plan, rows))
    for part, structures in sample.iter_samples(model, asking, options):
        yield from zip(rows[part], structures, strict=True)


def _of_item(model: Model, plan: ReferenceSamplingPlan, place: int, view: int) -> Condition:
    whole = plan.reference
    shards = _shards(plan)
    if shards is None:
        (structure,) = whole.structures([place])
        if "read" not in plan.loaded_conditions:
            device = str(next(model.method.parameters()).device)
            plan.loaded_conditions["read"] = condition_inputs.make_sequence_encoder(model, device=device)
        return plan.loaded_conditions["read"](structure.sequence)
    in_split = place if whole.source_indices is None else int(whole.source_indices[place])
    return condition_inputs.conditions_from_shards(model, shards.shards, shards.shard_split, [in_split], view)


def _shards(plan: ReferenceSamplingPlan) -> ShardCollection | None:
    """The reference, where it is a folder of shards; None for files of structures, of which the sequences alone are known."""
    whole = plan.reference
    return whole if isinstance(whole, ShardCollection) and whole.split is not None else None
