"""Sample into shards: many samples, several processes, resumed after a kill."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from inrflow_core.errors import UsageError
from inrflow_core.models import Model
from inrflow_core.sample_files.sample_folder import SampleFolder
from inrflow_core.sample_files.sample_shard import SampleShard
from inrflow_core.sampling.provenance import shared_settings
from inrflow_core.sampling.request import SampleRequest
from inrflow_core.shards import shard_file
from inrflow_core.shards.schema import Header


def is_already_sampled(
    out: Path, request: SampleRequest, origin: Mapping[str, str], *, overwrite: bool = False
) -> bool:
    """Whether `out` holds the very samples of a request already.

    Raises:
        UsageError: it holds others, and `overwrite` is off.
        IntegrityError: it is damaged.
    """
    if not out.is_file():
        return False
    held = shard_file.ShardFile(out)
    labels = [-1] * len(request.seeds) if request.labels is None else list(request.labels)
    is_same = (
        held.header.settings == shared_settings(origin)
        and held.seeds is not None
        and held.seeds.tolist() == list(request.seeds)
        and held.labels.tolist() == labels
    )
    if not is_same and not overwrite:
        raise UsageError(
            f"`{out}` holds samples that were drawn otherwise", hint="add `--overwrite`, or choose another folder"
        )
    return is_same


def open_sample_shard(
    model: Model, request: SampleRequest, out: Path, origin: Mapping[str, str], *, overwrite: bool = False
) -> SampleShard:
    """The shard `out` for the samples of a request, begun or gone on with.

    Raises:
        UsageError: it is there already, or was begun with other settings.
    """
    told = _told(model, request, origin)
    return SampleShard.create_or_resume(out, list(request.seeds), **told, labels=request.labels, overwrite=overwrite)


def open_sample_folder(
    model: Model, request: SampleRequest, out: Path, origin: Mapping[str, str], *, overwrite: bool = False
) -> SampleFolder:
    """The folder `out` of shards for the samples of a request, begun or gone on with.

    Raises:
        UsageError: it holds something else, or was begun with other settings.
    """
    told = _told(model, request, origin)
    return SampleFolder.create_or_resume(out, request.seeds, **told, labels=request.labels, overwrite=overwrite)


def _told(model: Model, request: SampleRequest, origin: Mapping[str, str]) -> dict[str, Any]:
    """What a shard of a request's samples says of itself, and their shape and type."""
    spec = model.domain.output_spec(request.size)
    header = Header(
        domain=model.domain.NAME,
        dataset=f"samples of {model.preset.name}",
        split="samples",
        normalisation=model.info.get("normalisation") or {},
        classes=tuple(model.info.get("classes") or ()),
        settings=shared_settings(origin),
    )
    return {"header": header, "shape": spec.shape, "dtype": spec.dtype}


def rank_pieces(missing: Sequence[int], total: int, batch: int, *, rank: int = 0, size: int = 1) -> list[list[int]]:
    """The pieces of `total` samples that one of `size` processes draws, without what is there already.

    Pieces are cut from the whole list and not from what is missing, so that processes which start at different
    moments never take the same one.
    """
    wanted = set(missing)
    pieces = (range(start, min(start + batch, total)) for start in range(rank * batch, total, size * batch))
    return [left for piece in pieces if (left := [place for place in piece if place in wanted])]
