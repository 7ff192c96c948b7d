"""Compare rendered views of scenes with the real ones, block by block."""

from __future__ import annotations

import numpy as np
from jaxtyping import Float64, Int64

from inrflow_core.errors import UsageError
from inrflow_core.evaluation import sample_matching
from inrflow_core.geometry import cameras
from inrflow_core.metrics._inputs import MeasureOfPairs
from inrflow_core.metrics._view_inputs import ViewScores
from inrflow_core.runtime.progress import Progress
from inrflow_core.sample_files import scene_views
from inrflow_core.sample_files.collection import SampleCollection

BLOCK = 64
"""Views of each side in memory."""
RECORD = ("item", "view", "support")
"""What samples of one view record: their scene (its index in the whole split), their view, and the one that was encoded."""


def compare_views(
    samples: SampleCollection,
    reference: SampleCollection,
    measure: MeasureOfPairs,
    progress: Progress | None = None,
) -> ViewScores:
    """A measure of each sample, one view of a scene, and that view in the reference; `progress` counts views.

    Raises:
        UsageError: samples do not record what they show, or show another view than the protocol says.
    """
    names, counts = reference.item_names(), scene_views.view_counts(reference)
    values: list[Float64[np.ndarray, " B"]] = [np.empty(0)]
    scenes: list[Int64[np.ndarray, " B"]] = [np.empty(0, dtype=np.int64)]
    for start in range(0, samples.count, BLOCK):
        stop = min(start + BLOCK, samples.count)
        batch = samples.read(range(start, stop))
        if not set(RECORD) <= batch.condition.keys():
            raise UsageError(
                f"{samples.display_name} does not record which view of which scene each sample shows",
                hint="evaluate the run itself with `--run`, or leave out the metrics of novel views",
            )
        item, views, support = (batch.condition[name].astype(np.int64).reshape(-1) for name in RECORD)
        shown = sample_matching.match_recorded(samples, item, reference)
        expected = cameras.support_views(counts[shown])
        if (views >= counts[shown]).any() or (support != expected).any() or (views == support).any():
            raise UsageError(
                f"{samples.display_name} has views of other scenes than {reference.display_name}, or from another view",
                hint="give the reference that the samples were encoded from",
            )
        values.append(measure(batch.values[:, 0], scene_views.read_views(reference, shown, views)))
        scenes.append(shown)
        if progress is not None:
            progress(stop, samples.count)
    return ViewScores(np.concatenate(values), np.concatenate(scenes), tuple(names))
