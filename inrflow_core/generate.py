"""From a run to samples: the model, its fields, and what they answer at the places asked for.

model = load("runs/digits-demo")
field = draw(model, seeds=[0, 1, 2], labels=[3, 4, 5], how=drawing(model, guidance=2.0))
images = query(model, field, size=(96, 96))
"""

from __future__ import annotations

import dataclasses
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import torch

from inrflow_core import __version__, models, noise, registry, runs, shards, structures, tensor_files
from inrflow_core.errors import Diverged, UsageError, did_you_mean
from inrflow_core.fields import CHUNK, Field, Progress
from inrflow_core.models import Model
from inrflow_core.presets import settings
from inrflow_core.room import Room, fits
from inrflow_core.sample_folders import SampleFolder
from inrflow_core.sample_shards import SampleShard
from inrflow_core.sets import Condition
from inrflow_core.shards import Header
from inrflow_core.structures import Structure

PRECISIONS = ("fp32", "bf16")

Size = tuple[int, int] | int | None
Window = tuple[float, float, float, float] | None


@dataclass(frozen=True)
class Request:
    """Which samples are wanted, and where they are asked.

    `labels` holds one class per seed, -1 for none, and is None for a model without classes. `size` is rows and
    columns or a number of points, None for the training's. `chunk` bounds the pairs answered at once, `batch` is the
    number of samples drawn together; neither changes a sample. `condition` is what else each sample is drawn under, one
    row for each seed: `tokens` of a picture, or `residues` of a chain.
    """

    seeds: Sequence[int]
    labels: Sequence[int] | None = None
    size: Size = None
    window: Window = None
    chunk: int = CHUNK
    batch: int | None = None
    condition: Condition = dataclasses.field(default_factory=dict)


def load(source: str | Path, *, ema: float | None = None, step: runs.Step = None, device: str = "cpu") -> Model:
    """The model of a run folder, a checkpoint folder or a .safetensors file, ready to draw.

    Raises:
        MissingError, IntegrityError: see `runs.weights_file` and `models.load`.
    """
    return models.load(runs.weights_file(Path(source), ema=ema, step=step), device)


def drawing(
    model: Model,
    *,
    sampler: str | None = None,
    steps: int | None = None,
    sampler_settings: Mapping[str, Any] | None = None,
    guide: Model | None = None,
    precision: str = "fp32",
    **method_settings: Any,
) -> Any:
    """How to draw: the preset's sampler and guidance, with what is given in their place.

    Args:
        sampler: another solver's name; its settings are then its defaults.
        steps: solver steps, for solvers that take a number of steps.
        sampler_settings: further settings of the sampler by name; the others stay the preset's, or that sampler's defaults.
        guide: a second model to guide with (autoguidance).
        method_settings: `guidance`, `guidance_interval`, `noise`; None keeps the preset's.

    Raises:
        UsageError: an unknown sampler or precision, or a setting that the sampler does not have.
    """
    part = model.preset.sampler
    config = part.config
    name = part.name or ""
    if sampler is not None and sampler.replace("-", "_") != name.replace("-", "_"):
        name, config = sampler, settings(registry.find("samplers", sampler).Config, {}, "sampler")
    if steps is not None:
        if not hasattr(config, "steps"):
            raise UsageError(
                f"the sampler `{name}` chooses its own steps", hint="leave `--steps` out, or choose `--sampler euler`"
            )
        config = replace(config, steps=steps)
    if sampler_settings:
        kept = {key: value for key, value in vars(config).items() if value is not None}
        config = settings(type(config), {**kept, **sampler_settings}, "sampler")
    given = {key: value for key, value in method_settings.items() if value is not None}
    method = registry.find("methods", model.preset.method.name or "")
    own = {key: value for key, value in vars(model.preset.method.config).items() if value is not None}
    wanted = settings(method.Config, {**own, **given}, "method")
    if precision not in PRECISIONS:
        raise UsageError(f"nothing is computed in `{precision}`", hint=did_you_mean(precision, PRECISIONS))
    _check_guidance(model, guide, wanted.guidance, is_asked=given.get("guidance") is not None)
    return method.Drawing(
        sampler=registry.find("samplers", name),
        config=config,
        guidance=wanted.guidance,
        interval=wanted.guidance_interval,
        noise=wanted.noise,
        guide=None if guide is None else guide.method,
        precision=precision,
    )


