"""Text2Shape: descriptions of the models of ShapeNet, beside their occupancies in the layout of Occupancy Networks.

The table of descriptions is a CSV with the columns `modelId`, `description` and `category`; others are not read. A model may
have several descriptions, and one without any is left out.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import NamedTuple

from inrflow_core.datasets import _descriptions, _mesh_reading, _occupancies, _occupancy_lists, _text2shape_table
from inrflow_core.datasets._contract import DatasetIndex, Example, Item, LeftOutCounter, source_not_found
from inrflow_core.feature_networks._contract import MAX_TEXT_TOKENS
from inrflow_core.storage.source_files import fingerprint

DOMAIN = "shape"
NEEDS_SOURCE = True
IS_READ_BY_SCAN = False
DESCRIPTION = (
    "<category>/<model>/{points.npz,pointcloud.npz} with train.lst, val.lst and test.lst (Occupancy Networks), and a .csv of "
    "descriptions (modelId, description, category) -> occupancies with texts"
)
UNDESCRIBED = "`captions`, without a description,"
SHOWN = 5
"""Names in a note."""


@dataclass(frozen=True)
class Config:
    """The table of descriptions and its embedder, categories and numbers of points."""

    captions: str | None = field(default=None, metadata={"is_path": True})
    """The CSV of descriptions. Default: the one directly below the source."""
    categories: tuple[str, ...] = ()
    """Names or folders of categories, as in ["chair", "table"]. Empty takes those that the table names."""
    points: int | None = None
    """Surface points of each shape, with normals. Default: all in the files."""
    queries: int | None = None
    """Query points of each shape. Default: all in the files."""
    embedder: str = "clip-text"
    """The network that encodes the descriptions; `words` is a placeholder without weights."""
    weights: str | None = field(default=None, metadata={"is_path": True})
    """Folder of the embedder's weights. Default: `weights/NAME`."""

    def __post_init__(self) -> None:
        _occupancies.check_counts(self.points, self.queries)
        _descriptions.check(self.embedder)


class Location(NamedTuple):
    """A shape and its descriptions."""

    shape: _occupancy_lists.Location
    texts: tuple[str, ...]


def scan(source: Path, config: Config) -> DatasetIndex:
    """The described models that the lists name, in the order of categories and lists.

    Raises:
        MissingError: there are no lists, no table, or not the selected categories; the embedder's weights are missing.
        UsageError: several tables.
        IntegrityError: the table, a list or `metadata.yaml` is damaged.
    """
    normalization = _descriptions.origin(config)
    folder, files = _mesh_reading.list_source(source)
    tree = _occupancy_lists.find_tree(folder, files) if source.is_dir() else None
    if tree is None:
        raise source_not_found(
            "text2shape", source, "`<category>/train.lst` beside `<category>/<model>/points.npz`, and a .csv", files
        )
    table = _text2shape_table.read(_text2shape_table.find(source, files, config.captions))
    categories = config.categories or _text2shape_table.categories(
        table, tree.root, list(_occupancy_lists.titles_of(tree).values())
    )
    whole = _occupancy_lists.scan(folder, files, tree, categories, (config.points, config.queries))
    left_out = LeftOutCounter()
    seen: set[str] = set()
    splits = {split: _described(items, table, left_out, seen) for split, items in whole.splits.items()}
    mean = sum(len(table.texts[model]) for model in seen) / max(len(seen), 1)
    return replace(
        whole,
        splits={split: items for split, items in splits.items() if items},
        fingerprint=fingerprint([("shapes " + whole.fingerprint.digest, whole.fingerprint.bytes), table.identity]),
        normalization={**whole.normalization, **normalization},
        condition_bytes=whole.condition_bytes + _descriptions.condition_bytes(config, mean),
        left_out=left_out.counts,
        notes=(*whole.notes, *table.notes, *_notes(table, seen, config)),
    )


def read(item: Item, config: Config) -> Example:
    """One shape with its descriptions; raises UnreadableItemError as `_occupancy_lists.read`."""
    location: Location = item.location
    example = _occupancy_lists.read(item._replace(location=location.shape))
    return replace(example, variable_length=_descriptions.conditions(location.texts, config))


def _described(
    items: Sequence[Item], table: _text2shape_table.Table, left_out: LeftOutCounter, seen: set[str]
) -> list[Item]:
    """The items that have a description, with them; the others are counted, and the models added to `seen`."""
    found: list[Item] = []
    for item in items:
        model = item.name.rpartition("/")[2]
        if model in table.texts:
            seen.add(model)
            found.append(item._replace(location=Location(item.location, table.texts[model])))
        else:
            left_out.add(UNDESCRIBED, item.name)
    return found


def _notes(table: _text2shape_table.Table, seen: set[str], config: Config) -> list[str]:
    """What is not used of the table: models that no list names, and the ends of long descriptions."""
    alone = [model for model in table.texts if model not in seen]
    notes = [f"models of the table in no list: {len(alone):,} ({_shown(alone)})"] if alone else []
    cut = [model for model in sorted(seen) for text in table.texts[model] if _descriptions.is_cut(text, config)]
    if cut:
        notes.append(f"descriptions of more than {MAX_TEXT_TOKENS} tokens, cut there: {len(cut):,} (of {_shown(cut)})")
    return notes


def _shown(names: Sequence[str]) -> str:
    return ", ".join(f"`{name}`" for name in names[:SHOWN]) + (", ..." if len(names) > SHOWN else "")
