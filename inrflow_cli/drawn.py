"""What `eval` judges of runs: which checkpoints, and their samples, drawn where they are not there yet.

Clouds and pictures of a run are one shard, structures one .pdb file each. Every process of a launcher draws its share;
the one that leads waits for the others.
"""

from __future__ import annotations

import os
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from inrflow_cli import conditions, console, generation, many
from inrflow_core.errors import UsageError

if TYPE_CHECKING:
    from inrflow_core.config.preset import Preset
    from inrflow_core.evaluation.reference_stats import ReferenceStats
    from inrflow_core.evaluation.results import EvaluatedSamples
    from inrflow_core.models import Model
    from inrflow_core.sample_files.collection import SampleCollection
    from inrflow_core.sampling.reference_inputs import ReferenceSamplingPlan
    from inrflow_core.sampling.request import SampleRequest, Size

ENLARGED = ("bilinear", "bicubic")
PAUSE = 0.5
"""Seconds between two looks for what other processes draw."""


@dataclass(frozen=True)
class SamplingSettings:
    """How runs are sampled."""

    checkpoints: str
    num: int | None
    seed: int
    label: str | None
    guidance: float | None
    guidance_interval: str | None
    sampler: str | None
    steps: int | None
    settings: list[str] | None
    resolution: str | None
    points: int | None
    view: str | None
    samples_per_item: int | None
    noise: str | None
    ema: float | None
    batch: int | None
    device: str | None
    precision: str | None = None
    compile: bool | None = None


@dataclass(frozen=True)
class EvaluatedModel:
    """Weights to sample and judge."""

    name: str
    run: str
    """The run's name, which no other run of the evaluation has."""
    weights: Path

    @property
    def preset(self) -> Preset:
        """What the weights were trained by."""
        from inrflow_core import models

        return models.read_metadata(self.weights)[0]

    @property
    def domain(self) -> Any:
        """The domain of what is drawn."""
        part = self.preset.domain
        return part.module.Domain(part.config)

    @property
    def kind(self) -> str | None:
        """What it draws from that an item of the reference gives (`reference_inputs.condition_kind`)."""
        from inrflow_core.sampling import reference_inputs

        return reference_inputs.condition_kind(self.preset)


@dataclass(frozen=True)
class SamplingWork:
    """Where samples go, how many, and from what."""

    folder: Path
    sampling: SamplingSettings
    reference: SampleCollection | ReferenceStats
    num: int
    """Samples of each run; of one that draws from items of the reference, these."""
    overwrite: bool


def targets(source: Path, run: str, sampling: SamplingSettings) -> list[EvaluatedModel]:
    """The checkpoints of a run that are to be judged."""
    from inrflow_core.runs.run import open_run, resolve_weights

    def target(step: Any, name: str) -> EvaluatedModel:
        return EvaluatedModel(name, run, resolve_weights(source, ema=sampling.ema, step=step))

    if sampling.checkpoints != "all":
        texts = sampling.checkpoints.split(",")
        steps = [generation.parse_checkpoint(text.strip(), "--checkpoints") for text in texts]
    else:
        opened = open_run(source)
        steps = list(opened.steps) or [opened.checkpoint()]  # the latter raises
    if sampling.checkpoints == "newest":
        return [target(None, run)]
    return [
        target(step, f"{run}-{step:08d}" if isinstance(step, int) else f"{run}-{step or 'newest'}") for step in steps
    ]


def run_name(run: Path) -> str:
    """What a run or a weights file is called, where no text can hold a byte of it with a mark in its stead."""
    found = run.stem if run.is_file() else run.name or run.resolve().name
    return os.fsencode(found).decode(errors="replace")


def unique_names(names: Sequence[str]) -> list[str]:
    """The names, a number behind those that were there before: runs in two folders may have one name."""
    found: list[str] = []
    for name in names:
        free, number = name, 2
        while free in found:
            free, number = f"{name}-{number}", number + 1
        found.append(free)
    return found


