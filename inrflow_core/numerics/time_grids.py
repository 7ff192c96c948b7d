"""Times between data and noise: densities for training, grids for sampling."""

from __future__ import annotations

import torch
from jaxtyping import Float64
from torch import Tensor


def sample_times(
    density: str, u: Float64[Tensor, " B"], *, mean: float = 0.0, deviation: float = 1.0, shift: float = 1.0
) -> Float64[Tensor, " B"]:
    """Times in (0, 1) from uniform numbers: `uniform` (INRFlow, equation 4) or `logit-normal`.

    The logit of a `logit-normal` time has that mean and deviation; `shift` s then moves t to s t / (1 + (s - 1) t).
    """
    if density == "uniform":
        t = u
    else:
        t = torch.sigmoid(mean + deviation * torch.special.ndtri(u))
    return shift * t / (1 + (shift - 1) * t)


SPAN = 100.0
"""How many times as long the first step of the `log` spacing is as a step after the last would be."""


def spaced_times(steps: int, spacing: str, end: float = 0.0) -> Float64[Tensor, " T"]:
    """`steps` + 1 times from 1 down to `end`, both met exactly.

    `log`: logarithmic from 1 to 0.01, stretched so as to end at 0: t_k = (100^(-k/n) - 0.01) / 0.99. This is what the
    authors' release of SimpleFold (arXiv:2509.18480) does from noise to data, there with t = 1 at data.
    """
    if spacing == "equal":
        return torch.linspace(1, end, steps + 1, dtype=torch.float64)
    fallen = SPAN ** -torch.linspace(0, 1, steps + 1, dtype=torch.float64)
    times = end + (1 - end) * (fallen - 1 / SPAN) / (1 - 1 / SPAN)
    times[0], times[-1] = 1.0, end
    return times
