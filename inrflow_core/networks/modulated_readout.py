"""The paper's function behind the basis fields of images: an MLP whose weights are modulated by the scale it is queried at.

Source: the release of DDMI (arXiv:2401.12517), which takes the layers of CIPS (Anokhin et al. 2021, arXiv:2011.13775), those of
StyleGAN2 (Karras et al. 2020, arXiv:1912.04958) on single pixels. It has no randomness here: the release adds noise to each
pixel, so that two readings of one function differ, with one more weight for each of its twelve layers.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

import torch
from jaxtyping import Float, Int64
from torch import Tensor, nn
from torch.nn import functional

from inrflow_core.errors import UsageError
from inrflow_core.layers.embeddings import Fourier, geometric
from inrflow_core.networks._contract import ReadoutState
from inrflow_core.networks._planes import planes_of
from inrflow_core.sets import Grid, Queries, SetSpec

SCALE_FEATURES = 64
"""Sines and cosines of the scale."""
SCALE_INPUTS = 2
"""Inputs of a block that hold the scale itself, beside those of its field."""
LAYERS = 3
"""Modulated layers of a block."""
DEMODULATION_EPSILON = 1e-8


@dataclass(frozen=True)
class Config:
    """Sizes of the MLP; the defaults are the paper's."""

    width: int = 256
    """Width of every block, and of the style that modulates its weights."""
    extra_depth: int = 1
    """Blocks after the one that reads the finest field."""

    def __post_init__(self) -> None:
        if self.width < 1:
            raise ValueError(f"`width` is {self.width}: at least 1")
        if self.extra_depth < 0:
            raise ValueError(f"`extra_depth` is {self.extra_depth}: 0 or more")

    @property
    def reads_cell_size(self) -> bool:
        """Whether the function reads the cell size: always, as its scale."""
        return True

    @property
    def least_weights(self) -> int:
        """A lower bound on the number of weights."""
        return (2 * LAYERS * self.extra_depth + 1) * self.width**2


def build_field_readout(config: Config, spec: SetSpec, field_widths: Sequence[int]) -> ModulatedReadout:
    """The function of images with fields of these widths, from coarse to fine.

    Raises:
        UsageError: the sets are no images, so that queries have no scale.
    """
    if not isinstance(spec.layout, Grid) or len(spec.layout.shape) != 2:
        raise UsageError(
            f"`modulated-readout` reads the scale of images, and these sets are {spec.layout}",
            hint='take `name = "basis-readout"` in [network.readout]',
        )
    return ModulatedReadout(config, spec, field_widths)


