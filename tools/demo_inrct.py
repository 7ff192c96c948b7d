"""Images as neural functions in one or two calls, on data that needs no download: `make demo-inrct`.

Runs the commands as a user would, in the checkout: trains a consistency model of handwritten digits, samples it in one and
two steps, encodes real digits, evaluates both more finely, and writes images into `demo/`. Started again it resumes.
"""

from __future__ import annotations

import os
import sys
import time
from pathlib import Path

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from inrflow_core.visualization import image_grid
from tools import demo
from tools.demo import OUT

PRESET = "digits-inrct-demo"
RUN = ("--run", f"runs/{PRESET}", "--overwrite")
COLUMNS, FINE = 10, 48


def main() -> int:
    os.chdir(demo.ROOT)
    (OUT / "encoded").mkdir(parents=True, exist_ok=True)
    started = time.monotonic()
    demo.heading("1. Prepare handwritten digits")
    demo.run("prepare", "digits")
    demo.heading("2. Train: the functions have the images' values, then one call writes them from noise")
    demo.run("train", "--preset", PRESET, "--threads", "1", *sys.argv[1:])
    demo.heading("3. Sample in one and two steps")
    show_samples()
    demo.heading("4. Encode real digits by one call, and evaluate them more finely")
    error = show_encoded()
    demo.heading(f"Done in {(time.monotonic() - started) / 60:.1f} minutes.")
    print(f"  encoded digits are reconstructed to {error:.1f} dB")
    print(f"  {OUT}/inrct-samples.png: real digits above samples of one and of two steps")
    print(f"  {OUT}/inrct-finer.png: samples and encoded digits at 8 and at {FINE} pixels, and bicubic enlargement")
    return 0


def show_samples() -> None:
    """Samples of the same seeds in one and two steps, below real digits."""
    rows = {f"real {row + 1}": part for row, part in enumerate(np.split(real_digits(2 * COLUMNS), 2))}
    for steps in (1, 2):
        out = OUT / f"inrct-{steps}.npz"
        demo.run("sample", *RUN, "--num", str(3 * COLUMNS), "--steps", str(steps), out)
        parts = np.split(demo.images(out), 3)
        rows |= {f"{steps} step{'s' * (steps > 1)} {row + 1}": part for row, part in enumerate(parts)}
    image_grid.labeled_rows(rows, tile=64).save(OUT / "inrct-samples.png")


def show_encoded() -> float:
    """Samples and encoded digits more finely; the mean reconstruction error in dB."""
    real = real_digits(COLUMNS)
    files = [OUT / "encoded" / f"real-{index}.png" for index in range(COLUMNS)]
    for file, digit in zip(files, real, strict=True):
        Image.fromarray(digit[..., 0]).save(file)
    same, finer = OUT / "encoded" / "same", OUT / "encoded" / "finer"
    for folder, size in ((same, "8"), (finer, str(FINE))):
        folder.mkdir(exist_ok=True)
        demo.run("upsample", *RUN, "--resolution", size, *files, folder)
    fine_samples = OUT / f"inrct-{FINE}.npz"
    demo.run("sample", *RUN, "--num", str(COLUMNS), "--steps", "2", "--resolution", str(FINE), fine_samples)
    encoded = read_images(same)
    image_grid.labeled_rows(
        {
            "sampled 8": demo.images(OUT / "inrct-2.npz")[:COLUMNS],
            f"sampled {FINE}": demo.images(fine_samples),
            "real 8": real,
            "encoded 8": encoded,
            f"encoded {FINE}": read_images(finer),
            f"bicubic {FINE}": demo.bicubic(real, FINE),
        },
        tile=96,
    ).save(OUT / "inrct-finer.png")
    errors = np.mean((encoded / 255 - real / 255) ** 2, axis=(1, 2, 3))
    return float(np.mean(-10 * np.log10(errors)))


def real_digits(count: int) -> NDArray[np.uint8]:
    """The first digits of the held-out split."""
    from inrflow_core.shards.shard_dataset import ShardDataset

    return ShardDataset(Path("shards/digits")).read("val", np.arange(count)).values.copy()


def read_images(folder: Path) -> NDArray[np.uint8]:
    """The images of a folder in the order of their names, (B H W 1)."""
    return np.stack([np.asarray(Image.open(file).convert("L"))[..., None] for file in sorted(folder.glob("*.png"))])


if __name__ == "__main__":
    sys.exit(main())
