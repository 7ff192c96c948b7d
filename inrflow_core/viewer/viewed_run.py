"""The runs of a page: what each can show, by which weights, samplers and classes."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any, Literal

from inrflow_core import models, registry
from inrflow_core.config.preset import Preset
from inrflow_core.domains._contract import HasCameras, domain_class
from inrflow_core.errors import UsageError
from inrflow_core.runs import run, shipped
from inrflow_core.runs.checkpoint_manifest import is_checkpoint, read_manifest
from inrflow_core.sampling.options import option_names
from inrflow_core.shards import schema

VIEWS: Mapping[str, str] = {
    **{"image": "image", "points": "cloud", "shape": "mesh", "radiance": "scene", "video": "clip"},
    "protein": "structure",
}
"""How the page shows the samples of a domain: a deep zoom, a cloud or a mesh that turns, a scene seen by a camera, a clip that plays, a structure."""
VIEW_NOUNS: Mapping[str, str] = {view: f"{'an' if view == 'image' else 'a'} {view}" for view in VIEWS.values()}
"""Each with its article."""
INPUTS = ("text", "sequence")
"""What the page takes as a condition beside an image, by the options of `inrflow sample`."""
ImageUse = Literal["condition", "encode"]
"""What a run does with an image: it samples under it, or finds the function that reproduces it."""
MOST_NAMED = 2000
"""Classes whose names the page lists."""


@dataclass(frozen=True)
class ViewedRun:
    """A run folder, a checkpoint or a weights file that the page shows."""

    source: Path
    preset: Preset
    info: Mapping[str, Any]
    """Of its weights file: step, decay, classes."""
    steps: tuple[int, ...]
    """Steps of its checkpoints, ascending; of a file the one that it holds."""
    emas: tuple[float, ...]
    """Decays of the EMAs that it has; 0 is the weights without EMA."""
    best: int | None = None

    @property
    def name(self) -> str:
        """What the page calls it."""
        return self.source.stem if self.source.is_file() else self.source.name or self.source.resolve().name

    @property
    def is_folder(self) -> bool:
        """Whether it has several weights to choose from."""
        return self.source.is_dir() and not is_checkpoint(self.source)

    @property
    def frame_rate(self) -> float | None:
        """Frames per second of the training clips; None if they are not known."""
        normalization = self.info.get("normalization")
        return schema.frame_rate(normalization) if isinstance(normalization, Mapping) else None

    @cached_property
    def domain(self) -> Any:
        """Its domain, by the preset."""
        return self.preset.domain.module.Domain(self.preset.domain.config)

    @property
    def image_use(self) -> ImageUse | None:
        """What it does with an image; None if it takes none."""
        part, domain = self.preset.condition, self.domain
        if part is not None and "--image" in part.module.OPTIONS:
            return "condition"
        if part is not None and part.module.GIVEN_AS and not getattr(self.preset.method.module, "ENCODES", False):
            return None
        reads = domain.accepts(Path("image.png")) and not (isinstance(domain, HasCameras) and not domain.reads_views)
        return "encode" if reads else None

    def weights(self, step: int | None, ema: float | None) -> Path:
        """The weights file of a checkpoint, by default the newest when the page was opened, checked against its digest.

        Raises:
            MissingError, UsageError, IntegrityError: as `run.resolve_weights`.
        """
        if step is None and self.is_folder:
            step = self.steps[-1]
        return run.resolve_weights(self.source, ema=ema, step=step)

    def describe(self) -> dict[str, Any]:
        """What the page needs to offer its controls."""
        part, config = self.preset.condition, self.preset.domain.config
        classes = None if part is None else part.module.num_classes(part.config)
        is_conditioned = bool(classes) or bool(part is not None and getattr(part.config, "dropout", 0))
        names = [str(name) for name in self.info.get("classes") or []]
        options, sampler = option_names(self.preset), self.preset.sampler
        settings = self.preset.method.config
        return {
            "name": self.name,
            "view": VIEWS[self.preset.domain.name],
            "domain": self.preset.domain.name,
            "noun": domain_class(self.preset.domain.name).NOUN,
            "preset": self.preset.name,
            "method": self.preset.method.name,
            "checkpoints": list(self.steps),
            "best": self.best,
            "emas": list(self.emas),
            "classes": classes,
            "class_names": names[: min(classes or 0, MOST_NAMED)],
            "may_be_classless": bool(classes and part is not None and part.config.dropout),
            "samplers": [] if sampler is None else registry.names("samplers"),
            "sampler": None if sampler is None else sampler.name,
            "steps": getattr(settings if sampler is None else sampler.config, "steps", None),
            "takes_steps": sampler is not None or "steps" in options,
            "guidance": getattr(settings, "guidance", None) if "guidance" in options and is_conditioned else None,
            "interval": list(settings.guidance_interval) if "guidance_interval" in options else None,
            "resolution": getattr(config, "resolution", None),
            "points": getattr(config, "num_points", None),
            "suffixes": list(formats_of(domain_class(self.preset.domain.name))),
            "image": self.image_use,
            "inputs": [name for name in INPUTS if part is not None and f"--{name}" in part.module.OPTIONS],
            "frames": getattr(config, "frames", None),
            "rate": self.frame_rate,
            "distance": getattr(config, "distance", None),
        }


def open_runs(sources: Sequence[Path]) -> list[ViewedRun]:
    """The runs that a page shows side by side.

    Raises:
        UsageError: the page does not show samples of a run's domain, or the run needs an input that the page does not take.
        MissingError, IntegrityError: a run does not exist or cannot be read.
    """
    return [_open(source) for source in sources]


def formats_of(domain: Any) -> tuple[str, ...]:
    """The formats in which a sample of a domain is downloaded."""
    views, meshes = domain.FORMATS, domain.MESH_FORMATS
    names = dict.fromkeys((*views, *meshes) if domain.HAS_CAMERAS else (*meshes, *views))
    return tuple(name for name in names if not getattr(registry.find("formats", name), "IS_FOLDER", False))


def latest() -> Path:
    """The latest run that a page shows; raises MissingError if there is none."""
    return run.latest_run(tuple(VIEWS)).folder


def _open(source: Path) -> ViewedRun:
    source = run.find_source(source)
    weights = run.resolve_weights(source)
    preset, info = models.read_metadata(weights)
    _check(source, preset)
    if source.is_dir() and not is_checkpoint(source):
        opened = run.open_run(source)
        decays = read_manifest(opened.checkpoint()).ema
        best = opened.best()
        return ViewedRun(source, preset, info, opened.steps, (*decays, 0.0), None if best is None else best.step)
    step, decay = info.get("step"), info.get("decay")
    return ViewedRun(source, preset, info, (step,) if isinstance(step, int) else (), (decay or 0.0,))


def _check(source: Path, preset: Preset) -> None:
    """Raise UsageError for a run that the page does not show."""
    domain = domain_class(preset.domain.name)
    if domain.NAME not in VIEWS:
        shown = " and ".join(domain_class(name).NOUN for name in VIEWS)
        raise UsageError(
            f"`{shipped.title_of(source)}` samples {domain.NOUN}, which the page does not show",
            hint=f"it shows {shown}; `inrflow sample {shipped.option_of(source)} OUT` writes files",
        )
    part = preset.condition
    options = {f"--{name}" for name in (*INPUTS, "image")}
    if part is not None and part.module.GIVEN_AS and not options & set(part.module.OPTIONS):
        raise UsageError(
            f"`{shipped.title_of(source)}` is conditioned on {part.module.NOUN}, which the page does not take",
            hint=f"sample it with `inrflow sample {shipped.option_of(source)} OUT`, adding {part.module.OPTION_HINT}",
        )
