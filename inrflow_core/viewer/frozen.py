"""Freeze what a page shows into one HTML file that needs neither server nor network; clouds and proteins still turn.

What a page shows is the fragment of its address, the part behind `#`, as `page/state.js` writes it.
"""

from __future__ import annotations

import base64
import math
from collections.abc import Mapping, Sequence
from dataclasses import replace
from html import escape
from typing import Any
from urllib.parse import parse_qsl

import numpy as np

from inrflow_core import __version__
from inrflow_core.errors import Diverged, UsageError
from inrflow_core.fields import Camera, Window
from inrflow_core.proteins import superposition
from inrflow_core.report import galleries, page
from inrflow_core.runtime.progress import Log, Progress, no_log
from inrflow_core.sampling import upsample
from inrflow_core.sampling.request import SizeOptions
from inrflow_core.viewer import selection as parameters
from inrflow_core.viewer.dropped_images import png_bytes
from inrflow_core.viewer.functions import MOST_POINTS, Functions
from inrflow_core.viewer.selection import Selection
from inrflow_core.viewer.viewed_run import VIEWS, ViewedRun
from inrflow_core.visualization import point_rendering, protein_rendering

SIDE = 768
"""Pixels along the longer side of an image, or the largest side that the page evaluates."""
POINTS, GRID = 2048, "64"
"""Of clouds and meshes, as on the page."""
MOST_PANELS = 16
HOME = (2.7, 1.9, 3.5)
"""The first pose of the page's camera (`page/stage.js`)."""
SEQUENCE = "MKTAYIAKQRQISFVKSHFSRQ"
"""The page's own sequence (`page/panel.js`)."""
STRIP = (1, 2, 3, 5, 8, 12, 20, 30, 50, 100, 250, 500)
USUAL_STEPS = 50
"""Solver steps of the strip, up to those of the preset or these, as on the page (`page/panel.js`)."""
THUMBNAIL, THUMBNAIL_POINTS = 144, 512
"""Pixels along the side of an image of the strip, and points of a cloud."""
COMPARED: Mapping[str, tuple[str, ...]] = {
    **{kind: (kind,) for kind in ("bicubic", "pixels", "truth")},
    "both": ("bicubic", "truth"),
}
"""What is beside an image (`page/state.js`)."""
NAMES = {"bicubic": "bicubic enlargement", "pixels": "training pixels", "truth": "input image"}
DEVIATING = 5
"""Proteins whose deviation is shown, where the fragment does not say another number (`page/state.js`)."""
OWN: Mapping[str, parameters.Parser] = {
    "points": parameters.whole(1, MOST_POINTS),
    "panels": parameters.word(400),
    "zoom": parameters.word(80),
    "pose": parameters.word(80),
    "rate": parameters.number(0.01, 1000),
    "frames": parameters.whole(1, 10_000),
    **{name: parameters.whole(1, 4096) for name in ("grid-side", "view-side", "clip-side")},
    "samples": parameters.whole(1, parameters.MOST_SAMPLES),
    **{name: parameters.word(20) for name in ("dot", "compare", "tint", "grid", "strip")},
}
"""What a fragment holds beside the sample's selection."""


def html(functions: Functions, fragment: str, progress: Progress | None = None, warn: Log = no_log) -> str:
    """The page of a fragment, as text; the same fragment gives the same bytes. A panel that waits for an image says so, and one
    whose run lacks what the fragment names says what, also by `warn`; an image that is `forgotten` is left out.

    Raises:
        UsageError: a part of the fragment cannot be, all panels wait for an image, or none of the others can be shown.
    """
    selections, view = _parse(functions, fragment)
    names = waiting(functions, fragment)
    if len(names) == len(selections):
        hint = "name one with `inrflow view --image FILE`, or drop one on the page"
        raise UsageError(f"`{names[0]}` needs an image", hint=hint)
    panels, errors = [], []
    for own in selections:
        name = functions.runs[own.run].name
        try:
            panel = (
                _empty(name, "needs an image") if _waits(functions, own) else _section(functions, own, view, progress)
            )
        except UsageError as error:
            errors.append(error)
            warn(f"the panel of `{name}` is empty: {error.message}")
            panel = _empty(name, error.message)
        panels.append(panel)
    if len(errors) + len(names) == len(selections):
        raise errors[0]
    content = "\n".join(panels) if len(panels) == 1 else f'<div class="sides">{"".join(panels)}</div>'
    head = "<p>Each panel shows one sample as a function, evaluated where the page looked.</p>"
    return page.self_contained("inrflow view", head, [content], f"Written by <code>inrflow view</code> {__version__}.")


