"""Read image files: the one reader of every command.

Rules, the same in `prepare`, `upsample`, `sample --image`, `eval` and for rendered views:

- The content decides the format, not the name: PNG, JPEG, WebP, BMP, GIF, TIFF and PPM (PBM, PGM). All other formats
  are refused; none of those that are read can start another program, as EPS would.
- Of several frames or pages the first is read.
- Photographs are rotated as their EXIF orientation says (the benchmarks of `prepare` leave that out).
- Transparent pixels show white, or another background that `prepare image-folder` names, whether by an alpha channel, a palette or a PNG's transparent color.
- 16-bit gray becomes round(v * 255 / 65535), from PNG, PGM and TIFF alike, integer TIFF of 32 bits included, whose values
  must be from 0 to 65,535; 12-bit gray becomes round(v * 255 / 4095). A TIFF's white may be 0. Of 16-bit color the
  upper 8 bits are read, of its transparent color too.
- Color profiles and gamma are left out: values are read as they are stored, as the benchmarks' readers do.
- CMYK, YCbCr and 1-bit images are converted. Floating-point images do not state their range and are refused.

A file that cannot be read is an IntegrityError (exit code 4: "not what its header says") in every command that got its
name; `prepare` skips it as an item, and records the reason.
"""

from __future__ import annotations

import io
import struct
import warnings
import zlib
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any, Literal

import numpy as np
from jaxtyping import UInt8
from PIL import ExifTags, Image, ImageOps, ImageSequence, TiffImagePlugin

from inrflow_core.errors import IntegrityError, MissingError, UnreadableItemError
from inrflow_core.storage.plain_file import did_you_mean_path, read_plain_file

Mode = Literal["L", "RGB", "RGBA"]
"""Gray, color, or color with its alpha."""

Reduction = Literal["adm", "bilinear", "blocks"]
"""How an image becomes a small square: `center_crop`, linear interpolation without antialiasing, as INRCT and Functa do, or means of
blocks, as `prepare mnist --resolution` makes."""
BILINEAR_FROM, BLOCKS_FROM = 128, 28
"""Side of the squares that `bilinear` and `blocks` begin with."""
BACKGROUND = "white"
"""What transparent pixels show."""
FORMATS = ("JPEG", "PNG", "WEBP", "BMP", "GIF", "TIFF", "PPM")
"""Pillow's names of the formats that are read."""
MAX_ASPECT = 4
"""Largest ratio of the sides; longer images are cropped to it before they are resized."""
SUFFIXES = (
    *(".jpg", ".jpeg", ".jpe", ".jfif", ".jif", ".mpo", ".png", ".apng", ".webp", ".bmp", ".gif", ".tif", ".tiff"),
    *(".ppm", ".pgm", ".pbm", ".pnm"),
)
"""Endings of the files that are read from folders."""
FOREIGN_SUFFIXES = (
    *(".heic", ".heif", ".hif", ".avif", ".jp2", ".j2k", ".jpx", ".jxl", ".jxr", ".tga", ".psd", ".exr", ".pfm"),
    *(".pam", ".pcx", ".dds", ".qoi", ".dng", ".cr2", ".cr3", ".nef", ".arw", ".raf", ".orf", ".rw2"),
)
"""Endings of images in formats that are not read: named as unreadable rather than left out of a folder."""
SAME_COLOR = 16
"""Levels by which the channels of a plain background differ, as in a compressed image."""
MAX_BYTES = 1 << 30
"""Bytes of the largest image file."""
HINT = "give a whole PNG, JPEG, WebP, BMP, GIF, TIFF or PPM file"

DAMAGED = (
    *(OSError, SyntaxError, ValueError, EOFError, LookupError, TypeError, OverflowError, RuntimeError),
    *(struct.error, zlib.error, Image.DecompressionBombError),
)
"""What Pillow raises on damaged content."""
_SIGNATURES = {
    b"\x89PNG\r\n\x1a\n": "PNG",
    b"\xff\xd8\xff": "JPEG",
    b"BM": "BMP",
    b"GIF8": "GIF",
    b"II*\0": "TIFF",
    b"MM\0*": "TIFF",
}
_GRAY = ("1", "L", "LA", "La", "I", "F")
_READ_MODES = (*_GRAY, "P", "PA", "RGB", "RGBA", "RGBa", "RGBX", "CMYK", "YCbCr")


