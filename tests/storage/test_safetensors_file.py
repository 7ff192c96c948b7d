"""Safetensors files written one tensor at a time."""

from __future__ import annotations

import hashlib
from collections.abc import Iterator

import pytest
import safetensors
import safetensors.torch
import torch

from inrflow_core.errors import IntegrityError
from inrflow_core.storage import plain_file, safetensors_file


def some() -> dict[str, torch.Tensor]:
    generator = torch.Generator().manual_seed(0)
    numbers = torch.randn(3, 5, generator=generator)
    return {
        "b.weight": numbers,
        "a": numbers.T,  # not contiguous
        "half": numbers.to(torch.bfloat16),
        "count": torch.tensor(7),
        "mask": numbers > 0,
        "none": torch.zeros(0, 4),
    }


def test_what_is_written_is_what_the_safetensors_library_reads(tmp_path):
    tensors = some()
    path = tmp_path / "a.safetensors"
    safetensors_file.write(path, safetensors_file.layout(tensors), tensors.values(), {"format": "x", "über": "ü"})
    with safetensors.safe_open(path, framework="pt") as file:
        assert file.metadata() == {"format": "x", "über": "ü"}
        assert set(file.keys()) == set(tensors)
        for name, tensor in tensors.items():
            assert torch.equal(file.get_tensor(name), tensor) and file.get_tensor(name).dtype == tensor.dtype


def test_the_digest_that_comes_back_is_the_files(tmp_path):
    tensors = some()
    path = tmp_path / "a.safetensors"
    reported = safetensors_file.write(path, safetensors_file.layout(tensors), tensors.values(), {})
    assert reported == hashlib.sha256(path.read_bytes()).hexdigest() == plain_file.file_digest(path, from_disk=True)


def test_tensors_are_taken_one_at_a_time(tmp_path):
    alive = []

    def values() -> Iterator[torch.Tensor]:
        import weakref

        for _ in range(5):
            tensor = torch.ones(1000)
            alive.append(weakref.ref(tensor))
            assert sum(ref() is not None for ref in alive) <= 2
            yield tensor
            del tensor

    planned = {f"t{i}": (torch.float32, (1000,)) for i in range(5)}
    safetensors_file.write(tmp_path / "a.safetensors", planned, values(), {})
    assert len(alive) == 5


def test_a_write_that_fails_leaves_nothing(tmp_path):
    def values() -> Iterator[torch.Tensor]:
        yield torch.ones(2)
        raise KeyError("gone")

    planned = dict.fromkeys("ab", (torch.float32, (2,)))
    with pytest.raises(KeyError, match="gone"):
        safetensors_file.write(tmp_path / "a.safetensors", planned, values(), {})
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize("bit", [1, 2, 8, 32, 128])
def test_a_file_with_its_digest_inside_shows_every_flipped_byte(tmp_path, bit: int):
    path = tmp_path / "a.safetensors"
    tensors = {"weight": torch.arange(6.0).reshape(2, 3), "bias": torch.tensor([1, 2])}
    written = safetensors_file.write_with_digest(
        path, safetensors_file.layout(tensors), tensors.values, {"info": "of it", "steps": "50"}
    )
    assert written == plain_file.file_digest(path, from_disk=True)
    safetensors_file.check_digest(path)
    whole = path.read_bytes()
    unnoticed = []
    for index in range(len(whole)):
        content = bytearray(whole)
        content[index] ^= bit
        path.write_bytes(content)
        try:
            safetensors_file.check_digest(path)
        except IntegrityError:
            continue
        unnoticed.append(index)
    assert not unnoticed


def test_a_file_without_a_seal_passes(tmp_path):
    tensors = {"weight": torch.zeros(2)}
    safetensors_file.write(tmp_path / "a.safetensors", safetensors_file.layout(tensors), tensors.values(), {})
    safetensors_file.check_digest(tmp_path / "a.safetensors")


def test_a_pointer_of_git_lfs_is_named(tmp_path):
    path = tmp_path / "weights.safetensors"
    path.write_text("version https://git-lfs.github.com/spec/v1\noid sha256:4d7a2146\nsize 12345\n")
    with pytest.raises(IntegrityError, match="is a pointer of Git LFS") as caught:
        safetensors_file.read_metadata(path)
    assert "git lfs pull" in (caught.value.hint or "")
