"""ImageNet in each of its forms gives the same examples with the same labels."""

from __future__ import annotations

import io
import json
import shutil
import tarfile
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from scipy.io import savemat

from inrflow_core import registry
from inrflow_core.datasets import imagenet
from inrflow_core.datasets._contract import DatasetIndex
from inrflow_core.errors import IntegrityError, MissingError
from inrflow_core.preparation.job import resolve_job
from inrflow_core.preparation.pipeline import prepare
from inrflow_core.shards.shard_dataset import ShardDataset
from tests.datasets import raw

FOLDERS = ("n01440764", "n01443537", "n02084071")
TRAIN = {
    f"{folder}/{folder}_{n}.JPEG": raw.encoded(10 * i + n, "JPEG") for i, folder in enumerate(FOLDERS) for n in (1, 2)
}
VAL = {f"ILSVRC2012_val_{n:08d}.JPEG": raw.encoded(100 + n, "JPEG") for n in (1, 2, 3, 4)}
VAL_FOLDERS = (FOLDERS[2], FOLDERS[0], FOLDERS[2], FOLDERS[1])
CONFIG = imagenet.Config(resolution=8)


def write(root: Path, files: dict[str, bytes]) -> None:
    for name, content in files.items():
        (root / name).parent.mkdir(parents=True, exist_ok=True)
        (root / name).write_bytes(content)


def class_folders(root: Path) -> Path:
    write(root / "train", TRAIN)
    write(root / "val", {f"{folder}/{name}": VAL[name] for name, folder in zip(VAL, VAL_FOLDERS, strict=True)})
    (root / "train" / FOLDERS[0] / "._n01440764_1.JPEG").write_bytes(b"of a Mac")
    (root / ".cache" / "train" / "x").mkdir(parents=True)
    (root / ".cache" / "train" / "x" / "1.JPEG").write_bytes(b"hidden")
    return root


def kaggle(root: Path) -> Path:
    write(root / "ILSVRC/Data/CLS-LOC/train", TRAIN)
    write(root / "ILSVRC/Data/CLS-LOC/val", VAL)
    write(root / "ILSVRC/Data/CLS-LOC/test", {"ILSVRC2012_test_00000001.JPEG": raw.encoded(0)})
    rows = [
        f"{Path(name).stem},{folder} 1 2 3 4 {folder} 5 6 7 8" for name, folder in zip(VAL, VAL_FOLDERS, strict=True)
    ]
    (root / imagenet.CSV).write_text("\n".join(["ImageId,PredictionString", *rows]) + "\n")
    return root


def development_kit() -> bytes:
    """Its own class numbers run against the order of the folders' names."""
    numbers = {folder: 3 - rank for rank, folder in enumerate(FOLDERS)}
    synsets = np.zeros(3, dtype=[("ILSVRC2012_ID", "O"), ("WNID", "O")])
    for row, (folder, number) in enumerate(numbers.items()):
        synsets[row] = (number, folder)
    meta = io.BytesIO()
    savemat(meta, {"synsets": synsets})
    truth = "".join(f"{numbers[folder]}\n" for folder in VAL_FOLDERS).encode()
    top = "ILSVRC2012_devkit_t12/data"
    packed = io.BytesIO()
    with tarfile.open(fileobj=packed, mode="w:gz") as kit:
        for name, content in ((imagenet.TRUTH, truth), (imagenet.META, meta.getvalue())):
            member = tarfile.TarInfo(f"{top}/{name}")
            member.size = len(content)
            kit.addfile(member, io.BytesIO(content))
    return packed.getvalue()


def tars(root: Path) -> Path:
    inner = {
        f"{folder}.tar": raw.tar_bytes({Path(n).name: c for n, c in TRAIN.items() if n.startswith(folder)})
        for folder in reversed(FOLDERS)
    }
    raw.tarred(root / "downloads" / imagenet.TRAIN_TAR, inner)
    raw.tarred(root / "downloads" / imagenet.VAL_TAR, VAL)
    (root / "downloads" / "ILSVRC2012_devkit_t12.tar.gz").write_bytes(development_kit())
    return root


