"""The memory that drawing takes: how many pairs are answered at once, and what of them is kept for the next step.

A run makes one `Room` and hands it to every query. Where the memory does not suffice, what is kept is let go, then the
chunk is halved, and the run goes on: neither changes a sample beyond rounding.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from typing import Any

import torch
from jaxtyping import Float
from torch import Tensor

from inrflow_core.errors import OutOfMemory
from inrflow_core.runtime.memory import run_unless_oom
from inrflow_core.sets import Queries

CHUNK = 4096
"""Queries that are answered at once by default: 1.7 times as fast as 65,536 on a CPU, and bounds the memory."""
LEAST = 64
"""Queries below which a chunk is not halved: what they take is nothing beside the weights."""
MAX_CACHED_BYTES = 256 << 20
"""Bytes of embedded positions that are kept: those of 58,000 pixels of a decoder of width 1152, or 350,000 of 192."""
HELD = 2


class QueryBudget:
    """How many pairs are answered at once, and the embedded positions that all steps of a run share."""

    def __init__(
        self, chunk: int = CHUNK, *, kept: int = MAX_CACHED_BYTES, tell: Callable[[str], None] | None = None
    ) -> None:
        """`tell` is called once with what a person should know, where the memory did not suffice."""
        self.chunk, self.kept = chunk, kept
        self.batch: int | None = None
        """Most samples that fit together, once that was found out."""
        self._asked = chunk
        self._tell = tell
        self._held: list[Queries] = []
        self._embedded: dict[tuple[int, int, int, int], tuple[Any, Tensor]] = {}

    @staticmethod
    def of(chunk: int | QueryBudget) -> QueryBudget:
        """The room itself, or a new one for chunks of that size."""
        return chunk if isinstance(chunk, QueryBudget) else QueryBudget(chunk)

    def answer(self, total: int, sets: int, function: Callable[[slice], None]) -> None:
        """Call `function` with one run of queries after the other, of `chunk` pairs of all `sets` together.

        A run that did not fit into the memory is called again in smaller ones: `function` changes nothing before it is
        sure to end well, so that none is carried twice.

        Raises:
            OutOfMemory: not even `LEAST` pairs fit, or one of each set.
        """
        start = 0
        while start < total:
            part = slice(start, min(start + max(1, self.chunk // sets), total))
            if run_unless_oom(lambda part=part: function(part)):
                start = part.stop
            else:
                self._make_room((part.stop - part.start) * sets, sets)

    def embedded(self, network: Any, queries: Queries, part: slice) -> Float[Tensor, "*B M W"] | None:
        """What a network makes of the coordinates alone of a run of queries; None where they move, or have none.

        Kept for the steps to come as long as `kept` bytes suffice, and made anew beyond them.
        """
        if queries.coordinates is None:
            return None
        key = (id(network), id(queries.coordinates), part.start, part.stop)
        if key not in self._embedded:
            made = network.embed(queries[part])
            if self.bytes_kept() + made.numel() * made.element_size() > self.kept:
                return made
            self._embedded[key] = (network, made)  # the network too: another could get its number once it is gone
        return self._embedded[key][1]

    def hold(self, queries: Queries) -> Queries:
        """The same queries, as those that were held before where they have the same coordinates.

        The last `HELD` stay, a context and what is asked of it; what was kept of others goes.
        """
        if queries.coordinates is None:
            return queries
        for place, held in enumerate(self._held):
            if _same(held.coordinates, queries.coordinates):
                self._held.append(self._held.pop(place))
                return replace(queries, coordinates=held.coordinates)
        self._held = [*self._held[1 - HELD :], queries]
        known = {id(held.coordinates) for held in self._held}
        self._embedded = {key: made for key, made in self._embedded.items() if key[1] in known}
        return queries

    def halve_batch(self, batch: int) -> None:
        """So many samples did not fit together: from here on half of them, in chunks as large as at first.

        Raises:
            OutOfMemory: it was one.
        """
        self._embedded.clear()
        if batch == 1:
            raise OutOfMemory(
                "not enough memory to draw one sample, beside the weights",
                hint="take `--precision bf16`, fewer points or pixels, a smaller preset, or another `--device`",
            )
        self.batch, self.chunk = batch // 2, self._asked
        self.tell(f"out of memory at batch size {batch}; continuing with {self.batch} (the samples do not change)")

    def bytes_kept(self) -> int:
        """Bytes of what is kept."""
        return sum(made.numel() * made.element_size() for _, made in self._embedded.values())

    def tell(self, text: str) -> None:
        """Say something to the person, the first time that there is something to say."""
        if self._tell is not None:
            self._tell(text)
        self._tell = None

    def _make_room(self, pairs: int, sets: int) -> None:
        """What is kept goes first, then half of the chunk."""
        if self._embedded:
            self._embedded.clear()
            self.kept = 0
            self.tell("out of memory: positions are embedded again in each step (the samples do not change)")
            return
        if pairs <= max(LEAST, sets):
            raise OutOfMemory(
                f"not enough memory for {pairs:,} queries at once, beside the weights and the samples themselves",
                hint="take a smaller `--batch`, `--precision bf16`, fewer points or pixels, or another `--device`",
            )
        self.chunk = max(LEAST, min(self.chunk, pairs) // 2)
        self.tell(
            f"out of memory with {pairs:,} queries at once; continuing with `--chunk {self.chunk}` or less "
            f"(the samples do not change)"
        )


def _same(one: Tensor | None, other: Tensor | None) -> bool:
    if one is None or other is None or one is other:
        return one is other
    return one.shape == other.shape and one.device == other.device and torch.equal(one, other)
