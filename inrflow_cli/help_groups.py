"""Help in groups: the panel of each option, the names of values, and the examples at the end of each command's help."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import typer
from typer.core import TyperCommand

OTHER = "Output and machine"
PANELS = {
    "Model": "--preset --run --model --ema --checkpoint --checkpoints --guide-run --init-from",
    "Data": "--source --data --samples --reference --split --samples-split --items --classes --category --features --limit "
    "--condition-images --memorization-set --reference-num --camera",
    "Samples": "--num --seed --seeds --label --image --sequence --fasta --format --text --texts --weights --view "
    "--samples-per-item",
    "Sampler": "--sampler --steps --guidance --guidance-interval --noise --set --sweep --precision",
    "Size": "--resolution --scale --window --points --frames --fps --views --azimuth --elevation --distance --fov --level "
    "--columns --size --interpolation-baselines",
    "Metrics": "--metrics --copies --list --statistics",
    "Files": "--ascii --normals --colors --surface --raw --save-field --field-fp16 --sheet",
    "Page": "--host --port --memory --max-side --token --open --export --fragment",
    "Parallel and repair": "--workers --array-size --array-index --engine --ray-address --repair --stop-at-step --no-verify",
    "Estimates": "--dry-run --plan-for --processes",
    OTHER: "--out --overwrite --json --chunk --batch --compile --device --threads --help",
}
"""Options by panel, in the order of a user's questions."""
ELSEWHERE = {
    "prepare": {"Data": "--set --weights --resolution --statistics --list"},
    "train": {"Model": "--set", OTHER: "--precision"},
    "eval": {"Metrics": "--weights", OTHER: "--format"},
}
"""Options that mean something else in a command, by its panel for them."""
LEAST = 8
"""Options from which on a command has panels."""
VALUES = {int: "N", float: "NUMBER", str: "TEXT"}
"""What help calls the value of an option that names none; of paths it is PATH, and a switch has none."""
EXAMPLES = {
    "prepare": [
        ("inrflow prepare --list", "the data sets"),
        ("inrflow prepare digits", "handwritten digits, without a download"),
        (
            "inrflow prepare image-folder --source photos --resolution 64 --set val=0.1 --out shards/photos",
            "your images",
        ),
    ],
    "train": [
        ("inrflow train --preset digits-demo", "run it again to resume"),
        ("inrflow train --preset imagenet128-xl --plan-for h200 --processes 8", "memory and time, without training"),
        ("inrflow train --preset digits-demo --out runs/wide --set network.width=256", "another setting"),
    ],
    "sample": [
        ("inrflow sample --model glyphs --label R --num 4 letters.png", "a model that comes with inrflow"),
        ("inrflow sample --num 16 --label 3 threes.png", "the latest run of images"),
        ("inrflow sample --run runs/solids-demo --points 128000 cloud.ply", "a finer cloud"),
        ("inrflow sample --seeds 0-49999 samples", "many, as shards; run it again to resume"),
    ],
    "upsample": [
        ("inrflow upsample --model glyphs --label R --resolution 256 R.png", "the sample of the same seed, finer"),
        ("inrflow upsample --scale 12 --label 7 seven.png seven-12x.png", "an input image, inverted"),
    ],
    "eval": [
        ("inrflow eval --run runs/digits-demo --num 500 --out results", "metrics.json and report.html"),
        ("inrflow eval --list", "the metrics"),
        ("inrflow eval --run runs/digits-demo --sweep steps=5,10,20 --out results/steps", "settings compared"),
    ],
    "export": [
        ("inrflow export runs/digits-demo model.safetensors", "a run as one file"),
        ("inrflow export --model glyphs glyphs.onnx", "a model that comes with inrflow"),
        ("inrflow export samples.h5 clouds.glb --items 0-3", "surfaces of clouds"),
        ("inrflow export shards/digits digits.png --split train", "prepared data"),
    ],
    "view": [
        ("inrflow view --model glyphs --model solids", "models that come with inrflow"),
        ("inrflow view runs/digits-demo", "a run; the address is printed"),
    ],
    "runs": [
        ("inrflow runs", "those in the folder of runs"),
        ("inrflow runs --run digits-demo --plot curves.png", "losses over the steps"),
    ],
    "presets": [
        ("inrflow presets", "all"),
        ("inrflow presets digits-demo --copy my.toml", "a preset of your own"),
    ],
    "weights": [
        ("inrflow weights list", "what is there, and what to get"),
        ("inrflow weights check", "digests and values"),
    ],
    "demo": [
        ("inrflow demo", "train, sample and upsample in minutes"),
        ("inrflow demo --quick", "the models that come with inrflow, without training"),
    ],
    "doctor": [("inrflow doctor", "some seconds"), ("inrflow doctor --no-test --json", "for a bug report")],
}
"""Command lines of each command, with what they are for."""


class Command(TyperCommand):
    """A command whose usage has its arguments as help names them: `[FILE]... OUT`."""

    def collect_usage_pieces(self, ctx: Any) -> list[str]:
        """`[OPTIONS]` and the arguments; those that can be left out are in brackets."""
        arguments = [one for one in self.get_params(ctx) if one.param_type_name == "argument"]
        names = [(str(getattr(one, "metavar", None) or one.name), one.required) for one in arguments]
        return [
            self.options_metavar or "",
            *(name if is_required or name.startswith("[") else f"[{name}]" for name, is_required in names),
        ]


def name_values(command: Any) -> None:
    """Name the values of a command's options and arguments that have no name of their own, as `VALUES` says.

    An argument has its name alone: Typer's type beside it (`<list[Path]>`) is Python's.
    """
    for one in [*command.params, help_option(command)]:
        if one.param_type_name == "argument":
            one.metavar = one.metavar or one.name.upper()
            one.display_type_rich = lambda ctx: None
        elif one.metavar is None:
            kind = one.type_descriptor
            known = "|".join(map(str, kind.choices or ())) or VALUES.get(kind.annotation, "VALUE")
            one.metavar = "" if one.is_flag else "PATH" if kind.is_path else known
    for each in getattr(command, "commands", {}).values():
        name_values(each)


def help_option(command: Any) -> Any:
    """The option `--help` of a command."""
    return command.get_help_option(typer.Context(command, **command.context_settings))


def arrange(command: Any, name: str) -> Any:
    """A command with its options in panels, in the order of `PANELS`, and its examples at the end of its help."""
    name_values(command)
    examples = "\n".join(f"- {what}: `{line}`" for line, what in EXAMPLES.get(name, []))
    command.epilog = f"Examples:\n\n{examples}" if examples else None
    options = [one for one in command.params if one.param_type_name == "option"]
    if len(options) < LEAST:
        return command
    panels = _panels(PANELS) | _panels(ELSEWHERE.get(name, {}))
    order = {panel: number for number, panel in enumerate(PANELS)}
    for one in [*options, help_option(command)]:
        one.rich_help_panel = next((panels[option] for option in one.opts if option in panels), OTHER)
    command.params.sort(key=lambda one: order.get(getattr(one, "rich_help_panel", None) or "", -1))
    return command


def _panels(table: Mapping[str, str]) -> dict[str, str]:
    """The panel of each option."""
    return {option: panel for panel, options in table.items() for option in options.split()}
