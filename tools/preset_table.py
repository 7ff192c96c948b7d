"""Write presets/sizes.json and, from it, the table of presets in docs/presets.md: `python tools/preset_table.py [NAME]...`.

Without names, the numbers of all presets are computed again, in some minutes of one core. Their networks are built without
weights and traced without memory. `inrflow presets` reads the same file.
"""

from __future__ import annotations

import json
import sys
from pathlib import Path

import torch

from inrflow_core.config import from_data, preset, preset_table
from inrflow_core.config.preset import Preset
from inrflow_core.config.preset_table import PresetSummary, Sizes
from inrflow_core.planning.plan import Planner
from inrflow_core.runtime.distributed import World
from inrflow_core.storage.typed_json import to_plain
from inrflow_core.training import stages

PAGE = Path(__file__).resolve().parent.parent / "docs" / "presets.md"
HEAD = ("preset", "what it is", "parameters", "GFLOPs forward", "steps x batch", "training FLOPs")
START, END = "<!-- table: tools/preset_table.py -->\n", "<!-- end of table -->"


FACTS: from_data.Facts = {
    "domain.resolution": 64,
    "domain.channels": 3,
    "domain.num_points": 2048,
    "condition.classes": 10,
    "data.held_out": "val",
}
"""What the table assumes of shards, in presets that take these settings from them."""


def load(name: str, overrides: list[str] | tuple[str, ...] = ()) -> Preset:
    """A preset with overrides; what it takes from shards is that of FACTS."""
    name, tables = preset.read(name, overrides)
    return preset.resolve(name, from_data.resolved(tables, FACTS))


def sizes_of(name: str) -> Sizes:
    """The numbers of a preset at full size; its weights are never made."""
    alone = World(0, 1, 0, torch.device("cpu"), is_launched=False)
    loaded = load(name)
    planners = [Planner(stages.preset_of(loaded, stage.name), alone, "fp32", stage) for stage in loaded.stages]
    parameters, forward = planners[0].sizes()
    training = sum(planner.training_flops() for planner in planners)
    return Sizes(sum(parameters.values()), _rounded(sum(forward.values())), _rounded(training))


def file_text(sizes: dict[str, Sizes]) -> str:
    """presets/sizes.json, one line for each preset."""
    lines = [f"{json.dumps(name)}: {json.dumps(to_plain(sizes[name]))}" for name in sorted(sizes)]
    return "{\n" + ",\n".join(lines) + "\n}\n"


def row(summary: PresetSummary) -> tuple[str, ...]:
    """A preset as a line of the table."""
    sizes = summary.sizes
    assert sizes is not None, summary.name
    gflops, millions = sizes.forward_flops / 1e9, sizes.parameters / 1e6
    return (
        f"`{summary.name}`",
        summary.what,
        f"{millions:,.0f}M" if millions >= 1000 else f"{millions:.3g}M",
        f"{gflops:,.0f}" if gflops >= 100 else f"{gflops:.3g}",
        " + ".join(f"{steps:,} x {batch}" for steps, batch in summary.steps),
        f"{sizes.training_flops:.2g}",
    )


def table() -> str:
    """The table as Markdown."""
    rows = [row(preset_table.summary(name)) for name in preset.names()]
    return "".join(f"| {' | '.join(line)} |\n" for line in [HEAD, ("---",) * len(HEAD), *rows])


def page(text: str) -> str:
    """The page with its table renewed."""
    before, _, rest = text.partition(START)
    _, _, after = rest.partition(END)
    return before + START + table() + END + after


def _rounded(number: float) -> float:
    """To six digits: the last ones of a sum of floats change with the order of operations."""
    return float(f"{number:.6g}")


def main(names: list[str]) -> None:
    """Compute the numbers of these presets, by default of all, and write the file and the page."""
    path = preset.folder() / preset_table.SIZES
    sizes = dict(preset_table.all_sizes()) if path.is_file() and names else {}
    sizes |= {name: sizes_of(name) for name in names or preset.names()}
    path.write_text(file_text({name: sizes[name] for name in preset.names() if name in sizes}), encoding="utf-8")
    preset_table.all_sizes.cache_clear()
    PAGE.write_text(page(PAGE.read_text(encoding="utf-8")), encoding="utf-8")


if __name__ == "__main__":
    main(sys.argv[1:])
