"""ONNX: the file answers as torch does, at other sizes than it was traced with."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch

from inrflow_core.errors import IntegrityError, UsageError
from inrflow_core.models import Model
from inrflow_core.runs import export
from tests import tiny

onnxruntime = pytest.importorskip("onnxruntime", reason="the extra `onnx` is not installed")
ORIGIN = {"inrflow": "0", "preset": "tiny"}


def evaluated_by_onnx(model: Model, path: Path, batch: int, count: int) -> tuple[np.ndarray, np.ndarray]:
    inputs = export.example(model, batch, count)
    with torch.no_grad():
        expected = export.Evaluation(model)(**inputs).numpy()
    session = onnxruntime.InferenceSession(str(path), providers=["CPUExecutionProvider"])
    return session.run(None, {name: value.numpy() for name, value in inputs.items()})[0], expected


@pytest.mark.slow
@pytest.mark.parametrize("kind", [tiny.IMAGE, tiny.POINTS], ids=["image", "points"])
def test_the_file_answers_as_torch_does_for_any_number_of_sets_and_queries(tmp_path: Path, kind: dict) -> None:
    model = tiny.model(kind)
    difference = export.export_onnx(model, tmp_path / "out.onnx", origin=ORIGIN)
    assert difference < 1e-5
    for batch, count in ((1, 7), (5, 300)):
        got, expected = evaluated_by_onnx(model, tmp_path / "out.onnx", batch, count)
        assert np.sqrt(np.mean(expected**2)) > 0.05
        np.testing.assert_allclose(got, expected, atol=1e-5)
    assert [path.name for path in tmp_path.iterdir()] == ["out.onnx"]
    reported = onnxruntime.InferenceSession(str(tmp_path / "out.onnx")).get_modelmeta().custom_metadata_map
    assert reported == ORIGIN
    assert b".py" not in (tmp_path / "out.onnx").read_bytes()


@pytest.mark.slow
def test_the_same_model_gives_the_same_bytes(tmp_path: Path) -> None:
    for name in ("a.onnx", "b.onnx"):
        export.export_onnx(tiny.model(tiny.POINTS), tmp_path / name, origin=ORIGIN)
    assert (tmp_path / "a.onnx").read_bytes() == (tmp_path / "b.onnx").read_bytes()


@pytest.mark.slow
def test_weights_too_large_for_one_file_lie_beside_it(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(export, "MOST_INSIDE", 1000)
    model = tiny.model(tiny.POINTS)
    export.export_onnx(model, tmp_path / "out.onnx", origin=ORIGIN)
    assert sorted(path.name for path in tmp_path.iterdir()) == ["out.onnx", "out.onnx.data"]
    got, expected = evaluated_by_onnx(model, tmp_path / "out.onnx", 2, 9)
    np.testing.assert_allclose(got, expected, atol=1e-5)


@pytest.mark.slow
def test_a_file_that_answers_otherwise_is_not_kept(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(export, "TOLERANCE", 0.0)
    with pytest.raises(IntegrityError, match="ONNX Runtime differs from torch by"):
        export.export_onnx(tiny.model(tiny.POINTS), tmp_path / "out.onnx", origin=ORIGIN)
    assert list(tmp_path.iterdir()) == []


@pytest.mark.slow
def test_a_network_without_an_onnx_form_is_refused(tmp_path: Path) -> None:
    network = {"encoder": "spatial", "pseudo_coordinates": "hash"}
    with pytest.raises(UsageError, match="the network of `tiny` has no ONNX form"):
        export.export_onnx(tiny.model(tiny.POINTS, network=network), tmp_path / "out.onnx", origin=ORIGIN)
    assert list(tmp_path.iterdir()) == []
