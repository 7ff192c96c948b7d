"""Scenes in posed views: the coordinate is a camera ray, the value the color along it.

A set of training is one view: the encoder reads a random view of a scene, the decoder is trained on another one (INRCT). With
`surface_points` the encoder reads colored points of the scene's surface, in units of `extent` (DDMI). The
origin of a ray is its coordinate, in world units; its direction has depth 1 along the camera's axis, so that near and far
of a read-out are depths (INRCT, section 3.3 and appendix C.2).
"""

from __future__ import annotations

import math
import re
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import torch
from jaxtyping import Float, Float32, Int64
from torch import Tensor

from inrflow_core.domains import _scene_surfaces
from inrflow_core.domains._contract import (
    IMAGE_GALLERY,
    ArrayFiles,
    InputExample,
    OutputSpec,
    batch_of,
    conditions,
    pixel_statistics,
    psnr_of_each,
    scaled,
)
from inrflow_core.errors import UsageError
from inrflow_core.fields import Camera, Orbit, Surface, Window
from inrflow_core.geometry import cameras, isosurface
from inrflow_core.geometry.mesh import Mesh
from inrflow_core.numerics import keyed_random
from inrflow_core.sets import CAMERA, SURFACE, Condition, CoordValueSet, Queries, Rays, SetSpec, TrainBatch
from inrflow_core.shards.batch import Batch
from inrflow_core.visualization import image_grid, image_io, mesh_grid

MOST_RESOLUTION = 4096
MOST_VIEWS = 1024
"""The most views of a turntable: all are in memory."""
SHOWN = 4
"""Views of a scene in a report."""
VIDEOS = (".gif", ".webp", ".mp4")
TURNTABLE = 60
"""Views of a video by default."""
SURFACE_RESOLUTION = 128
VIEWS = "views"
"""The condition of sets of surface points: the views that are stored with them, uint8 (V H W 3)."""
FARTHEST = 1e6
"""The largest distance and extent, in world units: of larger ones single precision loses the scene."""


@dataclass(frozen=True)
class Config:
    """What the scenes of a preset are, and the cameras of views that no data set gives."""

    resolution: int = 128
    """Rows and columns of a view."""
    distance: float = 1.3
    """Distance of drawn views' cameras from the origin, in world units."""
    elevation: float = 20.0
    """Their elevation, in degrees."""
    field_of_view: float = 51.98948897809546
    """Their field of view, in degrees; that of SRN: a focal length of 131.25 for 128 pixels."""
    extent: float = 0.5
    """Half the side of the cube around the origin in which scenes are, in world units: that of meshes, and with
    `surface_points` of the encoder's planes and of the renderer."""
    surface_points: int | None = None
    """Colored points of a scene's surface that the encoder reads, drawn again from the stored ones in each step; None: it reads
    a view."""

    def __post_init__(self) -> None:
        if not 1 <= self.resolution <= MOST_RESOLUTION:
            raise ValueError(f"`resolution` is {self.resolution}: from 1 to {MOST_RESOLUTION:,}")
        for name in ("distance", "extent"):
            if not 0 < getattr(self, name) <= FARTHEST:
                raise ValueError(f"`{name}` is {getattr(self, name)}: above 0, at most {FARTHEST:g}")
        if self.surface_points is not None and self.surface_points < 1:
            raise ValueError(f"`surface_points` is {self.surface_points}: at least 1, or leave it out to encode views")
        if not -90 <= self.elevation <= 90:
            raise ValueError(f"`elevation` is {self.elevation}: from -90 to 90")
        if not 0 < self.field_of_view < 180:
            raise ValueError(f"`field_of_view` is {self.field_of_view}: between 0 and 180")


Medium = Callable[[Tensor], tuple[Tensor, Tensor]]
"""The densities (P) and colors (P 3), in [0, 1], of one scene at points (P 3) in the world."""
ViewSize = Orbit | tuple[int, int] | int | None
"""A turntable, the rows and columns of the condition's cameras or of the default camera; None is the training size."""


def describe_shape(shape: tuple[int, ...]) -> str:
    """`24 views of 64 x 64 pixels`."""
    return f"{shape[0]:,} view{'s' * (shape[0] != 1)} of {shape[1]} x {shape[2]} pixels"


