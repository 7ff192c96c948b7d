"""Build conditions from user input: a photo with its camera, a sequence, or items of shards.

Each becomes a `Condition` with one row, by the embedder that the model was trained with; `repeat_condition` repeats it
for every seed.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from jaxtyping import Float32

from inrflow_core.errors import IntegrityError, UsageError
from inrflow_core.feature_networks import _contract
from inrflow_core.feature_networks._contract import posed_image_tokens
from inrflow_core.geometry import cameras
from inrflow_core.models import Model
from inrflow_core.proteins import residues
from inrflow_core.sets import Condition
from inrflow_core.shards.batch import ConditionSelection
from inrflow_core.shards.shard_dataset import ShardDataset
from inrflow_core.visualization.image_io import read_square_image

PATCH = 14
"""Pixels of a patch's side, DINOv2's; the paper has photos of 32 x 32 patches, 448 pixels wide."""


def condition_from_image(
    model: Model, path: Path, camera: Float32[np.ndarray, "4 4"], weights: Path | None = None, device: str = "cpu"
) -> Condition:
    """The condition of a photo taken by a camera (`cameras.orbit`).

    Raises:
        UsageError: the model has no image condition.
        MissingError: the photo or the weights of the model's embedder do not exist.
        IntegrityError: the file is not a readable image, or the embedder's weights are not those of the training.
    """
    part = model.preset.condition
    if part is None or part.name != "image":
        raise UsageError(
            f"the model `{model.preset.name}` is not conditioned on images",
            hint="leave `--image` out, or choose another `--run`",
        )
    pixels = read_square_image(path, PATCH * math.isqrt(part.config.tokens))
    embedder = load_embedder(model, weights, device)
    images = torch.from_numpy(pixels)[None].to(device)
    found = posed_image_tokens(embedder, images, torch.from_numpy(camera)[None].to(device))
    if found.shape[1:] != (part.config.tokens, part.config.width + cameras.RAY):
        raise UsageError(
            f"`{part.config.embedder}` makes {found.shape[1]} tokens of {embedder.width} numbers, and the model "
            f"`{model.preset.name}` was trained on {part.config.tokens} of {part.config.width}",
            hint="give the weights that it was trained with",
        )
    return {"tokens": found}


def condition_from_sequence(model: Model, sequence: str, weights: Path | None = None, device: str = "cpu") -> Condition:
    """The condition of a sequence of amino acids, in one-letter codes; see `make_sequence_encoder`."""
    return make_sequence_encoder(model, weights, device)(sequence)


def make_sequence_encoder(model: Model, weights: Path | None = None, device: str = "cpu") -> Callable[[str], Condition]:
    """A function from sequences of amino acids, in one-letter codes, to conditions; the embedder is loaded once.

    It raises UsageError for a letter that is not one of the 20.

    Raises:
        UsageError: the model is not conditioned on sequences.
        MissingError, IntegrityError: as `condition_from_image`.
    """
    part = model.preset.condition
    if part is None or part.name != "sequence":
        raise UsageError(
            f"the model `{model.preset.name}` is not conditioned on sequences",
            hint="leave `--sequence` and `--fasta` out, or choose another `--run`",
        )
    name, width = part.config.embedder, part.config.width
    is_placeholder = _contract.weights_folder(name, weights) is None
    embedder = None if is_placeholder else load_embedder(model, weights, device)
    if embedder is not None and embedder.width != width:
        raise UsageError(
            f"`{name}` gives {embedder.width} numbers per residue, and the model `{model.preset.name}` was trained on {width}",
            hint="give the weights that it was trained with",
        )

    def encode(sequence: str) -> Condition:
        codes = residues.to_codes("".join(sequence.split()))
        condition = {"residues": torch.from_numpy(codes.astype(np.int64))[None]}
        if embedder is None:
            return condition
        (features,) = embedder([residues.to_letters(codes)])
        return condition | {"embedding": torch.from_numpy(features)[None]}

    return encode


def load_embedder(model: Model, weights: Path | None, device: str) -> Any:
    """The embedder that a model was trained with, with the weights in a folder. Default: the preset's folder, or `weights_folder`'s.

    Raises:
        MissingError: its weights do not exist.
        IntegrityError: they are not those that the model was trained with.
    """
    assert model.preset.condition is not None
    config = model.preset.condition.config
    name = config.embedder
    if weights is None and config.weights is not None and Path(config.weights).is_dir():
        weights = Path(config.weights)
    embedder = _contract.load(name, weights, device)
    digest = (model.metadata.get("normalization") or {}).get("embedder_digest")
    if digest is not None and digest != embedder.digest:
        raise IntegrityError(
            f"the weights of `{name}` have the digest {embedder.digest[:16]}, and `{model.preset.name}` was trained with "
            f"{digest[:16]}",
            hint="name the folder of those weights with `--weights`",
        )
    return embedder


def conditions_from_shards(
    model: Model, shards: ShardDataset, split: str, indices: Sequence[int], view: int = 0
) -> Condition:
    """The conditions of items of shards, one row each; for items with several views, that `view`.

    Raises:
        UsageError: the shards do not have the model's conditions.
        MissingError, IntegrityError: as `load_embedder`, if the model computes its features itself.
    """
    part = model.preset.condition
    assert part is not None
    if getattr(part.config, "features", None) == "online" and not model.method.conditioner.is_ready:
        model.method.conditioner.use(load_embedder(model, None, str(next(model.method.parameters()).device)))
    conditioner = part.module
    names = (*model.domain.REQUIRED_CONDITIONS, *conditioner.required_conditions(part.config))
    views = None
    if conditioner.HAS_VIEWS and names:
        views = np.full(len(indices), (view + 0.5) / shards.views(split, names[0]))
    read = shards.read(split, indices, conditions=ConditionSelection(names, views))
    sets = model.domain.to_set(read, torch.arange(len(indices)))
    return {
        name: value
        for name, value in sets.condition.items()
        if name in ("tokens", "image", "camera", "residues", "embedding")
    }


def repeat_condition(condition: Condition, count: int) -> dict[str, torch.Tensor]:
    """A condition of one row, repeated to `count` rows."""
    return {name: value.expand(count, *value.shape[1:]) for name, value in condition.items()}
