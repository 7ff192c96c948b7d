"""Words as numbers: the same on every machine, whatever the case and the script."""

from __future__ import annotations

import numpy as np

from inrflow_core.feature_networks import _contract, words


def test_the_numbers_of_words_never_change() -> None:
    assert [words.number_of(word) for word in ("a", "tall", "größer")] == [1_598_734_323, 1_031_129_229, 123_135_948]


def test_words_are_compared_without_case_and_punctuation_in_any_script() -> None:
    embedder = _contract.load("words")
    assert words.words_of("A LOW, wide-ish Table!") == ["a", "low", "wide", "ish", "table"]
    one, other, strange, none = embedder(["Größer 椅子", "grösser? größer (椅子)", "ﬁne", "?! …"])
    assert one[:3].tolist() == [*other[1:3].tolist(), 0] and (one[:2] > 0).all()
    assert strange[0] == embedder(["fine"])[0, 0]
    assert not none.any() and embedder.num_tokens("?! …") == 0


def test_words_after_77_are_cut_off_and_counted() -> None:
    embedder = _contract.load("words")
    long = " ".join(f"word{n}" for n in range(10_000))
    numbers = embedder([long, "word0"])
    assert numbers.shape == (2, 77) and numbers.dtype == np.int32 and (numbers[0] > 0).all()
    assert embedder.num_tokens(long) == 10_000 and numbers[0, 0] == numbers[1, 0]
    assert len(set(numbers[0].tolist())) == 77