def unpacked_kit(root: Path) -> Path:
    write(root / "train", TRAIN)
    write(root / "val", VAL)
    with tarfile.open(fileobj=io.BytesIO(development_kit())) as kit:
        kit.extractall(root, filter="data")
    return root


def zipped_tree(root: Path) -> Path:
    root.mkdir()
    shutil.make_archive(str(root / "imagenet"), "zip", kaggle(root.with_name("tree")))
    return root


def labeled(plan: DatasetIndex) -> dict[str, list[tuple[str, int, bytes]]]:
    return {
        split: sorted((item.name.rpartition("/")[2], item.label, item.location.read()) for item in items)
        for split, items in plan.splits.items()
    }


@pytest.mark.parametrize("layout", [class_folders, kaggle, tars, unpacked_kit, zipped_tree], ids=lambda f: f.__name__)
def test_every_layout_gives_the_same_labels(tmp_path: Path, layout: Callable[[Path], Path]):
    plan = imagenet.scan(layout(tmp_path / "raw"), CONFIG)
    assert plan.classes == FOLDERS
    expected = {
        "train": sorted((name.rpartition("/")[2], FOLDERS.index(name[:9]), content) for name, content in TRAIN.items()),
        "val": sorted((name, FOLDERS.index(folder), VAL[name]) for name, folder in zip(VAL, VAL_FOLDERS, strict=True)),
    }
    assert labeled(plan) == expected
    assert not any(str(tmp_path) in item.name for items in plan.splits.values() for item in items)


def test_the_order_of_train_is_that_of_the_folders_whatever_the_layout(tmp_path: Path):
    plans = [imagenet.scan(layout(tmp_path / layout.__name__), CONFIG) for layout in (class_folders, kaggle, tars)]
    names = [[item.name for item in plan.splits["train"]] for plan in plans]
    assert names[0] == names[1] == names[2] == [f"train/{name}" for name in sorted(TRAIN)]


def test_members_of_tars_are_prepared_where_they_lie(tmp_path: Path):
    prepare(resolve_job("imagenet", tars(tmp_path / "raw"), tmp_path / "tars", CONFIG))
    prepare(resolve_job("imagenet", class_folders(tmp_path / "tree"), tmp_path / "folders", CONFIG))
    one, other = ShardDataset(tmp_path / "tars"), ShardDataset(tmp_path / "folders")
    np.testing.assert_array_equal(one.read("train", range(6)).values, other.read("train", range(6)).values)
    assert len(list((tmp_path / "raw").rglob("*"))) == 4


def test_someone_may_point_at_train_itself(tmp_path: Path):
    plan = imagenet.scan(class_folders(tmp_path / "raw") / "train", CONFIG)
    assert (list(plan.splits), len(plan.splits["train"]), plan.classes) == (["train"], 6, FOLDERS)


def edm(root: Path, labels: object) -> Path:
    images = {f"00000/img{n:08d}.png": raw.encoded(n, size=(8, 8)) for n in range(3)}
    raw.zipped(root / "imagenet-64.zip", images | {"dataset.json": json.dumps({"labels": labels}).encode()})
    return root


def test_the_archive_of_edm_brings_its_labels(tmp_path: Path):
    plan = imagenet.scan(edm(tmp_path, [[f"00000/img{n:08d}.png", 2 - n] for n in range(3)]), CONFIG)
    assert [item.label for item in plan.splits["train"]] == [2, 1, 0]
    assert plan.classes == ("0", "1", "2")
    pixels = imagenet.read(plan.splits["train"][1], CONFIG).values
    np.testing.assert_array_equal(pixels, np.asarray(raw.image(1, (8, 8))))


@pytest.mark.parametrize("labels", [[["00000/img00000000.png", 1]], [["x", -1]], [["x", "y"]], 7], ids=str)
def test_an_archive_whose_labels_are_wrong_is_damaged(tmp_path: Path, labels: object):
    with pytest.raises(IntegrityError, match=r"dataset\.json"):
        imagenet.scan(edm(tmp_path, labels), CONFIG)


