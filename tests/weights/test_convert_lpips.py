"""LPIPS of two published files: torchvision's VGG16, and the linear layers of the package lpips."""

from __future__ import annotations

import dataclasses
from pathlib import Path

import pytest
import torch
from torch import Tensor

from inrflow_cli import app
from inrflow_core.errors import Exit, IntegrityError, MissingError, UsageError
from inrflow_core.feature_networks import _weights_file, lpips
from inrflow_core.storage import plain_file, safetensors_file
from inrflow_core.weights import conversion

WIDTHS = (4, 6, 8, 10, 12)
LAYERS = (0, 2, 5, 7, 10, 12, 14, 17, 19, 21, 24, 26, 28)
"""Convolutions in torchvision's `features`."""


@pytest.fixture
def files(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> dict[str, dict[str, Tensor]]:
    """The tensors of both files, which lie in the folder under their names; narrower than the published ones."""
    monkeypatch.setattr(lpips, "WIDTHS", WIDTHS)
    generator = torch.Generator().manual_seed(0)
    sizes = [3, 4, 4, 6, 6, 8, 8, 8, 10, 10, 10, 12, 12, 12]
    vgg: dict[str, Tensor] = {}
    for layer, (inputs, outputs) in zip(LAYERS, zip(sizes[:-1], sizes[1:], strict=True), strict=True):
        vgg[f"features.{layer}.weight"] = torch.randn(outputs, inputs, 3, 3, generator=generator)
        vgg[f"features.{layer}.bias"] = torch.randn(outputs, generator=generator)
    vgg["classifier.0.weight"] = torch.zeros(2, 2)
    linear = {
        f"lin{number}.model.1.weight": torch.rand(1, width, 1, 1, generator=generator)
        for number, width in enumerate(WIDTHS)
    }
    torch.save(vgg, tmp_path / "vgg16-397923af.pth", _use_new_zipfile_serialization=False)
    torch.save(linear, tmp_path / "vgg.pth", _use_new_zipfile_serialization=False)
    return {"vgg16-397923af.pth": vgg, "vgg.pth": linear}


def know(monkeypatch: pytest.MonkeyPatch, folder: Path) -> None:
    """Take the files in the folder as the published ones."""
    first, second = lpips.WEIGHTS.published[0], lpips.WEIGHTS.second
    assert second is not None
    first, second = (
        each._replace(sha256=plain_file.file_digest(folder / each.file, from_disk=True)) for each in (first, second)
    )
    monkeypatch.setattr(lpips, "WEIGHTS", dataclasses.replace(lpips.WEIGHTS, published=(first,), second=second))


def test_both_files_are_one_network_with_their_numbers(files, tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    know(monkeypatch, tmp_path)
    target = tmp_path / "lpips.safetensors"
    words = ["lpips", str(tmp_path / "vgg16-397923af.pth"), "--out", str(target), "--second", str(tmp_path / "vgg.pth")]
    assert app.run(["weights", "convert", *words]) == Exit.DONE
    network = lpips.LPIPS()
    loaded = network.load(target)
    vgg, linear = files.values()
    for number, layer in enumerate(LAYERS):
        assert torch.equal(network.weights[number], vgg[f"features.{layer}.weight"])
        assert torch.equal(network.biases[number], vgg[f"features.{layer}.bias"])
    for number in range(5):
        assert torch.equal(network.channels[number], linear[f"lin{number}.model.1.weight"].flatten())
    assert loaded.is_verified and loaded.published == "vgg16-397923af.pth and vgg.pth"
    assert _weights_file.check_header(target, lpips.WEIGHTS)
    digests = [plain_file.file_digest(tmp_path / name, from_disk=True) for name in files]
    assert safetensors_file.read_metadata(target)["published_sha256"] == " and ".join(digests)


def test_the_second_file_is_required_and_of_no_other_network(files, tmp_path: Path):
    source, target = tmp_path / "vgg16-397923af.pth", tmp_path / "lpips.safetensors"
    with pytest.raises(UsageError, match="`lpips` is made of two published files") as caught:
        conversion.convert("lpips", source, target)
    assert "--second vgg.pth" in (caught.value.hint or "") and "7,289 bytes" in (caught.value.hint or "")
    with pytest.raises(UsageError, match="`vgg16` is made of one published file"):
        conversion.convert("vgg16", source, target, second=tmp_path / "vgg.pth")
    with pytest.raises(MissingError, match=r"absent.pth` does not exist"):
        conversion.convert("lpips", source, target, second=tmp_path / "absent.pth")
    assert not target.exists()


def test_each_file_is_known_by_its_digest(files, tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    source, target = tmp_path / "vgg16-397923af.pth", tmp_path / "lpips.safetensors"
    know(monkeypatch, tmp_path)
    other = tmp_path / "alex.pth"
    torch.save({name: 2 * tensor for name, tensor in files["vgg.pth"].items()}, other)
    with pytest.raises(IntegrityError, match=r"alex.pth` is no known file of `lpips`"):
        conversion.convert("lpips", source, target, second=other)
    with pytest.raises(IntegrityError, match=r"vgg.pth` is no known file of `lpips`"):
        conversion.convert("lpips", tmp_path / "vgg.pth", target, second=source)
    conversion.convert("lpips", source, target, second=other, any_digest=True)
    assert not _weights_file.check_header(target, lpips.WEIGHTS)
    torch.save({"lin0.model.1.weight": torch.ones(1, 4, 1, 1)}, other)
    with pytest.raises(IntegrityError, match=r"lacks `lin1.model.1.weight`: it is not lpips"):
        conversion.convert("lpips", source, target, second=other, any_digest=True, overwrite=True)
