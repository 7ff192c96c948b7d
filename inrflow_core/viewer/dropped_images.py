"""Images that are dropped on the page, in memory; the project's one reader decodes them.

A model reads its input from a file: a temporary folder holds that file while it is read.
"""

from __future__ import annotations

import hashlib
import io
import tempfile
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from jaxtyping import UInt8
from PIL import Image

from inrflow_core.errors import MissingError, UnreadableItemError, UsageError
from inrflow_core.viewer.byte_cache import ByteCache
from inrflow_core.visualization import image_io

MOST_BYTES = 16 << 20
"""Of one file."""
MOST_PIXELS = 64_000_000
"""Of one image: a small file may hold many."""
MEMORY = 256 << 20
"""Bytes of all images; those that were not used for the longest time leave first."""


@dataclass(frozen=True)
class DroppedImage:
    """A file, and what the page shows of it."""

    name: str
    """The beginning of its digest, by which the page names it."""
    content: bytes
    square: UInt8[np.ndarray, "R R C"]
    """Its middle square at its own resolution, or at the largest that the page shows; gray or RGB."""


class DroppedImages:
    """The images of a page, by name; at most `max_side` pixels along a side are shown. Any thread may use it."""

    def __init__(self, max_side: int) -> None:
        self.max_side = max_side
        self._images: ByteCache[DroppedImage] = ByteCache(MEMORY, lambda one: len(one.content) + one.square.nbytes)
        self._permanent: dict[str, DroppedImage] = {}
        self._lock, self._decoding = threading.Lock(), threading.Lock()

    def add(self, content: bytes, *, is_permanent: bool = False) -> DroppedImage:
        """Decode a file. One that `is_permanent` never leaves, and is beside the `MEMORY` of the others.

        Raises:
            UsageError: it is larger than `MOST_BYTES` or `MOST_PIXELS`, or `image_io.decode_image` cannot read it.
        """
        check_size(len(content))
        with self._decoding:  # one at a time takes memory
            try:
                square = self._square(image_io.decode_image(content, None, most_pixels=MOST_PIXELS))
            except UnreadableItemError as error:
                raise UsageError(f"the file cannot be read as an image: {error.reason}", hint=image_io.HINT) from error
        dropped = DroppedImage(hashlib.sha256(content).hexdigest()[:16], content, square)
        with self._lock:
            if is_permanent:
                self._permanent[dropped.name] = dropped
            else:
                self._images.add(dropped.name, dropped)
        return dropped

    def has(self, name: str) -> bool:
        """Whether the image of that name is here."""
        with self._lock:
            return name in self._permanent or name in self._images

    def get(self, name: str) -> DroppedImage:
        """The image of that name; raises MissingError once it has left."""
        with self._lock:
            dropped = self._permanent.get(name) or self._images.get(name)
        if dropped is None:
            raise MissingError(
                f"the image `{name}` is not here any longer",
                hint="drop it on the page again, or name it with `inrflow view --image FILE`",
            )
        return dropped

    @contextmanager
    def file(self, name: str) -> Iterator[Path]:
        """The image's file, in a temporary folder, while the context is open; raises MissingError as `get`."""
        content = self.get(name).content
        with tempfile.TemporaryDirectory(prefix="inrflow-view-") as folder:
            path = Path(folder) / "image.png"  # the content decides the format, not the name
            path.write_bytes(content)
            yield path

    def _square(self, image: Image.Image) -> UInt8[np.ndarray, "R R C"]:
        side = min(image.size)
        left, top = ((length - side) // 2 for length in image.size)
        square = image.crop((left, top, left + side, top + side))
        if side > self.max_side:
            square = square.resize((self.max_side, self.max_side), Image.Resampling.BICUBIC, reducing_gap=3.0)
        return np.array(square).reshape(square.height, square.width, -1)


def check_size(num_bytes: int) -> None:
    """Raise UsageError for a file of more bytes than the page takes."""
    if num_bytes > MOST_BYTES:
        raise UsageError(f"a file of {num_bytes / 2**20:,.1f} MiB", hint=f"give at most {MOST_BYTES >> 20} MiB")


def enlarged(
    pixels: UInt8[np.ndarray, "R K C"],
    size: tuple[int, int],
    window: tuple[float, float, float, float],
    *,
    is_sharp: bool,
) -> UInt8[np.ndarray, "S T C"]:
    """A window at a size (rows, columns) by bicubic interpolation; `is_sharp` repeats pixels where they are enlarged."""
    top, left, bottom, right = window
    rows, columns = pixels.shape[:2]
    box = (left * columns, top * rows, right * columns, bottom * rows)
    image = Image.fromarray(pixels[..., 0] if pixels.shape[2] == 1 else pixels)
    is_larger = size[1] >= box[2] - box[0] and size[0] >= box[3] - box[1]
    method = Image.Resampling.NEAREST if is_sharp and is_larger else Image.Resampling.BICUBIC
    return np.asarray(image.resize((size[1], size[0]), method, box=box)).reshape(*size, -1)


def png_bytes(pixels: UInt8[np.ndarray, "H W C"]) -> bytes:
    """Pixels as a PNG file."""
    file = io.BytesIO()
    Image.fromarray(pixels[..., 0] if pixels.shape[2] == 1 else pixels).save(file, "PNG", compress_level=1)
    return file.getvalue()
