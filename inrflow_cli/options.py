"""Options that several commands share, and the parsers of their values.

Use them as annotations: `def sample(out: Path, run: Run = None, json: Json = False)`.
"""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Literal

import typer

from inrflow_core.config.training import LAST_SEED
from inrflow_core.errors import UsageError

if TYPE_CHECKING:
    from inrflow_core.fields import Camera
    from inrflow_core.runs.run import Step

BY_SEED = "by-seed"
"""The value of `--view` for views chosen by the seeds of the samples (`reference_inputs.PAIRED_BY_SEED`)."""


def complete_presets(incomplete: str) -> list[str]:
    """Names of presets, for the shell."""
    from inrflow_core.config import preset

    return _starting(preset.names(), incomplete)


def complete_datasets(incomplete: str) -> list[str]:
    """Names of data sets, for the shell."""
    from inrflow_core import registry

    return _starting(registry.names("datasets"), incomplete)


def complete_samplers(incomplete: str) -> list[str]:
    """Names of samplers, for the shell."""
    from inrflow_core import registry

    return _starting(registry.names("samplers"), incomplete)


def complete_runs(incomplete: str) -> list[str]:
    """Run folders, for the shell."""
    from inrflow_core.runs import run

    folders = [str(path.parent) for path in run.runs_dir().glob("*/preset.toml")]
    return _starting(sorted(folders), incomplete)


def complete_models(incomplete: str) -> list[str]:
    """Models that come with inrflow, for the shell."""
    from inrflow_core.runs import shipped

    return _starting(shipped.names(), incomplete)


def complete_weights(incomplete: str) -> list[str]:
    """Names of weights, for the shell."""
    from inrflow_core import registry
    from inrflow_core.runs import shipped

    return _starting(registry.names("feature_networks") + shipped.names(), incomplete)


def check_seed(seed: int) -> int:
    """A seed; raises UsageError above the largest."""
    if seed > LAST_SEED:
        raise UsageError(f"the seed {seed} is too large", hint=f"the largest is 2^63 - 1, {LAST_SEED}")
    return seed


Json = Annotated[bool, typer.Option("--json", help="Print one JSON object on stdout; everything else goes to stderr.")]
Overwrite = Annotated[bool, typer.Option("--overwrite", help="Replace output that is already there.")]
DryRun = Annotated[bool, typer.Option("--dry-run", help="Check the input and estimate the cost; write nothing.")]
Set = Annotated[
    list[str] | None,
    typer.Option("--set", metavar="TABLE.KEY=VALUE", help="Override a setting of the preset; may be repeated."),
]
PresetName = Annotated[
    str,
    typer.Option(
        "--preset",
        metavar="NAME|FILE",
        help="A preset's name (`inrflow presets` lists them), or a .toml file, also that of a run.",
        autocompletion=complete_presets,
    ),
]
Run = Annotated[
    Path | None,
    typer.Option(
        "--run",
        metavar="DIR|FILE",
        help="A run folder, the name of one in `runs`, or a .safetensors file. Default: the latest run that fits.",
        autocompletion=complete_runs,
    ),
]
Device = Annotated[str | None, typer.Option(metavar="cpu|cuda|cuda:N", help="Device. Default: a GPU if there is one.")]
Threads = Annotated[int | None, typer.Option(min=1, help="CPU threads of each process. Default: all cores.")]
SaveField = Annotated[
    Path | None,
    typer.Option(help="Also save the fields as .safetensors, for `inrflow upsample` and `inrflow export`."),
]
Num = Annotated[int, typer.Option(min=1, help="Number of samples; their seeds count up from `--seed`.")]
Seed = Annotated[int, typer.Option(min=0, callback=check_seed, help="The first sample's seed.")]
Seeds = Annotated[
    str | None, typer.Option(metavar="FIRST-LAST", help="A range of seeds, both ends included, as in 0-49999.")
]
Label = Annotated[
    str | None,
    typer.Option(
        metavar="NUMBER|NAME",
        help="Class to sample; of several, separated by commas, or `all`, each seed takes one in turn. `none`: without a class. "
        "`uniform`: a random one, the default.",
    ),
]
Guidance = Annotated[
    float | None, typer.Option(min=0.0, help="Scale of classifier-free guidance; 1 is none. Default: the preset's.")
]
GuidanceInterval = Annotated[
    str | None, typer.Option(metavar="LOW,HIGH", help="Apply guidance only between these times, as in 0.1,0.9.")
]
Sampler = Annotated[
    str | None,
    typer.Option(metavar="NAME", help="The sampler, instead of the preset's.", autocompletion=complete_samplers),
]
Steps = Annotated[int | None, typer.Option(min=1, help="Steps of the sampler, instead of the preset's.")]
SamplingSet = Annotated[
    list[str] | None,
    typer.Option(
        "--set",
        metavar="TABLE.KEY=VALUE",
        help="A setting of the sampler or of the method's sampling, as in sampler.temperature=0.1; may be repeated.",
    ),
]
Resolution = Annotated[
    str | None,
    typer.Option(
        metavar="HxW",
        help="Output height and width of images and views, or one number for a square; HxWxN is a turntable of N views. Of a "
        "mesh: points of its grid along each side.",
    ),
]
Views = Annotated[
    int | None,
    typer.Option(min=1, help="Views of each scene, around it. Default: 60 in a video, else 1.", show_default=False),
]
Frames = Annotated[
    int | None,
    typer.Option(min=1, help="Frames of each video: how finely its duration is sampled. Default: the training's."),
]
Fps = Annotated[
    float | None,
    typer.Option(
        help="Frames per second of a video; without `--frames` its duration is sampled at this rate. Default: that of the "
        "training clips, or what shows `--frames` in the same time."
    ),
]
Azimuth = Annotated[
    float | None,
    typer.Option(
        help="Azimuth of the camera of an input image, or of the first view of a scene, in degrees; 0 looks from +z."
    ),
]
Elevation = Annotated[float | None, typer.Option(help="Elevation of these cameras in degrees.")]
Distance = Annotated[
    float | None,
    typer.Option(
        "--distance",
        "--radius",
        min=0.1,
        help="Their distance from the origin; the box of an input image's object is [-1, 1].",
    ),
]
FieldOfView = Annotated[float | None, typer.Option("--fov", min=1, max=170, help="Their field of view in degrees.")]
Level = Annotated[
    float | None,
    typer.Option(
        help="What the surface of a mesh has: of a scene the density (default: 10, or half the highest where that is less), of "
        "a shape the probability of being inside (default: 0.5)."
    ),
]
Window = Annotated[
    str | None,
    typer.Option(
        metavar="TOP,LEFT,BOTTOM,RIGHT",
        help="Part of the image, or of every frame, to evaluate, each number from 0 to 1.",
    ),
]
Points = Annotated[int | None, typer.Option(help="Number of points of each point cloud.")]
Chunk = Annotated[
    int, typer.Option(min=1, help="Queries evaluated at once. Lower it to save memory; results do not change.")
]
Batch = Annotated[int | None, typer.Option(min=1, help="Samples drawn together; results do not change.")]
Noise = Annotated[
    str | None,
    typer.Option(
        metavar="NAME",
        help="Interpolation of the initial noise between training positions: linear, cubic or independent.",
    ),
]
Precision = Annotated[
    str,
    typer.Option(metavar="fp32|bf16", help="Precision of the network's matrix products; noise and samples are fp32."),
]
Compile = Annotated[
    bool,
    typer.Option("--compile", help="Compile the network first, which takes a minute or more."),
]


