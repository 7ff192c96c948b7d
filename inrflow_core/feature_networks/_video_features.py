"""Feature extractors of videos: checks, chunks of clips, and the provenance of the weights."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass

import numpy as np
import torch
from jaxtyping import Float, Float32, UInt8
from torch import Tensor

from inrflow_core.errors import UsageError, did_you_mean
from inrflow_core.feature_networks._image_features import note
from inrflow_core.feature_networks._weights_file import WeightsProvenance

Features = Callable[[Float[Tensor, "B 3 T H W"]], Mapping[str, Float[Tensor, "B F"]]]
"""Clips in [0, 255] to the outputs by name."""


@dataclass(frozen=True)
class ClipExtractor:
    """A network of videos with its weights; for images, see `_image_features.Extractor`."""

    features: Mapping[str, Features]
    """Preprocessing and network, by the name of the preprocessing."""
    outputs: Mapping[str, int]
    chunk: int
    """Clips in a batch of the network: limits memory."""
    device: torch.device
    files: Mapping[str, str]
    """The published weights of each preprocessing's original program."""
    loaded: WeightsProvenance | None = None
    """None if the network needs no weights."""

    @torch.inference_mode()
    def __call__(
        self, clips: UInt8[np.ndarray, "B T H W C"], outputs: Sequence[str], preprocessing: str
    ) -> dict[str, Float32[Tensor, "B F"]]:
        """Features on the CPU; gray clips are used as color clips of three equal channels.

        Raises:
            UsageError: unknown output or preprocessing, or clips that the network refuses.
        """
        for kind, name, allowed in (
            ("preprocessing", preprocessing, self.features),
            *(("output", output, self.outputs) for output in outputs),
        ):
            if name not in allowed:
                raise UsageError(f"there is no {kind} `{name}`", hint=did_you_mean(name, allowed))
        features = {output: torch.empty(len(clips), self.outputs[output]) for output in outputs}
        for start in range(0, len(clips), self.chunk):
            pixels = torch.from_numpy(clips[start : start + self.chunk]).to(self.device).float().movedim(-1, 1)
            answers = self.features[preprocessing](pixels.expand(-1, 3, -1, -1, -1))
            for output in outputs:
                features[output][start : start + self.chunk] = answers[output].cpu()
        return features

    def note(self, preprocessing: str) -> str | None:
        """A remark for values of this preprocessing if the weights are not those of its original program."""
        return note(self.loaded, self.files.get(preprocessing), preprocessing)
