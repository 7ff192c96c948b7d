"""Settings of `[data]`: which shards training reads, and how."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True)
class Config:
    """Which shards training reads."""

    path: str
    """Folder of shards, relative to the working folder; `--data` overrides it."""
    prepare: str | None = None
    """The command that makes these shards, for the hint where they are missing."""
    train: str = "train"
    """The training split."""
    held_out: str | None = None
    """The split of the held-out loss; None computes no held-out loss."""
    classes: tuple[str, ...] = ()
    """Only these classes, numbered in this order; empty takes all in their own order."""
    prefetch: int = 2
    """Micro-batches read ahead."""

    def __post_init__(self) -> None:
        if self.prefetch < 1:
            raise ValueError(f"`prefetch` is {self.prefetch}: at least 1")
        if len(set(self.classes)) != len(self.classes):
            raise ValueError(f"`classes` has a duplicate: {list(self.classes)}")
