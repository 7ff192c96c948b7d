"""Find and list runs on the disk, and resolve the weights that a command names."""

from __future__ import annotations

import os
from collections.abc import Callable, Collection, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any, Literal

from inrflow_core.config import preset, toml
from inrflow_core.config.preset import Preset
from inrflow_core.errors import InrflowError, IntegrityError, MissingError, UsageError
from inrflow_core.runs import shipped
from inrflow_core.runs.best import Best, read_best
from inrflow_core.runs.checkpoint_manifest import (
    MANIFEST,
    check_file,
    checkpoint_folder,
    complete_steps,
    is_checkpoint,
    read_manifest,
    weights_name,
)
from inrflow_core.storage import typed_json
from inrflow_core.storage.plain_file import did_you_mean_path, open_plain_file

UnreadableRunError = Callable[[Path, InrflowError], None]
"""Called with a run's folder and what is wrong with it."""

HOW_TO_TRAIN = (
    "train one, for example `inrflow prepare solids` and then `inrflow train --preset solids-demo` "
    "(digits and digits-demo for images)"
)

DEMOS = {
    "image": "digits-demo",
    "points": "solids-demo",
    "shape": "solids-ddmi-demo",
    "protein": "proteins-demo",
    "video": "moving-digits-ddmi-demo",
    "radiance": "objects-nerf-ddmi-demo",
}
"""A small preset for each domain."""
MANY = 3
"""Domains of a file that decide nothing: a .png fits most of them."""
DEMOS_OF_CONDITIONS = {"image": "objects-demo", "sequence": "proteins-demo", "text": "solids-text-ddmi-demo"}
"""A small preset for each condition that a command receives as input."""

Step = int | Literal["best"] | None
"""A checkpoint: that of a step, the best one, or with None the newest."""


@dataclass(frozen=True)
class LoggedLoss:
    """A line of log.jsonl with a loss; None where it was not finite."""

    loss: float | None


@dataclass(frozen=True)
class Run:
    """A folder that training wrote."""

    folder: Path
    preset_name: str
    tables: dict[str, Any]
    """The tables of preset.toml."""
    steps: tuple[int, ...]
    """Steps of the complete checkpoints, ascending."""

    @property
    def name(self) -> str:
        """The folder's name."""
        return self.folder.name

    @cached_property
    def preset(self) -> Preset:
        """The typed settings; reading them imports the run's parts, and thus torch.

        Raises:
            IntegrityError: the preset has a setting that this version of inrflow does not know.
        """
        with _preset_errors(self.folder):
            return preset.resolve(self.preset_name, self.tables)

    def checkpoint(self, step: Step = None) -> Path:
        """The newest complete checkpoint, that of a step, or the best.

        Raises:
            MissingError: there is none.
            IntegrityError: best.json cannot be read.
        """
        if step == "best":
            best = self.best()
            if best is None:
                raise MissingError(
                    f"the run `{self.folder}` has no best checkpoint",
                    hint="one is kept where the preset has a table [eval], as from `--set eval.every=1000`",
                )
            step = best.step
        if not self.steps:
            raise MissingError(
                f"the run `{self.folder}` has no complete checkpoint", hint="let `inrflow train` run until it saves one"
            )
        if step is not None and step not in self.steps:
            raise MissingError(
                f"the run `{self.folder}` has no checkpoint of step {step}",
                hint="it has " + ", ".join(str(s) for s in self.steps),
            )
        return checkpoint_folder(self.folder, self.steps[-1] if step is None else step)

    def best(self) -> Best | None:
        """The best checkpoint; see `read_best`."""
        return read_best(self.folder)

    def last_record(self) -> dict[str, Any]:
        """The last whole line of log.jsonl with a loss; empty if there is none.

        Raises:
            IntegrityError: its loss is not a number.
        """
        log = self.folder / "log.jsonl"
        losses = [record for record in typed_json.json_lines(log) if "loss" in record]
        if not losses:
            return {}
        typed_json.typed(losses[-1], LoggedLoss, f"a line of `{log}`", hint="remove that line", extra=True)
        return losses[-1]

    def size(self) -> int:
        """Bytes of everything in the folder."""
        return sum(path.stat().st_size for path in self.folder.rglob("*") if path.is_file())


def runs_dir() -> Path:
    """The folder of runs: `INRFLOW_RUNS`, else `runs` in the working folder."""
    return Path(os.environ.get("INRFLOW_RUNS") or "runs")


