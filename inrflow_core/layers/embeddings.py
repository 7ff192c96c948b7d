"""Embeddings of times, coordinates and values.

Source: INRFlow (arXiv:2412.03791), appendix A: Fourier features of coordinates (Vaswani et al. 2017). Values pass a
linear layer, a layer norm and a SiLU, as in the authors' release.
"""

from __future__ import annotations

import math

import torch
from jaxtyping import Float
from torch import Tensor, nn
from torch.nn import functional
from torch.utils.checkpoint import checkpoint

from inrflow_core.layers.activations import normed_silu, to_fp32
from inrflow_core.layers.recompute import keeps_everything

FOLDED_SIZE = 16
"""Largest number of inputs for which a projection's norm is folded: with more, the norm itself is cheaper."""


def geometric(lowest: float, highest: float, count: int) -> Float[Tensor, " F"]:
    """`count` frequencies from `lowest` to `highest`, in geometric progression."""
    # Not `linspace`: the package transformers replaces it, while it loads, by one that ignores the device.
    steps = torch.arange(count, dtype=torch.float64) / max(count - 1, 1)
    return (lowest * (highest / lowest) ** steps).float()


class Fourier(nn.Module):
    """Sines and cosines of each number of a coordinate, padded with zeros to `width` if it is set."""

    frequencies: Tensor

    def __init__(self, frequencies: Float[Tensor, " F"], width: int | None = None) -> None:
        super().__init__()
        self.width = width
        self.register_buffer("frequencies", frequencies, persistent=False)

    def forward(self, coordinates: Float[Tensor, "*N D"]) -> Float[Tensor, "*N E"]:
        """The features, in fp32 at least: number by number, its sines before its cosines."""
        phase = to_fp32(coordinates)[..., None] * self.frequencies
        waves = torch.cat([phase.sin(), phase.cos()], -1).flatten(-2)
        if self.width is None or self.width == waves.shape[-1]:
            return waves
        return functional.pad(waves, (0, self.width - waves.shape[-1]))


class TimeEmbedding(nn.Module):
    """Time as a vector: 128 frequencies of `scale` t, then two linear layers (DiT, Peebles and Xie 2023).

    The release of INRFlow embeds t itself: on [0, 1] most frequencies are then nearly constant.
    """

    def __init__(self, width: int, scale: float = 1000.0) -> None:
        super().__init__()
        self.scale = scale
        self.inner, self.outer = nn.Linear(256, width), nn.Linear(width, width)

    def forward(self, t: Float[Tensor, " B"]) -> Float[Tensor, "B W"]:
        """The embedding of each time: in [0, 1] with the default scale."""
        frequencies = torch.exp(-math.log(10_000) * torch.arange(128, dtype=torch.float32, device=t.device) / 128)
        phase = self.scale * to_fp32(t)[:, None] * frequencies
        return self.outer(functional.silu(self.inner(torch.cat([phase.cos(), phase.sin()], -1))))


class Projection(nn.Module):
    """A linear layer, a layer norm with gain and shift, and a SiLU, for values and embedded points.

    With few inputs the norm is folded: mean and variance of W x + b over its outputs are a linear and a quadratic form
    of x, so that all but the SiLU is one small matrix product of (x, 1) / deviation. That saves two passes over the
    tokens, most of the cost for 65,536 pixels. It is computed in fp32, to keep the precision of noisy values.
    """

    def __init__(self, size: int, width: int) -> None:
        super().__init__()
        self.weight, self.bias = nn.Parameter(torch.empty(width, size)), nn.Parameter(torch.zeros(width))
        self.gain, self.shift = nn.Parameter(torch.ones(width)), nn.Parameter(torch.zeros(width))
        nn.init.xavier_uniform_(self.weight)
        self.is_folded = size <= FOLDED_SIZE

    def forward(self, x: Float[Tensor, "*N F"]) -> Float[Tensor, "*N W"]:
        """Tokens of the inputs. Folded ones are recomputed in the backward pass, which costs less than saving them."""
        if self.is_folded and not keeps_everything():
            return checkpoint(self.plain, x, use_reentrant=False, preserve_rng_state=False)
        return self.plain(x)

    def plain(self, x: Float[Tensor, "*N F"]) -> Float[Tensor, "*N W"]:
        """The tokens without recomputation, for callers that recompute them anyway."""
        if self.is_folded:
            with torch.autocast(x.device.type, enabled=False):
                return functional.silu(self._folded(to_fp32(x)))
        return normed_silu(functional.linear(x, self.weight, self.bias), self.gain, self.shift)

    def _folded(self, x: Float[Tensor, "*N F"]) -> Float[Tensor, "*N W"]:
        """layer_norm(W x + b), gain and shift included."""
        matrix = torch.cat([self.weight, self.bias[:, None]], 1)
        matrix = matrix - matrix.mean(0)
        x = torch.cat([x, torch.ones_like(x[..., :1])], -1)
        variance = (x @ (matrix.t() @ matrix / matrix.shape[0]) * x).sum(-1, keepdim=True)
        return functional.linear(x * torch.rsqrt(variance + 1e-5), matrix * self.gain[:, None], self.shift)


class Tokens(nn.Module):
    """Embed pairs as tokens. A pair with a fixed coordinate is its value's projection plus the coordinate's features.

    A moving point is embedded as a coordinate and as a value, and the two are joined (INRFlow's point models).
    """

    def __init__(self, value_size: int, width: int, fourier: Fourier, moving_size: int | None) -> None:
        super().__init__()
        self.fourier, self.moving_size = fourier, moving_size
        self.value = Projection(value_size, width)
        if moving_size is not None:
            self.coordinate = Projection(2 * len(fourier.frequencies) * moving_size, width)
            self.join = Projection(2 * width, width)

    def forward(
        self,
        coordinates: Float[Tensor, "*B N D"] | None,
        values: Float[Tensor, "B N C"],
        embedded: Float[Tensor, "*B N W"] | None = None,
    ) -> tuple[Float[Tensor, "B N W"], Float[Tensor, "B N W"]]:
        """The tokens, and the embedded values without a position; `embedded` is a precomputed result of `embed`."""
        value = self.value(values)
        if self.moving_size is not None:
            coordinate = self.coordinate(self.fourier(values[..., : self.moving_size]))
            return self.join(torch.cat([coordinate, value], -1)), value
        assert coordinates is not None, "pairs without coordinates are points"
        return value + (self.embed(coordinates) if embedded is None else embedded), value

    def embed(self, coordinates: Float[Tensor, "*B N D"]) -> Float[Tensor, "*B N W"]:
        """The part of the tokens that depends on fixed coordinates alone."""
        return self.fourier(coordinates)