def choose_labels(model: Model, seeds: Sequence[int], wanted: str | None = None) -> list[int] | None:
    """One class per seed, or None for a model without classes.

    `wanted` is a class's number or name, several with commas, `all`, or `none`; a seed takes class number `seed`
    modulo their count. Without it each seed has its own random class, so that many samples spread over all of them.

    Raises:
        UsageError: the model has no such class.
    """
    if model.preset.condition is None or model.preset.condition.name != "label":
        if wanted not in (None, "none"):
            raise UsageError(
                f"`--label {wanted}`: the model `{model.preset.name}` was trained without classes",
                hint="leave `--label` out",
            )
        return None
    count = model.preset.condition.config.classes
    if wanted is None:
        u = noise.uniform(torch.tensor(list(seeds), dtype=torch.int64), purpose="label")[:, 0]
        return (u * count).long().tolist()
    if wanted == "none":
        return [-1] * len(seeds)
    names = list(model.info.get("classes") or [])
    chosen = (
        list(range(count)) if wanted == "all" else [_label(text.strip(), names, count) for text in wanted.split(",")]
    )
    return [chosen[seed % len(chosen)] for seed in seeds]


def draw(
    model: Model,
    seeds: Sequence[int],
    labels: Sequence[int] | None = None,
    how: Any = None,
    condition: Condition | None = None,
) -> Field:
    """New functions, one per seed: sample i depends on its seed and label alone.

    Args:
        labels: one class number per seed, -1 for none; None for a model without classes, and for no other.
            `choose_labels` makes them of names, or at random.
        how: see `drawing`; None draws as the preset says.
        condition: what else each is drawn under, one row for each seed; see `Request`.

    Raises:
        UsageError: the model needs a picture or a sequence, and none is given.
    """
    device = next(model.method.parameters()).device
    given = {name: value.to(device) for name, value in (condition or {}).items()}
    _check_condition(model, given)
    if labels is not None:
        given["label"] = torch.tensor(list(labels), dtype=torch.int64, device=device)
    keys = torch.tensor(list(seeds), dtype=torch.int64, device=device)
    return model.method.draw(model.domain.queries(condition=given).to(device), keys, given, how or drawing(model))


def query(
    model: Model,
    field: Field,
    size: Size = None,
    window: Window = None,
    *,
    chunk: int | Room = CHUNK,
    progress: Progress | None = None,
) -> np.ndarray:
    """What the functions are at a resolution (rows, columns) or a number of points, as the domain's own values.

    Images come as uint8 (B H W C), clouds as float32 (B N C).

    `window` is top, left, bottom and right of a part of a picture, from 0 to 1. `progress` counts solver steps.

    Raises:
        UsageError: a size that is none, or a window of a cloud.
        Diverged: some values are no finite numbers.
    """
    queries = model.domain.queries(size, window, field.condition).to(field.seeds.device)
    values = field.query(queries, chunk=chunk, progress=progress)
    if not values.isfinite().all():
        raise Diverged(
            "the samples left the finite numbers on their way",
            hint="take more `--steps` or less `--guidance`, or an earlier `--checkpoint` if its weights did too",
        )
    return model.domain.from_values(values, size)


