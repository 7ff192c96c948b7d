"""A folder of point clouds: what is read of every format, which points a set has, and what is said of files that are no clouds."""

from __future__ import annotations

import contextlib
from pathlib import Path

import numpy as np
import pytest

from inrflow_core.datasets import _contract, clouds, mesh_folder, shapenet
from inrflow_core.datasets._contract import DatasetIndex, Example
from inrflow_core.errors import MissingError, UnreadableItemError
from inrflow_core.formats import ply
from inrflow_core.preparation import pipeline
from inrflow_core.preparation.job import resolve_job, scan
from inrflow_core.shards.shard_dataset import ShardDataset

RNG = np.random.default_rng(0)
POINTS = RNG.normal(size=(40, 3)).astype(np.float32)


def write(path: Path, points: np.ndarray = POINTS) -> Path:
    """A cloud in the format that the ending of a name says."""
    path.parent.mkdir(parents=True, exist_ok=True)
    rows = "\n".join(" ".join(f"{number:.9g}" for number in row) for row in points)
    if path.suffix == ".npy":
        np.save(path, points)
    elif path.suffix == ".npz":
        np.savez(path, points=points, labels=np.zeros(len(points)))
    elif path.suffix == ".ply":
        lines = ["ply", "format ascii 1.0", f"element vertex {len(points)}"]
        path.write_text("\n".join([*lines, *(f"property float {axis}" for axis in "xyz"), "end_header", rows, ""]))
    elif path.suffix == ".pcd":
        lines = ["VERSION .7", "FIELDS x y z", "SIZE 4 4 4", "TYPE F F F", "COUNT 1 1 1"]
        path.write_text("\n".join([*lines, f"POINTS {len(points)}", "DATA ascii", rows, ""]))
    else:
        path.write_text(rows + "\n")
    return path


def every(plan: DatasetIndex) -> dict[str, _contract.Item]:
    return {item.name: item for items in plan.splits.values() for item in items}


def read(folder: Path, name: str, **settings) -> Example:
    config = clouds.Config(**settings)
    return clouds.read(every(clouds.scan(folder, config))[name], config)


def restored(example: Example) -> np.ndarray:
    return example.values * example.condition["scale"] + example.condition["offset"]


def in_order(points: np.ndarray) -> np.ndarray:
    return points[np.lexsort(points.T)]


@pytest.mark.parametrize("suffix", [".ply", ".npy", ".npz", ".xyz", ".pcd"])
def test_every_format_gives_the_points_of_the_file_each_once(tmp_path: Path, suffix: str):
    write(tmp_path / f"a{suffix}")
    example = read(tmp_path, f"a{suffix}")
    assert example.values.shape == (40, 3) and np.abs(example.values).max() == pytest.approx(1)
    np.testing.assert_allclose(in_order(restored(example)), in_order(POINTS), atol=2e-6)


@pytest.mark.parametrize("normalization", ["shape", "global"])
def test_colors_follow_the_positions_on_request_and_clouds_without_are_refused(tmp_path: Path, normalization: str):
    levels = RNG.integers(0, 256, (40, 3))
    colored = np.concatenate([POINTS, levels / 127.5 - 1], axis=1).astype(np.float32)
    ply.write(tmp_path / "a.ply", colored, origin={})
    write(tmp_path / "b.xyz", colored)
    settings = {"normalization": normalization, "points": 40, "colors": True}
    example = read(tmp_path, "a.ply", **settings)
    plain = read(tmp_path, "a.ply", **(settings | {"colors": False}))
    assert example.values.shape == (40, 6) and clouds.scan(tmp_path, clouds.Config(colors=True)).shape[1] == 6
    np.testing.assert_array_equal(example.values[:, :3], plain.values)
    found = {tuple(row) for row in np.rint((example.values[:, 3:] + 1) * 127.5).astype(int).tolist()}
    assert found == {tuple(row) for row in levels.tolist()}
    with pytest.raises(UnreadableItemError, match="it has no colors"):
        read(tmp_path, "b.xyz", **settings)


