"""STL, binary: the triangles of a mesh, or of the surface of one cloud, without colors; as much of the origin as fits the header."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

import numpy as np
from jaxtyping import Float

from inrflow_core.geometry.mesh import Mesh, Method
from inrflow_core.geometry.surfaces import surface_of
from inrflow_core.mesh_files.stl import HEADER, RECORD
from inrflow_core.storage import atomic_write

SUFFIXES = (".stl",)
HOLDS_MANY = False


def write(
    path: Path, sample: Float[np.ndarray, "N C"] | Mesh, *, origin: Mapping[str, str], surface: Method = "poisson"
) -> None:
    """A mesh, or the triangles of `mesh.reconstruct_surface` by the method `surface` through a cloud, with normals of the faces.

    Raises:
        UsageError: the points have no surface, or lie so far from the origin that the format merges them.
    """
    mesh = surface_of(sample, SUFFIXES[0], method=surface)
    rows = np.zeros(len(mesh.faces), dtype=RECORD)
    corners = mesh.vertices[mesh.faces]
    normals = np.cross(corners[:, 1] - corners[:, 0], corners[:, 2] - corners[:, 0])
    lengths = np.linalg.norm(normals, axis=1, keepdims=True)
    rows["corners"], rows["normal"] = corners, normals / np.where(lengths > 0, lengths, 1)
    # "solid" at the start would announce a text, and "COLOR=" a color.
    words = " ".join(f"{key} {' '.join(value.split())}" for key, value in origin.items()).replace("=", " ")
    header = f"binary; {words}".encode("ascii", "replace")[: HEADER - 4].ljust(HEADER - 4)
    data = header + np.uint32(len(rows)).tobytes() + rows.tobytes()
    with atomic_write.atomic_write(path, len(data)) as beside:
        beside.write_bytes(data)