def _empty(name: str, reason: str) -> str:
    """A panel without a sample."""
    return f"<div><section><h2>{escape(name)}</h2></section><p>{escape(reason)}</p></div>"


def forgotten(functions: Functions, fragment: str) -> str | None:
    """The image that a fragment names and that is not here any longer: the page is frozen without it. None if there is none."""
    shared, _ = parameters.parse(parse_qsl(fragment.removeprefix("#"), keep_blank_values=True), OWN)
    return shared.image if shared.image and not functions.images.has(shared.image) else None


def waiting(functions: Functions, fragment: str) -> list[str]:
    """The names of the runs whose panels wait for an image; raises UsageError as `html`."""
    selections, _ = _parse(functions, fragment)
    return [functions.runs[own.run].name for own in selections if _waits(functions, own)]


def _waits(functions: Functions, own: Selection) -> bool:
    return functions.runs[own.run].image_use == "condition" and own.image is None


def _parse(functions: Functions, fragment: str) -> tuple[list[Selection], Mapping[str, Any]]:
    """The selection of each panel of a fragment, and how they are shown."""
    shared, view = parameters.parse(parse_qsl(fragment.removeprefix("#"), keep_blank_values=True), OWN)
    if shared.image is None:
        shared = replace(shared, image=functions.first_image)
    if shared.image and not functions.images.has(shared.image):
        shared = replace(shared, image=None)
    return _panels(functions, shared, view), view


def _panels(functions: Functions, shared: Selection, view: Mapping[str, Any]) -> list[Selection]:
    """The selection of each panel: `run,step,ema` between semicolons; all runs without."""
    text = view.get("panels") or ";".join(str(index) for index in range(len(functions.runs)))
    parts = text.split(";")
    if len(parts) > MOST_PANELS:
        raise UsageError(f"{len(parts)} panels", hint=f"give at most {MOST_PANELS}")
    selections = []
    for part in parts:
        names = zip(("run", "step", "ema"), part.split(","), strict=False)
        own, _ = parameters.parse([(name, value) for name, value in names if value], {})
        if own.run >= len(functions.runs):
            raise UsageError(f"there is no run {own.run}", hint=f"there are {len(functions.runs)}, numbered from 0")
        which = {"run": own.run, "step": own.step, "ema": own.ema}
        selections.append(_of_run(functions.runs, replace(shared, **which)))
    return selections


def _of_run(runs: Sequence[ViewedRun], shared: Selection) -> Selection:
    """The part of what the page shares that a run has, as `page/api.js` selects it."""
    run = runs[shared.run]
    use, image = run.image_use, shared.image or None
    own = replace(shared, image=image if use else None, camera=shared.camera if image and use else None)
    if own.image and use == "encode":
        camera = own.camera if VIEWS[run.preset.domain.name] == "scene" else None
        return Selection(own.run, own.step, own.ema, label=own.label, steps=own.steps, image=own.image, camera=camera)
    described = run.describe()
    if described["interval"] is None:
        own = replace(own, interval=None, guide=None)
    if own.guide is not None and own.guide[0] < len(runs):
        guides = runs[own.guide[0]].preset.domain.name == run.preset.domain.name
        own = replace(own, guide=own.guide if guides else None)
    inputs = described["inputs"]
    words = {"text": own.text or "", "sequence": "".join((own.sequence or SEQUENCE).split())}
    return replace(own, **{name: words[name] if name in inputs else None for name in words})


