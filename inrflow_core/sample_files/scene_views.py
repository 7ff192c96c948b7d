"""The views of scenes, read one by one, as images, and with their cameras."""

from __future__ import annotations

import hashlib
from collections.abc import Sequence

import numpy as np
from jaxtyping import Float32, Int64, UInt8

from inrflow_core.domains._contract import domain_class
from inrflow_core.errors import UsageError
from inrflow_core.sample_files.collection import ArrayCollection, SampleCollection, ShardCollection
from inrflow_core.sets import CAMERA, SURFACE
from inrflow_core.shards.batch import ConditionSelection

BLOCK = 256
"""Scenes or views whose records are read at once."""


def view_counts(items: SampleCollection) -> Int64[np.ndarray, " N"]:
    """Number of views of every scene."""
    if isinstance(items, ShardCollection) and _is_ragged(items):
        sizes = items.shards.sizes(items.shard_split)
        assert sizes is not None
        return sizes if items.source_indices is None else sizes[items.source_indices]
    return np.full(items.count, items.shape[0], dtype=np.int64)


def read_views(
    items: SampleCollection, scenes: Int64[np.ndarray, " B"], views: Int64[np.ndarray, " B"]
) -> UInt8[np.ndarray, "B H W 3"]:
    """One view of each of some scenes; of scenes in shards, no other view is read."""
    if isinstance(items, ShardCollection) and _is_ragged(items):
        rows, nothing = items.index_in_source(scenes), ConditionSelection(())
        return items.shards.read(items.shard_split, rows, rows=views[:, None], conditions=nothing).values[:, 0]
    result = np.empty((len(scenes), *items.shape[1:]), dtype=np.uint8)
    for scene in np.unique(scenes):
        mine = scenes == scene
        result[mine] = items.read([int(scene)]).values[0][views[mine]]
    return result


def read_cameras(items: SampleCollection, scene: int) -> Float32[np.ndarray, "V 4 4"]:
    """The cameras of all views of a scene, as geometry/cameras.py has them; raises UsageError as `check_posed`."""
    shards = check_posed(items)
    rows, only = shards.index_in_source([scene]), ConditionSelection((CAMERA,))
    batch = shards.shards.read(shards.shard_split, rows, with_values=False, conditions=only)
    return batch.condition[CAMERA][0]


def check_posed(items: SampleCollection) -> ShardCollection:
    """The scenes; raises UsageError unless they are shards with the camera of every view."""
    if not isinstance(items, ShardCollection) or CAMERA not in items.conditions:
        raise UsageError(
            f"{items.display_name} has no cameras of its views",
            hint="give shards of `inrflow prepare srn-cars` or `inrflow prepare views`",
        )
    return items


def read_surface(items: SampleCollection, scene: int) -> Float32[np.ndarray, "P 6"]:
    """The surface points of a scene, positions and RGB in [-1, 1]; raises UsageError as `check_surfaces`."""
    shards = check_surfaces(items)
    rows, only = shards.index_in_source([scene]), ConditionSelection((SURFACE,))
    batch = shards.shards.read(shards.shard_split, rows, with_values=False, conditions=only)
    return batch.condition[SURFACE][0]


def check_surfaces(items: SampleCollection) -> ShardCollection:
    """The scenes; raises UsageError unless they are shards with surface points of every scene."""
    if not isinstance(items, ShardCollection) or SURFACE not in items.conditions:
        raise UsageError(
            f"{items.display_name} has no points of the surfaces that the model encodes",
            hint="give shards of `inrflow prepare points2nerf`, or of `inrflow prepare views --set surface_points=2048`",
        )
    return items


def as_images(items: SampleCollection) -> SampleCollection:
    """All views as images, one by one, clustered by scene: by the recorded one (`item`) if samples show scenes of a reference."""
    counts = view_counts(items)
    starts = np.cumsum([0, *counts])
    scene_of = np.repeat(np.arange(len(counts)), counts)
    domain = domain_class(items.domain).VIEW_DOMAIN
    assert domain is not None

    def load_values(indices: Int64[np.ndarray, " S"]) -> np.ndarray:
        scenes = scene_of[indices]
        return read_views(items, scenes, indices - starts[scenes])

    names = items.item_names()
    return ArrayCollection(
        source=items.source,
        domain=domain,
        digest=hashlib.sha256(f"{items.digest} {items.split} views".encode()).hexdigest(),
        split=items.split,
        names=[f"{names[scene]}/{view - starts[scene]}" for view, scene in enumerate(scene_of)],
        load_values=load_values,
        clusters=_recorded_scenes(items, counts)[scene_of],
        verify_source=items.verify,
    )


def _recorded_scenes(items: SampleCollection, counts: Sequence[int] | np.ndarray) -> Int64[np.ndarray, " N"]:
    """The scene that each sample shows, if samples record it, else each its own."""
    if isinstance(items, ShardCollection) and "item" not in items.conditions:
        return np.arange(len(counts))
    parts = []
    for start in range(0, len(counts), BLOCK):
        condition = items.load_conditions(range(start, min(start + BLOCK, len(counts))))
        if "item" not in condition:
            return np.arange(len(counts))
        parts.append(condition["item"].reshape(-1))
    return np.concatenate(parts)


def _is_ragged(items: ShardCollection) -> bool:
    """Whether scenes differ in their number of views."""
    return not items.shards.manifest.shape[0]
