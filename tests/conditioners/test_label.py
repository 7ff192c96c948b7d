"""Class labels as vectors."""

from __future__ import annotations

import pytest
import torch

from inrflow_core.conditioners import label
from inrflow_core.conditioners.label import Config


def test_each_class_has_its_row_and_none_the_last() -> None:
    torch.manual_seed(0)
    module = label.build(Config(classes=4), width=8)
    vectors = module({"label": torch.tensor([0, 3, -1])}).vector
    torch.testing.assert_close(vectors, module.table.weight[[0, 3, 4]], rtol=0, atol=0)


def test_a_dropped_label_is_none() -> None:
    torch.manual_seed(0)
    module = label.build(Config(classes=4), width=8)
    vectors = module({"label": torch.tensor([0, 3, 2])}, torch.tensor([True, False, True])).vector
    torch.testing.assert_close(vectors, module({"label": torch.tensor([-1, 3, -1])}).vector, rtol=0, atol=0)
    torch.testing.assert_close(vectors[::2], module.null_condition(2).vector, rtol=0, atol=0)


def test_only_the_requested_rows_learn() -> None:
    module = label.build(Config(classes=4), width=8)
    module({"label": torch.tensor([1, -1])}).vector.sum().backward()
    assert module.table.weight.grad is not None
    assert module.table.weight.grad.abs().sum(1).nonzero().flatten().tolist() == [1, 4]


def test_labels_add_a_row_for_each_class_and_one_for_none() -> None:
    module = label.build(Config(classes=1000), width=1152)
    assert sum(weight.numel() for weight in module.parameters()) == 1001 * 1152
    assert 0.019 < module.table.weight.std().item() < 0.021


def test_settings_that_cannot_be_are_refused() -> None:
    with pytest.raises(ValueError, match="`classes` is 0: at least 1"):
        Config(classes=0)
    with pytest.raises(ValueError, match="`dropout` is 1.0: from 0 to below 1"):
        Config(classes=3, dropout=1.0)
