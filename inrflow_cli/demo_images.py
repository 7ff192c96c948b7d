"""The images of `inrflow demo`: letters and solids at several resolutions, and how right they are."""

from __future__ import annotations

import string
from collections.abc import Callable, Sequence
from pathlib import Path

import numpy as np
import torch
from numpy.typing import NDArray
from PIL import Image

from inrflow_cli.demo_commands import run
from inrflow_core.datasets import glyphs
from inrflow_core.domains._contract import InputExample
from inrflow_core.geometry import ply_reader
from inrflow_core.models import Model
from inrflow_core.sampling import invert, sample
from inrflow_core.shards.shard_dataset import ShardDataset
from inrflow_core.storage import array_file
from inrflow_core.visualization import image_grid, point_rendering

LETTERS = glyphs.Config(
    items=480, characters=string.ascii_uppercase, families=("dejavu-sans", "dejavu-serif", "dejavu-mono")
)
"""The characters and fonts of `glyphs-demo`."""
FEW = "A,G,M,R,S,Y"
NUM_GLYPHS, NUM_ENLARGED, NUM_SOLIDS, REAL_PER_CLASS = 104, 6, 80, 40
Log = Callable[[str], None]


def prepare_letters() -> list[str]:
    """Arguments of the command in the preset."""
    families = ", ".join(f'"{name}"' for name in LETTERS.families)
    settings = f"characters={LETTERS.characters}", f"items={LETTERS.items}", f"families=[{families}]"
    options = [option for setting in settings for option in ("--set", setting)]
    return ["prepare", "glyphs", *options, "--out", "shards/glyphs-demo"]


def show_finer_letters(folder: Path, model: Sequence[str]) -> None:
    """`glyphs-finer.png`: the same samples at 24 and 256 pixels, and bicubic enlargement. `model` are the options that name one."""
    few = (*model, "--label", FEW, "--num", "6", "--overwrite")
    run(folder, "sample", *few, "glyphs-24.npz")
    run(folder, "upsample", *few, "--resolution", "256", "glyphs-256.npz")
    at_24, at_256 = images(folder / "glyphs-24.npz"), images(folder / "glyphs-256.npz")
    finer = {"24 x 24": at_24, "256 x 256": at_256, "bicubic": bicubic(at_24, 256)}
    image_grid.labeled_rows(finer, tile=128).save(folder / "glyphs-finer.png")