def samples(
    model: Model,
    request: Request,
    how: Any = None,
    progress: Progress | None = None,
    *,
    room: Room | None = None,
) -> Iterator[tuple[slice, np.ndarray]]:
    """The samples of a request, some at a time: which of its seeds they are, and their values.

    Where the memory does not suffice for a batch, half of it is drawn at a time from there on.

    Args:
        progress: counts solver steps of every sample.
        room: what several calls of one run share; without it chunks of the request's size.

    Raises:
        OutOfMemory: not even one sample fits, or `draw` and `query` raise.
    """
    room = room or Room(request.chunk)
    total, start = len(request.seeds), 0
    batch = request.batch or default_batch(model, request)
    while start < total:
        most = min(batch, room.batch or batch)
        part = slice(start, min(start + most, total))
        size = most if getattr(model.method.network, "is_compiled", False) else 1  # compiled for one number of sets
        report = None if progress is None else _of_all(progress, part, total)
        drawn: list[np.ndarray] = []
        asked = _part(request, part, size)
        if fits(lambda asked=asked, report=report, to=drawn: to.append(_drawn(model, asked, how, room, report))):
            yield part, drawn[0][: part.stop - part.start]
            start = part.stop
        else:
            room.halve_batch(len(asked.seeds))


def _drawn(model: Model, request: Request, how: Any, room: Room, progress: Progress | None) -> np.ndarray:
    field = draw(model, request.seeds, request.labels, how, request.condition)
    return query(model, field, request.size, request.window, chunk=room, progress=progress)


def _part(request: Request, part: slice, least: int) -> Request:
    """A part of a request, its last sample again and again up to `least` of them."""
    rows = list(range(part.start, part.stop))
    rows += rows[-1:] * (least - len(rows))
    return replace(
        request,
        seeds=[request.seeds[row] for row in rows],
        labels=None if request.labels is None else [request.labels[row] for row in rows],
        condition={name: value[rows] for name, value in request.condition.items()},
    )


