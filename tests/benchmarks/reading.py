"""Reading shards: random 256 x 256 RGB images a second on one core, from the page cache.

    python tests/benchmarks/reading.py                # 4,000 images (0.8 GB), batches of 64, about a minute
    python tests/benchmarks/reading.py --json         # one object on stdout

The shards are written to a temporary folder and read once before anything is timed. The rivals are a plain copy
of the same images in memory (what no reader can beat), and h5py's `d[i]` on the same files. Times are CPU seconds of
one thread, the least of the repeats, the ways taking turns, so that a busy machine slows all of them alike.
"""

from __future__ import annotations

import argparse
import json
import os
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import h5py
import numpy as np

from inrflow_core.shards import manifest, writer
from inrflow_core.shards.schema import Header, ShardColumns
from inrflow_core.shards.shard_dataset import ShardDataset

os.environ.setdefault("OMP_NUM_THREADS", "1")
sys.path.insert(0, str(Path(__file__).resolve().parents[2]))

SIDE, OF_A_SHARD, BATCH, REPEATS = 256, 1000, 64, 5
TARGET = 8000
"""Images a second that must be reached."""


def write(folder: Path, images: int) -> None:
    """Shards of random images, with their manifest."""
    random = np.random.default_rng(0)
    entries = []
    for number in range(images // OF_A_SHARD):
        values = random.integers(0, 256, (OF_A_SHARD, SIDE, SIDE, 3), dtype=np.uint8)
        path = folder / f"train-{number:05d}.h5"
        header = Header("image", "noise", "train")
        columns = ShardColumns(np.zeros(OF_A_SHARD, np.int64))
        entries.append(writer.write(path, header, [values], columns, shape=values.shape, dtype="uint8"))
    split = manifest.Split(images, tuple(entries), manifest.ChannelStats((), ()))
    content = manifest.Manifest("noise", "image", "", (SIDE, SIDE, 3), "uint8", (), {}, {}, {}, {"train": split})
    manifest.save(content, folder)


def ways(folder: Path, images: int) -> dict[str, Callable[[np.ndarray], object]]:
    """Each way to read the images at some indices into one batch."""
    opened = ShardDataset(folder)
    out = opened.buffer("train", BATCH)
    assert out is not None
    opened.verify()
    files = [h5py.File(path, "r", locking=False) for path in sorted(folder.glob("*.h5"))]
    arrays: Any = [file["values"] for file in files]
    memory = np.concatenate([array[: min(OF_A_SHARD, 1000)] for array in arrays])

    def plain(indices: np.ndarray) -> None:
        for row, index in enumerate(indices):
            out[row] = arrays[index // OF_A_SHARD][index % OF_A_SHARD]

    def copy(indices: np.ndarray) -> None:
        for row, index in enumerate(indices):
            out[row] = memory[index]

    return {"ours": lambda indices: opened.read("train", indices, out), "h5py d[i]": plain, "copy in memory": copy}


def measure(folder: Path, images: int) -> dict[str, float]:
    """Images a CPU second, by way."""
    least: dict[str, float] = {}
    readers = ways(folder, images)
    for repeat in range(REPEATS):
        order = np.random.default_rng(repeat).permutation(images)
        batches = [order[start : start + BATCH] for start in range(0, len(order) - BATCH + 1, BATCH)]
        for name, read in readers.items():
            start = time.process_time()
            for batch in batches:
                read(batch)
            seconds = (time.process_time() - start) / (len(batches) * BATCH)
            least[name] = min(seconds, least.get(name, np.inf))
    return {name: 1 / seconds for name, seconds in least.items()}


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--images", type=int, default=4000)
    parser.add_argument("--json", action="store_true")
    options = parser.parse_args()
    with tempfile.TemporaryDirectory() as folder:
        write(Path(folder), options.images)
        rates = measure(Path(folder), options.images)
    results: dict[str, float] = {name: round(rate) for name, rate in rates.items()}
    results["ours over copy"] = round(rates["ours"] / rates["copy in memory"], 3)
    if options.json:
        print(json.dumps(results))
    else:
        for name, number in results.items():
            print(f"{name:>16}  {number:,}" + (" images/s" if isinstance(number, int) else ""))
        print(f"target: ours at least {TARGET:,} images/s: {'reached' if rates['ours'] >= TARGET else 'MISSED'}")
    return 0 if rates["ours"] >= TARGET else 1


if __name__ == "__main__":
    sys.exit(main())
