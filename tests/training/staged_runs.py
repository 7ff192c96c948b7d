"""Presets of the methods of several stages: `consistency`, `latent`, `adversarial` of these tests, `denoise` of
docs/adding-a-method.md."""

from __future__ import annotations

from typing import Any

from inrflow_core.config.preset import Preset, resolve
from tests import tiny
from tests.training import small

STAGES: dict[str, dict[str, Any]] = {
    "consistency": {"full": {"optimizer": "radam", "learning_rate": 0.02, "ema": [0.5]}},
    "denoise": {"distill": {"optimizer": "radam", "learning_rate": 0.02, "ema": [0.5]}},
    "latent": {"autoencoder": {"learning_rate": 0.02, "ema": [0.5]}, "held_out_every": 2},
    "adversarial": {
        "autoencoder": {"adversary": {"optimizer": "adam", "learning_rate": 0.1}},
        "denoiser": {"batch": 2, "held_out_every": 2},
    },
}
"""The tables of each method's stages."""
INRFLOW = {"consistency": tiny.INR, "latent": tiny.LATENT}
"""Those of inrflow itself."""
SIDE = 12
"""Pixels of a side of their images."""
TRAINING = {"steps": 3, "log_every": 1, "save_every": 100, "keep": 10, "clip": 1.0, "held_out_sets": 4}


def tables(method: str, **changes: Any) -> dict[str, dict[str, Any]]:
    """The tables of a small preset of one of them; `changes` are of [training]."""
    if method in INRFLOW:
        training = {**small.TRAINING, **TRAINING, **STAGES[method], **changes}
        return tiny.tables(INRFLOW[method], data={"held_out": "val"}, training=training)
    return tiny.tables(
        tiny.IMAGE,
        data={"held_out": "val"},
        domain={"resolution": SIDE},
        method={"name": method},
        network=small.NETWORK,
        condition=None,
        training={**small.TRAINING, **TRAINING, **STAGES[method], **changes},
        **({"sampler": None} if method == "denoise" else {}),
    )


def preset(method: str, **changes: Any) -> Preset:
    """Such a preset; `own_methods.install` comes first."""
    return resolve("tiny", tables(method, **changes))
