"""What a user should know of prepared items: why some were skipped, and notes."""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from inrflow_core.datasets._contract import DatasetIndex
from inrflow_core.shards.manifest import Skipped

MOST_NAMED = 5
"""Classes without items that a note names."""
VARYING = re.compile(r"`[^`]*`|[-0-9.,]+")
"""What differs between reasons for skipping items that are alike: numbers and names."""


@dataclass(frozen=True)
class SkipReason:
    """Items that were skipped for one reason, apart from numbers and names in it."""

    count: int
    reason: str
    """Of the first item."""
    first: str
    """The name of the first item."""


def skip_reasons(skipped: Sequence[Skipped]) -> list[SkipReason]:
    """The reasons with their counts, the most frequent first."""
    alike: dict[str, list[Skipped]] = {}
    for item in skipped:
        alike.setdefault(VARYING.sub("", item.reason), []).append(item)
    groups = sorted(alike.values(), key=len, reverse=True)
    return [SkipReason(len(items), items[0].reason, items[0].name) for items in groups]


def on_share(config: Any, plan: DatasetIndex) -> list[str]:
    """What a user should know of a share of items that holds out none, as of a few items it may."""
    share, total = getattr(config, "val", None), sum(map(len, plan.splits.values()))
    if (
        not isinstance(share, float)
        or share == 0
        or {name for name, items in plan.splits.items() if items} != {"train"}
    ):
        return []
    return [
        f"no item is held out: the share `val={share:g}` of {total:,} items has none, for items are selected by their content; "
        "`--set val=0.3` takes a larger share"
    ]


def on_empty_classes(plan: DatasetIndex) -> list[str]:
    """What a user should know of classes without items in the training split, of data that have labels."""
    labels = {item.label for item in plan.splits.get("train", ())}
    empty = [name for number, name in enumerate(plan.classes) if number not in labels]
    if not empty or labels <= {-1}:
        return []
    names = ", ".join(f"`{name}`" for name in empty[:MOST_NAMED]) + (", ..." if len(empty) > MOST_NAMED else "")
    return [f"{len(empty):,} of {len(plan.classes):,} classes have no items in `train`: {names}"]


def on_remarks(records: Iterable[Mapping[str, Any]]) -> list[str]:
    """What a user should know of how the items of some shards were made, with the number of items; nothing of earlier, finished runs."""
    counts: Counter[str] = Counter()
    for record in records:
        counts.update(record.get("remarks", {}))
    return [
        f"{count:,} item{'s' if count > 1 else ''} {'are' if count > 1 else 'is'} {text}"
        for text, count in counts.items()
    ]
