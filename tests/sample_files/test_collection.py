"""Items from shards, files and folders: equal images and clouds from every source, and clear errors."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from inrflow_core.datasets import solids
from inrflow_core.errors import InrflowError, IntegrityError, MissingError, UsageError
from inrflow_core.formats import ply
from inrflow_core.geometry import point_clouds
from inrflow_core.preparation import job, pipeline
from inrflow_core.proteins import structure_reader
from inrflow_core.sample_files import readers, subsets
from inrflow_core.shards.shard_dataset import ShardDataset
from inrflow_core.storage import plain_file

IMAGES = np.random.default_rng(0).integers(0, 256, (5, 6, 4, 3), dtype=np.uint8)
CLOUDS = np.random.default_rng(1).normal(size=(4, 7, 3)).astype(np.float32)


def image_files(folder: Path, images: np.ndarray = IMAGES) -> Path:
    folder.mkdir()
    for index, image in enumerate(images):
        Image.fromarray(image).save(folder / f"{index:03d}.png")
    return folder


def test_images_of_a_folder_and_of_an_archive_are_the_same(tmp_path: Path):
    np.savez(tmp_path / "a.npz", images=IMAGES)
    np.savez(tmp_path / "adm.npz", IMAGES)
    for folder in (image_files(tmp_path / "folder"), tmp_path / "a.npz", tmp_path / "adm.npz"):
        opened = readers.open_collection(folder)
        assert (opened.domain, opened.count, opened.shape) == ("image", 5, (6, 4, 3))
        np.testing.assert_array_equal(opened.read([3, 0]).values, IMAGES[[3, 0]])


def test_clouds_of_ply_files_of_npy_files_and_of_one_array_are_the_same(tmp_path: Path):
    (tmp_path / "ply").mkdir()
    (tmp_path / "npy").mkdir()
    for index, cloud in enumerate(CLOUDS):
        ply.write(tmp_path / "ply" / f"{index}.ply", cloud, origin={})
        np.save(tmp_path / "npy" / f"{index}.npy", cloud.astype(np.float64))
    np.save(tmp_path / "all.npy", CLOUDS)
    np.savez(tmp_path / "all.npz", points=CLOUDS)
    for name in ("ply", "npy", "all.npy", "all.npz"):
        opened = readers.open_collection(tmp_path / name)
        assert (opened.domain, opened.count) == ("points", 4)
        np.testing.assert_array_equal(opened.read(range(4)).values, CLOUDS)


def test_clouds_that_were_drawn_do_not_pass_for_clouds_in_the_units_of_a_source(tmp_path: Path):
    np.savez(tmp_path / "drawn.npz", points=CLOUDS, origin='{"inrflow": "0", "preset": "x"}')
    np.savez(tmp_path / "other.npz", points=CLOUDS)
    for name, origin in (("drawn", {"inrflow": "0"}), ("other", {})):
        (tmp_path / name).mkdir()
        ply.write(tmp_path / name / "0.ply", CLOUDS[0], origin=origin)
    for name in ("drawn.npz", "drawn"):
        assert point_clouds.units(readers.open_collection(tmp_path / name).normalization, {}) is None
    for name in ("other.npz", "other"):
        assert not readers.open_collection(tmp_path / name).normalization


def test_shards_give_the_preferred_split_and_know_their_classes_and_units(tmp_path: Path):
    config = solids.Config(train=12, val=5, points=50)
    pipeline.prepare(job.resolve_job("solids", out=tmp_path / "solids", config=config), workers=1)
    preferred = readers.open_collection(tmp_path / "solids", prefer=("test", "val", "train"))
    named = readers.open_collection(tmp_path / "solids", "train")
    assert (preferred.split, preferred.count, named.split, named.count) == ("val", 5, "train", 12)
    assert preferred.digest == named.digest and len(preferred.digest) == 64
    assert preferred.metadata["data set"] == "solids"
    with pytest.raises(UsageError, match="no split `tset`"):
        readers.open_collection(tmp_path / "solids", "tset")


def test_the_digest_follows_every_byte_and_name(tmp_path: Path):
    folder = image_files(tmp_path / "a")
    same = readers.open_collection(image_files(tmp_path / "b")).digest
    assert readers.open_collection(folder).digest == same
    (folder / "004.png").rename(folder / "005.png")
    renamed = readers.open_collection(folder).digest
    Image.fromarray(IMAGES[0]).save(folder / "005.png")
    assert len({same, renamed, readers.open_collection(folder).digest}) == 3


def test_enlarging_keeps_constant_images_and_the_order(tmp_path: Path):
    flat = np.repeat(np.array([0, 100, 255], np.uint8), 16 * 3).reshape(3, 4, 4, 3)
    np.savez(tmp_path / "a.npz", images=flat)
    coarse = readers.open_collection(tmp_path / "a.npz")
    for filter in ("bilinear", "bicubic"):
        fine = subsets.resized(coarse, (8, 12), filter)
        assert fine.shape == (8, 12, 3) and fine.digest != coarse.digest
        np.testing.assert_array_equal(fine.read([2, 1]).values[:, 3, 5, 0], [255, 100])


@pytest.mark.parametrize(
    ("make", "kind", "message"),
    [
        (lambda p: None, MissingError, "does not exist"),
        (lambda p: p.mkdir(), MissingError, "neither images nor clouds"),
        (lambda p: p.write_bytes(b"x"), UsageError, "holds no samples"),
        (lambda p: np.save(image_files(p) / "a.npy", CLOUDS[0]), UsageError, "5 images and 1 point clouds"),
    ],
    ids=["absent", "empty", "another file", "both"],
)
def test_a_place_that_holds_no_items_is_refused(tmp_path: Path, make, kind, message):
    make(tmp_path / "place")
    with pytest.raises(kind, match=message):
        readers.open_collection(tmp_path / "place")


@pytest.mark.parametrize(
    ("name", "array", "message"),
    [
        ("a.npz", {"images": IMAGES[0]}, "not images or point clouds"),
        ("a.npz", {"images": IMAGES.astype(np.float32)}, "not images or point clouds"),
        ("a.npz", {"points": CLOUDS[..., :2]}, "not images or point clouds"),
        ("a.npz", {"points": CLOUDS.astype(np.int64)}, "not images or point clouds"),
        ("a.npz", {"other": CLOUDS}, "holds `other`"),
        ("a.npz", {"images": np.array([{}], dtype=object)}, "cannot be read"),
    ],
)
def test_an_archive_of_something_else_is_refused(tmp_path: Path, name, array, message):
    np.savez(tmp_path / name, **array)
    with pytest.raises(InrflowError, match=message):
        readers.open_collection(tmp_path / name)


def test_unequal_items_and_numbers_that_are_none_are_named(tmp_path: Path):
    folder = image_files(tmp_path / "a")
    Image.fromarray(IMAGES[0][:3]).save(folder / "other.png")
    with pytest.raises(UsageError, match=r"other.png` is 3 x 4 pixels, RGB, and .*000.png` is 6 x 4"):
        readers.open_collection(folder).read(range(6))
    Image.fromarray(IMAGES[0][..., 0]).save(folder / "other.png")
    with pytest.raises(UsageError, match="other.png` is 6 x 4 pixels, gray"):
        readers.open_collection(folder).read(range(6))
    (folder / "other.png").write_bytes(b"no picture")
    with pytest.raises(IntegrityError, match=r"other.png` cannot be read as an image: its content is not JPEG"):
        readers.open_collection(folder).read(range(6))
    bad = CLOUDS.copy()
    bad[2, 3, 1] = np.nan
    np.save(tmp_path / "bad.npy", bad)
    with pytest.raises(IntegrityError, match=r"not finite in single precision: 2"):
        readers.open_collection(tmp_path / "bad.npy").read([1, 2])
    (tmp_path / "npy").mkdir()
    for index, size in enumerate((7, 6)):
        np.save(tmp_path / "npy" / f"{index}.npy", CLOUDS[0, :size])
    with pytest.raises(UsageError, match=r"1.npy` is 6 points of 3 numbers, and .*0.npy` is 7"):
        readers.open_collection(tmp_path / "npy").read([0, 1])


def test_items_that_differ_are_found_though_they_are_read_in_different_calls(tmp_path: Path):
    folder = image_files(tmp_path / "a")
    Image.fromarray(IMAGES[0][:3]).save(folder / "other.png")
    with pytest.raises(UsageError, match=r"other.png` is 3 x 4 pixels, RGB, and .*000.png` is 6 x 4"):
        readers.open_collection(folder).read([5])


@pytest.mark.parametrize(("suffix", "wrong"), [("npz", "npy"), ("npy", "npz")])
def test_the_content_of_an_array_file_decides_and_not_its_name(tmp_path: Path, suffix, wrong):
    if suffix == "npz":
        np.savez(tmp_path / "a.npz", points=CLOUDS)
    else:
        np.save(tmp_path / "a.npy", CLOUDS)
    (tmp_path / f"a.{suffix}").rename(tmp_path / f"a.{wrong}")
    np.testing.assert_array_equal(readers.open_collection(tmp_path / f"a.{wrong}").read(range(4)).values, CLOUDS)


def test_numbers_beyond_float32_are_not_finite(tmp_path: Path):
    np.save(tmp_path / "a.npy", CLOUDS.astype(np.float64) * 1e300)
    with pytest.raises(IntegrityError, match="not finite in single precision: 0"):
        readers.open_collection(tmp_path / "a.npy").read([0])


def test_images_of_a_folder_follow_the_one_readers_rules(tmp_path: Path):
    folder = image_files(tmp_path / "deep")
    exif = Image.Exif()
    exif[274] = 3
    turned = np.rot90(IMAGES[0], 2).copy()
    Image.fromarray(turned).save(folder / "000.png", exif=exif)
    frames = [Image.fromarray(image) for image in IMAGES]
    frames[1].save(folder / "001.png", save_all=True, append_images=frames[2:4])
    alpha = np.full((*IMAGES[2].shape[:2], 1), 255, np.uint8)
    alpha[0, 0] = 0
    Image.fromarray(np.concatenate([IMAGES[2], alpha], -1)).save(folder / "002.png")
    result = readers.open_collection(folder).read(range(3)).values
    expected = IMAGES[:3].copy()
    expected[2, 0, 0] = 255
    np.testing.assert_array_equal(result, expected)


def test_gray_of_16_bits_stays_gray(tmp_path: Path):
    for index, value in enumerate((0, 32768, 65535)):
        Image.fromarray(np.full((6, 4), value, np.uint16)).save(tmp_path / f"{index}.png")
    result = readers.open_collection(tmp_path).read(range(3)).values
    assert result.shape == (3, 6, 4, 1) and result[:, 0, 0, 0].tolist() == [0, 128, 255]


def test_links_that_lead_to_themselves_are_no_items(tmp_path: Path):
    folder = image_files(tmp_path / "a")
    (folder / "005.png").symlink_to("005.png")
    (folder / "again").symlink_to(".")
    assert readers.open_collection(folder).count == 5


def test_a_flipped_byte_in_shards_is_found_when_they_are_verified(tmp_path: Path):
    pipeline.prepare(
        job.resolve_job("solids", out=tmp_path / "solids", config=solids.Config(train=12, val=5, points=50)), workers=1
    )
    opened = readers.open_collection(tmp_path / "solids", "val")
    opened.verify()
    shard = next((tmp_path / "solids").glob("val*.h5"))
    content = bytearray(shard.read_bytes())
    content[-9] ^= 1
    shard.write_bytes(content)
    with pytest.raises(IntegrityError, match=r"val.*is damaged: its digest is"):
        opened.verify()


def test_of_selected_items_only_their_shards_are_verified_unless_classes_selected_them(tmp_path: Path):
    config = solids.Config(train=600, val=5, points=4)
    pipeline.prepare(job.resolve_job("solids", out=tmp_path / "solids", config=config), workers=1)
    shard = sorted((tmp_path / "solids").glob("train*.h5"))[1]
    content = bytearray(shard.read_bytes())
    content[-9] ^= 1
    shard.write_bytes(content)
    opened = readers.open_collection(tmp_path / "solids", "train")
    of_class = subsets.filter_classes(opened, [next(iter(opened.class_counts()))])
    others = of_class.select(np.arange(2))
    subsets.evenly_spaced_items(opened, 2).verify()
    for part in (opened, subsets.evenly_spaced_items(opened, 3), of_class, others):
        with pytest.raises(IntegrityError, match=r"train-00001.*is damaged: its digest is"):
            part.verify()


def test_classes_choose_their_items_in_the_order_of_the_split(tmp_path: Path):
    config = solids.Config(train=40, val=8, points=30)
    pipeline.prepare(job.resolve_job("solids", out=tmp_path / "solids", config=config), workers=1)
    opened = ShardDataset(tmp_path / "solids")
    every = readers.open_collection(tmp_path / "solids", "train")
    expected = [opened.classes[5], opened.classes[2]]
    result = subsets.filter_classes(every, expected)
    indices = [index for index, label in enumerate(opened.labels("train")) if opened.classes[label] in expected]
    assert result.count == len(indices) > 0 and result.digest != every.digest
    np.testing.assert_array_equal(result.read(range(result.count)).values, every.read(indices).values)
    assert result.metadata["classes"] == ", ".join(expected)
    with pytest.raises(UsageError, match="has no class `cube`"):
        subsets.filter_classes(every, ["cube"])
    np.save(tmp_path / "all.npy", CLOUDS)
    with pytest.raises(UsageError, match="has no class `box`"):
        subsets.filter_classes(readers.open_collection(tmp_path / "all.npy"), ["box"])


def test_an_archive_whose_origin_is_damaged_is_named(tmp_path):
    path = tmp_path / "drawn.npz"
    np.savez(path, points=CLOUDS, origin='{"inrflow": "0", "preset": "x"}')
    content = bytearray(path.read_bytes())
    content[content.index("preset".encode("utf-32-le"))] ^= 1
    path.write_bytes(content)
    with pytest.raises(IntegrityError, match=r"drawn\.npz` cannot be read: Bad CRC-32"):
        readers.open_collection(path)


@pytest.mark.parametrize(("name", "size"), [("001.png", 6 << 30), ("001.ply", 6 << 30), ("001.pdb", 1 << 29)])
def test_a_file_larger_than_its_kind_can_be_is_refused_by_name_before_it_is_read(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, name: str, size: int
):
    folder = tmp_path / "folder"
    folder.mkdir()
    with (folder / name).open("wb") as file:
        file.truncate(size)  # a hole, which takes no room
    monkeypatch.setattr(plain_file, "BLOCK", None)  # a read of blocks would fail
    with pytest.raises(IntegrityError, match=rf"{name}` has {size:,} bytes, more than "):
        readers.open_collection(folder)
    if name.endswith(".pdb"):
        with pytest.raises(IntegrityError, match=rf"{name}` has {size:,} bytes, more than 268,435,456"):
            structure_reader.read(folder / name)
