"""GLB (binary glTF): a surface mesh of one cloud, by trimesh; the origin is in the asset's `extras`."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

import numpy as np
from jaxtyping import Float

from inrflow_core.geometry.mesh import Method, reconstruct_surface
from inrflow_core.storage import atomic_write

SUFFIXES = (".glb",)
HOLDS_MANY = False


def write(
    path: Path, points: Float[np.ndarray, "N C"], *, origin: Mapping[str, str], surface: Method = "poisson"
) -> None:
    """The triangles of `mesh.reconstruct_surface` by the method `surface`, with y up as in glTF.

    Open3D writes GLB files that it reads back empty; trimesh does not.

    Raises:
        UsageError: the points have no surface.
    """
    import trimesh

    mesh = reconstruct_surface(points, method=surface)
    body = trimesh.Trimesh(mesh.vertices, mesh.faces, vertex_colors=mesh.colors, process=False)

    def tell(tree: dict) -> None:
        tree["asset"]["extras"] = dict(origin)

    data = trimesh.Scene({"sample": body}).export(file_type="glb", tree_postprocessor=tell, include_normals=True)
    assert isinstance(data, bytes)
    with atomic_write.atomic_write(path, len(data)) as beside:
        beside.write_bytes(data)