class ModulatedReadout(nn.Module):
    """Functions of a coordinate and a scale, one for each set of fields."""

    PARTS = dict.fromkeys(("scale", "style", "blocks", "extra", "out", "bias"), "readout")

    def __init__(self, config: Config, spec: SetSpec, field_widths: Sequence[int]) -> None:
        super().__init__()
        assert isinstance(spec.layout, Grid)
        self.config, width = config, config.width
        self.planes = planes_of(spec, "modulated-readout")
        self.training_step = 2 / min(spec.layout.shape)
        self.scale = Fourier(geometric(1.0, 1e-4, SCALE_FEATURES // 2))
        self.style = nn.Sequential(nn.Linear(SCALE_FEATURES, width), nn.GELU(), nn.Linear(width, width))
        before = [0] + [width] * (len(field_widths) - 1)
        inputs = [size + field + SCALE_INPUTS for size, field in zip(before, field_widths, strict=True)]
        self.blocks = nn.ModuleList(ModulatedBlock(size, width) for size in inputs)
        self.extra = nn.ModuleList(ModulatedBlock(width, width) for _ in range(config.extra_depth))
        self.out = ModulatedLinear(width, spec.value_size, width, demodulates=False)
        self.bias = nn.Parameter(torch.zeros(spec.value_size))

    @property
    def last_weight(self) -> Tensor:
        """The weights of the layer that makes the values, before modulation."""
        return self.out.weight.weight

    def query(
        self, state: ReadoutState, queries: Queries, *, seeds: Int64[Tensor, " B"] | None = None
    ) -> Float[Tensor, "B M C"]:
        """The values of B functions at the queries' coordinates; nothing is random.

        Args:
            state: the fields (B, F, H, W), from coarse to fine.
            queries: their cell size in units of the training grid's is the scale; 1 unless they have one.
        """
        assert queries.coordinates is not None
        scale = self._scale(queries, state[0])
        style = self.style(self.scale(scale))
        x = None
        for block, field in zip(self.blocks, state, strict=True):
            (features,) = self.planes.interpolate(field, queries.coordinates)
            inputs = scale[:, :, None].expand(-1, features.shape[1], SCALE_INPUTS)
            x = block(torch.cat([features, inputs] if x is None else [x, features, inputs], -1), style)
        for block in self.extra:
            x = block(x, style)
        return self.out(x, style) + self.bias

    def _scale(self, queries: Queries, field: Float[Tensor, "B F H W"]) -> Float[Tensor, "B 1"]:
        steps = queries.cell_sizes
        number = torch.ones((), device=field.device) if steps is None else steps / self.training_step
        return number.to(field.dtype).view(-1, 1).expand(field.shape[0], 1)


class ModulatedBlock(nn.Module):
    """Modulated layers, and a linear map of the input beside them where the widths differ."""

    def __init__(self, width: int, out_width: int) -> None:
        super().__init__()
        widths = [width] + [out_width] * (LAYERS - 1)
        self.layers = nn.ModuleList(ModulatedLinear(size, out_width, out_width) for size in widths)
        self.biases = nn.ParameterList(nn.Parameter(torch.zeros(out_width)) for _ in widths)
        self.shortcut = nn.Identity() if width == out_width else EqualizedLinear(width, out_width)

    def forward(self, x: Float[Tensor, "B M A"], style: Float[Tensor, "B S"]) -> Float[Tensor, "B M E"]:
        """The block's output, in the variance of its input."""
        y = x
        for layer, bias in zip(self.layers, self.biases, strict=True):
            y = math.sqrt(2) * functional.leaky_relu(layer(y, style) + bias, 0.2)
        return (y + self.shortcut(x)) / math.sqrt(2)


class ModulatedLinear(nn.Module):
    """A linear map whose inputs are scaled by the style; `demodulates`: each output is then scaled to unit variance."""

    def __init__(self, width: int, out_width: int, style_width: int, *, demodulates: bool = True) -> None:
        super().__init__()
        self.demodulates = demodulates
        self.weight = EqualizedLinear(width, out_width)
        self.modulation = EqualizedLinear(style_width, width, bias=1.0)

    def forward(self, x: Float[Tensor, "B M A"], style: Float[Tensor, "B S"]) -> Float[Tensor, "B M E"]:
        """The map of each set's own weights."""
        weight = self.weight.scaled() * self.modulation(style).float()[:, None]
        if self.demodulates:
            weight = weight * torch.rsqrt(weight.square().sum(-1, keepdim=True) + DEMODULATION_EPSILON)
        return x @ weight.mT.to(x.dtype)


class EqualizedLinear(nn.Module):
    """A linear map with an equalized learning rate: unit normal weights, divided by the root of their fan-in when used."""

    def __init__(self, width: int, out_width: int, bias: float | None = None) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.randn(out_width, width))
        self.bias = None if bias is None else nn.Parameter(torch.full((out_width,), bias))

    def scaled(self) -> Float[Tensor, "E A"]:
        """The weights as they are used."""
        return self.weight / math.sqrt(self.weight.shape[1])

    def forward(self, x: Float[Tensor, "*N A"]) -> Float[Tensor, "*N E"]:
        """The linear map."""
        return functional.linear(x, self.scaled(), self.bias)
