"""An autoencoder between the values of a grid and basis fields: planes of features at several resolutions (DDMI, section 3.2).

The encoder reads an image and leaves a Gaussian for each cell of a smaller plane; the decoder makes of a plane of latents
one field of features for each of its levels, from coarse to fine (the paper's hierarchically decomposed basis fields).
Source of the layers: the autoencoder of latent diffusion (Rombach et al. 2022, arXiv:2112.10752).
"""

from __future__ import annotations

from dataclasses import dataclass

from jaxtyping import Float
from torch import Tensor, nn
from torch.nn import functional

from inrflow_core.errors import UsageError
from inrflow_core.layers.convolution import CellAttention, Downsample, ResidualBlock, Upsample, norm
from inrflow_core.networks._contract import ReadoutState
from inrflow_core.sets import Grid, SetSpec

LOG_VARIANCES = (-30.0, 20.0)
"""Range that logarithms of variances are clamped to."""


@dataclass(frozen=True)
class Config:
    """Sizes of the autoencoder; the defaults are those of the paper's model of AFHQ at 256 x 256."""

    width: int = 128
    """Channels at the full resolution."""
    multipliers: tuple[int, ...] = (1, 2, 4)
    """Channels of each level in units of `width`, from fine to coarse; each level after the first halves the resolution."""
    depth: int = 2
    """Residual blocks of a level of the encoder; the decoder has one more."""
    latent_channels: int = 64
    """Channels of the latents."""
    hidden_channels: int = 128
    """Channels between the networks and the latents: the encoder leaves twice as many, mean and logarithm of the variance."""
    field_channels: int = 64
    """Channels of each basis field."""
    fields: int | None = None
    """How many of the finest levels have a basis field; None: all. With 1 there is no hierarchy (the paper's table 8)."""

    def __post_init__(self) -> None:
        for name in ("width", "depth", "latent_channels", "hidden_channels", "field_channels"):
            if getattr(self, name) < 1:
                raise ValueError(f"`{name}` is {getattr(self, name)}: at least 1")
        if not self.multipliers or min(self.multipliers) < 1:
            raise ValueError(f"`multipliers` is {list(self.multipliers)}: at least one, each 1 or more")
        if self.fields is not None and not 1 <= self.fields <= len(self.multipliers):
            raise ValueError(f"`fields` is {self.fields}: from 1 to the number of levels, {len(self.multipliers)}")

    @property
    def num_fields(self) -> int:
        """Basis fields."""
        return len(self.multipliers) if self.fields is None else self.fields

    @property
    def least_weights(self) -> int:
        """A lower bound on the number of weights."""
        return sum(9 * self.depth * (self.width * multiplier) ** 2 for multiplier in self.multipliers)

    @property
    def factor(self) -> int:
        """Pixels along a side of a cell of the latents."""
        return 2 ** (len(self.multipliers) - 1)


