"""The contract of a domain's file: its words, sizes and file formats, and how its samples are shown and compared.

A domain is a file in `domains/` with a frozen dataclass `Config` of settings and a class `Domain(config)` that satisfies
the Protocol below. No other module names a domain: a new one is a new file.
"""

from __future__ import annotations

import math
from abc import ABC, abstractmethod
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any, ClassVar, Literal, Protocol, runtime_checkable

import numpy as np
import torch
from jaxtyping import Bool, Float, Float32, Float64, Int64, UInt8
from torch import Tensor

from inrflow_core import registry
from inrflow_core.errors import UsageError
from inrflow_core.fields import Camera, Size, Surface, Window
from inrflow_core.geometry.mesh import Mesh
from inrflow_core.proteins.structure import Structure
from inrflow_core.sets import Condition, CoordValueSet, Queries, SetSpec, TrainBatch
from inrflow_core.shards.batch import Batch

Outputs = np.ndarray | list[Structure] | list[Mesh]
"""Samples as they are written: an array with one row each, structures, or meshes."""


@dataclass(frozen=True)
class OutputSpec:
    """Shape and type of one sample as an array."""

    shape: tuple[int, ...]
    dtype: str


def describe_shape(shape: tuple[int, ...]) -> str:
    """The shape of one sample, `24 x 1`."""
    return " x ".join(map(str, shape))


@dataclass(frozen=True)
class ArrayFiles:
    """The layout of samples in .npz, .npy and single files."""

    names: tuple[str, ...]
    """Names of their array in an .npz archive; the first is the one that is written."""
    dtype: str
    """`uint8` or `float32`; for `float32` a file may hold floats of any precision."""
    ndim: int
    """Axes of an array of several samples."""
    channels: tuple[int, ...]
    """Allowed lengths of the last axis."""
    description: str
    """For messages: `uint8 (N H W C)`."""
    suffixes: tuple[str, ...] = ()
    """Suffixes of files that hold one sample each, beside structures of proteins."""
    read: Callable[[Path], np.ndarray] | None = None
    """Reads such a file; raises IntegrityError if it is damaged."""
    describe: Callable[[tuple[int, ...]], str] = describe_shape
    """The shape of one sample in words."""
    has_one_shape: bool = False
    """Whether only samples of equal shapes can be compared."""
    max_bytes: int = 1 << 32
    """Bytes of the largest file of one sample."""

    def allows(self, shape: tuple[int, ...]) -> bool:
        """Whether one sample can have this shape."""
        return len(shape) == self.ndim - 1 and min(shape) > 0 and shape[-1] in self.channels

    def holds(self, values: np.ndarray) -> bool:
        """Whether an array of several samples has the type and shape of this domain."""
        kind = "u" if self.dtype == "uint8" else "f"
        is_right = values.dtype == np.uint8 if kind == "u" else values.dtype.kind == kind
        return is_right and len(values) > 0 and self.allows(values.shape[1:])


@dataclass(frozen=True)
class InputExample:
    """A file as the domain's raw values: uint8 (H W C), or float32 (N C) in the normalization of the training data.

    A cloud is `values * scale + offset` in the file's own units; images have scale 1 and offset 0.
    """

    values: np.ndarray
    offset: np.ndarray | float = 0.0
    scale: float = 1.0
    condition: Mapping[str, np.ndarray] = field(default_factory=dict)
    """What is known beside the values, such as the camera of a view."""

    def to_source_units(self, values: np.ndarray) -> np.ndarray:
        """Values of the domain in the file's own units: float64 where float32 would merge the points there."""
        if values.dtype == np.uint8:
            return values
        if np.asarray(self.offset).dtype == np.float64 and np.any(self.offset):
            values = values.astype(np.float64)
        restored = values.copy()
        restored[..., :3] = values[..., :3] * self.scale + self.offset
        return restored

    def mesh_to_source_units(self, mesh: Mesh) -> Mesh:
        """A mesh of the domain in the file's own units."""
        return replace(mesh, vertices=mesh.vertices * self.scale + self.offset)


