"""A cache bounded by bytes: what was not used for the longest time leaves first."""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Callable, Hashable, KeysView
from typing import Generic, TypeVar

Value = TypeVar("Value")


class ByteCache(Generic[Value]):
    """Values by key, at most `limit` bytes in all; the newest stays whatever its size."""

    def __init__(self, limit: int, size: Callable[[Value], int]) -> None:
        self.limit = limit
        self._size = size
        self._values: OrderedDict[Hashable, tuple[Value, int]] = OrderedDict()

    @property
    def num_bytes(self) -> int:
        """Bytes of all values."""
        return sum(size for _, size in self._values.values())

    def __len__(self) -> int:
        return len(self._values)

    def __contains__(self, key: Hashable) -> bool:
        return key in self._values

    def keys(self) -> KeysView[Hashable]:
        """The keys, the one that leaves first at first."""
        return self._values.keys()

    def get(self, key: Hashable) -> Value | None:
        """The value of a key, which is then the last to leave; None if it is absent."""
        if key not in self._values:
            return None
        self._values.move_to_end(key)
        return self._values[key][0]

    def add(self, key: Hashable, value: Value) -> None:
        """Add a value, and drop those that were not used for the longest time until all fit."""
        self._values.pop(key, None)
        self._values[key] = value, self._size(value)
        while self.num_bytes > self.limit and len(self._values) > 1:
            self._values.popitem(last=False)

    def drop(self, is_dropped: Callable[[Value], bool]) -> None:
        """Drop the values that are selected."""
        for key, (value, _) in list(self._values.items()):
            if is_dropped(value):
                del self._values[key]
