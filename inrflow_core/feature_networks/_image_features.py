"""From images to features: preprocessing, network and the origin of its weights together."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass

import numpy as np
import torch
from jaxtyping import Float32, UInt8
from torch import Tensor

from inrflow_core.errors import UsageError, did_you_mean
from inrflow_core.feature_networks._weights_file import WeightsProvenance

Resize = Callable[[np.ndarray], Tensor]
"""uint8 (B H W C) to float32 (B C H W) in [0, 255]."""
CHUNK = 32
"""Images that are resized and pass the network together: bounds the memory, whatever is given."""


@dataclass(frozen=True)
class Extractor:
    """A network with its weights."""

    network: torch.nn.Module
    """Called with images (B 3 H W) in [0, 255] and names of outputs, gives them by name."""
    outputs: Mapping[str, int]
    preprocessors: Mapping[str, Resize]
    files: Mapping[str, str]
    """The published file that each preprocessing is named after."""
    device: torch.device
    loaded: WeightsProvenance | None = None
    """None where the network needs no weights."""

    @torch.inference_mode()
    def __call__(
        self, images: UInt8[np.ndarray, "B H W C"], outputs: Sequence[str], preprocessing: str
    ) -> dict[str, Float32[Tensor, "B F"]]:
        """Features on the CPU; grey images count as colour ones of three equal channels.

        Raises:
            UsageError: there is no such output or preprocessing, or the images have neither 1 nor 3 channels.
        """
        for kind, name, allowed in (
            ("preprocessing", preprocessing, self.preprocessors),
            *(("output", o, self.outputs) for o in outputs),
        ):
            if name not in allowed:
                raise UsageError(f"there is no {kind} `{name}`", hint=did_you_mean(name, allowed))
        if images.shape[-1] not in (1, 3):
            raise UsageError(
                f"images have {images.shape[-1]} channels", hint="features are of gray (1) or color (3) images"
            )
        found = {output: torch.empty(len(images), self.outputs[output]) for output in outputs}
        for start in range(0, len(images), CHUNK):
            pixels = self.preprocessors[preprocessing](images[start : start + CHUNK]).to(self.device)
            # After resizing, which costs a third for one channel.
            answers = self.network(pixels.expand(-1, 3, -1, -1), tuple(outputs))
            for output in outputs:
                found[output][start : start + CHUNK] = answers[output].float().cpu()
        return found

    def note(self, preprocessing: str) -> str | None:
        """What must be said beside a number of this preprocessing: that its weights are not those it is named after."""
        return note(self.loaded, self.files.get(preprocessing), preprocessing)


def note(loaded: WeightsProvenance | None, wanted: str | None, preprocessing: str) -> str | None:
    """What must be said of numbers by `loaded` weights, where the preprocessing is named after those of the file `wanted`."""
    if loaded is None:
        return None
    if loaded.published != wanted:
        return f"weights made of `{loaded.published}`, while `{preprocessing}` is named after those of `{wanted}`"
    if not loaded.is_verified:
        return (
            f"weights made of a `{loaded.published}` that no known digest vouches for: sha256 {loaded.published_digest}"
        )
    return None
