"""Resizing and quantization of images for a network; part of a metric's protocol.

Every resizer takes uint8 images and returns float32 images in [0, 255], channels first.
"""

from __future__ import annotations

import numpy as np
import torch
import torch.nn.functional as F
from jaxtyping import Float32, UInt8
from PIL import Image
from torch import Tensor


def no_resize(images: UInt8[np.ndarray, "B H W C"]) -> Float32[Tensor, "B C H W"]:
    """No resizing."""
    return torch.from_numpy(images.astype(np.float32)).movedim(-1, 1).contiguous()


def tensorflow_bilinear(images: UInt8[np.ndarray, "B H W C"], size: int) -> Float32[Tensor, "B C size size"]:
    """TensorFlow 1's ResizeBilinear: row i reads position i H / size (no half-pixel shift), without antialiasing.

    The result is not rounded. As in the 2015 Inception graph, torch-fidelity and NVIDIA's TorchScript files.
    """
    pixels = no_resize(images)
    for axis in (3, 2):
        low, high, fraction = _neighbors(pixels.shape[axis], size)
        if axis == 2:
            fraction = fraction[:, None]
        first, second = pixels.index_select(axis, low), pixels.index_select(axis, high)
        pixels = first + (second - first) * fraction
    return pixels


def _neighbors(length: int, size: int) -> tuple[Tensor, Tensor, Tensor]:
    """Indices before and after each new pixel, and its fraction of the way; in float32, as in TensorFlow."""
    position = torch.arange(size, dtype=torch.float32) * torch.tensor(length / size, dtype=torch.float32)
    low = position.long().clamp(max=length - 1)
    return low, (low + 1).clamp(max=length - 1), position - low


def clean_bicubic(images: UInt8[np.ndarray, "B H W C"], size: int) -> Float32[Tensor, "B C size size"]:
    """Pillow's bicubic filter, which antialiases, on every channel as float32; clipped to [0, 255], not quantized.

    Parmar, Zhang and Zhu 2022, arXiv:2104.11222 (clean-fid).
    """
    count, _, _, channels = images.shape
    out = np.empty((count, channels, size, size), dtype=np.float32)
    for image, planes in zip(images, out, strict=True):
        for channel in range(channels):
            plane = Image.fromarray(image[:, :, channel].astype(np.float32))
            planes[channel] = np.asarray(plane.resize((size, size), Image.Resampling.BICUBIC))
    return torch.from_numpy(out.clip(0, 255))


def torch_bicubic(images: UInt8[np.ndarray, "B H W C"], size: int) -> Float32[Tensor, "B C size size"]:
    """Torch's antialiased bicubic filter on floats, clamped to [0, 255], then rounded down.

    The authors' release casts without clamping, so that an overshoot of -16 becomes 240.
    """
    pixels = F.interpolate(no_resize(images), (size, size), mode="bicubic", antialias=True, align_corners=False)
    return pixels.clamp(0, 255).floor()


def pillow_bicubic_crop(images: UInt8[np.ndarray, "B H W C"], size: int) -> Float32[Tensor, "B C size size"]:
    """Pillow's bicubic filter on uint8, the shorter side to `size`, then a center crop, as in OpenAI's CLIP."""
    count, height, width, channels = images.shape
    scale = size / min(height, width)
    # Torchvision, which OpenAI's code calls, rounds the longer side down.
    rows, columns = (size if side == min(height, width) else int(scale * side) for side in (height, width))
    top, left = round((rows - size) / 2), round((columns - size) / 2)
    out = np.empty((count, size, size, channels), dtype=np.uint8)
    for index, image in enumerate(images):
        pillow = Image.fromarray(image[:, :, 0] if channels == 1 else image)
        resized = np.asarray(pillow.resize((columns, rows), Image.Resampling.BICUBIC))
        out[index] = resized.reshape(rows, columns, channels)[top : top + size, left : left + size]
    return no_resize(out)