def find_source(source: Path) -> Path:
    """`source`; where that does not exist and is a name alone, the run of this name in `runs_dir()`, if there is one."""
    of_name = runs_dir() / source
    is_name = len(source.parts) == 1 and source.name == str(source)
    return of_name if is_name and not os.path.lexists(source) and of_name.is_dir() else source


def open_run(folder: Path) -> Run:
    """The run in a folder.

    Raises:
        MissingError: the folder is absent or holds no run.
        IntegrityError: its preset is damaged, or of a version of inrflow with other settings.
    """
    if not (folder / "preset.toml").is_file():
        raise MissingError(f"`{folder}` holds no run: it has no `preset.toml`", hint=HOW_TO_TRAIN)
    run = _opened(folder)
    _ = run.preset  # raises if a setting is unknown
    return run


def _opened(folder: Path) -> Run:
    """The run in a folder, its preset not yet resolved."""
    with _preset_errors(folder):
        tables = toml.read_toml(folder / "preset.toml")
        name = tables.pop("name", folder.name)
        if not isinstance(name, str):
            raise UsageError(f"`name` is {name!r}", hint="give a text")
        preset.check_tables(tables)
    return Run(folder, name, tables, tuple(complete_steps(folder)))


@contextmanager
def _preset_errors(folder: Path) -> Iterator[None]:
    """Inside the block, an error in a run's preset is raised as an IntegrityError of the run, not as a UsageError."""
    try:
        yield
    except UsageError as error:
        raise IntegrityError(
            f"the preset of the run `{folder}` cannot be read: {error.message}", hint=error.hint
        ) from error


def list_runs(parent: Path | None = None, unreadable: UnreadableRunError | None = None) -> list[Run]:
    """All runs below `parent`, oldest first by their newest checkpoint, those without one first of all.

    Imports no torch. A run whose preset is not TOML, or names tables or parts that do not exist, is left out and
    reported to `unreadable`; the settings of its parts are checked when `Run.preset` is first read.
    """
    parent = runs_dir() if parent is None else parent
    dated_runs = []
    for path in sorted(parent.glob("*/preset.toml")):
        try:
            run = _opened(path.parent)
        except InrflowError as error:
            if unreadable is not None:
                unreadable(path.parent, error)
            continue
        stamp = (run.checkpoint() / MANIFEST).stat().st_mtime_ns if run.steps else 0
        dated_runs.append((stamp, run.name, run))
    return [run for _, _, run in sorted(dated_runs, key=lambda item: item[:2])]


def latest_run(domains: tuple[str, ...] | None = None, condition: str | None = None) -> Run:
    """The newest run with a complete checkpoint, of one of `domains` unless that is None.

    Runs whose models are sampled under `condition` (if None, without an input) are preferred.

    Raises:
        MissingError: there is none; says which runs were looked for, and where.
    """
    complete = [run for run in list_runs() if run.steps and _is_resolvable(run)]
    of_domains = [run for run in complete if domains is None or run.preset.domain.name in domains]
    if of_domains:
        preferred = [run for run in of_domains if samples_under(run.preset, condition)]
        return (preferred or of_domains)[-1]
    description = "a run with a complete checkpoint" + (
        "" if domains is None else f" of the domain {' or '.join(domains)}"
    )
    others = f"; there are {len(complete)} of other domains" if complete else ""
    raise MissingError(
        f"looked for {description} in `{runs_dir()}` and found none{others}",
        hint=f"{how_to_train(domains, condition)}, or name one with `--run`",
    )


def how_to_train(domains: Collection[str] | None = None, condition: str | None = None) -> str:
    """How to get a run whose samples are of one of these domains, under such a condition: a demo's two commands."""
    fitting = [name for name in DEMOS if domains is not None and name in domains]
    demo = DEMOS_OF_CONDITIONS.get(condition or "")
    if demo is None and 0 < len(fitting) < MANY:
        demo = DEMOS[fitting[0]]
    if demo is None:
        return HOW_TO_TRAIN
    prepare = preset.load(demo).data.config.prepare
    return f"train one, for example `{prepare}` and then `inrflow train --preset {demo}`"


def samples_under(preset: Preset, condition: str | None) -> bool:
    """Whether models of a preset are sampled under `condition`; if that is None, whether they need no input."""
    part = preset.condition
    if condition is not None:
        return part is not None and part.name == condition
    return part is None or not part.module.GIVEN_AS