def test_a_flat_val_without_a_table_says_what_is_missing(tmp_path: Path):
    (kaggle(tmp_path / "raw") / imagenet.CSV).unlink()
    with pytest.raises(MissingError, match=r"looked for `LOC_val_solution\.csv` and `ILSVRC2012_devkit_t12\.tar\.gz`"):
        imagenet.scan(tmp_path / "raw", CONFIG)


def test_a_table_that_lacks_an_image_is_damaged(tmp_path: Path):
    table = kaggle(tmp_path / "raw") / imagenet.CSV
    table.write_text("\n".join(table.read_text().splitlines()[:-1]))
    with pytest.raises(IntegrityError, match=r"has no entry for `ILSVRC2012_val_00000004\.JPEG`"):
        imagenet.scan(tmp_path / "raw", CONFIG)


def test_a_tar_cut_in_the_middle_is_damaged(tmp_path: Path):
    path = tars(tmp_path / "raw") / "downloads" / imagenet.VAL_TAR
    path.write_bytes(path.read_bytes()[:700])
    with pytest.raises(IntegrityError, match=r"is not a complete tar"):
        imagenet.scan(tmp_path / "raw", CONFIG)


def test_links_and_odd_names_in_tars_are_not_followed(tmp_path: Path):
    with tarfile.open(tmp_path / imagenet.TRAIN_TAR, "w") as outer:
        link = tarfile.TarInfo("n01440764.tar")
        link.type, link.linkname = tarfile.SYMTYPE, "/etc/passwd"
        outer.addfile(link)
    with pytest.raises(MissingError, match="the class tars inside"):
        imagenet.scan(tmp_path, CONFIG)


def test_the_flower_photos_are_class_folders_of_imagenet(tmp_path: Path, real_data: Callable[[str], Path]):
    with tarfile.open(real_data("images/flower_photos_part/flower_photos_part.tar")) as archive:
        archive.extractall(tmp_path / "raw", filter="data")
    work = resolve_job("imagenet", tmp_path / "raw", tmp_path / "s", imagenet.Config(resolution=32), limit=60)
    assert prepare(work).splits == {"train": 60, "val": 60}
    opened = ShardDataset(tmp_path / "s")
    opened.verify()
    assert opened.classes == ("daisy", "dandelion", "roses", "sunflowers", "tulips")
    assert np.bincount(opened.labels("train")).tolist() == [12] * 5
    spread = opened.manifest.splits["train"].statistics
    assert all(60 < mean < 150 for mean in spread.mean) and all(40 < x < 90 for x in spread.std)


def test_hyphens_and_underscores_name_the_same_part():
    assert registry.find("datasets", "fashion-mnist") is registry.find("datasets", "fashion_mnist")


def test_a_damaged_development_kit_is_an_error_and_never_the_end_of_the_process(tmp_path: Path):
    """One of these mutations ended the process with a segmentation fault inside SciPy."""
    root = unpacked_kit(tmp_path)
    meta = next(root.rglob(imagenet.META))
    whole = meta.read_bytes()
    damaged = [b"", whole[:200], bytearray(whole), bytearray(whole)]
    damaged[2][276] ^= 4
    damaged[3][128:136] = b"\xff" * 8
    for content in damaged:
        meta.write_bytes(content)
        with pytest.raises(IntegrityError, match="the development kit's `meta.mat`"):
            imagenet.scan(root, CONFIG)


@pytest.mark.parametrize("label", [-1, 2_000_000_000, 1e308])
def test_memory_does_not_follow_the_largest_label_of_an_edm_archive(tmp_path: Path, label: float):
    raw.folder(tmp_path, ["0.png", "1.png"])
    (tmp_path / "dataset.json").write_text(json.dumps({"labels": [["0.png", 0], ["1.png", label]]}))
    with pytest.raises(IntegrityError, match="holds a label that is not from 0 to 65,535"):
        imagenet.scan(tmp_path, CONFIG)


def test_a_damaged_table_of_classes_is_an_error_of_its_file(tmp_path: Path):
    root = kaggle(tmp_path)
    table = next(root.rglob(imagenet.CSV))
    table.write_bytes(table.read_bytes() + b'"' + b"x" * 200_000)
    with pytest.raises(IntegrityError, match="`LOC_val_solution.csv` is damaged: field larger than"):
        imagenet.scan(root, CONFIG)
