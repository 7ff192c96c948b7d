"""CLIP's image encoder ViT-bigG/14 of OpenCLIP, trained on LAION-2B; ULIP-2 embeds clouds in its space.

    embedding  1280  the projection, not normalized

1.8 billion parameters: 7.4 GB of weights in float32. The preprocessing is OpenCLIP's, which equals OpenAI's.

Source: Cherti et al. 2023, arXiv:2212.07143; the model laion2b_s39b_b160k of OpenCLIP.
"""

from __future__ import annotations

from pathlib import Path

import torch
import torch.nn.functional as F

from inrflow_core.feature_networks import _clip_vit, _weights_file
from inrflow_core.feature_networks._image_features import Extractor
from inrflow_core.feature_networks._weights_file import PublishedWeights, Weights

KIND = "extractor"
DOMAIN = "image"
OUTPUTS = {"embedding": 1280}
PREPROCESSING = ("openai",)

OPEN_CLIP, IMAGE_ENCODER = "open_clip_pytorch_model.bin", "model.safetensors"
WEIGHTS = Weights(
    "clip-bigg",
    (
        PublishedWeights(
            OPEN_CLIP,
            None,
            "0d5318839ad03607c48055c45897c655a14c0276a79f6b867934ddd073760e39",
            "the model laion/CLIP-ViT-bigG-14-laion2B-39B-b160k",
            "https://huggingface.co/laion/CLIP-ViT-bigG-14-laion2B-39B-b160k",
            "MIT",
        ),
        PublishedWeights(
            IMAGE_ENCODER,
            3_689_912_664,
            "657723e09f46a7c3957df651601029f66b1748afb12b419816330f16ed45d64d",
            "its image encoder in half precision, the model h94/IP-Adapter, folder sdxl_models/image_encoder",
            "https://huggingface.co/h94/IP-Adapter",
            "Apache-2.0",
        ),
    ),
)
FILES = {"openai": OPEN_CLIP}
"""The published weights of each preprocessing's original program."""
RESIZERS = {"openai": _clip_vit.RESIZERS["openai"]}

PATCH = 14
WIDTH = 1664
LAYERS = 48
HEADS = 16
HIDDEN = 8192


def load(path: Path, device: str | torch.device = "cpu") -> Extractor:
    """The network with the weights of a file.

    Raises:
        IntegrityError: see `_weights_file.load_state`.
    """
    network = ImageEncoder()
    loaded = _weights_file.load_state(network, WEIGHTS, path, device)
    return Extractor(network, OUTPUTS, RESIZERS, FILES, torch.device(device), loaded)


class ImageEncoder(_clip_vit.SizedEncoder):
    """The encoder ViT-bigG/14."""

    def __init__(self) -> None:
        super().__init__(_clip_vit.Size(PATCH, WIDTH, LAYERS, HEADS, HIDDEN, OUTPUTS["embedding"], F.gelu))
