"""Saved fields whose preset or settings are not those of their tensors: an error of the file, before memory is taken."""

from __future__ import annotations

import json
import struct
import time
from pathlib import Path
from typing import Any

import pytest
import torch

from inrflow_core import models
from inrflow_core.errors import IntegrityError
from inrflow_core.sampling import sample
from tests import tiny

IMAGE = tiny.INR
SCENE: dict[str, Any] = {
    **tiny.INR,
    "domain": {"name": "radiance", "resolution": 8},
    "network": {
        "hypernetwork": (tiny.INR["network"] or {})["hypernetwork"],
        "readout": {
            **{"name": "radiance-mlp", "token_width": 16, "width": 8, "depth": 3, "groups": 2},
            **{"num_frequencies": 3, "max_frequency": 8, "samples": 4, "eval_samples": 4},
        },
    },
}
MODELS = {"image": IMAGE, "scene": SCENE, "flow": tiny.IMAGE}


@pytest.fixture(scope="module")
def saved(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    """One saved field of each kind of model."""
    files = {}
    for name, kind in MODELS.items():
        model = tiny.model(kind)
        files[name] = tmp_path_factory.mktemp("fields") / f"{name}.safetensors"
        field = sample.sample_fields(model, [3], [0] if name == "flow" else None).cache_context()
        sample.save_field(model, field, files[name])
    return files


def changed(file: Path, to: Path, key: str, old: str, new: str) -> Path:
    """A copy with another text in its metadata, without its digest."""
    content = file.read_bytes()
    (length,) = struct.unpack("<Q", content[:8])
    header = json.loads(content[8 : 8 + length])
    assert old in header["__metadata__"][key]
    header["__metadata__"][key] = header["__metadata__"][key].replace(old, new, 1)
    del header["__metadata__"]["seal"]
    text = json.dumps(header).encode()
    to.write_bytes(struct.pack("<Q", len(text)) + text + content[8 + length :])
    return to


PRESETS = [
    ("scene", "\ndepth = 3", "\ndepth = 1000000", r"network\.readout\.depth would be 1,000,000"),
    ("scene", "\nwidth = 8", "\nwidth = 100000", "the weights of network.readout would be"),
    ("scene", "num_frequencies = 3", "num_frequencies = 900000", r"has the shape \[\d+, \d+\], and its preset says \[5400000, 8\]"),
    ("scene", "eval_samples = 4", "eval_samples = 900000", "`eval_samples` is 900,000: at most 16,384"),
    ("image", "\ndepth = 1", "\ndepth = 1000000", r"network\.readout\.depth would be 1,000,000"),
    ("image", "\ntokens = 4", "\ntokens = 9", r"has the shape \[4, 16\], and its preset says \[9, 16\]"),
    ("flow", "\nwidth = 32", "\nwidth = 8192", r"has the shape \[.*\], and its preset says \[2, 4096\]"),
]  # fmt: skip


@pytest.mark.parametrize(("kind", "old", "new", "said"), PRESETS, ids=[f"{row[0]}{row[2]}" for row in PRESETS])
def test_a_preset_of_another_size_than_the_tensors_is_refused_before_it_is_built(
    saved: dict[str, Path], tmp_path: Path, kind: str, old: str, new: str, said: str
):
    sample.load_field(saved[kind], "cpu")
    file = changed(saved[kind], tmp_path / "f.safetensors", "preset", old, new)
    begun = time.process_time()
    with pytest.raises(IntegrityError, match=said):
        sample.load_field(file, "cpu")
    assert time.process_time() - begun < 2


SETTINGS = [("scale", value) for value in ("-1", "0", '"x"', "null", "[]")]
SETTINGS += [("steps", value) for value in ("-1", "3", "1e308", '"x"', "null", "2000000000")]


@pytest.mark.parametrize(("key", "value"), SETTINGS)
def test_settings_of_a_field_that_no_sampling_has_are_refused(
    saved: dict[str, Path], tmp_path: Path, key: str, value: str
):
    old = {"scale": '"scale": 1.0', "steps": '"steps": 1'}[key]
    file = changed(saved["scene"], tmp_path / "f.safetensors", "info", old, f'"{key}": {value}')
    with pytest.raises(IntegrityError, match=r"f\.safetensors`.*" + key):
        sample.load_field(file, "cpu")


def test_a_network_is_compared_with_its_tensors_without_memory():
    shapes = {"weight": [10**6, 10**6], "bias": [10**6]}
    models.check_sizes(lambda: torch.nn.Linear(10**6, 10**6), shapes)
    with pytest.raises(ValueError, match=r"`bias` has the shape none, and its preset says \[1000000\]"):
        models.check_sizes(lambda: torch.nn.Linear(10**6, 10**6), {"weight": [10**6, 10**6]})
