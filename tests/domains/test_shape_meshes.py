"""Meshes of shapes: the size that a file decides, one surface at every grid, and what is refused."""

from __future__ import annotations

import math
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import trimesh
from torch import Tensor

from inrflow_core.domains._contract import InputExample
from inrflow_core.domains.shape import Config, Domain
from inrflow_core.errors import OutOfMemory, UsageError
from inrflow_core.fields import Surface
from inrflow_core.geometry import isosurface
from inrflow_core.geometry.mesh import Mesh, closest_faces
from inrflow_core.sample_files import writer
from inrflow_core.sampling import request
from inrflow_core.sampling.request import SizeOptions

DOMAIN = Domain(Config(num_points=50, num_queries=30, grid=24))
HALF = 0.55
Function = Callable[[Tensor], Tensor]


def balls(*radii: float, slope: float = 20.0) -> list[Function]:
    """Functions of balls around 0.05 on each axis; the logit falls by `slope` per unit of length."""

    def function(radius: float) -> Function:
        return lambda coordinates: slope * (radius - (coordinates * HALF - 0.05).norm(dim=-1, keepdim=True))

    return [function(radius) for radius in radii]


def meshes(functions: list[Function], size: Surface, chunk: int = 4096) -> list[Mesh]:
    return [DOMAIN.surface(function, size, chunk=chunk) for function in functions]


def at(resolution: int, level: float = 0.5) -> Surface:
    return Surface(resolution, level, "probability")


def largest_gap(first: Mesh, second: Mesh) -> float:
    """The largest distance of a vertex of the first mesh to the second."""
    faces, weights = closest_faces(second, first.vertices)
    corners = second.vertices[second.faces[faces]]
    return float(np.linalg.norm((corners * weights[..., None]).sum(1) - first.vertices, axis=1).max())


@pytest.mark.parametrize("suffix", [".glb", ".obj", ".stl", ".ply", ".png"])
def test_the_suffix_and_the_options_decide_between_mesh_and_points(suffix: str) -> None:
    assert request.choose_size(DOMAIN, SizeOptions(resolution="256"), suffix) == at(256)
    assert request.choose_size(DOMAIN, SizeOptions(level=0.2), suffix.upper()) == at(128, 0.2)
    assert str(request.choose_size(DOMAIN, SizeOptions(), suffix)) == "surface at probability 0.5, grid 128"
    if suffix in (".ply", ".png"):
        assert request.choose_size(DOMAIN, SizeOptions(points=9), suffix) == 9


@pytest.mark.parametrize(
    ("options", "suffix", "message"),
    [
        (SizeOptions(points=9), ".glb", "holds a mesh, and `--points` and `--scale` set a number of surface points"),
        (
            SizeOptions(resolution="64"),
            ".npz",
            "`--resolution` is of the mesh of a shape, and this writes surface points",
        ),
        (SizeOptions(points=9, level=0.2), ".ply", "`--level` is of the mesh of a shape"),
        (SizeOptions(resolution="64x32"), ".glb", "`--resolution 64x32`"),
        (SizeOptions(resolution="1"), ".glb", "`--resolution 1`"),
        (SizeOptions(resolution="9999"), ".glb", "`--resolution 9999`"),
        (SizeOptions(level=1.0), ".glb", "`--level 1`"),
        (SizeOptions(level=math.nan), ".glb", "`--level nan`"),
        (SizeOptions(views=3), ".glb", "`--views` does not apply"),
        (SizeOptions(resolution="64", points=9), ".ply", "exclude each other"),
    ],
)
def test_sizes_that_a_file_does_not_have_are_refused(options: SizeOptions, suffix: str, message: str) -> None:
    with pytest.raises(UsageError, match=message):
        request.choose_size(DOMAIN, options, suffix)


