"""FFHQ, AFHQ, CelebA-HQ, LSUN Church and any folder: which images are found, in which split, with which label."""

from __future__ import annotations

import shutil
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

from inrflow_core import registry
from inrflow_core.datasets import afhq, celeba_hq, ffhq, image_folder, lsun_church
from inrflow_core.datasets._contract import DatasetIndex
from inrflow_core.errors import IntegrityError, MissingError, UsageError
from tests.datasets import raw

NamesAndLabels = dict[str, list[tuple[str, int]]]


def names_and_labels(plan: DatasetIndex) -> NamesAndLabels:
    return {split: [(item.name, item.label) for item in items] for split, items in plan.splits.items()}


def names(plan: DatasetIndex) -> dict[str, list[str]]:
    return {split: [item.name for item in items] for split, items in plan.splits.items()}


FACES = ("00000/00000.png", "00000/00001.png", "59000/59999.png", "60000/60000.png", "69000/69999.png")


def test_the_last_ten_thousand_faces_are_held_out(tmp_path: Path):
    raw.folder(tmp_path, [f"ffhq/images1024x1024/{name}" for name in FACES])
    raw.folder(tmp_path, [f"ffhq/thumbnails128x128/{name}" for name in FACES])
    (tmp_path / "ffhq/ffhq-dataset-v2.json").write_text("{}")
    plan = ffhq.scan(tmp_path, ffhq.Config(resolution=8))
    assert names(plan) == {"train": list(FACES[:3]), "val": list(FACES[3:])}
    everything = ffhq.scan(tmp_path, ffhq.Config(resolution=8, all_train=True))
    assert names(everything) == {"train": list(FACES)}


def test_thumbnails_alone_and_flat_copies_and_zips_are_read_too(tmp_path: Path):
    flat = [name.rpartition("/")[2] for name in FACES]
    raw.folder(tmp_path / "a", [f"thumbnails128x128/{name}" for name in FACES])
    raw.folder(tmp_path / "b", flat)
    raw.zipped(tmp_path / "c/ffhq.zip", {f"0/img{name[:-4]:0>8}.png": raw.encoded(0) for name in flat})
    for folder in "abc":
        plan = ffhq.scan(tmp_path / folder, ffhq.Config(resolution=8))
        assert [len(items) for items in plan.splits.values()] == [3, 2], folder


def test_faces_that_have_no_numbers_are_another_data_set(tmp_path: Path):
    raw.folder(tmp_path, ["100080576_f52e8ee070_n.jpg"])
    with pytest.raises(MissingError, match=r"looked for images named by number, as `00000\.png`; found 1 file"):
        ffhq.scan(tmp_path, ffhq.Config())


@pytest.mark.parametrize("held_out", ["test", "val"])
def test_animals_are_classes_and_test_or_val_is_held_out(tmp_path: Path, held_out: str):
    files = [
        f"afhq/{split}/{a}/flickr_{a}_000{n}.png"
        for split in ("train", held_out)
        for a in ("wild", "cat")
        for n in (1, 2)
    ]
    plan = afhq.scan(raw.folder(tmp_path, files), afhq.Config(resolution=8))
    assert plan.classes == ("cat", "dog", "wild")
    assert {split: [label for _, label in items] for split, items in names_and_labels(plan).items()} == {
        "train": [0, 0, 2, 2],
        "val": [0, 0, 2, 2],
    }
    some = afhq.scan(tmp_path, afhq.Config(resolution=8, animals=("wild",)))
    assert some.classes == ("wild",) and {label for items in names_and_labels(some).values() for _, label in items} == {
        0
    }


def test_animals_that_do_not_exist_are_refused():
    with pytest.raises(ValueError, match="`animals` is"):
        afhq.Config(animals=("cow",))


def test_star_gans_layout_of_celeba_has_splits_and_classes(tmp_path: Path):
    files = ["train/female/1.jpg", "train/male/2.jpg", "val/female/3.jpg"]
    raw.folder(tmp_path, [f"celeba_hq/{name}" for name in files])
    plain = celeba_hq.scan(tmp_path, celeba_hq.Config(resolution=8))
    assert (plain.classes, names_and_labels(plain)) == (
        (),
        {"train": [(files[0], -1), (files[1], -1)], "val": [(files[2], -1)]},
    )
    classed = celeba_hq.scan(tmp_path, celeba_hq.Config(resolution=8, classes=True))
    assert (classed.classes, [label for _, label in names_and_labels(classed)["train"]]) == (("female", "male"), [0, 1])


