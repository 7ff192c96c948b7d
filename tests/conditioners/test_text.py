"""Texts as tokens: an empty text is a dropped one, padding is not read, guidance is what the paper writes."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from inrflow_core.conditioners import text
from inrflow_core.conditioners._contract import ModelEmbedder
from inrflow_core.conditioners.text import TOKENS, Config, TextInput
from inrflow_core.config.preset import load
from inrflow_core.datasets._solid_captions import PROPORTIONS
from inrflow_core.errors import IntegrityError, MissingError, UsageError
from inrflow_core.feature_networks import _contract, words
from inrflow_core.models import Model
from inrflow_core.networks import set_transformer
from inrflow_core.sampling import options, sample
from inrflow_core.sets import Condition, ConditionSpec, Points, SetSpec
from tests import tiny

TEXTS = ("a tall cone", "", "cone, flat and wide")
WORDS, CLIP = Config(), Config(embedder="clip-text", width=6)


def stored(config: Config = WORDS, texts: tuple[str, ...] = TEXTS) -> Condition:
    """Tokens of texts as in shards; for CLIP random ones of as many tokens as the text has words."""
    numbers = torch.from_numpy(_contract.load("words")(texts))
    if config.embedder == "words":
        return {TOKENS: numbers}
    features = torch.randn(*numbers.shape, config.width, generator=torch.Generator().manual_seed(0))
    return {TOKENS: torch.where(numbers[..., None] != 0, features, 0).half()}


def built(config: Config = WORDS) -> text.TextConditioner:
    torch.manual_seed(0)
    return text.build(config, width=16)


@pytest.mark.parametrize("config", [WORDS, CLIP], ids=["words", "clip-text"])
def test_an_empty_text_a_dropped_one_and_no_condition_are_one_to_the_bit(config: Config) -> None:
    module, condition = built(config), stored(config)
    whole, dropped = module(condition), module(condition, torch.tensor([True, False, True]))
    for embedding, rows in ((whole, [1]), (dropped, [0, 1, 2])):
        nothing = module.null_condition(len(rows))
        assert embedding.tokens is not None and embedding.is_token is not None
        assert nothing.tokens is not None and nothing.is_token is not None
        assert torch.equal(embedding.tokens[rows], nothing.tokens) and torch.equal(
            embedding.is_token[rows], nothing.is_token
        )
    assert whole.is_token is not None and whole.is_token.sum(1).tolist() == [3, 1, 4]
    assert whole.tokens is not None and not whole.tokens[~whole.is_token].any()


def test_a_word_has_one_row_wherever_it_is_and_positions_tell_the_order() -> None:
    module = built()
    tokens = module(stored(texts=("tall cone", "cone tall"))).tokens
    assert tokens is not None and module.positions is not None
    torch.testing.assert_close(tokens[0, 0] - module.positions[0], tokens[1, 1] - module.positions[1])
    assert not torch.allclose(tokens[0, :2], tokens[1, :2].flip(0), atol=1e-3)


def test_words_of_the_demos_captions_have_rows_of_their_own() -> None:
    part = load("solids-text-ddmi-demo").condition
    assert part is not None
    known = {word for rules in PROPORTIONS.values() for rule in rules for word in (rule.low_word, rule.high_word)}
    known |= {*PROPORTIONS, "a", "an", "and"}
    assert len({(words.number_of(word) - 1) % part.config.vocabulary for word in known}) == len(known) == 19


def sampled(model: Model, guidance: float | None, condition: Condition) -> np.ndarray:
    settings: dict[str, Any] = {} if guidance is None else {"guidance": guidance}
    field = sample.sample_fields(
        model, range(3), options=options.sampling_options(model, **settings), condition=condition
    )
    return field.query(model.domain.queries()).numpy()


def test_guidance_0_is_the_unconditional_and_1_the_conditional_model_to_the_bit() -> None:
    """The paper's e(empty) + w (e(text) - e(empty)); the solver's steps differ by as much as the velocities do."""
    model = tiny.model(tiny.TEXT)
    texts, empty = stored(), stored(texts=("",) * 3)
    without, with_text = sampled(model, 1.0, empty), sampled(model, 1.0, texts)
    np.testing.assert_array_equal(sampled(model, 0.0, texts), without)
    np.testing.assert_array_equal(sampled(model, None, texts), with_text)
    np.testing.assert_array_equal(sampled(model, 3.0, texts)[1], without[1], err_msg="an empty text guides nowhere")
    assert np.abs(with_text[0] - without[0]).mean() > 1e-3 * np.abs(without[0]).mean()
    assert np.abs(sampled(model, 3.0, texts)[0] - with_text[0]).max() > 1e-4


def test_one_step_of_guidance_is_the_papers_sum() -> None:
    model, w = tiny.model(tiny.TEXT, sampler={"name": "euler", "steps": 1}), 3.0
    chosen = options.sampling_options(model, guidance=w)
    method, noise = model.method, torch.randn(3, model.method.autoencoder.latent_spec.num_queries, 3)
    field = method.sample(model.domain.queries(), torch.arange(3), stored(), chosen)
    made = field._velocity(noise, torch.full((3,), 0.5, dtype=torch.float64), field._condition_embeddings())
    t = torch.full((3,), 0.5)
    empty, conditional = (
        method.denoiser.velocity(noise, t, each)
        for each in (method.null_condition(3), method.embed_condition(stored()))
    )
    torch.testing.assert_close(made, empty + w * (conditional - empty))


def test_training_drops_a_tenth_of_the_texts() -> None:
    model = tiny.model(tiny.TEXT)
    model.method.train()
    dropped = model.method._dropped(torch.arange(4000))
    assert abs(dropped.double().mean() - 0.1) < 0.02


def test_a_text_that_is_too_long_is_an_error_and_77_words_are_not() -> None:
    encode = text.make_encoder(Config(), ModelEmbedder("tiny", None, "cpu", lambda: _contract.load("words")))
    rows = encode(TextInput(("word " * 77, "tall")))[TOKENS]
    assert (rows != 0).sum(1).tolist() == [77, 1]
    with pytest.raises(UsageError, match="the text has 10,000 tokens, and `tiny` reads 77"):
        encode(TextInput(("word " * 10_000,)))
    with pytest.raises(UsageError, match="line 4 of the texts has 78 tokens"):
        encode(TextInput(("tall", "word " * 78), (1, 4)))


def test_a_file_of_texts_has_one_a_line(tmp_path: Path) -> None:
    path = tmp_path / "texts.txt"
    path.write_text("\ufeffa tall cone\n\n  ein größerer Tisch \n", encoding="utf-8")
    assert text.input_from_options({"text": None, "texts": path}) == TextInput(
        ("a tall cone", "ein größerer Tisch"), (1, 3)
    )
    path.write_text("a cone\x0bof stone\r\na box", encoding="utf-8")
    assert text.input_from_options({"text": None, "texts": path}).lines == (1, 2)
    path.write_text("a\n" * 10_001, encoding="utf-8")
    with pytest.raises(UsageError, match="has 10,001 texts"):
        text.input_from_options({"text": None, "texts": path})
    with pytest.raises(UsageError, match="`--text` has bytes that are not UTF-8"):
        text.input_from_options({"text": "caf\udce9", "texts": None})
    path.write_bytes(b"caf\xe9\n")
    with pytest.raises(IntegrityError, match="is not a text in UTF-8"):
        text.input_from_options({"text": None, "texts": path})
    path.write_text("\n \n", encoding="utf-8")
    with pytest.raises(UsageError, match="has no text"):
        text.input_from_options({"text": None, "texts": path})
    with pytest.raises(MissingError, match="missing.txt"):
        text.input_from_options({"text": None, "texts": tmp_path / "missing.txt"})


def test_settings_of_another_embedder_and_networks_that_read_no_padding_are_refused() -> None:
    refused: list[dict[str, Any]] = [{"width": 3}, {"weights": "x"}, {"vocabulary": 3, "embedder": "clip-text"}]
    for settings in refused:
        with pytest.raises(ValueError, match="is set, and `embedder` is"):
            Config(**settings)
    config = set_transformer.Config(width=32, depth=1, heads=2, latents=4)
    with pytest.raises(UsageError, match="reads as many tokens of every condition"):
        set_transformer.build(config, SetSpec(3, 3, Points(8)), text.spec(Config()))
    assert ConditionSpec(tokens=77, is_padded=True) == text.spec(Config())
