"""Settings of `[eval]`: metrics computed while a run trains."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True)
class Config:
    """How a model is evaluated while it trains."""

    every: int
    """Steps between two evaluations; the last step is always evaluated."""
    metrics: tuple[str, ...] = ()
    """As for `inrflow eval --metrics`; empty takes the domain's metrics that need no weights."""
    num: int = 256
    """Number of samples, by the first EMA with the preset's sampler and guidance. For conditional models: the number of
    images or sequences of `split`, evenly spaced."""
    seed: int = 0
    """Seed of the first sample; the others count up. For models of sequences: the seed of every structure."""
    split: str | None = None
    """Reference split; None is the training split for images, the held-out split for point clouds."""
    reference: int | None = None
    """Number of items of that split, evenly spaced; None takes all."""
    best: str | None = None
    """The metric that decides the best checkpoint; None is the first."""
    weights: str | None = None
    """Folder with the weights of feature networks."""

    def __post_init__(self) -> None:
        for name, least in {"every": 1, "num": 2, "reference": 2, "seed": 0}.items():
            value = getattr(self, name)
            if value is not None and value < least:
                raise ValueError(f"`{name}` is {value}: it must be at least {least}")
        if self.seed + self.num > 2**63:
            raise ValueError(f"`seed` is {self.seed}: the last sample's would be above 2^63 - 1")
