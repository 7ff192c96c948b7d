"""A folder of PNG files, `frames` or a name that ends in `.frames`: the frames of one clip, numbered from `00000.png`, each to the bit.

Every file has the origin in its text chunks. Programs of videos, and `inrflow prepare video` and `upsample`, read such folders.
"""

from __future__ import annotations

import secrets
import shutil
from collections.abc import Mapping
from pathlib import Path

import numpy as np
from jaxtyping import UInt8
from PIL.PngImagePlugin import PngInfo

from inrflow_core.errors import UsageError
from inrflow_core.storage import atomic_write
from inrflow_core.visualization import image_grid

SUFFIXES = (".frames",)
HOLDS_MANY = False
IS_FOLDER = True


def write(path: Path, frames: UInt8[np.ndarray, "T H W C"], *, origin: Mapping[str, str]) -> None:
    """Write the folder, whole or not at all.

    Raises:
        UsageError: the folder around it cannot be written to.
        OutOfMemory: the disk is full.
    """
    texts = PngInfo()
    for key, value in origin.items():
        texts.add_text(key, value)
    beside = path.with_name(f".{path.name}.{secrets.token_hex(4)}.partial")
    try:
        beside.mkdir()
        for number, frame in enumerate(frames):
            image_grid.to_image(frame).save(beside / f"{number:05d}.png", pnginfo=texts)
        beside.replace(path)
    except OSError as error:
        if error.errno in atomic_write.DISK_FULL:
            raise atomic_write.disk_full_error(path) from error
        if error.errno in atomic_write.NOT_ALLOWED:
            raise UsageError(f"`{path}` cannot be written: {error.strerror}", hint="name another place") from error
        raise
    finally:
        shutil.rmtree(beside, ignore_errors=True)
