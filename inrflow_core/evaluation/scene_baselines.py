"""What novel views are worth: the training data alone as their prediction, in two ways.

- The mean view: of every training scene the view whose camera is nearest to that of the novel view; their mean, rounded to
  gray levels, halves up.
- The nearest training scene: the one whose view with the camera nearest to that of the encoded view differs least from the
  encoded view, by the sum of squared differences of gray levels; of it, the view whose camera is nearest to that of the novel view.

The distance of two cameras is that of their poses: the Frobenius norm of the difference of the matrices [rotation | position],
3 x 4. Of equals the first is taken.
"""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Iterator
from dataclasses import dataclass

import numpy as np
from jaxtyping import Float64, Int64, UInt8

from inrflow_core.evaluation.results import EvaluatedSamples
from inrflow_core.runtime.progress import Progress, Reporter, format_bytes
from inrflow_core.sample_files import scene_views, subsets
from inrflow_core.sample_files.collection import ArrayCollection, ShardCollection
from inrflow_core.sampling.novel_views import ViewPlan

MEAN, NEAREST = "mean of the training views", "nearest training scene"
MOST_PAIRS = 1 << 22
"""Pairs of a camera and a training scene that are compared at most: of more, evenly spaced training scenes are used."""
BLOCK_BYTES = 1 << 28
"""Bytes of sums of views, or of encoded views, that are in memory at once."""
COMPARED_BYTES = 1 << 24
"""Bytes of the differences of cameras that are in memory at once, of one pose at least."""
MOST_BYTES = 1 << 30
"""Bytes of mean views, one for each different camera; of more, the mean view is left out."""
Poses = Float64[np.ndarray, "K 3 4"]


@dataclass(frozen=True)
class NovelCameras:
    """The cameras of the views of a plan of encoded scenes."""

    plan: ViewPlan
    poses: Poses
    """The different ones."""
    pose_of: Int64[np.ndarray, " N"]
    """The one of each view of the plan."""
    scenes: Int64[np.ndarray, " S"]
    """The scenes of the plan, in its order."""
    scene_of: Int64[np.ndarray, " N"]
    """The one of each view, as an index into `scenes`."""
    support: Int64[np.ndarray, " S"]
    """The view that is encoded of each scene."""
    support_poses: Float64[np.ndarray, "S 3 4"]


