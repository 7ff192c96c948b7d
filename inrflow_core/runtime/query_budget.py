"""Limit the memory of sampling: how many queries are evaluated at once, and which of their embeddings are cached.

A run makes one `QueryBudget` and passes it to every query. On an out-of-memory error it first drops the cache, then
halves the chunk, and continues: neither changes a sample beyond rounding.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from typing import Any

import torch
from torch import Tensor

from inrflow_core.errors import OutOfMemory
from inrflow_core.runtime.memory import run_unless_oom
from inrflow_core.sets import Queries

CHUNK = 4096
"""Default number of queries evaluated at once: 1.7 times as fast as 65,536 on a CPU, and it bounds the memory."""
MIN_CHUNK = 64
"""Smallest chunk: its memory is negligible beside the weights."""
MAX_CACHED_BYTES = 256 << 20
"""Limit of the cached position embeddings: 58,000 pixels of a decoder of width 1152, or 350,000 of width 192."""
MAX_INTERNED = 2
"""Query sets that are kept: a context, and the queries of its fields."""


class QueryBudget:
    """How many queries are evaluated at once, and the position embeddings that all steps of a run share."""

    def __init__(
        self, chunk: int = CHUNK, *, max_cached: int = MAX_CACHED_BYTES, warn: Callable[[str], None] | None = None
    ) -> None:
        """`warn` is called at most once, with a message about the first out-of-memory error."""
        self.chunk, self.max_cached = chunk, max_cached
        self.batch: int | None = None
        """Largest batch known to fit, after an out-of-memory error."""
        self._first_chunk = chunk
        self._warn = warn
        self._interned: list[Queries] = []
        self._embedded: dict[tuple[int, int, int, int], tuple[Any, Any]] = {}

    @staticmethod
    def from_chunk(chunk: int | QueryBudget) -> QueryBudget:
        """The budget itself, or a new one for chunks of that size."""
        return chunk if isinstance(chunk, QueryBudget) else QueryBudget(chunk)

    def run_in_chunks(self, total: int, sets: int, function: Callable[[slice], None], *, times: int = 1) -> None:
        """Call `function` with consecutive slices of `total` queries, `chunk` queries over all `sets` each, or `times` as many.

        A slice that does not fit into the memory is repeated in smaller ones; `times` is halved before the chunk is. `function` must change nothing before its
        last allocation, so that no query takes a step twice.

        Raises:
            OutOfMemory: not even `MIN_CHUNK` queries fit, or one of each set.
        """
        start = 0
        while start < total:
            part = slice(start, min(start + max(1, times * self.chunk // sets), total))
            if run_unless_oom(lambda part=part: function(part)):
                start = part.stop
            elif times > 1:
                times //= 2
            else:
                self._shrink((part.stop - part.start) * sets, sets)

    def embed_queries(self, network: Any, queries: Queries, part: slice) -> Any:
        """A network's embedding of the coordinates of a slice of queries; None for points without fixed coordinates.

        Cached for the next steps up to `max_cached` bytes, computed again beyond.
        """
        if queries.coordinates is None:
            return None
        key = (id(network), id(queries.coordinates), part.start, part.stop)
        if key not in self._embedded:
            embedding = network.embed(queries[part])
            if self.bytes_cached() + embedding.nbytes > self.max_cached:
                return embedding
            self._embedded[key] = (network, embedding)  # holds the network, so that its id is not reused
        return self._embedded[key][1]

    def intern_queries(self, queries: Queries) -> Queries:
        """The queries with the coordinate tensor of earlier ones that are equal, so that their embeddings are found.

        The last `MAX_INTERNED` query sets are kept; the embeddings of others are dropped.
        """
        if queries.coordinates is None:
            return queries
        for index, known in enumerate(self._interned):
            if _are_equal(known.coordinates, queries.coordinates):
                self._interned.append(self._interned.pop(index))
                return replace(queries, coordinates=known.coordinates)
        self._interned = [*self._interned[1 - MAX_INTERNED :], queries]
        ids = {id(known.coordinates) for known in self._interned}
        self._embedded = {key: entry for key, entry in self._embedded.items() if key[1] in ids}
        return queries

    def halve_batch(self, batch: int) -> None:
        """Halve the batch after `batch` samples did not fit together, and start again from the first chunk size.

        Raises:
            OutOfMemory: the batch was 1.
        """
        self._embedded.clear()
        if batch == 1:
            raise OutOfMemory(
                "not enough memory to draw one sample, beside the weights",
                hint="take `--precision bf16`, fewer points or pixels, a smaller preset, or another `--device`",
            )
        self.batch, self.chunk = batch // 2, self._first_chunk
        self.warn(f"out of memory at batch size {batch}; continuing with {self.batch} (the samples do not change)")

    def bytes_cached(self) -> int:
        """Bytes of the cached embeddings."""
        return sum(embedding.nbytes for _, embedding in self._embedded.values())

    def warn(self, text: str) -> None:
        """Report `text`, if it is the first warning of this budget."""
        if self._warn is not None:
            self._warn(text)
        self._warn = None

    def _shrink(self, pairs: int, sets: int) -> None:
        """Drop the cache, or halve the chunk if nothing is cached."""
        if self._embedded:
            self._embedded.clear()
            self.max_cached = 0
            self.warn("out of memory: positions are embedded again in each step (the samples do not change)")
            return
        if pairs <= max(MIN_CHUNK, sets):
            raise OutOfMemory(
                f"not enough memory for {pairs:,} queries at once, beside the weights and the samples themselves",
                hint="take a smaller `--batch`, `--precision bf16`, fewer points or pixels, or another `--device`",
            )
        self.chunk = max(MIN_CHUNK, min(self.chunk, pairs) // 2)
        self.warn(
            f"out of memory with {pairs:,} queries at once; continuing with `--chunk {self.chunk}` or less "
            f"(the samples do not change)"
        )


def _are_equal(one: Tensor | None, other: Tensor | None) -> bool:
    if one is None or other is None or one is other:
        return one is other
    return one.shape == other.shape and one.device == other.device and torch.equal(one, other)
