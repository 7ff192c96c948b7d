"""The archives that StyleGAN and EDM train from: square PNGs and `dataset.json` with their labels."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from inrflow_core.datasets import _archives, _image_decoding
from inrflow_core.datasets._archives import Entry
from inrflow_core.datasets._contract import DatasetIndex
from inrflow_core.errors import IntegrityError
from inrflow_core.storage import typed_json

INDEX = "dataset.json"
MOST_CLASSES = 1 << 16
"""A larger label is an error: memory follows the largest."""


def edm_plan(entries: Sequence[Entry], resolution: int) -> DatasetIndex | None:
    """The index of such an archive, all of it `train`; None if the files have no `dataset.json`.

    Raises:
        IntegrityError: `dataset.json` is malformed.
    """
    index = next((entry for entry in entries if entry.name.rpartition("/")[2] == INDEX), None)
    if index is None:
        return None
    inside = _archives.below(_archives.images(entries), index.name.removesuffix(INDEX))
    labels = _labels(index)
    unknown = [entry.name for entry in inside if labels and entry.name not in labels]
    if unknown:
        raise IntegrityError(f"`{INDEX}` has no label for `{unknown[0]}`", hint="make the archive again")
    count = max(labels.values(), default=-1) + 1
    items = [_image_decoding.item(entry, labels.get(entry.name, -1)) for entry in inside]
    sources = [(entry.name, entry.size) for entry in [*inside, index._replace(name=INDEX)]]
    return _image_decoding.plan(
        {"train": items}, resolution, classes=[str(number) for number in range(count)], sources=sources
    )


def _labels(index: Entry) -> dict[str, int]:
    try:
        table: Any = typed_json.parse_json(index.location.read(), f"`{INDEX}`", hint="make the archive again")
        labels = {str(name): int(number) for name, number in table["labels"] or []}
    except (ValueError, KeyError, TypeError, OverflowError) as error:
        raise IntegrityError(
            f"`{INDEX}` is not a list of names and labels: {error!r}", hint="make the archive again"
        ) from error
    if any(not 0 <= number < MOST_CLASSES for number in labels.values()):
        raise IntegrityError(
            f"`{INDEX}` holds a label that is not from 0 to {MOST_CLASSES - 1:,}", hint="make it again"
        )
    return labels
