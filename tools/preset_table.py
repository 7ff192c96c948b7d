"""Write the table of presets in docs/presets.md from the presets themselves: `python tools/preset_table.py`."""

from __future__ import annotations

from pathlib import Path

import torch

from inrflow_core import models, presets

PAGE = Path(__file__).resolve().parent.parent / "docs" / "presets.md"
HEAD = ("preset", "what it is", "parameters", "GFLOPs forward", "steps x batch")
START, END = "<!-- table: tools/preset_table.py -->\n", "<!-- end of table -->"


def row(name: str) -> tuple[str, ...]:
    """A preset as a line of the table; the network is built without memory for its weights."""
    preset = presets.load(name)
    with torch.device("meta"):
        model = models.build(preset)
    count = sum(weight.numel() for weight in model.method.parameters()) / 1e6
    num_queries = preset.method.config.num_queries or model.domain.shape.num_pairs
    flops = sum(model.method.flops(num_queries).values()) / 1e9
    training = preset.training.config
    first_line = (presets.folder() / f"{name}.toml").read_text(encoding="utf-8").partition("\n")[0]
    what = first_line.removeprefix("# ").removesuffix(".")
    return f"`{name}`", what, f"{count:.3g}M", f"{flops:.3g}", f"{training.steps:,} x {training.batch}"


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