class Domain:
    """Rays of cameras, sets from uint8 views, and views from values."""

    NAME = "radiance"
    NOUN = "scenes"
    FORMATS = ("png", "npz", "gif", "webp", "mp4")
    MESH_FORMATS = ("glb", "obj", "ply", "stl")
    FILES = ArrayFiles(("views",), "uint8", 5, (3,), "uint8 (N V H W C)", describe=describe_shape, has_one_shape=True)
    SIZE_OPTION = "--resolution"
    HAS_CAMERAS = True
    HAS_WINDOWS = False
    REFERENCE_SPLITS = ("test", "val", "train")
    DEFAULT_METRICS = ("novel-view-psnr", "novel-view-ssim", "fid:random", "kid:random")
    METRICS_OF_SEVERAL = ()
    VIEW_DOMAIN = "image"
    CLOUD_DOMAIN = None
    REQUIRED_CONDITIONS: tuple[str, ...] = (CAMERA,)
    MAKES_STRUCTURES = False
    GALLERY = IMAGE_GALLERY
    MEMORIZATION = None  # the cameras of drawn scenes are not those of any training scene

    def __init__(self, config: Config) -> None:
        self.config = config
        rays = Rays(1, config.resolution, config.resolution, config.extent, config.surface_points)
        self.shape = SetSpec(3, 3, rays)
        if not self.reads_views:
            self.REQUIRED_CONDITIONS = (CAMERA, SURFACE)

    @property
    def reads_views(self) -> bool:
        """Whether the encoder reads a view, and not points of a scene's surface."""
        return self.config.surface_points is None

    def queries(self, size: ViewSize = None, window: Window = None, condition: Condition | None = None) -> Queries:
        """The rays of all pixels, view by view and row by row.

        Those of an `Orbit`'s cameras; else of the cameras of the condition, (B 4 4) or (B V 4 4), if it has any; else of
        the default camera. The shorter side of a view has the camera's field of view.

        Raises:
            UsageError: a side or a number of views below 1, or a window, which only images have.
        """
        if window is not None:
            raise UsageError("a view of a scene has no window", hint="leave `--window` out")
        rows, columns = self._sides(size)
        if min(rows, columns) < 1:
            raise UsageError(f"a view of {rows} x {columns} has no pixels", hint="both sides are at least 1")
        poses = self._cameras(size, condition)
        origins, directions = cameras.depth_rays(cameras.fitted(poses, rows, columns), rows, columns)
        keys = self._noise_keys(rows, columns).repeat(poses.shape[-3], 1).to(origins.device)
        return Queries(origins.flatten(-3, -2), keys, directions=directions.flatten(-3, -2))

    def num_queries(
        self, size: ViewSize | Surface = None, window: Window = None, condition: Condition | None = None
    ) -> int:
        """The number of `queries(size, window, condition)`; of a mesh that of its grid's points."""
        if isinstance(size, Surface):
            return size.resolution**3
        return math.prod(self._sides(size)) * self._num_views(size, condition)

    def to_set(
        self,
        batch: Batch,
        seeds: Int64[Tensor, " B"],
        labels: np.ndarray | None = None,
        *,
        augment: bool = False,
    ) -> CoordValueSet:
        """Stored views, uint8 (B V H W 3), as sets of all their pixels in [-1, 1], with the rays of their cameras.

        Views without cameras have the default one. Of scenes that differ in their number of views, `mask` is True at
        the pixels of real ones.

        Where the encoder reads surface points, sets are these (B P 6), subsampled by the seed, with positions in units of
        `extent`; their condition has the views as they are stored.

        Raises:
            UsageError: with `augment`, fewer points are stored than the preset needs.
        """
        if not self.reads_views:
            return self._surface_set(batch, seeds, conditions(labels, batch), augment=augment)
        views = torch.from_numpy(np.ascontiguousarray(batch.values)).float()
        count, num_views, rows, columns, _ = views.shape
        condition = conditions(labels, batch)
        if CAMERA not in condition:
            condition[CAMERA] = self._default().expand(count, num_views, 4, 4)
        mask = None
        if batch.sizes is not None and (batch.sizes != num_views).any():
            is_real = torch.arange(num_views) < torch.from_numpy(batch.sizes)[:, None]
            condition[CAMERA] = torch.where(is_real[..., None, None], condition[CAMERA], self._default())
            mask = is_real.repeat_interleave(rows * columns, dim=1)
        queries = self.queries((rows, columns), condition=condition)
        return CoordValueSet(queries, views.div(127.5).sub(1).flatten(1, 3), seeds, condition, mask)

    def rows_to_read(self, sizes: Int64[np.ndarray, " B"], seeds: Int64[Tensor, " B"]) -> Int64[np.ndarray, "B K"]:
        """The view of each scene that the encoder reads and the other one that the decoder is trained on, at random; one view
        where the encoder reads surface points.

        Raises:
            UsageError: a scene has a single view, and two are needed.
        """
        counts = torch.from_numpy(np.asarray(sizes, dtype=np.int64))
        if not self.reads_views:
            number = keyed_random.uniform(seeds.cpu(), purpose="views")[:, 0]
            return (number * counts).long()[:, None].numpy()
        if (counts < 2).any():
            raise UsageError("a scene has one view, and training needs two", hint="prepare the scenes again")
        numbers = keyed_random.uniform(seeds.cpu(), purpose="views", count=2)
        support = (numbers[:, 0] * counts).long()
        step = 1 + (numbers[:, 1] * (counts - 1)).long()
        return torch.stack([support, (support + step) % counts], dim=1).numpy()

    def train_batch(self, sets: CoordValueSet) -> TrainBatch:
        """The first of two views for the encoder, the second for the decoder; of more, two that the seeds choose. Of surface
        points with a view, the points for the encoder and the view for the decoder."""
        if not self.reads_views:
            return self._surface_batch(sets)
        num_views = sets.condition[CAMERA].shape[1]
        if num_views == 2:
            return TrainBatch(self.select_view(sets, 0), self.select_view(sets, 1))
        pixels = len(sets.queries) // num_views
        sizes = np.full(len(sets), num_views) if sets.mask is None else sets.mask.sum(1).cpu().numpy() // pixels
        rows = torch.from_numpy(self.rows_to_read(sizes, sets.seeds)).to(sets.values.device)
        return TrainBatch(self.select_view(sets, rows[:, 0]), self.select_view(sets, rows[:, 1]))

    def select_view(self, sets: CoordValueSet, views: Int64[Tensor, " B"] | int) -> CoordValueSet:
        """One view of each set, with its camera (B 4 4)."""
        num_views, count = sets.condition[CAMERA].shape[1], len(sets)
        number = views if isinstance(views, int) else (torch.arange(count, device=sets.values.device), views)

        def select(tensor: Tensor) -> Tensor:
            parts = tensor.unflatten(1, (num_views, -1))
            return parts[:, number] if isinstance(number, int) else parts[number]

        coordinates, directions = sets.queries.coordinates, sets.queries.directions
        assert coordinates is not None and directions is not None
        keys = sets.queries.noise_keys[: len(sets.queries) // num_views]
        condition = {name: select(value)[:, 0] if name == CAMERA else value for name, value in sets.condition.items()}
        queries = Queries(select(coordinates), keys, directions=select(directions))
        return CoordValueSet(queries, select(sets.values), sets.seeds, condition)

    def dummy_batch(self, count: int) -> CoordValueSet:
        """Two gray views of each scene, or points at the origin with one, for planning."""
        side, points = self.config.resolution, self.config.surface_points
        views = np.full((count, 2 if points is None else 1, side, side, 3), 127, dtype=np.uint8)
        surface = {} if points is None else {SURFACE: np.zeros((count, points, 6), dtype=np.float32)}
        return self.to_set(batch_of(views, surface), torch.zeros(count, dtype=torch.int64))

    def config_for_size(self, num_pairs: int) -> Config:
        """Its settings: a training set is one view."""
        return self.config

    def decode_values(
        self, values: Float[Tensor, "B M C"], size: ViewSize = None, condition: Condition | None = None
    ) -> np.ndarray:
        """Views, uint8 (B V H W 3), from values at `queries(size, condition=condition)`."""
        pixels = values.add(1).mul(127.5).round().clamp(0, 255).to(torch.uint8)
        shape = self._num_views(size, condition), *self._sides(size)
        return pixels.unflatten(1, shape).cpu().numpy()

    def parse_size(self, text: str) -> tuple[int, int] | Orbit:
        """Rows and columns from `96` or `64x96`, and a turntable from `64x96x24`, whose last number is its views.

        Raises:
            UsageError: the text is none of these, a number is 0, or there are too many views.
        """
        match = re.fullmatch(r"(\d+)(?:[xX](\d+))?(?:[xX](\d+))?", text.strip())
        rows, columns = (int(match[1]), int(match[2] or match[1])) if match else (0, 0)
        views = int(match[3]) if match and match[3] else None
        if min(rows, columns) < 1 or (views is not None and not 1 <= views <= MOST_VIEWS):
            raise UsageError(
                f"`--resolution {text}` is not a size of views",
                hint="write one side as in `96`, rows x columns as in `64x96`, or rows x columns x views as in "
                f"`64x96x24`, with at most {MOST_VIEWS:,} views",
            )
        return (rows, columns) if views is None else Orbit(rows, columns, views)

    def scale_size(self, factor: float) -> tuple[int, int]:
        """Rows and columns of the training views times `factor`, rounded; raises UsageError where no pixel is left."""
        side = scaled(self.config.resolution, factor)
        return side, side

    def size_in_file(
        self,
        size: tuple[int, int] | Orbit | None,
        suffix: str,
        views: int | None,
        camera: Camera,
        level: float | None,
    ) -> ViewSize | Surface:
        """A mesh for files of meshes; for others views of these cameras, of which a video has 60 by default.

        Raises:
            UsageError: a number is out of range, the number of views is given twice, or one does not apply to such files.
        """
        if suffix.removeprefix(".") in self.MESH_FORMATS:
            return self._surface(size, suffix, views, camera, level)
        if level is not None:
            raise UsageError(
                f"`--level` is the density on a mesh, and `{suffix}` files hold views", hint="leave it out"
            )
        if isinstance(size, Orbit) and views is not None:
            raise UsageError(
                f"`--views {views}` and a `--resolution` of {size.views} views exclude each other",
                hint="write `--resolution` as rows x columns",
            )
        rows, columns = self._sides(size)
        count = size.views if isinstance(size, Orbit) else views
        if count is None and camera == Camera() and suffix not in VIDEOS:
            return size
        if count is None:
            count = TURNTABLE if suffix in VIDEOS else 1
        if not 1 <= count <= MOST_VIEWS:
            raise UsageError(f"a turntable of {count:,} views", hint=f"give from 1 to {MOST_VIEWS:,} views")
        self._camera(camera)
        return Orbit(rows, columns, count, camera)

    def camera_condition(self, camera: Camera) -> dict[str, np.ndarray]:
        """The condition of one view, (1 4 4), that is seen by a camera; raises UsageError for numbers out of range."""
        return {CAMERA: self._camera(camera)[None]}

    def condition_of_cameras(self, poses: Float32[Tensor, "B 4 4"]) -> dict[str, Tensor]:
        """The condition of sets of one view each, seen by these cameras."""
        return {CAMERA: poses}

    def condition_of_samples(self, size: ViewSize, condition: Condition | None, count: int) -> dict[str, np.ndarray]:
        """The camera of every view of `count` samples of a size, float32 (B V 4 4), as shards of samples record it."""
        poses = self.cameras(size, condition)
        return {CAMERA: np.broadcast_to(poses, (count, *poses.shape[-3:]))}

    def cameras(self, size: ViewSize, condition: Condition | None) -> Float32[np.ndarray, "*sets 4 4"]:
        """The cameras of views of a size, (V 4 4) for all samples or (B V 4 4)."""
        return self._cameras(size, condition).cpu().numpy()

    @property
    def box(self) -> tuple[tuple[float, float, float], tuple[float, float, float]]:
        """The cube in which scenes are, its lowest and its highest corner."""
        half = self.config.extent
        return (-half, -half, -half), (half, half, half)

    def describe_size(self, size: ViewSize | Surface = None, condition: Condition | None = None) -> str:
        """`1 view of 96 x 96 pixels`, `a mesh on a grid of 128 points a side`."""
        if isinstance(size, Surface):
            return f"a mesh on a grid of {size.resolution:,} points a side"
        return describe_shape((self._num_views(size, condition), *self._sides(size)))

    def output_spec(self, size: ViewSize = None) -> OutputSpec:
        """uint8 (V H W 3)."""
        return OutputSpec((self._num_views(size, None), *self._sides(size), 3), "uint8")

    @staticmethod
    def accepts(path: Path) -> bool:
        """Image files, a view seen by the default camera, and surfaces; `read_input` refuses those that a model does not read."""
        return image_io.is_image_name(path.name) or _scene_surfaces.is_surface_name(path.name)

    def read_input(self, path: Path, normalization: Mapping[str, Any]) -> InputExample:
        """The central square of an image at the training resolution, on white, as one view (1 R R 3), or a colored surface.

        Raises:
            UsageError: the encoder reads the other kind of file, or see `_scene_surfaces.read`.
        """
        if _scene_surfaces.is_surface_name(path.name) == self.reads_views:
            reads, hint = "colored points of a surface", "give a .ply cloud with colors or a mesh"
            if self.reads_views:
                reads, hint = "a view", "give an image"
            raise UsageError(f"the model encodes scenes from {reads}, and `{path}` is none", hint=hint)
        if not self.reads_views:
            return _scene_surfaces.read(path, self.config.extent, self.config.resolution)
        image = image_io.center_crop(image_io.read_image(path, "RGB"), self.config.resolution)
        return InputExample(image[None].copy())

    def compare(self, output: np.ndarray, original: np.ndarray) -> dict[str, float]:
        """Peak signal-to-noise ratio in dB, peak 255: the mean over the views, as `image` has it of each."""
        views = (values.reshape(-1, *values.shape[-3:]) for values in (output, original))
        return {"psnr": float(psnr_of_each(*views).mean())}

    def color_error(self, medium: Medium, example: InputExample, *, chunk: int) -> dict[str, float]:
        """Peak signal-to-noise ratio in dB of a scene's colors at the surface points of an example."""
        return _scene_surfaces.color_error(medium, example.condition[SURFACE], chunk)

    def render(self, outputs: np.ndarray | Sequence[Mesh], captions: Sequence[str] = ()) -> Any:
        """A row of views for each scene (with captions at most `SHOWN`), single views in a grid; meshes rendered."""
        if not isinstance(outputs, np.ndarray):
            return mesh_grid.render_meshes(outputs, captions=captions)
        return (
            image_grid.sheet(outputs[:, :: -(-outputs.shape[1] // SHOWN)], captions)
            if captions
            else image_grid.scene_grid(outputs)
        )

    @staticmethod
    def thumbnails(values: np.ndarray) -> np.ndarray:
        """The first views of each scene side by side, uint8 (B H V*W 3)."""
        shown = values[:, :SHOWN].transpose(0, 2, 1, 3, 4)
        return shown.reshape(*shown.shape[:2], -1, shown.shape[-1])

    @staticmethod
    def statistics(values: np.ndarray) -> Sequence[tuple[str, str, np.ndarray]]:
        """Brightness and contrast of the views of each scene."""
        return pixel_statistics(values, "a scene", "gray levels")

    def _surface_set(
        self, batch: Batch, seeds: Int64[Tensor, " B"], condition: dict[str, Tensor], *, augment: bool
    ) -> CoordValueSet:
        """Surface points of scenes for the encoder; beside them their views and cameras, if there are views."""
        count, num_views = self.config.surface_points, batch.values.shape[1]
        assert count is not None
        extent = self.config.extent
        surface = _scene_surfaces.subset(condition.pop(SURFACE).float(), count, seeds, extent, is_training=augment)
        if num_views:
            condition[VIEWS] = torch.from_numpy(np.ascontiguousarray(batch.values))
            condition.setdefault(CAMERA, self._default().expand(len(surface), num_views, 4, 4))
        positions = surface[..., :3] / extent
        queries = Queries(positions, torch.arange(surface.shape[1]))
        return CoordValueSet(queries, torch.cat([positions, surface[..., 3:]], -1), seeds, condition)

    def _surface_batch(self, sets: CoordValueSet) -> TrainBatch:
        """Surface points for the encoder, and the pixels of the one view beside them for the decoder."""
        views = sets.condition[VIEWS]
        assert views.shape[1] == 1, "`rows_to_read` has one view of each scene"
        condition = {name: value for name, value in sets.condition.items() if name != VIEWS}
        condition[CAMERA] = condition[CAMERA][:, 0]
        rows, columns = views.shape[2:4]
        values = views[:, 0].float().div(127.5).sub(1).flatten(1, 2)
        queries = self.queries((rows, columns), condition=condition)
        return TrainBatch(replace(sets, condition=condition), CoordValueSet(queries, values, sets.seeds, condition))

    def _sides(self, size: ViewSize) -> tuple[int, int]:
        """Rows and columns of a size: one number is a square, None the training views."""
        if isinstance(size, Orbit):
            return size.rows, size.columns
        side = self.config.resolution if size is None else size
        return (side, side) if isinstance(side, int) else side

    def _num_views(self, size: ViewSize, condition: Condition | None) -> int:
        if isinstance(size, Orbit):
            return size.views
        poses = None if condition is None else condition.get(CAMERA)
        return poses.shape[1] if poses is not None and poses.ndim == 4 else 1

    def _cameras(self, size: ViewSize, condition: Condition | None) -> Float32[Tensor, "*sets 4 4"]:
        """(V 4 4) for all sets, or (B V 4 4) of the condition."""
        if isinstance(size, Orbit):
            start = size.camera.azimuth or 0.0
            azimuths = [start + 360 * number / size.views for number in range(size.views)]
            steps = [self._camera(size.camera._replace(azimuth=azimuth)) for azimuth in azimuths]
            return torch.from_numpy(np.stack(steps))
        if condition is not None and CAMERA in condition:
            poses = condition[CAMERA]
            return poses if poses.ndim == 4 else poses[:, None]
        return self._default()[None]

    def _default(self) -> Float32[Tensor, "4 4"]:
        """The camera of a view that has none."""
        return torch.from_numpy(self._camera(Camera()))

    def _camera(self, camera: Camera) -> Float32[np.ndarray, "4 4"]:
        """A camera's array, with the domain's settings where it has none; raises UsageError for numbers out of range."""
        azimuth = 0.0 if camera.azimuth is None else camera.azimuth
        numbers = camera._replace(azimuth=None)._asdict()
        try:
            settings = replace(self.config, **{name: value for name, value in numbers.items() if value is not None})
        except ValueError as error:
            raise UsageError(f"a camera cannot be there: {error}", hint="give numbers in that range") from error
        if not math.isfinite(azimuth):
            raise UsageError(f"the azimuth {azimuth} is not a number of degrees", hint="give a finite number")
        return cameras.orbit(azimuth, settings.elevation, settings.distance, field_of_view=settings.field_of_view)

    def _surface(
        self,
        size: tuple[int, int] | Orbit | None,
        suffix: str,
        views: int | None,
        camera: Camera,
        level: float | None,
    ) -> Surface:
        """The mesh of a file; raises UsageError where something is given that a mesh does not have."""
        if views is not None or camera != Camera() or isinstance(size, Orbit):
            raise UsageError(
                f"a `{suffix}` file holds a mesh, which has no cameras", hint="leave views and cameras out"
            )
        rows, columns = (SURFACE_RESOLUTION, SURFACE_RESOLUTION) if size is None else size
        if rows != columns:
            raise UsageError(
                f"a mesh on a grid of {rows} x {columns}: its grid has one number of points a side",
                hint="write one number, as in `--resolution 128`",
            )
        isosurface.check_memory(rows)
        return Surface(rows, level)

    def _noise_keys(self, rows: int, columns: int) -> Float[Tensor, "N 2"]:
        """Positions on the lattice of the training pixels, (row, column), as those of images."""
        side, shorter = self.config.resolution, min(rows, columns)
        axes = [
            ((2 * torch.arange(count, dtype=torch.float64) + 1 - (count - shorter)) * side - shorter) / (2 * shorter)
            for count in (rows, columns)
        ]
        return torch.stack(torch.meshgrid(*axes, indexing="ij"), -1).flatten(0, 1)
