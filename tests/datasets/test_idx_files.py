"""MNIST and Fashion-MNIST: packed or not, anywhere below the source; a header that lies is found out."""

from __future__ import annotations

import gzip
import hashlib
import struct
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest

from inrflow_core.datasets import fashion_mnist, mnist
from inrflow_core.errors import IntegrityError, MissingError
from inrflow_core.preparation.job import resolve_job
from inrflow_core.preparation.pipeline import prepare
from inrflow_core.shards.shard_dataset import ShardDataset

PIXELS = np.random.default_rng(0).integers(0, 256, (7, 28, 28), dtype=np.uint8)
NUMBERS = np.array([3, 1, 4, 1, 5, 9, 2], dtype=np.uint8)


def idx(array: np.ndarray, *, magic: int | None = None, count: int | None = None) -> bytes:
    kind = 0x800 + array.ndim if magic is None else magic
    shape = (array.shape[0] if count is None else count, *array.shape[1:])
    return struct.pack(f">{1 + array.ndim}I", kind, *shape) + array.tobytes()


def write(folder: Path, *, packed: bool = False, **replaced: bytes) -> Path:
    folder.mkdir(parents=True, exist_ok=True)
    files = {}
    for prefix, part in (("train", slice(None)), ("t10k", slice(0, 3))):
        files[f"{prefix}-images-idx3-ubyte"] = idx(PIXELS[part])
        files[f"{prefix}-labels-idx1-ubyte"] = idx(NUMBERS[part])
    for name, content in files.items():
        content = replaced.get(name.partition("-idx")[0].replace("-", "_"), content)
        assert content is not None
        (folder / (name + ".gz" * packed)).write_bytes(gzip.compress(content) if packed else content)
    return folder


@pytest.mark.parametrize("packed", [False, True], ids=["plain", "gz"])
@pytest.mark.parametrize("below", [".", "MNIST/raw"])
def test_the_four_files_are_read_packed_or_not_at_any_depth(tmp_path: Path, packed: bool, below: str):
    write(tmp_path / below, packed=packed)
    plan = mnist.scan(tmp_path, mnist.Config())
    assert [item.label for item in plan.splits["train"]] == NUMBERS.tolist()
    read = [mnist.read(item, mnist.Config()).values for item in plan.splits["val"]]
    np.testing.assert_array_equal(read, PIXELS[:3, ..., None])


def test_packing_changes_neither_fingerprint_nor_plan(tmp_path: Path):
    plans = [mnist.scan(write(tmp_path / str(packed), packed=packed), mnist.Config()) for packed in (False, True)]
    assert plans[0].fingerprint == plans[1].fingerprint


def test_the_kin_in_one_folder_are_distinguished(tmp_path: Path):
    write(tmp_path / "MNIST/raw")
    write(tmp_path / "FashionMNIST/raw", train_labels=idx(NUMBERS[::-1]))
    write(tmp_path / "KMNIST/raw", train_labels=idx(NUMBERS * 0))
    ours = mnist.scan(tmp_path, mnist.Config()).splits["train"]
    theirs = fashion_mnist.scan(tmp_path, fashion_mnist.Config())
    assert [item.label for item in ours] == NUMBERS.tolist()
    assert [item.label for item in theirs.splits["train"]] == NUMBERS[::-1].tolist()
    assert theirs.classes[9] == "ankle boot"


LIES = {
    "more images than there are": ({"train_images": idx(PIXELS, count=8)}, r"says 6,272 bytes, it has 5,488"),
    "fewer images than there are": ({"train_images": idx(PIXELS, count=6)}, "it has more"),
    "billions": ({"train_images": idx(PIXELS, count=2**32 - 1)}, "it says 4294967295 x 28 x 28"),
    "another shape": ({"train_images": idx(PIXELS.reshape(7, 14, 56))}, "it says 7 x 14 x 56"),
    "another kind": ({"train_images": idx(PIXELS, magic=0xD03)}, "begins with 0xd03, not 0x803"),
    "labels for images": ({"train_images": idx(NUMBERS)}, "begins with 0x801, not 0x803"),
    "a torn header": ({"train_images": b"\0\0\x08"}, "ends inside its header"),
    "empty": ({"t10k_labels": b""}, "ends inside its header"),
    "labels that do not match": ({"train_labels": idx(NUMBERS[:5])}, "has 5 labels for 7 images"),
    "a label out of range": ({"train_labels": idx(NUMBERS + 1)}, "holds the label 10, and there are 10 classes"),
}


