"""The embedder of a condition's features, which are stored in the shards or computed in training.

Every weights file records its name and the digest of its weights, as `embedder` and `embedder_digest` of the normalization:
sampling and resumed runs must use the same embedder.
"""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch

from inrflow_core import models
from inrflow_core.config.preset import Preset
from inrflow_core.errors import UsageError
from inrflow_core.feature_networks import _contract
from inrflow_core.runs import checkpoint_manifest
from inrflow_core.training.loader import Loader

KEYS = ("embedder", "embedder_digest")


def check(preset: Preset, loader: Loader) -> None:
    """Raise UsageError unless the shards have the features that the preset learns from.

    Raises:
        UsageError: the features are of another embedder or shape, or absent.
    """
    part = preset.condition
    stored = None if part is None else part.module.stored_features(part.config)
    if part is None or stored is None:
        return
    name, expected = stored
    config, shards = part.config, loader.shards
    stored_embedder = shards.manifest.normalization.get("embedder")
    if name not in shards.conditions(loader.split):
        made = f"none: they were prepared for `{stored_embedder}`" if stored_embedder else "none"
        raise UsageError(
            f"the preset `{preset.name}` learns from features of `{config.embedder}`, and the shards in `{shards.folder}` "
            f"hold {made}",
            hint="prepare them with that embedder"
            + (
                ", or compute it in training with `--set condition.features=online`"
                if hasattr(config, "features")
                else ""
            ),
        )
    if stored_embedder is not None and stored_embedder != config.embedder:
        raise UsageError(
            f"the shards in `{shards.folder}` hold features of `{stored_embedder}`, and the preset `{preset.name}` learns from those "
            f"of `{config.embedder}`",
            hint=f"prepare them with `--set embedder={config.embedder}`, or give other shards with `--data`",
        )
    has_views = part.module.VIEWS is not None
    shape = (shards.view_shape if has_views else shards.condition_shape)(loader.split, name)
    if shape != expected:
        raise UsageError(
            f"the `{name}` in `{shards.folder}` are of shape {list(shape)}, and [condition] of `{preset.name}` says "
            f"{list(expected)}",
            hint="change `condition.width` and the settings beside it, or give other shards with `--data`",
        )


def prepare(preset: Preset, loader: Loader, device: torch.device) -> Any:
    """The loaded embedder if training computes features, else None.

    Raises:
        MissingError: its weights are absent.
        IntegrityError: its weights are damaged, or of another network.
        UsageError: its tokens differ from the settings in number or width.
    """
    part = preset.condition
    if part is None or not hasattr(part.config, "embedder") or part.module.stored_features(part.config) is not None:
        return None
    folder = None if part.config.weights is None else Path(part.config.weights)
    embedder = _contract.load(part.config.embedder, folder, device)
    conditioner = part.module
    shape = (
        loader.shards.view_shape(loader.split, conditioner.required_conditions(part.config)[0])
        if conditioner.VIEWS is not None
        else ()
    )
    conditioner.check(part.config, embedder, shape)
    return embedder


def provenance(preset: Preset, loader: Loader, embedder: Any) -> dict[str, Any]:
    """The normalization of the sets and the embedder of their features, as weights files record them.

    A `reduction` of images other than the usual one is recorded too: input files are reduced as the training images were.
    """
    content = loader.shards.manifest
    reduction = content.settings.get("reduction", "adm")
    stored = {**content.normalization, **({} if reduction == "adm" else {"reduction": reduction})}
    if embedder is None:
        return stored
    return {name: value for name, value in stored.items() if name not in KEYS} | {
        "embedder": embedder.name,
        "embedder_digest": embedder.digest,
    }


def check_unchanged(out: Path, step: int, now: Mapping[str, Any]) -> None:
    """Raise UsageError unless a run's features come from the same embedder as at a step.

    Raises:
        UsageError: the embedder or its weights changed.
    """
    _, info = models.read_metadata(checkpoint_manifest.checkpoint_folder(out, step) / checkpoint_manifest.WEIGHTS)
    before = info.get("normalization") or {}
    if [before.get(key) for key in KEYS] != [now.get(key) for key in KEYS]:
        was, this = (f"`{of.get('embedder')}` {str(of.get('embedder_digest'))[:8]}..." for of in (before, now))
        raise UsageError(
            f"the run `{out}` learned from features of {was}, and these are of {this}",
            hint="name the run's own weights with `--set condition.weights=DIR`, or choose another `--out`",
        )
