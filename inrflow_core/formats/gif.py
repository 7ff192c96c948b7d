"""GIF: the views of one scene, or the frames of one clip, as an animation of 256 colors a frame; the origin is in its comment.

Equal frames in a row become one that is shown for longer.
"""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

import numpy as np
from jaxtyping import UInt8
from PIL import Image

from inrflow_core.formats import _animation

SUFFIXES = (".gif",)
HOLDS_MANY = False
MOST_FPS = _animation.MOST_FPS


def write(path: Path, frames: UInt8[np.ndarray, "V H W C"], *, origin: Mapping[str, str], fps: float = 12) -> None:
    """Write frames, `fps` a second, repeated for ever; a frame of more than 256 colors is dithered.

    Raises:
        UsageError: `fps` is not from 1 to 50.
    """
    images = [
        image.convert("RGB").quantize(256, method=Image.Quantize.MEDIANCUT)
        for image in _animation.pillow_frames(frames)
    ]
    text = _animation.origin_text(origin).encode()
    _animation.save(path, images, kind="GIF", fps=fps, comment=text, optimize=False)
