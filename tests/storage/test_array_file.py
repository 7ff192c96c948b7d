"""Arrays of .npy and .npz files: whatever else lies under such a name is one error that says what it is."""

from __future__ import annotations

import io
import os
import zipfile
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest

from inrflow_core.errors import IntegrityError
from inrflow_core.storage import array_file

OBJECTS = np.array([{"a": 1}], dtype=object)


def _hole(path: Path) -> None:
    with path.open("wb") as file:
        file.truncate(6 << 30)


def _with_header(path: Path, array: np.ndarray, old: bytes, new: bytes, name: str | None = None) -> None:
    """An array whose header has other words, as a file or as a member of an archive with a right checksum."""
    file = io.BytesIO()
    np.save(file, array)
    assert len(old) == len(new) and old in file.getvalue()
    content = file.getvalue().replace(old, new)
    if name is None:
        path.write_bytes(content)
        return
    with zipfile.ZipFile(path, "w") as archive:
        archive.writestr(name, content)


def _read_all(path: Path) -> None:
    for name in array_file.array_names(path):
        array_file.read_array(path, name)


FILES: dict[str, tuple[Callable[[Path], object], str]] = {
    "a hole": (_hole, "is not an .npy or .npz file: it begins with zeros"),
    "junk": (lambda path: path.write_bytes(b"junk and more"), "it begins with the bytes 6a 75 6e 6b 20 61"),
    "empty": (Path.touch, "cannot be read: No data left in file"),
    "a folder": (Path.mkdir, "is a folder, not a file"),
    "a pipe": (os.mkfifo, "is a pipe or a device, not a file"),
    "objects": (lambda path: np.save(path, OBJECTS, allow_pickle=True), "it holds Python objects, and only arrays"),
    "objects in an archive": (
        lambda path: np.savez(path.with_suffix(".npz"), a=OBJECTS) or path.with_suffix(".npz").rename(path),
        "it holds Python objects, and only arrays",
    ),
    "a large shape": (lambda path: _with_header(path, np.zeros(3), b"(3,), }    ", b"(3000000,)}"), "cannot be read"),
    "a large shape in an archive": (
        lambda path: _with_header(path, np.zeros(3), b"(3,), }    ", b"(3000000,)}", "a.npy"),
        "fewer bytes than its header promises",
    ),
}


@pytest.mark.parametrize(("make", "message"), FILES.values(), ids=FILES)
def test_a_file_without_an_array_of_numbers_is_named_without_numpys_advice(make, message: str, tmp_path: Path):
    path = tmp_path / "points.npy"
    make(path)
    with pytest.raises(IntegrityError, match=rf"points\.npy`.*{message}") as caught:
        _read_all(path)
    assert "allow_pickle" not in str(caught.value)


def test_an_error_has_the_hint_of_its_caller_or_one_of_its_own(tmp_path: Path):
    (tmp_path / "a.npy").write_bytes(b"junk")
    for hint, expected in ((None, "copy it again, or make it again"), ("prepare it again", "prepare it again")):
        with pytest.raises(IntegrityError) as caught:
            array_file.read_array(tmp_path / "a.npy", hint=hint)
        assert caught.value.hint == expected


def test_an_array_and_an_archive_are_not_taken_for_each_other(tmp_path: Path):
    np.save(tmp_path / "one.npy", np.arange(3))
    np.savez(tmp_path / "many.npz", a=np.arange(3))
    with pytest.raises(IntegrityError, match="does not hold the array `a`"):
        array_file.read_array(tmp_path / "one.npy", "a")
    with pytest.raises(IntegrityError, match="does not hold one array, but an archive"):
        array_file.read_array(tmp_path / "many.npz")
    np.testing.assert_array_equal(array_file.read_array(tmp_path / "many.npz", "a"), np.arange(3))


def test_an_array_that_unpacks_to_far_more_than_its_file_is_refused_before_memory_is_taken(tmp_path, monkeypatch):
    np.savez_compressed(tmp_path / "zeros.npz", a=np.zeros(1_000_000, np.uint8))
    np.savez_compressed(tmp_path / "noise.npz", a=np.random.default_rng(0).integers(0, 9, 1_000_000, np.uint8))
    assert not array_file.read_array(tmp_path / "zeros.npz", "a").any()
    monkeypatch.setattr(array_file, "SMALL", 999_999)
    assert array_file.read_array(tmp_path / "noise.npz", "a").any()
    with pytest.raises(IntegrityError, match=r"would unpack from [\d,]+ bytes to 1,000,128"):
        array_file.read_array(tmp_path / "zeros.npz", "a")


def test_a_flipped_bit_of_a_header_is_an_error_or_an_array(tmp_path: Path):
    np.save(tmp_path / "a.npy", np.zeros((40, 3), np.float32))
    whole, results = (tmp_path / "a.npy").read_bytes(), set()
    for position in range(128):
        content = bytearray(whole)
        content[position] ^= 1 << position % 8
        (tmp_path / "a.npy").write_bytes(content)
        try:
            results.add(type(array_file.read_array(tmp_path / "a.npy")))
        except IntegrityError as error:
            results.add(type(error))
    assert IntegrityError in results and len(results) <= 3


def test_bytes_behind_an_array_are_an_error(tmp_path: Path):
    path = tmp_path / "a.npy"
    np.save(path, np.zeros((3, 2), np.float32))
    whole = path.read_bytes()
    path.write_bytes(whole[:8] + (int.from_bytes(whole[8:10], "little") - 32).to_bytes(2, "little") + whole[10:])
    with pytest.raises(IntegrityError, match="32 bytes follow its array"):
        array_file.read_array(path)
    path.write_bytes(whole + whole)
    with pytest.raises(IntegrityError, match=f"{len(whole)} bytes follow its array"):
        array_file.read_array(path)
