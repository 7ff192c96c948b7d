"""Held-out images, clips and shapes that runs under evaluation encode by one call and evaluate again."""

from __future__ import annotations

import hashlib
import time
from collections.abc import Iterator, Sequence
from dataclasses import replace

import numpy as np
import torch
from jaxtyping import Int64, UInt8

from inrflow_core.config.preset import Preset
from inrflow_core.domains._contract import HasFrames, HasSurfaces
from inrflow_core.errors import UsageError
from inrflow_core.evaluation import metric_specs, shape_sets
from inrflow_core.evaluation.metric_specs import MetricSpec
from inrflow_core.evaluation.results import EvaluatedSamples
from inrflow_core.evaluation.sample_proteins import provenance_facts
from inrflow_core.evaluation.sampling_plan import EvaluatedModel, SamplingSettings, SamplingWork
from inrflow_core.metrics._inputs import ReferenceStats
from inrflow_core.metrics._ssim import LEAST_SIDE
from inrflow_core.models import Model
from inrflow_core.sample_files import readers, subsets
from inrflow_core.sample_files.collection import ArrayCollection, SampleCollection
from inrflow_core.sampling import invert, provenance
from inrflow_core.sampling.request import Size

NAME = "reconstructed"
"""Appended to the name of a run: the held-out items that it encodes."""
SPLITS = ("test", "val")
"""Held-out splits, the preferred one first."""
NEEDS_WINDOW = "reconstruction-ssim"
"""The metric of images that are large enough for its window."""
BATCH = 64
"""Items encoded at once."""


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


def default_metrics(
    targets: Sequence[EvaluatedModel], held_out: SampleCollection | None, sampling: SamplingSettings
) -> tuple[str, ...]:
    """The metrics of reconstructions if every run encodes such items, but those of features; SSIM if images are large enough for
    its window."""
    if held_out is None or not targets:
        return ()
    if not all(encodes(target.preset) and _has_size(target, held_out, sampling) for target in targets):
        return ()
    names = metric_specs.metrics_of_domain(held_out.domain)
    specs = [
        spec
        for spec in metric_specs.parse_metrics(names, held_out.domain)
        if _is_of_reconstructions(spec) and not spec.inputs.features
    ]
    smallest = min(min(target.domain.output_spec(sampling.size(target.domain)).shape[:2]) for target in targets)
    return tuple(spec.name for spec in specs if spec.name != NEEDS_WINDOW or smallest >= LEAST_SIDE)


def check(
    metrics: Sequence[MetricSpec],
    targets: Sequence[EvaluatedModel],
    held_out: SampleCollection | None,
    files: Sequence[SampleCollection],
    sampling: SamplingSettings,
) -> None:
    """Raise UsageError unless metrics of reconstructions, if there are any, can be computed.

    Raises:
        UsageError: no run encodes, the reference has no held-out split, or it holds items that are too small, without what
            is compared, or too few; or no metric is of samples, and a run encodes nothing or there are `files` of samples.
    """
    names = [metric.full for metric in metrics if _is_of_reconstructions(metric)]
    if not names:
        return
    encoding = [target for target in targets if encodes(target.preset)]
    if not encoding:
        raise UsageError(
            f"`{names[0]}` is of items that a run encodes by one call, and none of these does",
            hint="leave it out, or evaluate the run of a consistency or latent model with `--run`",
        )
    if held_out is None:
        raise UsageError(
            f"`{names[0]}` is of the split {' or '.join(SPLITS)} of the reference's shards, and it has none",
            hint="give prepared shards with such a split with `--reference`",
        )
    for metric in filter(_is_of_reconstructions, metrics):
        if held_out.count < metric.metric.min_items:
            raise UsageError(
                f"{held_out.display_name} holds {held_out.count}, and `{metric.full}` needs at least {metric.metric.min_items}",
                hint="name a larger `--num`, or leave the metric out",
            )
    left_out = [f"`{target.name}`" for target in targets if target not in encoding]
    left_out += [one.display_name for one in files]
    if left_out and all(map(_is_of_reconstructions, metrics)):
        raise UsageError(
            f"{left_out[0]} has no reconstructions, and no other metric is computed",
            hint="leave it out, or add a metric of samples, as in `--metrics fid:random,reconstruction-psnr`",
        )
    if isinstance(encoding[0].domain, HasSurfaces):
        shape_sets.check_stored(held_out)
    for target in encoding:
        if not _has_size(target, held_out, sampling):
            size = (
                "" if sampling.resolution is None else f" evaluates them at `--resolution {sampling.resolution}`, and"
            )
            raise UsageError(
                f"`{target.name}` encodes {target.domain.NOUN} of {target.domain.output_spec().shape},{size or ' and'} "
                f"{held_out.display_name} holds some of {held_out.shape}",
                hint="give square references of the training resolution and of `--resolution`, or larger ones",
            )


