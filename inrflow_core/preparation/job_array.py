"""Job arrays: the share of the shards that one of several runs of `prepare` makes."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TypeVar

from inrflow_core.errors import UsageError

LOCK = ".lock"
T = TypeVar("T")


@dataclass(frozen=True)
class ArrayTask:
    """One of `count` runs that make a data set together."""

    index: int
    """From 0 on."""
    count: int

    def __post_init__(self) -> None:
        if self.count < 1:
            raise UsageError(f"a job array of {self.count} pieces", hint="at least 1")
        if not 0 <= self.index < self.count:
            raise UsageError(
                f"`--array-index {self.index}`: there is no such run among {self.count}",
                hint=f"they are counted from 0 to {self.count - 1}",
            )

    def __str__(self) -> str:
        return f"{self.index}-of-{self.count}"

    @property
    def journal(self) -> str:
        """The name of its journal."""
        return f".journal-{self}.jsonl"

    @property
    def lock(self) -> str:
        """The name of its lock, which excludes a second run with the same index."""
        return f"{LOCK}-{self}"

    def of(self, all: Sequence[T]) -> Sequence[T]:
        """Its share: every `count`-th shard, so that large and small splits are divided alike."""
        return all[self.index :: self.count]
