"""ONNX: the files answer as torch does, at other sizes than they were traced with."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch

from inrflow_core.errors import IntegrityError, UsageError
from inrflow_core.fields import Orbit
from inrflow_core.numerics import noise_field
from inrflow_core.runs import export, onnx_graphs
from inrflow_core.runs.onnx_graphs import Graph
from inrflow_core.sampling import sample
from inrflow_core.sampling.options import sampling_options
from tests import tiny

onnxruntime = pytest.importorskip("onnxruntime", reason="the extra `onnx` is not installed")
ORIGIN = {"inrflow": "0", "preset": "tiny"}


def evaluated_by_onnx(graph: Graph, path: Path, batch: int, count: int) -> tuple[np.ndarray, np.ndarray]:
    inputs = graph.example(batch, count)
    with torch.no_grad():
        expected = graph.module.eval()(**inputs).numpy()
    session = onnxruntime.InferenceSession(str(path), providers=["CPUExecutionProvider"])
    return session.run(None, {name: value.numpy() for name, value in inputs.items()})[0], expected


@pytest.mark.slow
@pytest.mark.parametrize("kind", [tiny.IMAGE, tiny.LOCAL_IMAGE, tiny.POINTS], ids=["image", "local image", "points"])
def test_the_file_answers_as_torch_does_for_any_number_of_sets_and_queries(tmp_path: Path, kind: dict) -> None:
    model = tiny.model(kind)
    differences = export.export_onnx(model, tmp_path / "out.onnx", origin=ORIGIN)
    assert list(differences) == [tmp_path / "out.onnx"] and differences[tmp_path / "out.onnx"] < 1e-5
    (graph,) = onnx_graphs.graphs(model)
    for batch, count in ((1, 7), (5, 300)):
        got, expected = evaluated_by_onnx(graph, tmp_path / "out.onnx", batch, count)
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
    (graph,) = onnx_graphs.graphs(model)
    got, expected = evaluated_by_onnx(graph, tmp_path / "out.onnx", 2, 9)
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


def answers(path: Path, **inputs: np.ndarray) -> np.ndarray:
    session = onnxruntime.InferenceSession(str(path), providers=["CPUExecutionProvider"])
    return session.run(None, inputs)[0]


@pytest.mark.slow
def test_both_graphs_of_a_consistency_model_sample_as_it_does(tmp_path: Path) -> None:
    """From noise to pixels by the two files alone, in one step, at another number of images and of pixels."""
    model = tiny.model(tiny.INR)
    differences = export.export_onnx(model, tmp_path / "out.onnx", origin=ORIGIN)
    names = [f"out-{name}.onnx" for name in ("hypernetwork", "readout")]
    assert sorted(path.name for path in tmp_path.iterdir()) == names == [path.name for path in differences]
    assert max(differences.values()) < 1e-5
    field, fine = sample.sample_fields(model, range(5)), model.domain.queries((24, 30))
    expected = field.query(fine).numpy()
    assert np.sqrt(np.mean(expected**2)) > 0.02
    context = model.domain.queries()
    noise = noise_field.normal(torch.arange(5), context.noise_keys.long(), purpose="start", channels=1)
    tokens = answers(tmp_path / names[0], values=80 * noise.numpy(), t=np.full(5, 80, np.float32))
    assert fine.coordinates is not None
    got = answers(tmp_path / names[1], tokens=tokens, coordinates=fine.coordinates.numpy())
    np.testing.assert_allclose(got, expected, atol=1e-5)
    session = onnxruntime.InferenceSession(str(tmp_path / names[0]))
    metadata = session.get_modelmeta().custom_metadata_map
    assert metadata.items() >= {**ORIGIN, "t_min": "0.003", "t_max": "80.0", "parametrization": "clean"}.items()


@pytest.mark.slow
def test_both_graphs_of_a_radiance_field_render_as_it_does(tmp_path: Path) -> None:
    """A view is encoded at t_min, and rays of another camera are rendered, in one pass where torch takes several."""
    model = tiny.model(tiny.RADIANCE)
    differences = export.export_onnx(model, tmp_path / "out.onnx", origin=ORIGIN)
    assert max(differences.values()) < 1e-4
    sets = model.domain.train_batch(model.domain.dummy_batch(3))
    context, rays = sets.context.queries, model.domain.queries(Orbit(9, 7, 2))
    values = sets.context.values + torch.linspace(-0.5, 0.5, len(context))[:, None]
    field = model.method.invert(replace(sets.context, values=values), sampling_options(model))
    expected = field.query(rays).numpy()
    assert expected.std() > 0.02
    given = {"origins": context.coordinates, "directions": context.directions}
    tokens = answers(
        tmp_path / "out-hypernetwork.onnx",
        values=values.numpy(),
        t=np.full(3, 0.003, np.float32),
        **{name: vectors.numpy() for name, vectors in given.items()},
    )
    others = {"origins": rays.coordinates, "directions": rays.directions}
    others = {name: vectors.expand(3, -1, -1).numpy() for name, vectors in others.items()}
    np.testing.assert_allclose(answers(tmp_path / "out-readout.onnx", tokens=tokens, **others), expected, atol=1e-4)


@pytest.mark.slow
@pytest.mark.parametrize("limits", [{}, {"near": 1.0, "far": 1.4}], ids=["cube", "near-and-far"])
def test_the_decoder_of_latent_scenes_renders_as_it_does(tmp_path: Path, limits: dict[str, float]) -> None:
    """Rays of other cameras, in two passes along each, whole or between two depths."""
    network = tiny.SCENES["network"] or {}
    model = tiny.model(tiny.SCENES, network={"readout": network["readout"] | limits})
    differences = export.export_onnx(model, tmp_path / "out.onnx", origin=ORIGIN)
    assert max(differences.values()) < 1e-4
    latents = noise_field.normal(torch.arange(2), torch.arange(4 * 12), purpose="noise", channels=3)
    rays = model.domain.queries(Orbit(9, 7, 2))
    vectors = {"origins": rays.coordinates, "directions": rays.directions}
    vectors = {name: each.expand(2, -1, -1).numpy() for name, each in vectors.items()}
    expected = model.method.readout.query(model.method.autoencoder.decode(latents), rays).numpy()
    assert expected.std() > 0.02
    got = answers(tmp_path / "out-decoder.onnx", latents=latents.numpy(), **vectors)
    np.testing.assert_allclose(got, expected, atol=1e-4)


@pytest.mark.slow
@pytest.mark.parametrize("path", ["trigonometric", "scaled-linear"])
def test_both_graphs_of_latent_diffusion_sample_as_it_does(tmp_path: Path, path: str) -> None:
    """One step of DDIM from noise, with the file's denoiser, then the file's decoder at other coordinates."""
    readout = "modulated-readout" if path == "scaled-linear" else "basis-readout"
    model = tiny.model(tiny.LATENT, method={"path": path}, network={"readout": {"name": readout}})
    model.method.latent_mean.copy_(torch.tensor([0.3, -0.2, 0.1]))
    model.method.latent_std.copy_(torch.tensor([0.5, 2.0, 1.0]))
    differences = export.export_onnx(model, tmp_path / "out.onnx", origin=ORIGIN)
    names = [f"out-{name}.onnx" for name in ("denoiser", "decoder")]
    assert [file.name for file in differences] == names
    for graph, name in zip(onnx_graphs.graphs(model), names, strict=True):
        got, expected = evaluated_by_onnx(graph, tmp_path / name, 4, 77)
        assert np.sqrt(np.mean(expected**2)) > 0.05
        np.testing.assert_allclose(got, expected, atol=1e-4)
    denoiser, decoder = (
        onnxruntime.InferenceSession(str(tmp_path / name), providers=["CPUExecutionProvider"]) for name in names
    )
    assert denoiser.get_modelmeta().custom_metadata_map["path"] == path
    options = sampling_options(model, sampler="ddim", steps=1, guidance=1.0)
    field = sample.sample_fields(model, [5, 6], [1, 2], options)
    start = field._noise("start", 0).numpy()  # pyright: ignore[reportAttributeAccessIssue]
    alpha, sigma = (
        float(number(torch.ones(1, dtype=torch.float64)))
        for number in (model.method.path.alpha, model.method.path.sigma)
    )
    inputs = {"latents": start, "t": np.ones(2, np.float32), "labels": np.array([1, 2])}
    if path == "scaled-linear":
        (noise,) = denoiser.run(None, inputs | {"sigma": np.full(2, sigma, np.float32)})
        data = (start - sigma * noise) / alpha
    else:
        (velocity,) = denoiser.run(None, inputs)
        data = -velocity / (np.pi / 2)
    queries = model.domain.queries((20, 28))
    assert queries.coordinates is not None and queries.cell_sizes is not None
    inputs = {"latents": data.astype(np.float32), "coordinates": queries.coordinates.numpy()}
    if path == "scaled-linear":
        inputs["cell_sizes"] = np.full(2, float(queries.cell_sizes), np.float32)
    (values,) = decoder.run(None, inputs)
    expected = field.query(queries).numpy()
    np.testing.assert_allclose(values, expected, atol=2e-3 * np.abs(expected).max())


@pytest.mark.slow
@pytest.mark.parametrize("exchange", ["axes", "cells"])
def test_both_graphs_of_a_model_of_clips_answer_as_it_does(tmp_path: Path, exchange: str) -> None:
    network = {name: dict(part) for name, part in (tiny.VIDEO["network"] or {}).items()}
    network["autoencoder"]["exchange"] = exchange
    network["denoiser"] |= {"plane_heads": 2} if exchange == "cells" else {}
    model = tiny.model(tiny.VIDEO, network=network)
    export.export_onnx(model, tmp_path / "out.onnx", origin=ORIGIN)
    for graph in onnx_graphs.graphs(model):
        got, expected = evaluated_by_onnx(graph, tmp_path / f"out-{graph.name}.onnx", 3, 50)
        assert np.sqrt(np.mean(expected**2)) > 0.05
        np.testing.assert_allclose(got, expected, atol=1e-4)


def test_a_model_that_was_trained_with_an_adversary_has_the_same_files(tmp_path: Path) -> None:
    model = tiny.model(tiny.LATENT, method={"adversarial": 0.5})
    assert "discriminator" in model.method.networks()
    expected = [tmp_path / f"out-{name}.onnx" for name in ("denoiser", "decoder")]
    assert export.output_paths(model, tmp_path / "out.onnx") == expected


def test_networks_of_another_kind_are_refused_by_name(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    model = tiny.model(tiny.INR)
    monkeypatch.setattr(model.method, "networks", lambda: {"encoder": None, "denoiser": None})
    with pytest.raises(UsageError, match="has no ONNX form: .* not encoder, denoiser"):
        export.output_paths(model, tmp_path / "out.onnx")