def iter_sets(
    target: EvaluatedModel, work: SamplingWork, model: Model, filters: Sequence[str] = ()
) -> Iterator[EvaluatedSamples]:
    """The held-out items as a run encodes and evaluates them, computed when they are read; nothing if no metric needs them.

    Images are evaluated at the resolution of the settings, and compared with the originals, reduced to it by the bicubic
    filter. Each of `filters` gives one more set: what the encoder sees, resized to that resolution by Pillow's filter.
    """
    items = work.originals
    if items is None or not is_reconstructed(target, work):
        return
    size = work.sampling.size(model.domain)
    options = invert.inversion_options(model)
    origin = {
        **provenance.provenance_of_file(target.weights, model, None),
        **options.provenance(),
        "split": items.split,
        **({} if size is None else {"resolution": model.domain.describe_size(size)}),
    }
    text = f"{items.digest} {items.split} {origin} {items.count}"
    facts = provenance_facts(target, work, model, options, {key: value or "" for key, value in origin.items()})
    rebuilt = _rebuilt(model, items, hashlib.sha256(text.encode()).hexdigest(), work.sampling.batch or BATCH, size)
    # Their features are cached with the results, and not beside the shards.
    rebuilt = replace(rebuilt, source=target.weights)
    originals = (
        items if isinstance(model.domain, HasSurfaces) else _at_side(items, model.domain.output_spec(size).shape[0])
    )
    facts |= {"nfe": 1, "run": f"{target.run}, {NAME}"}
    yield EvaluatedSamples(f"{target.name}, {NAME}", rebuilt, facts, "reconstruction", originals=originals)
    if not isinstance(size, tuple):
        return
    for filter in filters:
        resized = subsets.resized(_at_side(items, model.domain.output_spec().shape[0]), size, filter)
        name = f"{target.name}, input {filter}"
        of_filter = {"split": items.split or "", "enlarged": filter, "run": name}
        yield EvaluatedSamples(name, resized, of_filter, "reconstruction", originals=originals)


def is_reconstructed(target: EvaluatedModel, work: SamplingWork) -> bool:
    """Whether a metric is of the held-out items that a run encodes."""
    return encodes(target.preset) and any(map(_is_of_reconstructions, work.metrics))


def estimate_seconds(work: SamplingWork, model: Model) -> float:
    """Seconds to encode and evaluate all held-out items, measured on one batch, of shapes on one."""
    assert work.originals is not None
    most = 1 if isinstance(model.domain, HasSurfaces) else work.sampling.batch or BATCH
    batch = min(most, work.originals.count)
    start = time.perf_counter()
    _rebuilt(model, work.originals, "", batch, work.sampling.size(model.domain)).read(range(batch))
    return (time.perf_counter() - start) / batch * work.originals.count


def _is_of_reconstructions(metric: MetricSpec) -> bool:
    return metric.inputs.matched_by == "reconstruction"


def _rebuilt(model: Model, items: SampleCollection, digest: str, batch: int, size: Size) -> ArrayCollection:
    """Items as a run encodes and evaluates them, of images at a size, `batch` at once; computed when they are read."""
    if isinstance(model.domain, HasSurfaces):
        return shape_sets.reconstructed(model, items, digest, batch)
    return ArrayCollection(
        source=items.source,
        domain=items.domain,
        digest=digest,
        split=items.split,
        names=items.item_names(),
        load_values=lambda indices: _evaluate(model, items, indices, batch, size),
    )


def _evaluate(
    model: Model, items: SampleCollection, indices: Int64[np.ndarray, " S"], batch: int, size: Size
) -> UInt8[np.ndarray, "S *size C"]:
    device = next(model.method.parameters()).device
    options, values = invert.inversion_options(model), []
    queries = model.domain.queries(size).to(device)
    with torch.no_grad():
        for start in range(0, len(indices), batch):
            rows = indices[start : start + batch]
            sets = model.domain.to_set(items.read(rows.tolist()), torch.from_numpy(rows)).to(device)
            field = model.method.invert(sets, options)
            values.append(model.domain.decode_values(field.query(queries), size))
    return np.concatenate(values)


def _at_side(items: SampleCollection, side: int) -> SampleCollection:
    """Square images, reduced to that side by the bicubic filter with antialiasing, as multi-scale training does."""
    return items if items.shape[0] == side else subsets.resized(items, (side, side), "bicubic")


def _has_size(target: EvaluatedModel, held_out: SampleCollection, sampling: SamplingSettings) -> bool:
    """Whether a target encodes such items: square images that are as large as it reads and evaluates them, or larger; of
    shapes, surfaces of any number of points; clips of the training size; of scenes none."""
    domain = target.domain
    if held_out.domain != domain.NAME or domain.HAS_CAMERAS:
        return False
    if isinstance(domain, HasSurfaces):
        return True
    if isinstance(domain, HasFrames):
        return held_out.shape == domain.output_spec().shape == domain.output_spec(sampling.size(domain)).shape
    rows, columns, channels = held_out.shape
    own, evaluated = (domain.output_spec(size).shape for size in (None, sampling.size(domain)))
    return channels == own[2] and rows == columns >= max(*own[:2], *evaluated[:2]) and evaluated[0] == evaluated[1]