def test_every_tenth_face_is_held_out_where_nothing_says_which(tmp_path: Path):
    raw.folder(tmp_path, [f"CelebAMask-HQ/CelebA-HQ-img/{n}.jpg" for n in range(20)])
    raw.folder(tmp_path, [f"CelebAMask-HQ/CelebAMask-HQ-mask-anno/0/0000{n}_hair.png" for n in range(3)])
    plan = celeba_hq.scan(tmp_path, celeba_hq.Config(resolution=8))
    assert names(plan)["val"] == ["9.jpg", "19.jpg"]
    assert names(plan)["train"] == [f"{n}.jpg" for n in range(20) if n % 10 != 9]


def test_classes_that_no_folder_says_are_refused(tmp_path: Path):
    raw.folder(tmp_path, ["1.jpg", "2.jpg"])
    with pytest.raises(UsageError, match=r"`1\.jpg` is in neither of the folders female, male"):
        celeba_hq.scan(tmp_path, celeba_hq.Config(classes=True))


def test_exported_churches_are_read_at_any_depth_and_other_categories_left_out(tmp_path: Path):
    files = [
        "church_outdoor_train/a/b/c/d/e/f/key1.webp",
        "church_outdoor_train/0/key0.webp",
        "church_outdoor_val/k.webp",
    ]
    raw.folder(tmp_path, files)
    raw.folder(tmp_path, ["bedroom_train/x.webp"])
    plan = lsun_church.scan(tmp_path, lsun_church.Config(resolution=8))
    assert names(plan) == {"train": sorted(files[:2]), "val": files[2:]}


def database(folder: Path, content: dict[str, bytes]) -> None:
    lmdb = pytest.importorskip("lmdb")
    folder.mkdir(parents=True)
    with lmdb.open(str(folder), map_size=1 << 24) as environment, environment.begin(write=True) as transaction:
        for key, value in content.items():
            transaction.put(key.encode(), value)


def test_a_database_gives_the_examples_of_its_exported_folders(tmp_path: Path):
    stored = {
        split: {f"{n:040x}": raw.encoded(n, "WEBP", size=(20, 30)) for n in range(k)}
        for split, k in (("train", 5), ("val", 2))
    }
    for split, content in stored.items():
        database(tmp_path / "db" / f"church_outdoor_{split}_lmdb", content)
        for key, value in content.items():
            path = tmp_path / "folders" / f"church_outdoor_{split}" / key[0] / f"{key}.webp"
            path.parent.mkdir(parents=True, exist_ok=True)
            path.write_bytes(value)
    config = lsun_church.Config(resolution=8)
    plans = [lsun_church.scan(tmp_path / name, config) for name in ("db", "folders")]
    for split in ("train", "val"):
        one, other = ([lsun_church.read(item, config).values for item in plan.splits[split]] for plan in plans)
        np.testing.assert_array_equal(one, other)


def test_a_damaged_database_is_said(tmp_path: Path):
    (tmp_path / "church_outdoor_train_lmdb").mkdir()
    (tmp_path / "church_outdoor_train_lmdb" / "data.mdb").write_bytes(b"junk" * 5000)
    with pytest.raises(IntegrityError, match="is not a complete database"):
        lsun_church.scan(tmp_path, lsun_church.Config())


MINE = {
    "flat": (["b.png", "a.jpg"], {"train": ["train/a.jpg", "train/b.png"]}),
    "splits": (
        ["train/x/1.png", "valid/x/2.png", "test/y/3.png"],
        {"train": ["train/x/1.png"], "val": ["val/x/2.png"], "test": ["test/y/3.png"]},
    ),
    "train is a class": (["train/1.png", "bus/1.png"], {"train": ["train/bus/1.png", "train/train/1.png"]}),
    "below": (["deep/down/train/1.png", "deep/down/val/2.png"], {"train": ["train/1.png"], "val": ["val/2.png"]}),
    "train alone": (["train/1.png"], {"train": ["train/1.png"]}),
    "hidden": ([".git/1.png", "._2.png", "__MACOSX/3.png", "4.png"], {"train": ["train/4.png"]}),
}


@pytest.mark.parametrize(("files", "expected"), MINE.values(), ids=MINE)
def test_any_folder_is_a_data_set(tmp_path: Path, files: list[str], expected: dict[str, list[str]]):
    assert names(image_folder.scan(raw.folder(tmp_path, files), image_folder.Config(resolution=8))) == expected


def test_a_share_beside_folders_of_splits_is_noted(tmp_path: Path):
    raw.folder(tmp_path, MINE["splits"][0])
    plan = image_folder.scan(tmp_path, image_folder.Config(resolution=8, val=0.5))
    assert names(plan) == MINE["splits"][1]
    assert plan.notes == ("`val=0.5` changes nothing: the source has folders for its splits",)


