"""Batches as a pure function of seed, step and place."""

from __future__ import annotations

import pytest
import torch

from inrflow_core.config.training import DataConfig
from inrflow_core.errors import IntegrityError, UsageError
from inrflow_core.shards.shard_dataset import ShardDataset
from inrflow_core.training import data
from inrflow_core.training.loader import Loader, split_batch
from tests.training import small


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    return small.images(tmp_path_factory.mktemp("loader") / "shards", count=33)


def loader(folder, num_classes: int = 3, **config) -> Loader:
    condition = {"name": "label", "classes": num_classes}
    preset = small.preset(data={"path": str(folder), **config}, condition=condition)
    return data.open_data(preset, None)[0]


def test_processes_together_see_the_batch_that_one_sees(folder):
    it = loader(folder)
    whole = it.batch(7, range(4))
    parts = [it.batch(7, range(i, i + 1)) for i in (3, 2, 1, 0)]
    for index, part in zip((3, 2, 1, 0), parts, strict=True):
        assert torch.equal(part.values[0], whole.values[index])
        assert part.seeds[0] == whole.seeds[index]
        assert part.condition["label"][0] == whole.condition["label"][index]


def test_an_epoch_shows_every_example_once_and_the_next_in_another_order(folder):
    it = loader(folder)
    assert len(it) == 22
    seen = torch.cat([it.batch(step, range(4)).values.flatten(1) for step in range(11)])
    first, second = seen[:22], seen[22:]
    stored = torch.cat(
        [
            it.domain.to_set(it.shards.read("train", [i]), it.batch(0, range(1)).seeds).values.flatten(1)
            for i in range(22)
        ]
    )
    assert (
        sorted(map(tuple, first.tolist())) == sorted(map(tuple, stored.tolist())) == sorted(map(tuple, second.tolist()))
    )
    assert not torch.equal(first, second)


def test_seeds_differ_between_steps_and_places(folder):
    it = loader(folder)
    seeds = torch.cat([it.batch(step, range(4)).seeds for step in range(50)])
    assert len(seeds.unique()) == 200 and int(seeds.min()) >= 0


def test_batches_read_ahead_are_the_requested_ones(folder):
    it = loader(folder)
    expected = [(step, range(start, start + 2)) for step in range(20) for start in (0, 2)]
    stream = it.stream(expected, torch.device("cpu"), 2, prepare=lambda batch: batch)
    stored = []
    for (step, indices), sets in zip(expected, (batch.context for batch in stream), strict=True):
        stored.append(sets)  # kept on purpose: buffers are used again and again
        assert torch.equal(sets.values, it.batch(step, indices).values)
    for (step, indices), sets in zip(expected, stored, strict=True):
        assert torch.equal(sets.values, it.batch(step, indices).values)
    stream.close()


def test_an_error_in_the_reading_thread_reaches_the_caller(tmp_path):
    copy = small.images(tmp_path / "shards")
    it = loader(copy)
    for shard in copy.glob("train-*.h5"):
        with shard.open("r+b") as file:
            file.truncate(100)
    stream = it.stream([(0, range(4))], torch.device("cpu"), 2, prepare=lambda batch: batch)
    with pytest.raises(IntegrityError, match="train-0000.*.h5"):
        next(stream)
    stream.close()


def test_chosen_classes_are_numbered_in_their_order(folder):
    it = loader(folder, 2, classes=["flat", "up"])
    shards = ShardDataset(folder)
    labels = shards.labels("train")
    assert it.classes == ["flat", "up"] and len(it) == int((labels != 1).sum())
    sets = it.batch(0, range(len(it)))
    brightness = sets.values.mean((1, 2))
    is_flat = sets.condition["label"] == 0
    assert brightness[is_flat].min() > brightness[~is_flat].max()


def test_a_class_and_a_split_that_are_not_there_are_named(folder):
    with pytest.raises(UsageError, match="`dwon`") as caught:
        loader(folder, classes=["dwon"])
    assert caught.value.hint == "did you mean `down`?"
    with pytest.raises(UsageError, match="no split `trian`") as caught:
        loader(folder, train="trian")
    assert caught.value.hint == "did you mean `train`?"
    with pytest.raises(ValueError, match="has a duplicate"):
        DataConfig("x", classes=("a", "a"))


def test_shares_cover_the_batch_once():
    indices = [
        index for rank in range(3) for part in split_batch(batch=24, rank=rank, size=3, micro=4) for index in part
    ]
    assert indices == list(range(24))
    assert list(split_batch(batch=8, rank=1, size=2, micro=None)) == [range(4, 8)]
    assert split_batch(batch=8, rank=1, size=2, micro=2)[1:] == [range(6, 8)]


def test_micro_batches_of_a_large_batch_are_not_stored_and_its_divisors_are_found_at_once():
    parts = split_batch(batch=10**12, rank=0, size=1, micro=1)
    assert len(parts) == 10**12 and parts[-1] == range(10**12 - 1, 10**12)
    with pytest.raises(UsageError, match="micro-batches of 7 do not divide") as caught:
        split_batch(batch=10**10, rank=0, size=1, micro=7)
    assert caught.value.hint is not None and caught.value.hint.count(",") == 120
    with pytest.raises(IndexError):
        parts[10**12]


def test_a_batch_that_does_not_divide_is_an_error():
    with pytest.raises(UsageError, match="batch of 7 does not divide over 2"):
        split_batch(batch=7, rank=0, size=2, micro=None)
    with pytest.raises(UsageError, match="micro-batches of 3 do not divide the 4") as caught:
        split_batch(batch=8, rank=0, size=2, micro=3)
    assert caught.value.hint == "change `[training] micro_batch`: 1, 2, 4"
