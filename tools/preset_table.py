"""Write the table of presets in docs/presets.md from the presets themselves: `python tools/preset_table.py`."""

from __future__ import annotations

from pathlib import Path

import torch

from inrflow_core.config import preset
from inrflow_core.planning.plan import Planner
from inrflow_core.runtime.distributed import World

PAGE = Path(__file__).resolve().parent.parent / "docs" / "presets.md"
HEAD = ("preset", "what it is", "parameters", "GFLOPs forward", "steps x batch")
START, END = "<!-- table: tools/preset_table.py -->\n", "<!-- end of table -->"


def sizes_of(name: str) -> tuple[int, float]:
    """Parameters and operations of a forward pass of a preset at full size; its weights are never made."""
    alone = World(0, 1, 0, torch.device("cpu"), is_launched=False)
    parameters, flops = Planner(preset.load(name), alone, "fp32").sizes()
    return sum(parameters.values()), sum(flops.values())


def row(name: str) -> tuple[str, ...]:
    """A preset as a line of the table."""
    (count, flops), training = sizes_of(name), preset.load(name).training.config
    flops /= 1e9
    first_line = (preset.folder() / f"{name}.toml").read_text(encoding="utf-8").partition("\n")[0]
    what = first_line.removeprefix("# ").removesuffix(".")
    millions = count / 1e6
    parameters = f"{millions:,.0f}M" if millions >= 1000 else f"{millions:.3g}M"
    return (
        f"`{name}`",
        what,
        parameters,
        f"{flops:,.0f}" if flops >= 100 else f"{flops:.3g}",
        f"{training.steps:,} x {training.batch}",
    )


def table() -> str:
    """The table as Markdown."""
    lines = [HEAD, ("---",) * len(HEAD), *(row(name) for name in preset.names())]
    return "".join(f"| {' | '.join(line)} |\n" for line in lines)


def page(text: str) -> str:
    """The page with its table renewed."""
    before, _, rest = text.partition(START)
    _, _, after = rest.partition(END)
    return before + START + table() + END + after


if __name__ == "__main__":
    PAGE.write_text(page(PAGE.read_text(encoding="utf-8")), encoding="utf-8")
