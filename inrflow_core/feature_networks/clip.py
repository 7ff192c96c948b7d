"""CLIP's image encoder ViT-B/32, whose embeddings FID-CLIP compares.

    embedding  512  the projection, not normalized

Preprocessing:
    openai   OpenAI's own: the shorter side to 224 by Pillow's bicubic filter on uint8, then a center crop
    inrflow  as in the release of INRFlow's authors: 224 x 224 by torch's antialiased bicubic filter, cast to uint8, but
             clamped before the cast, without which an overshoot of -16 wraps around to 240

Source: Radford et al. 2021, arXiv:2103.00020; Kynkaanniemi et al. 2022, arXiv:2203.06026.
"""

from __future__ import annotations

from pathlib import Path

import torch

from inrflow_core.feature_networks import _clip_vit, _weights_file
from inrflow_core.feature_networks._clip_vit import DEVIATION as DEVIATION  # re-exported, as the next
from inrflow_core.feature_networks._clip_vit import MEAN as MEAN
from inrflow_core.feature_networks._clip_vit import RESIZERS as RESIZERS
from inrflow_core.feature_networks._clip_vit import Block as Block
from inrflow_core.feature_networks._image_features import Extractor
from inrflow_core.feature_networks._weights_file import Weights

KIND = "extractor"
DOMAIN = "image"
OUTPUTS = {"embedding": 512}
PREPROCESSING = ("openai", "inrflow")

OPENAI, HUGGING_FACE = (published.file for published in _clip_vit.VIT_B32)
WEIGHTS = Weights("clip", _clip_vit.VIT_B32)
FILES = {"openai": OPENAI, "inrflow": OPENAI}
"""The published weights of each preprocessing's original program."""

PATCH = 32
WIDTH = 768
LAYERS = 12
HEADS = 12


def load(path: Path, device: str | torch.device = "cpu") -> Extractor:
    """The network with the weights of a file.

    Raises:
        IntegrityError: see `_weights_file.load_state`.
    """
    network = ImageEncoder()
    loaded = _weights_file.load_state(network, WEIGHTS, path, device)
    return Extractor(network, OUTPUTS, RESIZERS, FILES, torch.device(device), loaded)


class ImageEncoder(_clip_vit.SizedEncoder):
    """The encoder ViT-B/32."""

    def __init__(self) -> None:
        super().__init__(
            _clip_vit.Size(PATCH, WIDTH, LAYERS, HEADS, 4 * WIDTH, OUTPUTS["embedding"], _clip_vit.quick_gelu)
        )