def is_image_name(name: str) -> bool:
    """Whether a file's name says that it is an image, of a format that is read or of one that is not."""
    return name.lower().endswith((*SUFFIXES, *FOREIGN_SUFFIXES))


def read_image(path: Path, mode: Mode | None = "RGB", *, background: str = BACKGROUND) -> Image.Image:
    """The image of a file as 8-bit `L`, `RGB` on white, or `RGBA`; `None` keeps gray gray and makes all else RGB.

    Another `background` is a color by name or as `#ff8800`.

    Raises:
        MissingError: there is no such file.
        IntegrityError: it is not an image that is read, or is damaged; names the file and the reason.
    """
    content = read_plain_file(path, MAX_BYTES, hint=did_you_mean_path(path, HINT))
    try:
        return decode_image(content, mode, background=background)
    except UnreadableItemError as error:
        raise IntegrityError(f"`{path}` cannot be read as an image: {error.reason}", hint=HINT) from error


def decode_image(
    content: bytes,
    mode: Mode | None = "RGB",
    *,
    is_upright: bool = True,
    background: str = BACKGROUND,
    most_pixels: int | None = None,
) -> Image.Image:
    """The image of an encoded file; see `read_image`. `is_upright` applies the EXIF orientation.

    `most_pixels` refuses larger images by the size in their header, before their pixels take memory.

    Raises:
        UnreadableItemError: it is empty, damaged, of a format that is not read, too large, or takes too much memory.
    """
    if not content:
        raise UnreadableItemError("it is empty")
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # Pillow warns of odd metadata; the pixels are what counts
            with Image.open(io.BytesIO(content), formats=FORMATS) as image:
                if most_pixels is not None and image.width * image.height > most_pixels:
                    size = f"{image.width:,} x {image.height:,} pixels"
                    raise UnreadableItemError(
                        f"it has {size}, more than {most_pixels / 1e6:g} megapixels: make it smaller"
                    )
                transparent = _transparent_value(image)
                image.load()
                if transparent is not None:
                    image.info["transparency"] = transparent
                is_turned = is_upright and image.getexif().get(ExifTags.Base.Orientation, 1) != 1
                tags = getattr(image, "tag_v2", {})
                if tags.get(TiffImagePlugin.BITSPERSAMPLE) == (8,) and not _is_unsigned(tags):
                    raise ValueError("its values are signed, of 8 bits; save it with values from 0 to 255")
                shallow = _to_8_bit(image, tags) if image.mode.startswith("I") else image
                return _to_mode(ImageOps.exif_transpose(shallow) if is_turned else shallow, mode, background)
    except Image.UnidentifiedImageError as error:
        kind = next((name for start, name in _SIGNATURES.items() if content.startswith(start)), None)
        allowed = ", ".join(FORMATS[:-1]) + f" or {FORMATS[-1]}"
        reason = f"it cannot be decoded: it is a damaged {kind} file" if kind else f"its content is not {allowed}"
        reason += ", or its layout (bits, samples, byte order) is not one that is read" if kind == "TIFF" else ""
        raise UnreadableItemError(reason) from error
    except DAMAGED as error:
        raise UnreadableItemError(f"it cannot be decoded: {str(error).partition(chr(10))[0]}") from error
    except MemoryError as error:
        raise UnreadableItemError("it takes more memory to decode than there is") from error


