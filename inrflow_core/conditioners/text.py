"""A text as tokens that a U-Net reads by cross-attention; an empty text is one learned token, as is a dropped one.

Source: DDMI (arXiv:2401.12517), text to shape: the tokens of CLIP's text encoder, dropped for a tenth of the sets. The embedder
`words` is a stand-in without weights: each word's number chooses a row of a trained table, and its position adds another.
"""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, fields
from pathlib import Path
from typing import Any, Literal, NamedTuple

import torch
from jaxtyping import Bool, Float, Shaped
from torch import Tensor, nn

from inrflow_core.conditioners._contract import ModelEmbedder, StoredFeatures
from inrflow_core.errors import IntegrityError, UsageError
from inrflow_core.feature_networks._contract import MAX_TEXT_TOKENS
from inrflow_core.proteins.structure import Structure
from inrflow_core.sets import Condition, ConditionEmbedding, ConditionSpec, CoordValueSet
from inrflow_core.storage import plain_file

NOUN = "texts"
TOKENS = "text_tokens"
"""The condition of shards: numbers of words, int32 (T 77), or features of tokens, float16 (T 77 S), of the T texts of a set."""
GIVEN_AS = (TOKENS,)
OPTIONS = ("--text", "--texts")
OPTION_HINT = '`--text "a tall chair"` or `--texts FILE`'
REFERENCE_METRICS = ("accuracy",)
FROM_REFERENCE = True
VIEWS = TOKENS
"""Each set has several texts; training samples one at each step."""
WORDS = "words"
OF_EMBEDDER = {"vocabulary": WORDS, "width": "clip-text", "weights": "clip-text"}
"""Settings that act with one embedder alone."""
MAX_FILE = 64 << 20
"""Bytes of a file of texts."""
MOST_TEXTS = 10_000
"""Texts of a file: the tokens of all are in memory, 118 kB each of those of CLIP."""


@dataclass(frozen=True)
class Config:
    """Settings of the condition on a text."""

    embedder: Literal["words", "clip-text"] = "words"
    """What makes the tokens: CLIP's text encoder, or `words`, which needs no weights and learns every word from the data."""
    vocabulary: int = 4096
    """Rows of the table of `words`; two words of the same row mean the same."""
    width: int = 768
    """Width of the tokens of `clip-text`."""
    weights: str | None = None
    """Folder of the weights of `clip-text`, for sampling; by default the folder that `inrflow` searches."""
    dropout: float = 0.1
    """Share of sets that train without their text, for classifier-free guidance."""

    def __post_init__(self) -> None:
        for name in ("vocabulary", "width"):
            if getattr(self, name) < 1:
                raise ValueError(f"`{name}` is {getattr(self, name)}: at least 1")
        if not 0 <= self.dropout < 1:
            raise ValueError(f"`dropout` is {self.dropout}: from 0 to below 1")
        usual = {field.name: field.default for field in fields(self)}
        for name, embedder in OF_EMBEDDER.items():
            if getattr(self, name) != usual[name] and self.embedder != embedder:
                raise ValueError(f"`{name}` is set, and `embedder` is {self.embedder}: it acts with `{embedder}` alone")


def required_conditions(config: Config) -> tuple[str, ...]:
    """Conditions of the shards that are read with the sets."""
    return (TOKENS,)


def stored_features(config: Config) -> StoredFeatures:
    """The tokens of a text."""
    return StoredFeatures(TOKENS, (MAX_TEXT_TOKENS,) if config.embedder == WORDS else (MAX_TEXT_TOKENS, config.width))


def num_classes(config: Config) -> int | None:
    """None: there are no classes."""
    return None


class TextInput(NamedTuple):
    """Texts, each the condition of one sample; seeds take them in turn."""

    texts: tuple[str, ...]
    lines: tuple[int, ...] = ()
    """The line of each in its file, from 1 on; empty for a text of the command line."""


def input_from_options(options: Mapping[str, Any]) -> TextInput:
    """The one text of `text`, or the lines of the file `texts` that are not empty.

    Raises:
        MissingError, IntegrityError: the file does not exist, or is not UTF-8.
        UsageError: it has no text or more than `MOST_TEXTS`, or a text is not UTF-8.
    """
    if options["texts"] is None:
        text = options["text"]
        if any(0xD800 <= ord(letter) <= 0xDFFF for letter in text):
            raise UsageError("`--text` has bytes that are not UTF-8", hint="write it in UTF-8")
        return TextInput((text,))
    path: Path = options["texts"]
    content = plain_file.read_plain_file(path, MAX_FILE, hint="give a file with one text a line")
    try:
        lines = content.decode("utf-8-sig").split("\n")
    except UnicodeDecodeError as error:
        raise IntegrityError(f"`{path}` is not a text in UTF-8: {error}", hint="save it as UTF-8") from error
    found = [(number, line.strip()) for number, line in enumerate(lines, start=1) if line.strip()]
    if not found:
        raise UsageError(f"`{path}` has no text", hint='write one text a line; `--text ""` samples without a text')
    if len(found) > MOST_TEXTS:
        raise UsageError(f"`{path}` has {len(found):,} texts", hint=f"give at most {MOST_TEXTS:,} in a file")
    return TextInput(tuple(text for _, text in found), tuple(number for number, _ in found))


