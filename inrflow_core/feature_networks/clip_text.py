"""CLIP's text encoder: the features of each token of a text after the last layer norm; ViT-L/14 gives width 768.

Source: Radford et al. 2021, arXiv:2103.00020, run by Transformers. A text is cut after 77 tokens, the first of which marks the
beginning and the last the end. Any size of the network is supported, as described by config.json.
"""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from jaxtyping import Float32
from torch import Tensor

from inrflow_core.feature_networks import _clip_tokenizer, _hf_folder
from inrflow_core.feature_networks._contract import MAX_TEXT_TOKENS
from inrflow_core.storage import plain_file

KIND = "embedder"
DOMAIN = "text"
IS_PLACEHOLDER = False
EXPECTED = _hf_folder.ExpectedNetwork(
    "clip-text", "CLIPTextModel", "clip", "openai/clip-vit-large-patch14", "MIT (OpenAI's repository)",
    ignored=("vision_model.", "visual_projection.", "text_projection.", "logit_scale", "text_model.embeddings.position_ids"),
)  # fmt: skip
TOKENIZER = _clip_tokenizer.FILE
CHUNK = 32
"""Texts in a batch of the network; limits the memory."""
HINT = f"get `{TOKENIZER}` of `{EXPECTED.source}` from Hugging Face too, and put it beside the weights"


def load(folder: Path | None, device: torch.device | str = "cpu") -> ClipText:
    """The text encoder of a folder of CLIP, with the tokenizer beside it.

    Raises:
        MissingError, IntegrityError, UsageError: see `_hf_folder.load`; the tokenizer is missing, or does not fit.
    """
    assert folder is not None, "only placeholders have no folder"
    network, digest = _hf_folder.load(EXPECTED, folder, device)
    file = folder / TOKENIZER
    positions: Any = network.config
    size = _clip_tokenizer.Size(positions.vocab_size, positions.max_position_embeddings)
    tokenizer = _clip_tokenizer.read(file, size, HINT)
    whole = hashlib.sha256(f"{digest}\n{plain_file.file_digest(file, from_disk=True)}".encode()).hexdigest()
    return ClipText(network, whole, tokenizer)


@dataclass(frozen=True, eq=False)
class ClipText(_hf_folder.PretrainedNetwork):
    """The text encoder with its weights."""

    tokenizer: Any
    """Of the package `tokenizers`."""
    name: str = EXPECTED.name

    def __call__(self, texts: Sequence[str]) -> Float32[np.ndarray, "T 77 S"]:
        """The features of the tokens of each text, on the CPU, then rows of 0; all of them are 0 for a text without a token.

        They do not depend on the other texts but for rounding.
        """
        features = np.zeros((len(texts), MAX_TEXT_TOKENS, self.width), dtype=np.float32)
        numbers = [self._numbers(text) for text in texts]
        for start in range(0, len(texts), CHUNK):
            part = numbers[start : start + CHUNK]
            for row, rows in enumerate(self._features(part)):
                features[start + row, : len(part[row])] = rows[: len(part[row])]
        return features

    def num_tokens(self, text: str) -> int:
        """The tokens of a text with its two marks, also those beyond 77."""
        return len(self.tokenizer.encode(text).ids)

    def _numbers(self, text: str) -> list[int]:
        """The tokens of a text with its marks, at most 77; none of a text that has the marks alone."""
        numbers = _clip_tokenizer.numbers(self.tokenizer, text)
        return numbers if len(numbers) > 2 else []

    @torch.no_grad()
    def _features(self, numbers: Sequence[Sequence[int]]) -> Float32[np.ndarray, "T 77 S"]:
        device = next(self.network.parameters()).device
        ids = torch.zeros(len(numbers), MAX_TEXT_TOKENS, dtype=torch.int64)  # each token sees those before it alone
        for row, known in enumerate(numbers):
            ids[row, : len(known)] = torch.tensor(known, dtype=torch.int64)
        hidden: Tensor = self.network(input_ids=ids.to(device)).last_hidden_state
        return hidden.float().cpu().numpy()
