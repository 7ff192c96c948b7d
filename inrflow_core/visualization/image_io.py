"""Read image files."""

from __future__ import annotations

from pathlib import Path

import numpy as np
from jaxtyping import UInt8
from PIL import Image, ImageOps

from inrflow_core.errors import MissingError, UsageError


def read_square_image(path: Path, side: int) -> UInt8[np.ndarray, "R R 3"]:
    """A picture file as a square of `side` pixels: on white where it is transparent, with white beside a long one.

    Photographs are turned as their EXIF says.

    Raises:
        MissingError: there is no such file.
        UsageError: it is no picture.
    """
    if not path.is_file():
        raise MissingError(f"the photo `{path}` does not exist", hint="name a picture, such as a .png or .jpg file")
    try:
        with Image.open(path) as opened:
            whole = converted(ImageOps.exif_transpose(opened), "RGB")
    except (OSError, ValueError, SyntaxError, Image.DecompressionBombError) as error:
        raise UsageError(f"`{path}` is no picture that can be read", hint="give a whole .png or .jpg file") from error
    width, height = (max(1, round(side * length / max(whole.size))) for length in whole.size)
    small = whole.resize((width, height), Image.Resampling.BICUBIC, reducing_gap=3.0)
    square = Image.new("RGB", (side, side), "white")
    square.paste(small, ((side - width) // 2, (side - height) // 2))
    return np.array(square)


def converted(image: Image.Image, mode: str) -> Image.Image:
    """A picture of any kind as grey or RGB; what is transparent shows white."""
    if image.mode == mode:
        return image
    if image.mode.startswith("I;16"):  # Pillow would cut 16 bits off at 255
        deep = np.asarray(image).astype(np.uint32)
        image = Image.fromarray(((deep * 255 + 32767) // 65535).astype(np.uint8))
    if image.has_transparency_data:
        clear = image.convert("RGBA")
        image = Image.alpha_composite(Image.new("RGBA", clear.size, "white"), clear)
    return image.convert(mode)
