"""Put the averaged weights of a run into the package, in fp16: `python -m tools.ship_models demo/runs/glyphs-demo glyphs`.

The settings of sampling are those that the run's preset has now, where it is one that comes with inrflow.

The model card beside the weights, `inrflow_core/shipped/NAME.md`, is written by hand; a test compares its figures with the file.
"""

from __future__ import annotations

import argparse
from dataclasses import replace
from pathlib import Path

from torch import Tensor

from inrflow_core import models
from inrflow_core.config import preset
from inrflow_core.runs import run, shipped

INFO = ("step", "decay", "classes", "samples_seen", "flops", "normalization")
"""What the weights file says beside its preset."""


def main(arguments: list[str] | None = None) -> None:
    parser = argparse.ArgumentParser(prog="python -m tools.ship_models", description=__doc__)
    parser.add_argument("run", type=Path, help="folder of a finished run")
    parser.add_argument("name", help="name of the model, as after `--model`")
    options = parser.parse_args(arguments)
    print(ship(options.run, shipped.FOLDER / f"{options.name}{shipped.SUFFIX}"))


def ship(source: Path, target: Path) -> str:
    """Write the first average of a run's newest checkpoint in fp16; returns the file's SHA-256."""
    model = models.load(run.resolve_weights(source))
    tensors = {name: _halved(tensor) for name, tensor in model.method.state_dict().items()}
    info = {key: model.metadata[key] for key in INFO if key in model.metadata}
    target.parent.mkdir(exist_ok=True)
    present = model.preset
    if present.name in preset.names():
        present = replace(present, method=preset.load(present.name).method, sampler=preset.load(present.name).sampler)
    return models.save(target, tensors, present, info)


def _halved(tensor: Tensor) -> Tensor:
    return tensor.half() if tensor.is_floating_point() else tensor


if __name__ == "__main__":
    main()