def show_letters(folder: Path, model: Sequence[str]) -> float:
    """`glyphs.png`; the share of samples that a classifier of real letters names rightly."""
    run(folder, "sample", *model, "--label", "all", "--overwrite", "--num", str(NUM_GLYPHS), "glyphs.npz")
    samples = images(folder / "glyphs.npz")
    real, labels, _ = examples(folder / "shards" / "glyphs-demo")
    count, shown = len(LETTERS.characters), slice(0, None, 2)
    picked = by_class(labels, count, 2)
    rows = {f"real {i + 1}": real[picked[shown, i]] for i in range(2)}
    rows |= {f"sampled {i + 1}": samples[count * i : count * (i + 1)][shown] for i in range(NUM_GLYPHS // count)}
    image_grid.labeled_rows(rows, tile=72).save(folder / "glyphs.png")
    from sklearn.svm import SVC

    classifier = SVC(C=10.0).fit(real.reshape(len(real), -1) / 255, labels)
    names = classifier.predict(samples.reshape(len(samples), -1) / 255)
    return float((names == np.arange(NUM_GLYPHS) % count).mean())


def enlarge_held_out(folder: Path, model: Model, log: Log) -> dict[int, tuple[float, float]]:
    """PSNR in dB of held-out letters enlarged 4 and 8 times against their exact outlines: as functions, and by a bicubic filter."""
    items = glyphs.scan(Path(), LETTERS).splits["val"]
    items = [items[index] for index in np.linspace(0, len(items) - 1, NUM_ENLARGED).astype(int)]
    small = np.stack([glyphs.read(item, LETTERS).values for item in items])
    fields = []
    for number, (image, item) in enumerate(zip(small, items, strict=True), start=1):
        log(f"  finding the function of held-out letter {number} of {len(items)}")
        fields.append(invert.invert(model, InputExample(image), label=item.label, steps=20))
    scores, rows = {}, {"24 x 24": small}
    for side in (96, 192):
        log(f"  evaluating the functions at {side} x {side} pixels")
        truth = np.stack([glyphs.render(item.location, side) for item in items])[..., None] * 255
        finer = np.stack([sample.evaluate(model, field, (side, side))[0] for field in fields])
        rows = {
            "24 x 24": small,
            "function": finer,
            "bicubic": bicubic(small, side),
            "outline": truth.round().astype(np.uint8),
        }
        scores[side] = psnr(finer, truth), psnr(rows["bicubic"], truth)
    image_grid.labeled_rows(rows, tile=128).save(folder / "glyphs-outlines.png")
    return scores


def psnr(images: NDArray[np.uint8], truth: NDArray[np.float64]) -> float:
    """The mean over images, peak 255."""
    error = np.square(images - truth).mean((1, 2, 3))
    return float((10 * np.log10(255**2 / error)).mean())


def show_dense_solid(folder: Path, model: Sequence[str]) -> None:
    """`out.ply`, a torus of 128,000 points, and `out.png`."""
    run(folder, "sample", *model, "--points", "128000", "--label", "torus", "--overwrite", "out.ply")
    point_rendering.cloud(ply_reader.read_points(folder / "out.ply"), size=640).save(folder / "out.png")


def show_solids(folder: Path, model: Sequence[str]) -> float:
    """`solids.png`; the share of samples whose nearest real solid has the requested class."""
    drawing = (*model, "--label", "all", "--overwrite")
    run(folder, "sample", *drawing, "--num", str(NUM_SOLIDS), "solids.npz")
    run(folder, "upsample", *drawing, "--num", "8", "--points", "4096", "solids-4096.npz")
    samples, finer = clouds(folder / "solids.npz"), clouds(folder / "solids-4096.npz")
    real, labels, classes = examples(folder / "shards" / "solids")
    real, count = real[:, : samples.shape[1]], len(classes)
    picked = by_class(labels, count, 2)
    rows = [real[picked[:, 0]], real[picked[:, 1]], samples[:count], samples[count : 2 * count], finer]
    tiles = [point_rendering.cloud(cloud, size=160) for row in rows for cloud in row]
    names = ["real", "real", "sampled", "sampled", "4096 points"]
    image_grid.tile_images(tiles, columns=count, captions=classes, names=names).save(folder / "solids.png")
    few = by_class(labels, count, REAL_PER_CLASS)
    nearest = nearest_real(samples, real[few.flatten()])
    return float((labels[few.flatten()][nearest] == np.arange(NUM_SOLIDS) % count).mean())


def show_few_solids(folder: Path, model: Sequence[str]) -> None:
    """`solids.png`: a sample of each class at 256 and 4096 points."""
    rows = []
    for points in (256, 4096):
        out = f"solids-{points}.npz"
        run(folder, "sample", *model, "--label", "all", "--num", "8", "--points", str(points), "--overwrite", out)
        rows.append(clouds(folder / out))
    tiles = [point_rendering.cloud(cloud, size=160) for row in rows for cloud in row]
    names = ["256 points", "4096 points"]
    image_grid.tile_images(tiles, columns=len(rows[0]), names=names).save(folder / "solids.png")


def show_shapes(folder: Path, model: Sequence[str]) -> None:
    """`shapes.png`: a mesh of each class."""
    run(folder, "sample", *model, "--label", "all", "--num", "8", "--resolution", "64", "--overwrite", "shapes.png")


def show_numerals(folder: Path, model: Sequence[str]) -> None:
    """`numerals.png`: 24 samples at four times the pixels of training."""
    run(folder, "sample", *model, "--num", "24", "--resolution", "96", "--overwrite", "numerals.png")


def nearest_real(samples: NDArray[np.float32], real: NDArray[np.float32]) -> NDArray[np.int64]:
    """For each cloud the real one at the least Chamfer distance (mean squared distances, both ways)."""
    nearest = []
    others = torch.from_numpy(real)
    for cloud in torch.from_numpy(samples):
        distances = torch.cdist(cloud.expand(len(others), -1, -1), others).square()
        chamfer = distances.amin(1).mean(1) + distances.amin(2).mean(1)
        nearest.append(int(chamfer.argmin()))
    return np.array(nearest)


def examples(shards: Path) -> tuple[NDArray, NDArray[np.int64], tuple[str, ...]]:
    """Values and labels of the prepared training split, and the names of the classes."""
    prepared = ShardDataset(shards)
    batch = prepared.read("train", np.arange(prepared.count("train")))
    assert batch.labels is not None
    return batch.values.copy(), batch.labels.copy(), tuple(prepared.classes)


def by_class(labels: NDArray[np.int64], count: int, each: int) -> NDArray[np.int64]:
    """The first `each` examples of every class, one row per class."""
    return np.stack([np.flatnonzero(labels == label)[:each] for label in range(count)])


def images(path: Path) -> NDArray[np.uint8]:
    return array_file.read_array(path, "images")


def clouds(path: Path) -> NDArray[np.float32]:
    return array_file.read_array(path, "points")


def bicubic(small: NDArray[np.uint8], side: int) -> NDArray[np.uint8]:
    """The usual enlargement, to compare with."""
    sized = [
        np.asarray(Image.fromarray(image[..., 0]).resize((side, side), Image.Resampling.BICUBIC)) for image in small
    ]
    return np.stack(sized)[..., None]
