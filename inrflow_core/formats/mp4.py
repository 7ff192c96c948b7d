"""MP4: the views of one scene, or the frames of one clip, as an H.264 video, by ffmpeg; the origin is in its comment.

ffmpeg comes with the package imageio-ffmpeg (the extra `video`).
"""

from __future__ import annotations

import errno
import os
import subprocess
from collections.abc import Mapping
from pathlib import Path

import numpy as np
from jaxtyping import UInt8

from inrflow_core.errors import MissingError
from inrflow_core.formats import _animation
from inrflow_core.storage import atomic_write

SUFFIXES = (".mp4",)
HOLDS_MANY = False
MOST_FPS = 240
QUALITY = 16
"""x264's constant rate factor: no loss that is seen."""
HINT = "`pip install inrflow[video]`, or write a `.webp` or `.gif` file"


def check() -> None:
    """Raise MissingError where ffmpeg is not installed; before samples are drawn."""
    _ffmpeg()


def write(path: Path, frames: UInt8[np.ndarray, "V H W C"], *, origin: Mapping[str, str], fps: float = 12) -> None:
    """Write frames, `fps` a second; an odd side repeats its last pixels, as H.264's colors have half the resolution.

    Raises:
        MissingError: ffmpeg is not installed, or cannot write H.264.
        UsageError: `fps` is not from 1 to 240.
        OutOfMemory: the disk is full.
    """
    _animation.check_fps(fps, MOST_FPS)
    rows, columns = frames.shape[1:3]
    colors = np.stack([np.asarray(image.convert("RGB")) for image in _animation.pillow_frames(frames)])
    colors = np.pad(colors, ((0, 0), (0, rows % 2), (0, columns % 2), (0, 0)), mode="edge")
    size = f"{colors.shape[2]}x{colors.shape[1]}"
    source = ["-f", "rawvideo", "-pix_fmt", "rgb24", "-video_size", size, "-framerate", f"{fps:g}", "-i", "pipe:0"]
    coding = ["-c:v", "libx264", "-crf", str(QUALITY), "-pix_fmt", "yuv420p", "-threads", "1"]
    # Without the versions of ffmpeg's parts and the date, equal samples are equal bytes.
    exact = ["-fflags", "+bitexact", "-flags:v", "+bitexact", "-metadata", f"comment={_animation.origin_text(origin)}"]
    with atomic_write.atomic_write(path) as beside:
        command = [_ffmpeg(), "-y", "-loglevel", "error", *source, *coding, *exact, "-f", "mp4", f"file:{beside}"]
        done = subprocess.run(command, input=colors.tobytes(), capture_output=True, check=False)
        if done.returncode:
            message = done.stderr.decode(errors="replace").strip()
            if os.strerror(errno.ENOSPC) in message:
                raise OSError(errno.ENOSPC, message)
            reason = message.splitlines()[-1] if message else f"exit code {done.returncode}"
            raise MissingError(f"ffmpeg cannot write `{path}`: {reason}", hint=HINT)


def _ffmpeg() -> str:
    """The path of the program."""
    try:
        import imageio_ffmpeg

        return imageio_ffmpeg.get_ffmpeg_exe()
    except (ImportError, RuntimeError) as error:
        raise MissingError("the package imageio-ffmpeg, which writes videos, is not installed", hint=HINT) from error
