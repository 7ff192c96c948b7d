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

from inrflow_core import asked, generate, items, noise
from inrflow_core.batches import Batch
from inrflow_core.errors import IntegrityError, UsageError
from inrflow_core.generate import Request
from inrflow_core.items import IMAGE, Items
from inrflow_core.models import Model
from inrflow_core.presets import Preset
from inrflow_core.sets import Condition
from inrflow_core.shards import Shards
from inrflow_core.structures import Structure

KINDS = {"picture": "pictures", "sequence": "sequences"}
"""Conditions that an item of a reference gives, and what their models draw from."""
METRICS = {"picture": ("right-cd",), "sequence": ()}
"""What such samples are judged by, beside the metrics of their domain: nothing that needs weights."""
BY_SEED = "by-seed"
"""The view of an object that its sample's seed chooses."""


@dataclass(frozen=True)
class Plan:
    """Of every sample: the item that it is drawn from, its view, its seed."""

    kind: str
    """One of `KINDS`."""
    reference: Items
    """The items that are drawn from, `each` times."""
    seeds: Int64[np.ndarray, " N"]
    views: Int64[np.ndarray, " N"]
    """0 of sequences."""
    each: int
    shards: Shards | None
    """Where the items lie; None for files of structures, whose sequences alone are known."""
    held: dict[str, Any] = field(default_factory=dict)
    """What reads such sequences, once it was made: an embedder is loaded once for all."""

    def __len__(self) -> int:
        """Samples in all."""
        return len(self.seeds)

    @property
    def owners(self) -> Int64[np.ndarray, " N"]:
        """The item of each sample, by its place in `reference`."""
        return np.arange(len(self.seeds)) // self.each

    @property
    def recorded(self) -> dict[str, np.ndarray]:
        """What a shard of samples keeps of each: its item's place in the whole split, and the view (`matching.own`)."""
        places = np.arange(self.reference.count) if self.reference.places is None else self.reference.places
        return {"item": places[self.owners].astype(np.int64), "view": self.views}

    def told(self) -> dict[str, str]:
        """What samples say of it in their origin."""
        views = np.unique(self.views)
        seen = {"view": str(views[0]) if len(views) == 1 else BY_SEED} if self.kind == "picture" else {}
        return {"drawn_from": f"{self.reference.digest[:16]} {self.reference.split or ''}".strip(), **seen}


def kind(preset: Preset) -> str | None:
    """What a preset's models draw from that an item of a reference gives: one of `KINDS`, or None."""
    name = None if preset.condition is None else preset.condition.name
    return name if name in KINDS else None


def plan(kind: str, reference: Items, num: int, *, each: int = 1, seed: int = 0, view: int | None = 0) -> Plan:
    """`each` samples from `num` items of a reference (all, where it has no more), evenly spread.

    Of pictures every sample has a seed of its own. Of sequences the samples of each have the same, as
    `inrflow sample --fasta` gives them.

    Args:
        view: of every object, from 0 on; None: the one that the sample's seed chooses.

    Raises:
        UsageError: the reference is no shards with such conditions, or has no such view.
    """
    chosen = items.spread(reference, num)
    count = chosen.count * each
    shards = None if reference.split is None else Shards(reference.source)
    if kind == "sequence":
        seeds = np.tile(np.arange(seed, seed + each, dtype=np.int64), chosen.count)
        return Plan(kind, chosen, seeds, np.zeros(count, np.int64), each, shards)
    if shards is None or reference.split is None or reference.fetch_pictures is None:
        raise UsageError(
            f"{reference.spelled} holds no pictures to draw from",
            hint="give shards of `inrflow prepare objaverse` with `--reference`",
        )
    seeds = np.arange(seed, seed + count, dtype=np.int64)
    views = shards.views(reference.split, IMAGE)
    if view is not None and view >= views:
        raise UsageError(f"{reference.spelled} has views 0 to {views - 1}, and no {view}", hint="choose one of them")
    if view is not None:
        return Plan(kind, chosen, seeds, np.full(count, view, np.int64), each, shards)
    drawn = noise.uniform(torch.from_numpy(seeds), purpose="view")[:, 0].numpy()
    return Plan(kind, chosen, seeds, (drawn * views).astype(np.int64), each, shards)


