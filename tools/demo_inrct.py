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

from inrflow_cli import demo_commands, demo_images
from inrflow_core.visualization import image_grid

PRESET = "digits-inrct-demo"
RUN = ("--run", f"runs/{PRESET}", "--overwrite")
COLUMNS, FINE = 10, 48
OUT = Path(__file__).resolve().parent.parent / "demo"
"""Everything is written to this folder, in which the commands run."""


def main() -> int:
    (OUT / "encoded").mkdir(parents=True, exist_ok=True)
    os.chdir(OUT)
    started = time.monotonic()
    heading("1. Prepare handwritten digits")
    run("prepare", "digits")
    heading("2. Train: the functions have the images' values, then one call writes them from noise")
    run("train", "--preset", PRESET, "--threads", "1", *sys.argv[1:])
    heading("3. Sample in one and two steps")
    show_samples()
    heading("4. Encode real digits by one call, and evaluate them more finely")
    error = show_encoded()
    heading(f"Done in {(time.monotonic() - started) / 60:.1f} minutes.")
    print(f"  encoded digits are reconstructed to {error:.1f} dB")
    print("  demo/inrct-samples.png: real digits above samples of one and of two steps")
    print(f"  demo/inrct-finer.png: samples and encoded digits at 8 and at {FINE} pixels, and bicubic enlargement")
    return 0


def heading(text: str) -> None:
    print(f"\n{text}", flush=True)


def run(*words: str | Path) -> None:
    demo_commands.run(Path(), *words)


def show_samples() -> None:
    """Samples of the same seeds in one and two steps, below real digits."""
    rows = {f"real {row + 1}": part for row, part in enumerate(np.split(real_digits(2 * COLUMNS), 2))}
    for steps in (1, 2):
        out = Path(f"inrct-{steps}.npz")
        run("sample", *RUN, "--num", str(3 * COLUMNS), "--steps", str(steps), out)
        parts = np.split(demo_images.images(out), 3)
        rows |= {f"{steps} step{'s' * (steps > 1)} {row + 1}": part for row, part in enumerate(parts)}
    image_grid.labeled_rows(rows, tile=64).save(Path("inrct-samples.png"))


def show_encoded() -> float:
    """Samples and encoded digits more finely; the mean reconstruction error in dB."""
    real = real_digits(COLUMNS)
    files = [Path("encoded") / f"real-{index}.png" for index in range(COLUMNS)]
    for file, digit in zip(files, real, strict=True):
        Image.fromarray(digit[..., 0]).save(file)
    same, finer = Path("encoded") / "same", Path("encoded") / "finer"
    for folder, size in ((same, "8"), (finer, str(FINE))):
        folder.mkdir(exist_ok=True)
        run("upsample", *RUN, "--resolution", size, *files, folder)
    fine_samples = Path(f"inrct-{FINE}.npz")
    run("sample", *RUN, "--num", str(COLUMNS), "--steps", "2", "--resolution", str(FINE), fine_samples)
    encoded = read_images(same)
    image_grid.labeled_rows(
        {
            "sampled 8": demo_images.images(Path("inrct-2.npz"))[:COLUMNS],
            f"sampled {FINE}": demo_images.images(fine_samples),
            "real 8": real,
            "encoded 8": encoded,
            f"encoded {FINE}": read_images(finer),
            f"bicubic {FINE}": demo_images.bicubic(real, FINE),
        },
        tile=96,
    ).save(Path("inrct-finer.png"))
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
