"""CLIP's tokenizer: a text as the numbers of its tokens between two marks, by the package `tokenizers`."""

from __future__ import annotations

import importlib
from pathlib import Path
from typing import Any, NamedTuple

from inrflow_core.errors import IntegrityError, MissingError, UsageError
from inrflow_core.feature_networks._contract import MAX_TEXT_TOKENS
from inrflow_core.storage import plain_file

FILE = "tokenizer.json"
MAX_BYTES = 64 << 20
"""Bytes of a tokenizer; OpenAI's has 2 MB."""


class Size(NamedTuple):
    """What the network beside a tokenizer reads."""

    tokens: int
    """Rows of its table."""
    positions: int


def read(file: Path, network: Size, hint: str) -> Any:
    """The tokenizer of a file, without its own limits of length.

    Raises:
        MissingError: there is no such file.
        UsageError: the package is not installed.
        IntegrityError: it cannot be read, has more tokens than the network, or does not mark beginning and end.
    """
    if not file.is_file():
        raise MissingError(f"`{file.parent}` holds no `{file.name}`, which divides texts into tokens", hint=hint)
    try:
        tokenizers = importlib.import_module("tokenizers")
    except ImportError as error:
        raise UsageError(
            f"`{file.name}` is read by the package `tokenizers`, which is not installed",
            hint='`pip install "inrflow[pretrained]"`',
        ) from error
    content = plain_file.read_plain_file(file, MAX_BYTES, hint=hint)
    try:
        tokenizer = tokenizers.Tokenizer.from_str(content.decode())
    except Exception as error:  # `tokenizers` raises no narrower class
        raise IntegrityError(f"`{file}` cannot be read as a tokenizer: {error}", hint=hint) from error
    tokenizer.no_truncation()
    tokenizer.no_padding()
    if tokenizer.get_vocab_size() > network.tokens or network.positions < MAX_TEXT_TOKENS:
        raise IntegrityError(
            f"`{file}` has {tokenizer.get_vocab_size():,} tokens, and the network beside it has {network.tokens:,} at "
            f"{network.positions} positions",
            hint=hint,
        )
    if len(tokenizer.encode("").ids) != 2:
        raise IntegrityError(f"`{file}` does not mark the beginning and the end of a text", hint=hint)
    return tokenizer


def numbers(tokenizer: Any, text: str) -> list[int]:
    """The tokens of a text with its two marks; of more than 77 the first 76 and the last mark."""
    whole: list[int] = tokenizer.encode(text).ids
    return whole if len(whole) <= MAX_TEXT_TOKENS else [*whole[: MAX_TEXT_TOKENS - 1], whole[-1]]