def check(plan: Plan, model: Model) -> None:
    """Nothing, where a model can be told what the reference's items hold.

    Raises:
        IntegrityError: their pictures or sequences went through another network than those that it learned from.
    """
    if plan.shards is None:
        return
    mine, theirs = (
        (told or {}).get("embedder_digest") for told in (model.info.get("normalisation"), plan.reference.normalisation)
    )
    if mine and theirs and mine != theirs:
        raise IntegrityError(
            f"the {KINDS[plan.kind]} of {plan.reference.spelled} were embedded by weights of the digest {theirs[:16]}, "
            f"and `{model.preset.name}` learned from {mine[:16]}",
            hint="prepare the reference with the embedder that the model was trained with",
        )


def condition(model: Model, plan: Plan, rows: Sequence[int]) -> Condition:
    """What some samples are drawn under, a row for each; of sequences, samples of one item alone.

    Raises:
        UsageError: the shards lack what the model draws from.
        MissingError: the weights of the model's embedder are absent, where the reference holds no embeddings.
    """
    chosen = np.asarray(rows, dtype=np.int64)
    if plan.kind == "sequence":
        (owner,) = np.unique(plan.owners[chosen])
        return asked.repeated(_of_item(model, plan, int(owner), 0), len(chosen))
    parts = [_of_item(model, plan, int(plan.owners[row]), int(plan.views[row])) for row in chosen]
    return {name: torch.cat([part[name] for part in parts]) for name in parts[0]}


def drawn(model: Model, plan: Plan, source: Path) -> Items:
    """All samples, drawn now and kept in memory, as items that know what they were drawn from.

    Raises:
        Diverged: they left the finite numbers.
    """
    request = Request(plan.seeds.tolist())
    if plan.kind == "sequence":
        return _folded(model, plan, request, source)
    batch = generate.default_batch(model, request)
    values = []
    for start in range(0, len(plan), batch):
        rows = range(start, min(start + batch, len(plan)))
        part = replace(request, seeds=plan.seeds[rows].tolist(), condition=condition(model, plan, rows))
        values += [some for _, some in generate.samples(model, part)]
    clouds, recorded = np.concatenate(values), plan.recorded

    def fetch(indices: Sequence[int]) -> Batch:
        chosen = np.asarray(indices, dtype=np.int64)
        told = {name: rows[chosen] for name, rows in recorded.items()}
        seeds = plan.seeds[chosen]
        return Batch(
            clouds[chosen], np.full(len(chosen), -1), [f"seed-{seed}" for seed in seeds], seeds, condition=told
        )

    digest = hashlib.sha256(f"{clouds.shape} {plan.told()}".encode() + clouds.tobytes()).hexdigest()
    return Items(source, "points", len(clouds), digest, fetch, None, plan.reference.normalisation)


def _folded(model: Model, plan: Plan, request: Request, source: Path) -> Items:
    assert plan.reference.names is not None
    owners = [name for name in plan.reference.names() for _ in range(plan.each)]
    made: dict[int, Structure] = {}
    for place in range(plan.reference.count):
        rows = range(place * plan.each, (place + 1) * plan.each)
        made |= dict(structures(model, plan, rows, request))
    names = [f"{name}/{row % plan.each}" for row, name in enumerate(owners)]
    digest = hashlib.sha256(b"".join(made[row].positions.tobytes() for row in range(len(plan)))).hexdigest()

    def fetch(indices: Sequence[int]) -> Batch:
        raise AssertionError("proteins are read as structures")

    return Items(
        source,
        "protein",
        len(plan),
        digest,
        fetch,
        structures=lambda indices: [replace(made[row], name=names[row]) for row in indices],
        names=lambda: names,
    )


def structures(
    model: Model, plan: Plan, rows: Sequence[int], request: Request, how: Any = None
) -> Iterator[tuple[int, Structure]]:
    """Some samples of one protein, under their numbers; each lies as it was drawn."""
    asking = replace(request, seeds=plan.seeds[list(rows)].tolist(), condition=condition(model, plan, rows))
    for part, values in generate.samples(model, asking, how):
        yield from zip(rows[part], generate.finished(model, asking, part, values), strict=True)


def _of_item(model: Model, plan: Plan, place: int, view: int) -> Condition:
    whole = plan.reference
    if plan.shards is None:
        assert whole.structures is not None
        (structure,) = whole.structures([place])
        if "read" not in plan.held:
            device = str(next(model.method.parameters()).device)
            plan.held["read"] = asked.sequence_reader(model, device=device)
        return plan.held["read"](structure.sequence)
    assert whole.split is not None
    in_split = place if whole.places is None else int(whole.places[place])
    return asked.of_items(model, plan.shards, whole.split, [in_split], view)
