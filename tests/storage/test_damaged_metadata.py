"""Metadata in our safetensors and HDF5 files: whatever is damaged there is an IntegrityError that names the file."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import h5py
import numpy as np
import pytest
import torch

from inrflow_core import models
from inrflow_core.errors import IntegrityError
from inrflow_core.evaluation import feature_cache, reference_stats
from inrflow_core.metrics._inputs import STATS_FORMAT
from inrflow_core.sample_files import readers
from inrflow_core.sampling import sample
from inrflow_core.shards.shard_dataset import ShardDataset
from inrflow_core.storage import safetensors_file

STORED = Path(__file__).parents[1] / "golden" / "stored"
TEXT = "text"
"""A key of plain text, in which every text is possible; the others hold JSON, TOML or a name."""


@dataclass(frozen=True)
class Kind:
    """A kind of file: how one is made, its metadata changed, and the file read."""

    make: Callable[[Path], object]
    name: str
    change: Callable[[Path, dict[str, Any]], None]
    metadata: Callable[[Path], dict[str, Any]]
    read: Callable[[Path], Any]
    keys: dict[str, Any]
    """A wrong type for each required key: JSON of another kind, or `TEXT`."""


def _statistics(path: Path) -> None:
    tensors = {"count": torch.tensor(9), "mean": torch.zeros(3).double(), "covariance": torch.eye(3).double()}
    metadata = {"format": STATS_FORMAT, "network": "random", "form": "v1", "output": "rows", "shape": "[8, 8, 3]"}
    feature_cache._write(path, tensors, metadata)


def _attributes(path: Path) -> dict[str, Any]:
    with h5py.File(path) as file:
        return dict(file.attrs.items())


def _change_attributes(path: Path, metadata: dict[str, Any]) -> None:
    with h5py.File(path, "r+") as file:
        for name in list(file.attrs):
            del file.attrs[name]
        for name, value in metadata.items():
            file.attrs[name] = value if name == "schema" and not isinstance(value, str) else np.bytes_(value)


def _change_safetensors(path: Path, metadata: dict[str, Any]) -> None:
    with safetensors_file.open_tensors(path) as file:
        tensors = {name: file.get_tensor(name).clone() for name in file.keys()}  # noqa: SIM118
    metadata = {name: value for name, value in metadata.items() if name != safetensors_file.DIGEST_KEY}
    layout = safetensors_file.layout(tensors)
    if path.name == "moments.safetensors":
        safetensors_file.write(path, layout, tensors.values(), metadata)
    else:
        safetensors_file.write_with_digest(path, layout, tensors.values, metadata)


def _shard(path: Path) -> None:
    shutil.copytree(STORED / "shards" / "digits", path.parent, dirs_exist_ok=True)


def _read_shard(path: Path) -> None:
    ShardDataset(path.parent).names("train")


KINDS = {
    "statistics": Kind(
        _statistics, "moments.safetensors", _change_safetensors, safetensors_file.read_metadata, reference_stats.read,
        {"format": "3", "network": TEXT, "form": TEXT, "output": TEXT},
    ),
    "statistics' shape": Kind(
        _statistics, "moments.safetensors", _change_safetensors, safetensors_file.read_metadata, reference_stats.read,
        {"shape": "{}"},
    ),
    "field": Kind(
        lambda path: shutil.copy(STORED / "image" / "field.safetensors", path), "field.safetensors",
        _change_safetensors, safetensors_file.read_metadata, sample.load_field,
        {"format": "3", "preset": "[network]", "preset_name": TEXT, "info": "[]"},
    ),
    "weights": Kind(
        lambda path: shutil.copy(STORED / "image" / "weights.safetensors", path), "weights.safetensors",
        _change_safetensors, safetensors_file.read_metadata, models.load,
        {"format": "3", "preset": "[network]", "preset_name": TEXT, "info": "[]"},
    ),
    "shard": Kind(
        _shard, "train-00000.h5", _change_attributes, _attributes, _read_shard,
        {"format": "3", "schema": "x", "domain": TEXT, "dataset": TEXT, "split": TEXT, "normalisation": "[]",
         "classes": "{}", "settings": "[]"},
    ),
    "sample shard": Kind(
        lambda path: shutil.copy(STORED / "image" / "samples.h5", path), "samples.h5",
        _change_attributes, _attributes, readers.open_collection,
        {"format": "3", "schema": "x", "domain": TEXT, "dataset": TEXT, "split": TEXT, "normalisation": "[]",
         "classes": "{}", "settings": "[]"},
    ),
}  # fmt: skip
DAMAGES = {
    "empty": "",
    "cut off": '{"a": 1, "b',
    "not a number": '{"a": NaN}',
    "nested": "[" * 3000 + "]" * 3000,
    "too large": "9" * 5000,
    "another type": None,
}
CASES = [(kind, key) for kind, one in KINDS.items() for key in one.keys]


@pytest.mark.parametrize(("kind", "key"), CASES)
def test_a_missing_key_is_an_integrity_error_that_names_file_and_key(kind: str, key: str, tmp_path: Path):
    one, path = KINDS[kind], tmp_path / KINDS[kind].name
    one.make(path)
    one.read(path)
    good = one.metadata(path)
    one.change(path, {name: value for name, value in good.items() if name != key})
    if key == "shape":  # statistics of point clouds have none
        one.read(path)
        return
    with pytest.raises(IntegrityError, match=path.name):
        one.read(path)


@pytest.mark.parametrize("damage", DAMAGES)
@pytest.mark.parametrize(("kind", "key"), [(kind, key) for kind, key in CASES if KINDS[kind].keys[key] != TEXT])
def test_a_wrong_value_is_an_integrity_error_that_names_the_file(kind: str, key: str, damage: str, tmp_path: Path):
    one, path = KINDS[kind], tmp_path / KINDS[kind].name
    one.make(path)
    wrong = DAMAGES[damage] if DAMAGES[damage] is not None else one.keys[key]
    one.change(path, one.metadata(path) | {key: wrong})
    with pytest.raises(IntegrityError, match=path.name):
        one.read(path)


WRONG: list[Any] = [None, -1.5, "²", [["x"]], {"x": {"y": 1}}, True, 10**30, 0]


@pytest.mark.parametrize("is_missing", [True, False], ids=["missing", "wrong"])
def test_every_key_of_a_fields_settings_is_checked(is_missing: bool, tmp_path: Path):
    one, path = KINDS["field"], tmp_path / "field.safetensors"
    one.make(path)
    good = one.metadata(path)
    info = json.loads(good["info"])
    needed = ("sampler", "sampler_settings", "guidance", "interval", "noise", "precision", "guide")
    assert set(needed) <= info.keys()
    for key in needed:
        if is_missing:
            one.change(path, good | {"info": json.dumps({name: info[name] for name in info if name != key})})
            with pytest.raises(IntegrityError, match=rf"field\.safetensors` .*{key}"):
                one.read(path)
            continue
        for value in WRONG:
            one.change(path, good | {"info": json.dumps(info | {key: value})})
            if (key, value) in [("guide", None), ("guidance", -1.5), ("guidance", 0)]:  # right for their keys
                continue
            with pytest.raises(IntegrityError, match=r"field\.safetensors"):
                one.read(path)


@pytest.mark.parametrize("name", ["count", "mean", "covariance"])
@pytest.mark.parametrize("damage", ["missing", "nan", "text", "shape"])
def test_wrong_numbers_of_statistics_are_an_integrity_error(name: str, damage: str, tmp_path: Path):
    path = tmp_path / "moments.safetensors"
    _statistics(path)
    arrays, metadata = feature_cache.read(path)
    tensors = {key: torch.from_numpy(np.array(array)) for key, array in arrays.items()}
    wrong = {
        "nan": torch.full_like(tensors[name].double(), torch.nan),
        "text": torch.zeros_like(tensors[name], dtype=torch.uint8),
        "shape": torch.zeros(2, 5, 7, dtype=tensors[name].dtype),
    }
    tensors = {key: wrong.get(damage, value) if key == name else value for key, value in tensors.items()}
    if damage == "missing":
        del tensors[name]
    feature_cache._write(path, tensors, {key: value for key, value in metadata.items() if key != "digest"})
    with pytest.raises(IntegrityError, match=r"moments\.safetensors"):
        reference_stats.read(path)


def test_a_header_that_is_too_large_is_refused_before_it_is_read(tmp_path: Path):
    path = tmp_path / "moments.safetensors"
    with path.open("wb") as file:
        file.write((safetensors_file.MAX_HEADER + 1).to_bytes(8, "little"))
        file.truncate(safetensors_file.MAX_HEADER + 100)
    for read in (reference_stats.read, sample.load_field, models.load):
        with pytest.raises(IntegrityError, match=r"moments\.safetensors` .* 67,108,865 bytes"):
            read(path)
