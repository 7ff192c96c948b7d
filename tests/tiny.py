"""Small models with random weights: at the start a network answers exactly 0, and laws would hold trivially."""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch

from inrflow_core import models
from inrflow_core.config import toml
from inrflow_core.config.preset import Preset, resolve
from inrflow_core.models import Model
from inrflow_core.storage import plain_file

Kind = Mapping[str, dict[str, Any] | None]
"""Tables of a small preset; None takes one out."""
IMAGE: dict[str, dict[str, Any]] = {
    "domain": {"name": "image", "resolution": 6, "channels": 1},
    "network": {"width": 32, "depth": 2, "heads": 2, "latents": 9, "encoder": "spatial", "rope": True},
}
LOCAL_IMAGE: dict[str, dict[str, Any]] = {
    **IMAGE,
    "network": {**IMAGE["network"], "encoder": "linear", "decoder": "local", "decoder_width": 16},
}
POINTS: dict[str, dict[str, Any]] = {
    "domain": {"name": "points", "num_points": 24},
    "network": {
        "width": 32,
        "depth": 2,
        "heads": 2,
        "latents": 8,
        "encoder": "perceiver",
        "cross_attend_every": 2,
        "num_frequencies": 4,
    },
}
COUPLED_POINTS: dict[str, dict[str, Any]] = {**POINTS, "method": {"coupling": "assignment"}}
IMAGE_TO_POINTS: dict[str, dict[str, Any]] = {
    **POINTS,
    "condition": {"name": "picture", "embedder": "patches", "tokens": 64, "width": 192},
}
PROTEIN: dict[str, dict[str, Any]] = {
    "domain": {"name": "protein", "residues": 6},
    "network": {
        **{"width": 32, "depth": 2, "heads": 2, "latents": 6},
        **{"encoder": "spatial", "pseudo_coordinates": "residue"},
    },
    "condition": {"name": "sequence", "embedder": "one-hot", "width": 20},
}
INR: dict[str, dict[str, Any] | None] = {
    "domain": {"name": "image", "resolution": 12, "channels": 1},
    "method": {"name": "consistency"},
    "network": {
        "hypernetwork": {
            **{"name": "inr-hypernetwork", "width": 16, "heads": 2, "encoder_depth": 1, "decoder_depth": 1},
            **{"mlp_width": 32, "patch": 4},
        },
        "readout": {
            **{"name": "localized-inr", "tokens": 4, "token_width": 16, "width": 16, "heads": 2, "depth": 1},
            **{"num_frequencies": 4, "max_frequency": 12},
        },
    },
    "condition": None,
    "sampler": None,
}
"""A consistency model of a hyper-network and its read-out."""
RADIANCE: dict[str, dict[str, Any] | None] = {
    **INR,
    "domain": {"name": "radiance", "resolution": 8},
    "network": {
        "hypernetwork": dict((INR["network"] or {})["hypernetwork"]),
        "readout": {
            **{"name": "radiance-mlp", "token_width": 16, "width": 8, "depth": 3, "groups": 2, "num_frequencies": 3},
            **{"max_frequency": 8, "samples": 8, "eval_samples": 4, "density": "softplus"},
        },
    },
}
"""The same for radiance fields."""
LATENT: dict[str, dict[str, Any] | None] = {
    "domain": {"name": "image", "resolution": 12, "channels": 1},
    "method": {"name": "latent"},
    "network": {
        "autoencoder": {
            **{"name": "plane-autoencoder", "width": 8, "multipliers": [1, 2, 2], "depth": 1},
            **{"latent_channels": 3, "hidden_channels": 4, "field_channels": 4},
        },
        "readout": {"name": "basis-readout", "width": 16},
        "denoiser": {"name": "latent-unet", "width": 8, "multipliers": [1], "depth": 1, "head_width": 4},
    },
}
"""A latent diffusion model with a class condition: an autoencoder, the read-out of its fields, and a denoiser."""
SHAPES: dict[str, dict[str, Any] | None] = {
    "domain": {"name": "shape", "num_points": 40, "num_queries": 24, "grid": 12},
    "method": {"name": "latent"},
    "network": {
        "autoencoder": {
            **{"name": "triplane-autoencoder", "resolution": 8, "width": 8, "multipliers": [1, 2], "depth": 1},
            **{"latent_channels": 3, "hidden_channels": 4, "field_channels": 4},
            **{"point_width": 8, "point_depth": 2, "point_channels": 4},
        },
        "readout": {"name": "basis-readout", "width": 16, "reads_coordinate": True},
        "denoiser": {"name": "latent-unet", "width": 8, "multipliers": [1], "depth": 1, "head_width": 4},
    },
}
"""A latent diffusion model of shapes with a class condition."""
TEXT: dict[str, dict[str, Any] | None] = {**SHAPES, "condition": {"name": "text", "vocabulary": 64}}
"""The same with a text as condition, of the stand-in `words`."""
VIDEO: dict[str, dict[str, Any] | None] = {
    "domain": {"name": "video", "resolution": 8, "frames": 4},
    "method": {"name": "latent"},
    "network": {
        "autoencoder": {
            **{"name": "video-autoencoder", "patch": 4, "width": 8, "multipliers": [1, 2], "depth": 1, "fields": 2},
            **{"latent_channels": 3, "hidden_channels": 4, "field_channels": 4, "token_width": 8, "token_depth": 1},
            **{"heads": 2, "head_width": 4, "pool_depth": 1, "pool_heads": 2, "pool_head_width": 4, "pool_width": 8},
        },
        "readout": {"name": "basis-readout", "width": 16, "planes": "concatenate"},
        "denoiser": {"name": "latent-unet", "width": 8, "multipliers": [1], "depth": 1, "head_width": 4},
    },
}
"""A latent diffusion model of clips with a class condition."""
SCENES: dict[str, dict[str, Any] | None] = {
    **SHAPES,
    "domain": {"name": "radiance", "resolution": 8, "surface_points": 16},
    "network": {
        **(SHAPES["network"] or {}),
        "readout": {
            **{"name": "basis-radiance", "width": 16, "num_frequencies": 2, "direction_frequencies": 1},
            **{"samples": 5, "fine_samples": 4, "eval_samples": 6},
        },
    },
    "condition": None,
}
"""A latent diffusion model of scenes that are encoded from their surface."""
CONDITION = {"name": "label", "classes": 3}
NAMES = ["cat", "dog", "owl"]


