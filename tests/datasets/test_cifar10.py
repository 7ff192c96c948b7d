"""CIFAR-10: both versions are the same images, and a pickle runs nothing."""

from __future__ import annotations

import io
import os
import pickle
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from inrflow_core.datasets import cifar10
from inrflow_core.errors import IntegrityError, MissingError
from tests.datasets import raw

NUMBERS = {name: np.random.default_rng(n).integers(0, 10, 4) for n, name in enumerate(cifar10.BATCHES)}
PLANES = {
    name: np.random.default_rng(n).integers(0, 256, (4, 3072), dtype=np.uint8) for n, name in enumerate(cifar10.BATCHES)
}


def python_batch(name: str, *, keys: type = str, protocol: int = 2, **replaced: Any) -> bytes:
    content = {"data": PLANES[name], "labels": NUMBERS[name].tolist(), "batch_label": name, "filenames": ["a.png"] * 4}
    content |= replaced
    return pickle.dumps({key.encode() if keys is bytes else key: value for key, value in content.items()}, protocol)


def python_files(**options: Any) -> dict[str, bytes]:
    return {f"cifar-10-batches-py/{name}": python_batch(name, **options) for name in PLANES}


def binary_files() -> dict[str, bytes]:
    return {
        f"cifar-10-batches-bin/{name}.bin": np.c_[NUMBERS[name].astype(np.uint8), PLANES[name]].tobytes()
        for name in PLANES
    }


def write(folder: Path, files: dict[str, bytes]) -> Path:
    for name, content in files.items():
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        (folder / name).write_bytes(content)
    return folder


def check(folder: Path) -> None:
    plan = cifar10.scan(folder, cifar10.Config())
    assert {split: len(items) for split, items in plan.splits.items()} == {"train": 20, "val": 4}
    for split, names in (("train", list(PLANES)[:5]), ("val", ["test_batch"])):
        planes = np.concatenate([PLANES[name] for name in names]).reshape(-1, 3, 32, 32)
        examples = [cifar10.read(item, cifar10.Config()) for item in plan.splits[split]]
        np.testing.assert_array_equal([e.values for e in examples], planes.transpose(0, 2, 3, 1))
        assert [e.label for e in examples] == np.concatenate([NUMBERS[name] for name in names]).tolist()


@pytest.mark.parametrize("protocol", [0, 1, 2, 3, 4, 5])
@pytest.mark.parametrize("keys", [str, bytes])
def test_the_python_version_is_read_as_any_python_pickled_it(tmp_path: Path, protocol: int, keys: type):
    check(write(tmp_path, python_files(protocol=protocol, keys=keys)))


def test_the_binary_version_is_the_same(tmp_path: Path):
    check(write(tmp_path, binary_files()))


@pytest.mark.parametrize("files", [python_files, binary_files], ids=["python", "binary"])
def test_the_archives_need_no_unpacking(tmp_path: Path, files):
    raw.tarred(tmp_path / "cifar-10.tar.gz", files(), "w:gz")
    check(tmp_path)
    check(tmp_path / "cifar-10.tar.gz")
    assert os.listdir(tmp_path) == ["cifar-10.tar.gz"]


def old_batch(name: str) -> bytes:
    """A batch as Python 2 and the NumPy of 2009 wrote it: byte strings, and `numpy.core.multiarray`."""
    out = io.BytesIO()
    pixels = PLANES[name].tobytes()
    out.write(b"\x80\x02}(U\x04datacnumpy.core.multiarray\n_reconstruct\ncnumpy\nndarray\nK\x00\x85U\x01b\x87R")
    out.write(b"(K\x01K\x04M\x00\x0c\x86cnumpy\ndtype\nU\x02u1K\x00K\x01\x87R")
    out.write(
        b"(K\x03U\x01|NNNJ\xff\xff\xff\xffJ\xff\xff\xff\xffK\x00tb\x89T" + len(pixels).to_bytes(4, "little") + pixels
    )
    out.write(b"tbU\x06labels](" + b"".join(b"K" + bytes([n]) for n in NUMBERS[name]) + b"eu.")
    return out.getvalue()


def test_pickles_of_python_2_are_read(tmp_path: Path):
    check(write(tmp_path, {name: old_batch(name) for name in PLANES}))


