"""Copy the weights of a run into one .safetensors file."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import torch

from inrflow_core import models
from inrflow_core.runs import run
from inrflow_core.storage import atomic_write, safetensors_file


def copy_weights(source: Path, out: Path, *, ema: float | None = None, step: run.Step = None) -> dict[str, Any]:
    """Write the weights of a run (or checkpoint, or file) as one file with preset and metadata; returns the metadata.

    Raises:
        MissingError, IntegrityError: there are none, or they are damaged.
    """
    weights = run.resolve_weights(source, ema=ema, step=step)
    preset, info = models.read_metadata(weights)
    with safetensors_file.open_tensors(weights) as file:
        names = list(file.keys())  # in alphabetical order
        layout = {name: _layout(file.get_slice(name)) for name in names}
        metadata = {name: text for name, text in sorted(file.metadata().items()) if name != safetensors_file.DIGEST_KEY}
        with atomic_write.atomic_write(out, safetensors_file.size(layout, metadata)) as beside:
            safetensors_file.write_with_digest(beside, layout, lambda: map(file.get_tensor, names), metadata)
            safetensors_file.check_digest(beside)
    return {"preset": preset.name, **info}


def _layout(tensor: Any) -> tuple[torch.dtype, tuple[int, ...]]:
    types = {name: dtype for dtype, name in safetensors_file.NAMES.items()}
    return types[tensor.get_dtype()], tuple(tensor.get_shape())