def test_a_grid_that_does_not_fit_is_refused_with_one_that_does(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(isosurface, "free_memory", lambda device: 24 * 200**3 + 1)
    message = "a mesh on a grid of 256 points a side takes about 403 MB of memory, and 192 MB is free"
    with pytest.raises(OutOfMemory, match=message) as raised:
        request.choose_size(DOMAIN, SizeOptions(resolution="256"), ".glb")
    assert (raised.value.code, raised.value.hint) == (5, "take `--resolution 200` or less")
    assert request.choose_size(DOMAIN, SizeOptions(resolution="200"), ".glb") == at(200)


def test_one_function_has_one_surface_at_every_grid() -> None:
    field = balls(0.37)
    (coarse,), (fine,) = meshes(field, at(64)), meshes(field, at(256))
    half_cell = 2 * HALF / 63 / 2
    assert max(largest_gap(coarse, fine), largest_gap(fine, coarse)) < half_cell
    assert len(fine.faces) > 10 * len(coarse.faces)


def test_the_surface_has_the_probability_of_the_level() -> None:
    (ball,) = meshes(balls(0.3), at(48, 0.2))
    radius = 0.3 + math.log(4) / 20
    np.testing.assert_allclose(np.linalg.norm(ball.vertices - 0.05, axis=1), radius, atol=1e-3)
    assert ball.normals is not None
    np.testing.assert_allclose(ball.normals, (ball.vertices - 0.05) / radius, atol=0.02)


def test_batches_and_chunks_do_not_change_a_mesh() -> None:
    (alone,) = meshes(balls(0.4), at(32))
    both = meshes(balls(0.2, 0.4), at(32), chunk=999)
    np.testing.assert_array_equal(both[1].faces, alone.faces)
    np.testing.assert_allclose(both[1].vertices, alone.vertices, atol=1e-6)
    assert len(both[0].faces) < len(alone.faces)


def test_a_mesh_is_closed_also_where_its_shape_leaves_the_box() -> None:
    for radius in (0.3, 0.6):
        (mesh,) = meshes(balls(radius), at(32))
        body = trimesh.Trimesh(mesh.vertices, mesh.faces, process=False)
        assert body.is_watertight and body.is_winding_consistent and body.volume > 0
        assert (np.abs(mesh.vertices).max() == pytest.approx(HALF)) == (radius == 0.6)


def test_an_empty_shape_is_an_error_that_says_how_near_it_is() -> None:
    with pytest.raises(
        UsageError, match=r"the highest probability of being inside is 0\.1\d?, and its surface is at 0\.5"
    ):
        meshes(balls(-0.05), at(24))
    with pytest.raises(UsageError, match="the highest probability of being inside is 0,"):
        meshes(balls(-1.0, slope=1e4), at(24))
    (mesh,) = meshes(balls(-0.02), at(24, 0.2))
    assert len(mesh.faces)


@pytest.mark.parametrize("suffix", DOMAIN.MESH_FORMATS)
def test_several_meshes_are_written_in_every_format_and_read_back(suffix: str, tmp_path: Path) -> None:
    found = meshes(balls(0.2, 0.4), at(24))
    files = writer.write(tmp_path / f"a.{suffix}", found, "shape", origin={"preset": "solids", "seeds": "0-1"})
    if suffix == "png":
        assert [file.name for file in files] == ["a.png"]
        return
    for file, mesh in zip(files, found, strict=True):
        read: Any = trimesh.load(file, force="mesh")
        assert read.is_watertight and read.volume == pytest.approx(
            trimesh.Trimesh(mesh.vertices, mesh.faces).volume, 1e-4
        )


def test_a_mesh_is_in_the_units_of_the_file_that_was_encoded() -> None:
    example = InputExample(np.zeros((2, 3), np.float32), np.array([10.0, 20.0, 30.0]), 4.0)
    found = meshes(balls(0.3), at(32))
    mesh = example.mesh_to_source_units(found[0])
    np.testing.assert_allclose(mesh.vertices, found[0].vertices * 4 + [10, 20, 30])
