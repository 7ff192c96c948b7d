"""Single functions in files of their own: the readers of docs/inrct.md answer as the field does."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors import safe_open

from inrflow_core.errors import UsageError
from inrflow_core.models import Model
from inrflow_core.sampling import function_files, sample
from inrflow_core.sampling.options import sampling_options
from tests import tiny


@pytest.fixture(scope="module")
def readers(checkout: Path) -> dict[str, Any]:
    """The functions that the page defines."""
    text = (checkout / "docs" / "inrct.md").read_text(encoding="utf-8")
    names: dict[str, Any] = {}
    for block in re.findall(r"^```python\n(.*?)^```$", text, re.DOTALL | re.MULTILINE):
        exec(compile(block, "inrct.md", "exec"), names)
    return names


def saved(model: Model, path: Path, count: int = 3) -> Path:
    labels = None if model.preset.condition is None else [0] * count
    field = sample.sample_fields(model, range(count), labels, sampling_options(model)).cache_context()
    sample.save_field(model, field, path)
    return path


@pytest.mark.parametrize("method", [{}, {"parametrization": "edm"}], ids=["clean", "edm"])
def test_the_reader_of_the_docs_draws_an_image_as_the_field_does(
    readers: dict[str, Any], tmp_path: Path, method: dict[str, Any]
):
    """At another resolution, in colors, with a `value_scale`, for one of three functions; before rounding, to 1e-5."""
    domain = {"name": "image", "resolution": 12, "channels": 3, "value_scale": 0.5}
    model = tiny.model(tiny.INR, scale=1.0, domain=domain, method=method)
    source = saved(model, tmp_path / "field.safetensors")
    (path,) = function_files.export_functions(source, tmp_path / "one.safetensors", items="2")
    field = sample.load_field(source, "cpu")[1]
    expected = field.query(model.domain.queries((30, 30)))[2] / 0.5
    assert expected.std() > 0.1
    rounded = model.domain.decode_values(field.query(model.domain.queries((30, 30))), (30, 30))[2]
    drawn = readers["draw"](str(path), 30)
    assert drawn.shape == (30, 30, 3) and drawn.dtype == torch.uint8
    levels = ((expected + 1) * 127.5).clamp(0, 255)
    assert (drawn.flatten(0, 1).double() - levels).abs().max() <= 0.5 + 1e-5 * 127.5
    assert (drawn.int() - torch.from_numpy(rounded).int()).abs().max() <= 1
    with safe_open(path, "pt") as file:
        metadata = file.metadata()
    assert metadata.items() >= {"seed": "2", "domain": "image", "resolution": "12", "preset": "tiny"}.items()


@pytest.mark.parametrize("density", ["relu", "softplus"])
def test_the_reader_of_the_docs_answers_points_as_a_radiance_field_does(
    readers: dict[str, Any], tmp_path: Path, density: str
):
    tables = tiny.RADIANCE["network"] or {}
    model = tiny.model(tiny.RADIANCE, network={**tables, "readout": {**tables["readout"], "density": density}})
    source = saved(model, tmp_path / "field.safetensors")
    paths = function_files.export_functions(source, tmp_path / "one.safetensors")
    assert [path.name for path in paths] == ["one-000.safetensors", "one-001.safetensors", "one-002.safetensors"]
    field: Any = sample.load_field(source, "cpu")[1]
    points = torch.rand(50, 3, generator=torch.Generator().manual_seed(0)) - 0.5
    expected = field.model.readout.density_and_color(field.state, points)
    for number, path in enumerate(paths):
        for got, whole in zip(readers["density_and_color"](str(path), points), expected, strict=True):
            assert whole[number].std() > 1e-3
            torch.testing.assert_close(got, whole[number], rtol=1e-5, atol=1e-5)


def test_a_file_holds_one_function_and_no_layer_that_writes_functions(tmp_path: Path):
    model = tiny.model(tiny.INR)
    source = saved(model, tmp_path / "field.safetensors", 1)
    (path,) = function_files.export_functions(source, tmp_path / "one.safetensors")
    with safe_open(path, "pt") as file:
        shapes = {name: tuple(file.get_slice(name).get_shape()) for name in file.keys()}  # noqa: SIM118
    heads = {"keys": (2, 4, 8), "values": (2, 4, 8), "frequencies": (4,), "query.weight": (16, 16)}
    layers = {"out": (16, 16), "mlp.0": (16, 16), "mlp.1": (1, 16)}
    biases = {f"{name}.bias": shape[:1] for name, shape in layers.items()}
    assert shapes == {**heads, **{f"{name}.weight": shape for name, shape in layers.items()}, **biases}


def test_functions_that_a_solver_evaluates_are_refused(tmp_path: Path):
    source = saved(tiny.model(tiny.IMAGE), tmp_path / "field.safetensors", 1)
    with pytest.raises(UsageError, match="have no weights of their own: `flow` evaluates them by all steps"):
        function_files.export_functions(source, tmp_path / "one.safetensors")
    other = saved(tiny.model(tiny.INR), tmp_path / "other.safetensors", 1)
    with pytest.raises(UsageError, match="there is no item 5: there are 1"):
        function_files.export_functions(other, tmp_path / "one.safetensors", items="5")
