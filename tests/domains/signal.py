"""A domain that only tests have: waves, float32 (N M 1), over the line from -1 to 1. One file, as any domain is."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from jaxtyping import Float, Int64
from torch import Tensor

from inrflow_core.domains._contract import (
    IMAGE_GALLERY,
    ArrayFiles,
    DecodedAtOwnPairs,
    InputExample,
    Memorization,
    OutputSpec,
    conditions,
    empty_sets,
    pixel_statistics,
)
from inrflow_core.errors import UsageError
from inrflow_core.fields import Window
from inrflow_core.sets import Condition, CoordValueSet, Points, Queries, SetSpec
from inrflow_core.shards.batch import Batch
from inrflow_core.visualization import image_grid


@dataclass(frozen=True)
class Config:
    """What the waves are."""

    length: int = 24


class Domain(DecodedAtOwnPairs):
    """Waves."""

    NAME = "signal"
    NOUN = "waves"
    FORMATS = ("npz",)
    MESH_FORMATS = ()
    FILES = ArrayFiles(("waves",), "float32", 3, (1,), "float (N M 1)")
    SIZE_OPTION = "--points"
    HAS_CAMERAS = False
    HAS_WINDOWS = False
    REFERENCE_SPLITS = ("train",)
    DEFAULT_METRICS = ()
    METRICS_OF_SEVERAL = ()
    VIEW_DOMAIN = None
    CLOUD_DOMAIN = None
    REQUIRED_CONDITIONS = ()
    MAKES_STRUCTURES = False
    GALLERY = IMAGE_GALLERY
    MEMORIZATION = Memorization("rms", 100, 1000, 100, "rms difference")

    def __init__(self, config: Config) -> None:
        self.config = config
        self.shape = SetSpec(1, 1, Points(config.length, has_coordinates=True))

    def queries(self, size: int | None = None, window: Window = None, condition: Condition | None = None) -> Queries:
        """Evenly spaced instants."""
        count = size or self.config.length
        return Queries(torch.linspace(-1, 1, count)[:, None], torch.arange(count))

    def to_set(
        self,
        batch: Batch,
        seeds: Int64[Tensor, " B"],
        labels: np.ndarray | None = None,
        *,
        augment: bool = False,
    ) -> CoordValueSet:
        """Waves as they are."""
        values = torch.from_numpy(np.ascontiguousarray(batch.values)).float()
        return CoordValueSet(self.queries(), values, seeds, conditions(labels, batch))

    def dummy_batch(self, count: int) -> CoordValueSet:
        """Silence."""
        return empty_sets(self.queries(), self.shape, count)

    def decode_values(
        self, values: Float[Tensor, "B M 1"], size: int | None = None, condition: Condition | None = None
    ) -> np.ndarray:
        """Waves, float32 (B M 1)."""
        return values.float().cpu().numpy()

    def parse_size(self, text: str) -> int:
        """A number of instants."""
        return int(text)

    def scale_size(self, factor: float) -> int:
        """Times the training length."""
        return round(factor * self.config.length)

    def describe_size(self, size: int | None, condition: Condition | None = None) -> str:
        """`24 instants`."""
        return f"{size or self.config.length} instants"

    def output_spec(self, size: int | None = None) -> OutputSpec:
        """float32 (M 1)."""
        return OutputSpec((size or self.config.length, 1), "float32")

    @staticmethod
    def accepts(path: Path) -> bool:
        """No file."""
        return False

    def read_input(self, path: Path, normalization: Mapping[str, Any]) -> InputExample:
        """Raises UsageError: nothing is read for inversion."""
        raise UsageError("waves are not encoded from files", hint="sample them")

    def compare(self, output: np.ndarray, original: np.ndarray) -> dict[str, float]:
        """Raises UsageError: nothing is encoded."""
        raise UsageError("waves are not encoded from files", hint="sample them")

    def render(self, outputs: np.ndarray, captions: Sequence[str] = ()) -> Any:
        """Strips of gray."""
        return image_grid.image_grid(self.thumbnails(outputs))

    @staticmethod
    def thumbnails(values: np.ndarray) -> np.ndarray:
        """Strips of gray, one row each."""
        return (np.clip(values[:, None] + 1, 0, 2) * 127.5).astype(np.uint8)

    @staticmethod
    def statistics(values: np.ndarray) -> Sequence[tuple[str, str, np.ndarray]]:
        """Mean and deviation of each wave."""
        return pixel_statistics(values, "a wave", "amplitude")
