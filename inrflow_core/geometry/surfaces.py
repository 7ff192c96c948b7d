"""The surfaces of samples, for files of meshes."""

from __future__ import annotations

import atexit
import os

import numpy as np
from jaxtyping import Float

from inrflow_core.errors import UsageError
from inrflow_core.geometry.mesh import Mesh, Method
from inrflow_core.geometry.ply_reader import is_far
from inrflow_core.geometry.surface_process import SurfaceProcess

_process = SurfaceProcess()
atexit.register(_process.stop)
os.register_at_fork(after_in_child=_process.forget)


def surface_of(sample: Float[np.ndarray, "N C"] | Mesh, suffix: str, *, method: Method = "poisson") -> Mesh:
    """A mesh as it is, and the surface through a cloud, for a file with that suffix.

    Raises:
        UsageError: see `mesh.reconstruct_surface` and `check_near`.
        OutOfMemory: the process was killed.
    """
    if isinstance(sample, Mesh):
        return sample
    check_near(sample, suffix)
    return _process.reconstruct(sample, method)


def check_near(points: Float[np.ndarray, "N C"], suffix: str) -> None:
    """Raise UsageError for a cloud so far from the origin that the single precision of a format would merge its points."""
    if points.dtype == np.float64 and is_far(points[:, :3]):
        raise UsageError(
            f"the cloud lies too far from the origin for a `{suffix}` file, which would merge its points",
            hint="write a .ply, which has doubles, or move the cloud to the origin first",
        )
