"""WebP: the views of one scene, or the frames of one clip, as an animation without loss; the origin is in its EXIF description.

Equal frames in a row may become one that is shown for longer.
"""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

import numpy as np
from jaxtyping import UInt8
from PIL import ExifTags, Image

from inrflow_core.formats import _animation

SUFFIXES = (".webp",)
HOLDS_MANY = False
MOST_FPS = _animation.MOST_FPS


def write(path: Path, frames: UInt8[np.ndarray, "V H W C"], *, origin: Mapping[str, str], fps: float = 12) -> None:
    """Write frames, `fps` a second, repeated for ever, each to the bit.

    Raises:
        UsageError: `fps` is not from 1 to 50.
    """
    exif = Image.Exif()
    exif[ExifTags.Base.ImageDescription] = _animation.origin_text(origin)
    images = _animation.pillow_frames(frames)
    _animation.save(path, images, kind="WEBP", fps=fps, lossless=True, exact=True, exif=exif)
