"""Shapes as occupancies: the coordinate is a position in space, the value whether it is inside.

The encoder reads points on the surface, the decoder is trained on other positions (DDMI, section 4; Occupancy Networks). In
shards a shape is in the cube [-0.5, 0.5]^3; for networks the cube with its padding is [-1, 1]^3. The target is 0 outside and 1
inside, and a model answers with logits. A sample is a cloud on the surface where the logit is 0, or the mesh of a surface.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from jaxtyping import Bool, Float, Float32, Int64
from torch import Tensor

from inrflow_core.distances import _contract as distances
from inrflow_core.domains import _shape_files
from inrflow_core.domains._contract import (
    CLOUD_GALLERY,
    ArrayFiles,
    InputExample,
    OutputSpec,
    batch_of,
    conditions,
)
from inrflow_core.domains._shape_files import NORMALS, OCCUPANCIES, QUERIES
from inrflow_core.errors import UsageError
from inrflow_core.fields import Surface, Window
from inrflow_core.geometry import isosurface, mesh, shape_scores
from inrflow_core.geometry.mesh import Mesh
from inrflow_core.numerics import keyed_random, noise_field
from inrflow_core.sets import Condition, CoordValueSet, Points, Queries, SetSpec, TrainBatch
from inrflow_core.shards.batch import Batch
from inrflow_core.visualization import mesh_grid, point_rendering

Function = Callable[[Tensor], Tensor]
"""The logits (P 1) of one shape at coordinates (P 3) in [-1, 1]."""
SOURCE_UNITS = ("offset", "scale")
"""Conditions that undo the normalization; no network reads them."""

MESH_RESOLUTION = 128
"""Points of a mesh's grid along each side, where none are given."""
SURFACE_POINTS = 2048
"""Points of a sample, where their number is not given: those of the usual metrics (DDMI, table 5)."""
LEVEL = 0.5
"""The probability of being inside on the surface, where none is given: where the logit is 0. The paper's code takes 0.2."""


@dataclass(frozen=True)
class Config:
    """What the shapes of a preset are."""

    num_points: int = 3000
    """Points of the surface that the encoder reads, drawn again from the stored ones in each step."""
    noise: float = 0.005
    """Standard deviation of the noise on these points in training; the longest side of a shape is 1."""
    num_queries: int = 2048
    """Positions that the decoder is trained on, drawn again from the stored ones in each step."""
    padding: float = 0.1
    """By this share the cube of positions is larger than that of shapes, half of it on each side."""
    grid: int = 64
    """Points along each side of the grid on which a sample's surface is found."""

    def __post_init__(self) -> None:
        for name, least in (("num_points", 1), ("num_queries", 1), ("grid", 2)):
            if getattr(self, name) < least:
                raise ValueError(f"`{name}` is {getattr(self, name)}: at least {least}")
        if self.grid > isosurface.MOST_RESOLUTION:
            raise ValueError(f"`grid` is {self.grid}: at most {isosurface.MOST_RESOLUTION}")
        if not 0 <= self.noise < 1:
            raise ValueError(f"`noise` is {self.noise}: from 0 to below 1")
        if not 0 <= self.padding <= 1:
            raise ValueError(f"`padding` is {self.padding}: from 0 to 1")


def describe_shape(shape: tuple[int, ...]) -> str:
    """`2,048 surface points`."""
    return f"{shape[0]:,} surface points"


