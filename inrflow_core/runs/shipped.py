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
    return f"--model {source.stem}" if is_shipped(source) else f"--run {shlex.quote(str(source))}"


def title_of(source: Path) -> str:
    """What messages call a run or a weights file: the name of a model that comes with inrflow, else its path."""
    return source.stem if is_shipped(source) else str(source)


def is_shipped(source: Path) -> bool:
    """Whether a weights file is of a model that comes with inrflow."""
    return source.parent == FOLDER and source.suffix == SUFFIX


def card(name: str) -> str:
    """The model card of a model, in Markdown: data, licence, training, quality and limits; raises as `weights_file`."""
    return weights_file(name).with_suffix(CARD).read_text(encoding="utf-8")
