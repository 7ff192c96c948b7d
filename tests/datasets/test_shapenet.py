"""ShapeNet: both layouts, categories, both normalisations, and what is broken."""

from __future__ import annotations

import tarfile
from collections.abc import Callable
from pathlib import Path

import h5py
import numpy as np
import pytest

from inrflow_core.datasets import shapenet
from inrflow_core.errors import IntegrityError, MissingError, UnreadableItemError, UsageError
from inrflow_core.preparation import job, pipeline
from inrflow_core.shards import shard_dataset

CHAIR, CAR = "03001627", "02958343"
COUNTS = {(CAR, "train"): 2, (CAR, "val"): 1, (CHAIR, "train"): 3, (CHAIR, "val"): 1, (CHAIR, "test"): 2}


def clouds() -> dict[tuple[str, str], np.ndarray]:
    rng = np.random.default_rng(0)
    scale = np.array([0.2, 0.4, 0.3])
    return {key: (rng.normal(size=(n, 40, 3)) * scale + 0.1).astype(np.float32) for key, n in COUNTS.items()}


@pytest.fixture
def tree(tmp_path: Path) -> Path:
    """PointFlow's layout; the names sort in the order of the arrays."""
    for (synset, split), arrays in clouds().items():
        folder = tmp_path / "ShapeNetCore.v2.PC15k" / synset / split
        folder.mkdir(parents=True)
        for row, array in reversed(list(enumerate(arrays))):
            np.save(folder / f"{row:04d}.npy", array)
    return tmp_path


@pytest.fixture
def single(tmp_path: Path) -> Path:
    """The layout of diffusion-point-cloud."""
    with h5py.File(tmp_path / "shapenet.hdf5", "w") as file:
        for (synset, split), arrays in clouds().items():
            file.create_dataset(f"{synset}/{split}", data=arrays, compression="gzip")
    return tmp_path


def values(source: Path, split: str = "train", **settings) -> np.ndarray:
    config = shapenet.Config(**settings)
    return np.stack([shapenet.read(item, config).values for item in shapenet.scan(source, config).splits[split]])


def test_both_layouts_hold_the_same_clouds(tree: Path, single: Path) -> None:
    np.testing.assert_array_equal(values(tree / "ShapeNetCore.v2.PC15k"), values(single / "shapenet.hdf5"))
    plans = [
        shapenet.scan(source, shapenet.Config())
        for source in (tree / "ShapeNetCore.v2.PC15k", single / "shapenet.hdf5")
    ]
    for plan in plans:
        assert plan.classes == ("car", "chair")
        assert {split: [item.label for item in items] for split, items in plan.splits.items()} == {
            "train": [0, 0, 1, 1, 1],
            "val": [0, 1],
            "test": [1, 1],
        }


@pytest.mark.parametrize("folder", [".", "ShapeNetCore.v2.PC15k", f"ShapeNetCore.v2.PC15k/{CHAIR}"])
def test_any_part_of_the_tree_may_be_named(tree: Path, folder: str) -> None:
    assert shapenet.scan(tree / folder, shapenet.Config(categories=("chair",))).classes == ("chair",)


@pytest.mark.parametrize("categories", [("chair",), (CHAIR,), ("Chair", CHAIR)])
def test_categories_go_by_name_or_synset(tree: Path, categories: tuple[str, ...]) -> None:
    plan = shapenet.scan(tree, shapenet.Config(categories=categories))
    assert plan.classes == ("chair",)
    assert [item.name for item in plan.splits["train"]] == [f"{CHAIR}/000{n}" for n in range(3)]


def test_each_cloud_is_put_into_its_box_and_comes_back(tree: Path) -> None:
    config = shapenet.Config(categories=("chair",))
    for item, raw in zip(shapenet.scan(tree, config).splits["val"], clouds()[CHAIR, "val"], strict=True):
        example = shapenet.read(item, config)
        np.testing.assert_allclose(np.abs(example.values).max(0).max(), 1, rtol=1e-6)
        longest = np.ptp(raw, axis=0).argmax()
        np.testing.assert_allclose(
            [example.values[:, longest].min(), example.values[:, longest].max()], [-1, 1], rtol=1e-6
        )
        back = example.values * example.condition["scale"] + example.condition["offset"]
        np.testing.assert_allclose(back, raw, atol=1e-6)


def test_global_normalization_is_pointflows_mean_and_one_deviation_of_the_train_split(tree: Path) -> None:
    plan = shapenet.scan(tree, shapenet.Config(normalization="global"))
    train = np.concatenate([clouds()[CAR, "train"], clouds()[CHAIR, "train"]]).astype(np.float64).reshape(-1, 3)
    np.testing.assert_allclose(plan.normalization["offset"], train.mean(0), rtol=1e-8)
    np.testing.assert_allclose(plan.normalization["scale"], train.reshape(-1).std(), rtol=1e-8)
    np.testing.assert_allclose(values(tree, normalization="global").mean((0, 1)), 0, atol=1e-6)
    held_out = values(tree, "val", normalization="global")
    back = held_out * plan.normalization["scale"] + plan.normalization["offset"]
    np.testing.assert_allclose(back, np.concatenate([clouds()[CAR, "val"], clouds()[CHAIR, "val"]]), atol=1e-6)


def spoil(path: Path, fault: str) -> None:
    good = np.load(path)
    arrays = {
        "objects": np.array([{"a": 1}], dtype=object),
        "nan": np.where(np.arange(40)[:, None] == 7, np.nan, good),
        "flat": good[:, 0],
        "pairs": good[:, :2],
        "whole": np.ones((40, 3), dtype=np.int64),
        "none": good[:0],
        "one-place": np.ones_like(good),
        "beyond-float32": good.astype(np.float64) * 1e60,
    }
    if fault in arrays:
        np.save(path, arrays[fault], allow_pickle=True)
    else:
        raw = path.read_bytes()
        shape = b"(40, 3), }"
        path.write_bytes(
            {"cut": raw[:-50], "junk": b"junk", "empty": b"", "lying": raw.replace(shape, b"(99, 3), }")}[fault]
        )


