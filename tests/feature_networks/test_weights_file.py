"""Finding and reading weights: every defect of a file has its error and exit code."""

from __future__ import annotations

import pickle
from pathlib import Path

import pytest
import torch
from torch import nn

from inrflow_core import registry
from inrflow_core.errors import Exit, InrflowError, IntegrityError, MissingError, UsageError
from inrflow_core.feature_networks import _weights_file, inception
from inrflow_core.feature_networks._contract import find_extractor, names
from inrflow_core.feature_networks._image_features import Extractor
from inrflow_core.feature_networks._weights_file import PublishedWeights, Weights, WeightsProvenance
from tests.feature_networks import published

TINY = Weights("tiny", (PublishedWeights("tiny.pt", 123456, "ab" * 32, "somebody", "a page", "MIT", runs_code=True),))
WITH_WEIGHTS = [name for name in names("extractor") if find_extractor(name).needs_weights]


def tensors() -> dict[str, torch.Tensor]:
    return {"weight": torch.arange(6.0).reshape(2, 3), "bias": torch.tensor([1.0, 2.0])}


def filled(path: Path) -> tuple[nn.Linear, WeightsProvenance]:
    network = nn.Linear(3, 2).requires_grad_(False)
    return network, _weights_file.load_state(network, TINY, path)


def test_what_is_written_is_what_the_network_gets_and_it_knows_where_from(tmp_path: Path):
    path = tmp_path / "tiny.safetensors"
    digest = published.write(path, tensors(), published.metadata(TINY))
    network, loaded = filled(path)
    assert torch.equal(network.weight, tensors()["weight"]) and torch.equal(network.bias, tensors()["bias"])
    assert loaded == WeightsProvenance(digest, "tiny.pt", "0" * 64, True)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda t: t.pop("bias"), "lacks the tensor `bias`"),
        (lambda t: t.update(more=torch.zeros(1)), "has the tensor `more`, which the network lacks"),
        (lambda t: t.update(weight=t["weight"].T), r"has `weight` as \(3, 2\), the network as \(2, 3\)"),
        (lambda t: t["bias"].fill_(torch.nan), "numbers in `bias` that are not finite"),
    ],
)
def test_a_tensor_that_is_wrong_is_named(tmp_path: Path, change, message: str):
    path, wrong = tmp_path / "tiny.safetensors", tensors()
    change(wrong)
    published.write(path, wrong, published.metadata(TINY))
    with pytest.raises(IntegrityError, match=message) as caught:
        filled(path)
    assert caught.value.code == Exit.INTEGRITY and "inrflow weights convert tiny tiny.pt" in (caught.value.hint or "")


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"format": "inrflow-weights-1"}, "its format is 'inrflow-weights-1', not `inrflow-features-1`"),
        ({"network": "clip"}, "holds weights of `clip`, not of `tiny`"),
        ({"published": None}, "lacks `published`"),
    ],
)
def test_a_file_of_something_else_is_refused(tmp_path: Path, change: dict, message: str):
    path, about = tmp_path / "tiny.safetensors", published.metadata(TINY) | change
    published.write(path, tensors(), {name: text for name, text in about.items() if text is not None})
    with pytest.raises(IntegrityError, match=message):
        filled(path)


@pytest.mark.parametrize("size", [0, 5, 100, -3])
def test_a_truncated_file_is_damaged(tmp_path: Path, size: int):
    path = tmp_path / "tiny.safetensors"
    published.write(path, tensors(), published.metadata(TINY))
    path.write_bytes(path.read_bytes()[:size])
    with pytest.raises(IntegrityError, match="not a whole safetensors file"):
        filled(path)


def test_a_pickle_is_never_unpickled_whatever_it_is_called(tmp_path: Path):
    class Bomb:
        def __reduce__(self):
            return (Path.touch, (tmp_path / "ran",))

    path = tmp_path / "tiny.safetensors"
    path.write_bytes(pickle.dumps(Bomb()))
    with pytest.raises(IntegrityError, match="not a whole safetensors file"):
        filled(path)
    assert not (tmp_path / "ran").exists()