@dataclass(frozen=True)
class Gallery:
    """How many samples a report shows."""

    tiles: int
    """Samples of each side of a gallery."""
    rows: int
    """Samples that are shown with their nearest training items."""


IMAGE_GALLERY, CLOUD_GALLERY = Gallery(tiles=48, rows=12), Gallery(tiles=8, rows=6)
"""Of samples that are shown as images, uint8 (B H W C), or as clouds that a reader turns, float32 (B N C)."""


@dataclass(frozen=True)
class Memorization:
    """How the nearest training items of samples are searched."""

    distance: Literal["rms", "chamfer"]
    """Between thumbnails, images of one shape, or between point clouds, each in its own bounding box."""
    num_compared: int
    """Samples, and held-out items, whose nearest training items are searched."""
    num_training: int
    """Training items that are searched, evenly spaced where there are more: some minutes of one core."""
    block: int
    """Training items that are read together, at most."""
    unit: str
    """What the distance measures, for the report."""


class Domain(Protocol):
    """What a coordinate and a value are; the members that every domain has."""

    NAME: ClassVar[str]
    """Its file's name."""
    NOUN: ClassVar[str]
    """What samples are called in messages: `images`."""
    FORMATS: ClassVar[tuple[str, ...]]
    """Names of the formats that samples can be written in, beside shards."""
    MESH_FORMATS: ClassVar[tuple[str, ...]]
    """Names of the formats that hold the mesh of a sample (`Surface`), which is drawn and not made of values."""
    FILES: ClassVar[ArrayFiles | None]
    """How samples are read from array files; None for structures."""
    SIZE_OPTION: ClassVar[Literal["--resolution", "--points"] | None]
    """The option that sets the size of samples; None if no option does. Of meshes it is always `--resolution`."""
    HAS_CAMERAS: ClassVar[bool]
    """Whether samples are scenes, seen by cameras (`--views`, `--elevation` ...) or as a mesh of their density; such a domain
    has more members (see `HasCameras`). Another one with `MESH_FORMATS` has those of `HasSurfaces`, one of clips those of `HasFrames`."""
    HAS_WINDOWS: ClassVar[bool]
    """Whether a part of a sample's domain can be evaluated alone (`--window`)."""
    REFERENCE_SPLITS: ClassVar[tuple[str, ...]]
    """Splits to evaluate against, in order of preference."""
    DEFAULT_METRICS: ClassVar[tuple[str, ...]]
    """What `eval` computes by default: metrics without weights."""
    METRICS_OF_SEVERAL: ClassVar[tuple[str, ...]]
    """Added to these if several samples are drawn for each item of a reference."""
    VIEW_DOMAIN: ClassVar[str | None]
    """The domain of the views of a sample, whose metrics of features apply to them; None: samples have no views."""
    CLOUD_DOMAIN: ClassVar[str | None]
    """The domain whose metrics without features and matches apply too: samples are such clouds, of which one may be empty, with
    all points at 0. None: no other domain's."""
    REQUIRED_CONDITIONS: ClassVar[tuple[str, ...]]
    """Conditions of the shards that every set needs."""
    MAKES_STRUCTURES: ClassVar[bool]
    """Whether samples are structures of proteins, each of its own size, and not arrays of one size."""
    GALLERY: ClassVar[Gallery | None]
    """How many samples a report shows; None if it shows tables of structures."""
    MEMORIZATION: ClassVar[Memorization | None]
    """How copies of training items are searched; None if they are not."""

    config: Any
    shape: SetSpec

    def __init__(self, config: Any) -> None: ...

    def queries(self, size: Any = None, window: Window = None, condition: Condition | None = None) -> Queries:
        """Where a sample of a size, or a window of it, is evaluated; raises UsageError for a size that the domain does not have."""
        ...

    def num_queries(self, size: Any = None, window: Window = None, condition: Condition | None = None) -> int:
        """The number of `queries(size, window, condition)`."""
        ...

    def to_set(
        self,
        batch: Batch,
        seeds: Int64[Tensor, " B"],
        labels: np.ndarray | None = None,
        *,
        augment: bool = False,
    ) -> CoordValueSet:
        """Sets of what was read, in the network's scale; augmentation is keyed by the seeds."""
        ...

    def rows_to_read(
        self, sizes: Int64[np.ndarray, " B"], seeds: Int64[Tensor, " B"]
    ) -> Int64[np.ndarray, "B K"] | None:
        """The rows that training reads of the stored values of sets of these sizes, such as two views of a scene; keyed by
        the seeds. None reads all."""
        ...

    def train_batch(self, sets: CoordValueSet) -> TrainBatch:
        """What training makes of sets from `to_set` or `dummy_batch`: those that the encoder reads, and those that the
        decoder is trained on; a random choice is keyed by the seeds. `DecodedAtOwnPairs` has the usual one."""
        ...

    def dummy_batch(self, count: int) -> CoordValueSet:
        """Sets of zeros of the training size, for planning."""
        ...

    def config_for_size(self, num_pairs: int) -> Any:
        """Its settings with typical sets of that many pairs, for planning; the same where all sets have one size."""
        ...

    def decode_values(
        self, values: Float[Tensor, "B M C"], size: Any = None, condition: Condition | None = None
    ) -> Outputs:
        """Samples from values at `queries(size, condition=condition)`."""
        ...

    def parse_size(self, text: str) -> Size:
        """The size in the text of `SIZE_OPTION`; raises UsageError for any other text."""
        ...

    def scale_size(self, factor: float) -> Size:
        """`factor` times the training size along each axis; raises UsageError for an empty or infinite size."""
        ...

    def describe_size(self, size: Any, condition: Condition | None = None) -> str:
        """One sample's size in words: `96 x 96 pixels`, `2,048 points`."""
        ...

    def output_spec(self, size: Any = None) -> OutputSpec:
        """Shape and type of a sample of a size; the shape is () if samples differ in shape."""
        ...

    @staticmethod
    def accepts(path: Path) -> bool:
        """Whether `invert` may read a file, by its suffix."""
        ...

    def read_input(self, path: Path, normalization: Mapping[str, Any]) -> InputExample:
        """The content of a file that it `accepts`, for `invert`.

        `normalization` is that of the shards that the model was trained on, with the `reduction` of images.

        Raises:
            IntegrityError: the file cannot be read.
            UsageError: the content does not fit the training sets.
        """
        ...

    def compare(self, output: np.ndarray, original: np.ndarray) -> dict[str, float]:
        """The error of a reconstruction, by a name that implies the unit."""
        ...

    def render(self, outputs: Outputs, captions: Sequence[str] = ()) -> Any:
        """One image (PIL) of all samples, with a caption for each if there are captions."""
        ...

    @staticmethod
    def thumbnails(values: np.ndarray) -> np.ndarray:
        """What a report shows of samples: images, uint8 (B H W C), or clouds, float32 (B N C)."""
        ...

    @staticmethod
    def statistics(values: np.ndarray) -> Sequence[tuple[str, str, np.ndarray]]:
        """Numbers of samples for histograms: title, unit and the numbers of all samples."""
        ...


