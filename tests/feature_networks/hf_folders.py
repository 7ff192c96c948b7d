"""Folders of random weights in the layout of the published ones."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch


def dinov2(folder: Path, *, seed: int = 0, **settings: int) -> Path:
    """A folder as Hugging Face distributes DINOv2: thin unless `settings` say otherwise."""
    transformers = pytest.importorskip("transformers")
    transformers.logging.disable_progress_bar()
    thin = {"hidden_size": 32, "num_hidden_layers": 2, "num_attention_heads": 2, "image_size": 518, "mlp_ratio": 2}
    torch.manual_seed(seed)
    network = transformers.Dinov2Model(transformers.Dinov2Config(**(thin | settings)))
    for name, tensor in network.named_parameters():
        if tensor.dim() == 1:  # norms, scales and biases begin alike; real ones are not
            torch.nn.init.normal_(tensor, mean=float("norm" in name and "weight" in name), std=0.1)
    network.save_pretrained(folder)
    return folder