@pytest.mark.parametrize("name", WITH_WEIGHTS)
def test_absent_weights_say_what_to_get_and_what_to_do(name: str, tmp_path: Path):
    published = registry.find("feature_networks", name).WEIGHTS.published
    with pytest.raises(MissingError, match=f"weights of `{name}` are absent: .*{name}.safetensors") as caught:
        _weights_file.find(name, {}, tmp_path)
    assert caught.value.code == Exit.MISSING
    hint = caught.value.hint or ""
    assert len(hint.splitlines()) == 3 and f"`inrflow weights list {name}`" in hint
    assert f"inrflow weights convert {name} {published[0].file} --out {tmp_path / name}.safetensors" in hint


@pytest.mark.parametrize("suffix", [".pt", ".pth", ".pkl", ".bin", ".pb"])
def test_a_published_file_is_refused_with_the_command_that_converts_it(suffix: str, tmp_path: Path):
    path = tmp_path / f"some{suffix}"
    path.touch()
    with pytest.raises(UsageError, match="not a converted weights file") as caught:
        _weights_file.find("inception", {"inception": path}, tmp_path)
    assert f"inrflow weights convert inception {path} --out {tmp_path / 'inception.safetensors'}" in (
        caught.value.hint or ""
    )


def test_a_file_argument_comes_before_the_folder_and_the_folder_before_the_environments(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
):
    file, folder, other = tmp_path / "mine.safetensors", tmp_path / "folder", tmp_path / "other"
    for directory in (folder, other):
        directory.mkdir()
        (directory / "inception.safetensors").touch()
    file.touch()
    monkeypatch.setenv(_weights_file.VARIABLE, str(other))
    assert _weights_file.find("inception", {"inception": file, "clip": folder}, folder) == file
    assert _weights_file.find("inception", {"clip": file}, folder) == folder / "inception.safetensors"
    assert _weights_file.find("inception", {}) == other / "inception.safetensors"
    monkeypatch.delenv(_weights_file.VARIABLE)
    monkeypatch.chdir(tmp_path)
    with pytest.raises(MissingError, match="`weights/inception.safetensors` does not exist"):
        _weights_file.find("inception", {})


def test_a_network_without_weights_takes_none():
    with pytest.raises(InrflowError, match="`random` takes no weights"):
        _weights_file.find("random", {})


def test_a_form_says_when_its_weights_are_not_those_it_is_named_after():
    def extractor(published: str, is_verified: bool) -> Extractor:
        loaded = WeightsProvenance("d", published, "e", is_verified)
        device = torch.device("cpu")
        return Extractor(nn.Identity(), inception.OUTPUTS, inception.RESIZERS, inception.FILES, device, loaded)

    assert extractor(inception.NVIDIA, True).note("clean") is None
    assert "converted from `classify_image_graph_def.pb`" in (extractor(inception.GRAPH, True).note("clean") or "")
    assert "with an unknown digest: sha256 e" in (extractor(inception.NVIDIA, False).note("clean") or "")


@pytest.mark.parametrize("name", names("extractor"))
def test_every_network_keeps_the_contract(name: str):
    part = registry.find("feature_networks", name)
    assert part.DOMAIN in ("image", "points", "video", "text") and part.PREPROCESSING and part.OUTPUTS
    assert part.DOMAIN != "points" or part.POINTS > 0
    if part.WEIGHTS is not None:
        assert part.WEIGHTS.name == name and set(part.FILES) == set(part.PREPROCESSING)
        assert part.DOMAIN != "image" or set(part.RESIZERS) == set(part.PREPROCESSING)
        assert set(part.FILES.values()) <= {published.file for published in part.WEIGHTS.published}