@runtime_checkable
class HasCameras(Protocol):
    """What a domain of scenes has beside."""

    box: tuple[tuple[float, float, float], tuple[float, float, float]]
    """The lowest and the highest corner of where scenes are, in world units."""

    @property
    def reads_views(self) -> bool:
        """Whether a scene is encoded from a view, and not from points of its surface (the condition `SURFACE`)."""
        ...

    def color_error(
        self, medium: Callable[[Tensor], tuple[Tensor, Tensor]], example: InputExample, *, chunk: int
    ) -> dict[str, float]:
        """The error of a scene that was encoded from surface points, by a name that implies the unit; `medium` has the
        densities (P) and colors (P 3) at points (P 3) in the world."""
        ...

    def size_in_file(self, size: Any, suffix: str, views: int | None, camera: Camera, level: float | None) -> Size:
        """The size of a sample in a file with that suffix, in lower case: a mesh, a turntable or one view.

        Raises:
            UsageError: a number is out of range, or one does not apply to such files.
        """
        ...

    def camera_condition(self, camera: Camera) -> dict[str, np.ndarray]:
        """The condition of one view that is seen by a camera; raises UsageError for numbers out of range."""
        ...

    def condition_of_cameras(self, poses: Float32[Tensor, "B 4 4"]) -> dict[str, Tensor]:
        """The condition of sets of one view each, seen by these cameras."""
        ...

    def condition_of_samples(self, size: Any, condition: Condition | None, count: int) -> dict[str, np.ndarray]:
        """The cameras of the views of `count` samples of a size, float32 (B V 4 4), as shards of samples record them."""
        ...

    def cameras(self, size: Any, condition: Condition | None) -> Float32[np.ndarray, "*sets 4 4"]:
        """The cameras of views of a size, (V 4 4) for all samples or (B V 4 4); see geometry/cameras.py."""
        ...


