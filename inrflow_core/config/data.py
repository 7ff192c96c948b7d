"""Settings of `[data]`: which shards training reads, and how."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True)
class Config:
    """Which shards a model learns from."""

    path: str
    """Folder of shards, from the working folder; `--data` names another place."""
    prepare: str | None = None
    """The command that makes these shards, for the error that says they are absent."""
    train: str = "train"
    """The split to learn from."""
    held_out: str | None = None
    """The split of the held-out loss; None where there is none."""
    classes: tuple[str, ...] = ()
    """Only these classes, numbered in this order; empty takes all as they are."""
    prefetch: int = 2
    """Micro-batches read ahead."""

    def __post_init__(self) -> None:
        if self.prefetch < 1:
            raise ValueError(f"`prefetch` is {self.prefetch}: at least 1")
        if len(set(self.classes)) != len(self.classes):
            raise ValueError(f"`classes` names one twice: {list(self.classes)}")
