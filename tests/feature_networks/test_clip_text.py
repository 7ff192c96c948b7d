"""CLIP's text encoder: a folder as it is published is read, and a text's tokens depend on that text alone."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch

from inrflow_core.errors import IntegrityError, MissingError
from inrflow_core.feature_networks import clip_text
from tests.feature_networks.hf_folders import clip


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return clip(tmp_path_factory.mktemp("weights") / "clip-text")


def test_tokens_are_those_of_the_whole_clip_by_transformers(folder: Path) -> None:
    transformers = pytest.importorskip("transformers")
    embedder = clip_text.load(folder)
    model = transformers.CLIPModel.from_pretrained(folder).eval()
    numbers = torch.tensor([embedder.tokenizer.encode("a tall cone").ids])
    assert numbers.shape == (1, 5) and embedder.num_tokens("a tall cone") == 5
    with torch.no_grad():
        expected = model.text_model(input_ids=numbers).last_hidden_state
    (made,) = embedder(["a tall cone"])
    assert (made.shape, embedder.width) == ((77, 16), 16)
    np.testing.assert_allclose(made[:5], expected[0].numpy(), rtol=1e-5, atol=1e-5)
    assert not made[5:].any() and np.abs(made[:5]).sum(1).min() > 0.1


def test_a_text_depends_on_itself_alone_and_an_empty_one_has_no_token(folder: Path) -> None:
    embedder = clip_text.load(folder)
    alone, together = embedder(["cone"]), embedder(["a tall cone " * 20, "cone", "", " "])
    np.testing.assert_allclose(together[1], alone[0], rtol=1e-5, atol=1e-6)
    assert not together[2:].any()


def test_a_long_text_is_cut_by_tokens_and_keeps_its_last_mark(folder: Path) -> None:
    embedder = clip_text.load(folder)
    long = "tall " * 10_000
    assert embedder.num_tokens(long) == 10_002
    numbers = embedder._numbers(long)
    assert len(numbers) == 77 and numbers[-1] == embedder._numbers("tall")[-1]
    assert np.abs(embedder([long])[0]).sum(1).min() > 0.1


def test_the_digest_is_of_the_weights_and_the_tokenizer(folder: Path, tmp_path: Path) -> None:
    other = clip(tmp_path / "other", words=("a", "tall", "torus"))
    assert len({clip_text.load(folder).digest, clip_text.load(folder).digest, clip_text.load(other).digest}) == 2


@pytest.mark.parametrize(
    ("content", "error", "message"),
    [
        (None, MissingError, "holds no `tokenizer.json`"),
        ("{", IntegrityError, "cannot be read as a tokenizer"),
        ("{}", IntegrityError, "cannot be read as a tokenizer"),
    ],
)
def test_a_tokenizer_that_cannot_be_read_is_an_error(content, error, message, tmp_path: Path) -> None:
    folder = clip(tmp_path / "clip-text")
    (folder / "tokenizer.json").unlink()
    if content is not None:
        (folder / "tokenizer.json").write_text(content, encoding="utf-8")
    with pytest.raises(error, match=message):
        clip_text.load(folder)


def test_a_tokenizer_of_more_tokens_or_without_marks_is_an_error(tmp_path: Path) -> None:
    folder = clip(tmp_path / "clip-text")
    clip(tmp_path / "larger", words=tuple(f"word{n}" for n in range(100)), vocabulary=200)
    (folder / "tokenizer.json").write_bytes((tmp_path / "larger" / "tokenizer.json").read_bytes())
    with pytest.raises(IntegrityError, match=r"has 103 tokens, and the network beside it has 50 at 77 positions"):
        clip_text.load(folder)
    clip(tmp_path / "plain", marks=False)
    (folder / "tokenizer.json").write_bytes((tmp_path / "plain" / "tokenizer.json").read_bytes())
    with pytest.raises(IntegrityError, match="does not mark the beginning and the end"):
        clip_text.load(folder)
