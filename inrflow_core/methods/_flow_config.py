"""Settings of flow matching."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Literal

from inrflow_core.methods._flow_sampling import check_guidance


@dataclass(frozen=True)
class Config:
    """Settings of `[method]` for training and sampling by flow matching."""

    path: Literal["linear", "trigonometric"] = "linear"
    """From data to noise; the papers' is linear."""
    time: Literal["uniform", "logit-normal"] = "uniform"
    """Density of t in training; the paper's is uniform, its authors' release draws logit-normal."""
    time_mean: float = 0.0
    """Mean of logit(t), for `logit-normal`."""
    time_std: float = 1.0
    """Standard deviation of logit(t), for `logit-normal`."""
    time_shift: float = 1.0
    """t becomes shift t / (1 + (shift - 1) t): above 1 moves times towards noise."""
    num_queries: int | None = None
    """Pairs decoded per set in training, drawn at random for each set; None decodes all."""
    query_positions: Literal["training", "anywhere"] = "training"
    """`anywhere` also trains between the pixels of a grid, with interpolated values (not in the papers)."""
    guidance: float = 1.0
    """Scale of classifier-free guidance in sampling; 1 is none."""
    guidance_interval: tuple[float, ...] = (0.0, 1.0)
    """Times between which guidance acts."""
    noise: Literal["linear", "cubic", "independent"] = "linear"
    """Interpolation of the noise between the training pixels; the papers' is independent at each position."""
    coupling: Literal["independent", "assignment", "blocked-assignment"] = "independent"
    """Which noise a point of a set without order is mixed with in training: any (the papers'), that of the permutation with the
    least sum of squared distances (`assignment`), or of one near it that takes less time for many points (not in the papers)."""
    align: Literal["none", "noise", "prediction"] = "none"
    """Superpose a structure, by rotation and shift, before the target is made: on the `noise` that it is mixed with, or on
    the data that the network's own answer predicts (SimpleFold; not in the paper)."""
    smooth_lddt: float = 0.0
    """Weight of 1 - smooth lDDT of the predicted structure, at every t; 0 leaves it out (SimpleFold has 1)."""
    smooth_lddt_ramp: float = 0.0
    """That weight becomes larger by this times (0.5 - t) where t is below 0.5 (8 in SimpleFold's schedule)."""
    noise_draws_per_example: int = 1
    """Times and noises drawn for each set in a step; its loss is their mean."""

    def __post_init__(self) -> None:
        if self.num_queries is not None and self.num_queries < 1:
            raise ValueError(f"`num_queries` is {self.num_queries}: at least 1, or leave it out to decode all")
        if self.time_std <= 0 or self.time_shift <= 0:
            raise ValueError("`time_std` and `time_shift` must be above 0")
        check_guidance(self.guidance, self.guidance_interval)
        for name in ("smooth_lddt", "smooth_lddt_ramp"):
            if not 0 <= getattr(self, name) < math.inf:
                raise ValueError(f"`{name}` is {getattr(self, name)}: 0 or more")
        if self.smooth_lddt_ramp > 0 and self.smooth_lddt == 0:
            raise ValueError(f"`smooth_lddt_ramp` is {self.smooth_lddt_ramp}, and `smooth_lddt`, which it raises, is 0")
        if self.noise_draws_per_example < 1:
            raise ValueError(f"`noise_draws_per_example` is {self.noise_draws_per_example}: at least 1")
        if self.noise_draws_per_example > 1 and self.coupling != "independent":
            raise ValueError(
                f"`noise_draws_per_example` is {self.noise_draws_per_example}, and `coupling` is `{self.coupling}`, which fits a set "
                "to one noise: leave one of them out"
            )
