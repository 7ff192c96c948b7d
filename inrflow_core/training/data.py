"""Open the shards that a preset trains on, and check that they fit it."""

from __future__ import annotations

from pathlib import Path

from inrflow_core.config.preset import Preset
from inrflow_core.domains._contract import domain_class
from inrflow_core.errors import MissingError, UsageError
from inrflow_core.numerics import keyed_random
from inrflow_core.shards import manifest
from inrflow_core.shards.shard_dataset import ShardDataset
from inrflow_core.storage.plain_file import did_you_mean_path
from inrflow_core.training import condition_features
from inrflow_core.training.loader import Loader

HELD_OUT = 1
"""Separates the seeds of the held-out loss from those of training."""


def open_data(preset: Preset, data: Path | None) -> tuple[Loader, Loader | None]:
    """The training data and the held-out data of a preset.

    Raises:
        MissingError: there are no shards; names the folder and the command that makes them.
        UsageError: the shards are of another domain or shape, have other classes than the preset, or lack a split.
    """
    config, settings = preset.data.config, preset.training.config
    shards = _open_shards(preset, Path(config.path) if data is None else data)
    if shards.domain != preset.domain.name:
        raise UsageError(
            f"the shards in `{shards.folder}` hold {domain_class(shards.domain).NOUN}, and the preset "
            f"`{preset.name}` learns {preset.domain.module.Domain.NOUN}",
            hint="give other shards with `--data`, or choose another preset",
        )
    domain = preset.domain.module.Domain(preset.domain.config)
    condition = preset.condition
    loader = Loader(
        shards, domain, config, split=config.train, seed=settings.seed, batch=settings.batch, condition=condition
    )
    _check_classes(preset, loader)
    condition_features.check(preset, loader)
    _check_shape(preset, loader)
    stage_settings = (settings, *map(settings.for_stage, settings.stages))
    intervals = [each.held_out_every for each in stage_settings if each.held_out_every]
    if not intervals:
        return loader, None
    if config.held_out is None:
        raise UsageError(
            f"[training] `held_out_every` is {intervals[0]}, and [data] names no split for that loss",
            hint=f"the shards have {', '.join(shards.splits)}: `--set data.held_out=NAME`",
        )
    if config.held_out not in shards.splits:
        raise UsageError(
            f"the shards in `{shards.folder}` have no split `{config.held_out}` for the held-out loss",
            hint=f"they have {', '.join(shards.splits)}: `--set data.held_out=NAME`, or `none` to go without",
        )
    held_out = Loader(
        shards,
        domain,
        config,
        split=config.held_out,
        seed=keyed_random.derive_seed(settings.seed, HELD_OUT),
        batch=1,
        condition=condition,
    )
    held_out.batch_size = min(settings.held_out_sets, len(held_out))
    return loader, held_out


def _open_shards(preset: Preset, folder: Path) -> ShardDataset:
    if not (folder / manifest.NAME).is_file():
        state = "it has no manifest.json" if folder.is_dir() else "it does not exist"
        command = preset.data.config.prepare or f"inrflow prepare {folder.name}"
        hint = f"make them with `{command}`, or name another place with `--data`"
        raise MissingError(
            f"looked for the shards of the preset `{preset.name}` in `{folder}`: {state}",
            hint=hint if folder == Path(preset.data.config.path) else did_you_mean_path(folder, hint),
        )
    return ShardDataset(folder)


def _check_classes(preset: Preset, loader: Loader) -> None:
    """Raise UsageError unless the data have as many classes as the preset's condition."""
    num_classes = len(loader.classes)
    part = preset.condition
    expected = None if part is None else part.module.num_classes(part.config)
    if expected is None:
        return
    if not num_classes:
        raise UsageError(
            f"the preset `{preset.name}` learns {expected} classes, and the shards in `{loader.shards.folder}` have none",
            hint="prepare them with classes, or choose a preset without [condition]",
        )
    if num_classes != expected:
        raise UsageError(
            f"the preset `{preset.name}` learns {expected} classes, and the shards in `{loader.shards.folder}` have {num_classes}",
            hint=f"`--set condition.classes={num_classes}`, or give other shards with `--data`",
        )


def _check_shape(preset: Preset, loader: Loader) -> None:
    """Raise UsageError unless a set of the data has the shape that the network is built for."""
    if not len(loader):
        raise UsageError(
            f"the split `{loader.split}` of the shards in `{loader.shards.folder}` is empty",
            hint="prepare it with examples",
        )
    shape = loader.domain.shape
    batch = loader.train_batch(loader.batch(0, range(1)))
    stored_shape = tuple(batch.context.values.shape[1:])
    if loader.domain.MAKES_STRUCTURES:  # as many atoms as the chain has
        return
    expected = shape.num_queries, shape.value_size
    if expected not in (stored_shape, tuple(batch.queries.values.shape[1:])):  # what is encoded may be of another kind
        raise UsageError(
            f"the sets in `{loader.shards.folder}` have {stored_shape[0]} pairs of {stored_shape[1]} numbers, and the preset "
            f"`{preset.name}` learns {shape.num_queries} of {shape.value_size}",
            hint="prepare the data in the preset's resolution, or give other shards with `--data`",
        )