def test_a_set_is_drawn_without_replacement_and_a_larger_one_only_adds_points(tmp_path: Path):
    write(tmp_path / "a.npy", np.arange(300, dtype=np.float64).reshape(100, 3))
    small, large = (restored(read(tmp_path, "a.npy", points=count)).round().astype(int) for count in (30, 60))
    np.testing.assert_array_equal(small, large[:30])
    assert len({tuple(row) for row in large.tolist()}) == 60
    assert (np.diff(large[:, 0]) < 0).any(), "the order of the file is shuffled"


def test_the_points_depend_on_the_file_and_its_name_alone(tmp_path: Path):
    write(tmp_path / "deep/er/a.npy", POINTS)
    alone = read(tmp_path / "deep/er", "a.npy", points=10).values
    write(tmp_path / "deep/other/b.npy", POINTS + 1)
    np.testing.assert_array_equal(read(tmp_path / "deep", "er/a.npy", points=10).values, alone)


def test_an_array_of_several_clouds_has_an_item_for_each(tmp_path: Path):
    stack = RNG.normal(size=(5, 20, 6))
    np.save(tmp_path / "all.npy", stack)
    np.savez(tmp_path / "packed.npz", stack)
    plan = clouds.scan(tmp_path, clouds.Config())
    assert len(every(plan)) == 10 and plan.shape == (20, 3)
    for name in ("all.npy/000003", "packed.npz/000003"):
        np.testing.assert_allclose(in_order(restored(read(tmp_path, name))), in_order(stack[3, :, :3]), atol=1e-6)


def test_of_several_arrays_the_one_called_points_or_the_only_one_that_can_be_is_read(tmp_path: Path):
    stack, colors = RNG.normal(size=(2, 40, 3)), np.zeros(40)
    np.savez(tmp_path / "named.npz", normals=POINTS[::-1], points=POINTS)
    np.savez(tmp_path / "alone.npz", R=colors, coords=POINTS, G=colors)
    np.savez(tmp_path / "stack.npz", R=colors, clouds=stack)
    for name, points in (("named.npz", POINTS), ("alone.npz", POINTS), ("stack.npz/000001", stack[1])):
        np.testing.assert_allclose(in_order(restored(read(tmp_path, name))), in_order(points), atol=2e-6)
    np.savez(tmp_path / "two.npz", a=POINTS, b=POINTS)
    np.savez(tmp_path / "none.npz", a=colors, b=POINTS[:, :2])
    for name in ("two.npz", "none.npz"):
        with pytest.raises(
            UnreadableItemError, match=r"it has the arrays `a` .*: one called `points`, or a single one of"
        ):
            read(tmp_path, name)


def test_a_file_that_changed_is_read_again(tmp_path: Path):
    for shift in (0, 5):
        np.savez(tmp_path / "a.npz", POINTS + shift)
        assert restored(read(tmp_path, "a.npz")).mean() == pytest.approx(POINTS.mean() + shift, abs=1e-5)
    np.save(tmp_path / "b.npy", np.stack([POINTS] * 3))
    assert len(every(clouds.scan(tmp_path / "b.npy", clouds.Config()))) == 3


def test_one_scale_for_all_keeps_sizes_and_positions_comparable(tmp_path: Path):
    for number in range(60):
        write(tmp_path / f"{number}.npy", POINTS.astype(np.float64) * (1 + number % 3) + [500, 0, -20])
    config = clouds.Config(normalization="global", val=0.3)
    plan = clouds.scan(tmp_path, config)
    stored = {name: clouds.read(item, config).values for name, item in every(plan).items()}
    train = np.stack([stored[item.name] for item in plan.splits["train"]])
    np.testing.assert_allclose(train.mean((0, 1)), 0, atol=1e-5)
    assert np.sqrt(np.square(train).mean()) == pytest.approx(1, abs=1e-5)
    extent = {name: np.ptp(values, axis=0) for name, values in stored.items()}
    np.testing.assert_allclose(extent["2.npy"], 3 * extent["0.npy"], rtol=1e-4)
    offset, scale = np.array(plan.normalization["offset"]), plan.normalization["scale"]
    np.testing.assert_allclose(in_order(stored["0.npy"] * scale + offset), in_order(POINTS + [500, 0, -20]), atol=1e-3)


