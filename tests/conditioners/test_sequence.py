"""Sequences as features of their residues, stored, one-hot, or made in training."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch

from inrflow_core.conditioners import sequence
from inrflow_core.conditioners.sequence import Config
from inrflow_core.errors import MissingError
from inrflow_core.feature_networks import _contract
from inrflow_core.proteins import residues
from tests import tiny
from tests.feature_networks import test_esm2

CHAINS = ("MKTWAYG", "GG")


def codes() -> torch.Tensor:
    rows = [torch.from_numpy(residues.to_codes(chain).astype(np.int64)) for chain in CHAINS]
    return torch.nn.utils.rnn.pad_sequence(rows, batch_first=True, padding_value=-1)


def test_one_hot_residues_are_those_of_the_stand_in() -> None:
    embedding = sequence.build(Config("one-hot", 20), 16)({"residues": codes()})
    assert embedding.features is not None and embedding.is_group is not None
    for row, expected in enumerate(_contract.load("one-hot")(CHAINS)):
        np.testing.assert_array_equal(embedding.features[row, : len(expected)].numpy(), expected)
    assert embedding.features[1, 2:].abs().max() == 0
    assert embedding.is_group.tolist() == [[True] * 7, [True] * 2 + [False] * 5]


def test_features_made_in_training_are_those_that_shards_store(tmp_path: Path) -> None:
    folder = test_esm2.published(tmp_path / "esm2")
    stored = torch.zeros(2, 7, 32, dtype=torch.float16)
    for row, embedding in enumerate(_contract.load("esm2", folder)(CHAINS)):
        stored[row, : len(embedding)] = torch.from_numpy(embedding)
    config = Config(width=32, features="online", weights=str(folder))
    online = sequence.build(config, 16)({"residues": codes()})
    offline = sequence.build(Config(width=32), 16)({"residues": codes(), "embedding": stored})
    assert online.features is not None and offline.features is not None
    torch.testing.assert_close(online.features, offline.features, atol=2e-3, rtol=1e-3)
    with torch.autocast("cpu", torch.bfloat16):
        again = sequence.build(config, 16)({"residues": codes()})
    torch.testing.assert_close(again.features, online.features, atol=1e-5, rtol=1e-5)


def test_what_is_behind_a_chains_end_is_never_seen() -> None:
    stored = torch.full((2, 7, 32), 9.0)
    embedding = sequence.build(Config(width=32), 16)({"residues": codes(), "embedding": stored})
    assert embedding.features is not None and embedding.features[1, 2:].abs().max() == 0


def test_a_sequence_is_never_dropped() -> None:
    assert tiny.model(tiny.PROTEIN).method.is_guidable is False


def test_a_blank_condition_has_the_shapes_of_a_real_one() -> None:
    sets = tiny.model(tiny.PROTEIN).domain.dummy_batch(2)
    assert sequence.build(Config("one-hot", 20), 16).dummy_batch(sets) == {}
    assert sequence.build(Config(width=32), 16).dummy_batch(sets)["embedding"].shape == (2, 6, 32)


def test_weights_that_are_absent_are_named(tmp_path: Path) -> None:
    config = Config(features="online", weights=str(tmp_path / "none"))
    with pytest.raises(MissingError, match="there is no folder"):
        sequence.build(config, 16)({"residues": codes()})


def test_what_is_read_from_the_shards_follows_the_setting() -> None:
    assert sequence.required_conditions(Config()) == ("embedding",)
    assert sequence.required_conditions(Config(features="online")) == ()
    assert sequence.required_conditions(Config("one-hot", 20)) == ()


def test_settings_that_cannot_be_are_refused() -> None:
    with pytest.raises(ValueError, match="`width` is 0"):
        Config(width=0)
    with pytest.raises(ValueError, match="20 with `embedder = one-hot`"):
        Config("one-hot", 30)