def test_sub_folders_are_classes_on_request(tmp_path: Path):
    raw.folder(tmp_path, ["train/rose/1.png", "train/daisy/2.png", "val/rose/3.png", "val/tulip/deep/4.png"])
    plan = image_folder.scan(tmp_path, image_folder.Config(resolution=8, classes=True))
    assert plan.classes == ("daisy", "rose", "tulip")
    assert names_and_labels(plan) == {
        "train": [("train/daisy/2.png", 0), ("train/rose/1.png", 1)],
        "val": [("val/rose/3.png", 1), ("val/tulip/deep/4.png", 2)],
    }
    (tmp_path / "train" / "5.png").write_bytes(raw.encoded(5))
    with pytest.raises(UsageError, match=r"`5\.png` is not in a sub-folder"):
        image_folder.scan(tmp_path, image_folder.Config(classes=True))


def test_a_folder_a_zip_and_a_tar_give_the_same_plan(tmp_path: Path):
    files = {f"train/{c}/{n}.png": raw.encoded(n) for c in "ab" for n in range(3)}
    raw.zipped(tmp_path / "x.zip", files)
    raw.tarred(tmp_path / "y.tar", files)
    for name, content in files.items():
        (tmp_path / "z" / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / "z" / name).write_bytes(content)
    config = image_folder.Config(resolution=8, classes=True)
    plans = [image_folder.scan(tmp_path / source, config) for source in ("x.zip", "y.tar", "z")]
    assert names_and_labels(plans[0]) == names_and_labels(plans[1]) == names_and_labels(plans[2])
    assert plans[0].fingerprint == plans[1].fingerprint == plans[2].fingerprint
    pixels = [[image_folder.read(item, config).values for item in plan.splits["train"]] for plan in plans]
    np.testing.assert_array_equal(pixels[0], pixels[1])
    np.testing.assert_array_equal(pixels[0], pixels[2])


def test_links_to_folders_are_followed_once(tmp_path: Path):
    raw.folder(tmp_path / "far", ["1.png"])
    (tmp_path / "near").mkdir()
    (tmp_path / "near" / "linked").symlink_to(tmp_path / "far")
    (tmp_path / "far" / "back").symlink_to(tmp_path / "far")
    (tmp_path / "near" / "broken.png").symlink_to(tmp_path / "nowhere.png")
    assert names(image_folder.scan(tmp_path / "near", image_folder.Config(resolution=8))) == {"train": ["train/1.png"]}


def test_a_zip_that_is_none_is_damaged(tmp_path: Path):
    (tmp_path / "a.zip").write_bytes(b"PK junk")
    with pytest.raises(IntegrityError, match=r"a\.zip` is not a complete zip"):
        image_folder.scan(tmp_path, image_folder.Config())


@pytest.mark.parametrize("name", ["imagenet", "ffhq", "lsun-church", "celeba-hq", "afhq", "images"])
def test_an_empty_folder_and_a_strange_one_say_what_was_looked_for(tmp_path: Path, name: str):
    part = registry.find("datasets", name)
    for content in ((), ("readme.txt",)):
        shutil.rmtree(tmp_path)
        tmp_path.mkdir()
        for file in content:
            (tmp_path / file).write_text("x")
        with pytest.raises(MissingError, match=r"looked for .*; found (no files|1 file \(1 \.txt\) in readme\.txt)"):
            part.scan(tmp_path, part.Config())


@pytest.mark.parametrize("name", registry.names("datasets"))
def test_every_data_set_says_what_it_reads_and_makes(name: str):
    part = registry.find("datasets", name)
    assert part.DOMAIN in registry.names("domains")
    reads, arrow, makes = part.DESCRIPTION.partition(" -> ")
    assert reads and arrow and makes
    scan: Callable = part.scan
    assert scan.__doc__ and part.read.__doc__ and part.Config()


def test_celeba_hq_by_linear_interpolation_takes_the_four_nearest_of_128_pixels(tmp_path: Path):
    pixels = np.random.default_rng(0).integers(0, 256, (128, 128, 3), dtype=np.uint8)
    for number in range(20):
        Image.fromarray(pixels).save(tmp_path / f"{number}.png")
    config = celeba_hq.Config(resolution=64, reduction="bilinear", held_out="last")
    plan = celeba_hq.scan(tmp_path, config)
    assert [item.name for item in plan.splits["val"]] == ["18.png", "19.png"]
    means = pixels.reshape(64, 2, 64, 2, 3).astype(float).mean((1, 3))
    assert np.abs(celeba_hq.read(plan.splits["val"][0], config).values - means).max() <= 0.5
    expected = torch.nn.functional.interpolate(
        torch.from_numpy(pixels).movedim(-1, 0)[None].double(), (48, 48), mode="bilinear", align_corners=False
    )[0].movedim(0, -1)
    smaller = celeba_hq.Config(resolution=48, reduction="bilinear")
    assert np.abs(celeba_hq.read(plan.splits["train"][0], smaller).values - expected.numpy()).max() <= 0.5 + 1e-9


