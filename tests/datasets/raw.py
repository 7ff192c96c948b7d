"""Raw data sets, small, in the layouts of their authors."""

from __future__ import annotations

import io
import tarfile
import zipfile
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image


def image(number: int, size: tuple[int, int] = (12, 10), mode: str = "RGB") -> Image.Image:
    """An image of its own for every number."""
    channels = {"L": 1, "RGB": 3, "RGBA": 4, "CMYK": 4}[mode]
    noise = np.random.default_rng(number).integers(0, 256, (3, 4, channels), dtype=np.uint8)
    return Image.fromarray(noise.squeeze(), mode).resize(size, Image.Resampling.BICUBIC)


def encoded(number: int, kind: str = "PNG", **options) -> bytes:
    """The bytes of such an image."""
    file = io.BytesIO()
    image(number, **options).save(file, kind)
    return file.getvalue()


def folder(root: Path, files: Iterable[str]) -> Path:
    """A folder of encoded images, numbered in the order of `files`."""
    for number, name in enumerate(files):
        path = root / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(encoded(number))
    return root


def zipped(path: Path, files: Mapping[str, bytes]) -> Path:
    """A zip, stored as StyleGAN stores it."""
    path.parent.mkdir(parents=True, exist_ok=True)
    with zipfile.ZipFile(path, "w") as archive:
        for name, content in files.items():
            archive.writestr(name, content)
    return path


def tarred(path: Path, files: Mapping[str, bytes], mode: Any = "w") -> Path:
    """A tar, packed or not by its mode."""
    path.parent.mkdir(parents=True, exist_ok=True)
    with tarfile.open(path, mode) as archive:
        for name, content in files.items():
            member = tarfile.TarInfo(name)
            member.size = len(content)
            archive.addfile(member, io.BytesIO(content))
    return path


def tar_bytes(files: Mapping[str, bytes]) -> bytes:
    """The bytes of an uncompressed tar."""
    file = io.BytesIO()
    with tarfile.open(fileobj=file, mode="w") as archive:
        for name, content in files.items():
            member = tarfile.TarInfo(name)
            member.size = len(content)
            archive.addfile(member, io.BytesIO(content))
    return file.getvalue()
