"""Animated images, by Pillow: what the formats `gif` and `webp` share. They repeat for ever."""

from __future__ import annotations

import io
import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
from jaxtyping import UInt8
from PIL import Image

from inrflow_core.errors import UsageError
from inrflow_core.storage import atomic_write

TICKS = {"GIF": 10, "WEBP": 1}
"""Milliseconds that durations are multiples of, by Pillow's format."""
MOST_FPS = 50
"""Frames per second of GIF and WebP: programs show animations with shorter frames slowly."""


def pillow_frames(frames: UInt8[np.ndarray, "V H W C"]) -> list[Image.Image]:
    """The frames as images: gray (1 channel), RGB or RGBA."""
    return [Image.fromarray(frame[..., 0] if frame.shape[-1] == 1 else frame) for frame in frames]


def check_fps(fps: float, most: int = MOST_FPS) -> None:
    """Raise UsageError for frames per second out of range."""
    if not 1 <= fps <= most:
        raise UsageError(f"{fps:g} frames per second", hint=f"give from 1 to {most}")


def durations(count: int, fps: float, tick: int) -> list[int]:
    """Milliseconds that each of `count` frames is shown, multiples of `tick`: the end of every frame is rounded, so that errors do not add up."""
    ends = np.floor(np.arange(count + 1) * 1000 / (fps * tick) + 0.5)
    return (tick * np.diff(ends)).astype(int).tolist()


def save(path: Path, images: list[Image.Image], *, kind: str, fps: float, **settings: Any) -> None:
    """Write images as frames of a file of Pillow's format `kind`.

    Raises:
        UsageError: `fps` is out of range, or the folder cannot be written to.
        OutOfMemory: the disk is full.
    """
    check_fps(fps)
    data = io.BytesIO()
    shown = durations(len(images), fps, TICKS[kind])
    images[0].save(data, kind, save_all=True, append_images=images[1:], duration=shown, loop=0, **settings)
    with atomic_write.atomic_write(path, data.tell()) as beside:
        beside.write_bytes(data.getbuffer())


def origin_text(origin: Mapping[str, str]) -> str:
    """The origin as JSON, for a file's comment."""
    return json.dumps(dict(origin), sort_keys=True)
