"""Clouds of doubles far from the origin, such as scans in map coordinates: no command merges their points."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from inrflow_core.domains._contract import InputExample
from inrflow_core.domains.points import Config, Domain, read_file
from inrflow_core.errors import UsageError
from inrflow_core.evaluation.gather import normalized_clouds
from inrflow_core.formats import ply
from inrflow_core.geometry import ply_reader
from inrflow_core.sample_files import item_selection, writer
from inrflow_core.sample_files.readers import open_collection
from inrflow_core.shards.batch import Batch

CENTER = np.array([4.5e6, 5e5, 200.0])
"""A place in UTM coordinates, in meters."""


def far_file(folder: Path, *, is_text: bool = False, channels: int = 3) -> tuple[Path, np.ndarray]:
    """A .ply of a sphere of radius 1 m, and its points."""
    rng = np.random.default_rng(0)
    points = rng.normal(size=(512, 3))
    points = points / np.linalg.norm(points, axis=1, keepdims=True) + CENTER
    colors = rng.integers(0, 256, (512, 3)) / 127.5 - 1
    cloud = np.concatenate([points, colors], axis=1)[:, :channels]
    ply.write(folder / "far.ply", cloud, origin={}, is_text=is_text)
    return folder / "far.ply", cloud


@pytest.mark.parametrize("is_text", [False, True])
@pytest.mark.parametrize("channels", [3, 6])
def test_a_far_cloud_is_written_in_doubles_and_exported_to_a_micrometer(
    tmp_path: Path, is_text: bool, channels: int
) -> None:
    path, cloud = far_file(tmp_path, is_text=is_text, channels=channels)
    columns = ply_reader.read_columns(path)
    np.testing.assert_array_equal(np.stack([columns[name] for name in "xyz"], axis=1), cloud[:, :3])
    selected = item_selection.read(path)
    writer.write(tmp_path / "again.ply", selected.values, "points", origin={}, is_text=is_text)
    points, center = ply_reader.read_cloud(tmp_path / "again.ply")
    np.testing.assert_allclose(points[:, :3] + center, cloud[:, :3], rtol=0, atol=1e-6)
    if channels == 6:
        np.testing.assert_allclose(points[:, 3:], cloud[:, 3:], atol=1e-6)


def test_an_inverted_far_cloud_returns_to_its_place(tmp_path: Path) -> None:
    path, cloud = far_file(tmp_path)
    example = Domain(Config(512)).read_input(path, {})
    assert isinstance(example, InputExample) and example.values.dtype == np.float32
    assert np.abs(example.values).max() == pytest.approx(1, abs=1e-6)
    np.testing.assert_allclose(example.to_source_units(example.values), cloud, rtol=0, atol=1e-6)


@pytest.mark.parametrize("suffix", [".obj", ".glb"])
def test_a_mesh_of_a_far_cloud_is_refused_by_name(tmp_path: Path, suffix: str) -> None:
    selected = item_selection.read(far_file(tmp_path)[0])
    with pytest.raises(UsageError, match=f"too far from the origin for a `{suffix}` file"):
        writer.write(tmp_path / f"a{suffix}", selected.values, "points", origin={})


def test_a_rendering_of_a_far_cloud_is_that_of_a_near_one(tmp_path: Path) -> None:
    from inrflow_core.formats import png

    path, cloud = far_file(tmp_path)
    near = png.render((cloud - CENTER).astype(np.float32)[None], size=64)
    far = png.render(item_selection.read(path).values, size=64)
    assert np.abs(np.asarray(near).astype(int) - np.asarray(far)).mean() < 1


def test_a_near_cloud_stays_in_single_precision(tmp_path: Path) -> None:
    near = np.random.default_rng(0).normal(size=(64, 3)) + 10
    ply.write(tmp_path / "near.ply", near, origin={})
    assert ply_reader.read_columns(tmp_path / "near.ply")["x"].dtype == np.float32


@pytest.mark.parametrize("suffix", [".npy", ".npz"])
def test_arrays_of_far_doubles_keep_their_points_apart(tmp_path: Path, suffix: str) -> None:
    cloud = far_file(tmp_path)[1]
    if suffix == ".npy":
        np.save(tmp_path / "a.npy", cloud)
        np.testing.assert_array_equal(read_file(tmp_path / "a.npy"), cloud)
        (tmp_path / "folder").mkdir()
        (tmp_path / "a.npy").rename(tmp_path / "folder/a.npy")
        values = open_collection(tmp_path / "folder").read([0]).values[0]
    else:
        np.savez(tmp_path / "a.npz", points=cloud[None])
        np.testing.assert_array_equal(item_selection.read(tmp_path / "a.npz").values[0], cloud)
        values = open_collection(tmp_path / "a.npz").read([0]).values[0]
    assert values.dtype == np.float32 and len(np.unique(values[:, 0])) > 500
    np.testing.assert_allclose(np.ptp(values, axis=0), np.ptp(cloud, axis=0), atol=1e-6)


@pytest.mark.parametrize("form", ["folder", "npz"])
def test_protocols_in_the_units_of_the_source_refuse_far_clouds(tmp_path: Path, form: str) -> None:
    """They were compared centered, without their place, in silence."""
    cloud = far_file(tmp_path)[1]
    (tmp_path / "folder").mkdir()
    for name, shift in (("a", 0.0), ("b", 5.0)):
        ply.write(tmp_path / f"folder/{name}.ply", cloud + shift, origin={})
    np.savez(tmp_path / "a.npz", points=np.stack([cloud, cloud + 5]))
    items = open_collection(tmp_path / ("folder" if form == "folder" else "a.npz"))
    boxed = normalized_clouds(items, 128, "inrflow", "references")
    np.testing.assert_allclose(np.ptp(boxed, axis=1).max(1), 1, atol=1e-9)
    for protocol in ("lion-global", "pointflow"):
        with pytest.raises(
            UsageError, match=f"`{protocol}` compares clouds where they are, and some references are so far"
        ):
            normalized_clouds(items, 128, protocol, "references")


def test_source_units_of_far_shards_keep_the_shape(tmp_path: Path) -> None:
    cloud = far_file(tmp_path)[1]
    low, high = cloud.min(0), cloud.max(0)
    units = {"offset": ((low + high) / 2).astype(np.float32)[None], "scale": np.ones((1, 1), np.float32)}
    stored = Batch(
        values=(cloud - (low + high) / 2).astype(np.float32)[None],
        labels=np.zeros(1),
        names=[""],
        seeds=np.zeros(0),
        condition=units,
    )
    raw = item_selection.source_units(stored, {"kind": "shape"})[0]
    assert raw.dtype == np.float64 and len(np.unique(raw[:, 0])) > 500
    np.testing.assert_allclose(raw - raw.mean(0), cloud - cloud.mean(0), atol=1e-6)
    np.testing.assert_allclose(raw, cloud, atol=0.26)
