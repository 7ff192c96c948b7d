"""No array of an HDF5 file takes more memory than its bytes can hold, and only plain files are opened."""

from __future__ import annotations

import os
import shutil
from pathlib import Path

import h5py
import numpy as np
import pytest

from inrflow_core.errors import IntegrityError
from inrflow_core.shards.hdf5 import array_at, open_hdf5_safely
from inrflow_core.shards.schema import Header, ShardColumns
from inrflow_core.shards.shard_file import ShardFile
from inrflow_core.shards.writer import write

HUGE = 1_000_000_000


@pytest.mark.parametrize(
    "options",
    [{}, {"chunks": (1 << 16,)}, {"chunks": (1 << 16,), "compression": "gzip"}],
    ids=["unallocated", "chunks", "gzip"],
)
def test_an_array_that_states_more_than_the_file_holds_is_refused(tmp_path: Path, options: dict):
    with h5py.File(tmp_path / "a.h5", "w") as file:
        file.create_dataset("labels", shape=(HUGE,), dtype="<i8", **options)
    with (
        pytest.raises(IntegrityError, match=r"holds an array that states 8,000,000,000 bytes and has 0"),
        open_hdf5_safely(tmp_path / "a.h5"),
    ):
        pass


def test_an_array_that_is_packed_well_is_read(tmp_path: Path):
    with h5py.File(tmp_path / "a.h5", "w") as file:
        file.create_dataset("zeros", data=np.zeros(1 << 20, np.uint8), compression="gzip", chunks=(1 << 18,))
    with open_hdf5_safely(tmp_path / "a.h5") as file:
        assert array_at(file, "zeros").shape == (1 << 20,)


def test_a_pipe_and_a_loop_of_links_are_not_opened(tmp_path: Path):
    os.mkfifo(tmp_path / "pipe.h5")
    (tmp_path / "loop.h5").symlink_to("loop.h5")
    for name, reason in (("pipe.h5", "is a pipe or a device"), ("loop.h5", "cannot be opened")):
        with pytest.raises(IntegrityError, match=reason), open_hdf5_safely(tmp_path / name):
            pass


@pytest.fixture
def shard(tmp_path: Path) -> Path:
    header = Header("image", "data", "test")
    columns = ShardColumns(labels=np.arange(3), names=["a", "b", "c"])
    write(tmp_path / "s.h5", header, [np.zeros((3, 2, 2, 1), np.uint8)], columns, shape=(3, 2, 2, 1), dtype="uint8")
    return tmp_path / "s.h5"


def test_columns_of_a_shard_are_of_one_piece(shard: Path, tmp_path: Path):
    assert ShardFile(shard).names == ["a", "b", "c"]
    copy = tmp_path / "copy.h5"
    shutil.copyfile(shard, copy)
    with h5py.File(copy, "r+") as file:
        del file["labels"]
        file.create_dataset("labels", data=np.arange(3), chunks=(3,), compression="gzip")
    with pytest.raises(IntegrityError, match="`labels` is not an array of one piece"):
        ShardFile(copy)


@pytest.mark.parametrize("names", [np.array(["a", "b"], "S1"), np.arange(3)], ids=["two names", "numbers"])
def test_a_shard_has_one_name_for_each_set(shard: Path, names: np.ndarray):
    with h5py.File(shard, "r+") as file:
        del file["names"]
        file.create_dataset("names", data=names)
    with pytest.raises(IntegrityError, match="`names` does not have a text for each set"):
        _ = ShardFile(shard).names
