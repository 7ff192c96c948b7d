"""Build conditions from user input, such as an image with its camera or a sequence, or from items of shards.

Each becomes a `Condition` with one row, by the embedder that the model was trained with; `repeat_condition` repeats it
for every seed.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import torch

from inrflow_core.conditioners._contract import FrozenConditioner, ModelEmbedder, conditioner_part
from inrflow_core.errors import IntegrityError, UsageError
from inrflow_core.feature_networks import _contract
from inrflow_core.models import Model
from inrflow_core.sets import Condition
from inrflow_core.shards.batch import ConditionSelection
from inrflow_core.shards.shard_dataset import ShardDataset


def condition_from_input(
    model: Model, conditioner: str, value: Any, weights: Path | None = None, device: str = "cpu"
) -> Condition:
    """The condition of one input: an `ImageInput` for the conditioner `image`, letters for `sequence`.

    Raises:
        UsageError, MissingError, IntegrityError: as `make_encoder`, or the input cannot be read.
    """
    return make_encoder(model, conditioner, weights, device)(value)


def make_encoder(
    model: Model, conditioner: str, weights: Path | None = None, device: str = "cpu"
) -> Callable[[Any], Condition]:
    """A function from inputs of a conditioner to conditions; the embedder is loaded once.

    Raises:
        UsageError: the model has another conditioner, or none.
        MissingError: the weights of the model's embedder do not exist.
        IntegrityError: they are not those of the training.
    """
    part = model.preset.condition
    if part is None or part.name != conditioner:
        module = conditioner_part(conditioner)
        options = " and ".join(f"`{option}`" for option in module.OPTIONS)
        raise UsageError(
            f"the model `{model.name}` is not conditioned on {module.NOUN}",
            hint=f"leave {options} out, or choose another `--run`",
        )
    load = partial(load_embedder, model, weights, device)
    return part.module.make_encoder(part.config, ModelEmbedder(model.name, weights, device, load))


def load_embedder(model: Model, weights: Path | None, device: str) -> Any:
    """The embedder that a model was trained with, with the weights in a folder.

    The default folder is the preset's, else that of `weights_folder`.

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
            f"the weights of `{name}` have the digest {embedder.digest[:16]}, and `{model.name}` was trained with "
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
    module, conditioner = part.module, model.method.conditioner
    is_computed = isinstance(conditioner, FrozenConditioner) and module.stored_features(part.config) is None
    if is_computed and not conditioner.is_ready:
        conditioner.use(load_embedder(model, None, str(next(model.method.parameters()).device)))
    own = module.required_conditions(part.config)
    names = (*model.domain.REQUIRED_CONDITIONS, *own)
    views = None
    if module.VIEWS is not None and own[0] in shards.conditions(split):
        views = (view + 0.5) / np.maximum(shards.view_counts(split, own[0])[list(indices)], 1)
    batch = shards.read(split, indices, conditions=ConditionSelection(names, views, own))
    return dict(model.domain.to_set(batch, torch.arange(len(indices))).condition)


def repeat_condition(condition: Condition, count: int) -> dict[str, torch.Tensor]:
    """A condition of one row, repeated to `count` rows."""
    return {name: value.expand(count, *value.shape[1:]) for name, value in condition.items()}


def condition_of_seeds(condition: Condition, seeds: Sequence[int]) -> dict[str, torch.Tensor]:
    """A row for each seed: row number `seed` modulo the number of rows, as seeds take classes."""
    count = len(next(iter(condition.values()), ()))
    if count <= 1:
        return repeat_condition(condition, len(seeds))
    rows = [seed % count for seed in seeds]
    return {name: value[rows] for name, value in condition.items()}
