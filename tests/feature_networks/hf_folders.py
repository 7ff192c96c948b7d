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


def clip(
    folder: Path, *, words: tuple[str, ...] = ("a", "tall", "cone"), vocabulary: int = 50, marks: bool = True
) -> Path:
    """A folder as Hugging Face distributes CLIP, with a tokenizer of whole words."""
    transformers, tokenizers = pytest.importorskip("transformers"), pytest.importorskip("tokenizers")
    transformers.logging.disable_progress_bar()
    torch.manual_seed(0)
    thin = {"hidden_size": 16, "intermediate_size": 24, "num_hidden_layers": 2, "num_attention_heads": 2}
    text = {**thin, "vocab_size": vocabulary, "max_position_embeddings": 77}
    vision = {**thin, "image_size": 28, "patch_size": 14}
    network = transformers.CLIPModel(transformers.CLIPConfig(text_config=text, vision_config=vision, projection_dim=8))
    for tensor in network.parameters():
        if tensor.dim() == 1:
            torch.nn.init.normal_(tensor, mean=float(tensor.detach().mean()), std=0.1)
    network.save_pretrained(folder)
    numbers = {word: number for number, word in enumerate(("<unk>", "<|startoftext|>", "<|endoftext|>", *words))}
    tokenizer = tokenizers.Tokenizer(tokenizers.models.WordLevel(numbers, unk_token="<unk>"))
    tokenizer.pre_tokenizer = tokenizers.pre_tokenizers.Whitespace()
    if marks:
        ends = [("<|startoftext|>", 1), ("<|endoftext|>", 2)]
        tokenizer.post_processor = tokenizers.processors.TemplateProcessing(
            single=f"{ends[0][0]} $A {ends[1][0]}", special_tokens=ends
        )
    tokenizer.save(str(folder / "tokenizer.json"))
    return folder