@pytest.mark.parametrize(
    ("fault", "reason"),
    [
        ("objects", "array of objects"),
        ("nan", "1 of its 40 points are not finite"),
        ("flat", r"shape \(40,\), not points"),
        ("pairs", r"shape \(40, 2\), not points"),
        ("whole", "int64 of shape"),
        ("none", r"shape \(0, 3\), not points"),
        ("one-place", "all its points coincide"),
        ("beyond-float32", "points are not finite"),
        ("cut", "not a complete .npy file"),
        ("junk", "not a .npy file"),
        ("empty", "not a complete .npy file"),
        ("lying", "not a complete .npy file"),
    ],
)
@pytest.mark.filterwarnings("error")
@pytest.mark.parametrize("normalization", ["shape", "global"])
def test_a_broken_cloud_is_left_out_with_its_reason(tree: Path, fault: str, reason: str, normalization: str) -> None:
    if (fault, normalization) == ("one-place", "global"):
        return  # the frame is the train split's: such a cloud has a place in it
    spoil(tree / "ShapeNetCore.v2.PC15k" / CAR / "train" / "0000.npy", fault)
    config = shapenet.Config(normalization=normalization)  # type: ignore[arg-type]
    plan = shapenet.scan(tree, config)
    assert plan.shape == (40, 3)
    with pytest.raises(UnreadableItemError, match=reason) as caught:
        shapenet.read(plan.splits["train"][0], config)
    assert str(tree) not in caught.value.reason


def test_an_hdf5_file_with_an_external_link_is_refused(single: Path) -> None:
    with h5py.File(single / "shapenet.hdf5", "a") as file:
        file["04379243"] = h5py.ExternalLink("elsewhere.h5", "/x")
    with pytest.raises(IntegrityError, match="a link to elsewhere, `/04379243`, which is refused"):
        shapenet.scan(single, shapenet.Config())


def test_the_error_of_an_empty_or_wrong_source_names_the_expected_files(tmp_path: Path) -> None:
    (tmp_path / "notes.txt").write_text("")
    with pytest.raises(
        MissingError, match=r"`ShapeNetCore\.v2\.PC15k/.*` or a `shapenet\.hdf5` and found neither among 1 files"
    ):
        shapenet.scan(tmp_path, shapenet.Config())


def test_a_category_that_is_not_there_is_named_with_those_that_are(tree: Path) -> None:
    with pytest.raises(MissingError, match=r"no clouds of `airplane` \(02691156\); it has `car`, `chair`"):
        shapenet.scan(tree, shapenet.Config(categories=("airplane",)))
    with pytest.raises(ValueError, match="`plane`, which ShapeNet does not have; did you mean `airplane`?"):
        shapenet.Config(categories=("plane",))


def test_another_file_in_the_tree_does_not_change_the_source(tree: Path) -> None:
    before = shapenet.scan(tree, shapenet.Config()).fingerprint
    (tree / "NOTES.txt").write_text("a line")
    assert shapenet.scan(tree, shapenet.Config()).fingerprint == before


def test_two_trees_are_not_mixed(tree: Path) -> None:
    other = tree / "copy" / CHAIR / "train"
    other.mkdir(parents=True)
    np.save(other / "a.npy", clouds()[CHAIR, "val"][0])
    with pytest.raises(UsageError, match="two trees of ShapeNet, in `ShapeNetCore.v2.PC15k` and `copy`"):
        shapenet.scan(tree, shapenet.Config())


def test_real_clouds_become_shards_that_hold_them(real_data: Callable[[str], Path], tmp_path: Path) -> None:
    with tarfile.open(real_data("derived/pointflow_layout_cc0/pointflow_layout.tar.gz")) as tar:
        tar.extractall(tmp_path / "data", filter="data")
    report = pipeline.prepare(job.resolve_job("shapenet", tmp_path / "data", tmp_path / "out"), workers=1)
    assert report.splits == {"train": 32, "val": 5, "test": 10}
    read = shard_dataset.ShardDataset(tmp_path / "out")
    assert read.classes == ("car", "chair", "table")
    batch = read.read("val", range(5), with_names=True)
    for values, name, offset, scale in zip(
        batch.values, batch.names, batch.condition["offset"], batch.condition["scale"], strict=True
    ):
        synset, _, stem = name.partition("/")
        raw = np.load(tmp_path / "data" / "ShapeNetCore.v2.PC15k" / synset / "val" / f"{stem}.npy")
        np.testing.assert_allclose(values * scale + offset, raw, atol=1e-6)


def test_one_cloud_of_another_size_does_not_drop_all_others(tree: Path) -> None:
    first = shapenet.scan(tree, shapenet.Config()).splits["train"][0]
    size = shapenet.scan(tree, shapenet.Config()).shape
    np.save(first.location.file, np.zeros((3, 3), np.float32))
    assert shapenet.scan(tree, shapenet.Config()).shape == size


def test_an_hdf5_file_of_too_many_clouds_is_refused_before_its_rows_are_listed(tmp_path: Path) -> None:
    with h5py.File(tmp_path / "shapenet.hdf5", "w") as file:
        file.create_dataset(f"{CAR}/train", data=np.zeros((1_000_001, 1, 3), np.float32), compression=1)
    with pytest.raises(IntegrityError, match=rf"states 1,000,001 clouds in `{CAR}/train`, more than 1,000,000"):
        shapenet.scan(tmp_path, shapenet.Config())
