"""Small raw data sets of every format that `prepare` reads, made without any download."""

from __future__ import annotations

import csv
import gzip
import io
import json
import pickle
import shutil
import struct
import tarfile
import zipfile
from collections.abc import Mapping
from pathlib import Path

import h5py
import lmdb
import numpy as np
import trimesh
from PIL import Image
from scipy.io import savemat

from inrflow_core.proteins import residues, structure_writer
from inrflow_core.proteins.residues import LETTERS
from inrflow_core.proteins.structure import Structure

CLASSES = ("n00000001", "n00000002", "n00000003")


def make(folder: Path) -> None:
    """All of them, each in a folder of its name; what is there already is made again."""
    shutil.rmtree(folder, ignore_errors=True)
    rng = np.random.default_rng(0)
    for name, write in (
        ("images", _images),
        ("zips", _zips),
        ("lsun", _lsun),
        ("imagenet", _imagenet),
        ("imagenet-kit", _imagenet),
        ("imagenet-csv", _imagenet),
        ("edm", _edm),
        ("mnist", _mnist),
        ("cifar10", _cifar),
        ("clouds", _clouds),
        ("hdf5", _hdf5),
        ("meshes", _meshes),
        ("structures", _structures),
        ("views", _views),
        ("srn-cars", _scenes),
        ("srn-cars-packed", _scenes),
        ("sequences", _sequences),
        ("occupancy", _occupancies),
    ):
        (folder / name).mkdir(parents=True, exist_ok=True)
        write(folder / name, rng)


def _encoded(rng: np.random.Generator, kind: str) -> bytes:
    file = io.BytesIO()
    Image.fromarray(rng.integers(0, 256, (24, 20, 3), np.uint8)).resize((48, 40)).save(file, kind)
    return file.getvalue()


def _images(folder: Path, rng: np.random.Generator) -> None:
    for kind in ("PNG", "JPEG", "WEBP", "PNG"):
        (folder / f"{len(list(folder.iterdir()))}.{kind.lower()}").write_bytes(_encoded(rng, kind))


def _zips(folder: Path, rng: np.random.Generator) -> None:
    with zipfile.ZipFile(folder / "a.zip", "w", zipfile.ZIP_DEFLATED) as archive:
        for number in range(3):
            archive.writestr(f"{number}.png", _encoded(rng, "PNG"))
    (folder / "b.tar").write_bytes(_tar({f"{number}.jpg": _encoded(rng, "JPEG") for number in range(3)}))


def _tar(files: Mapping[str, bytes], mode: str = "w") -> bytes:
    file = io.BytesIO()
    with tarfile.open(fileobj=file, mode=mode) as archive:  # pyright: ignore
        for name, content in files.items():
            member = tarfile.TarInfo(name)
            member.size = len(content)
            archive.addfile(member, io.BytesIO(content))
    return file.getvalue()


def _lsun(folder: Path, rng: np.random.Generator) -> None:
    database = folder / "church_outdoor_train_lmdb"
    with lmdb.open(str(database), map_size=1 << 24) as environment, environment.begin(write=True) as transaction:
        for number in range(8):
            transaction.put(f"{number:040x}".encode(), _encoded(rng, ("PNG", "WEBP")[number % 2]))
    (database / "lock.mdb").unlink()


