"""Point clouds: a point's value is its own position (and color); a query is a point's id."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from jaxtyping import Float, Int64
from torch import Tensor

from inrflow_core.distances import _contract as distances
from inrflow_core.domains._contract import (
    CLOUD_GALLERY,
    ArrayFiles,
    DecodedAtOwnPairs,
    InputExample,
    Memorization,
    OutputSpec,
    conditions,
    empty_sets,
    scaled,
)
from inrflow_core.errors import IntegrityError, UsageError
from inrflow_core.fields import Window
from inrflow_core.geometry import cloud_files, ply_reader, point_clouds
from inrflow_core.numerics import keyed_random
from inrflow_core.sets import Condition, CoordValueSet, Points, Queries, SetSpec
from inrflow_core.shards.batch import Batch
from inrflow_core.storage import array_file
from inrflow_core.visualization import point_rendering


@dataclass(frozen=True)
class Config:
    """What the clouds of a preset are."""

    num_points: int
    """Points of a training set, drawn again from the stored cloud in each step."""
    value_scale: float = 1.0
    """Positions in the shard's normalization are multiplied by this for the network."""
    channels: int = 3
    """3 for positions, 6 with colors in [-1, 1]."""

    def __post_init__(self) -> None:
        if self.num_points < 1:
            raise ValueError(f"`num_points` is {self.num_points}: at least 1")
        if self.channels not in (3, 6):
            raise ValueError(f"`channels` is {self.channels}: 3, or 6 with colors")
        if self.value_scale <= 0:
            raise ValueError(f"`value_scale` is {self.value_scale}: above 0")


def read_file(path: Path) -> np.ndarray:
    """A cloud from a .ply or .npy file, float32 (P C), or float64 where float32 would merge its points.

    Raises:
        IntegrityError: the file is damaged, or holds another kind of array.
    """
    if path.suffix.lower() == ".ply":
        return ply_reader.read_in_place(path)
    values = array_file.read_array(path, hint="copy it again, or make it again")
    if values.ndim != 2 or values.shape[1] not in (3, 6) or values.dtype.kind != "f" or not len(values):
        raise IntegrityError(
            f"`{path}` holds {values.dtype} of shape {values.shape}, no cloud", hint="a cloud is float (P 3)"
        )
    values = np.asarray(values)
    if values.shape[1] == 6 and np.abs(values[:, 3:]).max() > 1:
        raise IntegrityError(f"`{path}` holds colors outside [-1, 1]", hint="scale them, or write it as .ply")
    if values.dtype.itemsize > 4 and ply_reader.is_far(values[:, :3]):
        return values.astype(np.float64)
    with np.errstate(over="ignore"):  # values too large for float32 become infinite, which `eval` rejects
        return values.astype(np.float32)


def describe_shape(shape: tuple[int, ...]) -> str:
    """`2,048 points of 3 numbers`."""
    return f"{shape[0]:,} points of {shape[1]} numbers"