def sample_shape(target: EvaluatedModel, sampling: SamplingSettings, *, is_enlarged: bool) -> tuple[int, ...]:
    """The shape of a target's samples, as they are asked for; of proteins, which differ in size, none.

    Raises:
        UsageError: a size of the wrong kind, or enlargements of what is not asked more finely.
    """
    domain = target.domain
    if domain.MAKES_STRUCTURES:
        if sampling.resolution is not None or is_enlarged:
            raise UsageError("a protein has the atoms of its sequence", hint="leave `--resolution` out")
        return ()
    size = generation.choose_size(domain, sampling.resolution, sampling.points)
    if is_enlarged and not isinstance(size, tuple):
        raise UsageError("`--enlarged` compares pictures asked more finely", hint="add `--resolution HxW`")
    return domain.output_spec(size).shape


def plan(target: EvaluatedModel, work: SamplingWork) -> ReferenceSamplingPlan | None:
    """What a target's samples are drawn from; None where it draws from nothing that the reference gives.

    Raises:
        UsageError: an option that cannot act on it, or a reference that holds nothing to draw from.
    """
    from inrflow_core.sample_files.collection import SampleCollection
    from inrflow_core.sampling import reference_inputs

    wanted, kind = work.sampling, target.kind
    for option, value, kinds in (
        ("--view", wanted.view, ("image",)),
        ("--samples-per-item", wanted.samples_per_item, ("image", "sequence")),
        ("--label", wanted.label, (None,)),
    ):
        if value is not None and kind not in kinds:
            draws = (
                f"draws from {reference_inputs.noun_of(kind)}"
                if kind
                else "draws from nothing that the reference gives"
            )
            raise UsageError(f"`{option}` says nothing to `{target.name}`, which {draws}", hint="leave it out")
    if kind is None:
        return None
    if not isinstance(work.reference, SampleCollection):
        raise UsageError(
            f"`{work.reference.source}` holds statistics, and `{target.name}` draws from {reference_inputs.noun_of(kind)}",
            hint="give shards that hold them with `--reference`",
        )
    view, each = _parse_view(wanted.view), wanted.samples_per_item or 1
    return reference_inputs.plan_from_reference(kind, work.reference, work.num, each=each, seed=wanted.seed, view=view)


def num_samples(target: EvaluatedModel, work: SamplingWork) -> int:
    """Samples of a target; raises as `plan`."""
    planned = plan(target, work)
    return work.num if planned is None else len(planned)


def iter_sample_sets(target: EvaluatedModel, work: SamplingWork, *, is_enlarged: bool) -> Iterator[EvaluatedSamples]:
    """The samples of one target; also enlargements of its samples at the training's resolution, where asked for.

    A process that does not lead draws its share and has nothing to judge.
    """
    from inrflow_core.evaluation import results
    from inrflow_core.sample_files import collection, readers

    model = _load(target, work)
    size = _size(model, work)
    if model.domain.MAKES_STRUCTURES:
        found, facts = _folded(target, work, model)
        if found is not None:
            yield results.EvaluatedSamples(target.name, found, facts)
        return
    place, facts = _sampled(target, work, model, size)
    if _leads():
        yield results.EvaluatedSamples(target.name, readers.open_collection(place), facts)
    if is_enlarged and isinstance(size, tuple):
        place, facts = _sampled(target, work, model, None)
        for filter in ENLARGED if _leads() else ():
            enlarged = collection.resized(readers.open_collection(place), size, filter)
            name = f"{target.name}, {filter}"
            yield results.EvaluatedSamples(name, enlarged, {**facts, "enlarged": filter, "run": name})


def estimate_seconds(target: EvaluatedModel, work: SamplingWork) -> float:
    """What drawing a target's samples takes, from two solver steps of a few of them."""
    from inrflow_core.numerics import solver
    from inrflow_core.sampling import options, reference_inputs, request, sample

    wanted, model, planned = work.sampling, _load(target, work), plan(target, work)
    how = _how(model, wanted)
    few = options.sampling_options(model, sampler="euler", steps=2, guidance=wanted.guidance)
    whole = _request(model, work, planned)
    batch = wanted.batch or request.default_batch_size(model, whole)
    rows = range(min(batch, len(whole.seeds)))
    if planned is not None and planned.kind == "sequence":
        rows = range(min(batch, planned.each))
    labels = None if whole.labels is None else [whole.labels[row] for row in rows]
    told = {} if planned is None else reference_inputs.condition(model, planned, rows)
    part = replace(whole, seeds=[whole.seeds[row] for row in rows], labels=labels, batch=batch, condition=told)
    start = time.perf_counter()
    for _ in sample.iter_samples(model, part, few):
        pass
    each = (time.perf_counter() - start) / len(rows) / 2
    return each * solver.num_function_evaluations(how.sampler, how.config) * len(whole.seeds)