def _imagenet(folder: Path, rng: np.random.Generator) -> None:
    for name in CLASSES:
        (folder / "train" / name).mkdir(parents=True)
        (folder / "train" / name / f"{name}_1.JPEG").write_bytes(_encoded(rng, "JPEG"))
    (folder / "val").mkdir()
    for number in range(1, 4):
        (folder / "val" / f"ILSVRC2012_val_{number:08d}.JPEG").write_bytes(_encoded(rng, "JPEG"))
    synsets = np.zeros(3, dtype=[("ILSVRC2012_ID", "O"), ("WNID", "O")])
    for row, name in enumerate(CLASSES):
        synsets[row] = (row + 1, name)
    meta = io.BytesIO()
    savemat(meta, {"synsets": synsets})
    kit = {"k/data/meta.mat": meta.getvalue(), "k/data/ILSVRC2012_validation_ground_truth.txt": b"1\n2\n3\n"}
    if folder.name == "imagenet":
        for name, content in kit.items():
            (folder / Path(name).name).write_bytes(content)
    elif folder.name == "imagenet-kit":
        (folder / "ILSVRC2012_devkit_t12.tar.gz").write_bytes(_tar(kit, "w:gz"))
    else:
        with (folder / "LOC_val_solution.csv").open("w", newline="") as file:
            rows = [[f"ILSVRC2012_val_{row:08d}", f"{name} 0 0 9 9"] for row, name in enumerate(CLASSES, 1)]
            csv.writer(file).writerows([["ImageId", "PredictionString"], *rows])


def _edm(folder: Path, rng: np.random.Generator) -> None:
    labels = [[f"00000/img{number}.png", number % 3] for number in range(6)]
    (folder / "dataset.json").write_text(json.dumps({"labels": labels}))
    (folder / "00000").mkdir()
    for name, _ in labels:
        (folder / str(name)).write_bytes(_encoded(rng, "PNG"))


def _mnist(folder: Path, rng: np.random.Generator) -> None:
    for name, count, packed in (("train", 6, True), ("t10k", 3, False)):
        images = struct.pack(">IIII", 0x803, count, 28, 28) + rng.bytes(784 * count)
        labels = struct.pack(">II", 0x801, count) + bytes(range(count))
        for what, content in (("images-idx3", images), ("labels-idx1", labels)):
            path = folder / f"{name}-{what}-ubyte{'.gz' if packed else ''}"
            path.write_bytes(gzip.compress(content, mtime=0) if packed else content)


def _cifar(folder: Path, rng: np.random.Generator) -> None:
    for name in (*(f"data_batch_{number}" for number in range(1, 6)), "test_batch"):
        batch = {b"data": rng.integers(0, 256, (4, 3072), np.uint8), b"labels": [0, 1, 2, 9]}
        (folder / name).write_bytes(pickle.dumps(batch, protocol=2))


def _clouds(folder: Path, rng: np.random.Generator) -> None:
    for split in ("train", "val"):
        (folder / "02691156" / split).mkdir(parents=True)
        for number in range(3):
            np.save(folder / "02691156" / split / f"{number}.npy", rng.normal(size=(64, 3)).astype("<f4"))


def _hdf5(folder: Path, rng: np.random.Generator) -> None:
    with h5py.File(folder / "shapenet.hdf5", "w") as file:
        for split in ("train", "val"):
            points = rng.normal(size=(3, 64, 3)).astype("<f4")
            file.create_dataset(f"02691156/{split}", data=points, compression="gzip")


def _occupancies(folder: Path, rng: np.random.Generator) -> None:
    """Balls as Occupancy Networks stores shapes."""
    for category, name in (("03001627", "chair"), ("02691156", "airplane")):
        for split in ("train", "val"):
            for number in range(2):
                model = folder / category / f"{split}{number}"
                model.mkdir(parents=True)
                normals = rng.normal(size=(32, 3))
                normals /= np.linalg.norm(normals, axis=1, keepdims=True)
                queries = rng.uniform(-0.55, 0.55, (61, 3)).astype(np.float16)
                bits = np.packbits(np.linalg.norm(queries, axis=1) < 0.5)
                placement = {"loc": np.zeros(3), "scale": np.array(1.0)}
                np.savez(model / "points.npz", points=queries, occupancies=bits, **placement)
                np.savez(model / "pointcloud.npz", points=normals / 2, normals=normals, **placement)
            (folder / category / f"{split}.lst").write_text(f"{split}0\n{split}1\n")
        with (folder / "metadata.yaml").open("a") as file:
            file.write(f"'{category}':\n  id: '{category}'\n  name: {name}\n")


