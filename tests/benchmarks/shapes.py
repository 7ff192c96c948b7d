"""What a latent diffusion model of shapes draws and what its meshes cost.

    python tests/benchmarks/shapes.py extraction RUN --label 1 --seed 0
    python tests/benchmarks/shapes.py reconstruction RUN --shards shards/occupancy-solids --num 160
    python tests/benchmarks/shapes.py samples RUN --shards shards/occupancy-solids --num 64
    python tests/benchmarks/shapes.py pooling RUN

extraction: evaluations of the function and CPU seconds of one thread of a mesh at 256^3, refined near the surface, against the whole
grid; and the largest difference of their vertices.
reconstruction: IoU of encoded held-out shapes at the uniform ones of their queries, by class, and at those near the surface: the first
and the second half of those of `prepare occupancy-solids`.
samples: one shape for each label in turn: the share whose nearest held-out shape by Chamfer distance (512 points of each) has
the requested class, and the share of watertight meshes.
pooling: CPU seconds of one pass forward and back through a pooling of points over their cells, of the cells that have points alone
against all cells of the planes, both in turns; their values and gradients are equal.
"""

from __future__ import annotations

import argparse
import sys
import time
from pathlib import Path

import numpy as np
import torch
from scipy.spatial import cKDTree  # pyright: ignore[reportAttributeAccessIssue]

sys.path.insert(0, str(Path(__file__).resolve().parents[2]))

from inrflow_core import models
from inrflow_core.distances import cd
from inrflow_core.geometry import isosurface
from inrflow_core.geometry.mesh import Mesh, sample_surface
from inrflow_core.metrics._class_inputs import class_of_nearest
from inrflow_core.models import Model
from inrflow_core.networks import triplane_autoencoder
from inrflow_core.networks._planes import SPACE
from inrflow_core.runs import run
from inrflow_core.sampling import sample
from inrflow_core.sampling.options import sampling_options
from inrflow_core.sets import Queries
from inrflow_core.shards.shard_dataset import ShardDataset

POINTS = 512
BATCH = 16


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("table", choices=("extraction", "reconstruction", "samples", "pooling"))
    parser.add_argument("run", type=Path)
    parser.add_argument("--label", type=int, default=1)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--shards", type=Path, default=Path("shards/occupancy-solids"))
    parser.add_argument("--num", type=int, default=80)
    arguments = parser.parse_args()
    torch.set_num_threads(1)
    model = models.load(run.resolve_weights(arguments.run))
    if arguments.table == "extraction":
        extraction(model, arguments.seed, arguments.label)
    elif arguments.table == "reconstruction":
        reconstruction(model, ShardDataset(arguments.shards), arguments.num)
    elif arguments.table == "samples":
        samples(model, ShardDataset(arguments.shards), arguments.num)
    else:
        pooling(model)


@torch.no_grad()
def extraction(model: Model, seed: int, label: int, resolution: int = 256) -> None:
    """Print the cost of one mesh in both ways."""
    domain, counted = model.domain, [0]
    field = sample.sample_fields(model, [seed], [label], sampling_options(model)).cache_context()

    def logits(points: torch.Tensor) -> torch.Tensor:
        counted[0] += len(points)
        return field.values_at(0, points / domain.half)[:, 0]  # pyright: ignore[reportAttributeAccessIssue]

    start = time.process_time()
    refined = isosurface.extract_occupied(logits, domain.box, resolution=resolution, with_normals=False)
    middle, evaluations = time.process_time(), counted[0]
    axis = np.linspace(-domain.half, domain.half, resolution)
    values = np.empty((resolution,) * 3, np.float32)
    for index, x in enumerate(axis):
        plane = np.stack(np.meshgrid([x], axis, axis, indexing="ij"), -1).reshape(-1, 3)
        values[index] = logits(torch.from_numpy(plane.astype(np.float32))).numpy().reshape(resolution, resolution)
    whole = isosurface.surface_of_grid(values, [axis] * 3, level=0.0, outside=-1.0)
    seconds = middle - start, time.process_time() - middle
    dense = counted[0] - evaluations
    print(f"evaluations {evaluations:,} of {dense:,}, 1 in {dense / evaluations:.1f}")
    print(f"CPU seconds {seconds[0]:.1f} and {seconds[1]:.1f}, ratio {seconds[1] / seconds[0]:.1f}")
    print(
        f"vertices {len(refined.vertices):,} and {len(whole.vertices):,}, largest difference {largest(refined, whole):g}"
    )


