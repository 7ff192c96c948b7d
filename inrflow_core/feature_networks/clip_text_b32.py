"""CLIP's text encoder of ViT-B/32: one vector of a text, in the space of the image embeddings of `clip`.

    embedding  512  the projection of the last mark's features, not normalized

The weights come from the same published file as those of `clip`. The tokenizer, `tokenizer.json` of the model
openai/clip-vit-base-patch32, lies beside them as `clip-text-b32-tokenizer.json`. Of a text of more than 77 tokens the first 76 are read.

Source: Radford et al. 2021, arXiv:2103.00020.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from jaxtyping import Float, Float32, Int64
from torch import Tensor, nn

from inrflow_core.errors import UsageError, did_you_mean
from inrflow_core.feature_networks import _clip_tokenizer, _clip_vit, _image_features, _weights_file
from inrflow_core.feature_networks._contract import MAX_TEXT_TOKENS
from inrflow_core.feature_networks._weights_file import Weights, WeightsProvenance

KIND = "extractor"
DOMAIN = "text"
OUTPUTS = {"embedding": 512}
PREPROCESSING = ("openai",)
WEIGHTS = Weights("clip-text-b32", _clip_vit.VIT_B32)
FILES = {"openai": _clip_vit.VIT_B32[0].file}
"""The published weights of each preprocessing's original program."""

TOKENS = 49_408
WIDTH = 512
LAYERS = 12
HEADS = 8
CHUNK = 32
"""Texts in a batch of the network: limits memory."""


def load(path: Path, device: str | torch.device = "cpu") -> TextExtractor:
    """The network with the weights of a file, and the tokenizer beside it.

    Raises:
        IntegrityError: see `_weights_file.load_state`, or the tokenizer does not fit.
        MissingError: the tokenizer is missing.
    """
    network = TextEncoder()
    file = path.with_name(f"{path.stem}-{_clip_tokenizer.FILE}")
    hint = (
        f"get `{_clip_tokenizer.FILE}` of openai/clip-vit-base-patch32 from Hugging Face, and put it there as `{file}`"
    )
    tokenizer = _clip_tokenizer.read(file, _clip_tokenizer.Size(TOKENS, MAX_TEXT_TOKENS), hint)
    loaded = _weights_file.load_state(network, WEIGHTS, path, device)
    return TextExtractor(network, tokenizer, torch.device(device), loaded)


@dataclass(frozen=True)
class TextExtractor:
    """The network with its weights; for images, see `_image_features.Extractor`."""

    network: nn.Module
    tokenizer: Any
    """Of the package `tokenizers`."""
    device: torch.device
    loaded: WeightsProvenance

    @torch.inference_mode()
    def __call__(
        self, texts: Sequence[str], outputs: Sequence[str], preprocessing: str
    ) -> Mapping[str, Float32[Tensor, "T F"]]:
        """The embedding of each text on the CPU; an empty text has one too.

        Raises:
            UsageError: unknown output or preprocessing.
        """
        for kind, name, allowed in (
            ("preprocessing", preprocessing, PREPROCESSING),
            *(("output", output, OUTPUTS) for output in outputs),
        ):
            if name not in allowed:
                raise UsageError(f"there is no {kind} `{name}`", hint=did_you_mean(name, allowed))
        parts = [torch.empty(0, OUTPUTS["embedding"])]
        for start in range(0, len(texts), CHUNK):
            numbers = [_clip_tokenizer.numbers(self.tokenizer, text) for text in texts[start : start + CHUNK]]
            ids = torch.zeros(len(numbers), MAX_TEXT_TOKENS, dtype=torch.int64)  # a token sees those before it alone
            for row, known in enumerate(numbers):
                ids[row, : len(known)] = torch.tensor(known)
            last = torch.tensor([len(known) - 1 for known in numbers])
            parts.append(self.network(ids.to(self.device), last.to(self.device)).float().cpu())
        return dict.fromkeys(outputs, torch.cat(parts))

    def note(self, preprocessing: str) -> str | None:
        """A remark for values of this preprocessing if the weights are not those of its original program."""
        return _image_features.note(self.loaded, FILES[preprocessing], preprocessing)


class TextEncoder(nn.Module):
    """Tokens and their positions in blocks of causal attention; the embedding is a projection of the last mark."""

    def __init__(self) -> None:
        super().__init__()
        size = _clip_vit.Size(0, WIDTH, LAYERS, HEADS, 4 * WIDTH, OUTPUTS["embedding"], _clip_vit.quick_gelu)
        self.tokens = nn.Embedding(TOKENS, WIDTH)
        self.positions = nn.Parameter(torch.empty(MAX_TEXT_TOKENS, WIDTH))
        self.blocks = nn.ModuleList(_clip_vit.Block(size) for _ in range(LAYERS))
        self.norm_after = nn.LayerNorm(WIDTH)
        self.projection = nn.Linear(WIDTH, OUTPUTS["embedding"], bias=False)

    def forward(self, ids: Int64[Tensor, "T 77"], last: Int64[Tensor, " T"]) -> Float[Tensor, "T F"]:
        """The embeddings of texts whose last marks are at some positions."""
        x = self.tokens(ids) + self.positions
        for block in self.blocks:
            x = block(x, is_causal=True)
        return self.projection(self.norm_after(x[torch.arange(len(x), device=x.device), last]))