def _meshes(folder: Path, rng: np.random.Generator) -> None:
    for kind in ("obj", "stl", "off", "ply", "glb", "gltf"):
        shape = trimesh.creation.box() if kind == "obj" else trimesh.creation.icosphere(1)
        shape.apply_scale(rng.uniform(0.5, 1, 3))
        shape.export(folder / f"{kind}.{kind}") if kind != "gltf" else _gltf(folder, shape)


def _gltf(folder: Path, shape: trimesh.Trimesh) -> None:
    for name, content in trimesh.exchange.gltf.export_gltf(trimesh.Scene(shape)).items():
        (folder / name).write_bytes(content)


def _structures(folder: Path, rng: np.random.Generator) -> None:
    for number in range(4):
        codes = rng.integers(0, 20, 30).astype(np.uint8)
        residue = residues.atom_layout(codes)[0]
        atoms = len(residue)
        positions = (np.outer(residue, [1.2, 0, 0]) + rng.normal(size=(atoms, 3)) / 9).astype(np.float32)
        one = Structure(f"p{number}", codes, positions, np.ones(atoms, bool), np.arange(1, 31))
        text = (structure_writer.pdb_text, structure_writer.cif_text)[number % 2]([one], {})
        name = f"AF-P{number}0000-F1-model_v4.{('pdb', 'cif')[number % 2]}"
        (folder / name).write_text(text) if number < 2 else (folder / f"{name}.gz").write_bytes(
            gzip.compress(text.encode(), mtime=0)
        )


def _views(folder: Path, rng: np.random.Generator) -> None:
    """Two meshes with two images of each: cameras in .npy files, and in a table."""
    pose = np.eye(4)
    for name in ("one", "two"):
        trimesh.creation.icosphere(1).apply_scale(rng.uniform(0.5, 1, 3)).export(folder / f"{name}.glb")
        (folder / "views" / name).mkdir(parents=True)
        for number in range(2):
            (folder / "views" / name / f"{number:03d}.png").write_bytes(_square(rng))
            pose[2, 3] = -3.5 - number
            if name == "one":
                np.save(folder / "views" / name / f"{number:03d}.npy", pose[:3])
    frames = [
        {"file_path": f"{number:03d}.png", "transform_matrix": (np.eye(4) - pose + np.eye(4)).tolist()}
        for number in range(2)
    ]
    table = {"camera_angle_x": 0.7, "frames": frames}
    (folder / "views/two/transforms.json").write_text(json.dumps(table))


def _scenes(folder: Path, rng: np.random.Generator) -> None:
    """Two scenes of two views in SRN's layout, as folders or in one .tar.gz."""
    files = {}
    for name in ("one", "two"):
        files[f"{name}/intrinsics.txt"] = b"32.8 16. 16. 0.\n0. 0. 0.\n1.\n32 32\n"
        for number in range(2):
            pose = np.eye(4)
            pose[2, 3] = -1.3 - number
            files[f"{name}/rgb/{number:06d}.png"] = _square(rng)
            files[f"{name}/pose/{number:06d}.txt"] = " ".join(map(str, pose.ravel())).encode()
    files = {f"cars_train/{name}": content for name, content in files.items()}
    if folder.name == "srn-cars-packed":
        (folder / "cars.tar.gz").write_bytes(_tar(files, "w:gz"))
        return
    for name, content in files.items():
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        (folder / name).write_bytes(content)


def _square(rng: np.random.Generator) -> bytes:
    file = io.BytesIO()
    Image.fromarray(rng.integers(0, 256, (32, 32, 4), np.uint8) | np.array([0, 0, 0, 255], np.uint8)).save(file, "PNG")
    return file.getvalue()


def _sequences(folder: Path, rng: np.random.Generator) -> None:
    """Sequences of proteins, plain and packed."""
    texts = (
        f">protein-{length} of {length} residues\n{''.join(rng.choice(list(LETTERS), length))}\n" for length in (9, 30)
    )
    text = "".join(texts).encode()
    (folder / "plain.fasta").write_bytes(text)
    (folder / "packed.fasta.gz").write_bytes(gzip.compress(text, mtime=0))
