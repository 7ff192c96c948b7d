"""Small raw data sets in the layouts of their authors, each with the command line that prepares it.

Nothing here comes from the code under test, so that its names may change.
"""

from __future__ import annotations

import io
import pickle
import struct
import tarfile
import zipfile
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import NamedTuple

import h5py
import numpy as np
from PIL import Image

from tests.golden import chains

SYNSETS = ("n01440764", "n01443537", "n02084071")
CHAIR, CAR = "03001627", "02958343"


class Raw(NamedTuple):
    """How raw files are made, and the words after `inrflow prepare` beside source and destination."""

    name: str
    write: Callable[[Path], None] | None
    words: str = ""


def encoded_image(number: int, kind: str = "PNG", size: tuple[int, int] = (12, 10)) -> bytes:
    """An encoded image of its own for every number."""
    noise = np.random.default_rng(number).integers(0, 256, (3, 4, 3), dtype=np.uint8)
    file = io.BytesIO()
    Image.fromarray(noise).resize(size, Image.Resampling.BICUBIC).save(file, kind)
    return file.getvalue()


def laid(folder: Path, files: Mapping[str, bytes]) -> None:
    """Files below a folder."""
    for name, content in files.items():
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        (folder / name).write_bytes(content)


def image_folder(folder: Path, names: list[str]) -> None:
    """A folder of images, numbered in the order given."""
    laid(folder, {name: encoded_image(number) for number, name in enumerate(names)})


def cifar10(folder: Path) -> None:
    """The python version in its archive."""
    folder.mkdir(parents=True, exist_ok=True)
    with tarfile.open(folder / "cifar-10-python.tar.gz", "w:gz") as archive:
        for number, name in enumerate([*(f"data_batch_{n}" for n in range(1, 6)), "test_batch"]):
            rng = np.random.default_rng(number)
            reported = {
                b"labels": rng.integers(0, 10, 4).tolist(),
                b"data": rng.integers(0, 256, (4, 3072), dtype=np.uint8),
            }
            content = pickle.dumps(reported, 2)
            member = tarfile.TarInfo(f"cifar-10-batches-py/{name}")
            member.size = len(content)
            archive.addfile(member, io.BytesIO(content))


def idx(folder: Path) -> None:
    """The four files of MNIST and its kin."""

    def packed(array: np.ndarray) -> bytes:
        return struct.pack(f">{1 + array.ndim}I", 0x800 + array.ndim, *array.shape) + array.tobytes()

    pixels = np.random.default_rng(0).integers(0, 256, (7, 28, 28), dtype=np.uint8)
    numbers = np.array([3, 1, 4, 1, 5, 9, 2], dtype=np.uint8)
    for prefix, count in (("train", 7), ("t10k", 3)):
        laid(folder, {f"{prefix}-images-idx3-ubyte": packed(pixels[:count])})
        laid(folder, {f"{prefix}-labels-idx1-ubyte": packed(numbers[:count])})


def imagenet(folder: Path) -> None:
    """Folders of classes."""
    image_folder(folder, [f"train/{folder}/{folder}_{n}.JPEG" for folder in SYNSETS for n in (1, 2)])
    image_folder(folder, [f"val/{SYNSETS[n % 3]}/ILSVRC2012_val_{n:08d}.JPEG" for n in (1, 2, 3, 4)])


def images(folder: Path) -> None:
    """A folder of images, of which one cannot be read."""
    image_folder(folder, [f"train/{'ab'[n % 2]}/{n}.png" for n in range(9)] + [f"val/a/{n}.png" for n in range(2)])
    (folder / "train/a/4.png").write_bytes(b"no picture")


def zipped_faces(folder: Path) -> None:
    """The zip of StyleGAN."""
    folder.mkdir(parents=True, exist_ok=True)
    with zipfile.ZipFile(folder / "ffhq.zip", "w") as archive:
        for number in (0, 1, 59999, 60000, 69999):
            archive.writestr(f"{number // 1000:02d}000/img{number:08d}.png", encoded_image(number, size=(16, 16)))


def shapenet_tree(folder: Path) -> None:
    """The layout of PointFlow."""
    rng = np.random.default_rng(0)
    for synset in (CAR, CHAIR):
        for split, count in (("train", 4), ("val", 2), ("test", 1)):
            clouds = folder / "ShapeNetCore.v2.PC15k" / synset / split
            clouds.mkdir(parents=True)
            for number in range(count):
                cloud = rng.normal(0.1, (0.2, 0.4, 0.3), size=(40, 3)).astype(np.float32)
                np.save(clouds / f"{number:04d}.npy", cloud)