def decode_animation(content: bytes) -> Iterator[tuple[Image.Image, float]]:
    """The frames of a GIF or WebP file, RGB on white, and how many seconds each is shown, as the file states it.

    Raises:
        UnreadableItemError: it is empty, damaged, of another format, or takes too much memory.
    """
    if not content:
        raise UnreadableItemError("it is empty")
    try:
        with Image.open(io.BytesIO(content), formats=("GIF", "WEBP")) as image:
            for frame in ImageSequence.Iterator(image):
                frame.load()  # sets the duration of a WebP frame
                clear = frame.convert("RGBA")
                opaque = Image.alpha_composite(Image.new("RGBA", clear.size, "white"), clear)
                yield opaque.convert("RGB"), float(frame.info.get("duration") or 0) / 1000
    except (*DAMAGED, MemoryError) as error:
        raise UnreadableItemError(f"it cannot be decoded: {str(error).partition(chr(10))[0]}") from error


def read_square_image(path: Path, side: int) -> UInt8[np.ndarray, "R R 3"]:
    """An image file as a square of `side` pixels, with white beside a long one.

    Raises:
        MissingError, IntegrityError: as `read_image`.
    """
    if not path.exists():
        hint = did_you_mean_path(path, "name an image, such as a .png or .jpg file")
        raise MissingError(f"the photo `{path}` does not exist", hint=hint)
    whole = read_image(path)
    width, height = (max(1, round(side * length / max(whole.size))) for length in whole.size)
    small = whole.resize((width, height), Image.Resampling.BICUBIC, reducing_gap=3.0)
    square = Image.new("RGB", (side, side), "white")
    square.paste(small, ((side - width) // 2, (side - height) // 2))
    return np.array(square)


def differing_share(pixels: UInt8[np.ndarray, "H W 3"]) -> float:
    """The share of pixels that differ from the most frequent color by more than `SAME_COLOR` levels in a channel, from 0 to below 1."""
    packed = (pixels.reshape(-1, 3).astype(np.int64) * (1 << 16, 1 << 8, 1)).sum(1)
    colors, counts = np.unique(packed, return_counts=True)
    background = np.array([colors[counts.argmax()] >> shift & 255 for shift in (16, 8, 0)])
    return float((np.abs(pixels.astype(np.int64) - background).max(-1) > SAME_COLOR).mean())


def _transparent_value(image: Image.Image) -> int | tuple[int, ...] | None:
    """The transparent value of a PNG in the 8-bit scale that Pillow gives its pixels; None leaves it as Pillow has it."""
    key = image.info.get("transparency")
    layout = str(image.tile[0][3]) if image.tile else ""
    if isinstance(key, tuple) and ";16" in layout:
        return tuple(value >> 8 for value in key)
    factor = {"1": 255, "L;2": 85, "L;4": 17}.get(layout)
    if not isinstance(key, int) or factor is None or image.mode == "P":
        return None
    return min(key * factor, 255)


def _to_mode(image: Image.Image, mode: Mode | None, background: str) -> Image.Image:
    if image.mode == "F":
        raise ValueError("it holds floating-point values, whose range no file states; save it with 8 or 16 bits")
    if image.mode not in _READ_MODES:
        raise ValueError(f"its mode {image.mode} is not read; save it as RGB")
    if image.mode == "1" and "transparency" in image.info:
        image = _with_info(image.convert("L"), image)
    target = mode or ("L" if image.mode in _GRAY else "RGB")
    if image.has_transparency_data and target != "RGBA":
        clear = image.convert("RGBA")
        image = Image.alpha_composite(Image.new("RGBA", clear.size, background), clear)
    return image if image.mode == target else image.convert(target)


def _to_8_bit(image: Image.Image, tags: Mapping[int, Any]) -> Image.Image:
    """Gray of 12 or 16 bits, or of 32 bits whose values fit into 16, as 8 bits; its transparent value as an alpha channel.

    `tags` are those of a TIFF file: Pillow neither scales 12 bits nor inverts deep gray in which 0 is white.
    """
    values = np.asarray(image)
    if tags and values.dtype == np.int32 and _is_unsigned(tags):
        values = values.view(np.uint32)
    if values.size and not 0 <= values.min() <= values.max() <= 65535:
        raise ValueError(f"its values are from {values.min():,} to {values.max():,}, not from 0 to 65,535")
    full = 4095 if tags.get(TiffImagePlugin.BITSPERSAMPLE) == (12,) else 65535
    scaled = ((values.astype(np.uint32) * 255 + full // 2) // full).astype(np.uint8)
    gray = Image.fromarray(255 - scaled if tags.get(TiffImagePlugin.PHOTOMETRIC_INTERPRETATION) == 0 else scaled)
    key = image.info.get("transparency")
    if isinstance(key, int):
        gray.putalpha(Image.fromarray(np.where(values == key, 0, 255).astype(np.uint8)))
    return gray


def _is_unsigned(tags: Mapping[int, Any]) -> bool:
    return tags.get(TiffImagePlugin.SAMPLEFORMAT, (1,)) == (1,)


def _with_info(image: Image.Image, source: Image.Image) -> Image.Image:
    image.info["transparency"] = source.info["transparency"]
    return image


def center_crop(image: Image.Image, resolution: int) -> UInt8[np.ndarray, "R R C"]:
    """The middle square at R x R, uint8 (R R C), as ADM (Dhariwal and Nichol 2021) makes ImageNet's.

    The image is halved with a box filter while its shorter side is at least 2 R, resized to a shorter side of R with a
    bicubic filter, and cropped. An image longer than MAX_ASPECT times its width is cropped to the middle first: a line
    of 20,000 x 2 pixels would otherwise take gigabytes.
    """
    width, height = (min(length, MAX_ASPECT * min(image.size)) for length in image.size)
    if (width, height) != image.size:
        left, top = (image.width - width) // 2, (image.height - height) // 2
        image = image.crop((left, top, left + width, top + height))
    while min(image.size) >= 2 * resolution:
        image = image.resize((image.width // 2, image.height // 2), Image.Resampling.BOX)
    scale = resolution / min(image.size)
    image = image.resize((round(image.width * scale), round(image.height * scale)), Image.Resampling.BICUBIC)
    left, top = (image.width - resolution) // 2, (image.height - resolution) // 2
    cut = np.array(image.crop((left, top, left + resolution, top + resolution)))
    return cut.reshape(resolution, resolution, -1)


def reduce(image: Image.Image, resolution: int, reduction: Reduction = "adm") -> UInt8[np.ndarray, "R R C"]:
    """The middle square at R x R: by `center_crop`, of `bilinear` by `interpolate` of the square at 128 pixels, or of `blocks`
    by `block_means` of that at 28, MNIST's.
    """
    if reduction == "adm":
        return center_crop(image, resolution)
    if reduction == "blocks":
        channels = np.moveaxis(center_crop(image, BLOCKS_FROM), -1, 0)
        return np.moveaxis(block_means(channels, resolution), 0, -1)
    return interpolate(center_crop(image, BILINEAR_FROM), resolution)


def interpolate(pixels: UInt8[np.ndarray, "H W C"], resolution: int) -> UInt8[np.ndarray, "R R C"]:
    """An image at R x R by linear interpolation of the four nearest pixels, without antialiasing."""
    values = pixels.astype(np.float64)
    for axis in (0, 1):
        side = values.shape[axis]
        position = ((np.arange(resolution) + 0.5) * side / resolution - 0.5).clip(0, side - 1)
        low = position.astype(np.int64)
        weight = (position - low).reshape((-1, 1, 1) if axis == 0 else (1, -1, 1))
        lower, upper = (values.take(index, axis) for index in (low, np.minimum(low + 1, side - 1)))
        values = lower + weight * (upper - lower)
    return values.round().astype(np.uint8)


def block_means(images: UInt8[np.ndarray, "N S S"], resolution: int) -> UInt8[np.ndarray, "N R R"]:
    """Square images of another size: means of blocks after a black margin that makes their side a multiple of R."""
    side = images.shape[1]
    if resolution == side:
        return images
    factor = -(-side // resolution)
    margin = factor * resolution - side
    before = margin // 2
    padded = np.pad(images, ((0, 0), (before, margin - before), (before, margin - before)))
    blocks = padded.reshape(len(images), resolution, factor, resolution, factor)
    return (blocks.sum((2, 4), dtype=np.uint32) / factor**2).round().astype(np.uint8)
