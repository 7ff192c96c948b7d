"""I3D's two published files: converted by the script, loaded by the code that reads real ones."""

from __future__ import annotations

import dataclasses
from pathlib import Path

import numpy as np
import pytest
import torch
from torch import Tensor

from inrflow_cli import app
from inrflow_core.errors import Exit, IntegrityError, UsageError
from inrflow_core.feature_networks import _weights_file, i3d
from inrflow_core.storage import plain_file
from inrflow_core.weights import conversion, published_layouts
from tests.feature_networks import i3d_published
from tests.weights.published import torchscript


@pytest.fixture
def narrow(monkeypatch: pytest.MonkeyPatch) -> dict[str, Tensor]:
    monkeypatch.setattr(i3d, "STEM", i3d_published.NARROW_STEM)
    monkeypatch.setattr(i3d, "BLOCKS", i3d_published.NARROW_BLOCKS)
    return i3d_published.tensors()


def know(monkeypatch: pytest.MonkeyPatch, *files: Path) -> None:
    """Take files as the published ones."""
    known = tuple(
        one._replace(sha256=plain_file.file_digest(file, from_disk=True))
        for one, file in zip(i3d.WEIGHTS.published, files, strict=True)
    )
    monkeypatch.setattr(i3d, "WEIGHTS", dataclasses.replace(i3d.WEIGHTS, published=known))


def clips(count: int = 1) -> np.ndarray:
    return np.random.default_rng(0).integers(0, 256, (count, 16, 30, 28, 3), dtype=np.uint8)


NAMES = {
    "stem.1a.weight": ("conv3d_1a_7x7.conv3d.weight", "Conv3d_1a_7x7.conv3d.weight"),
    "stem.2c.mean": ("conv3d_2c_3x3.batch3d.running_mean", "Conv3d_2c_3x3.bn.running_mean"),
    "blocks.3b.b0.gamma": ("mixed_3b.branch_0.batch3d.weight", "Mixed_3b.b0.bn.weight"),
    "blocks.4f.b1a.weight": ("mixed_4f.branch_1.0.conv3d.weight", "Mixed_4f.b1a.conv3d.weight"),
    "blocks.5b.b2b.beta": ("mixed_5b.branch_2.1.batch3d.bias", "Mixed_5b.b2b.bn.bias"),
    "blocks.5c.b3.variance": ("mixed_5c.branch_3.1.batch3d.running_var", "Mixed_5c.b3b.bn.running_var"),
    "classes.bias": ("conv3d_0c_1x1.conv3d.bias", "logits.conv3d.bias"),
}
"""What public programs that load these files call the same tensor: kinetics_i3d_pytorch, pytorch-i3d."""


@pytest.mark.parametrize("ours", NAMES)
def test_the_names_are_those_of_the_programs(ours: str):
    layouts = published_layouts.i3d_stylegan_v, published_layouts.i3d_videogpt
    assert tuple(layout(ours).names[0] for layout in layouts) == NAMES[ours]


@pytest.mark.usefixtures("narrow")
def test_both_files_are_the_same_network_each_by_its_digest(
    narrow: dict[str, Tensor], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
):
    script = torchscript(tmp_path / "renamed.pt", i3d_published.as_torchscript(narrow))
    state = tmp_path / "other.pt"
    torch.save(narrow, state)
    know(monkeypatch, script, state)
    written = []
    for file, trust in ((script, ["--trust"]), (state, [])):
        target = tmp_path / f"{file.stem}.safetensors"
        assert app.run(["weights", "convert", "i3d", str(file), "--out", str(target), *trust]) == Exit.DONE
        assert _weights_file.check_header(target, i3d.WEIGHTS)
        written.append(i3d.load(target))
    rows = [one(clips(), ("logits",), "stylegan-v")["logits"] for one in written]
    assert torch.equal(*rows)
    for one, own, other in zip(written, ("stylegan-v", "pvdm"), ("pvdm", "stylegan-v"), strict=True):
        assert one.loaded is not None and one.loaded.is_verified and one.note(own) is None
        assert f"but `{other}` belongs to `{i3d.FILES[other]}`" in (one.note(other) or "")


def test_torchscript_is_not_run_without_trust_and_a_file_of_another_digest_is_refused(
    narrow: dict[str, Tensor], tmp_path: Path
):
    target = tmp_path / "i3d.safetensors"
    script = torchscript(tmp_path / i3d.TORCHSCRIPT, i3d_published.as_torchscript(narrow))
    with pytest.raises(
        IntegrityError, match=r"i3d_torchscript.pt` is no known file of `i3d`: its sha256 is"
    ) as refused:
        conversion.convert("i3d", script, target, trust=True)
    assert "51,235,320 bytes, sha256 bec6519f66ea534e" in (refused.value.hint or "")
    with pytest.raises(UsageError, match="is TorchScript: loading it runs code"):
        conversion.convert("i3d", script, target, any_digest=True)
    assert not target.exists()
    conversion.convert("i3d", script, target, any_digest=True, trust=True)
    assert "with an unknown digest" in (i3d.load(target).note("stylegan-v") or "")
    del narrow["Mixed_5c.b1a.bn.bias"]
    torch.save(narrow, tmp_path / i3d.STATE_DICT)
    with pytest.raises(IntegrityError, match=r"lacks `Mixed_5c.b1a.bn.bias`: it is not i3d"):
        conversion.convert("i3d", tmp_path / i3d.STATE_DICT, target, overwrite=True)


@pytest.mark.slow
@pytest.mark.parametrize("preprocessing", i3d.PREPROCESSING)
def test_the_whole_network_is_that_of_a_second_implementation(preprocessing: str, tmp_path: Path):
    """Of the published sizes, from a file under the published names, to its answers."""
    theirs, target = i3d_published.tensors(), tmp_path / "i3d.safetensors"
    torch.save(theirs, tmp_path / i3d.STATE_DICT)
    conversion.convert("i3d", tmp_path / i3d.STATE_DICT, target)
    result = i3d.load(target)(clips(), ("logits",), preprocessing)["logits"]
    pixels = torch.from_numpy(clips()).movedim(-1, 1) / 127.5 - 1
    resized = {"stylegan-v": i3d.stretch, "pvdm": i3d.crop_center}[preprocessing](pixels)
    expected = i3d_published.logits(theirs, resized, {"stylegan-v": 1e-3, "pvdm": 1e-5}[preprocessing])
    torch.testing.assert_close(result, expected, rtol=1e-3, atol=1e-3 * float(expected.std()))