@torch.no_grad()
def reconstruction(model: Model, shards: ShardDataset, num: int) -> None:
    """Print the IoU of held-out shapes that are encoded by one call."""
    domain, batch = model.domain, shards.read("val", range(num))
    positions = torch.from_numpy(batch.condition["queries"]).float() / domain.half
    half = positions.shape[1] // 2
    is_inside = np.unpackbits(batch.condition["occupancies"], axis=1)[:, : 2 * half].astype(bool)
    sets = domain.to_set(batch, torch.arange(num), batch.labels)
    field = model.method.invert(sets, sampling_options(model))
    made = field.query(Queries(positions, torch.arange(2 * half)))[..., 0].numpy() > 0
    for name, part in {"uniform": slice(half), "near the surface": slice(half, None), "all": slice(None)}.items():
        both, either = (f(made[:, part], is_inside[:, part]).sum(1) for f in (np.logical_and, np.logical_or))
        iou = both / np.maximum(either, 1)
        classes = ", ".join(f"{c} {iou[batch.labels == n].mean():.2f}" for n, c in enumerate(shards.classes))
        print(f"IoU {name}: {iou.mean():.3f} of {num} ({classes})")


def largest(one: Mesh, other: Mesh) -> float:
    """The largest distance of a vertex of either mesh to the nearest one of the other."""
    return max(cKDTree(b.vertices).query(a.vertices)[0].max() for a, b in ((one, other), (other, one)))


@torch.no_grad()
def samples(model: Model, shards: ShardDataset, num: int) -> None:
    """Print the shares of right classes and of watertight meshes."""
    domain, held_out = model.domain, shards.read("val", range(shards.count("val")))
    real, classes = [cd.prepare(points[:POINTS]) for points in held_out.values], len(shards.classes)
    labels, is_right, is_watertight = np.arange(num) % classes, np.zeros(num, bool), np.zeros(num, bool)
    for start in range(0, num, BATCH):
        seeds = list(range(start, min(num, start + BATCH)))
        field = sample.sample_fields(model, seeds, labels[seeds].tolist(), sampling_options(model)).cache_context()
        for row, seed in enumerate(seeds):

            def logits(points: torch.Tensor, row: int = row, field=field) -> torch.Tensor:
                return field.values_at(row, points / domain.half)[:, 0]

            mesh = isosurface.extract_occupied(logits, domain.box, resolution=domain.config.grid, with_normals=False)
            if len(mesh.faces):
                is_watertight[seed] = is_closed(mesh)
                points = sample_surface(mesh, POINTS, seed=0)
                distances = np.array([[cd.distance(cd.prepare(points), other) for other in real]])
                is_right[seed] = class_of_nearest(distances, held_out.labels)[0] == labels[seed]
    print(f"right class {is_right.mean():.1%} of {num}, watertight {is_watertight.mean():.1%}")
    for number, name in enumerate(shards.classes):
        print(f"{name}: {is_right[number::classes].mean():.0%}")


def pooling(model: Model, batch: int = 4, repeats: int = 10) -> None:
    """Print what a pooling costs, for points on balls, as many as the run's and as wide as its point encoder."""
    config, domain = model.preset.networks["autoencoder"].config, model.domain.config
    count = getattr(domain, "surface_points", None) or domain.num_points
    directions = torch.randn(batch, count, 3, generator=torch.Generator().manual_seed(0))
    cells = SPACE.cells(0.6 * directions / directions.norm(dim=-1, keepdim=True), config.resolution)
    x = torch.randn(batch, count, config.point_width, requires_grad=True)

    def of_all_cells() -> torch.Tensor:
        return triplane_autoencoder.pooled(x, cells, len(SPACE) * config.resolution**2)

    def of_own_cells() -> torch.Tensor:
        groups = triplane_autoencoder.ranks(cells.flatten(1)).view_as(cells)
        return triplane_autoencoder.pooled(x, groups, len(SPACE) * count)

    seconds, made = {}, []
    for pool in (of_all_cells, of_own_cells) * repeats:
        start = time.process_time()
        values = pool()
        made.append((values, *torch.autograd.grad(values.square().sum(), x)))
        seconds.setdefault(pool, []).append(time.process_time() - start)
    assert all(torch.equal(one, other) for one, other in zip(made[0], made[1], strict=True))
    whole, own = (min(seconds[pool]) for pool in (of_all_cells, of_own_cells))
    print(f"{batch} x {count} points, {own:.4f} and {whole:.4f} CPU seconds, {own / whole:.2f}")


def is_closed(mesh: Mesh) -> bool:
    """Whether every edge belongs to two triangles."""
    edges = np.sort(np.concatenate([mesh.faces[:, [a, b]] for a, b in ((0, 1), (1, 2), (2, 0))]), axis=1)
    return bool((np.unique(edges, axis=0, return_counts=True)[1] == 2).all())


if __name__ == "__main__":
    main()
