"""The whole way from data to samples in minutes, on data that is drawn and not downloaded."""

from __future__ import annotations

import resource
import shlex
import time
from collections.abc import Mapping
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Annotated, Any

import typer

from inrflow_cli import console
from inrflow_cli.options import Json, reject_options

GLYPHS, SOLIDS = "glyphs-demo", "solids-coupled-demo"
"""The presets that are trained."""
SHIPPED = {name: ("--model", name) for name in ("glyphs", "solids", "shapes", "numerals")}
TRAINED = {"glyphs": ("--run", f"runs/{GLYPHS}"), "solids": ("--run", f"runs/{SOLIDS}")}
"""The options of `sample` that name each model."""
FILES = {
    "glyphs.png": "real letters above sampled ones, a column for every second class",
    "glyphs-finer.png": "the same samples evaluated at 24 and 256 pixels, and bicubic enlargement of the 24",
    "glyphs-outlines.png": "held-out letters, their functions at 192 pixels, bicubic enlargement, and their exact outlines",
    "solids.png": "real solids above sampled ones, at 256 and 4096 points",
    "out.ply": "one sampled solid with 128,000 points",
    "out.png": "an image of it",
    "training.png": "the losses of both trainings",
}
QUICK_FILES = {name: FILES[name] for name in ("glyphs-finer.png", "out.ply", "out.png")} | {
    "solids.png": "sampled solids, at 256 and 4096 points",
    "shapes.png": "meshes of sampled solids, by latent diffusion",
    "numerals.png": "sampled numerals at 96 pixels, each by two calls of a network",
}
Out = Annotated[
    Path, typer.Argument(metavar="[OUT]", help="The folder that everything is written to; the same one resumes.")
]
Quick = Annotated[
    bool,
    typer.Option("--quick", help="Train nothing: sample and upsample models that come with inrflow, in half a minute."),
]
Set = Annotated[
    list[str] | None,
    typer.Option("--set", metavar="TABLE.KEY=VALUE", help="Override a setting of both trainings; may be repeated."),
]


@dataclass
class Scores:
    """How right the samples of the trained models are."""

    letters: float = 0.0
    """The share of sampled letters whose class a support vector machine on real ones names rightly."""
    enlarged: dict[int, tuple[float, float]] = field(default_factory=dict)
    """By side in pixels: dB of held-out letters against their outlines, as functions and by a bicubic filter."""
    solids: float = 0.0
    """The share of sampled solids whose nearest real one (Chamfer) has the requested class."""


def demo(out: Out = Path("demo"), quick: Quick = False, settings: Set = None, json: Json = False) -> None:
    """Train a model of letters and one of solids, sample and upsample both, and write images: minutes on two cores, without a download.

    The commands are printed as they run, in the folder OUT, which holds shards, runs and images. Run it again after an interruption: what is
    prepared and trained stays.
    """
    if quick:
        reject_options({"--set": settings}, "is of trainings, and `--quick` has none")
    started = time.monotonic()
    out.mkdir(parents=True, exist_ok=True)
    scores = None if quick else _train_and_sample(out, settings or [])
    if quick:
        _sample_shipped(out)
    seconds, files = time.monotonic() - started, QUICK_FILES if quick else FILES
    _report(out, scores, seconds, files)
    answer: dict[str, Any] = {"out": str(out), "files": {name: str(out / name) for name in files}, "seconds": seconds}
    console.print_json(answer | ({} if scores is None else {"scores": asdict(scores)}), as_json=json)


def _sample_shipped(out: Path) -> None:
    """Samples of the models that come with inrflow."""
    from inrflow_cli import demo_images

    _heading("1. Letters: sample, and evaluate the same samples more finely")
    demo_images.show_finer_letters(out, SHIPPED["glyphs"])
    _heading("2. Solids: sample at 256, 4096 and 128,000 points")
    demo_images.show_few_solids(out, SHIPPED["solids"])
    demo_images.show_dense_solid(out, SHIPPED["solids"])
    _heading("3. The other systems: meshes by latent diffusion, numerals by a consistency model")
    demo_images.show_shapes(out, SHIPPED["shapes"])
    demo_images.show_numerals(out, SHIPPED["numerals"])


def _train_and_sample(out: Path, settings: list[str]) -> Scores:
    """Everything from data to scores."""
    from inrflow_cli import demo_commands, demo_images
    from inrflow_core.sampling import sample
    from inrflow_core.visualization import image_grid

    scores = Scores()
    _heading("1. Prepare letters and solids")
    demo_commands.run(out, *demo_images.prepare_letters())
    demo_commands.run(out, "prepare", "solids")
    _heading("2. Train both, one thread each")
    demo_commands.train(out, (GLYPHS, SOLIDS), [word for setting in settings for word in ("--set", setting)])
    image_grid.curves({name: demo_commands.curve(out, name) for name in (GLYPHS, SOLIDS)}).save(out / "training.png")
    _heading(
        "3. Letters: sample, evaluate the same samples more finely, and compare enlarged letters with their outlines"
    )
    scores.letters = demo_images.show_letters(out, TRAINED["glyphs"])
    demo_images.show_finer_letters(out, TRAINED["glyphs"])
    model = sample.load(out / "runs" / GLYPHS)
    scores.enlarged = demo_images.enlarge_held_out(out, model, console.info)
    _heading("4. Solids: sample, at up to 128,000 points")
    scores.solids = demo_images.show_solids(out, TRAINED["solids"])
    demo_images.show_dense_solid(out, TRAINED["solids"])
    return scores


def _heading(text: str) -> None:
    console.info(f"\n{text}")


def _report(out: Path, scores: Scores | None, seconds: float, files: Mapping[str, str]) -> None:
    """What was done, where to look, and what to try next."""
    used = resource.getrusage(resource.RUSAGE_CHILDREN), resource.getrusage(resource.RUSAGE_SELF)
    minutes = sum(usage.ru_utime + usage.ru_stime for usage in used) / 60
    took = f"{seconds:.0f} seconds" if scores is None else f"{seconds / 60:.1f} minutes ({minutes:.1f} CPU-minutes)"
    _heading(f"Done in {took}.")
    if scores is not None:
        console.result(
            f"{scores.letters:.1%} of the sampled letters have the requested class, by a support vector machine on real ones"
        )
        for side, (function, other) in scores.enlarged.items():
            console.result(
                f"held-out letters at {side} px against their outlines: {function:.1f} dB, by a bicubic filter {other:.1f} dB"
            )
        console.result(
            f"{scores.solids:.1%} of the sampled solids are nearest (Chamfer) to a real one of the requested class"
        )
    for name, what in files.items():
        console.result(f"{out / name}: {what}")
    folder = shlex.quote(str(out / "runs" / GLYPHS))
    sampled, viewed = ("--model glyphs",) * 2 if scores is None else (f"--run {folder}", folder)
    console.info(
        f"sample more with `inrflow sample {sampled} --label Q letter.png`, or look at it with `inrflow view {viewed}`"
    )
