"""Functions written from Python: the values of `evaluate`, in the format of the suffix, with their provenance."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

from inrflow_core.errors import UsageError
from inrflow_core.sample_files import writer
from inrflow_core.sampling import condition_inputs, sample, write_samples
from tests import tiny


def test_a_field_is_written_as_it_is_evaluated(tmp_path: Path):
    model = tiny.model(tiny.IMAGE)
    field = sample.sample_fields(model, [3, 4], [0, 1])
    values = sample.evaluate(model, field, (12, 12))
    assert write_samples.write_field(model, field, tmp_path / "out.npz", (12, 12)) == [tmp_path / "out.npz"]
    stored = np.load(tmp_path / "out.npz")
    np.testing.assert_array_equal(stored["images"], values)
    origin = json.loads(str(stored["origin"]))
    assert origin["seeds"] == "3-4" and origin["labels"] == "0 1" and origin["size"] == "12x12"
    assert origin["sampler"] == "euler spacing=equal steps=4" and "weights" not in origin
    write_samples.write_field(model, field, str(tmp_path / "row.png"), (12, 12), columns=2)
    assert Image.open(tmp_path / "row.png").width > 2 * 12
    with pytest.raises(UsageError, match="exists"):
        write_samples.write_field(model, field, tmp_path / "out.npz", (12, 12))


@pytest.mark.parametrize(
    ("kind", "name", "size", "num"),
    [(tiny.POINTS, "out.ply", 100, 2), (tiny.VIDEO, "out.gif", None, 1), (tiny.INR, "out.png", None, 1)],
    ids=["clouds", "videos", "images"],
)
def test_every_kind_of_function_is_written(kind: Any, name: str, size: Any, num: int, tmp_path: Path):
    model = tiny.model(kind)
    labels = None if model.preset.condition is None else "all"
    written = write_samples.write_field(model, sample.sample_fields(model, [0, 1], labels), tmp_path / name, size)
    assert len(written) >= num and all(path.stat().st_size for path in written)


def test_structures_are_superposed_as_the_command_does(tmp_path: Path):
    model = tiny.model(tiny.PROTEIN)
    condition = condition_inputs.condition_from_input(model, "sequence", "MKTAYI")
    field = sample.sample_fields(model, [0, 1], condition=condition_inputs.condition_of_seeds(condition, [0, 1]))
    field.cache_context()
    write_samples.write_field(model, field, tmp_path / "own.pdb")
    values = sample.concatenate([sample.evaluate(model, field)])
    writer.write(tmp_path / "plain.pdb", values, "protein")
    atoms = [[line for line in path.read_text().splitlines() if line.startswith("ATOM")] for path in tmp_path.iterdir()]
    assert atoms[0] == atoms[1] and len(atoms[0]) == 2 * len(values[0].positions)
    moved = np.abs(values[1].positions - sample.evaluate(model, field)[1].positions).max()
    assert moved > 0.01


def test_arrays_are_written_without_provenance(tmp_path: Path):
    images = np.arange(32, dtype=np.uint8).reshape(2, 4, 4, 1)
    (path,) = writer.write(str(tmp_path / "out.npz"), images, "image")
    np.testing.assert_array_equal(np.load(path)["images"], images)
