"""Distances between clouds against their rivals: CPU seconds a pair, and pairs a second of one core.

    python tests/benchmarks/distances.py                  # 2048 points, about three minutes on one core
    python tests/benchmarks/distances.py --points 512     # smaller clouds
    python tests/benchmarks/distances.py --device cuda    # also batches on a GPU
    python tests/benchmarks/distances.py --json

Surfaces of solids (sphere, box, torus, plane; stretched, with noise of 2 %) in their boxes, every pair of different
clouds. One thread. All forms of one distance take turns in this process on the same pairs; the least of the repeats
counts, of CPU seconds (time.process_time), so that other work on the machine matters little. Clouds are prepared (their
KD-trees built) once for each cloud, which is counted. That forms of a distance give the same value is checked first.
"""

from __future__ import annotations

import argparse
import json
import os
import sys
import time
from collections.abc import Callable, Sequence
from itertools import combinations
from pathlib import Path
from typing import Any

import numpy as np
import torch

from inrflow_core import registry
from inrflow_core.distances import _contract
from inrflow_core.geometry import point_clouds
from tests.distances import shapes

os.environ.setdefault("OMP_NUM_THREADS", "1")
sys.path.insert(0, str(Path(__file__).resolve().parents[2]))

REPEATS = 3
TARGETS = {"cd": 0.006, "emd-exact": 0.6}
"""CPU seconds a pair at 2048 points that must not be exceeded."""
OURS = "ours"

Between = Callable[[Any, Any], float]


def own(name: str) -> tuple[Callable[[np.ndarray], Any], Between]:
    distance = registry.find("distances", name)
    return distance.prepare, distance.distance


def tensor(cloud: np.ndarray) -> torch.Tensor:
    return torch.from_numpy(cloud).float()[None]


def by_three_products(a: torch.Tensor, b: torch.Tensor) -> float:
    """Chamfer as PointFlow's code and its heirs have it: all products within and across, squares from their diagonals."""
    within_a, within_b, across = a @ a.mT, b @ b.mT, a @ b.mT
    square = within_a.diagonal(dim1=1, dim2=2)[:, :, None] + within_b.diagonal(dim1=1, dim2=2)[:, None] - 2 * across
    return float(square.amin(1).mean() + square.amin(2).mean())


def by_cdist(a: torch.Tensor, b: torch.Tensor) -> float:
    square = torch.cdist(a, b, compute_mode="donot_use_mm_for_euclid_dist").square()
    return float(square.amin(1).mean() + square.amin(2).mean())


def by_pot(a: np.ndarray, b: np.ndarray) -> float:
    import ot

    value: Any = ot.emd2([], [], ot.dist(a, b, "euclidean"), numItermax=10**8)
    return float(value)


def by_scipy(a: np.ndarray, b: np.ndarray) -> float:
    from scipy.optimize import linear_sum_assignment
    from scipy.spatial.distance import cdist

    cost = cdist(a, b)
    return float(cost[linear_sum_assignment(cost)].mean())


def same(cloud: np.ndarray) -> np.ndarray:
    return cloud


FORMS = {
    "cd": {
        OURS: own("cd"),
        "torch, three products": (tensor, by_three_products),
        "torch.cdist": (tensor, by_cdist),
    },
    "emd-exact": {
        OURS: own("emd-exact"),
        "ot.emd2 as it comes": (same, by_pot),
        "SciPy's assignment": (same, by_scipy),
    },
    "emd-exact-squared": {OURS: own("emd-exact-squared")},
    "emd-lion": {OURS: own("emd-lion")},
    "emd-pointflow": {OURS: own("emd-pointflow")},
}


def seconds(prepare: Callable[[np.ndarray], Any], between: Between, clouds: np.ndarray, pairs: Sequence[Any]) -> float:
    """CPU seconds a pair, preparation included."""
    start = time.process_time()
    prepared = [prepare(cloud) for cloud in clouds]
    for i, j in pairs:
        between(prepared[i], prepared[j])
    return (time.process_time() - start) / len(pairs)


def check_equal(name: str, clouds: np.ndarray) -> None:
    values = [between(prepare(clouds[0]), prepare(clouds[1])) for prepare, between in FORMS[name].values()]
    np.testing.assert_allclose(values, values[0], rtol=1e-3)


def on_gpu(name: str, clouds: np.ndarray, device: str, batch: int = 64) -> float:
    """Seconds of the clock a pair, in batches."""
    distance = registry.find("distances", name)
    a, b = (
        torch.from_numpy(np.resize(side, (batch, *side.shape[1:]))).float().to(device)
        for side in (clouds, clouds[::-1])
    )
    distance.batched_distance(a, b).cpu()
    start = time.perf_counter()
    for _ in range(10):
        distance.batched_distance(a, b).cpu()
    return (time.perf_counter() - start) / 10 / batch


def measure(count: int, points: int, device: str | None) -> list[dict[str, Any]]:
    clouds = point_clouds.normalize(shapes.clouds(count, points), "inrflow", None)
    pairs = list(combinations(range(count), 2))
    rows = []
    for name, forms in FORMS.items():
        check_equal(name, clouds)
        least = dict.fromkeys(forms, np.inf)
        for _ in range(REPEATS):
            for form, (prepare, between) in forms.items():
                least[form] = min(least[form], seconds(prepare, between, clouds, pairs))
        if device and _contract.find(name).batched_distance is not None:
            least[f"ours, on {device}"] = on_gpu(name, clouds, device)
        rows += [
            {"distance": name, "form": form, "seconds": took, "ratio": took / least[OURS]}
            for form, took in least.items()
        ]
    return rows


def table(rows: Sequence[dict[str, Any]], points: int) -> str:
    lines = [
        f"| distance ({points} points) | form | CPU ms a pair | pairs/s a core | over ours |",
        "| --- | --- | --- | --- | --- |",
    ]
    for row in rows:
        milliseconds, rate = 1000 * row["seconds"], 1 / row["seconds"]
        lines.append(
            f"| `{row['distance']}` | {row['form']} | {milliseconds:,.3g} | {rate:,.3g} | {row['ratio']:.2f} |"
        )
    return "\n".join(lines)


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--points", type=int, default=2048)
    parser.add_argument("--clouds", type=int, default=5)
    parser.add_argument("--device", help="also measure batches there")
    parser.add_argument("--json", action="store_true")
    options = parser.parse_args()
    torch.set_num_threads(1)
    rows = measure(options.clouds, options.points, options.device)
    print(json.dumps(rows, indent=1) if options.json else table(rows, options.points))
    took = {row["distance"]: row["seconds"] for row in rows if row["form"] == OURS}
    return 0 if all(took[name] <= most for name, most in TARGETS.items()) else 1


if __name__ == "__main__":
    sys.exit(main())
