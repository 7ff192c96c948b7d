"""Steps that estimate the data and their noise, and put them together again at a later time.

Source of the form: DDIM (Song et al. 2021, arXiv:2010.02502, equation 12), for any path: with the estimates of data and noise
from the velocity at t, y at s is `alpha(s) data + old noise + fresh z`, where old^2 + fresh^2 = sigma(s)^2.
"""

from __future__ import annotations

import torch
from jaxtyping import Float, Float64
from torch import Tensor

from inrflow_core.numerics import paths
from inrflow_core.numerics.paths import SCHEDULE_STEPS, Path


def check_steps(steps: int) -> None:
    """Raise ValueError unless the schedule has this number of steps."""
    if not 1 <= steps <= SCHEDULE_STEPS:
        raise ValueError(f"`steps` is {steps}: from 1 to {SCHEDULE_STEPS}")


def recompose(
    path: Path,
    slope: Float[Tensor, "B N C"],
    y: Float[Tensor, "B N C"],
    t: Float64[Tensor, " B"],
    t_next: Float64[Tensor, " B"],
    old: Float64[Tensor, " B"],
    z: Float[Tensor, "B N C"] | None = None,
) -> Float[Tensor, "B N C"]:
    """y at t_next, from its velocity `slope` at t.

    Args:
        old: the weight of the estimated noise, at most sigma(t_next).
        z: standard normals, which fill up the noise's variance; None where `old` is all of it.
    """
    data, noise = paths.recover_data_and_noise(path, slope, y, t)
    fresh = (path.sigma(t_next).square() - old.square()).clamp(min=0).sqrt()
    # The change is added to y, so that a step of no length changes nothing.
    more_data, more_noise, fresh = (
        number.to(y.dtype).view(-1, 1, 1) for number in (path.alpha(t_next) - path.alpha(t), old - path.sigma(t), fresh)
    )
    moved = y + more_data * data + more_noise * noise
    return moved if z is None else moved + torch.where(fresh > 0, fresh * z, 0.0)