class Domain:
    """A grid of positions, sets from surface points and queries, and surface points from values."""

    NAME = "shape"
    NOUN = "shapes"
    FORMATS = ("ply", "npz", "png")
    MESH_FORMATS = ("glb", "obj", "ply", "png", "stl")
    FILES = ArrayFiles(("surface_points",), "float32", 3, (3,), "float (N P 3)", describe=describe_shape)
    SIZE_OPTION = "--points"
    HAS_CAMERAS = False
    HAS_WINDOWS = False
    REFERENCE_SPLITS = ("test", "val", "train")
    DEFAULT_METRICS = (
        *("mmd:cd:ddmi", "cov:cd:ddmi", "one-nna:cd:ddmi"),
        *("mmd:cd:inrflow", "cov:cd:inrflow", "one-nna:cd:inrflow"),
    )
    METRICS_OF_SEVERAL = ()
    VIEW_DOMAIN = None
    CLOUD_DOMAIN = "points"
    REQUIRED_CONDITIONS = (QUERIES, OCCUPANCIES)
    MAKES_STRUCTURES = False
    GALLERY = CLOUD_GALLERY
    MEMORIZATION = None  # a sample has other points than the stored surface

    def __init__(self, config: Config) -> None:
        self.config = config
        self.shape = SetSpec(3, 1, Points(config.num_queries, has_coordinates=True), is_probability=True)

    @property
    def half(self) -> float:
        """Half the side of the cube of positions; a network's coordinate times this is a position."""
        return (1 + self.config.padding) / 2

    @property
    def box(self) -> isosurface.Box:
        """The cube of positions, its lowest and its highest corner."""
        half = self.half
        return (-half, -half, -half), (half, half, half)

    def queries(
        self, size: int | Surface | None = None, window: Window = None, condition: Condition | None = None
    ) -> Queries:
        """The grid on which the surface is found, (x, y, z) with z fastest; the same for any number of surface points.

        Raises:
            UsageError: fewer than 1 point, or a window, which only images have.
        """
        if window is not None:
            raise UsageError("a shape has no window", hint="leave `--window` out")
        if isinstance(size, int) and size < 1:
            raise UsageError(f"a shape of {size} surface points is none", hint="request at least 1 point")
        axis = torch.linspace(-1, 1, self.config.grid)
        positions = torch.stack(torch.meshgrid(axis, axis, axis, indexing="ij"), -1).flatten(0, 2)
        return Queries(positions, torch.arange(len(positions)))

    def num_queries(
        self, size: int | Surface | None = None, window: Window = None, condition: Condition | None = None
    ) -> int:
        """The points of the grid of surface points, also of a mesh: its functions are evaluated one by one."""
        return self.config.grid**3

    def to_set(
        self,
        batch: Batch,
        seeds: Int64[Tensor, " B"],
        labels: np.ndarray | None = None,
        *,
        augment: bool = False,
    ) -> CoordValueSet:
        """Surface points (B P 3) as the sets that the encoder reads: their values are their coordinates.

        More than `num_points` are subsampled, keyed by the seed; with `augment` (in training) they get noise. Where the batch
        has queries, a subset of them, keyed by the seed, is in the condition: `queries` (B M 3), in the network's scale, and
        `occupancies` (B M 1), 0 or 1.

        Raises:
            UsageError: fewer queries than the preset needs, or, with `augment`, fewer surface points.
        """
        config = self.config
        stored = batch.values.shape[1]
        if augment and stored < config.num_points:
            raise UsageError(
                f"the shapes have {stored:,} surface points, and the preset needs {config.num_points:,}",
                hint=f"set `domain.num_points={stored}`, or prepare shapes of more points",
            )
        points = torch.from_numpy(np.ascontiguousarray(batch.values)).float() / self.half
        if stored > config.num_points:
            subset = keyed_random.subset(seeds.cpu(), stored, config.num_points, purpose="surface")
            points = points.gather(1, subset[..., None].expand(-1, -1, 3))
        if augment and config.noise:
            ids = torch.arange(points.shape[1])
            noise = noise_field.normal(seeds.cpu(), ids, purpose="surface noise", channels=3)
            points = points + noise * (config.noise / self.half)
        beside = {
            name: value
            for name, value in conditions(labels, batch).items()
            if name not in (QUERIES, OCCUPANCIES, NORMALS, *SOURCE_UNITS)
        }
        if QUERIES in batch.condition:
            beside |= self._targets(batch, seeds.cpu())
        return CoordValueSet(Queries(points, torch.arange(points.shape[1])), points, seeds, beside)

    def rows_to_read(self, sizes: Int64[np.ndarray, " B"], seeds: Int64[Tensor, " B"]) -> None:
        """None: training reads all points, which is faster than some thousands one by one."""
        return None

    def train_batch(self, sets: CoordValueSet) -> TrainBatch:
        """The surface points for the encoder, and the occupancies of queries for the decoder."""
        condition = {name: value for name, value in sets.condition.items() if name not in (QUERIES, OCCUPANCIES)}
        positions, values = sets.condition[QUERIES], sets.condition[OCCUPANCIES]
        keys = torch.arange(positions.shape[1], device=positions.device)
        return TrainBatch(
            CoordValueSet(sets.queries, sets.values, sets.seeds, condition),
            CoordValueSet(Queries(positions, keys), values, sets.seeds, condition),
        )

    def dummy_batch(self, count: int) -> CoordValueSet:
        """Points at the origin and empty space, for planning."""
        config = self.config
        arrays = {
            QUERIES: np.zeros((count, config.num_queries, 3), np.float32),
            OCCUPANCIES: np.zeros((count, -(-config.num_queries // 8)), np.uint8),
        }
        points = np.zeros((count, config.num_points, 3), np.float32)
        return self.to_set(batch_of(points, arrays), torch.zeros(count, dtype=torch.int64))

    def config_for_size(self, num_pairs: int) -> Config:
        """Its settings: all sets have one size."""
        return self.config

    def decode_values(
        self, values: Float[Tensor, "B M C"], size: int | None = None, condition: Condition | None = None
    ) -> np.ndarray:
        """Points uniform on each surface, float32 (B P 3), in [-0.5, 0.5] with padding; all 0 where nothing is inside."""
        side, count = self.config.grid, size or SURFACE_POINTS
        grids = values.float().cpu().numpy().reshape(len(values), side, side, side)
        axis = np.linspace(-self.half, self.half, side)
        points = np.zeros((len(grids), count, 3), dtype=np.float32)
        for index, grid in enumerate(grids):
            surface = isosurface.surface_of_grid(grid, [axis] * 3, level=0.0, outside=-1.0)
            if len(surface.faces):
                points[index] = mesh.sample_surface(surface, count, seed=0)
        return points

    def parse_size(self, text: str) -> int:
        """A number of points; raises UsageError unless it is a whole number above 0."""
        if not text.isdecimal() or int(text) < 1:
            raise UsageError(
                f"`--points {text}`: a shape has at least 1 surface point", hint="give a whole number above 0"
            )
        return int(text)

    def size_in_file(
        self, points: int | None, resolution: str | None, suffix: str, level: float | None
    ) -> int | Surface | None:
        """A mesh for files of meshes, and for .ply and .png unless a number of surface points is given.

        Raises:
            UsageError: a number is out of range, or one does not apply to such files.
            OutOfMemory: the grid does not fit.
        """
        form = suffix.removeprefix(".")
        if form in self.MESH_FORMATS and points is None:
            return Surface(_resolution(resolution), _probability(level), "probability")
        if form in self.MESH_FORMATS and form not in self.FORMATS:
            raise UsageError(
                f"a `{suffix}` file holds a mesh, and `--points` and `--scale` set a number of surface points",
                hint="write a .ply or an .npz of surface points, or set the grid of the mesh with `--resolution`",
            )
        for option, number in (("--resolution", resolution), ("--level", level)):
            if number is not None:
                raise UsageError(
                    f"`{option}` is of the mesh of a shape, and this writes surface points",
                    hint="set their number with `--points`, or write a .glb, .obj, .stl or .ply without it",
                )
        return points

    def surface(self, function: Function, size: Surface, *, chunk: int) -> Mesh:
        """The mesh of one function, in [-0.5, 0.5] with padding, closed also at the border, with normals.

        Raises:
            UsageError: no position of the grid is inside, or a logit is not finite.
        """
        level, highest, function_of = LEVEL if size.level is None else size.level, -math.inf, self._logits(function)

        def logits(points: Float32[Tensor, "P 3"]) -> Float[Tensor, " P"]:
            nonlocal highest
            values = function_of(points)
            highest = max(highest, float(values.max()))
            return values

        found = isosurface.extract_occupied(
            logits, self.box, level=math.log(level / (1 - level)), resolution=size.resolution, chunk=chunk
        )
        if not len(found.faces):
            raise UsageError(
                f"a shape is empty: the highest probability of being inside is {torch.tensor(highest).sigmoid().item():.2g}, and its "
                f"surface is at {level:g}",
                hint="take other seeds or a lower `--level`, or train the model longer",
            )
        return found

    def grid_mesh(self, function: Function, *, chunk: int) -> Mesh:
        """The mesh of one function at the preset's grid, where its logit is 0, without normals; empty where nothing is inside."""
        return isosurface.extract_occupied(
            self._logits(function), self.box, resolution=self.config.grid, chunk=chunk, with_normals=False
        )

    def is_inside(
        self, function: Function, positions: Float32[np.ndarray, "Q 3"], *, chunk: int
    ) -> Bool[np.ndarray, " Q"]:
        """Whether a function says that positions are inside: where its logit is above 0."""
        logits, parts = self._logits(function), torch.from_numpy(np.ascontiguousarray(positions)).split(chunk)
        with torch.no_grad():
            return torch.cat([logits(part).cpu() > 0 for part in parts]).numpy()

    def _logits(self, function: Function) -> isosurface.Logits:
        """A function of positions in the units of shards."""
        return lambda positions: function(positions / self.half)[:, 0].float()

    def scale_size(self, factor: float) -> int:
        """2,048 points times `factor`, rounded; raises UsageError where no point is left."""
        count = factor * SURFACE_POINTS
        if not 0.5 < count < math.inf:
            raise UsageError(
                f"`--scale {factor:g}` gives an empty or infinite size", hint="give a number such as 4 or 1.5"
            )
        return round(count)

    def describe_size(self, size: int | Surface | None, condition: Condition | None = None) -> str:
        """`2,048 surface points`, `a mesh on a grid of 128 points a side`."""
        if isinstance(size, Surface):
            return f"a mesh on a grid of {size.resolution:,} points a side"
        return describe_shape((size or SURFACE_POINTS,))

    def output_spec(self, size: int | None = None) -> OutputSpec:
        """float32 (P 3)."""
        return OutputSpec((size or SURFACE_POINTS, 3), "float32")

    @staticmethod
    def accepts(path: Path) -> bool:
        """Files of meshes and of clouds; a .ply file is one or the other."""
        return path.suffix.lower() in _shape_files.SUFFIXES

    def read_input(self, path: Path, normalization: Mapping[str, Any]) -> InputExample:
        """A cloud on a surface, or points on that of a mesh; see `_shape_files.read`."""
        return _shape_files.read(path, self.half)

    def compare(self, output: np.ndarray, original: np.ndarray) -> dict[str, float]:
        """Chamfer distance: mean squared nearest distances both ways, summed; the longest side of the original is 1."""
        return {"chamfer": distances.find("cd").between(output, original)}

    def reconstruction_error(self, function: Function, example: InputExample, *, chunk: int) -> dict[str, float]:
        """`chamfer_l1` of points on the surface at the preset's grid, in tenths of the longest side, and of a file with
        occupancies their `iou` (`shape_scores`); without a surface the IoU alone."""
        errors = {}
        found = self.grid_mesh(function, chunk=chunk)
        if len(found.faces):
            points, normals = mesh.sample_surface_with_normals(found, len(example.values), seed=0)
            other = example.condition.get(NORMALS, np.zeros_like(example.values))
            errors["chamfer_l1"] = shape_scores.surface_scores(points, normals, example.values, other).chamfer_l1
        if OCCUPANCIES in example.condition:
            positions = example.condition[QUERIES]
            inside = np.unpackbits(example.condition[OCCUPANCIES], count=len(positions)).astype(bool)
            errors["iou"] = shape_scores.iou(self.is_inside(function, positions, chunk=chunk), inside)
        return errors

    def render(self, outputs: np.ndarray | Sequence[Mesh], captions: Sequence[str] = ()) -> Any:
        """Shaded renderings of the surfaces of all shapes, or of points on them."""
        size = 512 if len(outputs) == 1 else 256
        if isinstance(outputs, np.ndarray):
            return point_rendering.render_clouds(outputs, size=size, captions=captions)
        return mesh_grid.render_meshes(outputs, size=size, captions=captions)

    @staticmethod
    def thumbnails(values: np.ndarray) -> np.ndarray:
        """The surface points, which the report can rotate."""
        return values

    @staticmethod
    def statistics(values: np.ndarray) -> Sequence[tuple[str, str, np.ndarray]]:
        """Lengths of each shape along the axes."""
        extents = np.ptp(values, axis=1)
        return [(f"Length along {axis}", "longest side", extents[:, number]) for number, axis in enumerate("xyz")]

    def _targets(self, batch: Batch, seeds: Int64[Tensor, " B"]) -> dict[str, Float32[Tensor, "B M _"]]:
        """A subset of the stored queries, and whether each is inside."""
        queries, bits = (torch.from_numpy(np.ascontiguousarray(batch.condition[n])) for n in (QUERIES, OCCUPANCIES))
        stored, count = queries.shape[1], self.config.num_queries
        if stored < count:
            raise UsageError(
                f"the shapes have {stored:,} queries, and the preset needs {count:,}",
                hint=f"set `domain.num_queries={stored}`, or prepare shapes of more queries",
            )
        subset = keyed_random.subset(seeds, stored, count, purpose="occupancies")
        positions = queries.float().gather(1, subset[..., None].expand(-1, -1, 3)) / self.half
        inside = (bits.long().gather(1, subset // 8) >> (7 - subset % 8)) & 1
        return {QUERIES: positions, OCCUPANCIES: inside[..., None].float()}


def _resolution(text: str | None) -> int:
    """The points of a mesh's grid along each side; raises UsageError for others than a whole number in range, OutOfMemory
    for a grid that does not fit."""
    if text is None:
        return MESH_RESOLUTION
    if not text.isdecimal() or not 2 <= int(text) <= isosurface.MOST_RESOLUTION:
        raise UsageError(
            f"`--resolution {text}`: the points of a mesh's grid along each side",
            hint=f"give one whole number from 2 to {isosurface.MOST_RESOLUTION}",
        )
    isosurface.check_memory(int(text))
    return int(text)


def _probability(level: float | None) -> float:
    """The probability on the surface of a mesh; raises UsageError unless it is between 0 and 1."""
    if level is None:
        return LEVEL
    if not 0 < level < 1:
        raise UsageError(
            f"`--level {level:g}`: the probability of being inside, on the surface of a shape",
            hint="give a number above 0 and below 1, such as 0.2",
        )
    return level
