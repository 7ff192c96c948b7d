"""OBJ: a mesh, or the surface of one cloud, with vertex colors if it has some; the origin is in comments."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

import numpy as np
from jaxtyping import Float

from inrflow_core.geometry.mesh import Mesh, Method
from inrflow_core.geometry.surfaces import surface_of
from inrflow_core.storage import atomic_write

SUFFIXES = (".obj",)
HOLDS_MANY = False


def write(
    path: Path, sample: Float[np.ndarray, "N C"] | Mesh, *, origin: Mapping[str, str], surface: Method = "poisson"
) -> None:
    """A mesh, or the triangles of `mesh.reconstruct_surface` by the method `surface` through a cloud, six significant digits.

    Raises:
        UsageError: the points have no surface, or lie so far from the origin that the format merges them.
    """
    mesh = surface_of(sample, SUFFIXES[0], method=surface)
    rows = mesh.vertices if mesh.colors is None else np.concatenate([mesh.vertices, mesh.colors / 255], axis=1)
    form = "v" + " %.6g" * rows.shape[1]
    lines = [f"# {key}: {' '.join(value.split())}" for key, value in origin.items()]
    lines += [form % tuple(row) for row in rows.tolist()]
    if mesh.normals is None:
        lines += [f"f {a} {b} {c}" for a, b, c in (mesh.faces + 1).tolist()]
    else:
        lines += [f"vn {x:.6g} {y:.6g} {z:.6g}" for x, y, z in mesh.normals.tolist()]
        lines += [f"f {a}//{a} {b}//{b} {c}//{c}" for a, b, c in (mesh.faces + 1).tolist()]
    with atomic_write.atomic_write(path) as beside:
        beside.write_text("\n".join(lines) + "\n", encoding="utf-8")
