"""CLIP's image encoder in several sizes: tokens of patches and a class token in blocks of attention.

Source: Radford et al. 2021, arXiv:2103.00020; Dosovitskiy et al. 2021, arXiv:2010.11929. The two files that use it
differ in size and activation: OpenAI's networks have an approximation of GELU, OpenCLIP's GELU itself.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import partial

import torch
import torch.nn.functional as F
from einops import rearrange
from jaxtyping import Float
from torch import Tensor, nn

from inrflow_core.feature_networks import _resize
from inrflow_core.feature_networks._weights_file import PublishedWeights

SIDE = 224
MEAN = (0.48145466, 0.4578275, 0.40821073)
DEVIATION = (0.26862954, 0.26130258, 0.27577711)
"""Mean and standard deviation of the channels of CLIP's training images, in [0, 1]."""
RESIZERS = {
    "openai": partial(_resize.pillow_bicubic_crop, size=SIDE),
    "inrflow": partial(_resize.torch_bicubic, size=SIDE),
}
"""The resizer of each preprocessing."""
VIT_B32 = (
    PublishedWeights(
        "ViT-B-32.pt",
        353_976_522,
        "40d365715913c9da98579312b702a82c18be219cc2a73407c4526f58eba950af",
        "OpenAI's CLIP",
        "https://github.com/openai/CLIP",
        "MIT",
        runs_code=True,
    ),
    PublishedWeights(
        "pytorch_model.bin",
        605_247_071,
        "a63082132ba4f97a80bea76823f544493bffa8082296d62d71581a4feff1576f",
        "the model openai/clip-vit-base-patch32",
        "https://huggingface.co/openai/clip-vit-base-patch32",
        "MIT (OpenAI's repository)",
    ),
)
"""The published files of ViT-B/32, each of which holds the encoders of images and of texts."""


@dataclass(frozen=True)
class Size:
    """The size of an encoder."""

    patch: int
    """Pixels of a patch's side; 0 of an encoder of texts."""
    width: int
    layers: int
    heads: int
    hidden: int
    """Width of the hidden layer of a block's MLP."""
    embedding: int
    activation: Callable[[Tensor], Tensor]


def quick_gelu(x: Float[Tensor, "*shape"]) -> Float[Tensor, "*shape"]:
    """OpenAI's approximation of GELU."""
    return x * torch.sigmoid(1.702 * x)


class Block(nn.Module):
    """A pre-norm transformer block: attention and an MLP, each with a residual connection."""

    def __init__(self, size: Size) -> None:
        super().__init__()
        self.size = size
        self.norm_1 = nn.LayerNorm(size.width)
        self.attention_in = nn.Linear(size.width, 3 * size.width)
        self.attention_out = nn.Linear(size.width, size.width)
        self.norm_2 = nn.LayerNorm(size.width)
        self.mlp_in = nn.Linear(size.width, size.hidden)
        self.mlp_out = nn.Linear(size.hidden, size.width)

    def forward(self, x: Float[Tensor, "B L W"], *, is_causal: bool = False) -> Float[Tensor, "B L W"]:
        """With `is_causal` each token sees itself and those before it."""
        mixed = self.attention_in(self.norm_1(x))
        query, key, value = rearrange(mixed, "b l (three h c) -> three b h l c", three=3, h=self.size.heads)
        attended = F.scaled_dot_product_attention(query, key, value, is_causal=is_causal)
        x = x + self.attention_out(rearrange(attended, "b h l c -> b l (h c)"))
        return x + self.mlp_out(self.size.activation(self.mlp_in(self.norm_2(x))))


class SizedEncoder(nn.Module):
    """Patches and a class token in the blocks; the embedding is a projection of the class token."""

    def __init__(self, size: Size) -> None:
        super().__init__()
        self.patches = nn.Conv2d(3, size.width, size.patch, stride=size.patch, bias=False)
        self.whole = nn.Parameter(torch.empty(size.width))
        self.positions = nn.Parameter(torch.empty((SIDE // size.patch) ** 2 + 1, size.width))
        self.norm_before = nn.LayerNorm(size.width)
        self.blocks = nn.ModuleList(Block(size) for _ in range(size.layers))
        self.norm_after = nn.LayerNorm(size.width)
        self.projection = nn.Linear(size.width, size.embedding, bias=False)

    def forward(self, pixels: Float[Tensor, "B 3 224 224"], outputs: Sequence[str]) -> dict[str, Float[Tensor, "B F"]]:
        """The one output."""
        mean, deviation = (pixels.new_tensor(numbers).reshape(3, 1, 1) for numbers in (MEAN, DEVIATION))
        x = self.patches((pixels / 255 - mean) / deviation).flatten(2).mT
        x = torch.cat([self.whole.expand(len(x), 1, -1), x], dim=1) + self.positions
        x = self.norm_before(x)
        for block in self.blocks:
            x = block(x)
        return {"embedding": self.projection(self.norm_after(x[:, 0]))}
