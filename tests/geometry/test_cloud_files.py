"""Clouds that a model encodes, from files of every format."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from inrflow_core.errors import IntegrityError
from inrflow_core.geometry import cloud_files

PLY = "ply\nformat ascii 1.0\nelement vertex 2\n{}end_header\n{} 0 0\n0 1 0\n"
XYZ = "".join(f"property double {name}\n" for name in "xyz")


@pytest.mark.parametrize(
    ("number", "message"),
    [
        ("1e39", "its size or position is beyond single precision"),
        ("2e38", "its size or position is beyond single precision"),
        ("nan", "not finite numbers"),
        ("1e38", None),
    ],
)
@pytest.mark.parametrize("suffix", [".ply", ".xyz", ".npy"])
def test_numbers_beyond_single_precision_are_refused_as_such(tmp_path: Path, suffix: str, number: str, message: str):
    path = tmp_path / f"cloud{suffix}"
    if suffix == ".npy":
        np.save(path, [[float(number), 0, 0], [0, 1, 0]])
    else:
        path.write_text(PLY.format(XYZ, number) if suffix == ".ply" else f"{number} 0 0\n0 1 0\n")
    if message is None:
        assert cloud_files.read_input(path)[0][0, 0] == np.float32(1e38)
        return
    with pytest.raises(IntegrityError, match=message) as caught:
        cloud_files.read_input(path)
    assert ("scale its coordinates" in (caught.value.hint or "")) == (number != "nan")
