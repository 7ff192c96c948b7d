"""A network that only tests have: it averages embedded rays, and predicts the values of other rays from the average."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from jaxtyping import Float
from torch import Tensor, nn

from inrflow_core.sets import Queries, SetSpec


@dataclass(frozen=True)
class Config:
    """Settings of `[network]`."""

    width: int


class Network(nn.Module):
    """A perceptron on either side of the average."""

    def __init__(self, config: Config, spec: SetSpec) -> None:
        super().__init__()
        width, ray_size = config.width, 2 * spec.coordinate_size
        self.encoder = nn.Sequential(nn.Linear(ray_size + spec.value_size, width), nn.SiLU(), nn.Linear(width, width))
        self.decoder = nn.Sequential(nn.Linear(ray_size + width, width), nn.SiLU(), nn.Linear(width, spec.value_size))

    def forward(self, context: Queries, values: Float[Tensor, "B N C"], queries: Queries) -> Float[Tensor, "B M C"]:
        """Values along `queries`, from those along the rays of `context`."""
        latent = self.encoder(torch.cat([_rays(context), values], -1)).mean(1, keepdim=True)
        rays = _rays(queries)
        return self.decoder(torch.cat([rays, latent.expand(-1, rays.shape[1], -1)], -1))


def _rays(queries: Queries) -> Float[Tensor, "B N 6"]:
    assert queries.coordinates is not None and queries.directions is not None
    return torch.cat([queries.coordinates, queries.directions], -1)


def build(config: Config, spec: SetSpec) -> Network:
    """The network of a preset."""
    return Network(config, spec)
