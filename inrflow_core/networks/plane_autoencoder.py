"""An autoencoder between images and basis fields: planes of features at several resolutions (DDMI, section 3.2).

The encoder reads an image and leaves a Gaussian for each cell of a smaller plane; the decoder makes of a plane of latents
one field of features for each of its levels, from coarse to fine (the paper's hierarchically decomposed basis fields).
"""

from __future__ import annotations

from dataclasses import dataclass

from jaxtyping import Float
from torch import Tensor, nn

from inrflow_core.errors import UsageError
from inrflow_core.networks._contract import ReadoutState
from inrflow_core.networks._plane_networks import Decoder, Encoder, PlaneSizes
from inrflow_core.networks._planes import IMAGE
from inrflow_core.sets import Grid, SetSpec


@dataclass(frozen=True)
class Config(PlaneSizes):
    """Sizes of the autoencoder; the defaults are those of the paper's model of AFHQ at 256 x 256."""


def field_shapes(config: Config, spec: SetSpec) -> list[tuple[int, int, int]]:
    """Channels, rows and columns of each basis field, from coarse to fine."""
    assert isinstance(spec.layout, Grid)
    return config.field_shapes(IMAGE, *spec.layout.shape)


def build_autoencoder(config: Config, spec: SetSpec) -> PlaneAutoencoder:
    """The autoencoder for images.

    Raises:
        UsageError: the sets are no images, or their sides are not multiples of a cell's.
    """
    if not isinstance(spec.layout, Grid) or len(spec.layout.shape) != 2:
        raise UsageError(
            f"`plane-autoencoder` reads images, and these sets are {spec.layout}",
            hint='take `name = "image"` in [domain], or `triplane-autoencoder` for shapes',
        )
    if any(side % config.factor for side in spec.layout.shape):
        raise UsageError(
            f"{len(config.multipliers)} levels halve the resolution {len(config.multipliers) - 1} times, and "
            f"{' x '.join(map(str, spec.layout.shape))} is not divisible by {config.factor}",
            hint="take fewer `multipliers` in [network.autoencoder], or another resolution",
        )
    return PlaneAutoencoder(config, spec)


class PlaneAutoencoder(nn.Module):
    """Encoder and decoder of one plane."""

    def __init__(self, config: Config, spec: SetSpec) -> None:
        super().__init__()
        assert isinstance(spec.layout, Grid)
        self.config, self.grid = config, spec.layout.shape
        cells = (self.grid[0] // config.factor, self.grid[1] // config.factor)
        self.latent_spec = SetSpec(2, config.latent_channels, Grid(cells))
        self.encoder = Encoder(config, spec.value_size, IMAGE)
        self.decoder = Decoder(config, IMAGE)

    def encode(self, values: Float[Tensor, "B N C"]) -> tuple[Float[Tensor, "B K E"], Float[Tensor, "B K E"]]:
        """Mean and standard deviation of the latents of images whose pixels are listed row by row."""
        mean, std = self.encoder(values.mT.unflatten(2, self.grid)[:, None])
        return mean[:, 0].flatten(2).mT, std[:, 0].flatten(2).mT

    def decode(self, latents: Float[Tensor, "B K E"]) -> ReadoutState:
        """The basis fields (B, F, H, W) of latents, from coarse to fine."""
        assert isinstance(self.latent_spec.layout, Grid)
        return self.decoder(latents.mT.unflatten(2, self.latent_spec.layout.shape)[:, None])
