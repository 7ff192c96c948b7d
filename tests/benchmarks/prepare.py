"""`prepare` on photographs: its speed as a share of what decoding and resizing alone reach.

    python tests/benchmarks/prepare.py                     # 600 made-up JPEGs of 500 x 375, at 128 and 256
    python tests/benchmarks/prepare.py --source DIR        # the photographs of a folder
    python tests/benchmarks/prepare.py --engines           # the same job by every engine, in CPU seconds and as ratios

The share is CPU seconds of a plain loop (read the file, decode with Pillow, convert, ADM's center crop, keep nothing)
over CPU seconds of `prepare` with one worker, which also scans, keeps statistics, writes shards, hashes them and
writes the manifest. Both run in this process on the same files from the page cache and take turns; the least of the
repeats counts.
"""

from __future__ import annotations

import argparse
import contextlib
import io
import json
import os
import sys
import tempfile
import threading
import time
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import psutil
from PIL import Image

from inrflow_core.datasets import image_folder
from inrflow_core.preparation.job import resolve_job
from inrflow_core.preparation.job_array import ArrayTask
from inrflow_core.preparation.pipeline import prepare
from inrflow_core.runtime import ray_pool
from inrflow_core.storage.source_files import list_files
from inrflow_core.visualization.image_io import center_crop

os.environ.setdefault("OMP_NUM_THREADS", "1")
sys.path.insert(0, str(Path(__file__).resolve().parents[2]))

REPEATS = 7
TARGET = 0.8
"""The share that must be reached."""


def photographs(folder: Path, count: int) -> Path:
    """JPEGs with the detail of photographs: noise of falling frequency."""
    random = np.random.default_rng(0)
    for number in range(count):
        layers = [
            Image.fromarray(random.integers(0, 256, (6 * k, 8 * k, 3), dtype=np.uint8)).resize(
                (500, 375), Image.Resampling.BICUBIC
            )
            for k in (1, 4, 16)
        ]
        mixed = sum(
            weight * np.asarray(layer, np.float32) for weight, layer in zip((0.6, 0.3, 0.1), layers, strict=True)
        )
        Image.fromarray(np.asarray(mixed).astype(np.uint8)).save(folder / f"{number:05d}.jpg", quality=90)
    return folder


def bare(source: Path, resolution: int) -> None:
    """What must be done at the least: read, decode, convert, crop."""
    for name, _ in list_files(source):
        with Image.open(io.BytesIO((source / name).read_bytes())) as image:
            center_crop(image.convert("RGB"), resolution)


def cpu_seconds(work: Callable[[], object]) -> float:
    start = time.process_time()
    work()
    return time.process_time() - start


def share(source: Path, resolution: int, workers: int) -> dict[str, float]:
    """Seconds of both, and their ratio."""
    config = image_folder.Config(resolution=resolution, upright=False)  # as the plain loop, which reads no EXIF
    least = {"bare": np.inf, "prepare": np.inf}
    for _ in range(REPEATS):
        least["bare"] = min(least["bare"], cpu_seconds(partial(bare, source, resolution)))
        with tempfile.TemporaryDirectory() as folder:
            work = resolve_job("images", source, Path(folder) / "s", config)
            least["prepare"] = min(least["prepare"], cpu_seconds(partial(prepare, work, workers=workers)))
    return {"resolution": resolution, **least, "share": least["bare"] / least["prepare"]}


def tree_seconds(work: Callable[[], object]) -> tuple[float, float]:
    """CPU seconds of this process and of all below it, and seconds on the clock.

    Looked at every fifth of a second while they live: no process here waits for Ray's workers, so `os.times` would
    leave them out. What a process does after the last look is missed.
    """
    seen: dict[tuple[int, float], float] = {}
    own, is_over = psutil.Process(), threading.Event()

    def look() -> None:
        while not is_over.wait(0.2):
            for child in own.children(recursive=True):
                with contextlib.suppress(psutil.Error):
                    seen[child.pid, child.create_time()] = sum(child.cpu_times()[:2])

    watch = threading.Thread(target=look)
    cpu, start = time.process_time(), time.perf_counter()
    watch.start()
    try:
        work()
    finally:
        clock = time.perf_counter() - start
        is_over.set()
        watch.join()
    return time.process_time() - cpu + sum(seen.values()), clock


def engines(source: Path, resolution: int) -> list[dict[str, Any]]:
    """Each engine's CPU seconds over those of one process; Ray's own processes count where it was started here."""
    config = image_folder.Config(resolution=resolution, upright=False)

    def run(engine: str, out: Path) -> None:
        work = resolve_job("images", source, out, config)
        if engine == "pieces":
            for index in (0, 1, 2):
                prepare(work, workers=1, piece=ArrayTask(index, 3))
        elif engine == "ray":
            prepare(work, engine=ray_pool.ray_map("local", source=source, out=out))
        else:
            prepare(work, workers=int(engine.split()[0]))

    rows = []
    for engine in ("1 process", "2 processes", "pieces", "ray"):
        with tempfile.TemporaryDirectory() as folder:
            cpu, clock = tree_seconds(partial(run, engine, Path(folder) / "s"))
        rows.append({"engine": engine, "cpu": cpu, "clock": clock})
    return [
        row | {"cpu_ratio": row["cpu"] / rows[0]["cpu"], "clock_ratio": row["clock"] / rows[0]["clock"]} for row in rows
    ]


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--source", type=Path)
    parser.add_argument("--count", type=int, default=600)
    parser.add_argument("--json", action="store_true")
    parser.add_argument("--engines", action="store_true")
    options = parser.parse_args()
    with tempfile.TemporaryDirectory() as folder:
        source = options.source or photographs(Path(folder), options.count)
        if options.engines:
            rows = engines(source, 128)
            for row in rows:
                print(
                    json.dumps(row)
                    if options.json
                    else "{engine}: {cpu:.1f} CPU s ({cpu_ratio:.2f}), {clock:.1f} s ({clock_ratio:.2f})".format(**row)
                )
            return 0
        rows = [share(source, resolution, workers=1) for resolution in (128, 256)]
        count = len(list_files(source))
    if options.json:
        print(json.dumps({"images": count, "rows": rows}))
    else:
        for row in rows:
            print(
                f"{row['resolution']:.0f} px: decoding and resizing {count / row['bare']:,.0f} images/s, prepare "
                f"{count / row['prepare']:,.0f} images/s, share {row['share']:.3f} (at least {TARGET})"
            )
    return 0 if min(row["share"] for row in rows) >= TARGET else 1


if __name__ == "__main__":
    sys.exit(main())