class Runs:
    """What would make a file when it is unpickled."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder

    def __reduce__(self):
        return os.mkdir, (str(self.folder),)


class Evaluates:
    def __reduce__(self):
        return eval, ("__import__('os').getcwd()",)


@pytest.mark.parametrize("where", ["data", "labels", "batch_label"])
def test_a_pickle_that_would_run_something_is_refused_and_runs_nothing(tmp_path: Path, where: str):
    files = python_files()
    files["cifar-10-batches-py/data_batch_2"] = python_batch(
        "data_batch_2", **dict[str, Any]({where: Runs(tmp_path / "ran")})
    )
    with pytest.raises(IntegrityError, match=r"`data_batch_2` is not a batch of CIFAR-10: it asks for `posix\.mkdir`"):
        cifar10.scan(write(tmp_path / "raw", files), cifar10.Config())
    assert not (tmp_path / "ran").exists()


BAD = {
    "eval": (Evaluates(), "it asks for `.*builtin.*eval`, which is refused"),
    "objects": (np.array([{}, {}], dtype=object), "an array of type 'O8', which is refused"),
    "records": (np.zeros(4, [("a", "u1", 3072)]), "an array of records, which is refused"),
    "no array": ([[0] * 3072] * 4, "a list is neither an array nor a list of integers"),
    "floats": (np.zeros((4, 3072)), "its images are float64"),
    "narrow": (np.zeros((4, 3071), np.uint8), r"its images are uint8 of shape \(4, 3071\)"),
    "fewer": (np.zeros((3, 3072), np.uint8), r"\(4,\) labels for 3 images"),
}


@pytest.mark.parametrize(("data", "message"), BAD.values(), ids=BAD)
def test_data_of_another_kind_is_not_a_batch(tmp_path: Path, data: object, message: str):
    files = python_files()
    files["cifar-10-batches-py/test_batch"] = python_batch("test_batch", data=data)
    with pytest.raises(IntegrityError, match=message):
        cifar10.scan(write(tmp_path, files), cifar10.Config())


def nested(depth: int) -> list[Any]:
    """A list of 10 to the power of `depth` numbers, in a pickle of a few hundred bytes: each list holds another ten times."""
    values: list[Any] = [0] * 10
    for _ in range(depth - 1):
        values = [values] * 10
    return values


def endless() -> list[Any]:
    """A list in itself."""
    values: list[Any] = []
    values.append(values)
    return values


@pytest.mark.parametrize("labels", [nested(10), endless()], ids=["ten thousand million", "endless"])
def test_lists_of_labels_that_refer_to_each_other_are_not_followed(tmp_path: Path, labels: list[Any]):
    name = "test_batch"
    files = python_files() | {f"cifar-10-batches-py/{name}": python_batch(name, labels=labels)}
    with pytest.raises(IntegrityError, match="a list is neither an array nor a list of integers"):
        cifar10.scan(write(tmp_path, files), cifar10.Config())


@pytest.mark.parametrize("content", [b"", b"junk", python_batch("test_batch")[:500], b"\x80\x02].", b"\x80\x02}(U\x05"])
def test_broken_pickles_are_no_batch(tmp_path: Path, content: bytes):
    files = python_files() | {"cifar-10-batches-py/test_batch": content}
    with pytest.raises(IntegrityError, match="`test_batch` is not a batch of CIFAR-10"):
        cifar10.scan(write(tmp_path, files), cifar10.Config())


def test_a_label_out_of_range_and_a_torn_record_are_no_batch(tmp_path: Path):
    files = binary_files()
    name = "cifar-10-batches-bin/data_batch_1.bin"
    with pytest.raises(IntegrityError, match="a label is not one of 10 classes"):
        cifar10.scan(write(tmp_path / "a", files | {name: b"\x0a" + files[name][1:]}), cifar10.Config())
    with pytest.raises(IntegrityError, match="12,291 bytes are not a whole number of records"):
        cifar10.scan(write(tmp_path / "b", files | {name: files[name][:-1]}), cifar10.Config())


def test_a_missing_batch_is_said(tmp_path: Path):
    files = python_files()
    del files["cifar-10-batches-py/data_batch_3"]
    with pytest.raises(MissingError, match="looked for .*`data_batch_3`.*; found 5 files"):
        cifar10.scan(write(tmp_path, files), cifar10.Config())