def iter_baselines(plan: ViewPlan, training: ShardCollection, reporter: Reporter) -> Iterator[EvaluatedSamples]:
    """Both predictions of the views of a plan of encoded scenes, from training scenes with views of the same size."""
    novel = novel_cameras(plan)
    most = max(1, MOST_PAIRS // max(len(novel.poses), len(novel.scenes)))
    used = scene_views.check_posed(subsets.evenly_spaced_items(training, most))
    facts = {"training_scenes": f"{used.count:,} of {training.count:,}, split {training.split}"}
    size = len(novel.poses) * int(np.prod(training.shape[1:]))
    if size > MOST_BYTES:
        reporter.warn(
            f"the {MEAN} is left out: {len(novel.poses):,} different cameras would take {format_bytes(size)}, more than "
            f"{format_bytes(MOST_BYTES)}"
        )
    else:
        with reporter.progress("averaging training views", "scenes") as progress:
            means = mean_views(novel, used, progress)
        samples = _as_samples(plan, used, MEAN, lambda rows: means[novel.pose_of[rows]])
        yield EvaluatedSamples(MEAN, samples, {**facts, "run": MEAN}, "view")
    with reporter.progress("searching the nearest training scenes", "scenes") as progress:
        scenes, views = nearest_views(novel, used, progress)
    samples = _as_samples(plan, used, NEAREST, lambda rows: scene_views.read_views(used, scenes[rows], views[rows]))
    yield EvaluatedSamples(NEAREST, samples, {**facts, "run": NEAREST}, "view")


def novel_cameras(plan: ViewPlan) -> NovelCameras:
    """The cameras of a plan of encoded scenes; equal ones once."""
    assert plan.support is not None
    scenes, first, scene_of = np.unique(plan.scenes, return_index=True, return_inverse=True)
    support = plan.support[first]
    poses, support_poses = np.empty((len(plan), 3, 4)), np.empty((len(scenes), 3, 4))
    for index, scene in enumerate(scenes):
        cameras = scene_views.read_cameras(plan.reference, int(scene))[:, :3]
        mine = scene_of == index
        poses[mine], support_poses[index] = cameras[plan.views[mine]], cameras[support[index]]
    unique, pose_of = np.unique(poses.reshape(-1, 12), axis=0, return_inverse=True)
    return NovelCameras(plan, unique.reshape(-1, 3, 4), pose_of.reshape(-1), scenes, scene_of, support, support_poses)


def nearest_cameras(poses: Poses, cameras: Float64[np.ndarray, "V 3 4"]) -> Int64[np.ndarray, " K"]:
    """For each pose, the index of the nearest camera; of equals the first."""
    nearest, block = np.empty(len(poses), dtype=np.int64), max(1, COMPARED_BYTES // (cameras.nbytes or 1))
    for start in range(0, len(poses), block):
        part = slice(start, start + block)
        differences = poses[part].reshape(-1, 1, 12) - cameras.reshape(1, -1, 12)
        nearest[part] = np.square(differences).sum(-1).argmin(1)
    return nearest


def mean_views(
    novel: NovelCameras, training: ShardCollection, progress: Progress | None = None
) -> UInt8[np.ndarray, "K H W 3"]:
    """The mean view of each different camera; `progress` counts training scenes."""
    shape, count = training.shape[1:], training.count
    result = np.empty((len(novel.poses), *shape), dtype=np.uint8)
    block = max(1, BLOCK_BYTES // (4 * int(np.prod(shape))))
    starts = range(0, len(novel.poses), block)
    for number, start in enumerate(starts):
        poses = novel.poses[start : start + block]
        sums = np.zeros((len(poses), *shape), dtype=np.uint32)
        for scene in range(count):
            nearest = nearest_cameras(poses, _cameras(training, scene))
            views, index = np.unique(nearest, return_inverse=True)
            sums += scene_views.read_views(training, np.full(len(views), scene), views)[index.reshape(-1)]
            if progress is not None:
                progress(number * count + scene + 1, len(starts) * count)
        result[start : start + block] = (2 * sums.astype(np.uint64) + count) // (2 * count)
    return result


def nearest_views(
    novel: NovelCameras, training: ShardCollection, progress: Progress | None = None
) -> tuple[Int64[np.ndarray, " N"], Int64[np.ndarray, " N"]]:
    """For each view of the plan, the nearest training scene of its scene and the view there; `progress` counts scenes."""
    block = max(1, BLOCK_BYTES // (8 * int(np.prod(training.shape[1:]))))
    starts = range(0, len(novel.scenes), block)
    nearest = np.empty(len(novel.scenes), dtype=np.int64)
    for number, start in enumerate(starts):
        part = slice(start, start + block)
        read = scene_views.read_views(novel.plan.reference, novel.scenes[part], novel.support[part])
        encoded = read.reshape(len(read), -1).astype(np.float64)
        least, norms = np.full(len(encoded), np.inf), np.einsum("sp,sp->s", encoded, encoded)
        for scene in range(training.count):
            products = _products(encoded, novel.support_poses[part], training, scene)
            squares = norms + products  # exact: whole numbers below 2^53
            nearest[part] = np.where(squares < least, scene, nearest[part])
            least = np.minimum(least, squares)
            if progress is not None:
                progress(number * training.count + scene + 1, len(starts) * training.count)
    views = np.empty(len(novel.plan), dtype=np.int64)
    for index, scene in enumerate(nearest):
        mine = novel.scene_of == index
        views[mine] = nearest_cameras(novel.poses[novel.pose_of[mine]], _cameras(training, int(scene)))
    return nearest[novel.scene_of], views


def _products(
    encoded: Float64[np.ndarray, "S P"], poses: Float64[np.ndarray, "S 3 4"], training: ShardCollection, scene: int
) -> Float64[np.ndarray, " S"]:
    """|v|^2 - 2 v.e for each encoded view e and the training scene's view v with the nearest camera."""
    nearest = nearest_cameras(poses, _cameras(training, scene))
    views, result = np.unique(nearest), np.empty(len(encoded))
    for view in views:
        image = scene_views.read_views(training, np.array([scene]), np.array([view])).reshape(-1).astype(np.float64)
        mine = slice(None) if len(views) == 1 else nearest == view  # a slice copies nothing
        result[mine] = image @ image - 2 * (encoded[mine] @ image)
    return result


def _cameras(training: ShardCollection, scene: int) -> Float64[np.ndarray, "V 3 4"]:
    return scene_views.read_cameras(training, scene)[:, :3].astype(np.float64)


def _as_samples(
    plan: ViewPlan,
    training: ShardCollection,
    name: str,
    read: Callable[[Int64[np.ndarray, " S"]], UInt8[np.ndarray, "S H W 3"]],
) -> ArrayCollection:
    """The predictions of a plan's views as samples of one view, read as they are needed."""
    text = f"{name} {plan.reference.digest} {plan.reference.split} {training.digest} {training.split}"
    return ArrayCollection(
        source=training.source,
        domain=training.domain,
        digest=hashlib.sha256(text.encode()).hexdigest(),
        names=[f"{scene}/{view}" for scene, view in zip(plan.scenes, plan.views, strict=True)],
        load_values=lambda indices: read(indices)[:, None],
        condition=plan.sample_conditions,
        verify_source=training.verify,
    )
