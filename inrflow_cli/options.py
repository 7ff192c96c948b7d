"""Options that several commands share, typed once, and what turns their text into values.

Use them as annotations: `def sample(out: Path, run: Run = None, json: Json = False)`.
"""

from __future__ import annotations

import re
from pathlib import Path
from typing import Annotated

import typer

from inrflow_core.errors import UsageError

LAST_SEED = 2**63 - 1


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

    found = [str(path.parent) for path in run.runs_dir().glob("*/preset.toml")]
    return _starting(sorted(found), incomplete)


Json = Annotated[bool, typer.Option("--json", help="Print one JSON object on stdout; all else stays on stderr.")]
Overwrite = Annotated[bool, typer.Option("--overwrite", help="Replace output that is already there.")]
DryRun = Annotated[bool, typer.Option("--dry-run", help="Check and predict everything, write nothing.")]
Set = Annotated[
    list[str] | None,
    typer.Option("--set", metavar="TABLE.KEY=VALUE", help="Override a setting of the preset; may be repeated."),
]
PresetName = Annotated[
    str,
    typer.Option(
        "--preset", metavar="NAME|FILE", help="A preset's name, or a .toml file.", autocompletion=complete_presets
    ),
]
Run = Annotated[
    Path | None,
    typer.Option(
        "--run",
        metavar="DIR|FILE",
        help="A run folder or a .safetensors file; without it the newest fitting run.",
        autocompletion=complete_runs,
    ),
]
Device = Annotated[
    str | None, typer.Option(metavar="cpu|cuda|cuda:N", help="Where to compute; without it a GPU where there is one.")
]
Threads = Annotated[int | None, typer.Option(min=1, help="Threads that one process computes with.")]
Num = Annotated[int, typer.Option(min=1, help="How many samples, with seeds counting up from `--seed`.")]
Seed = Annotated[int, typer.Option(min=0, help="The first sample's seed.")]
Seeds = Annotated[
    str | None, typer.Option(metavar="FIRST-LAST", help="A range of seeds, both ends included, as in 0-49999.")
]
Label = Annotated[
    str | None, typer.Option(metavar="NUMBER|NAME", help="The class asked for; several are separated by commas.")
]
Guidance = Annotated[
    float | None, typer.Option(min=0.0, help="Scale of classifier-free guidance; 1 is none. Default: the preset's.")
]
Sampler = Annotated[
    str | None,
    typer.Option(metavar="NAME", help="The sampler, instead of the preset's.", autocompletion=complete_samplers),
]
Steps = Annotated[int | None, typer.Option(min=1, help="Steps of the sampler, instead of the preset's.")]
SamplerSettings = Annotated[
    list[str] | None,
    typer.Option(
        "--set",
        metavar="sampler.KEY=VALUE",
        help="A setting of the sampler, as in sampler.temperature=0.1; may be repeated.",
    ),
]
Resolution = Annotated[
    str | None, typer.Option(metavar="HxW", help="Rows x columns asked of an image, or one number for a square.")
]
Window = Annotated[
    str | None,
    typer.Option(metavar="TOP,LEFT,BOTTOM,RIGHT", help="The part of the picture to ask, each number from 0 to 1."),
]
Points = Annotated[int | None, typer.Option(help="How many points to ask of a cloud.")]
Chunk = Annotated[
    int, typer.Option(min=1, help="Queries answered at a time: it bounds the memory, and changes nothing.")
]
Precision = Annotated[
    str,
    typer.Option(metavar="fp32|bf16", help="Arithmetic of the network's matrix products; noise and samples are fp32."),
]
Compile = Annotated[
    bool,
    typer.Option("--compile", help="Compile the network first, which takes a minute or more; changes nothing else."),
]


def parse_seeds(seeds: str | None, *, seed: int, num: int) -> range:
    """The seeds asked for: `--seeds FIRST-LAST`, else `num` of them from `seed` on.

    Raises:
        UsageError: the text is no range, it runs backwards or beside `seed` or `num`, or a seed is too large.
    """
    if seeds is None:
        first, last = seed, seed + num - 1
    else:
        match = re.fullmatch(r"(\d+)(?:-(\d+))?", seeds.strip())
        first, last = (int(match[1]), int(match[2] or match[1])) if match else (0, -1)
        if last < first:
            raise UsageError(
                f"`--seeds {seeds}` is no range of seeds", hint="write the first and the last, as in `--seeds 0-49999`"
            )
        if (seed, num) != (0, 1):
            raise UsageError("`--seeds` says which samples, so do `--seed` and `--num`", hint="give one or the other")
    if last > LAST_SEED:
        raise UsageError(f"the seed {last} is too large", hint=f"the largest is 2^63 - 1, {LAST_SEED}")
    return range(first, last + 1)


def parse_window(text: str | None) -> tuple[float, float, float, float] | None:
    """Top, left, bottom and right of a part of the picture, each from 0 to 1; None stays None.

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
        f"`--window {text}` is no part of a picture",
        hint="write top, left, bottom and right from 0 to 1, as in `0.25,0.25,0.5,0.5`",
    )


def _starting(names: list[str], incomplete: str) -> list[str]:
    return [name for name in names if name.startswith(incomplete)]