def parse_seeds(seeds: str | None, *, seed: int, num: int) -> range:
    """The seeds of `--seeds FIRST-LAST`, else `num` seeds from `seed` on.

    Raises:
        UsageError: `seeds` is not a range, is given with `seed` or `num`, or has a seed that is too large.
    """
    if seeds is None:
        first, last = seed, seed + num - 1
    else:
        match = re.fullmatch(r"(\d+)(?:-(\d+))?", seeds.strip())
        first, last = (int(match[1]), int(match[2] or match[1])) if match else (0, -1)
        if last < first:
            raise UsageError(
                f"`--seeds {seeds}` is not a range of seeds",
                hint="write the first and the last, as in `--seeds 0-49999`",
            )
        if (seed, num) != (0, 1):
            raise UsageError("`--seeds` excludes `--seed` and `--num`", hint="give one or the other")
    return range(first, check_seed(last) + 1)


def parse_camera(text: str | None) -> Camera | None:
    """A camera from its azimuth, elevation, distance and field of view, of which the last ones may be missing; None stays None.

    Raises:
        UsageError: not one to four numbers.
    """
    from inrflow_core.fields import Camera

    if text is None:
        return None
    try:
        numbers = [float(part) for part in text.split(",")]
    except ValueError:
        numbers = []
    if not 1 <= len(numbers) <= len(Camera._fields):
        raise UsageError(
            f"`--camera {text}` is not a camera",
            hint="write azimuth, elevation, distance and field of view, as in `30,20,1.3,52`; the last ones may be left out",
        )
    return Camera(*numbers)


def parse_window(text: str | None) -> tuple[float, float, float, float] | None:
    """Top, left, bottom and right of a part of the image, each from 0 to 1; None stays None.

    Raises:
        UsageError: not four numbers in [0, 1], or the part is empty.
    """
    if text is None:
        return None
    try:
        numbers = [float(part) for part in text.split(",")]
    except ValueError:
        numbers = []
    if len(numbers) == 4:
        top, left, bottom, right = numbers
        if 0 <= top < bottom <= 1 and 0 <= left < right <= 1:
            return top, left, bottom, right
    raise UsageError(
        f"`--window {text}` is not a part of an image",
        hint="write top, left, bottom and right from 0 to 1, as in `0.25,0.25,0.5,0.5`",
    )