def test_folders_are_splits_and_classes(tmp_path: Path):
    for name in ("train/a/1.ply", "train/b/2.xyz", "valid/b/3.npy", "test/a/4.pcd"):
        write(tmp_path / "data" / name)
    plan = clouds.scan(tmp_path, clouds.Config(classes=True))
    assert plan.classes == ("a", "b")
    assert {split: [(i.name, i.label) for i in items] for split, items in plan.splits.items()} == {
        "train": [("train/a/1.ply", 0), ("train/b/2.xyz", 1)],
        "val": [("valid/b/3.npy", 1)],
        "test": [("test/a/4.pcd", 0)],
    }


def test_classes_without_splits_share_by_content_and_files_in_no_class_are_named(tmp_path: Path):
    for number in range(200):
        write(tmp_path / "ab"[number % 2] / f"{number}.npy", POINTS + number)
    write(tmp_path / "astray.npy")
    plan = clouds.scan(tmp_path, clouds.Config(classes=True, val=0.2))
    assert plan.classes == ("a", "b") and plan.left_out["classes"].names == ("astray.npy",)
    held_out = {item.name for item in plan.splits["val"]}
    assert 25 <= len(held_out) <= 55 and len(every(plan)) == 200
    (tmp_path / min(held_out)).unlink()
    again = clouds.scan(tmp_path, clouds.Config(classes=True, val=0.2)).splits["val"]
    assert {item.name for item in again} == held_out - {min(held_out)}


def test_one_folder_is_one_class(tmp_path: Path):
    write(tmp_path / "chairs/1.npy")
    plan = clouds.scan(tmp_path, clouds.Config(classes=True))
    assert plan.classes == ("chairs",) and list(every(plan)) == ["chairs/1.npy"]


BROKEN = {
    "few.npy": (POINTS[:5], "it has 5 points, and each set 40: files need at least that many$"),
    "fewer.npy": (POINTS[:39], r"it has 39 points, and each set 40: .* \(`--set points=39` takes it\)"),
    "nan.npy": (np.where(POINTS > 2, np.nan, POINTS), "of its 40 points are not finite numbers"),
    "flat.npy": (POINTS[:, :2], r"an array of shape \(40, 2\), not points \(N, 3\)"),
    "wide.npy": (np.zeros((3, 40)), r"an array of shape \(3, 40\), not points \(N, 3\)"),
    "true.npy": (POINTS > 0, "its numbers are bool"),
    "object.npy": (np.array([[None] * 3] * 40), "it holds Python objects, and only arrays"),
    "same.npy": (np.ones((40, 3)), "all its points coincide"),
    "cut.npy": (b"\x93NUMPY\x01\x00", "it is damaged"),
    "junk.npz": (b"PK\x03\x04 junk", "it is damaged"),
    "junk.ply": (b"plyer", "cannot be read as a .ply file: it does not begin with `ply`"),
    "nan.xyz": (b"nan nan nan\n" * 40, "40 of its 40 points are not finite"),
    "words.xyz": (b"O 1.0 2.0 3.0\n" * 40, "its text has something other than numbers"),
    "ragged.xyz": (b"1 2 3\n1 2 3 4\n", "line 2 has 4 numbers: as many as line 1 has, 3 are expected"),
    "plane.xyz": (b"1 2\n", "line 1 has 2 numbers: at least 3 are expected"),
    "commas.xyz": (b"1,5 2,5 3,5\n", "other than numbers"),
    "empty.xyz": (b"", "it has no points"),
    "head.xyz": (b"x y z\n", "it has no points"),
    "swapped.xyz": (
        b"y x z\n1 2 3\n",
        "its first line is `y x z`: numbers, or names of columns that begin with x, y, z",
    ),
    "cut.pcd": (b"VERSION .7\nFIELDS x y z\n", "its header has no line `DATA`"),
}


