"""Samples or inverted images on a finer grid next to bicubic upsampling, as a sheet of images and a table.

    python tools/compare_enlargements.py runs/digits-demo sheet.png                        # drawn samples
    python tools/compare_enlargements.py runs/flowers sheet.png --data shards/flowers-64 --finer shards/flowers-128

With `--data`, held-out images are inverted and their functions evaluated; `--finer` holds the same images at a higher
resolution, the truth. The rows of both the sheet and the table: the noise field (`linear`), the papers' noise at every
position for itself (`independent`), and bicubic and bilinear enlargement of the coarse image. The columns of the table:
    back       PSNR in dB of the coarse image against the finer one averaged over its pixels
    roughness  root mean square difference of a pixel from the mean of its four neighbors, in gray levels
    truth      PSNR in dB against the finer truth
"""

from __future__ import annotations

import argparse
import os
import sys
from pathlib import Path

import numpy as np
import torch
from numpy.typing import NDArray
from PIL import Image

from inrflow_core.domains._contract import InputExample
from inrflow_core.models import Model
from inrflow_core.sampling import invert, options, sample
from inrflow_core.sets import Grid
from inrflow_core.shards.shard_dataset import ShardDataset
from inrflow_core.visualization import image_grid

os.environ.setdefault("OMP_NUM_THREADS", "1")
sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

KINDS = ("linear", "independent")
INTERPOLATIONS = {"bicubic": Image.Resampling.BICUBIC, "bilinear": Image.Resampling.BILINEAR}
Images = NDArray[np.uint8]


def main() -> None:
    """Draw or encode, ask finely, and show."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("run")
    parser.add_argument("sheet", type=Path)
    parser.add_argument("--data", type=Path, help="shards of the model's resolution, whose held-out images to encode")
    parser.add_argument("--finer", type=Path, help="shards of the same images, larger by a whole number")
    parser.add_argument("--num", type=int, default=8)
    parser.add_argument("--scale", type=int, default=3, help="without --finer")
    parser.add_argument("--steps", type=int, default=invert.INVERSION_STEPS, help="Heun steps of the encoding")
    parser.add_argument("--ema", type=float, help="decay of the averaged weights; 0 for the weights themselves")
    arguments = parser.parse_args()
    torch.set_num_threads(1)
    model = sample.load(arguments.run, ema=arguments.ema)
    truth = None if arguments.finer is None else held_out(arguments.finer, arguments.num)[0]
    if arguments.data is None:
        coarse, finer = sample_images(model, arguments.num, arguments.scale)
    else:
        images, labels = held_out(arguments.data, arguments.num)
        scale = arguments.scale if truth is None else truth.shape[1] // images.shape[1]
        coarse, finer = encoded(model, images, labels, scale, arguments.steps)
    side = finer["linear"].shape[1]
    finer |= {name: resized(coarse, side, method) for name, method in INTERPOLATIONS.items()}
    rows = {"coarse": coarse, **finer} | ({} if truth is None else {"truth": truth})
    image_grid.labeled_rows(rows, tile=max(96, side)).save(arguments.sheet)
    print(f"{'':12}  {'back':>6}  {'roughness':>9}" + ("" if truth is None else f"  {'truth':>6}"))
    for name, row in finer.items():
        line = f"{name:12}  {psnr(shrunk(row, coarse.shape[1]), coarse):6.1f}  {roughness(row):9.2f}"
        print(line + ("" if truth is None else f"  {psnr(row, truth):6.1f}"))
    if truth is not None:
        print(f"{'truth':12}  {psnr(shrunk(truth, coarse.shape[1]), coarse):6.1f}  {roughness(truth):9.2f}")


def held_out(folder: Path, num: int) -> tuple[Images, NDArray[np.int64]]:
    """Images and labels, evenly taken from the split `val`."""
    shards = ShardDataset(folder)
    batch = shards.read("val", np.linspace(0, shards.count("val") - 1, num).astype(np.int64))
    labels = np.full(num, -1) if batch.labels is None else batch.labels.copy()
    return batch.values.copy(), labels


def sample_images(model: Model, num: int, scale: int) -> tuple[Images, dict[str, Images]]:
    """New samples at the training resolution, and the same on the finer grid with either noise."""
    seeds = range(num)
    classes = 0 if model.preset.condition is None else model.preset.condition.config.classes
    labels = [seed % classes for seed in seeds] if classes else None
    fields = [sample.sample_fields(model, seeds, labels, options.sampling_options(model, noise=kind)) for kind in KINDS]
    size = finer_size(model, scale)
    finer = {kind: sample.evaluate(model, field, size) for kind, field in zip(KINDS, fields, strict=True)}
    return sample.evaluate(model, fields[0]), finer


def encoded(
    model: Model, images: Images, labels: NDArray[np.int64], scale: int, steps: int
) -> tuple[Images, dict[str, Images]]:
    """The images, and the functions behind them on the finer grid with either noise."""
    size, finer = finer_size(model, scale), {}
    scores = []
    for kind in KINDS:
        answers = []
        for image, label in zip(images, labels, strict=True):
            example = InputExample(image)
            field = invert.invert(model, example, label=None if label < 0 else int(label), steps=steps, noise=kind)
            answers.append(sample.evaluate(model, field, size)[0])
            if kind == KINDS[0]:
                scores.append(invert.reconstruction_error(model, example, field)["psnr"])
        finer[kind] = np.stack(answers)
    print(
        f"inverted, then evaluated at the training's positions: {np.mean(scores):.1f} dB, least {np.min(scores):.1f} dB"
    )
    return images, finer


def finer_size(model: Model, scale: int) -> tuple[int, int]:
    layout = model.domain.shape.layout
    assert isinstance(layout, Grid)
    rows, columns = layout.shape
    return scale * rows, scale * columns


def resized(coarse: Images, side: int, method: Image.Resampling) -> Images:
    """The images enlarged to `side` rows and columns by one of `INTERPOLATIONS`."""
    sized = [image_grid.to_image(image).resize((side, side), method) for image in coarse]
    return np.stack([np.asarray(image).reshape(side, side, -1) for image in sized])


def shrunk(finer: Images, side: int) -> NDArray[np.float64]:
    """Means over squares of pixels."""
    scale = finer.shape[1] // side
    return finer.reshape(len(finer), side, scale, side, scale, -1).mean((2, 4))


def psnr(a: NDArray, b: NDArray) -> float:
    """Mean over images, peak 255."""
    error = ((a.astype(np.float64) - b.astype(np.float64)) ** 2).mean((1, 2, 3))
    return float((10 * np.log10(255.0**2 / np.maximum(error, 1e-10))).mean())


def roughness(finer: Images) -> float:
    """See the module."""
    x = finer.astype(np.float64)
    around = (x[:, :-2, 1:-1] + x[:, 2:, 1:-1] + x[:, 1:-1, :-2] + x[:, 1:-1, 2:]) / 4
    return float(np.sqrt(((x[:, 1:-1, 1:-1] - around) ** 2).mean()))


if __name__ == "__main__":
    main()
