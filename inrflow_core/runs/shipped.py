"""Small trained models that come with inrflow: weights in fp16, each with a model card, in `inrflow_core/shipped`.

`tools/ship_models.py` makes them from runs of the demos.
"""

from __future__ import annotations

import shlex
from pathlib import Path

from inrflow_core.errors import UsageError, did_you_mean

FOLDER = Path(__file__).resolve().parent.parent / "shipped"
SUFFIX, CARD = ".safetensors", ".md"


def names() -> list[str]:
    """The models' names, in alphabetical order."""
    return sorted(path.stem for path in FOLDER.glob(f"*{SUFFIX}"))


def weights_file(name: str) -> Path:
    """The weights file of a model; `runs.run.resolve_weights` checks its digest.

    Raises:
        UsageError: no model has this name.
    """
    known = names()
    if name not in known:
        raise UsageError(f"inrflow comes with no model `{name}`", hint=did_you_mean(name, known))
    return FOLDER / f"{name}{SUFFIX}"


def option_of(source: Path) -> str:
    """How a command names a model: `--model NAME` for the weights of one that comes with inrflow, else `--run SOURCE`."""
    return _option(source) or f"--run {shlex.quote(str(source))}"


def title_of(source: Path) -> str:
    """What messages call a run or a weights file: `--model NAME` for one that comes with inrflow, else its path."""
    return _option(source) or str(source)


def _option(source: Path) -> str | None:
    return f"--model {source.stem}" if source.parent == FOLDER and source.suffix == SUFFIX else None


def card(name: str) -> str:
    """The model card of a model, in Markdown: data, licence, training, quality and limits; raises as `weights_file`."""
    return weights_file(name).with_suffix(CARD).read_text(encoding="utf-8")
