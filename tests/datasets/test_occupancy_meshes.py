"""Occupancies of meshes: exact inside and outside, the same whatever is beside them, and open meshes named."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import trimesh

from inrflow_core.datasets import occupancy
from inrflow_core.datasets._contract import Example
from inrflow_core.errors import MissingError, UnreadableItemError
from inrflow_core.preparation import job as preparation_job
from inrflow_core.preparation import pipeline

SMALL = {"points": 400, "queries": 1001, "val": 0.0}


def read(folder: Path, name: str, **settings: object) -> Example:
    config = occupancy.Config(**(SMALL | settings))  # pyright: ignore
    items = {item.name: item for item in occupancy.scan(folder, config).splits["train"]}
    return occupancy.read(items[name], config)


def is_inside(example: Example) -> np.ndarray:
    return np.unpackbits(example.condition["occupancies"])[: len(example.condition["queries"])].astype(bool)


def box(low: tuple[float, ...], high: tuple[float, ...]) -> trimesh.Trimesh:
    return trimesh.creation.box(bounds=[low, high])


@pytest.fixture
def meshes(tmp_path: Path) -> Path:
    (tmp_path / "a").mkdir()
    (tmp_path / "b").mkdir()
    box((1, 1, 1), (3, 2, 5)).export(tmp_path / "a" / "box.obj")
    trimesh.creation.icosphere(3, 7.0).export(tmp_path / "b" / "ball.stl")
    open_box = box((1, 1, 1), (3, 2, 5))
    open_box.update_faces(np.arange(12) > 1)
    open_box.export(tmp_path / "b" / "open.ply")
    return tmp_path


@pytest.mark.parametrize("winding", [False, True])
def test_a_box_is_centered_and_inside_where_its_formula_says(meshes: Path, winding: bool) -> None:
    example = read(meshes, "a/box.obj", winding=winding)
    np.testing.assert_allclose(example.condition["offset"], [2, 1.5, 3])
    assert example.condition["scale"] == 4
    queries = example.condition["queries"]
    np.testing.assert_array_equal(is_inside(example), (np.abs(queries) < [0.25, 0.125, 0.5]).all(1))
    np.testing.assert_allclose((np.abs(example.values) / [0.25, 0.125, 0.5]).max(1), 1, atol=1e-6)
    outward = (example.values * example.condition["normals"]).sum(1)
    assert outward.min() > 0.12 and outward.max() < 0.501


def test_half_of_the_queries_are_near_the_surface_and_come_last(meshes: Path) -> None:
    example = read(meshes, "b/ball.stl", queries=2000)
    queries, distance = example.condition["queries"], np.abs(np.linalg.norm(example.condition["queries"], axis=1) - 0.5)
    assert np.abs(queries).max() <= 0.55 + 1e-6
    assert np.median(distance[1000:]) < 0.03 < 0.08 < np.median(distance[:1000])
    np.testing.assert_allclose(queries[:1000].std(0), 1.1 / np.sqrt(12), rtol=0.06)
    far = distance > 0.005  # a polygon lies inside its ball
    np.testing.assert_array_equal(is_inside(example)[far], (np.linalg.norm(queries, axis=1) < 0.5)[far])
    alone = np.abs(np.linalg.norm(read(meshes, "b/ball.stl", near=1.0).condition["queries"], axis=1) - 0.5)
    assert np.quantile(alone, 0.99) < 0.06


def test_normals_point_outwards_though_faces_are_turned(meshes: Path) -> None:
    body = trimesh.load_mesh(meshes / "a" / "box.obj")
    faces = np.where(np.arange(12)[:, None] % 2, body.faces, body.faces[:, ::-1])
    (meshes / "mixed").mkdir()
    trimesh.Trimesh(body.vertices, faces, process=False).export(meshes / "mixed" / "box.off")
    example = read(meshes, "mixed/box.off")
    assert ((example.values * example.condition["normals"]).sum(1) > 0).all()


def test_an_open_mesh_is_named_and_winding_numbers_take_it(meshes: Path) -> None:
    with pytest.raises(UnreadableItemError, match="it is not watertight: 4 of its 17 edges are open"):
        read(meshes, "b/open.ply")
    example = read(meshes, "b/open.ply", winding=True)
    closed = (np.abs(example.condition["queries"]) < [0.25, 0.125, 0.5]).all(1)
    assert (is_inside(example) == closed).mean() > 0.9


def test_a_shape_depends_on_its_own_file_alone(meshes: Path, tmp_path_factory: pytest.TempPathFactory) -> None:
    other = tmp_path_factory.mktemp("other")
    (other / "ball.stl").write_bytes((meshes / "b" / "ball.stl").read_bytes())
    here, there = read(meshes, "b/ball.stl"), read(other, "ball.stl")
    np.testing.assert_array_equal(here.values, there.values)
    for name, array in here.condition.items():
        np.testing.assert_array_equal(array, there.condition[name])


def test_folders_are_classes_and_categories(meshes: Path) -> None:
    assert occupancy.scan(meshes, occupancy.Config()).classes == ()
    assert occupancy.scan(meshes, occupancy.Config(classes=True)).classes == ("a", "b")
    index = occupancy.scan(meshes, occupancy.Config(categories=("b",), val=0.0))
    assert index.classes == ("b",)
    assert [(item.name, item.label) for item in index.splits["train"]] == [("b/ball.stl", 0), ("b/open.ply", 0)]
    with pytest.raises(MissingError, match="has no folder `c`"):
        occupancy.scan(meshes, occupancy.Config(categories=("c",)))


def test_prepared_meshes_count_the_open_ones(meshes: Path, tmp_path_factory: pytest.TempPathFactory) -> None:
    config = occupancy.Config(points=50, queries=100, val=0.0)
    job = preparation_job.resolve_job("occupancy", meshes, tmp_path_factory.mktemp("out"), config)
    report = pipeline.prepare(job, workers=1)
    assert report.splits == {"train": 2} and [bad.name for bad in report.skipped] == ["b/open.ply"]
    assert pipeline.prepare(job, workers=1).num_written == 0