@pytest.mark.parametrize("packed", [False, True], ids=["plain", "gz"])
@pytest.mark.parametrize(("replaced", "message"), LIES.values(), ids=LIES)
def test_a_wrong_header_is_detected(tmp_path: Path, replaced: dict[str, bytes], message: str, packed: bool):
    with pytest.raises(IntegrityError, match=message) as caught:
        mnist.scan(write(tmp_path, packed=packed, **replaced), mnist.Config())
    assert "is not a complete idx file" in caught.value.message


def test_a_torn_gz_is_damaged(tmp_path: Path):
    path = write(tmp_path, packed=True) / "train-images-idx3-ubyte.gz"
    path.write_bytes(path.read_bytes()[:-500])
    with pytest.raises(IntegrityError, match="cannot be unpacked"):
        mnist.scan(tmp_path, mnist.Config())


def test_images_without_labels_are_not_enough(tmp_path: Path):
    (write(tmp_path) / "train-labels-idx1-ubyte").unlink()
    with pytest.raises(MissingError, match=r"looked for `train-images-idx3-ubyte` .* found 3 files"):
        mnist.scan(tmp_path, mnist.Config())


def test_the_real_mnist_comes_out_bit_for_bit(tmp_path: Path, real_data: Callable[[str], Path]):
    work = resolve_job("mnist", real_data("images/mnist_idx"), tmp_path / "s")
    assert prepare(work).splits == {"train": 60_000, "val": 10_000}
    opened = ShardDataset(tmp_path / "s")
    opened.verify()
    pixels = opened.read("val", range(10_000)).values
    header = struct.pack(">4I", 0x803, 10_000, 28, 28)
    assert hashlib.md5(header + pixels.tobytes()).hexdigest() == "2646ac647ad5339dbf082846283269ea"
    labels = struct.pack(">2I", 0x801, 10_000) + opened.labels("val").astype(np.uint8).tobytes()
    assert hashlib.md5(labels).hexdigest() == "27ae3e4e09519cfbb04c329615203637"
    # The mean and deviation that everybody uses for MNIST, on [0, 1].
    statistics = opened.manifest.splits["train"].statistics
    assert statistics.mean[0] / 255 == pytest.approx(0.1307, abs=5e-5)
    assert statistics.std[0] / 255 == pytest.approx(0.3081, abs=5e-5)


def test_a_smaller_size_is_means_of_blocks_after_a_black_margin(tmp_path: Path):
    plan = mnist.scan(write(tmp_path), mnist.Config(resolution=16))
    assert plan.shape == (16, 16, 1)
    padded = np.pad(PIXELS.astype(float), ((0, 0), (2, 2), (2, 2)))
    means = padded.reshape(7, 16, 2, 16, 2).mean((2, 4)).round()
    read = [mnist.read(item, mnist.Config(resolution=16)).values for item in plan.splits["train"]]
    np.testing.assert_array_equal(read, means[..., None])


@pytest.mark.parametrize("resolution", [1, 7, 14, 28, 32, 64])
def test_every_size_keeps_the_sum_of_the_pixels(tmp_path: Path, resolution: int):
    plan = mnist.scan(write(tmp_path), mnist.Config(resolution=resolution))
    factor = -(-28 // resolution)
    for item, image in zip(plan.splits["train"], PIXELS, strict=True):
        values = mnist.read(item, mnist.Config(resolution=resolution)).values
        assert abs(float(values.sum()) * factor**2 - float(image.sum())) <= 0.5 * factor**2 * values.size


@pytest.mark.parametrize("resolution", [0, 65])
def test_impossible_sizes_are_refused(resolution: int):
    with pytest.raises(ValueError, match="from 1 to 64"):
        mnist.Config(resolution=resolution)
