"""PNG: one image pixel for pixel, several as a grid, point clouds, meshes and proteins rendered. The origin is in text chunks."""

from __future__ import annotations

import io
from collections.abc import Mapping, Sequence
from pathlib import Path

import numpy as np
from PIL import Image
from PIL.PngImagePlugin import PngInfo

from inrflow_core.geometry.mesh import Mesh
from inrflow_core.proteins.structure import Structure
from inrflow_core.storage import atomic_write
from inrflow_core.visualization import image_grid, mesh_grid, point_rendering, protein_rendering

Samples = np.ndarray | Sequence[Structure] | Sequence[Mesh]
"""Images uint8 (B H W C), scenes uint8 (B V H W C), clouds float32 (B N C), structures of proteins, or meshes."""
SUFFIXES = (".png",)
HOLDS_MANY = True


def write(
    path: Path,
    samples: Samples,
    *,
    origin: Mapping[str, str],
    columns: int | None = None,
    size: int | None = None,
) -> None:
    """Write one image of all samples: `columns` of the grid, `size` in pixels of each rendered cloud, mesh or protein.

    A single image is written pixel for pixel.
    """
    save(path, render(samples, columns=columns, size=size), origin=origin)


def render(samples: Samples, *, columns: int | None = None, size: int | None = None) -> Image.Image:
    """The image that `write` saves."""
    if isinstance(samples, np.ndarray) and samples.dtype == np.uint8:
        draw = image_grid.scene_grid if samples.ndim == 5 else image_grid.image_grid
        return draw(samples, columns=columns)
    size = size or (512 if len(samples) == 1 else 256)
    if isinstance(samples, np.ndarray):
        return point_rendering.render_clouds(samples, columns=columns, size=size)
    meshes = [one for one in samples if isinstance(one, Mesh)]
    if meshes:
        return mesh_grid.render_meshes(meshes, columns=columns, size=size)
    chains = [one for one in samples if isinstance(one, Structure)]
    traces = [one.ca[one.ca_is_known] for one in chains]
    are_alike = len({one.sequence for one in chains}) == 1
    return protein_rendering.render_proteins(traces, columns=columns, size=size, is_one_view=are_alike)


def save(path: Path, image: Image.Image, *, origin: Mapping[str, str]) -> None:
    """Write an image as PNG with its origin inside."""
    texts = PngInfo()
    for key, value in origin.items():
        texts.add_text(key, value)
    data = io.BytesIO()
    image.save(data, format="PNG", pnginfo=texts)
    with atomic_write.atomic_write(path, data.tell()) as beside:
        beside.write_bytes(data.getbuffer())
