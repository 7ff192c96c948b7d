"""Presets of the methods of several stages that only tests have: `latent`, and `denoise` of docs/adding-a-method.md."""

from __future__ import annotations

from typing import Any

from inrflow_core.config.preset import Preset
from tests import tiny
from tests.training import small

STAGES: dict[str, dict[str, Any]] = {
    "denoise": {"distill": {"optimizer": "radam", "learning_rate": 0.02, "ema": [0.5]}},
    "latent": {
        "autoencoder": {"adversary": {"optimizer": "adam", "learning_rate": 0.1}},
        "denoiser": {"batch": 2, "held_out_every": 2},
    },
}
"""The tables of each method's stages."""
TRAINING = {"steps": 3, "log_every": 1, "save_every": 100, "keep": 10, "clip": 1.0, "held_out_sets": 4}


def preset(method: str, **changes: Any) -> Preset:
    """A small preset of one of them; `changes` are of [training]."""
    return small.preset(
        tiny.IMAGE,
        data={"held_out": "val"},
        method={"name": method},
        condition=None,
        training={**TRAINING, **STAGES[method], **changes},
        **({"sampler": None} if method == "denoise" else {}),
    )
