"""ESM-2: one token for each residue of a sequence; the model of 650M parameters gives width 1280.

Source: Lin et al. 2023, doi:10.1126/science.ade2574, run by Transformers. The tokens are those after the last layer
norm, without the begin and end tokens. Any size of the network is supported, as described by config.json.

It was trained on at most 1022 residues. A longer sequence is split into windows of 1022 at a stride of 511, and a
residue's token is that of the window whose middle is nearest.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from jaxtyping import Float32
from torch import Tensor

from inrflow_core.errors import IntegrityError
from inrflow_core.feature_networks import _hf_folder
from inrflow_core.proteins import residues

KIND = "embedder"
DOMAIN = "sequence"
IS_PLACEHOLDER = False
EXPECTED = _hf_folder.ExpectedNetwork(
    "esm2", "EsmModel", "esm", "facebook/esm2_t33_650M_UR50D", "MIT",
    ignored=("lm_head.", "contact_head.", "esm.contact_head.", "pooler."),
)  # fmt: skip
VOCABULARY = (
    "<cls>", "<pad>", "<eos>", "<unk>", *"LAGVSERTIDPKQNFYMHWCXBUZO.-", "<null_1>", "<mask>",
)  # fmt: skip
"""The network's 33 tokens by number: the lines of its vocab.txt."""
BEGIN, PADDING, END = (VOCABULARY.index(token) for token in ("<cls>", "<pad>", "<eos>"))
MAX_RESIDUES = 1022
"""Residues of a window."""
CHUNK = 4096
"""Residues, with padding, in a batch of the network; limits the memory."""


def load(folder: Path | None, device: torch.device | str = "cpu") -> Esm2:
    """The network of a folder; if the folder has a vocab.txt, it must equal `VOCABULARY`.

    Raises:
        MissingError, IntegrityError, UsageError: see `_hf_folder.load`.
    """
    assert folder is not None, "only placeholders have no folder"
    network, digest = _hf_folder.load(EXPECTED, folder, device, add_pooling_layer=False)
    _check_vocabulary(folder, int(network.config.vocab_size))  # type: ignore[union-attr, arg-type]
    return Esm2(network, digest)


@dataclass(frozen=True, eq=False)
class Esm2(_hf_folder.PretrainedNetwork):
    """The network with its weights."""

    name: str = EXPECTED.name

    def __call__(self, sequences: Sequence[str]) -> list[Float32[np.ndarray, "_ S"]]:
        """Tokens of each sequence, on the CPU; they do not depend on the other sequences.

        Raises:
            UsageError: a letter is not one of the 20.
        """
        letters = [residues.to_letters(residues.to_codes(sequence)) for sequence in sequences]
        windows = [(which, start) for which, text in enumerate(letters) for start in window_starts(len(text))]
        texts = [letters[which][start : start + MAX_RESIDUES] for which, start in windows]
        embeddings = [np.empty((len(text), self.width), np.float32) for text in letters]
        for part in _batches([len(text) for text in texts]):
            for index, tokens in zip(part, self._tokens([texts[index] for index in part]), strict=True):
                which, start = windows[index]
                first, last = window_core(len(letters[which]), start)
                embeddings[which][first:last] = tokens[first - start : last - start]
        return embeddings

    @torch.no_grad()
    def _tokens(self, texts: Sequence[str]) -> list[np.ndarray]:
        longest = max(map(len, texts))
        numbers = torch.full((len(texts), longest + 2), PADDING)
        for row, text in enumerate(texts):
            known = [VOCABULARY.index(letter) for letter in text]
            numbers[row, : len(text) + 2] = torch.tensor([BEGIN, *known, END])
        numbers = numbers.to(next(self.network.parameters()).device)
        hidden: Tensor = self.network(input_ids=numbers, attention_mask=numbers != PADDING).last_hidden_state
        return [row[1 : len(text) + 1].float().cpu().numpy() for row, text in zip(hidden, texts, strict=True)]


def window_starts(length: int) -> list[int]:
    """First residues of the windows that cover a sequence; the last window ends at its end."""
    last = max(0, length - MAX_RESIDUES)
    return sorted({*range(0, last, MAX_RESIDUES // 2), last})


def window_core(length: int, start: int) -> tuple[int, int]:
    """The range of residues whose tokens are those of the window at `start`."""
    starts = window_starts(length)
    index = starts.index(start)
    edges = [0, *((one + other + MAX_RESIDUES) // 2 for one, other in zip(starts, starts[1:], strict=False)), length]
    return edges[index], edges[index + 1]


def _batches(lengths: Sequence[int]) -> list[list[int]]:
    """Batches of indices of sequences, of similar length and at most `CHUNK` residues."""
    parts: list[list[int]] = []
    for index in sorted(range(len(lengths)), key=lambda index: -lengths[index]):
        if not parts or (len(parts[-1]) + 1) * lengths[parts[-1][0]] > CHUNK:
            parts.append([])
        parts[-1].append(index)
    return parts


def _check_vocabulary(folder: Path, size: int) -> None:
    vocabulary = folder / "vocab.txt"
    lines = vocabulary.read_text(encoding="utf-8").split() if vocabulary.is_file() else list(VOCABULARY)
    if size != len(VOCABULARY) or tuple(lines) != VOCABULARY:
        raise IntegrityError(
            f"`{folder}` is not an ESM-2: it has {size} tokens, or its `vocab.txt` has other tokens than the "
            f"{len(VOCABULARY)} of ESM-2",
            hint=f"get the folder of `{EXPECTED.source}`",
        )