@pytest.mark.parametrize("name", BROKEN)
def test_what_is_not_a_cloud_is_skipped_with_what_it_has_and_what_is_expected(tmp_path: Path, name: str):
    content, reason = BROKEN[name]
    write(tmp_path / "whole.npy")
    if isinstance(content, bytes):
        (tmp_path / name).write_bytes(content)
    else:
        np.save(tmp_path / name, content, allow_pickle=True)
    with pytest.raises(UnreadableItemError, match=reason) as caught:
        read(tmp_path, name, points=40)
    assert str(tmp_path) not in caught.value.reason
    report = pipeline.prepare(
        resolve_job("clouds", tmp_path, tmp_path / "out", clouds.Config(points=40, val=0.0)), workers=1
    )
    assert dict(report.splits) == {"train": 1} and [bad.name for bad in report.skipped] == [name]


def test_points_with_occupancies_are_no_cloud_and_their_surface_points_are(tmp_path: Path):
    np.savez(tmp_path / "points.npz", points=POINTS, occupancies=np.zeros(5, np.uint8), loc=np.zeros(3), scale=1.0)
    np.savez(tmp_path / "pointcloud.npz", points=POINTS, normals=POINTS)
    assert len(read(tmp_path, "pointcloud.npz", points=40).values) == 40
    with pytest.raises(UnreadableItemError, match="not a cloud: `inrflow prepare occupancy` reads it"):
        read(tmp_path, "points.npz", points=40)


def test_a_share_that_holds_out_nothing_is_noted_and_folders_and_a_share_of_0_are_not(tmp_path: Path):
    for number in range(3):
        write(tmp_path / f"{number}.npy", POINTS + number)

    def notes(folder: Path, val: float) -> list[str]:
        plan = scan(resolve_job("clouds", folder, tmp_path / "out", clouds.Config(val=val)))
        return [note for note in plan.notes if "no item is held out" in note]

    (note,) = notes(tmp_path, 1e-9)
    assert note.startswith("no item is held out: the share `val=1e-09` of 3 items has none")
    assert note.endswith("`--set val=0.3` takes a larger share")  # and no advice that only some data sets follow
    assert notes(tmp_path, 0.0) == []
    write(tmp_path / "b/train/1.npy")
    write(tmp_path / "b/val/2.npy")
    assert notes(tmp_path / "b", 0.1) == []


@pytest.mark.parametrize(
    "text",
    [
        b"1,2,3\n4,5,6\n",
        b"1; 2; 3\n\n4; 5; 6",
        b"# x y z\n1 2 3 255\n4 5 6 0",
        b"2\n1 2 3\n4 5 6\n",
        b'"X";"Y";"Z";"red"\n1;2;3;255\n4;5;6;0\n',
        b"x y z nx\n1 2 3 0\n4 5 6 0\n",
        b"\xef\xbb\xbf1\t2\t3\r\n4\t5\t6\r\n",
    ],
)
def test_texts_have_blanks_commas_or_semicolons_comments_and_a_first_line_with_count_or_names(
    tmp_path: Path, text: bytes
):
    (tmp_path / "a.xyz").write_bytes(text)
    np.testing.assert_allclose(in_order(restored(read(tmp_path, "a.xyz"))), [[1, 2, 3], [4, 5, 6]], atol=1e-6)


def test_by_default_a_set_has_as_many_points_as_the_smallest_file_but_for_very_small_ones(tmp_path: Path):
    for number, count in enumerate((5, 900, 1000, 700, 1000)):
        write(tmp_path / f"{number}.npy", RNG.normal(size=(count, 3)))
    plan = clouds.scan(tmp_path, clouds.Config())
    assert plan.shape == (700, 3) and "each set has 700 points" in plan.notes[0]
    write(tmp_path / "large/1.npy", RNG.normal(size=(5000, 3)))
    plan = clouds.scan(tmp_path / "large", clouds.Config())
    assert plan.shape == (2048, 3) and not plan.notes