@runtime_checkable
class HasFrames(Protocol):
    """What a domain has beside whose samples are clips, sequences of frames in time."""

    def clip_size(self, size: Any, frames: int | None, fps: float | None, rate: float | None) -> Size:
        """The size of a clip with a number of frames, or with those that its duration has at `fps`.

        `size` is rows and columns, and `rate` the frames per second of the training clips; None if it is not known.

        Raises:
            UsageError: a number is out of range, or `fps` alone where the duration is not known.
        """
        ...

    def playback_rate(self, size: Any, rate: float | None) -> float | None:
        """Frames per second at which a clip of a size is played, with `rate` as above; None if it is not known."""
        ...


@runtime_checkable
class HasSurfaces(Protocol):
    """What a domain has beside whose samples are functions of space with a surface, and which has no cameras."""

    @property
    def box(self) -> tuple[tuple[float, float, float], tuple[float, float, float]]:
        """The lowest and the highest corner of where shapes are, in the units of shards."""
        ...

    def size_in_file(self, points: int | None, resolution: str | None, suffix: str, level: float | None) -> Size:
        """The size of a sample in a file with that suffix, in lower case: a mesh, or a number of surface points.

        Raises:
            UsageError: a number is out of range, or one does not apply to such files.
        """
        ...

    def surface(self, function: Callable[[Tensor], Tensor], size: Surface, *, chunk: int) -> Mesh:
        """The mesh of one function, of which `function` has the values (P 1) at coordinates (P 3) in [-1, 1].

        Raises:
            UsageError: the surface is empty, or a value is not finite.
        """
        ...

    def grid_mesh(self, function: Callable[[Tensor], Tensor], *, chunk: int) -> Mesh:
        """The mesh of one function at the preset's grid and level, without normals; empty where nothing is inside."""
        ...

    def is_inside(
        self, function: Callable[[Tensor], Tensor], positions: Float32[np.ndarray, "Q 3"], *, chunk: int
    ) -> Bool[np.ndarray, " Q"]:
        """Whether positions, in the units of shards, are inside one function's surface."""
        ...

    def reconstruction_error(
        self, function: Callable[[Tensor], Tensor], example: InputExample, *, chunk: int
    ) -> dict[str, float]:
        """The error of the function that was encoded from a file, by a name that implies the unit."""
        ...