def test_a_share_of_any_folder_is_held_out_by_content_alone(tmp_path: Path):
    contents = {f"{'ab'[n % 2]}/{n}.png": raw.encoded(n) for n in range(200)}
    for name, content in contents.items():
        (tmp_path / "deep/in" / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / "deep/in" / name).write_bytes(content)
    config = image_folder.Config(resolution=8, classes=True, val=0.2)
    plan = image_folder.scan(tmp_path / "deep/in", config)
    held_out = {name.removeprefix("val/") for name in names(plan)["val"]}
    assert held_out < contents.keys()
    assert 25 <= len(held_out) <= 55 and len(names(plan)["train"]) == 200 - len(held_out)
    assert {label for _, label in names_and_labels(plan)["val"]} == {0, 1}
    for number, member in enumerate(("photos.zip", "photos.tar")):
        packed = (raw.zipped, raw.tarred)[number](tmp_path / f"packed{number}" / member, contents)
        again = image_folder.scan(packed.parent, config)
        assert (again.fingerprint, names(again)) == (plan.fingerprint, names(plan)), member
    (tmp_path / "deep/in" / min(held_out)).rename(tmp_path / "deep/in/a/other name.png")
    renamed = {name.removeprefix("val/") for name in names(image_folder.scan(tmp_path / "deep", config))["val"]}
    assert renamed == held_out - {min(held_out)} | {"a/other name.png"}
    assert list(image_folder.scan(tmp_path, image_folder.Config(val=0.0)).splits) == ["train"]


def test_folders_of_splits_are_not_divided_again(tmp_path: Path):
    raw.folder(tmp_path, [f"train/{n}.png" for n in range(40)] + ["valid/1.png"])
    plan = image_folder.scan(tmp_path, image_folder.Config(val=0.5))
    assert {split: len(items) for split, items in plan.splits.items()} == {"train": 40, "val": 1}


def test_transparent_pixels_show_the_background_that_is_set(tmp_path: Path):
    Image.new("RGBA", (8, 8), (10, 20, 30, 0)).save(tmp_path / "clear.png")
    for background, expected in ((None, (255, 255, 255)), ("black", (0, 0, 0)), ("#ff8800", (255, 136, 0))):
        config = image_folder.Config(resolution=4, background=background)
        plan = image_folder.scan(tmp_path, config)
        assert (image_folder.read(plan.splits["train"][0], config).values == expected).all()
        assert plan.normalization.get("background") == background
        model = registry.find("domains", "image").Domain(registry.find("domains", "image").Config(resolution=4))
        assert (model.read_input(tmp_path / "clear.png", plan.normalization).values == expected).all()
    for wrong in ("purplish", "#ff880080", ""):
        with pytest.raises(
            ValueError, match=f"`background` is '{wrong}': a color by name, as `black`, or as `#ff8800`"
        ):
            image_folder.Config(background=wrong)
    with pytest.raises(ValueError, match="`val` is 1.0: from 0 to below 1"):
        image_folder.Config(val=1.0)


@pytest.mark.parametrize(
    ("name", "item", "beside", "note"),
    [
        (
            "image-folder",
            "cats/1.png",
            ["cats/notes.txt", "a.csv", "b.json", "c"],
            "4 files of other kinds are passed over: `a.csv`",
        ),
        (
            "image-folder",
            "cats/1.png",
            ["notes.txt", "broken.heic"],
            "1 file of another kind is passed over: `notes.txt`",
        ),
        ("clouds", "cats/1.xyz", ["readme.md", "scan.las"], "1 file of another kind is passed over: `readme.md`"),
        (
            "mesh-folder",
            "cats/1.obj",
            ["cats/1.mtl", "skin.png", "readme.md"],
            "1 file of another kind is passed over: `readme.md`",
        ),
    ],
)
def test_files_of_other_kinds_are_counted(tmp_path: Path, name: str, item: str, beside: list[str], note: str):
    raw.folder(tmp_path, ["cats/1.png"])
    for file in (item, *beside):
        (tmp_path / file).write_bytes(raw.encoded(0) if file.endswith(".png") else b"0 0 0\n1 1 1\n")
    if name == "clouds":
        (tmp_path / "cats/1.png").unlink()
    part = registry.find("datasets", name)
    passed = [text for text in part.scan(tmp_path, part.Config()).notes if "passed over" in text]
    assert len(passed) == 1 and passed[0].startswith(note)
    for file in beside:
        (tmp_path / file).unlink()
    assert not [text for text in part.scan(tmp_path, part.Config()).notes if "passed over" in text]