def test_a_cloud_in_map_coordinates_is_exact_in_shape(tmp_path: Path):
    write(tmp_path / "far.npy", POINTS.astype(np.float64) + [4e6, 5e6, 100])
    write(tmp_path / "near.npy", POINTS.astype(np.float64))
    far, near = (in_order(read(tmp_path, f"{name}.npy").values) for name in ("far", "near"))
    np.testing.assert_allclose(far, near, atol=1e-6)


def test_a_folder_of_clouds_leads_here_from_other_data_sets(tmp_path: Path):
    write(tmp_path / "a.npy")
    with pytest.raises(MissingError) as caught:
        shapenet.scan(tmp_path, shapenet.Config())
    assert "`inrflow prepare clouds` reads any folder of such files" in str(caught.value.hint)
    with pytest.raises(MissingError) as caught:
        mesh_folder.scan(tmp_path, mesh_folder.Config())
    assert "`inrflow prepare clouds`" in str(caught.value.hint)
    write(tmp_path / "meshless/a.ply")
    config = mesh_folder.Config(val=0.0)
    [item] = mesh_folder.scan(tmp_path / "meshless", config).splits["train"]
    with pytest.raises(UnreadableItemError, match="a mesh without faces .`inrflow prepare clouds` reads points"):
        mesh_folder.read(item, config)


def test_an_empty_folder_and_one_of_other_files_are_refused(tmp_path: Path):
    with pytest.raises(MissingError, match="looked for .ply, .npy, .npz, .xyz, .pcd files; found no files"):
        clouds.scan(tmp_path, clouds.Config())
    (tmp_path / "scan.las").write_bytes(b"LASF")
    (tmp_path / "a.obj").write_text("v 0 0 0")
    with pytest.raises(MissingError) as caught:
        clouds.scan(tmp_path, clouds.Config())
    assert "`inrflow prepare mesh-folder` reads" in str(caught.value.hint)
    write(tmp_path / "a.npy")
    assert "1 file is of a format that is not read: `scan.las`" in clouds.scan(tmp_path, clouds.Config()).notes[0]


@pytest.mark.slow
def test_shards_of_one_and_three_workers_are_the_same_bytes(tmp_path: Path):
    for number in range(30):
        write(tmp_path / "in" / f"{number}.xyz", RNG.normal(size=(50 + number, 3)))
    outs = []
    for workers in (1, 3):
        job = resolve_job("clouds", tmp_path / "in", tmp_path / f"out{workers}", clouds.Config(val=0.3))
        pipeline.prepare(job, workers=workers)
        outs.append({path.name: path.read_bytes() for path in sorted(job.out.iterdir())})
    assert outs[0] == outs[1]
    opened = ShardDataset(tmp_path / "out1")
    assert opened.splits == ["train", "val"] and opened.manifest.shape == (50, 3)


@pytest.mark.parametrize("suffix", [".ply", ".npy", ".npz", ".xyz", ".pcd"])
def test_damage_anywhere_is_a_reason_and_no_other_error(tmp_path: Path, suffix: str):
    content = write(tmp_path / f"a{suffix}", POINTS[:6]).read_bytes()
    for number in range(150):
        random = np.random.default_rng(number)
        damaged = bytearray(content)
        for position in random.integers(0, len(content), 3):
            damaged[position] = random.integers(0, 256)
        (tmp_path / f"a{suffix}").write_bytes(
            bytes(damaged[: random.integers(0, len(content) + 1)] if number % 2 else damaged)
        )
        config = clouds.Config(points=2)
        for item in list(every(clouds.scan(tmp_path, config)).values())[:5]:
            with contextlib.suppress(UnreadableItemError):
                assert clouds.read(item, config).values.shape == (2, 3)
