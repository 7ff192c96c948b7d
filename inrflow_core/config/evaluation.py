"""Settings of `[eval]`: metrics computed while a run trains."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True)
class Config:
    """How a model is judged while it is trained."""

    every: int
    """Steps between two evaluations; the last step is always evaluated."""
    metrics: tuple[str, ...] = ()
    """As `inrflow eval --metrics` takes them; empty takes those of the domain that need no weights."""
    num: int = 256
    """Samples, drawn by the first average with the preset's sampler and guidance; from so many pictures or sequences of
    `split`, evenly spread, where the model draws from them."""
    seed: int = 0
    """Of the first sample; the others count up. Of every structure, where the model folds sequences."""
    split: str | None = None
    """Of the data, to judge by; None is the training split for images, the held-out one for clouds."""
    reference: int | None = None
    """Items of that split, evenly spread; None takes all."""
    best: str | None = None
    """The metric by which the best checkpoint is kept; None is the first."""
    weights: str | None = None
    """Folder with the weights of feature networks."""

    def __post_init__(self) -> None:
        for name, least in {"every": 1, "num": 2, "reference": 2, "seed": 0}.items():
            value = getattr(self, name)
            if value is not None and value < least:
                raise ValueError(f"`{name}` is {value}: it must be at least {least}")
        if self.seed + self.num > 2**63:
            raise ValueError(f"`seed` is {self.seed}: the last sample's would be above 2^63 - 1")
