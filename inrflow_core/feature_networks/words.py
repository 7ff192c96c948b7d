"""Words as numbers: a stand-in for a text encoder that needs no weights.

A token is a word in lower case, hashed to a number that is the same on every machine; what a word means is learned with the
model that reads it. Punctuation is left out, and letters are those of any script.
"""

from __future__ import annotations

import hashlib
import re
import unicodedata
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from jaxtyping import Int32

from inrflow_core.feature_networks._contract import MAX_TEXT_TOKENS

KIND = "embedder"
DOMAIN = "text"
IS_PLACEHOLDER = True
WORD = re.compile(r"\w+")
LAST_NUMBER = 2**31 - 1


def load(folder: Path | None, device: torch.device | str = "cpu") -> Words:
    """The embedder, which has no weights."""
    assert folder is None, "a placeholder has no folder"
    return Words()


@dataclass(frozen=True)
class Words:
    """The number of each word, from 1 to 2^31 - 1, independent of its neighbors."""

    name: str = "words"
    width: int = 1
    digest: str = "words-1"

    def __call__(self, texts: Sequence[str]) -> Int32[np.ndarray, "T 77"]:
        """The numbers of the first 77 words of each text, then 0."""
        numbers = np.zeros((len(texts), MAX_TEXT_TOKENS), dtype=np.int32)
        for row, text in enumerate(texts):
            known = [number_of(word) for word in words_of(text)[:MAX_TEXT_TOKENS]]
            numbers[row, : len(known)] = known
        return numbers

    def num_tokens(self, text: str) -> int:
        """The words of a text, also those beyond 77."""
        return len(words_of(text))


def words_of(text: str) -> list[str]:
    """The words of a text in lower case."""
    return WORD.findall(unicodedata.normalize("NFKC", text).lower())


def number_of(word: str) -> int:
    """The number of a word in lower case, from 1 to 2^31 - 1: of SHA-256, so that it never changes."""
    return 1 + int.from_bytes(hashlib.sha256(word.encode(errors="surrogatepass")).digest()[:8], "big") % LAST_NUMBER