def _sampled(target: EvaluatedModel, work: SamplingWork, model: Model, size: Size) -> tuple[Path, dict[str, Any]]:
    """The shard of a target's samples, drawn where it is not there yet, and what is known of them."""
    from inrflow_core.sample_files import sample_shard
    from inrflow_core.sampling import optimize, provenance, reference_inputs, sharded

    planned, how = plan(target, work), _how(model, work.sampling)
    request = replace(_request(model, work, planned), size=size)
    origin = provenance.provenance(model, target.weights, request, how)
    if planned is not None:
        reference_inputs.check(planned, model)
        origin |= planned.told()
    asked = "" if size is None else f"-{origin['size']}"
    place = work.folder / f"{target.name}{asked}.h5"
    place.parent.mkdir(parents=True, exist_ok=True)
    is_drawn = sharded.is_already_sampled(place, request, origin, overwrite=work.overwrite)
    if not is_drawn or not sample_shard.matches_digest(place, overwrite=work.overwrite):
        if _leads():
            sample_shard.remove_digest(place)
        shard = sharded.open_sample_shard(model, request, place, origin, overwrite=work.overwrite)
        shard.condition = {} if planned is None else planned.recorded
        model, how = optimize.optimize_for_inference(model, how, compile=bool(work.sampling.compile))
        source = many.SampleSource(model, request, how, generation.query_budget(request.chunk), planned)
        many.write_shard(source, shard, title="sampling" if planned is None else f"sampling from {planned.kind}s")
        _await(shard.finish)
    if _leads():
        sample_shard.write_digest(place)
    facts = _facts(target, work, model, how, origin)
    return place, facts | {"label": None if request.labels is None else work.sampling.label or "random"}


def _folded(target: EvaluatedModel, work: SamplingWork, model: Model) -> tuple[SampleCollection | None, dict[str, Any]]:
    """The structures of a target, one .pdb file each, and what is known of them; those that are there are kept.

    A process that does not lead has drawn its share and does not wait for the others.
    """
    from inrflow_core.sample_files import readers, writer
    from inrflow_core.sampling import optimize, provenance, reference_inputs

    planned, how = plan(target, work), _how(model, work.sampling)
    assert planned is not None
    reference_inputs.check(planned, model)
    request = _request(model, work, planned)
    origin = provenance.provenance(model, target.weights, request, how)
    model, how = optimize.optimize_for_inference(model, how, compile=bool(work.sampling.compile))
    names = planned.reference.item_names()
    stems = unique_names([conditions.safe_filename(name) for name in names])
    folder = work.folder / target.name
    files = [folder / stems[owner] / f"{row % planned.each}.pdb" for row, owner in enumerate(planned.owners)]
    told = [
        {**origin, "seeds": str(seed), "protein": names[owner]}
        for seed, owner in zip(planned.seeds, planned.owners, strict=True)
    ]
    rank, size = _share()
    proteins = range(rank, planned.reference.count, size)
    wanted = [range(place * planned.each, (place + 1) * planned.each) for place in proteins]
    lacking = [[row for row in rows if not _is_there(files[row], told[row], work)] for rows in wanted]
    mine = [rows for rows in lacking if rows]
    with console.progress(sum(map(len, mine)), "structures", title="folding") as shown:
        for rows in mine:
            files[rows[0]].parent.mkdir(parents=True, exist_ok=True)
            for row, structure in reference_inputs.sample_structures(model, planned, rows, request, how):
                writer.write(files[row], [structure], "protein", origin=told[row], overwrite=True)
                shown.advance(1)
    first, last = planned.seeds[0], planned.seeds[planned.each - 1]
    seeds = str(first) if first == last else f"{first}-{last}"
    facts = _facts(target, work, model, how, origin) | {"seeds": seeds}
    if not _leads():
        return None, facts
    _await(lambda: all(file.is_file() for file in files))
    found = readers.structures_in(
        folder, [(f"{names[owner]}/{file.name}", file) for owner, file in zip(planned.owners, files, strict=True)]
    )
    return found, facts


