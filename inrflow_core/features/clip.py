"""CLIP's image encoder ViT-B/32, whose embeddings FID-CLIP compares.

    embedding  512  as the projection gives it, not normalised

Forms:
    openai   OpenAI's own preparation: the shorter side to 224 by Pillow's bicubic filter on uint8, the middle cut out
    inrflow  as the release of INRFlow's authors, 224 x 224 by torch's antialiased bicubic filter, then cast to uint8;
             but clamped before the cast, without which an overshoot of -16 wraps around to 240

Source: Radford et al. 2021, arXiv:2103.00020; Kynkaanniemi et al. 2022, arXiv:2203.06026.
"""

from __future__ import annotations

from pathlib import Path

import torch

from inrflow_core.features import _clip, _weights
from inrflow_core.features._clip import DEVIATION as DEVIATION  # part of this file's face, as the next
from inrflow_core.features._clip import MEAN as MEAN
from inrflow_core.features._clip import RESIZERS as RESIZERS
from inrflow_core.features._clip import Block as Block
from inrflow_core.features._extractor import Extractor
from inrflow_core.features._weights import Published, Weights

DOMAIN = "image"
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

PATCH = 32
WIDTH = 768
LAYERS = 12
HEADS = 12


def load(path: Path, device: str | torch.device = "cpu") -> Extractor:
    """The network with the weights of a file.

    Raises:
        IntegrityError: see `_weights.fill`.
    """
    network = ImageEncoder()
    loaded = _weights.fill(network, WEIGHTS, path)
    network.to(device).eval().requires_grad_(False)
    return Extractor(network, OUTPUTS, RESIZERS, FILES, torch.device(device), loaded)


class ImageEncoder(_clip.SizedEncoder):
    """The encoder of this size."""

    def __init__(self) -> None:
        super().__init__(_clip.Size(PATCH, WIDTH, LAYERS, HEADS, 4 * WIDTH, OUTPUTS["embedding"], _clip.quick_gelu))