class DecodedAtOwnPairs(ABC):
    """Base of domains whose sets are decoded at their own pairs."""

    config: Any

    @abstractmethod
    def queries(self, size: Any = None, window: Window = None, condition: Condition | None = None) -> Queries:
        """See `Domain.queries`."""

    def num_queries(self, size: Any = None, window: Window = None, condition: Condition | None = None) -> int:
        """The number of `queries(size, window, condition)`."""
        return len(self.queries(size, window, condition))

    def config_for_size(self, num_pairs: int) -> Any:
        """Its settings: all sets have one size."""
        return self.config

    def rows_to_read(self, sizes: Int64[np.ndarray, " B"], seeds: Int64[Tensor, " B"]) -> None:
        """None: training reads all values."""
        return None

    def train_batch(self, sets: CoordValueSet) -> TrainBatch:
        """The same sets for the encoder and the decoder."""
        return TrainBatch.from_sets(sets)


if TYPE_CHECKING:
    DomainClass = type[Domain]
else:
    DomainClass = type  # a class cannot be checked against a protocol with attributes when the program runs


def domain_class(name: str) -> DomainClass:
    """The class of a domain by its name; raises UsageError if there is none."""
    return registry.find("domains", name).Domain


def domain_classes() -> list[DomainClass]:
    """The classes of all domains, by name."""
    return [domain_class(name) for name in registry.parts("domains")]


def array_domains() -> list[tuple[DomainClass, ArrayFiles]]:
    """The domains whose samples are arrays, sorted by name, and the layout of their files."""
    return [(domain, domain.FILES) for domain in domain_classes() if domain.FILES is not None]


def conditions(labels: np.ndarray | None, batch: Batch) -> dict[str, Tensor]:
    """The class labels and the other conditions of a batch, as tensors."""
    condition = {} if labels is None else {"label": torch.from_numpy(np.asarray(labels, dtype=np.int64))}
    return condition | {name: torch.from_numpy(array) for name, array in batch.condition.items()}


def batch_of(values: np.ndarray, condition: Mapping[str, np.ndarray] | None = None) -> Batch:
    """Values as a batch without labels, names and seeds."""
    none = np.empty(0, dtype=np.int64)
    return Batch(values, np.full(len(values), -1, dtype=np.int64), [""] * len(values), none, condition=condition or {})


def empty_sets(queries: Queries, spec: SetSpec, count: int, condition: Condition | None = None) -> CoordValueSet:
    """Sets of zeros at some queries, for planning."""
    values = torch.zeros(count, spec.num_queries, spec.value_size)
    return CoordValueSet(queries, values, torch.zeros(count, dtype=torch.int64), condition or {})


def scaled(count: int, factor: float) -> int:
    """A number of pixels or points times `--scale`, rounded; raises UsageError where nothing is left, or without an end."""
    if not 0.5 < count * factor < math.inf:
        raise UsageError(f"`--scale {factor:g}` gives an empty or infinite size", hint="give a number such as 4 or 1.5")
    return round(count * factor)


def pixel_statistics(values: np.ndarray, noun: str, unit: str) -> list[tuple[str, str, np.ndarray]]:
    """Mean and deviation of each sample; one sample at a time, as float64 copies of all samples would take gigabytes."""
    return [
        (f"Mean of {noun}", unit, np.array([one.mean() for one in values])),
        (f"Deviation within {noun}", unit, np.array([one.std() for one in values])),
    ]


def psnr_of_each(
    output: UInt8[np.ndarray, "N *size C"], original: UInt8[np.ndarray, "N *size C"]
) -> Float64[np.ndarray, " N"]:
    """10 log10(255^2 / mean squared difference) of each pair, in dB; equal images count as if one number differed by one
    level: 48.13 dB + 10 log10(H W C) of images."""
    return 10 * np.log10(255**2 * output[0].size / np.maximum(squared_differences(output, original), 1))


def squared_differences(
    output: UInt8[np.ndarray, "N *size C"], original: UInt8[np.ndarray, "N *size C"]
) -> Int64[np.ndarray, " N"]:
    """The sum of squared differences of each pair, in levels; one pair at a time."""
    pairs = zip(output, original, strict=True)
    return np.array([np.square(one.astype(np.int64) - other).sum() for one, other in pairs])