def default_batch(model: Model, request: Request) -> int:
    """Samples drawn together: as many as keep a batch's pairs near four chunks."""
    condition = dict(request.condition)
    if "residues" in condition:  # the atoms of the longest chain will do
        longest = int((condition["residues"] >= 0).sum(1).argmax())
        condition = {"residues": condition["residues"][longest : longest + 1]}
    asked = model.domain.queries(request.size, request.window, condition or None)
    pairs = max(model.domain.shape.num_pairs, len(asked))
    return max(1, min(len(request.seeds), 4 * request.chunk // pairs))


def preview(model: Model, num: int = 16, chunk: int = CHUNK, condition: Condition | None = None) -> Any:
    """A picture (PIL) of the samples of seeds 0 ... num - 1, for looking at a model while it trains."""
    seeds = range(num)
    request = Request(seeds, choose_labels(model, seeds), chunk=chunk, condition=condition or {})
    drawn = [finished(model, request, part, values) for part, values in samples(model, request)]
    return registry.find("exporters", "png").picture(together(drawn))


def finished(model: Model, request: Request, part: slice, values: np.ndarray) -> np.ndarray | list[Structure]:
    """What `samples` gave for a part of a request, as it is written to files: of proteins, structures."""
    if model.domain.shape.group_size is None:
        return values
    return model.domain.samples(values, {name: value[part] for name, value in request.condition.items()})


def together(drawn: Sequence[np.ndarray | list[Structure]]) -> np.ndarray | list[Structure]:
    """Parts of a request as one; structures of one sequence lie on the first of them."""
    if isinstance(drawn[0], np.ndarray):
        return np.concatenate([part for part in drawn if isinstance(part, np.ndarray)])
    return structures.on_the_first([structure for part in drawn for structure in part])


def _label(text: str, names: list[str], count: int) -> int:
    if text in names:
        return names.index(text)
    if text.isdigit():
        if int(text) < count:
            return int(text)
        raise UsageError(
            f"`--label {text}`: the model has {count} classes", hint=f"give a number from 0 to {count - 1}"
        )
    hint = did_you_mean(text, names) if names else f"give a number from 0 to {count - 1}"
    raise UsageError(f"`--label {text}`: the model has no class of that name", hint=hint)


def _check_guidance(model: Model, guide: Model | None, scale: float, *, is_asked: bool) -> None:
    """What is asked for must be able to act: a scale needs classes or a guide, and a guide needs a scale."""
    if guide is None:
        if is_asked and scale != 1 and not model.method.is_guidable:
            raise UsageError(
                f"guidance {scale:g}: the model `{model.preset.name}` never learned without a condition, so that nothing "
                f"guides it",
                hint="leave `--guidance` out, or name a weaker run with `--guide`",
            )
        return
    if scale == 1:
        raise UsageError(
            f"the guide `{guide.preset.name}` changes nothing with guidance 1",
            hint="add a scale, as in `--guidance 1.5`",
        )
    _check_guide(model, guide)


def _check_guide(model: Model, guide: Model) -> None:
    for table in ("domain", "condition"):
        if getattr(model.preset, table) != getattr(guide.preset, table):
            raise UsageError(
                f"the guide `{guide.preset.name}` has another [{table}] than the model `{model.preset.name}`",
                hint="autoguidance needs two runs on the same data",
            )
    if model.domain.shape != guide.domain.shape or model.method.config.path != guide.method.config.path:
        raise UsageError(
            "the guide sees other sets or another path than the model",
            hint="guide with a smaller or earlier run of the same data",
        )


def _check_condition(model: Model, given: Condition) -> None:
    """Nothing, where what the model was trained on is given."""
    part = model.preset.condition
    needs = {"picture": ("tokens", "image"), "sequence": ("residues",)}.get(part.name or "" if part else "", ())
    if needs and not any(name in given for name in needs):
        kind = "a picture" if "tokens" in needs else "a sequence"
        option = "`--image photo.png`" if "tokens" in needs else "`--sequence MKT...` or `--fasta FILE`"
        raise UsageError(f"the model `{model.preset.name}` draws from {kind}, and none is given", hint=f"add {option}")


def _of_all(progress: Progress, part: slice, total: int) -> Progress:
    """Steps of a batch as steps of every sample."""
    return lambda done, steps: progress(part.start * steps + (part.stop - part.start) * done, total * steps)


def origin(model: Model, source: Path, request: Request, how: Any, guide: Path | None = None) -> dict[str, str]:
    """Where samples come from, for the files that hold them: nothing in it depends on the time or the machine.

    `source` and `guide` are the weights files of the model and of the one that guides it.
    """
    settings_text = " ".join(f"{key}={value}" for key, value in sorted(vars(how.config).items()) if value is not None)
    seeds = list(request.seeds)
    told = {
        **origin_of_file(source, model, request.size),
        "seeds": str(seeds[0]) if len(seeds) == 1 else f"{seeds[0]}-{seeds[-1]}",
        "sampler": f"{how.sampler.__name__.rpartition('.')[2]} {settings_text}".strip(),
        "guidance": f"{how.guidance:g}",
        "noise": how.noise,
        "precision": how.precision,
    }
    if guide is not None:
        told["guide"] = shards.digest(guide)[:16]
    if tuple(how.interval) != (0.0, 1.0):
        told["guidance_interval"] = ",".join(f"{end:g}" for end in how.interval)
    if request.labels is not None:
        told["labels"] = " ".join(str(label) for label in list(request.labels)[:64])
    if request.window is not None:
        told["window"] = ",".join(f"{edge:g}" for edge in request.window)
    return told


def items(model: Model, request: Request) -> list[dict[str, str]]:
    """What is to be told of each sample beside their common origin: its seed, its label and that class's name."""
    names = list(model.info.get("classes") or [])
    labels = [-1] * len(request.seeds) if request.labels is None else request.labels
    return [
        {
            "seed": str(seed),
            **({} if request.labels is None else {"label": str(label)}),
            **({"class": str(names[label])} if 0 <= label < len(names) else {}),
        }
        for seed, label in zip(request.seeds, labels, strict=True)
    ]


def origin_of_file(source: Path, model: Model, size: Size) -> dict[str, str]:
    """The part of an origin that a weights file or a saved field gives."""
    asked = "x".join(str(side) for side in size) if isinstance(size, tuple) else str(size or "training")
    return {
        "inrflow": __version__,
        "preset": model.preset.name,
        "step": str(model.info.get("step", "unknown")),
        "weights": shards.digest(source)[:16],
        "size": asked,
    }


def is_drawn(out: Path, request: Request, origin: Mapping[str, str], *, overwrite: bool = False) -> bool:
    """Whether `out` holds the very samples of a request already.

    Raises:
        UsageError: it holds others, and `overwrite` is off.
        IntegrityError: it is damaged.
    """
    if not out.is_file():
        return False
    held = shards.Shard(out)
    labels = [-1] * len(request.seeds) if request.labels is None else list(request.labels)
    is_same = (
        held.header.settings == _settings(origin)
        and held.seeds is not None
        and held.seeds.tolist() == list(request.seeds)
        and held.labels.tolist() == labels
    )
    if not is_same and not overwrite:
        raise UsageError(
            f"`{out}` holds samples that were drawn otherwise", hint="add `--overwrite`, or choose another folder"
        )
    return is_same


def open_shard(
    model: Model, request: Request, out: Path, origin: Mapping[str, str], *, overwrite: bool = False
) -> SampleShard:
    """The shard `out` for the samples of a request, begun or gone on with.

    Raises:
        UsageError: it is there already, or was begun with other settings.
    """
    told = _told(model, request, origin)
    return SampleShard.create_or_resume(out, list(request.seeds), **told, labels=request.labels, overwrite=overwrite)


def open_folder(
    model: Model, request: Request, out: Path, origin: Mapping[str, str], *, overwrite: bool = False
) -> SampleFolder:
    """The folder `out` of shards for the samples of a request, begun or gone on with.

    Raises:
        UsageError: it holds something else, or was begun with other settings.
    """
    told = _told(model, request, origin)
    return SampleFolder.create_or_resume(out, request.seeds, **told, labels=request.labels, overwrite=overwrite)


def _told(model: Model, request: Request, origin: Mapping[str, str]) -> dict[str, Any]:
    """What a shard of a request's samples says of itself, and their shape and type."""
    asked = model.domain.queries(request.size, request.window, request.condition or None)
    size = request.size if isinstance(request.size, tuple) else model.domain.shape.grid
    shape = (len(asked),) if size is None else size
    header = Header(
        domain=model.domain.NAME,
        dataset=f"samples of {model.preset.name}",
        split="samples",
        normalisation=model.info.get("normalisation") or {},
        classes=tuple(model.info.get("classes") or ()),
        settings=_settings(origin),
    )
    dtype = "float32" if size is None else "uint8"
    full = (*shape, model.domain.shape.value_size)
    return {"header": header, "shape": full, "dtype": dtype}


def _settings(origin: Mapping[str, str]) -> dict[str, str]:
    """The part of an origin that all samples of a shard have in common."""
    return {key: value for key, value in origin.items() if key not in ("seeds", "labels")}


def share(missing: Sequence[int], total: int, batch: int, *, rank: int = 0, size: int = 1) -> list[list[int]]:
    """The pieces of `total` samples that one of `size` processes draws, without what is there already.

    Pieces are cut from the whole list and not from what is missing, so that processes which start at different
    moments never take the same one.
    """
    wanted = set(missing)
    pieces = (range(start, min(start + batch, total)) for start in range(rank * batch, total, size * batch))
    return [left for piece in pieces if (left := [place for place in piece if place in wanted])]


def save_field(model: Model, field: Field, path: Path, *, half: bool = False) -> None:
    """Keep a recorded field as one safetensors file that needs no run: the preset and the decoder are inside."""
    field.save(path, model.preset, half=half)


def load_field(path: Path, device: str = "cpu") -> tuple[Model, Field]:
    """A saved field and the model that it came from, of which only the decoder has its weights.

    Raises:
        MissingError, IntegrityError: there is no such file, or it is no whole field.
    """
    preset, metadata = models.read_header(path, "inrflow-field-1")
    tensor_files.check_seal(path)
    domain = registry.find("domains", preset.domain.name or "").Domain(preset.domain.config)
    method = registry.find("methods", preset.method.name or "")
    field = method.load_field(path, preset, domain.shape, metadata, device)
    return Model(preset, domain, field.method, metadata), field
