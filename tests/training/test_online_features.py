"""Models that make their features themselves draw by the embedder that they were trained with, and by no other."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from inrflow_core import errors
from inrflow_core.errors import IntegrityError
from inrflow_core.proteins import fasta
from inrflow_core.sampling import condition_inputs, request, sample
from inrflow_core.shards.shard_dataset import ShardDataset
from tests import conditioned, tiny


def test_items_are_embedded_as_in_training_or_not_at_all(tmp_path: Path):
    shards = ShardDataset(conditioned.objects(tmp_path / "shards", {"val": 2}))
    model = tiny.model(tiny.IMAGE_TO_POINTS, condition={"features": "online"})
    other = replace(model, metadata={"normalization": {"embedder_digest": "f" * 64}})
    with pytest.raises(IntegrityError, match="patches-1, and `tiny` was trained with ffff"):
        condition_inputs.conditions_from_shards(other, shards, "val", [0, 1])
    condition = condition_inputs.conditions_from_shards(
        replace(model, metadata={"normalization": {"embedder_digest": "patches-1"}}), shards, "val", [0, 1]
    )
    assert set(condition) == {"image", "camera"} and model.method.conditioner.is_ready
    ((_, clouds),) = sample.iter_samples(model, request.SampleRequest([0, 1], condition=condition))
    assert np.isfinite(clouds).all()


def test_a_stop_ends_a_sequence_and_a_byte_order_mark_begins_a_file(tmp_path: Path):
    (tmp_path / "a.fa").write_text("\ufeff>one\nMK\nTA*\n", encoding="utf-8")
    assert fasta.read_fasta(tmp_path / "a.fa") == [("one", "MKTA")]
    (tmp_path / "b.fa").write_text(">two\nMK*\nTA\n", encoding="utf-8")
    with pytest.raises(errors.UsageError, match=r"`two` in .* `\*` at 3"):
        fasta.read_fasta(tmp_path / "b.fa")
