"""Feature extractors of images: preprocessing, network and the provenance of its weights."""

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
"""Images in a batch of the network: limits memory."""


@dataclass(frozen=True)
class Extractor:
    """A network with its weights."""

    network: torch.nn.Module
    """Called with images (B 3 H W) in [0, 255] and names of outputs; returns these by name."""
    outputs: Mapping[str, int]
    preprocessors: Mapping[str, Resize]
    files: Mapping[str, str]
    """The published weights of each preprocessing's original program."""
    device: torch.device
    loaded: WeightsProvenance | None = None
    """None if the network needs no weights."""

    @torch.inference_mode()
    def __call__(
        self, images: UInt8[np.ndarray, "B H W C"], outputs: Sequence[str], preprocessing: str
    ) -> dict[str, Float32[Tensor, "B F"]]:
        """Features on the CPU; gray images are used as color images of three equal channels.

        Raises:
            UsageError: unknown output or preprocessing, or the images have neither 1 nor 3 channels.
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
        features = {output: torch.empty(len(images), self.outputs[output]) for output in outputs}
        for start in range(0, len(images), CHUNK):
            pixels = self.preprocessors[preprocessing](images[start : start + CHUNK]).to(self.device)
            # Expanded after resizing, which is three times faster for one channel.
            answers = self.network(pixels.expand(-1, 3, -1, -1), tuple(outputs))
            for output in outputs:
                features[output][start : start + CHUNK] = answers[output].float().cpu()
        return features

    def note(self, preprocessing: str) -> str | None:
        """A remark for values of this preprocessing if the weights are not those of its original program."""
        return note(self.loaded, self.files.get(preprocessing), preprocessing)


UNTRAINED = "untrained features: values compare with one another, not with published ones"
"""The remark on values of random features."""


def note(loaded: WeightsProvenance | None, expected: str | None, preprocessing: str) -> str | None:
    """A remark if there are no trained weights, or `loaded` ones are not verified or not of the preprocessing's file `expected`."""
    if loaded is None:
        return UNTRAINED
    if loaded.published != expected:
        return f"weights converted from `{loaded.published}`, but `{preprocessing}` belongs to `{expected}`"
    if not loaded.is_verified:
        return f"weights converted from a `{loaded.published}` with an unknown digest: sha256 {loaded.published_digest}"
    return None
