"""CLIP's image encoder ViT-B/32, whose embeddings FID-CLIP compares.

    embedding  512  as the projection gives it, not normalised

Forms:
    openai   OpenAI's own preparation: the shorter side to 224 by Pillow's bicubic filter on uint8, the middle cut out
    inrflow  as the release of INRFlow's authors, 224 x 224 by torch's antialiased bicubic filter, then cast to uint8;
             but clamped before the cast, without which an overshoot of -16 wraps around to 240

Source: Radford et al. 2021, arXiv:2103.00020; Kynkaanniemi et al. 2022, arXiv:2203.06026.
"""

from __future__ import annotations

from collections.abc import Sequence
from functools import partial
from pathlib import Path

import torch
import torch.nn.functional as F
from einops import rearrange
from jaxtyping import Float
from torch import Tensor, nn

from inrflow_core.features import _resize, _weights
from inrflow_core.features._extractor import Extractor
from inrflow_core.features._weights import Published, Weights

DOMAIN = "image"
SIZE = 224
OUTPUTS = {"embedding": 512}
FORMS = ("openai", "inrflow")

OPENAI, HUGGING_FACE = "ViT-B-32.pt", "pytorch_model.bin"
WEIGHTS = Weights(
    "clip",
    (
        Published(
            OPENAI,
            353_976_522,
            "40d365715913c9da98579312b702a82c18be219cc2a73407c4526f58eba950af",
            "OpenAI's CLIP",
            runs_code=True,
        ),
        Published(
            HUGGING_FACE,
            605_247_071,
            "a63082132ba4f97a80bea76823f544493bffa8082296d62d71581a4feff1576f",
            "the model openai/clip-vit-base-patch32",
        ),
    ),
)
FILES = {"openai": OPENAI, "inrflow": OPENAI}
"""The published file that each form is named after."""
RESIZERS = {
    "openai": partial(_resize.pillow_bicubic_crop, size=SIZE),
    "inrflow": partial(_resize.torch_bicubic, size=SIZE),
}

PATCH = 32
WIDTH = 768
LAYERS = 12
HEADS = 12
MEAN = (0.48145466, 0.4578275, 0.40821073)
DEVIATION = (0.26862954, 0.26130258, 0.27577711)
"""Of the channels in [0, 1], in CLIP's training pictures."""


def load(path: Path, device: str | torch.device = "cpu") -> Extractor:
    """The network with the weights of a file.

    Raises:
        IntegrityError: see `_weights.fill`.
    """
    network = ImageEncoder()
    loaded = _weights.fill(network, WEIGHTS, path)
    network.to(device).eval().requires_grad_(False)
    return Extractor(network, OUTPUTS, RESIZERS, FILES, torch.device(device), loaded)


class Block(nn.Module):
    """Attention and two linear layers, each behind its norm and added to what came in."""

    def __init__(self) -> None:
        super().__init__()
        self.norm_1 = nn.LayerNorm(WIDTH)
        self.attention_in = nn.Linear(WIDTH, 3 * WIDTH)
        self.attention_out = nn.Linear(WIDTH, WIDTH)
        self.norm_2 = nn.LayerNorm(WIDTH)
        self.mlp_in = nn.Linear(WIDTH, 4 * WIDTH)
        self.mlp_out = nn.Linear(4 * WIDTH, WIDTH)

    def forward(self, x: Float[Tensor, "B L W"]) -> Float[Tensor, "B L W"]:
        mixed = self.attention_in(self.norm_1(x))
        query, key, value = rearrange(mixed, "b l (three h c) -> three b h l c", three=3, h=HEADS)
        seen = F.scaled_dot_product_attention(query, key, value)
        x = x + self.attention_out(rearrange(seen, "b h l c -> b l (h c)"))
        return x + self.mlp_out(quick_gelu(self.mlp_in(self.norm_2(x))))


class ImageEncoder(nn.Module):
    """Patches and one token for the whole through the blocks; the embedding is a projection of that token."""

    def __init__(self) -> None:
        super().__init__()
        self.patches = nn.Conv2d(3, WIDTH, PATCH, stride=PATCH, bias=False)
        self.whole = nn.Parameter(torch.empty(WIDTH))
        self.positions = nn.Parameter(torch.empty((SIZE // PATCH) ** 2 + 1, WIDTH))
        self.norm_before = nn.LayerNorm(WIDTH)
        self.blocks = nn.ModuleList(Block() for _ in range(LAYERS))
        self.norm_after = nn.LayerNorm(WIDTH)
        self.projection = nn.Linear(WIDTH, OUTPUTS["embedding"], bias=False)

    def forward(
        self, pixels: Float[Tensor, "B 3 224 224"], outputs: Sequence[str]
    ) -> dict[str, Float[Tensor, "B 512"]]:
        """The one output."""
        mean, deviation = (pixels.new_tensor(numbers).reshape(3, 1, 1) for numbers in (MEAN, DEVIATION))
        x = self.patches((pixels / 255 - mean) / deviation).flatten(2).mT
        x = torch.cat([self.whole.expand(len(x), 1, -1), x], dim=1) + self.positions
        x = self.norm_before(x)
        for block in self.blocks:
            x = block(x)
        return {"embedding": self.projection(self.norm_after(x[:, 0]))}


def quick_gelu(x: Float[Tensor, "*shape"]) -> Float[Tensor, "*shape"]:
    """CLIP's approximation of GELU."""
    return x * torch.sigmoid(1.702 * x)