def field_shapes(config: Config, spec: SetSpec) -> list[tuple[int, int, int]]:
    """Channels, rows and columns of each basis field, from coarse to fine."""
    assert isinstance(spec.layout, Grid)
    rows, columns = spec.layout.shape
    halvings = reversed(range(config.num_fields))
    return [(config.field_channels, rows // 2**number, columns // 2**number) for number in halvings]


def build_autoencoder(config: Config, spec: SetSpec) -> PlaneAutoencoder:
    """The autoencoder for images.

    Raises:
        UsageError: the sets are no images, or their sides are not multiples of a cell's.
    """
    if not isinstance(spec.layout, Grid) or len(spec.layout.shape) != 2:
        raise UsageError(
            f"`plane-autoencoder` reads images, and these sets are {spec.layout}",
            hint='take `name = "image"` in [domain]',
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
        self.encoder = Encoder(config, spec.value_size)
        self.decoder = Decoder(config)

    def encode(self, values: Float[Tensor, "B N C"]) -> tuple[Float[Tensor, "B K E"], Float[Tensor, "B K E"]]:
        """Mean and standard deviation of the latents of images whose pixels are listed row by row."""
        mean, log_variance = self.encoder(values.mT.unflatten(2, self.grid)).flatten(2).mT.float().chunk(2, -1)
        return mean, (log_variance.clamp(*LOG_VARIANCES) / 2).exp()

    def decode(self, latents: Float[Tensor, "B K E"]) -> ReadoutState:
        """The basis fields (B, F, H, W) of latents, from coarse to fine."""
        assert isinstance(self.latent_spec.layout, Grid)
        return self.decoder(latents.mT.unflatten(2, self.latent_spec.layout.shape))


class Encoder(nn.Module):
    """From an image to mean and logarithm of the variance of each latent."""

    def __init__(self, config: Config, channels: int) -> None:
        super().__init__()
        widths = [config.width * multiplier for multiplier in config.multipliers]
        self.first = nn.Conv2d(channels, widths[0], 3, padding=1)
        layers: list[nn.Module] = []
        for level, width in enumerate(widths):
            before = widths[max(level - 1, 0)]
            layers += [ResidualBlock(before if block == 0 else width, width) for block in range(config.depth)]
            if level + 1 < len(widths):
                layers.append(Downsample(width, pads_one_side=True))
        self.levels = nn.Sequential(*layers)
        self.middle = middle(widths[-1])
        self.norm = norm(widths[-1], 1e-6)
        self.last = nn.Conv2d(widths[-1], 2 * config.hidden_channels, 3, padding=1)
        self.latents = nn.Conv2d(2 * config.hidden_channels, 2 * config.latent_channels, 1)

    def forward(self, image: Float[Tensor, "B C H W"]) -> Float[Tensor, "B E h w"]:
        """Mean and logarithm of the variance, one after the other along the channels."""
        x = self.middle(self.levels(self.first(image)))
        return self.latents(self.last(functional.silu(self.norm(x))))


class Decoder(nn.Module):
    """From latents to the basis fields."""

    def __init__(self, config: Config) -> None:
        super().__init__()
        self.config = config
        widths = [config.width * multiplier for multiplier in config.multipliers]
        self.latents = nn.Conv2d(config.latent_channels, config.hidden_channels, 1)
        self.first = nn.Conv2d(config.hidden_channels, widths[-1], 3, padding=1)
        self.middle = middle(widths[-1])
        levels, taps = [], []
        for level in reversed(range(len(widths))):
            before = widths[min(level + 1, len(widths) - 1)]
            blocks = [
                ResidualBlock(before if block == 0 else widths[level], widths[level])
                for block in range(config.depth + 1)
            ]
            levels.append(nn.Sequential(*blocks))
            if 0 < level < config.num_fields:
                taps.append(nn.Conv2d(widths[level], config.field_channels, 1))
        self.levels, self.taps = nn.ModuleList(levels), nn.ModuleList(taps)
        self.upsamples = nn.ModuleList(Upsample(width) for width in reversed(widths[1:]))
        self.norm = norm(widths[0], 1e-6)
        self.last = nn.Conv2d(widths[0], config.field_channels, 3, padding=1)

    def forward(self, latents: Float[Tensor, "B E h w"]) -> tuple[Tensor, ...]:
        """The basis fields (B, F, H, W), from coarse to fine."""
        x = self.middle(self.first(self.latents(latents)))
        fields: list[Tensor] = []
        first_tap = len(self.levels) - self.config.num_fields
        for number, level in enumerate(self.levels):
            x = level(x)
            if first_tap <= number < len(self.levels) - 1:
                fields.append(self.taps[number - first_tap](x))
            if number + 1 < len(self.levels):
                x = self.upsamples[number](x)
        return *fields, self.last(functional.silu(self.norm(x)))


def middle(width: int) -> nn.Sequential:
    """A residual block, attention with one head, and another residual block."""
    return nn.Sequential(ResidualBlock(width, width), CellAttention(width), ResidualBlock(width, width))
