"""Random weights for the networks of features, and files of them in our form."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from torch import nn

from inrflow_core.feature_networks import _weights_file, clip, clip_text_b32, lpips
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


def clip_file(patch: pytest.MonkeyPatch, folder: Path) -> None:
    """A file of CLIP's image encoder with one block of random weights, in a folder of weights."""
    patch.setattr(clip, "LAYERS", 1)
    network = clip.ImageEncoder()
    randomize(network)
    write(folder / clip.WEIGHTS.file, network.state_dict(), metadata(clip.WEIGHTS))


def clip_text_file(patch: pytest.MonkeyPatch, folder: Path, tokenizer: Path) -> clip_text_b32.TextExtractor:
    """The loaded text encoder of a new file, of one block and 50 tokens with random weights, beside a tokenizer."""
    patch.setattr(clip_text_b32, "LAYERS", 1)
    patch.setattr(clip_text_b32, "TOKENS", 50)
    network = clip_text_b32.TextEncoder()
    randomize(network)
    network.tokens.weight.data.normal_(generator=torch.Generator().manual_seed(1))
    network.positions.data.mul_(20)  # so that the order of words matters
    path = folder / clip_text_b32.WEIGHTS.file
    write(path, network.state_dict(), metadata(clip_text_b32.WEIGHTS))
    (folder / f"{path.stem}-tokenizer.json").write_bytes(tokenizer.read_bytes())
    return clip_text_b32.load(path)


def clip_text_by_hugging_face(own: dict[str, torch.Tensor]) -> dict[str, torch.Tensor]:
    """The tensors of the text encoder under the names of the transformers library."""
    stored = {
        "text_model.embeddings.token_embedding.weight": own["tokens.weight"],
        "text_model.embeddings.position_embedding.weight": own["positions"],
        "text_projection.weight": own["projection.weight"],
    }
    for part in ("weight", "bias"):
        stored[f"text_model.final_layer_norm.{part}"] = own[f"norm_after.{part}"]
        layer = "text_model.encoder.layers.0."
        for letter, rows in zip("qkv", own[f"blocks.0.attention_in.{part}"].chunk(3), strict=True):
            stored[f"{layer}self_attn.{letter}_proj.{part}"] = rows
        for theirs, ours in {
            "self_attn.out_proj": "attention_out", "layer_norm1": "norm_1", "layer_norm2": "norm_2",
            "mlp.fc1": "mlp_in", "mlp.fc2": "mlp_out",
        }.items():  # fmt: skip
            stored[f"{layer}{theirs}.{part}"] = own[f"blocks.0.{ours}.{part}"]
    return stored


def clip_text_by_openai(own: dict[str, torch.Tensor]) -> dict[str, torch.Tensor]:
    """The tensors of the text encoder under OpenAI's names."""
    stored = {
        "token_embedding.weight": own["tokens.weight"],
        "positional_embedding": own["positions"],
        "text_projection": own["projection.weight"].T.contiguous(),
    }
    for part in ("weight", "bias"):
        stored[f"ln_final.{part}"] = own[f"norm_after.{part}"]
        layer = "transformer.resblocks.0."
        stored[f"{layer}attn.in_proj_{part}"] = own[f"blocks.0.attention_in.{part}"]
        for theirs, ours in {
            "attn.out_proj": "attention_out", "ln_1": "norm_1", "ln_2": "norm_2", "mlp.c_fc": "mlp_in",
            "mlp.c_proj": "mlp_out",
        }.items():  # fmt: skip
            stored[f"{layer}{theirs}.{part}"] = own[f"blocks.0.{ours}.{part}"]
    return stored
