"""The main job on data that needs no download: `make demo`.

Runs the commands as a user would, in the checkout: draws letters from fonts and procedural solids, trains a model of each at the same
time with one thread each, samples and enlarges both, writes images into `demo/`, counts how many samples have the requested class, and
compares enlarged letters with their exact outlines. Started again it resumes: what is prepared and trained stays.
"""

from __future__ import annotations

import json
import os
import resource
import shlex
import signal
import string
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import numpy as np
import torch
from numpy.typing import NDArray
from PIL import Image

from inrflow_core.datasets import glyphs
from inrflow_core.domains._contract import InputExample
from inrflow_core.sampling import invert, sample
from inrflow_core.shards.shard_dataset import ShardDataset
from inrflow_core.visualization import image_grid, point_rendering

os.environ["OMP_NUM_THREADS"] = "1"

ROOT = Path(__file__).resolve().parent.parent
OUT = Path("demo")
INRFLOW = str(Path(sys.executable).with_name("inrflow"))
GLYPHS, SOLIDS = "glyphs-demo", "solids-coupled-demo"
LETTERS = glyphs.Config(
    items=480, characters=string.ascii_uppercase, families=("dejavu-sans", "dejavu-serif", "dejavu-mono")
)
"""The characters and fonts of `glyphs-demo`."""
NUM_GLYPHS, NUM_ENLARGED, NUM_SOLIDS, REAL_PER_CLASS = 104, 6, 80, 40
REPORT_SECONDS = 20.0


def main() -> int:
    signal.signal(signal.SIGTERM, signal.default_int_handler)  # ends the trainings under way, as on Ctrl-C
    os.chdir(ROOT)
    OUT.mkdir(exist_ok=True)
    started = time.monotonic()
    extra = sys.argv[1:]  # further options of `inrflow train`, for a quick trial
    heading("1. Prepare letters and solids")
    run(*prepare_letters())
    run("prepare", "solids")
    heading("2. Train both, one thread each")
    train_both(extra)
    heading("3. Letters: sample, ask the same samples more finely, and compare enlarged letters with their outlines")
    glyphs_share, enlarged = show_glyphs(), enlarge_held_out()
    heading("4. Solids: sample, and ask for 128,000 points")
    solids_share = show_solids()
    tell(glyphs_share, enlarged, solids_share, time.monotonic() - started)
    return 0


def heading(text: str) -> None:
    print(f"\n{text}", flush=True)


def run(*arguments: str | Path) -> None:
    """One command of inrflow, shown before it runs; its failure ends the demo with its exit code."""
    words = [str(argument) for argument in arguments]
    print(f"$ inrflow {shlex.join(words)}", flush=True)
    code = subprocess.run([INRFLOW, *words], check=False).returncode
    if code:
        sys.exit(code)


def prepare_letters() -> list[str]:
    """Arguments of the command in the preset."""
    families = ", ".join(f'"{name}"' for name in LETTERS.families)
    settings = f"characters={LETTERS.characters}", f"items={LETTERS.items}", f"families=[{families}]"
    options = [option for setting in settings for option in ("--set", setting)]
    return ["prepare", "glyphs", *options, "--out", f"shards/{GLYPHS}"]


def train_both(extra: list[str]) -> None:
    """Two trainings at once; every so often a line says how far they are."""
    with training(GLYPHS, extra) as letters, training(SOLIDS, extra) as solids:
        reported = time.monotonic()
        while letters.poll() is None or solids.poll() is None:
            time.sleep(0.5)
            if time.monotonic() - reported > REPORT_SECONDS:
                reported = time.monotonic()
                print(f"  {progress(GLYPHS)}   {progress(SOLIDS)}", flush=True)
    losses = {name: curve(name) for name in (GLYPHS, SOLIDS)}
    image_grid.curves(losses).save(OUT / "training.png")


@contextmanager
def training(preset: str, extra: list[str]) -> Iterator[subprocess.Popen]:
    """A training under way; its words go to a file, which is shown where it fails."""
    command = ["train", "--preset", preset, "--threads", "1", *extra]
    print(f"$ inrflow {shlex.join(command)}", flush=True)
    words = OUT / f"train-{preset}.log"
    with words.open("w") as log:
        process = subprocess.Popen([INRFLOW, *command], stdout=log, stderr=subprocess.STDOUT)
    try:
        yield process
    except BaseException:
        process.terminate()
        raise
    finally:
        code = process.wait()
    if code:
        print(words.read_text(), file=sys.stderr)
        sys.exit(code)


