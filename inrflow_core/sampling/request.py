"""Describe which samples to draw and where to evaluate them."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from inrflow_core.config.training import LAST_SEED
from inrflow_core.domains._contract import HasFrames, HasSurfaces, domain_classes
from inrflow_core.errors import UsageError
from inrflow_core.fields import Camera, Surface
from inrflow_core.fields import Size as Size
from inrflow_core.fields import Window as Window
from inrflow_core.models import Model
from inrflow_core.runtime.query_budget import CHUNK
from inrflow_core.sets import Condition

TOGETHER = 16
"""Samples that are drawn together at every size, where their latents allow it: more save little on a CPU."""
MOST_VALUES = 1 << 25
"""Values of a batch that is larger than its queries would have it: 128 MB in single precision."""
CLIP_OPTIONS = ("--frames", "--fps")
CAMERA_OPTIONS = ("--views", "--azimuth", "--elevation", "--distance", "--fov")


@dataclass(frozen=True)
class SampleRequest:
    """Which samples to draw, and where to evaluate them.

    `labels` has one class per seed, -1 for none, and is None for a model without classes. `size` is rows and
    columns or a number of points, None for the training's. `chunk` is the number of queries evaluated at once, `batch` the
    number of samples drawn together; neither changes a sample. `condition` has one row per seed. `entries` is what the file
    of each sample names beside its seed, such as its text.
    """

    seeds: Sequence[int]
    labels: Sequence[int] | None = None
    size: Size = None
    window: Window = None
    chunk: int = CHUNK
    batch: int | None = None
    condition: Condition = dataclasses.field(default_factory=dict)
    entries: Sequence[Mapping[str, str]] | None = None


def check_seeds(seeds: Any) -> None:
    """Raise UsageError unless there is a seed, and all are whole numbers from 0 to LAST_SEED."""
    if not hasattr(seeds, "__len__"):
        raise UsageError(f"the seeds {seeds!r} are not a list of numbers", hint="give a list, as in [0, 1, 2]")
    if not len(seeds):
        raise UsageError("no seeds are given", hint="give at least one: each seed is one sample")
    if isinstance(seeds, range):
        seeds = [seeds[0], seeds[-1]]
    for seed in seeds:
        if isinstance(seed, bool | str) or not hasattr(seed, "__index__") or not 0 <= int(seed) <= LAST_SEED:
            raise UsageError(f"the seed {seed!r} is not a whole number from 0 to 2^63 - 1", hint="give such numbers")


@dataclass(frozen=True)
class SizeOptions:
    """What the options of a command say of the size of samples; None is left out."""

    resolution: str | None = None
    points: int | None = None
    scale: float | None = None
    views: int | None = None
    camera: Camera = Camera()
    level: float | None = None
    frames: int | None = None
    fps: float | None = None

    @property
    def sizes(self) -> dict[str, str]:
        """The options that name a size in numbers, with their texts."""
        options = {"--resolution": self.resolution, "--points": self.points}
        return {option: str(value) for option, value in options.items() if value is not None}

    @property
    def cameras(self) -> list[str]:
        """The options that name cameras."""
        numbers = (self.views, *self.camera)
        return [option for option, number in zip(CAMERA_OPTIONS, numbers, strict=True) if number is not None]

    @property
    def clips(self) -> list[str]:
        """The options that are of clips alone."""
        numbers = (self.frames, self.fps)
        return [option for option, number in zip(CLIP_OPTIONS, numbers, strict=True) if number is not None]


def choose_size(domain: Any, options: SizeOptions, suffix: str = "", rate: float | None = None) -> Size:
    """Rows and columns, a number of points, a turntable, a mesh or a clip, for a model's domain; None for the training size.

    Args:
        suffix: of the file that samples go to: that of a mesh, or of a video, decides what is sampled.
        rate: frames per second of the clips that the model was trained on, if they are known.

    Raises:
        UsageError: a size of the wrong kind, or one that excludes another; fewer than one point.
    """
    _check_applies(domain, options)
    size = domain.parse_size(options.sizes[domain.SIZE_OPTION]) if domain.SIZE_OPTION in options.sizes else None
    if options.scale is not None:
        size = domain.scale_size(options.scale)
    if domain.HAS_CAMERAS:
        return domain.size_in_file(size, suffix.lower(), options.views, options.camera, options.level)
    if isinstance(domain, HasFrames):
        return domain.clip_size(size, options.frames, options.fps, rate)
    if isinstance(domain, HasSurfaces):
        if options.scale is not None and suffix.lower().removeprefix(".") in domain.MESH_FORMATS:
            raise UsageError(
                f"`--scale` does not apply to a `{suffix}` file: it is of a number of surface points, and a mesh has a grid",
                hint="set the grid of the mesh with `--resolution`, or write points with `--points`",
            )
        return domain.size_in_file(size, options.resolution, suffix.lower(), options.level)
    return size


def _check_applies(domain: Any, options: SizeOptions) -> None:
    """Raise UsageError for options that exclude each other, or that samples of the domain do not have."""
    names = [*options.sizes, *(["--scale"] if options.scale is not None else [])]
    if len(names) > 1:
        raise UsageError(" and ".join(f"`{name}`" for name in names) + " exclude each other", hint="give one of them")
    for option in options.sizes:
        if option not in _size_options(domain):
            other = f"use `{domain.SIZE_OPTION}`" if domain.SIZE_OPTION else "leave it out"
            raise UsageError(f"`{option}` does not apply: the model samples {domain.NOUN}", hint=other)
    others = options.cameras if not domain.HAS_CAMERAS else []
    others += options.clips if not isinstance(domain, HasFrames) else []
    others += ["--level"] if options.level is not None and not domain.MESH_FORMATS else []
    if others:
        raise UsageError(f"`{others[0]}` does not apply: the model samples {domain.NOUN}", hint="leave it out")


def _size_options(domain: Any) -> set[str | None]:
    """The options that set the size of samples of a domain, or of their meshes."""
    return {domain.SIZE_OPTION, *(["--resolution"] if domain.MESH_FORMATS else [])}


def domains_of_options(options: SizeOptions, window: Window = None) -> tuple[str, ...] | None:
    """The domains whose samples have the requested kind of size and window; None if nothing is requested."""
    others = options.cameras or options.clips or options.level is not None
    if not options.sizes and not others and window is None:
        return None
    return tuple(
        domain.NAME
        for domain in domain_classes()
        if set(options.sizes) <= _size_options(domain)
        and (window is None or domain.HAS_WINDOWS)
        and (domain.HAS_CAMERAS or not options.cameras)
        and (issubclass(domain, HasFrames) or not options.clips)
        and (domain.MESH_FORMATS or options.level is None)
    )


def domains_of_files(paths: Sequence[Path]) -> tuple[str, ...]:
    """The domains that can read one of the files, by its suffix, to invert it."""
    return tuple(domain.NAME for domain in domain_classes() if any(map(domain.accepts, paths)))


def select_part(request: SampleRequest, part: slice, least: int) -> SampleRequest:
    """A part of a request, padded to `least` samples by repeating the last one."""
    rows = list(range(part.start, part.stop))
    rows += rows[-1:] * (least - len(rows))
    return replace(
        request,
        seeds=[request.seeds[row] for row in rows],
        labels=None if request.labels is None else [request.labels[row] for row in rows],
        condition={name: value[rows] for name, value in request.condition.items()},
    )


def default_batch_size(model: Model, request: SampleRequest) -> int:
    """The number of samples drawn together by default: about four chunks of the queries.

    Of a method with latents, whose solver steps do not evaluate the queries, up to `TOGETHER` of larger samples.
    """
    num_queries = model.domain.num_queries(request.size, request.window, request.condition or None)
    num_latents = model.method.num_latents
    batch = 4 * request.chunk // max(model.domain.shape.num_queries, num_queries)
    if num_latents is not None:
        together = min(TOGETHER, 4 * request.chunk // num_latents)
        if not isinstance(request.size, Surface):  # a surface is extracted from one function after the other
            together = min(together, MOST_VALUES // (num_queries * model.domain.shape.value_size))
        batch = max(batch, together)
    return max(1, min(len(request.seeds), batch))
