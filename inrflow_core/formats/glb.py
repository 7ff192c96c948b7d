"""GLB (binary glTF): a mesh, or the surface of one cloud, by trimesh; the origin is in the asset's `extras`."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

import numpy as np
from jaxtyping import Float

from inrflow_core.geometry.color_scales import srgb_to_linear
from inrflow_core.geometry.mesh import Mesh, Method
from inrflow_core.geometry.surfaces import surface_of
from inrflow_core.storage import atomic_write

SUFFIXES = (".glb",)
HOLDS_MANY = False


def write(
    path: Path, sample: Float[np.ndarray, "N C"] | Mesh, *, origin: Mapping[str, str], surface: Method = "poisson"
) -> None:
    """A mesh, or the triangles of `mesh.reconstruct_surface` by the method `surface` through a cloud, with y up as in glTF.

    Colors become COLOR_0 in proportion to light, as glTF defines it: sRGB bytes there would be shown too light.

    Open3D writes GLB files that it reads back empty; trimesh does not.

    Raises:
        UsageError: the points have no surface, or lie so far from the origin that the format merges them.
    """
    import trimesh

    mesh = surface_of(sample, SUFFIXES[0], method=surface)
    body = trimesh.Trimesh(mesh.vertices, mesh.faces, vertex_normals=mesh.normals, process=False)
    if mesh.colors is not None:
        body.vertex_attributes["COLOR_0"] = srgb_to_linear(mesh.colors / 255).astype(np.float32)

    def tell(tree: dict) -> None:
        tree["asset"]["extras"] = dict(origin)
        for primitive in (one for table in tree["meshes"] for one in table["primitives"]):
            attributes = primitive["attributes"]
            if "_COLOR_0" in attributes:
                attributes["COLOR_0"] = attributes.pop("_COLOR_0")

    data = trimesh.Scene({"sample": body}).export(file_type="glb", tree_postprocessor=tell, include_normals=True)
    assert isinstance(data, bytes)
    with atomic_write.atomic_write(path, len(data)) as beside:
        beside.write_bytes(data)
