"""Fields: what `sample` and `invert` return, a batch of functions that can be evaluated at any coordinates.

A field is lazy: nothing is computed before the first query. A `query` call integrates the context once for all its
queries. `cache_context` integrates it at once and keeps what later queries need to replay its steps; both give the same
values.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from types import MappingProxyType
from typing import Any, NamedTuple, Protocol, runtime_checkable

from jaxtyping import Float, Int64
from torch import Tensor

from inrflow_core.config.preset import Preset
from inrflow_core.runtime.progress import Progress
from inrflow_core.runtime.query_budget import CHUNK as CHUNK
from inrflow_core.runtime.query_budget import QueryBudget
from inrflow_core.sets import CLASS_LABEL, Condition, Grid, Queries, SetSpec

FORMAT = "inrflow-field-1"
"""The format that a saved field's file names."""
FUNCTION_FORMAT = "inrflow-function-1"
"""The format that the file of one exported function names (`sampling.function_files`)."""
MOST_LISTED = 8
"""Seeds, labels or classes that a `repr` lists."""


class Camera(NamedTuple):
    """A camera that looks at the origin; None is the domain's setting."""

    azimuth: float | None = None
    """In degrees: from +z at 0, from +x at 90."""
    elevation: float | None = None
    """In degrees."""
    distance: float | None = None
    """From the origin, in world units."""
    field_of_view: float | None = None
    """In degrees, of the shorter side."""


@dataclass(frozen=True)
class Orbit:
    """The size of a turntable: views of a scene at equal steps around y."""

    rows: int
    """Pixels of a view from top to bottom."""
    columns: int
    """Pixels from left to right."""
    views: int
    """Their number."""
    camera: Camera = Camera()
    """Of the first view."""

    def __str__(self) -> str:
        names = [f"{name} {number:g}" for name, number in self.camera._asdict().items() if number is not None]
        return " ".join([f"{self.rows}x{self.columns}x{self.views}", *names])


@dataclass(frozen=True)
class Surface:
    """The size of a mesh: the surface where a scene's density, or the probability that a shape is there, has one value."""

    resolution: int
    """Points of the grid along each side of the domain's box."""
    level: float | None
    """The density on the surface, per world unit, of which None is `isosurface.usual_level`; or the probability."""
    quantity: str = "density"
    """What has the level: `density` or `probability`."""

    def __str__(self) -> str:
        level = f"the usual {self.quantity}" if self.level is None else f"{self.quantity} {self.level:g}"
        return f"surface at {level}, grid {self.resolution}"


@dataclass(frozen=True)
class Clip:
    """The size of a video: how finely the whole duration of a clip is sampled, and how fast its frames are played."""

    frames: int
    """Their number, at equal steps from the start of the clip."""
    rows: int
    """Pixels of a frame from top to bottom."""
    columns: int
    """Pixels from left to right."""
    fps: float | None = None
    """Frames per second of playback; None is the rate of the training clips."""

    def __str__(self) -> str:
        rate = "" if self.fps is None else f" at {self.fps:g} fps"
        return f"{self.frames}x{self.rows}x{self.columns}{rate}"


Size = tuple[int, int] | int | Orbit | Surface | Clip | None
"""Rows and columns, a number of points, a turntable, a mesh or a clip; None is the training's."""
Window = tuple[float, float, float, float] | None
"""Top, left, bottom and right of a part of an image or of every frame, each from 0 to 1; None is all of it."""


@runtime_checkable
class DensityField(Protocol):
    """Fields that are scenes: densities and colors in space."""

    def density_and_color(
        self, index: int, points: Float[Tensor, "P 3"]
    ) -> tuple[Float[Tensor, " P"], Float[Tensor, "P 3"]]:
        """Density (per world unit) and color (in [0, 1]) of one function at points in the world."""
        ...


@runtime_checkable
class PointwiseField(Protocol):
    """Fields whose functions can be evaluated one by one, each at its own coordinates."""

    def values_at(self, index: int, coordinates: Float[Tensor, "P D"]) -> Float[Tensor, "P C"]:
        """The values of one function at coordinates in [-1, 1], on any device, in the network's scale."""
        ...


@runtime_checkable
class Field(Protocol):
    """B functions, evaluated together."""

    model: Any
    """The method; of a loaded field, only the part that evaluates queries."""
    spec: SetSpec
    """Of the sets that its method learned."""
    seeds: Int64[Tensor, " B"]
    condition: Condition
    options: Any
    """The method's sampling options, for the provenance of its values."""

    def query(
        self, queries: Queries, *, chunk: int | QueryBudget = CHUNK, progress: Progress | None = None
    ) -> Float[Tensor, "B M C"]:
        """The values at `queries`, in the network's scale; memory grows with `chunk` and one buffer per query.

        A `QueryBudget` as `chunk` is shared by the queries of one run.
        """
        ...

    def cache_context(self, progress: Progress | None = None) -> Field:
        """Compute and keep what later queries need; returns the field."""
        ...

    def size(self) -> int:
        """Bytes that `save` writes."""
        ...

    def save(
        self, path: Path, preset: Preset, *, half: bool = False, metadata: Mapping[str, Any] = MappingProxyType({})
    ) -> None:
        """Write a field with a cached context as safetensors, fp16 if `half`: it is evaluated later without encoder or trunk.

        `metadata`, of the model, is written beside the preset.
        """
        ...


def listing(items: Sequence[Any]) -> str:
    """Some items as text, of many the first ones and the last: `0, 1, 2`, `A, B, C, D, E, F, G, ... Z`."""
    if len(items) <= MOST_LISTED:
        return ", ".join(map(str, items))
    return f"{', '.join(map(str, items[: MOST_LISTED - 1]))}, ... {items[-1]}"


def describe_sets(spec: SetSpec) -> str:
    """`2 coordinates with values of 1 number, trained at 24 x 24 positions`."""
    shape = spec.layout.shape if isinstance(spec.layout, Grid) else (spec.num_queries,)
    return (
        f"{spec.coordinate_size} coordinates with values of {spec.value_size} number{'s' * (spec.value_size != 1)}, trained at "
        f"{' x '.join(map(str, shape))} positions"
    )


def description(field: Field, spec: SetSpec, *, is_cached: bool) -> str:
    """The `repr` of a field: number and kind of its functions, seeds, labels, sampling options, device."""
    count = len(field.seeds)
    lines = [
        f"{type(field).__name__} of {count} function{'s' * (count != 1)} of {describe_sets(spec)}",
        f"seeds: {listing(field.seeds.tolist())}",
    ]
    for name, value in field.condition.items():
        lines.append(f"{name}: {listing(value.tolist()) if name == CLASS_LABEL else tuple(value.shape)}")
    lines.append(", ".join(f"{name} {value}" for name, value in field.options.provenance().items()))
    lines.append(f"{'context cached' if is_cached else 'not yet evaluated'}, on {field.seeds.device}")
    return "\n  ".join(lines)
