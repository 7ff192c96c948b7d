"""DINOv2: a token for each patch of 14 x 14 pixels of an image; ViT-B/14 gives 32 x 32 of width 768 at 448 pixels.

Source: Oquab et al. 2023, arXiv:2304.07193, run by Transformers. The tokens are those after the last layer norm,
without the class token. Any size of the network is supported, as described by config.json; position embeddings are
interpolated for images that differ from the training size (518 pixels).
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

import torch
import torch.nn.functional as F
from jaxtyping import Float32, UInt8
from torch import Tensor

from inrflow_core.feature_networks import _hf_folder

KIND = "embedder"
DOMAIN = "image"
IS_PLACEHOLDER = False
EXPECTED = _hf_folder.ExpectedNetwork(
    "dinov2",
    "Dinov2Model",
    "dinov2",
    "facebook/dinov2-base",
    "Apache-2.0",
    ignored=("embeddings.mask_token", "classifier."),
)
MEAN, DEVIATION = (0.485, 0.456, 0.406), (0.229, 0.224, 0.225)
"""Mean and standard deviation of ImageNet's colors in [0, 1], which the network was trained with."""
CHUNK = 8
"""Images in a batch of the network; limits the memory."""


def load(folder: Path | None, device: torch.device | str = "cpu") -> Dinov2:
    """The network of a folder.

    Raises:
        MissingError, IntegrityError, UsageError: see `_hf_folder.load`.
    """
    assert folder is not None, "only placeholders have no folder"
    network, digest = _hf_folder.load(EXPECTED, folder, device)
    return Dinov2(network, digest)


@dataclass(frozen=True, eq=False)
class Dinov2(_hf_folder.PretrainedNetwork):
    """The network with its weights."""

    name: str = EXPECTED.name

    @property
    def patch(self) -> int:
        """Side of a patch in pixels."""
        return int(self.network.config.patch_size)  # type: ignore[union-attr, arg-type]

    def grid(self, rows: int, columns: int) -> tuple[int, int]:
        """Rows and columns of patches; images are resized to the nearest whole number of patches."""
        return max(1, round(rows / self.patch)), max(1, round(columns / self.patch))

    @torch.no_grad()
    def __call__(self, images: UInt8[Tensor, "B H W 3"]) -> Float32[Tensor, "B K S"]:
        """Tokens row by row, on the images' device, which is the network's."""
        return torch.cat([self._tokens(images[start : start + CHUNK]) for start in range(0, len(images), CHUNK)])

    def _tokens(self, images: UInt8[Tensor, "B H W 3"]) -> Float32[Tensor, "B K S"]:
        pixels = images.movedim(-1, 1).float() / 255
        size = [self.patch * count for count in self.grid(*images.shape[1:3])]
        if size != list(images.shape[1:3]):
            pixels = F.interpolate(pixels, size, mode="bicubic", antialias=True).clamp(0, 1)
        mean, deviation = (pixels.new_tensor(numbers)[:, None, None] for numbers in (MEAN, DEVIATION))
        return self.network(pixel_values=(pixels - mean) / deviation).last_hidden_state[:, 1:]