def parse_checkpoint(text: str | None, option: str = "--checkpoint") -> Step:
    """A step or `best`; None for the latest checkpoint, from None or `newest`.

    Raises:
        UsageError: any other text.
    """
    if text is None or text == "newest":
        return None
    if text == "best":
        return "best"
    if not (text.isascii() and text.isdigit()):
        raise UsageError(
            f"`{option} {text}` is not a checkpoint", hint="give a step such as `1000`, `best`, or `newest`"
        )
    return int(text)


def parse_settings(texts: list[str] | None, **flags: Any) -> tuple[dict[str, Any], dict[str, Any]]:
    """Settings of the sampler and of the method's `SamplingConfig`, from `sampler.key=value` and `method.key=value` texts.

    `flags` are settings of the method with options of their own, such as `guidance`; None for those left out.

    Raises:
        UsageError: a text is not such a setting, is of another table, or repeats a flag.
    """
    from inrflow_core.config import preset

    tables = preset.override({}, texts or [])
    for table in tables:
        if table not in ("sampler", "method"):
            raise UsageError(
                f"`--set {table}...` cannot change a trained model",
                hint="write `--set sampler.KEY=VALUE` or `--set method.KEY=VALUE`, as in `--set sampler.temperature=0.1`",
            )
    method = tables.get("method", {})
    flags = {key: value for key, value in flags.items() if value is not None}
    for key in flags:
        if key in method:
            option = f"`--{key.replace('_', '-')}`"
            raise UsageError(f"{option} and `--set method.{key}` exclude each other", hint="give one of them")
    return tables.get("sampler", {}), method | flags


def sampling_arguments(
    sampler: str | None, steps: int | None, settings: list[str] | None, precision: str, **flags: Any
) -> dict[str, Any]:
    """Arguments of `sampling_options` from the options of a command; `settings` and `flags` as for `parse_settings`.

    Raises:
        UsageError: as `parse_settings`.
    """
    sampler_settings, method_settings = parse_settings(settings, **flags)
    return {
        "sampler": sampler,
        "steps": steps,
        "sampler_settings": sampler_settings,
        "method_settings": method_settings,
        "precision": precision,
    }


def parse_interval(text: str | None) -> tuple[float, float] | None:
    """Two times from `0.1,0.9`; None stays None. Their order and range are checked with the settings.

    Raises:
        UsageError: not two numbers.
    """
    if text is None:
        return None
    try:
        low, high = (float(part) for part in text.split(","))
    except ValueError as error:
        raise UsageError(f"`{text}` is not an interval of times", hint="write two, as in `0.1,0.9`") from error
    return low, high


def check_field_path(path: Path | None) -> None:
    """Raise UsageError unless `--save-field` names a .safetensors file, or is not given."""
    if path is not None and path.suffix != ".safetensors":
        raise UsageError(f"`--save-field {path}`: fields are .safetensors files", hint="give it that suffix")


def parse_checkpoints(text: str) -> list[Step] | Literal["all"]:
    """Checkpoints from `newest`, `best`, `all`, or steps separated by commas.

    Raises:
        UsageError: the text has anything else.
    """
    if text == "all":
        return "all"
    return [parse_checkpoint(part.strip(), "--checkpoints") for part in text.split(",")]


def parse_view(text: str | None) -> int | str | None:
    """The number of a view, or `by-seed`; None stays None.

    Raises:
        UsageError: the text is neither.
    """
    if text is None or text == BY_SEED:
        return text
    if not (text.isascii() and text.isdigit()):
        raise UsageError(f"`--view {text}` is not a view", hint=f"give a number from 0 on, or `{BY_SEED}`")
    return int(text)


def parse_metric_names(texts: Sequence[str] | None) -> list[str]:
    """Names of metrics from texts such as `fid,kid`; empty for None.

    Raises:
        UsageError: the texts have no name.
    """
    names = [name.strip() for text in texts or [] for name in text.split(",") if name.strip()]
    if texts and not names:
        raise UsageError("`--metrics` is empty", hint="`inrflow eval --list` lists all metrics")
    return names


def reject_options(options: Mapping[str, Any], reason: str, hint: str | None = None) -> None:
    """Raise UsageError if an option has a value; `options` maps names to values, None for those left out.

    `reason` completes "`--seed` ...", as in "does not apply to a saved field".
    """
    for name, value in options.items():
        if value is not None:
            raise UsageError(f"`{name}` {reason}", hint=hint or f"leave `{name}` out")


def _starting(names: list[str], incomplete: str) -> list[str]:
    return [name for name in names if name.startswith(incomplete)]
