"""Paths from data (t = 0) to noise (t = 1): times on them, their velocities, and guidance of a velocity.

y_t = alpha(t) data + sigma(t) noise, and the velocity is dy/dt. INRFlow, section 3.2; the trigonometric path is that
of SiT (Ma et al. 2024, arXiv:2401.08740). `scaled-linear` is the schedule of latent diffusion (Rombach et al. 2022,
arXiv:2112.10752), which DDMI takes.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass

import torch
from jaxtyping import Float, Float64
from torch import Tensor

Rate = Callable[[Tensor], Tensor]


@dataclass(frozen=True)
class Path:
    """Weights of data and noise at t, and their derivatives."""

    alpha: Rate
    sigma: Rate
    alpha_dot: Rate
    sigma_dot: Rate


LINEAR = Path(lambda t: 1 - t, lambda t: t, lambda t: -torch.ones_like(t), torch.ones_like)
TRIGONOMETRIC = Path(
    lambda t: torch.cos(t * math.pi / 2),
    lambda t: torch.sin(t * math.pi / 2),
    lambda t: -math.pi / 2 * torch.sin(t * math.pi / 2),
    lambda t: math.pi / 2 * torch.cos(t * math.pi / 2),
)

SCHEDULE_STEPS = 1000
"""Steps of the schedule `scaled-linear`; step i, counted from 0, is at t = (i + 1) / 1000."""
FIRST_BETA, LAST_BETA = 0.0015, 0.0195
"""Variances of the noise that the first and the last step add; their square roots are evenly spaced."""


def _schedule_angle(t: Tensor) -> Tensor:
    """The angle whose cosine is alpha: `arccos sqrt(product of 1 - beta)` of the steps up to t, continued between them.

    With sqrt(beta_i) = a + d i the product of (1 - a - d i) (1 + a + d i) over k steps is a ratio of gamma functions, defined
    for every k >= 0. The angle of the first step is continued in proportion: that of the product would leave 0 with an
    infinite rate.
    """
    log_product = _log_product((SCHEDULE_STEPS * t).clamp(min=1))
    angle = torch.atan2((-torch.expm1(log_product)).sqrt(), (log_product / 2).exp())
    return angle * (SCHEDULE_STEPS * t).clamp(max=1)


def _schedule_rate(t: Tensor) -> Tensor:
    """The derivative of the angle."""
    k = (SCHEDULE_STEPS * t).clamp(min=1)
    start, step = _schedule_roots()
    angle = _schedule_angle(k / SCHEDULE_STEPS)
    log_rate = 2 * math.log(step) + torch.digamma((1 + start) / step + k) + torch.digamma((1 - start) / step + 1 - k)
    rate = -log_rate / 2 / torch.tan(angle)
    return SCHEDULE_STEPS * torch.where(SCHEDULE_STEPS * t < 1, angle, rate)


def _log_product(k: Tensor) -> Tensor:
    """The logarithm of the product of 1 - beta over the first k steps."""
    start, step = _schedule_roots()
    rising, falling = (1 + start) / step, (1 - start) / step + 1
    constant = math.lgamma(falling) - math.lgamma(rising)
    return 2 * math.log(step) * k + torch.lgamma(rising + k) - torch.lgamma(falling - k) + constant


def _schedule_roots() -> tuple[float, float]:
    """sqrt(beta) of the first step, and its growth per step."""
    start = math.sqrt(FIRST_BETA)
    return start, (math.sqrt(LAST_BETA) - start) / (SCHEDULE_STEPS - 1)


SCALED_LINEAR = Path(
    lambda t: torch.cos(_schedule_angle(t)),
    lambda t: torch.sin(_schedule_angle(t)),
    lambda t: -_schedule_rate(t) * torch.sin(_schedule_angle(t)),
    lambda t: _schedule_rate(t) * torch.cos(_schedule_angle(t)),
)
"""At t = 1 alpha is 0.0119: a trace of the data is left."""
PATHS = {"linear": LINEAR, "trigonometric": TRIGONOMETRIC, "scaled-linear": SCALED_LINEAR}


def interpolate(
    path: Path, data: Float[Tensor, "B N C"], noise: Float[Tensor, "B N C"], t: Float[Tensor, " B"]
) -> tuple[Float[Tensor, "B N C"], Float[Tensor, "B N C"]]:
    """The point at time t between data and noise, and its velocity there.

    INRFlow, equation 1; for the linear path the velocity is `noise - data`. The paper writes it below equation 4 as
    (noise - y_t) / (1 - t), which is the same and needs no t below 1 here.
    """
    alpha, sigma, alpha_dot, sigma_dot = _at(path, t, data)
    return alpha * data + sigma * noise, alpha_dot * data + sigma_dot * noise


def recover_data_and_noise(
    path: Path, velocity: Float[Tensor, "B N C"], y: Float[Tensor, "B N C"], t: Float[Tensor, " B"]
) -> tuple[Float[Tensor, "B N C"], Float[Tensor, "B N C"]]:
    """The data and the noise that a point and its velocity determine: the inverse of `interpolate`."""
    alpha, sigma, alpha_dot, sigma_dot = _at(path, t, y)
    determinant = alpha * sigma_dot - sigma * alpha_dot
    data = (sigma_dot * y - sigma * velocity) / determinant
    noise = (alpha * velocity - alpha_dot * y) / determinant
    return data, noise


def velocity_of_noise(
    path: Path, noise: Float[Tensor, "B N C"], y: Float[Tensor, "B N C"], t: Float[Tensor, " B"]
) -> Float[Tensor, "B N C"]:
    """The velocity at a point whose noise is known; alpha(t) must be above 0."""
    alpha, sigma, alpha_dot, sigma_dot = _at(path, t, y)
    return alpha_dot / alpha * (y - sigma * noise) + sigma_dot * noise


def score(
    path: Path, velocity: Float[Tensor, "B N C"], y: Float[Tensor, "B N C"], t: Float[Tensor, " B"]
) -> Float[Tensor, "B N C"]:
    """The gradient of the log density at (y, t): minus the expected noise over sigma; t must be above 0."""
    _, noise = recover_data_and_noise(path, velocity, y, t)
    return -noise / _at(path, t, y)[1]


def _at(path: Path, t: Float[Tensor, " B"], like: Float[Tensor, "B N C"]) -> list[Tensor]:
    """The path's four numbers at t, computed in float64, of `like`'s type and rank."""
    t = t.double()
    numbers = (path.alpha(t), path.sigma(t), path.alpha_dot(t), path.sigma_dot(t))
    return [number.to(like.dtype)[:, None, None] for number in numbers]


def sample_times(
    density: str, u: Float64[Tensor, " B"], *, mean: float = 0.0, deviation: float = 1.0, shift: float = 1.0
) -> Float64[Tensor, " B"]:
    """Times in (0, 1) from uniform numbers: `uniform` (INRFlow, equation 4), `logit-normal`, or `steps` in (0, 1].

    The logit of a `logit-normal` time has that mean and deviation; `shift` s then moves t to s t / (1 + (s - 1) t). `steps`
    rounds uniform times up to the thousand steps of `scaled-linear`.
    """
    t = torch.sigmoid(mean + deviation * torch.special.ndtri(u)) if density == "logit-normal" else u
    t = shift * t / (1 + (shift - 1) * t)
    return (SCHEDULE_STEPS * t).ceil() / SCHEDULE_STEPS if density == "steps" else t


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


def trailing_times(steps: int) -> Float64[Tensor, " T"]:
    """`steps` + 1 times from 1 to 0, rounded to steps of `scaled-linear`: of 50, its steps 999, 979, ... 19, and the data.

    This is the spacing `trailing` of the library diffusers, DDMI's.
    """
    ends = torch.arange(steps, -1, -1, dtype=torch.float64) * (SCHEDULE_STEPS / steps)
    return ends.round() / SCHEDULE_STEPS


def guided_velocity(
    conditional: Float[Tensor, "B M C"],
    unconditional: Float[Tensor, "B M C"],
    scale: float,
    t: Float[Tensor, " B"],
    interval: Sequence[float] = (0.0, 1.0),
) -> Float[Tensor, "B M C"]:
    """`unconditional + scale (conditional - unconditional)` where t is in the interval (ends included), else `conditional`.

    With the unconditional velocity this is classifier-free guidance (Ho and Salimans 2022,
    arXiv:2207.12598; in an interval: Kynkaanniemi et al. 2024, arXiv:2404.07724), with a weaker model's in its place it is
    autoguidance (Karras et al. 2024, arXiv:2406.02507). With scale 1 there is no guidance.
    """
    if scale == 1:
        return conditional
    low, high = interval
    inside = ((t >= low) & (t <= high)).view(-1, 1, 1)
    return torch.where(inside, unconditional + scale * (conditional - unconditional), conditional)
