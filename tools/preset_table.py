"""Write the table of presets in docs/presets.md from the presets themselves: `python tools/preset_table.py`."""

from __future__ import annotations

from pathlib import Path

import torch

from inrflow_core import presets
from inrflow_core.training import plan
from inrflow_core.training.world import World

PAGE = Path(__file__).resolve().parent.parent / "docs" / "presets.md"
HEAD = ("preset", "what it is", "parameters", "GFLOPs forward", "steps x batch")
START, END = "<!-- table: tools/preset_table.py -->\n", "<!-- end of table -->"


def plan_of(name: str) -> plan.Plan:
    """What one process of a run of the preset takes, at full size; its weights are never made."""
    alone = World(0, 1, 0, torch.device("cpu"), is_launched=False)
    return plan.predict(presets.load(name), alone, precision="fp32", micro=1)


def row(name: str) -> tuple[str, ...]:
    """A preset as a line of the table."""
    planned, training = plan_of(name), presets.load(name).training.config
    flops = planned.total_flops / plan.BACKWARD / training.batch / 1e9
    first_line = (presets.folder() / f"{name}.toml").read_text(encoding="utf-8").partition("\n")[0]
    what = first_line.removeprefix("# ").removesuffix(".")
    parameters = f"{planned.total_parameters / 1e6:.3g}M"
    return (
        f"`{name}`",
        what,
        parameters,
        f"{flops:,.0f}" if flops >= 100 else f"{flops:.3g}",
        f"{training.steps:,} x {training.batch}",
    )


def table() -> str:
    """The table as Markdown."""
    lines = [HEAD, ("---",) * len(HEAD), *(row(name) for name in presets.names())]
    return "".join(f"| {' | '.join(line)} |\n" for line in lines)


def page(text: str) -> str:
    """The page with its table renewed."""
    before, _, rest = text.partition(START)
    _, _, after = rest.partition(END)
    return before + START + table() + END + after


if __name__ == "__main__":
    PAGE.write_text(page(PAGE.read_text(encoding="utf-8")), encoding="utf-8")