def _section(functions: Functions, own: Selection, view: Mapping[str, Any], progress: Progress | None) -> str:
    """One panel: what it was sampled by, what is beside it, and the strip of growing steps."""
    run = functions.runs[own.run]
    described, recorded = run.describe(), functions.record(own, progress)
    options = {**recorded.options_as_text(), **recorded.origin}
    if "sampler" in options:
        name, *settings = options["sampler"].split(" ")
        options["sampler"] = " ".join([name.replace("_", "-"), *settings])
    if recorded.example is None:
        options["seed"] = str(own.seed)
    if recorded.labels is not None:
        label, names = recorded.labels[0], described["class_names"]
        options["class"] = str(names[label]) if 0 <= label < len(names) else str(label)
    title = f"{described['name']}, step {recorded.model.metadata.get('step', 'unknown')}"
    words = [", ".join(f"{escape(name)} {escape(value)}" for name, value in options.items())]
    words += [upsample.ERRORS[name].format(value) for name, value in recorded.error.items()]
    kind = described["view"]
    if kind in ("cloud", "structure"):
        if kind == "cloud":
            points = functions.points(own, 0, view.get("points", POINTS), progress)
        else:
            points, deviation = _structures(functions, own, view, progress)
            words += deviation
        head, figures = galleries.gallery(page.Gallery(title, points[None])), []
    else:
        head, figures = (
            f"<section><h2>{escape(title)}</h2></section>",
            [_function(functions, own, described, view, progress)],
        )
    if kind == "image":
        if "zoom" in view:
            top, left, bottom, right = (f"{100 * side:.3g}" for side in _window(view["zoom"]))
            words.append(
                f"the part from {left} % to {right} % of the width and from {top} % to {bottom} % of the height"
            )
        figures += _beside(functions, own, described, view, progress)
    strip = ""
    if view.get("strip") == "1" and recorded.example is None:
        strip = _strip(functions, own, described, progress)
    layout = "one" if len(figures) == 1 else "folds"
    tiles = f'<div class="tiles {layout}">{"".join(figures)}</div>' if figures else ""
    return f"<div>{head}{tiles}{strip}<p>{'; '.join(words)}</p></div>"


def _function(
    functions: Functions,
    own: Selection,
    described: Mapping[str, Any],
    view: Mapping[str, Any],
    progress: Progress | None,
) -> str:
    """The file of `inrflow sample`, as a figure."""
    suffix = "webp" if described["view"] == "clip" else "png"
    file = functions.file(own, f".{suffix}", *_size(described, view, functions.max_side), progress=progress)
    return _figure(file, "function", suffix)


def _beside(
    functions: Functions,
    own: Selection,
    described: Mapping[str, Any],
    view: Mapping[str, Any],
    progress: Progress | None,
) -> list[str]:
    """What the page shows beside an image, at the same window."""
    sizes, window = _size(described, view, functions.max_side)
    rows, columns = (int(side) for side in str(sizes.resolution).split("x"))
    compare = view.get("compare", "auto")
    if compare == "auto":
        compare = "both" if own.image else "none"
    kinds = [kind for kind in COMPARED.get(compare, ()) if kind != "truth" or own.image]
    return [
        _figure(png_bytes(functions.interpolated(own, (rows, columns), window, kind, progress)), NAMES[kind])
        for kind in kinds
    ]


def _structures(
    functions: Functions, own: Selection, view: Mapping[str, Any], progress: Progress | None
) -> tuple[np.ndarray, list[str]]:
    """The traces of proteins of one sequence as a cloud, and how far they deviate from their mean, in words."""
    is_by_deviation = view.get("tint") == "deviation"
    number = view.get("samples") or (DEVIATING if is_by_deviation else 1)
    samples = functions.structures(own, number, progress)
    traces = [one.ca for one in samples]
    if number == 1:
        return protein_rendering.tube_points(traces), []
    deviations = superposition.deviations(samples)
    far = int(deviations.argmax())
    along = [deviations / max(float(deviations.max()), 1e-12)] * number if is_by_deviation else None
    return protein_rendering.tube_points(traces, along), [
        f"seeds {own.seed} to {own.seed + number - 1}",
        f"the C-alphas deviate from the mean of {number} samples by {deviations.mean():.1f} \u00c5 on average and by "
        f"{deviations[far]:.1f} \u00c5 at most, at residue {far + 1}",
    ]