def provenance(options: Mapping[str, Any]) -> dict[str, str]:
    """The text; of a file of texts their digest."""
    texts = input_from_options(options).texts
    if options["texts"] is None:
        return {"text": texts[0]}
    return {"texts": hashlib.sha256("\n".join(texts).encode(errors="surrogatepass")).hexdigest()[:16]}


def input_from_structure(structure: Structure) -> Any:
    """Raises UsageError: a structure has no text."""
    raise UsageError("a structure has no text", hint="give shards with texts")


def make_encoder(config: Config, embedder: ModelEmbedder) -> Callable[[TextInput], Condition]:
    """Return a function from texts to conditions, one row each.

    It raises UsageError for a text of more than 77 tokens, or if their width differs from the training.

    Raises:
        UsageError, MissingError, IntegrityError: as `ModelEmbedder.load`.
    """
    network = embedder.load()
    expected = stored_features(config).shape

    def encode(texts: TextInput) -> Condition:
        for index, text in enumerate(texts.texts):
            count = network.num_tokens(text)
            if count > MAX_TEXT_TOKENS:
                where = f"line {texts.lines[index]} of the texts" if texts.lines else "the text"
                raise UsageError(
                    f"{where} has {count:,} tokens, and `{embedder.model_name}` reads {MAX_TEXT_TOKENS}",
                    hint="shorten it",
                )
        tokens = torch.from_numpy(network(texts.texts))
        if tuple(tokens.shape[1:]) != expected:
            raise UsageError(
                f"`{config.embedder}` makes tokens of width {network.width}, but the model `{embedder.model_name}` was trained "
                f"with {config.width}",
                hint="give the weights that it was trained with",
            )
        stored = tokens.half() if tokens.is_floating_point() else tokens  # as in the shards
        return {TOKENS: stored.to(embedder.device)}

    return encode


def sample_entries(value: TextInput) -> Sequence[Mapping[str, str]]:
    """The text of each, for the file of its sample."""
    return [{"text": text} for text in value.texts]


def input_notes(value: TextInput) -> Sequence[str]:
    """Nothing."""
    return []


def spec(config: Config) -> ConditionSpec:
    """At most 77 tokens, no features."""
    return ConditionSpec(tokens=MAX_TEXT_TOKENS, is_padded=True)


def build(config: Config, width: int) -> TextConditioner:
    """The table of words, or the layer on the tokens of CLIP."""
    return TextConditioner(config, width)


class TextConditioner(nn.Module):
    """A table of words and positions, or a linear layer on features, and a learned token for an empty or dropped text."""

    def __init__(self, config: Config, width: int) -> None:
        super().__init__()
        self.config, self.dropout = config, config.dropout
        self.none = nn.Parameter(torch.randn(width))
        self.embed: nn.Embedding | nn.Linear
        self.positions: nn.Parameter | None = None
        if config.embedder == WORDS:
            self.embed = nn.Embedding(config.vocabulary, width)
            self.positions = nn.Parameter(0.1 * torch.randn(MAX_TEXT_TOKENS, width))
        else:
            self.embed = nn.Linear(config.width, width)

    def forward(self, condition: Condition, dropped: Bool[Tensor, " B"] | None = None) -> ConditionEmbedding:
        """The tokens of the texts, and which are none of padding; of an empty or dropped text the learned token alone."""
        stored = condition[TOKENS]
        is_token = stored != 0 if self.positions is not None else (stored != 0).any(-1)
        if dropped is not None:
            is_token = is_token & ~dropped[:, None]
        is_empty = ~is_token.any(1)
        first = torch.arange(MAX_TEXT_TOKENS, device=is_token.device) == 0
        is_none = is_empty[:, None] & first
        tokens = torch.where(is_token[..., None], self._embedded(stored), 0)
        tokens = torch.where(is_none[..., None], self.none.to(tokens.dtype), tokens)
        return ConditionEmbedding(tokens=tokens, is_token=is_token | is_none)

    def null_condition(self, count: int) -> ConditionEmbedding:
        """The embedding of `count` empty texts."""
        return self(self._empty(count))

    def dummy_batch(self, sets: CoordValueSet) -> Condition:
        """A condition of the sets with the right shapes, for planning."""
        return self._empty(len(sets))

    def _empty(self, count: int) -> Condition:
        shape, dtype = (
            stored_features(self.config).shape,
            torch.int32 if self.config.embedder == WORDS else torch.float16,
        )
        return {TOKENS: torch.zeros(count, *shape, dtype=dtype, device=self.none.device)}

    def _embedded(self, stored: Shaped[Tensor, "B K *S"]) -> Float[Tensor, "B K W"]:
        if self.positions is None:
            return self.embed(stored.to(self.none.dtype))
        rows = (stored.long() - 1) % self.config.vocabulary
        return self.embed(rows) + self.positions
