"""Weights of feature networks and embedders with random numbers, in the layout of the published ones."""

from __future__ import annotations

import importlib.util
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import save_file

from inrflow_core.feature_networks import _weights_file, pointnet2


def make(folder: Path) -> None:
    """PointNet++ as `inrflow weights convert` writes it, and a thin DINOv2 where Transformers is installed."""
    folder.mkdir(exist_ok=True)
    file = folder / pointnet2.WEIGHTS.file
    if not file.is_file():
        save_file(_random(pointnet2.PointNet2()), file, metadata=_metadata())
    if has_transformers() and not (folder / "dinov2").is_dir():
        _dinov2(folder / "dinov2")


def has_transformers() -> bool:
    """Whether the optional package that runs embedders is installed."""
    return importlib.util.find_spec("transformers") is not None


def _random(network: torch.nn.Module) -> dict[str, torch.Tensor]:
    generator = torch.Generator().manual_seed(0)
    return {
        name: torch.rand(tensor.shape, generator=generator) / max(1, tensor[0].numel()) ** 0.5 + 0.01
        for name, tensor in network.state_dict().items()
    }


def _metadata() -> dict[str, str]:
    return {
        "format": _weights_file.FORMAT,
        "network": pointnet2.WEIGHTS.name,
        "published": pointnet2.POINT_E,
        "published_sha256": "0" * 64,
        "is_verified": "no",
    }


def _dinov2(folder: Path) -> None:
    import transformers

    torch.manual_seed(0)
    sizes: dict[str, Any] = {
        "hidden_size": 32,
        "num_hidden_layers": 2,
        "num_attention_heads": 2,
        "image_size": 56,
        "mlp_ratio": 2,
    }
    transformers.logging.disable_progress_bar()
    transformers.Dinov2Model(transformers.Dinov2Config(**sizes)).save_pretrained(folder)
