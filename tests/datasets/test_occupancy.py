"""Occupancies from the files of Occupancy Networks: splits by lists, classes by category, and files that lie are named."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from inrflow_core.datasets import occupancy
from inrflow_core.datasets._contract import DatasetIndex, Example
from inrflow_core.errors import IntegrityError, MissingError, UnreadableItemError, UsageError
from inrflow_core.preparation import job as preparation_job
from inrflow_core.preparation import pipeline
from inrflow_core.shards.shard_dataset import ShardDataset

CHAIR, PLANE = "03001627", "02691156"


def arrays(seed: int = 0, points: int = 40, queries: int = 61) -> dict[str, dict[str, Any]]:
    """A ball of radius 0.4 as Occupancy Networks stores it."""
    rng = np.random.default_rng(seed)
    normals = rng.standard_normal((points, 3))
    normals /= np.linalg.norm(normals, axis=1, keepdims=True)
    positions = rng.uniform(-0.55, 0.55, (queries, 3)).astype(np.float16)
    positions[0] = 0
    inside = np.linalg.norm(positions.astype(np.float64), axis=1) < 0.4
    placement = {"loc": np.array([1.0, 2.0, 3.0]), "scale": np.array(2.0)}
    return {
        "points.npz": {"points": positions, "occupancies": np.packbits(inside), **placement},
        "pointcloud.npz": {
            "points": (0.4 * normals).astype(np.float32),
            "normals": normals.astype(np.float32),
            **placement,
        },
    }


def write_model(folder: Path, files: dict[str, dict[str, Any]]) -> None:
    folder.mkdir(parents=True)
    for name, content in files.items():
        np.savez(folder / name, **content)


def write_tree(root: Path) -> Path:
    for category, lists in ((CHAIR, {"train": "ab", "val": "c", "test": "d"}), (PLANE, {"train": "x", "test": "y"})):
        for split, names in lists.items():
            for number, name in enumerate(names):
                write_model(root / category / name, arrays(number))
            (root / category / f"{split}.lst").write_text("\n".join(names) + "\n")
    (root / "metadata.yaml").write_text(
        f"'{CHAIR}':\n  id: '{CHAIR}'\n  name: chair,seat\n{PLANE}:\n  id: {PLANE}\n  name: airplane\n"
    )
    return root


@pytest.fixture
def tree(tmp_path: Path) -> Path:
    return write_tree(tmp_path / "ShapeNet")


def read(index: DatasetIndex, name: str, config: occupancy.Config | None = None) -> Example:
    items = {item.name: item for split in index.splits.values() for item in split}
    return occupancy.read(items[name], config or occupancy.Config())


def test_lists_are_splits_and_categories_are_classes(tree: Path) -> None:
    index = occupancy.scan(tree, occupancy.Config())
    assert {split: [item.name for item in items] for split, items in index.splits.items()} == {
        "train": [f"{PLANE}/x", f"{CHAIR}/a", f"{CHAIR}/b"],
        "val": [f"{CHAIR}/c"],
        "test": [f"{PLANE}/y", f"{CHAIR}/d"],
    }
    assert index.classes == ("airplane", "chair") and index.shape == (40, 3)
    assert [item.label for item in index.splits["train"]] == [0, 1, 1]


@pytest.mark.parametrize("name", ["chair", "seat", CHAIR, "Chair"])
def test_a_category_is_selected_by_any_of_its_names(tree: Path, name: str) -> None:
    index = occupancy.scan(tree, occupancy.Config(categories=(name,)))
    assert index.classes == ("chair",) and len(index.splits["train"]) == 2
    alone = occupancy.scan(tree / CHAIR, occupancy.Config())
    assert alone.splits == index.splits


def test_without_metadata_a_synset_has_its_usual_name(tree: Path) -> None:
    (tree / "metadata.yaml").unlink()
    assert occupancy.scan(tree.parent, occupancy.Config()).classes == ("airplane", "chair")


def test_a_model_is_as_it_is_in_its_files(tree: Path) -> None:
    example = read(occupancy.scan(tree, occupancy.Config()), f"{CHAIR}/a")
    stored = arrays(0)
    np.testing.assert_array_equal(example.values, stored["pointcloud.npz"]["points"])
    np.testing.assert_array_equal(example.condition["queries"], stored["points.npz"]["points"].astype(np.float32))
    np.testing.assert_array_equal(example.condition["occupancies"], stored["points.npz"]["occupancies"])
    np.testing.assert_allclose(example.condition["normals"], stored["pointcloud.npz"]["normals"], atol=1e-6)
    np.testing.assert_array_equal(example.condition["offset"], [1, 2, 3])
    assert example.condition["scale"] == 2 and example.label == 1


def test_a_subset_keeps_points_with_normals_and_queries_with_bits(tree: Path) -> None:
    config = occupancy.Config(points=7, queries=20)
    index = occupancy.scan(tree, config)
    example, again = (read(occupancy.scan(root, config), f"{CHAIR}/a") for root in (tree, tree / CHAIR))
    np.testing.assert_array_equal(example.values, again.values)
    np.testing.assert_allclose(example.values, 0.4 * example.condition["normals"], atol=1e-6)
    inside = np.unpackbits(example.condition["occupancies"])[:20].astype(bool)
    np.testing.assert_array_equal(inside, np.linalg.norm(example.condition["queries"], axis=1) < 0.4)
    assert index.shape == (7, 3) and example.condition["queries"].shape == (20, 3)


def cut(name: str, array: str, change: Callable[[np.ndarray], Any]) -> Callable[[dict], None]:
    def damage(files: dict) -> None:
        files[name][array] = change(files[name][array])

    return damage


def set_first(rows: np.ndarray, value: float) -> np.ndarray:
    rows = rows.copy()
    rows[0, 0] = value
    return rows


@pytest.mark.parametrize(
    ("damage", "reason"),
    [
        (cut("points.npz", "occupancies", lambda bits: bits[:-1]), "are 7 bytes of packed bits; 61 points have 8"),
        (cut("points.npz", "occupancies", lambda bits: np.append(bits, bits[:1])), "are 9 bytes of packed bits"),
        (cut("points.npz", "occupancies", lambda bits: bits | 1), "bits behind those of its 61 points"),
        (cut("points.npz", "occupancies", lambda bits: bits.astype(np.int64)), "are int64 of shape"),
        (cut("points.npz", "occupancies", lambda bits: bits[None]), "are uint8 of shape"),
        (cut("points.npz", "occupancies", lambda bits: bits * 0), "all of its 61 query points are outside"),
        (
            cut("points.npz", "occupancies", lambda bits: np.packbits(np.ones(61, bool))),
            "all of its 61 query points are inside",
        ),
        (cut("points.npz", "points", lambda rows: set_first(rows, np.nan)), "1 of its 61 query points are not finite"),
        (
            cut("points.npz", "points", lambda rows: set_first(rows, 0.7)),
            "1 of its 61 query points are outside the cube",
        ),
        (cut("points.npz", "points", lambda rows: rows.astype(np.int8)), "`points` of its `points.npz` are int8"),
        (cut("points.npz", "points", lambda rows: rows[:, :2]), "not \\(N, 3\\)"),
        (cut("points.npz", "loc", lambda _: np.full(3, np.nan)), "the `loc` of its `points.npz`"),
        (cut("points.npz", "scale", lambda _: np.array(0.0)), "the `scale` of its `points.npz` is 0"),
        (cut("pointcloud.npz", "normals", lambda rows: rows[1:]), "40 points and 39 normals"),
        (cut("pointcloud.npz", "normals", lambda rows: rows * 0), "40 of its 40 normals have no length"),
        (cut("pointcloud.npz", "points", lambda rows: set_first(rows, np.inf)), "1 of its 40 surface points are not"),
        (lambda files: files["pointcloud.npz"].pop("normals"), "`pointcloud.npz` has no array `normals`"),
        (lambda files: files.pop("pointcloud.npz"), "it has no `pointcloud.npz`"),
        (lambda files: files.pop("points.npz"), "it has no `points.npz`"),
    ],
)
def test_a_model_whose_files_lie_is_skipped_with_the_reason(tree: Path, damage: Callable, reason: str) -> None:
    files = arrays()
    damage(files)
    write_model(tree / CHAIR / "bad", files)
    (tree / CHAIR / "val.lst").write_text("c\nbad\n")
    with pytest.raises(UnreadableItemError, match=reason) as caught:
        read(occupancy.scan(tree, occupancy.Config()), f"{CHAIR}/bad")
    assert str(tree) not in caught.value.reason


@pytest.mark.parametrize(
    ("line", "reason"),
    [
        ("gone", "`val.lst` names it, and it has no folder"),
        ("../03001627/a", "a line that is not the name of a folder"),
        ("..", "a line that is not the name of a folder"),
        ("/etc", "a line that is not the name of a folder"),
        ("z" * 5000, "a line that is not the name of a folder"),
    ],
)
def test_a_name_without_a_folder_is_skipped(tree: Path, line: str, reason: str) -> None:
    (tree / CHAIR / "val.lst").write_text(f"{line}\n")
    (item,) = occupancy.scan(tree, occupancy.Config()).splits["val"]
    with pytest.raises(UnreadableItemError, match=reason):
        occupancy.read(item, occupancy.Config())


def test_a_zip_that_is_cut_off_is_skipped(tree: Path) -> None:
    path = tree / CHAIR / "c" / "points.npz"
    path.write_bytes(path.read_bytes()[:200])
    with pytest.raises(UnreadableItemError, match="its `points.npz` cannot be read"):
        read(occupancy.scan(tree, occupancy.Config()), f"{CHAIR}/c")


def test_models_in_no_list_and_other_lists_are_noted(tree: Path) -> None:
    write_model(tree / CHAIR / "extra", arrays())
    (tree / CHAIR / "softras_test.lst").write_text("a\n")
    notes = occupancy.scan(tree, occupancy.Config()).notes
    assert notes == (
        f"1 models are in no list and are not read: `{CHAIR}/extra`",
        "lists of other names are not read: `softras_test.lst`",
    )


@pytest.mark.parametrize(
    ("file", "content", "message"),
    [
        (f"{CHAIR}/val.lst", b"a\n", f"`{CHAIR}/a` is in `train.lst` and in `val.lst`"),
        (f"{CHAIR}/val.lst", b"\xff\xfe\x00", "is not a list of names"),
        ("metadata.yaml", b"{chair: 1}\n", "line 1, does not name a category"),
        ("metadata.yaml", b"  name: chair\n", "line 1, does not name a category"),
        ("metadata.yaml", b"\xff", "is not a text"),
    ],
)
def test_damaged_lists_are_errors_with_their_name(tree: Path, file: str, content: bytes, message: str) -> None:
    (tree / file).write_bytes(content)
    with pytest.raises(IntegrityError, match=message):
        occupancy.scan(tree, occupancy.Config())


def test_what_does_not_exist_or_apply_is_an_error(tree: Path, tmp_path: Path) -> None:
    with pytest.raises(MissingError, match="has no category `chiar`; it has `airplane`, `chair`"):
        occupancy.scan(tree, occupancy.Config(categories=("chiar",)))
    with pytest.raises(UsageError, match="`winding` is a setting of meshes, and .* has lists of models"):
        occupancy.scan(tree, occupancy.Config(winding=True))
    write_tree(tmp_path / "other")
    with pytest.raises(UsageError, match="categories in two folders, `ShapeNet` and `other`"):
        occupancy.scan(tmp_path, occupancy.Config())
    (tmp_path / "empty").mkdir()
    with pytest.raises(MissingError, match=r"looked for `<category>/train.lst`.* or meshes"):
        occupancy.scan(tmp_path / "empty", occupancy.Config())
    with pytest.raises(ValueError, match="`val` is 0.6 and `test` 0.5"):
        occupancy.Config(val=0.6, test=0.5)


def test_prepared_shards_hold_the_columns_and_a_model_without_a_folder_is_counted(tree: Path, tmp_path: Path) -> None:
    (tree / CHAIR / "val.lst").write_text("c\ngone\n")
    report = pipeline.prepare(preparation_job.resolve_job("occupancy", tree, tmp_path / "out"), workers=1)
    assert [(bad.name, bad.split) for bad in report.skipped] == [(f"{CHAIR}/gone", "val")]
    shards = ShardDataset(tmp_path / "out")
    columns = ["normals", "occupancies", "offset", "queries", "scale"]
    assert shards.domain == "shape" and shards.conditions("train") == columns
    batch = shards.read("train", [1])
    np.testing.assert_array_equal(batch.condition["occupancies"][0], arrays()["points.npz"]["occupancies"])


@pytest.mark.slow
def test_workers_change_no_byte(tree: Path, tmp_path: Path) -> None:
    for workers in (1, 2):
        pipeline.prepare(preparation_job.resolve_job("occupancy", tree, tmp_path / f"out{workers}"), workers=workers)
    for file in (tmp_path / "out1").iterdir():
        assert file.read_bytes() == (tmp_path / "out2" / file.name).read_bytes()
