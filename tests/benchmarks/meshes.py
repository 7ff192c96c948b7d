"""Reading meshes: CPU seconds of the project's readers against trimesh's, for STL, PLY, OBJ, OFF and GLB.

    python tests/benchmarks/meshes.py                    # 498,002 triangles in each format, about two minutes
    python tests/benchmarks/meshes.py --side 200         # 79,202 triangles
    python tests/benchmarks/meshes.py --json             # one object on stdout

The mesh is a bumpy square of `side` by `side` vertices without colors. trimesh writes the files, STL and PLY in binary, and both
read them: ours as `prepare mesh-folder` does, trimesh without processing. Times are CPU seconds of one thread, the least of
the repeats, the two taking turns.
"""

from __future__ import annotations

import argparse
import json
import os
import sys
import tempfile
import time
from pathlib import Path

import numpy as np

os.environ.setdefault("OMP_NUM_THREADS", "1")
sys.path.insert(0, str(Path(__file__).resolve().parents[2]))

FORMATS = ("stl", "ply", "obj", "off", "glb")
REPEATS = 3
MOST = 3.0
"""Times trimesh's CPU seconds that a reader may take."""


def write(folder: Path, side: int) -> None:
    """The mesh in each format."""
    import trimesh

    x, y = np.meshgrid(np.linspace(-1, 1, side), np.linspace(-1, 1, side), indexing="ij")
    vertices = np.stack([x, y, 0.1 * np.sin(7 * x) * np.cos(5 * y)], axis=-1).reshape(-1, 3)
    corner = (np.arange(side - 1)[:, None] * side + np.arange(side - 1)).reshape(-1, 1)
    faces = np.concatenate([corner + [0, side, side + 1], corner + [0, side + 1, 1]])
    mesh = trimesh.Trimesh(vertices, faces, process=False)
    for suffix in FORMATS:
        mesh.export(folder / f"mesh.{suffix}")


def measure(folder: Path, side: int) -> dict[str, dict[str, float]]:
    """CPU seconds of both readers by format, and their ratio."""
    import trimesh

    from inrflow_core.mesh_files import reading

    expected, results = 2 * (side - 1) ** 2, dict[str, dict[str, float]]()
    for suffix in FORMATS:
        name = f"mesh.{suffix}"
        readers = {
            "ours": lambda name=name: sum(
                len(piece.faces) for piece in reading.load(folder, name, with_colors=True).pieces
            ),
            "trimesh": lambda name=name: len(trimesh.load(folder / name, process=False, force="mesh").faces),
        }
        least: dict[str, float] = {}
        for _ in range(REPEATS):
            for reader, read in readers.items():
                start = time.process_time()
                assert read() == expected, f"{reader} reads other triangles of {name}"
                seconds = time.process_time() - start
                least[reader] = min(seconds, least.get(reader, np.inf))
        results[suffix] = {**least, "ratio": least["ours"] / least["trimesh"]}
    return results


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--side", type=int, default=500)
    parser.add_argument("--json", action="store_true")
    options = parser.parse_args()
    with tempfile.TemporaryDirectory() as folder:
        write(Path(folder), options.side)
        results = measure(Path(folder), options.side)
    if options.json:
        print(json.dumps(results))
    else:
        print(f"{'format':<8}{'ours':>8}{'trimesh':>9}{'ratio':>7}")
        for suffix, row in results.items():
            print(f"{suffix:<8}{row['ours']:>8.2f}{row['trimesh']:>9.2f}{row['ratio']:>7.2f}")
    return 0 if all(row["ratio"] <= MOST for row in results.values()) else 1


if __name__ == "__main__":
    sys.exit(main())