def shapenet_single(folder: Path) -> None:
    """The layout of diffusion-point-cloud."""
    folder.mkdir(parents=True, exist_ok=True)
    rng = np.random.default_rng(1)
    with h5py.File(folder / "shapenet.hdf5", "w") as file:
        for synset in (CAR, CHAIR):
            for split, count in (("train", 3), ("val", 1), ("test", 1)):
                file.create_dataset(f"{synset}/{split}", data=rng.normal(size=(count, 40, 3)).astype(np.float32))


def wedges(folder: Path) -> None:
    """Meshes of coloured faces, each of its own sizes."""
    materials = "newmtl red\nKd 1 0 0\nnewmtl green\nKd 0 1 0\nnewmtl blue\nKd 0 0 1\n"
    for number in range(8):
        x, y, z = 2 + number, 3 + number % 3, 4 - 0.3 * number
        corners = f"v 0 0 0\nv {x} 0 0\nv {x} 0 {z}\nv 0 0 {z}\nv 0 {y} 0\nv 0 {y} {z}\n"
        faces = (
            "usemtl blue\nf 1 2 3 4\nf 1 5 2\nusemtl green\nf 2 5 6 3\nusemtl red\nf 4 3 6\nusemtl blue\nf 1 4 6 5\n"
        )
        name = f"{'ab'[number % 2]}/wedge{number}.obj"
        laid(
            folder, {name: f"mtllib a.mtl\n{corners}{faces}".encode(), f"{'ab'[number % 2]}/a.mtl": materials.encode()}
        )


RAW = {
    "digits": Raw("digits", None, "--limit 60"),
    "solids": Raw("solids", None, "--set train=24 --set val=8 --set points=300"),
    "cifar10": Raw("cifar10", cifar10),
    "mnist": Raw("mnist", idx),
    "fashion-mnist": Raw("fashion-mnist", idx),
    "imagenet": Raw("imagenet", imagenet, "--resolution 8"),
    "ffhq": Raw("ffhq", zipped_faces, "--resolution 8"),
    "afhq": Raw(
        "afhq",
        lambda folder: image_folder(
            folder, [f"afhq/{s}/{a}/flickr_{a}_{n}.png" for s in ("train", "test") for a in ("wild", "cat") for n in (1, 2)]
        ),
        "--resolution 8",
    ),
    "celeba-hq": Raw(
        "celeba-hq",
        lambda folder: image_folder(folder, [f"{s}/{c}/{n}.jpg" for s in ("train", "val") for c in ("female", "male") for n in (1, 2)]),
        "--resolution 8 --classes",
    ),
    "celeba-hq-flat": Raw("celeba-hq", lambda folder: image_folder(folder, [f"{n}.jpg" for n in range(11)]), "--resolution 8"),
    "lsun-church": Raw(
        "lsun-church",
        lambda folder: image_folder(folder, [*(f"church_outdoor_train/{n}/k{n}.webp" for n in range(4)), "church_outdoor_val/k.webp"]),
        "--resolution 8",
    ),
    "images": Raw("images", images, "--resolution 8"),
    "images-classes-grey": Raw("images", images, "--resolution 6 --classes --set channels=1 --limit 3"),
    "shapenet": Raw("shapenet", shapenet_tree),
    "shapenet-single-chair": Raw("shapenet", shapenet_single, "--category chair"),
    "meshes": Raw("meshes", wedges, "--set points=200 --set colours=true --set val=0.3 --classes"),
    "objaverse": Raw(
        "objaverse", wedges, "--resolution 56 --set points=300 --set views=2 --set embedder=patches --set val=0.3"
    ),
    "swissprot": Raw("swissprot", chains.archive, "--set train=12 --set test=4 --set embedder=one-hot"),
    "swissprot-filtered": Raw(
        "swissprot",
        chains.archive,
        "--set train=12 --set test=4 --set embedder=one-hot --set shortest=22 --set longest=30 --set plddt=65 --set dedup=true",
    ),
}  # fmt: skip
"""Every data set that has small raw files, some in two forms."""
EXIT_CODES = {"images": 6}
"""Of those with items that cannot be read; where it is not 0."""
