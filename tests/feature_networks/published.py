"""Random weights for the networks of features, and files of them in our form."""

from __future__ import annotations

from pathlib import Path

import torch
from torch import nn

from inrflow_core.feature_networks import _weights_file, lpips
from inrflow_core.feature_networks._weights_file import Weights
from inrflow_core.storage import safetensors_file


@torch.no_grad()
def randomize(network: nn.Module, seed: int = 0) -> None:
    """Numbers that keep signals near 1 through many layers; no two tensors alike, variances positive."""
    generator = torch.Generator().manual_seed(seed)
    for name, tensor in network.state_dict().items():
        if not tensor.is_floating_point():
            continue
        if tensor.dim() > 1:
            deviation = (2 / tensor[0].numel()) ** 0.5
            tensor.normal_(0, deviation, generator=generator)
        elif name.endswith(("variance", "gamma")):
            tensor.uniform_(0.5, 1.5, generator=generator)
        else:
            tensor.normal_(0, 0.1, generator=generator)


def metadata(weights: Weights, index: int = 0, *, is_verified: bool = True) -> dict[str, str]:
    return {
        "format": _weights_file.FORMAT,
        "network": weights.name,
        "published": weights.published[index].file,
        "published_sha256": "0" * 64,
        "is_verified": "yes" if is_verified else "no",
    }


def lpips_file(path: Path, seed: int = 0) -> str:
    """The digest of a new file of LPIPS with random convolutions and weights of channels from 0 to 1."""
    network = lpips.LPIPS()
    randomize(network, seed)
    generator = torch.Generator().manual_seed(seed)
    for weights in network.channels:
        weights.uniform_(0, 1, generator=generator)
    return write(path, network.state_dict(), metadata(lpips.WEIGHTS))


def write(path: Path, tensors: dict[str, torch.Tensor], about: dict[str, str]) -> str:
    """The digest of a new weights file."""
    return safetensors_file.write(path, safetensors_file.layout(tensors), tensors.values(), about)
