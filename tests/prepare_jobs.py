"""Jobs of three kinds, small, each of several shards: what several processes, pieces and nodes must make alike."""

from __future__ import annotations

import gzip
from pathlib import Path

import numpy as np

from inrflow_core.datasets import image_folder, shapenet, swissprot
from inrflow_core.preparation import job
from inrflow_core.preparation.job import PrepareJob, resolve_job
from tests import protein_files
from tests.datasets import raw

KINDS = ("images", "clouds", "proteins")


def smaller_shards(fewest: int = 12) -> None:
    """Shards of so few examples that small data have several; the rule is otherwise the same."""
    job.MIN_ITEMS = fewest


def sources(folder: Path) -> dict[str, Path]:
    """Raw files of every kind; of each, two items cannot be read."""
    return {"images": _images(folder / "images"), "clouds": _clouds(folder), "proteins": _proteins(folder / "tar")}


def made(kind: str, source: Path, out: Path) -> PrepareJob:
    """The job of a kind."""
    if kind == "images":
        return resolve_job("images", source, out, image_folder.Config(resolution=8, classes=True))
    if kind == "clouds":
        return resolve_job("shapenet", source, out, shapenet.Config(normalization="global"))
    return resolve_job("swissprot", source, out, swissprot.Config(train=40, test=6, shortest=9, embedder="one-hot"))


def content(folder: Path) -> dict[str, bytes]:
    """Every file of a folder."""
    return {str(path.relative_to(folder)): path.read_bytes() for path in folder.rglob("*") if path.is_file()}


def _images(folder: Path) -> Path:
    raw.folder(folder, [f"train/{'ab'[n % 2]}/{n:03d}.png" for n in range(90)] + [f"val/a/{n}.png" for n in range(5)])
    (folder / "train/a/010.png").write_bytes(b"")
    (folder / "train/b/071.png").write_text("no picture")
    return folder


def _clouds(root: Path) -> Path:
    rng = np.random.default_rng(0)
    for synset in ("02958343", "03001627"):
        for split, count in (("train", 40), ("val", 6)):
            folder = root / "ShapeNetCore.v2.PC15k" / synset / split
            folder.mkdir(parents=True)
            for number in range(count):
                np.save(folder / f"{number:03d}.npy", rng.normal(0.1, 0.3, size=(50, 3)).astype(np.float32))
            (folder / "001.npy").write_bytes(b"junk")
    return root / "ShapeNetCore.v2.PC15k"


def _proteins(folder: Path) -> Path:
    rng = np.random.default_rng(1)
    members = {}
    for number in range(60):
        letters = "".join(rng.choice(list("ACDEFGHIKLMNPQRSTVWY"), 8 + number % 5))
        text = protein_files.pdb(protein_files.pdb_lines(protein_files.structure(letters, seed=number)))
        members[f"AF-P{number:05d}-F1-model_v4.pdb.gz"] = gzip.compress(text, mtime=0)
    return raw.tarred(folder / "swissprot_pdb_v4.tar", members).parent
