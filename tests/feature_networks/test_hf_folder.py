"""Folders of weights: intact ones are read, and every defect is named before a number is computed."""

from __future__ import annotations

import hashlib
import json
import shutil
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file, save_file

from inrflow_core.errors import IntegrityError, MissingError, UsageError
from inrflow_core.feature_networks import _contract, dinov2
from tests.feature_networks import hf_folders

KEY = "encoder.layer.0.attention.attention.key.bias"
"""A tensor by its published name, which newer versions of Transformers call otherwise in memory."""


@pytest.fixture(scope="module")
def whole(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return hf_folders.dinov2(tmp_path_factory.mktemp("weights") / "dinov2")


def changed(whole: Path, folder: Path, change: Callable[[dict[str, torch.Tensor]], Any]) -> Path:
    """A copy of the folder whose tensors went through `change`."""
    shutil.copytree(whole, folder)
    tensors = load_file(folder / "model.safetensors")
    change(tensors)
    save_file(tensors, folder / "model.safetensors", metadata={"format": "pt"})
    return folder


def test_the_digest_is_that_of_the_weights_file(whole: Path) -> None:
    content = (whole / "model.safetensors").read_bytes()
    assert dinov2.load(whole).digest == hashlib.sha256(content).hexdigest()


def test_weights_in_several_files_are_those_in_one(whole: Path, tmp_path: Path) -> None:
    tensors = load_file(whole / "model.safetensors")
    names, folder = sorted(tensors), tmp_path / "parts"
    folder.mkdir()
    shutil.copy(whole / "config.json", folder)
    file_of = {name: f"model-0000{1 + number % 2}-of-00002.safetensors" for number, name in enumerate(names)}
    for file in set(file_of.values()):
        save_file({name: tensors[name] for name in names if file_of[name] == file}, folder / file, {"format": "pt"})
    (folder / "model.safetensors.index.json").write_text(json.dumps({"metadata": {}, "weight_map": file_of}))
    one, two = dinov2.load(whole), dinov2.load(folder)
    images = torch.randint(0, 256, (1, 28, 28, 3), dtype=torch.uint8, generator=torch.Generator().manual_seed(0))
    torch.testing.assert_close(one(images), two(images), rtol=0, atol=0)
    files = sorted(folder.glob("*.safetensors"))
    lines = "\n".join(hashlib.sha256(path.read_bytes()).hexdigest() for path in files)
    assert two.digest == hashlib.sha256(lines.encode()).hexdigest()
    files[1].unlink()
    with pytest.raises(MissingError, match="lacks `model-00002-of-00002.safetensors`"):
        dinov2.load(folder)


def test_a_tensor_of_another_shape_is_named_with_both_shapes(whole: Path, tmp_path: Path) -> None:
    folder = changed(whole, tmp_path / "w", lambda tensors: tensors.update({KEY: torch.zeros(48)}))
    with pytest.raises(
        IntegrityError, match=r"the tensor `encoder\.layer\.0\.attention.*\.bias` is \[48\], not \[32\]"
    ):
        dinov2.load(folder)


def test_weights_of_another_width_than_the_config_are_refused(whole: Path, tmp_path: Path) -> None:
    folder = tmp_path / "w"
    shutil.copytree(whole, folder)
    config = json.loads((folder / "config.json").read_text())
    (folder / "config.json").write_text(json.dumps(config | {"hidden_size": 64}))
    with pytest.raises(IntegrityError, match=r"the tensor `embeddings\.cls_token` is \[1, 1, 32\], not \[1, 1, 64\]"):
        dinov2.load(folder)


@pytest.mark.parametrize(
    ("change", "said"),
    [
        (lambda tensors: tensors.pop(KEY), r"lacks the tensor `encoder\.layer\.0\.attention"),
        (lambda tensors: tensors.update(extra=torch.zeros(2)), "has the superfluous tensor `extra`"),
        (lambda tensors: tensors[KEY].fill_(float("nan")), r"numbers in `encoder\.layer\.0\..* that are not finite"),
    ],
    ids=["too few", "too many", "not a number"],
)
def test_tensors_that_are_not_the_networks_are_named(whole: Path, tmp_path: Path, change: Any, said: str) -> None:
    with pytest.raises(IntegrityError, match=said):
        dinov2.load(changed(whole, tmp_path / "w", change))


def test_tensors_without_a_part_in_the_tokens_may_be_absent(whole: Path, tmp_path: Path) -> None:
    folder = changed(whole, tmp_path / "w", lambda tensors: tensors.pop("embeddings.mask_token"))
    images = torch.full((1, 28, 28, 3), 200, dtype=torch.uint8)
    torch.testing.assert_close(dinov2.load(folder)(images), dinov2.load(whole)(images), rtol=0, atol=0)


def test_what_is_absent_is_said_with_where_to_get_it(whole: Path, tmp_path: Path) -> None:
    with pytest.raises(MissingError, match="weights of `dinov2` are absent: there is no folder") as caught:
        dinov2.load(tmp_path / "none")
    assert "facebook/dinov2-base" in str(caught.value.hint)
    folder = tmp_path / "w"
    folder.mkdir()
    with pytest.raises(MissingError, match="holds no `config.json`"):
        dinov2.load(folder)
    shutil.copy(whole / "config.json", folder)
    (folder / "pytorch_model.bin").write_bytes(b"")
    with pytest.raises(MissingError, match="`pytorch_model.bin` is a pickle, which is not read"):
        dinov2.load(folder)


def test_damaged_files_and_other_networks_are_named(whole: Path, tmp_path: Path) -> None:
    folder = tmp_path / "w"
    shutil.copytree(whole, folder)
    content = (whole / "model.safetensors").read_bytes()
    (folder / "model.safetensors").write_bytes(content[: len(content) // 2])
    with pytest.raises(IntegrityError, match="not a whole safetensors file"):
        dinov2.load(folder)
    (folder / "model.safetensors").write_bytes(content)
    config = json.loads((whole / "config.json").read_text())
    (folder / "config.json").write_text(json.dumps(config | {"hidden_size": "wide"}))
    with pytest.raises(IntegrityError, match="cannot be loaded as `dinov2`"):
        dinov2.load(folder)
    (folder / "config.json").write_text(json.dumps(config | {"model_type": "esm"}))
    with pytest.raises(IntegrityError, match="of the type 'esm'; `dinov2` is a `dinov2`"):
        dinov2.load(folder)
    (folder / "config.json").write_text("{")
    with pytest.raises(IntegrityError, match="is not JSON"):
        dinov2.load(folder)


def test_the_folder_is_the_argument_else_that_of_the_environment(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.delenv("INRFLOW_WEIGHTS", raising=False)
    assert _contract.weights_folder("dinov2") == Path("weights/dinov2")
    monkeypatch.setenv("INRFLOW_WEIGHTS", str(tmp_path))
    assert _contract.weights_folder("dinov2") == tmp_path / "dinov2"
    assert _contract.weights_folder("dinov2", Path("here")) == Path("here")
    assert _contract.weights_folder("patches") is None
    with pytest.raises(UsageError, match="`patches` has no weights"):
        _contract.weights_folder("patches", Path("here"))


def test_without_transformers_the_package_to_install_is_named(whole: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "transformers", None)  # which makes its import fail
    with pytest.raises(UsageError, match="which is not installed") as caught:
        dinov2.load(whole)
    assert caught.value.hint == '`pip install "inrflow[pretrained]"`'


@pytest.mark.parametrize(
    ("change", "said"),
    [
        ({"_attn_implementation": "evil/kernel"}, "`_attn_implementation` 'evil/kernel', which is refused"),
        ({"attn_implementation": "flash_attention_2"}, "which is refused: it loads other code"),
        ({"auto_map": {"AutoModel": "evil.py"}}, "`auto_map` .* which is refused"),
        ({"num_hidden_layers": 1_000_000}, r"describes 1,000,000 layers of width 32, and the weights .* are 80,032"),
        ({"hidden_size": 1 << 30}, "describes 2 layers of width 1,073,741,824"),
        ({"intermediate_size": 1 << 40}, "describes `intermediate_size` 1,099,511,627,776"),
        ({"patch_size": 0}, "cannot be loaded as `dinov2`"),
    ],
    ids=lambda value: next(iter(value)) if isinstance(value, dict) else "",
)
def test_a_config_that_loads_code_or_describes_more_than_its_weights_is_refused(
    whole: Path, tmp_path: Path, change: dict[str, Any], said: str
) -> None:
    folder = tmp_path / "w"
    shutil.copytree(whole, folder)
    config = json.loads((whole / "config.json").read_text())
    (folder / "config.json").write_text(json.dumps(config | change))
    with pytest.raises(IntegrityError, match=said):
        dinov2.load(folder)
