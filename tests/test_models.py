"""A weights file's preset is compared with its tensors before anything is built from it."""

from __future__ import annotations

import json
import struct
import time
from pathlib import Path

import pytest

from inrflow_core import models
from inrflow_core.errors import IntegrityError
from tests import tiny

CLAIMS = {
    "depth = 2": ("depth = 1000000", "network.depth would be 1,000,000"),
    "width = 32": ("width = 65536", "the network's weights would be 34,359,738,368"),
    "latents = 9": ("latents = 2000000000", "`latents` is 2,000,000,000: at most 1,048,576"),
    "classes = 3": ("classes = 2000000000", "`classes` is 2,000,000,000: at most 1,048,576"),
    "resolution = 6": ("resolution = 100000", "`resolution` is 100000: from 1 to 8,192"),
}


@pytest.fixture
def weights(tmp_path: Path) -> Path:
    model = tiny.model(tiny.IMAGE, condition=tiny.CONDITION)
    models.save(tmp_path / "w.safetensors", model.method.state_dict(), model.preset, {"step": 1})
    return tmp_path / "w.safetensors"


def with_preset(file: Path, old: str, new: str) -> None:
    """Another preset inside a weights file, whose digest is taken out."""
    content = file.read_bytes()
    (length,) = struct.unpack("<Q", content[:8])
    header = json.loads(content[8 : 8 + length])
    assert old in header["__metadata__"]["preset"]
    header["__metadata__"]["preset"] = header["__metadata__"]["preset"].replace(old, new)
    del header["__metadata__"]["seal"]
    changed = json.dumps(header).encode()
    file.write_bytes(struct.pack("<Q", len(changed)) + changed + content[8 + length :])


@pytest.mark.parametrize("old", CLAIMS)
def test_a_preset_that_describes_more_than_the_tensors_is_refused_before_it_is_built(weights: Path, old: str):
    new, said = CLAIMS[old]
    models.load(weights)
    with_preset(weights, old, new)
    begun = time.monotonic()
    with pytest.raises(IntegrityError, match=said):
        models.load(weights)
    assert time.monotonic() - begun < 1