class Domain(DecodedAtOwnPairs):
    """Queries of clouds, sets from stored points, and points from values."""

    NAME = "points"
    NOUN = "point clouds"
    FORMATS = ("ply", "npz", "png", "obj", "glb", "stl")
    MESH_FORMATS = ()
    FILES = ArrayFiles(
        ("points",),
        "float32",
        3,
        (3, 6),
        "float (N P 3)",
        (".ply", ".npy"),
        read_file,
        describe_shape,
        max_bytes=ply_reader.MAX_BYTES,
    )
    SIZE_OPTION = "--points"
    HAS_CAMERAS = False
    HAS_WINDOWS = False
    REFERENCE_SPLITS = ("val", "test", "train")
    DEFAULT_METRICS = ("mmd", "cov", "one-nna", "jsd")
    METRICS_OF_SEVERAL = ()
    VIEW_DOMAIN = None
    CLOUD_DOMAIN = None
    REQUIRED_CONDITIONS = ()
    MAKES_STRUCTURES = False
    GALLERY = CLOUD_GALLERY
    MEMORIZATION = Memorization("chamfer", 100, 2_000, 64, "Chamfer distance, each in its box")

    def __init__(self, config: Config) -> None:
        self.config = config
        self.shape = SetSpec(config.channels, config.channels, Points(config.num_points))

    def queries(self, size: int | None = None, window: Window = None, condition: Condition | None = None) -> Queries:
        """The ids of `size` points. Default: as many as in training.

        Raises:
            UsageError: fewer than 1 point, or a window, which only images have.
        """
        if window is not None:
            raise UsageError("a cloud has no window", hint="leave `--window` out")
        count = self.config.num_points if size is None else size
        if count < 1:
            raise UsageError(f"a cloud of {count} points is none", hint="ask at least 1 point")
        return Queries(None, torch.arange(count))

    def to_set(
        self,
        batch: Batch,
        seeds: Int64[Tensor, " B"],
        labels: np.ndarray | None = None,
        *,
        augment: bool = False,
    ) -> CoordValueSet:
        """Stored clouds (B N C) as sets; more points than `num_points` are subsampled, keyed by the seed.

        Raises:
            UsageError: the clouds have no colors and the preset needs them, or, with `augment` (in training), they
                have fewer points than it needs.
        """
        values, num_points, channels = batch.values, self.config.num_points, self.config.channels
        if values.shape[2] < channels:
            raise UsageError(
                f"the clouds have {values.shape[2]} channels, the preset wants {channels}",
                hint="prepare them with colors, or set `domain.channels=3`",
            )
        if augment and values.shape[1] < num_points:
            raise UsageError(
                f"the clouds have {values.shape[1]} points, the preset wants {num_points}",
                hint=f"set `domain.num_points={values.shape[1]}`, or prepare clouds of more points",
            )
        clouds = torch.from_numpy(np.ascontiguousarray(values[..., :channels])).float()
        if clouds.shape[1] > num_points:
            subset = keyed_random.subset(seeds.cpu(), clouds.shape[1], num_points, purpose="subset")
            clouds = clouds.gather(1, subset[..., None].expand(-1, -1, channels))
        queries = Queries(None, torch.arange(clouds.shape[1]))
        return CoordValueSet(queries, clouds * self.config.value_scale, seeds, conditions(labels, batch))

    def dummy_batch(self, count: int) -> CoordValueSet:
        """Clouds of zeros of the training size, for planning."""
        return empty_sets(self.queries(), self.shape, count)

    def decode_values(
        self, values: Float[Tensor, "B M C"], size: int | None = None, condition: Condition | None = None
    ) -> np.ndarray:
        """Points, float32 (B M C), in the shard's normalization."""
        return values.div(self.config.value_scale).float().cpu().numpy()

    def parse_size(self, text: str) -> int:
        """A number of points; raises UsageError unless it is a whole number above 0."""
        if not text.isdecimal() or int(text) < 1:
            raise UsageError(f"`--points {text}`: a cloud has at least 1 point", hint="give a whole number above 0")
        return int(text)

    def scale_size(self, factor: float) -> int:
        """The points of a training set times `factor`, rounded; raises UsageError where no point is left."""
        return scaled(self.config.num_points, factor)

    def describe_size(self, size: int | None, condition: Condition | None = None) -> str:
        """`2,048 points`."""
        return f"{size or self.config.num_points:,} points"

    def output_spec(self, size: int | None = None) -> OutputSpec:
        """float32 (P C)."""
        return OutputSpec((size or self.config.num_points, self.config.channels), "float32")

    @staticmethod
    def accepts(path: Path) -> bool:
        """Files of clouds: .ply, .npy, .npz, .xyz and .pcd."""
        return path.suffix.lower() in cloud_files.SUFFIXES

    def read_input(self, path: Path, normalization: Mapping[str, Any]) -> InputExample:
        """A cloud scaled to its own bounding box, as in training, and evenly subsampled to a training set's points at most."""
        (points, center), channels = cloud_files.read_input(path), self.config.channels
        if points.shape[1] < channels:
            raise UsageError(
                f"`{path}` has no colors, and the model samples colored clouds",
                hint="give a .ply or .pcd with colors, or an .npz of inrflow",
            )
        points = points[:, :channels]
        low, high = points[:, :3].min(0), points[:, :3].max(0)
        offset, scale = (low + high) / 2, float((high - low).max() / 2)
        if scale == 0:
            raise UsageError(f"all points of `{path}` coincide", hint="give a cloud with some extent")
        count = self.config.num_points
        if len(points) > count:
            points = points[np.linspace(0, len(points) - 1, count).round().astype(int)]
        values = points.astype(np.float32).copy()
        values[:, :3] = (values[:, :3] - offset) / scale
        return InputExample(values, offset + center if center.any() else offset, scale)

    def compare(self, output: np.ndarray, original: np.ndarray) -> dict[str, float]:
        """Chamfer distance: mean squared nearest distances both ways, summed, in the training normalization."""
        return {"chamfer": distances.find("cd").between(output[:, :3], original[:, :3])}

    def render(self, outputs: np.ndarray, captions: Sequence[str] = ()) -> Any:
        """Shaded renderings of all clouds."""
        return point_rendering.render_clouds(outputs, size=512 if len(outputs) == 1 else 256, captions=captions)

    @staticmethod
    def thumbnails(values: np.ndarray) -> np.ndarray:
        """The clouds themselves, which the report can rotate."""
        return values

    @staticmethod
    def statistics(values: np.ndarray) -> Sequence[tuple[str, str, np.ndarray]]:
        """Radii of all points, each cloud in its own box."""
        boxed = point_clouds.boxed(values, values.shape[1])
        radii = np.linalg.norm(boxed[..., :3], axis=2).ravel()
        return [("Distance of points from the middle of their box", "longest side", radii)]