def _is_there(file: Path, origin: dict[str, str], work: SamplingWork) -> bool:
    """Whether a structure was drawn already.

    Raises:
        UsageError: another was, and nobody said that it may be replaced.
    """
    from inrflow_core.proteins import structure_writer

    if not file.is_file():
        return False
    is_same = structure_writer.has_provenance(file, origin)
    if not is_same and not work.overwrite:
        raise UsageError(f"`{file}` was drawn otherwise", hint="add `--overwrite`, or choose another folder")
    return is_same


def _facts(
    target: EvaluatedModel, work: SamplingWork, model: Model, how: Any, origin: dict[str, str]
) -> dict[str, Any]:
    """What metrics.json and the page tell of a target's samples."""
    from inrflow_core.numerics import solver

    return {
        **{key: text for key, text in origin.items() if key != "labels"},
        "samples_per_item": work.sampling.samples_per_item,
        "nfe": solver.num_function_evaluations(how.sampler, how.config),
        "parameters": sum(parameter.numel() for parameter in model.method.parameters()),
        "samples_seen": model.info.get("samples_seen"),
        "flops": model.info.get("flops"),
        "run": target.run,
    }


def _request(model: Model, work: SamplingWork, planned: ReferenceSamplingPlan | None) -> SampleRequest:
    """The seeds and labels of all samples of a target; conditions come when they are drawn."""
    from inrflow_core.sampling import labels, request

    wanted, size = work.sampling, _size(model, work)
    if planned is not None:
        return request.SampleRequest(planned.seeds.tolist(), None, size, batch=wanted.batch)
    seeds = range(wanted.seed, wanted.seed + work.num)
    return request.SampleRequest(seeds, labels.resolve_labels(model, seeds, wanted.label), size, batch=wanted.batch)


def _load(target: EvaluatedModel, work: SamplingWork) -> Model:
    from inrflow_core import models
    from inrflow_core.runtime import malloc

    malloc.retain_freed_pages()
    return models.load(target.weights, generation.choose_device(work.sampling.device))


def _size(model: Model, work: SamplingWork) -> Size:
    if model.domain.MAKES_STRUCTURES:
        return None
    return generation.choose_size(model.domain, work.sampling.resolution, work.sampling.points)


def _how(model: Model, wanted: SamplingSettings) -> Any:
    from inrflow_core.sampling import options

    return options.sampling_options(
        model,
        sampler=wanted.sampler,
        steps=wanted.steps,
        sampler_settings=generation.parse_settings(wanted.settings),
        guidance=wanted.guidance,
        guidance_interval=generation.parse_interval(wanted.guidance_interval),
        noise=wanted.noise,
        precision=wanted.precision or "fp32",
    )


def _parse_view(text: str | None) -> int | None:
    """A view's number, the first without a text; None for that of each sample's seed.

    Raises:
        UsageError: the text is neither.
    """
    from inrflow_core.sampling import reference_inputs

    if text == reference_inputs.PAIRED_BY_SEED:
        return None
    if text is not None and not (text.isascii() and text.isdigit()):
        raise UsageError(
            f"`--view {text}` is no view", hint=f"give a number from 0 on, or `{reference_inputs.PAIRED_BY_SEED}`"
        )
    return int(text or 0)


def _share() -> tuple[int, int]:
    """This process's number among those of a launcher, and how many they are."""
    from inrflow_core.runtime import distributed

    here = distributed.find(os.environ, "cpu")
    return here.rank, here.size


def _leads() -> bool:
    return _share()[0] == 0


def _await(is_whole: Callable[[], bool]) -> None:
    """Return when the samples of all processes are there, which only the one that leads waits for."""
    is_there = is_whole()
    if not is_there and _leads():
        console.info("waiting for the samples of other processes")
    while not is_there and _leads():
        time.sleep(PAUSE)
        is_there = is_whole()