def _strip(functions: Functions, own: Selection, described: Mapping[str, Any], progress: Progress | None) -> str:
    """Thumbnails of the same seed with growing steps, of images and clouds; empty where the sampler does not take steps."""
    kind, usual = described["view"], described["steps"] or USUAL_STEPS
    if not described["takes_steps"] or kind not in ("image", "cloud"):
        return ""
    counts = [count for count in STRIP if count < usual] + [usual] + ([2] if usual == 1 else [])
    figures = []
    for count in counts:
        stepped = replace(own, steps=count)
        try:
            if kind == "image":
                pixels = functions.image(stepped, THUMBNAIL, None, progress)
            else:
                points = functions.points(stepped, 0, THUMBNAIL_POINTS, progress)
                pixels = np.asarray(point_rendering.cloud(points, size=THUMBNAIL))
        except (UsageError, Diverged):  # such as of a sampler that chooses its own steps
            continue
        figures.append(_figure(png_bytes(pixels), "1 step" if count == 1 else f"{count} steps"))
    return f'<div class="tiles large">{"".join(figures)}</div>' if figures else ""


def _figure(file: bytes, caption: str, suffix: str = "png") -> str:
    """An embedded image with its caption."""
    data = base64.b64encode(file).decode("ascii")
    words = f"<figcaption>{escape(caption)}</figcaption>" if caption else ""
    return f'<figure class="tile"><img alt="{escape(caption)}" src="data:image/{suffix};base64,{data}">{words}</figure>'


def _size(described: Mapping[str, Any], view: Mapping[str, Any], most: int) -> tuple[SizeOptions, Window]:
    """The size of a panel's file, of an image at most `most` pixels a side, and the window of an image."""
    kind = described["view"]
    if kind == "image":
        window = _window(view.get("zoom"))
        height, width = window[2] - window[0], window[3] - window[1]
        rows, columns = (max(1, round(min(SIDE, most) * side / max(height, width))) for side in (height, width))
        return SizeOptions(resolution=f"{rows}x{columns}"), window
    if kind == "mesh":
        return SizeOptions(resolution=str(view.get("grid-side", GRID))), None
    if kind == "scene":
        side = view.get("view-side") or described["resolution"]
        x, y, z = _numbers(view.get("pose"), "pose") or HOME
        length = math.hypot(x, y, z) or 1.0
        camera = Camera(
            math.degrees(math.atan2(x, z)),
            math.degrees(math.asin(y / length)),
            (described["distance"] or 1.0) * length / math.hypot(*HOME),
        )
        return SizeOptions(resolution=str(side), views=1, camera=camera), None
    if kind == "clip":
        side = view.get("clip-side")
        resolution = None if side is None else str(side)
        rate, frames = view.get("rate"), view.get("frames")
        if rate is not None and frames is None:  # the duration follows from both
            frames = described["frames"]
        return SizeOptions(resolution=resolution, frames=frames, fps=rate), None
    return SizeOptions(), None


def _window(zoom: str | None) -> tuple[float, float, float, float]:
    """The part of the square that a view of center x, y and a width shows."""
    x, y, width = _numbers(zoom, "zoom") or (0.5, 0.5, 1.0)
    low, high = (lambda at: min(max(at - width / 2, 0.0), 1.0)), (lambda at: min(max(at + width / 2, 0.0), 1.0))
    window = low(y), low(x), high(y), high(x)
    if not (window[0] < window[2] and window[1] < window[3]):
        raise UsageError(f"`zoom={zoom}` shows no part of the image", hint="give the center and the width, from 0 to 1")
    return window


def _numbers(text: str | None, name: str) -> tuple[float, float, float] | None:
    """Three numbers from a text; None stays None."""
    if text is None:
        return None
    try:
        first, second, third = (float(part) for part in text.split(","))
    except ValueError as error:
        raise UsageError(f"`{name}={text}`", hint="give three numbers, separated by commas") from error
    if not all(map(math.isfinite, (first, second, third))):
        raise UsageError(f"`{name}={text}`", hint="give finite numbers")
    return first, second, third
