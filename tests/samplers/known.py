"""Problems whose velocity and whose answer are known in closed form."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from inrflow_core.numerics.paths import PATHS, Path

EVEN = {name: PATHS[name] for name in ("linear", "trigonometric")}
"""The paths on which equal steps are about equally hard; `scaled-linear` turns 38 times as fast at data as later."""


@dataclass(frozen=True)
class Mixture:
    """Data of which every number is drawn from a mixture of Gaussians; one component is a plain Gaussian."""

    weights: tuple[float, ...]
    means: tuple[float, ...]
    deviations: tuple[float, ...]

    def velocity(self, path: Path):
        """The exact velocity of the path from this data to noise: the mean over all lines through (y, t)."""

        def velocity(y: Tensor, t: Tensor) -> Tensor:
            alpha, sigma, alpha_dot, sigma_dot = (
                number(t).to(y.dtype).view(-1, 1, 1, 1)
                for number in (path.alpha, path.sigma, path.alpha_dot, path.sigma_dot)
            )
            weights, means, deviations = (torch.tensor(x, dtype=y.dtype) for x in self.tables())
            variance = alpha**2 * deviations**2 + sigma**2
            away = y[..., None] - alpha * means
            share = torch.softmax(weights.log() - variance.log() / 2 - away**2 / variance / 2, -1)
            data = means + alpha * deviations**2 / variance * away
            noise = sigma / variance * away
            return (share * (alpha_dot * data + sigma_dot * noise)).sum(-1)

        return velocity

    def tables(self) -> tuple[tuple[float, ...], ...]:
        """Weights, means and deviations of the components."""
        return self.weights, self.means, self.deviations

    def measured(self, y: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """Weights, means and deviations of the parts of `y` nearest to each component."""
        means = torch.tensor(self.means, dtype=y.dtype)
        nearest = (y.flatten()[:, None] - means).abs().argmin(-1)
        parts = [y.flatten()[nearest == k] for k in range(len(means))]
        count = [len(part) / y.numel() for part in parts]
        return torch.tensor(count), torch.stack([p.mean() for p in parts]), torch.stack([p.std() for p in parts])


GAUSSIAN = Mixture((1.0,), (0.0,), (0.5,))
MIXTURE = Mixture((0.3, 0.7), (-1.0, 0.8), (0.2, 0.3))


def normals(*shape: int, seed: int = 0, dtype: torch.dtype = torch.float32) -> Tensor:
    """Seeded standard normals."""
    return torch.randn(*shape, dtype=dtype, generator=torch.Generator().manual_seed(seed))
