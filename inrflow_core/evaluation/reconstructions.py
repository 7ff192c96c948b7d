"""Held-out images that runs under evaluation encode by one call and evaluate again."""

from __future__ import annotations

import hashlib
import time
from collections.abc import Sequence

import numpy as np
import torch
from jaxtyping import Int64, UInt8

from inrflow_core.config.preset import Preset
from inrflow_core.errors import UsageError
from inrflow_core.evaluation.metric_specs import MetricSpec
from inrflow_core.evaluation.results import EvaluatedSamples
from inrflow_core.evaluation.sample_proteins import provenance_facts
from inrflow_core.evaluation.sampling_plan import EvaluatedModel, SamplingWork
from inrflow_core.metrics import reconstruction_psnr
from inrflow_core.metrics._inputs import ReferenceStats
from inrflow_core.metrics._ssim import LEAST_SIDE
from inrflow_core.models import Model
from inrflow_core.sample_files import readers, subsets
from inrflow_core.sample_files.collection import ArrayCollection, SampleCollection
from inrflow_core.sampling import invert, provenance

NAME = "reconstructed"
"""Appended to the name of a run: the held-out images that it encodes."""
SPLITS = ("test", "val")
"""Held-out splits, the preferred one first."""
DEFAULT = ("reconstruction-psnr", "reconstruction-ssim")
BATCH = 64
"""Images encoded at once."""


def encodes(preset: Preset) -> bool:
    """Whether the method encodes a set by one call of a network (`ENCODES` of its file)."""
    return getattr(preset.method.module, "ENCODES", False)


def originals(
    reference: SampleCollection | ReferenceStats, classes: Sequence[str], most: int
) -> SampleCollection | None:
    """At most `most` held-out items of the reference's shards, evenly spaced; None if they have no held-out split."""
    if isinstance(reference, ReferenceStats):
        return None
    split = next((name for name in SPLITS if name in readers.split_names(reference.source)), None)
    if split is None:
        return None
    items = readers.open_collection(reference.source, split)
    items = subsets.filter_classes(items, classes) if classes else items
    return subsets.evenly_spaced_items(items, most)


def default_metrics(targets: Sequence[EvaluatedModel], held_out: SampleCollection | None) -> tuple[str, ...]:
    """The metrics of reconstructions if every run encodes images of the size of the held-out ones; SSIM if they are large
    enough for its window.
    """
    if held_out is None or held_out.domain != reconstruction_psnr.DOMAIN or not targets:
        return ()
    if not all(encodes(target.preset) and _has_size(target, held_out) for target in targets):
        return ()
    return DEFAULT if min(held_out.shape[:2]) >= LEAST_SIDE else DEFAULT[:1]


def check(
    metrics: Sequence[MetricSpec],
    targets: Sequence[EvaluatedModel],
    held_out: SampleCollection | None,
    files: Sequence[SampleCollection] = (),
) -> None:
    """Raise UsageError unless metrics of reconstructions, if there are any, can be computed.

    Raises:
        UsageError: no run encodes, the reference has no held-out split, or it holds images of another size; or no metric is
            of samples, and a run encodes nothing or there are `files` of samples.
    """
    names = [metric.full for metric in metrics if metric.inputs.matched_by == "reconstruction"]
    if not names:
        return
    encoding = [target for target in targets if encodes(target.preset)]
    if not encoding:
        raise UsageError(
            f"`{names[0]}` is of images that a run encodes by one call, and none of these does",
            hint="leave it out, or evaluate the run of a consistency model with `--run`",
        )
    if held_out is None:
        raise UsageError(
            f"`{names[0]}` is of the split {' or '.join(SPLITS)} of the reference's shards, and it has none",
            hint="give prepared shards with such a split with `--reference`",
        )
    left_out = [f"`{target.name}`" for target in targets if target not in encoding]
    left_out += [one.display_name for one in files]
    if left_out and all(metric.inputs.matched_by == "reconstruction" for metric in metrics):
        raise UsageError(
            f"{left_out[0]} has no reconstructions, and no other metric is computed",
            hint="leave it out, or add a metric of samples, as in `--metrics fid:random,reconstruction-psnr`",
        )
    for target in encoding:
        if not _has_size(target, held_out):
            raise UsageError(
                f"`{target.name}` encodes images of {target.domain.output_spec().shape}, and {held_out.display_name} holds "
                f"images of {held_out.shape}",
                hint="prepare the reference at the resolution of training, or leave the metric out",
            )


def reconstruct(target: EvaluatedModel, work: SamplingWork, model: Model) -> EvaluatedSamples | None:
    """The held-out images as a run encodes and evaluates them, computed when they are read; None if no metric needs them."""
    items = work.originals
    if items is None or not is_reconstructed(target, work):
        return None
    options = invert.inversion_options(model)
    origin = {
        **provenance.provenance_of_file(target.weights, model, None),
        **options.provenance(),
        "split": items.split,
    }
    text = f"{items.digest} {items.split} {origin} {items.count}"
    facts = provenance_facts(target, work, model, options, {key: value or "" for key, value in origin.items()})
    rebuilt = ArrayCollection(
        source=items.source,
        domain=items.domain,
        digest=hashlib.sha256(text.encode()).hexdigest(),
        split=items.split,
        names=items.item_names(),
        load_values=lambda indices: _evaluate(model, items, indices, work.sampling.batch or BATCH),
    )
    facts |= {"nfe": 1, "run": f"{target.run}, {NAME}"}
    return EvaluatedSamples(f"{target.name}, {NAME}", rebuilt, facts, "reconstruction", originals=items)


def is_reconstructed(target: EvaluatedModel, work: SamplingWork) -> bool:
    """Whether a metric is of the held-out images that a run encodes."""
    return encodes(target.preset) and any(metric.inputs.matched_by == "reconstruction" for metric in work.metrics)


def estimate_seconds(work: SamplingWork, model: Model) -> float:
    """Seconds to encode and evaluate all held-out images, measured on one batch."""
    assert work.originals is not None
    batch = min(work.sampling.batch or BATCH, work.originals.count)
    start = time.perf_counter()
    _evaluate(model, work.originals, np.arange(batch), batch)
    return (time.perf_counter() - start) / batch * work.originals.count


def _evaluate(
    model: Model, items: SampleCollection, indices: Int64[np.ndarray, " S"], batch: int
) -> UInt8[np.ndarray, "S H W C"]:
    device = next(model.method.parameters()).device
    options, values = invert.inversion_options(model), []
    with torch.no_grad():
        for start in range(0, len(indices), batch):
            rows = indices[start : start + batch]
            sets = model.domain.to_set(items.read(rows.tolist()), torch.from_numpy(rows)).to(device)
            field = model.method.invert(sets, options)
            values.append(model.domain.decode_values(field.query(sets.queries)))
    return np.concatenate(values)


def _has_size(target: EvaluatedModel, held_out: SampleCollection) -> bool:
    return tuple(target.domain.output_spec().shape) == tuple(held_out.shape)
