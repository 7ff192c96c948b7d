"""Shared by the data sets of shapes with descriptions: texts as conditions of shards.

`descriptions` are the bytes of a shape's texts in UTF-8, one a line; `text_tokens` has a row for each of them (the conditioner
`text`), of an embedder whose name and digest the manifest records.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np

from inrflow_core.datasets import _stored_features
from inrflow_core.feature_networks._contract import MAX_TEXT_TOKENS

PLACEHOLDER = "words"
TEXT, TOKENS = "descriptions", "text_tokens"
MAX_CHARACTERS = 4096
"""Characters of a text that are read: more than 77 tokens of any language have."""


def check(embedder: str) -> None:
    """Raise UsageError or ValueError unless an embedder reads texts."""
    _stored_features.check(embedder, "text", "`clip-text` and `words`")


def origin(config: Any) -> dict[str, str]:
    """The embedder of the tokens and its digest; raises MissingError where its weights are absent."""
    return _stored_features.stored_origin(config, PLACEHOLDER)


def cleaned(text: str) -> str:
    """A text in one line, of at most one character more than are read, by which `is_cut` knows that there are more."""
    return " ".join(text.split())[: MAX_CHARACTERS + 1]


def is_cut(text: str, config: Any) -> bool:
    """Whether a text has more characters or tokens than are read."""
    return len(text) > MAX_CHARACTERS or _stored_features.embedder(config).num_tokens(text) > MAX_TEXT_TOKENS


def conditions(texts: Sequence[str], config: Any) -> dict[str, np.ndarray]:
    """The texts of a shape, each in one line, and their tokens; none of either for a shape without texts."""
    read = [text[:MAX_CHARACTERS] for text in texts]
    content = "\n".join(read).encode(errors="surrogatepass")
    tokens = _stored_features.embedder(config)(read)
    stored = tokens.astype(np.float16) if tokens.dtype.kind == "f" else tokens
    return {TEXT: np.frombuffer(content, dtype=np.uint8), TOKENS: stored}


def condition_bytes(config: Any, texts: float) -> int:
    """Bytes of the conditions of a shape with that many texts, about."""
    width = _stored_features.embedder(config).width
    size = 4 if config.embedder == PLACEHOLDER else 2 * width
    return round(texts * (MAX_TEXT_TOKENS * size + 60))