def tables(kind: Kind, **changes: dict[str, Any] | None) -> dict[str, dict[str, Any]]:
    """A whole preset around a small domain and network; `changes` are merged into its tables, None takes one out."""
    base: dict[str, dict[str, Any]] = {
        "data": {"path": "shards/none"},
        "domain": {},
        "method": {"name": "flow"},
        "network": {"name": "set-transformer"},
        "condition": dict(CONDITION),
        "sampler": {"name": "euler", "steps": 4},
        "training": {"batch": 2, "steps": 2},
    }
    for source in (kind, changes):
        for table, values in source.items():
            is_another = "name" in (values or {}) and table == "condition"
            base[table] = {**({} if is_another else base.get(table, {})), **(values or {})}
            if values is None:
                del base[table]
            elif table == "network" and "readout" in values:
                base[table].pop("name", None)
    return base


def preset(kind: Kind, **changes: dict[str, Any] | None) -> Preset:
    """The resolved preset of `tables`."""
    return resolve("tiny", tables(kind, **changes))


def model(kind: Kind, scale: float = 0.25, **changes: dict[str, Any] | None) -> Model:
    """A model whose every weight is random, so that its velocities are far from 0."""
    torch.manual_seed(0)
    built = models.build(preset(kind, **changes))
    randomize(built.method, scale)
    built.method.eval().requires_grad_(False)
    return built


def randomize(module: torch.nn.Module, scale: float = 0.25, seed: int = 0) -> None:
    """Add noise to every weight: by its fan-in for matrices, else by `scale`."""
    generator = torch.Generator().manual_seed(seed)
    with torch.no_grad():
        for weight in module.parameters():
            fan_in = weight.shape[-1] if weight.ndim > 1 else 1
            weight += scale * torch.randn(weight.shape, generator=generator) / fan_in**0.5


def run_folder(
    folder: Path,
    kind: Kind,
    step: int = 2,
    *,
    metadata: dict[str, Any] | None = None,
    **changes: dict[str, Any] | None,
) -> Model:
    """A run with one complete checkpoint in the layout that training writes; returns its model.

    `metadata` goes into its weights files beside step and classes.
    """
    built = model(kind, 0.25, **changes)
    checkpoint = folder / "checkpoints" / f"{step:08d}"
    checkpoint.mkdir(parents=True)
    (folder / "preset.toml").write_text(f'name = "tiny"\n\n{toml.to_toml(built.preset.table())}')
    files = {}
    for name in ("weights.safetensors", "ema_0.999.safetensors"):
        info = {"step": step, "classes": NAMES, **(metadata or {})}
        models.save(checkpoint / name, built.method.state_dict(), built.preset, info)
        files[name] = {"bytes": (checkpoint / name).stat().st_size, "sha256": plain_file.file_digest(checkpoint / name)}
    (checkpoint / "manifest.json").write_text(json.dumps({"step": step, "ema": [0.999], "files": files}))
    return built