def shipped_models(domains: Collection[str], condition: str | None = None) -> list[str]:
    """The models that come with inrflow whose samples are of one of these domains, under such a condition; if that is None, without
    an input."""
    from inrflow_core.models import read_metadata  # not above: completion reads runs without torch

    presets = {name: read_metadata(shipped.weights_file(name))[0] for name in shipped.names()}
    return [name for name, own in presets.items() if own.domain.name in domains and samples_under(own, condition)]


def _is_resolvable(run: Run) -> bool:
    """Whether this version of inrflow knows all settings of a run's preset."""
    try:
        _ = run.preset  # resolved when it is first read
    except InrflowError:
        return False
    return True


def resolve_weights(source: Path, *, ema: float | None = None, step: Step = None) -> Path:
    """The weights file of `source` (a run, its name, a checkpoint or a .safetensors file), checked against its digest.

    From a run it is that of an EMA: of decay `ema`, by default of the first decay in its preset; `ema=0` means the weights
    without EMA.

    Of a weights file, `ema` and `step` must be those that it holds; of a checkpoint's folder, `step` must be its own.

    Raises:
        MissingError: there is nothing at `source`, or no such step.
        UsageError: there is no such decay, a file or a checkpoint is of another decay or step, or a file of another kind holds none.
        IntegrityError: the file does not match the digest in the checkpoint's manifest, or its own.
    """
    from inrflow_core.storage import safetensors_file

    source = find_source(source)
    if source.is_file():
        if is_checkpoint(source.parent):
            check_file(source, read_manifest(source.parent).files.get(source.name))
        else:
            try:
                safetensors_file.check_digest(source)
            except IntegrityError as error:
                if source.suffix.lower() in ("", ".safetensors"):
                    raise
                hint = "give a run folder or a .safetensors file; `inrflow runs` lists the runs"
                raise UsageError(f"`{source}` holds no weights", hint=hint) from error
        _check_weights(source, ema, step)
        return source
    if not source.is_dir():
        hint = did_you_mean_path(source, "give a run folder or a .safetensors file; `inrflow runs` lists the runs")
        hint = did_you_mean_path(runs_dir() / source, hint) if len(source.parts) == 1 else hint
        with open_plain_file(source, hint=hint):  # says what else it is
            raise MissingError(f"`{source}` does not exist", hint=hint)
    is_itself = is_checkpoint(source) and not (source / "preset.toml").is_file()
    folder = source if is_itself else open_run(source).checkpoint(step)
    manifest = read_manifest(folder)
    if is_itself:
        _check_step(source, manifest.step, step)
    file = folder / weights_name(folder, manifest.ema, ema)
    check_file(file, manifest.files.get(file.name))
    return file


def _check_weights(file: Path, ema: float | None, step: Step) -> None:
    """Raise UsageError unless a weights file holds the average and the step that are requested."""
    from inrflow_core.storage import safetensors_file

    metadata = safetensors_file.read_metadata(file)
    if (ema is None and step is None) or "info" not in metadata:
        return  # a file without `info` has no weights of inrflow, as `models.load` says
    info = typed_json.parse_json(metadata["info"], f"`info` of `{file}`")
    info = info if isinstance(info, dict) else {}
    _check_step(file, info.get("step"), step)
    decay = info.get("decay", "unknown")
    if ema is not None and decay != (ema or None):
        holds = "the weights without EMA" if decay is None else f"the EMA of decay {decay}"
        raise UsageError(
            f"`{shipped.title_of(file)}` holds {holds}, and `--ema {ema:g}` was requested",
            hint=_one_weights_hint("`--ema`", file),
        )


def _check_step(source: Path, stored: Any, step: Step) -> None:
    """Raise UsageError unless weights of the step `stored` are those that are requested."""
    if step is not None and step != stored:
        raise UsageError(
            f"`{shipped.title_of(source)}` holds step {'unknown' if stored is None else stored}, and the checkpoint {step} was "
            "requested",
            hint=_one_weights_hint("`--checkpoint` (or `--checkpoints`)", source),
        )


def _one_weights_hint(option: str, source: Path) -> str:
    """What to do where a source has other weights than an option requests: a model that comes with inrflow has no run."""
    return f"leave {option} out" + ("" if shipped.is_shipped(source) else ", or name the run's folder")