def records(preset: str) -> list[dict]:
    """The complete records of a run's log that have a loss."""
    log = Path("runs") / preset / "log.jsonl"
    lines = log.read_text().splitlines(keepends=True) if log.is_file() else []
    parsed = [json.loads(line) for line in lines if line.endswith("\n")]
    return [record for record in parsed if record.get("loss") is not None]


def progress(preset: str) -> str:
    lines = records(preset)
    if not lines:
        return f"{preset}: starting"
    return f"{preset}: step {lines[-1]['step']:,}, loss {np.mean([r['loss'] for r in lines[-20:]]):.3f}"


def curve(preset: str, window: int = 20) -> tuple[list[float], list[float]]:
    """Steps and losses, each the mean of `window` lines of the log."""
    lines = records(preset)
    groups = [lines[start : start + window] for start in range(0, len(lines), window)]
    return [float(g[-1]["step"]) for g in groups], [float(np.mean([r["loss"] for r in g])) for g in groups]


def show_glyphs() -> float:
    """Images of letters; the share of samples that a classifier of real letters names rightly."""
    drawing = ("--run", f"runs/{GLYPHS}", "--label", "all", "--overwrite")
    run("sample", *drawing, "--num", str(NUM_GLYPHS), OUT / "glyphs.npz")
    few = ("--run", f"runs/{GLYPHS}", "--label", "A,G,M,R,S,Y", "--num", "6", "--overwrite")
    run("sample", *few, OUT / "glyphs-24.npz")
    run("upsample", *few, "--resolution", "256", OUT / "glyphs-256.npz")
    samples, at_24, at_256 = (images(OUT / name) for name in ("glyphs.npz", "glyphs-24.npz", "glyphs-256.npz"))
    real, labels = examples(GLYPHS)
    count, shown = len(LETTERS.characters), slice(0, None, 2)
    picked = by_class(labels, count, 2)
    rows = {f"real {i + 1}": real[picked[shown, i]] for i in range(2)}
    rows |= {f"sampled {i + 1}": samples[count * i : count * (i + 1)][shown] for i in range(NUM_GLYPHS // count)}
    image_grid.labeled_rows(rows, tile=72).save(OUT / "glyphs.png")
    finer = {"24 x 24": at_24, "256 x 256": at_256, "bicubic": bicubic(at_24, 256)}
    image_grid.labeled_rows(finer, tile=128).save(OUT / "glyphs-finer.png")
    from sklearn.svm import SVC

    classifier = SVC(C=10.0).fit(real.reshape(len(real), -1) / 255, labels)
    names = classifier.predict(samples.reshape(len(samples), -1) / 255)
    return float((names == np.arange(NUM_GLYPHS) % count).mean())


def enlarge_held_out() -> dict[int, tuple[float, float]]:
    """PSNR in dB of held-out letters enlarged 4 and 8 times against their exact outlines: as functions, and by a bicubic filter."""
    model = sample.load(Path("runs") / GLYPHS)
    items = glyphs.scan(Path(), LETTERS).splits["val"]
    items = [items[index] for index in np.linspace(0, len(items) - 1, NUM_ENLARGED).astype(int)]
    small = np.stack([glyphs.read(item, LETTERS).values for item in items])
    fields = []
    for number, (image, item) in enumerate(zip(small, items, strict=True), start=1):
        print(f"  finding the function of held-out letter {number} of {len(items)}", flush=True)
        fields.append(invert.invert(model, InputExample(image), label=item.label, steps=20))
    scores, rows = {}, {"24 x 24": small}
    for side in (96, 192):
        print(f"  evaluating the functions at {side} x {side} pixels", flush=True)
        truth = np.stack([glyphs.render(item.location, side) for item in items])[..., None] * 255
        finer = np.stack([sample.evaluate(model, field, (side, side))[0] for field in fields])
        rows = {
            "24 x 24": small,
            "function": finer,
            "bicubic": bicubic(small, side),
            "outline": truth.round().astype(np.uint8),
        }
        scores[side] = psnr(finer, truth), psnr(rows["bicubic"], truth)
    image_grid.labeled_rows(rows, tile=128).save(OUT / "glyphs-outlines.png")
    return scores


def psnr(images: NDArray[np.uint8], truth: NDArray[np.float64]) -> float:
    """The mean over images, peak 255."""
    error = np.square(images - truth).mean((1, 2, 3))
    return float((10 * np.log10(255**2 / error)).mean())


def show_solids() -> float:
    """Images of clouds and `out.ply`; the share of samples whose nearest real solid has the requested class."""
    drawing = ("--run", f"runs/{SOLIDS}", "--label", "all", "--overwrite")
    run("sample", *drawing, "--num", str(NUM_SOLIDS), OUT / "solids.npz")
    run("upsample", *drawing, "--num", "8", "--points", "4096", OUT / "solids-4096.npz")
    run("sample", "--points", "128000", "--label", "torus", "--overwrite", OUT / "out.ply")
    samples, finer = clouds(OUT / "solids.npz"), clouds(OUT / "solids-4096.npz")
    real, labels = examples("solids")
    real = real[:, : samples.shape[1]]
    classes = ShardDataset(Path("shards/solids")).classes
    count = len(classes)
    picked = by_class(labels, count, 2)
    rows = [real[picked[:, 0]], real[picked[:, 1]], samples[:count], samples[count : 2 * count]]
    names = ["real", "real", "sampled", "sampled"]
    if len(finer) == count:
        rows, names = [*rows, finer], [*names, "4096 points"]
    tiles = [point_rendering.cloud(cloud, size=160) for row in rows for cloud in row]
    image_grid.tile_images(tiles, columns=count, captions=classes, names=names).save(OUT / "solids.png")
    point_rendering.cloud(ply_points(OUT / "out.ply"), size=640).save(OUT / "out.png")
    few = by_class(labels, count, REAL_PER_CLASS)
    nearest = nearest_real(samples, real[few.flatten()])
    return float((labels[few.flatten()][nearest] == np.arange(NUM_SOLIDS) % count).mean())


def nearest_real(samples: NDArray[np.float32], real: NDArray[np.float32]) -> NDArray[np.int64]:
    """For each cloud the real one at the least Chamfer distance (mean squared distances, both ways)."""
    nearest = []
    others = torch.from_numpy(real)
    for cloud in torch.from_numpy(samples):
        distances = torch.cdist(cloud.expand(len(others), -1, -1), others).square()
        chamfer = distances.amin(1).mean(1) + distances.amin(2).mean(1)
        nearest.append(int(chamfer.argmin()))
    return np.array(nearest)


def examples(name: str) -> tuple[NDArray, NDArray[np.int64]]:
    """Values and labels of the prepared training split."""
    shards = ShardDataset(Path("shards") / name)
    batch = shards.read("train", np.arange(shards.count("train")))
    assert batch.labels is not None
    return batch.values.copy(), batch.labels.copy()


def by_class(labels: NDArray[np.int64], count: int, each: int) -> NDArray[np.int64]:
    """The first `each` examples of every class, one row per class."""
    return np.stack([np.flatnonzero(labels == label)[:each] for label in range(count)])


def images(path: Path) -> NDArray[np.uint8]:
    return np.load(path)["images"]


def clouds(path: Path) -> NDArray[np.float32]:
    return np.load(path)["points"]


def ply_points(path: Path) -> NDArray[np.float32]:
    from inrflow_core.geometry import ply_reader

    return ply_reader.read_points(path)


def bicubic(small: NDArray[np.uint8], side: int) -> NDArray[np.uint8]:
    """The usual enlargement, to compare with."""
    sized = [
        np.asarray(Image.fromarray(image[..., 0]).resize((side, side), Image.Resampling.BICUBIC)) for image in small
    ]
    return np.stack(sized)[..., None]


def tell(glyphs_share: float, enlarged: dict[int, tuple[float, float]], solids_share: float, seconds: float) -> None:
    """What was done, and where to look."""
    used = resource.getrusage(resource.RUSAGE_CHILDREN), resource.getrusage(resource.RUSAGE_SELF)
    minutes = sum(usage.ru_utime + usage.ru_stime for usage in used) / 60
    heading(f"Done in {seconds / 60:.1f} minutes ({minutes:.1f} CPU-minutes).")
    print(
        f"  {glyphs_share:.1%} of {NUM_GLYPHS} sampled letters have the requested class, by a support vector machine on real ones"
    )
    for side, (function, other) in enlarged.items():
        print(
            f"  held-out letters at {side} px against their outlines: {function:.1f} dB, by a bicubic filter {other:.1f} dB"
        )
    print(
        f"  {solids_share:.1%} of {NUM_SOLIDS} sampled solids are nearest (Chamfer) to a real one of the requested class"
    )
    looks = {
        "glyphs.png": "real letters above sampled ones, a column for every second class",
        "glyphs-finer.png": "the same samples evaluated at 24 and 256 pixels, and bicubic enlargement of the 24",
        "glyphs-outlines.png": "held-out letters, their functions at 192 pixels, bicubic enlargement, and their exact outlines",
        "solids.png": "real solids above sampled ones, at 256 and 4096 points",
        "out.ply, out.png": "one sampled solid with 128,000 points, and an image of it",
        "training.png": "the losses of both trainings",
    }
    for name, what in looks.items():
        print(f"  {OUT}/{name}: {what}")


if __name__ == "__main__":
    sys.exit(main())
