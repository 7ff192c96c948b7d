"""SRN Cars: scenes in posed views of 128 x 128 pixels on white (Sitzmann et al. 2019), and other sets of its layout.

A scene is `cars_train/<id>/` (also `cars_val`, `cars_test`) with `intrinsics.txt`, `rgb/000000.png` ... and
`pose/000000.txt` ... A pose is 16 numbers, camera to world in OpenCV's axes. The first line of the intrinsics is the
focal length and the center in pixels, the last line of two numbers is rows and columns. Poses of SRN have z up; the
project's cameras have y up, so the world is turned.
"""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Literal, NamedTuple

import numpy as np
from jaxtyping import Float32, Float64, UInt8

from inrflow_core.datasets import _archives, _image_decoding, _posed_views, _rendered_views
from inrflow_core.datasets._archives import Entry
from inrflow_core.datasets._contract import DatasetIndex, Example, Item, source_not_found
from inrflow_core.errors import UnreadableItemError
from inrflow_core.geometry import cameras
from inrflow_core.visualization.image_io import SUFFIXES, center_crop, decode_image

DOMAIN = "radiance"
NEEDS_SOURCE = True
IS_READ_BY_SCAN = False
DESCRIPTION = (
    "SRN's `cars_{train,val,test}/<id>/{intrinsics.txt,rgb/,pose/}`, as folders, zips, tars or one .tar.gz -> views "
    "with cameras; scenes with an all-white view are skipped"
)
PACKED = (".tar.gz", ".tgz")
FOCAL_RANGE = 1e4
"""The longest focal length, in sides of a view, and one over the shortest; real ones are around 1."""
FILE = re.compile(r"(.*/)?((?:\w+_)?(train|val|test))/([^/]+)/(intrinsics\.txt|(rgb|pose)/([^/]+)\.(\w+))")


@dataclass(frozen=True)
class Config:
    """How scenes become examples."""

    resolution: int = 128
    """Rows and columns of the views; larger ones are reduced."""
    views: int | None = None
    """At most this number of views of each scene, evenly spaced."""
    up: Literal["z", "y"] = "z"
    """The axis of the source's world that points up; z is turned to y."""

    def __post_init__(self) -> None:
        _image_decoding.check_resolution(self.resolution)
        _posed_views.check_views(self.views)


class Scene(NamedTuple):
    """The files of a scene; views and poses by the names of their files."""

    intrinsics: Entry | None
    images: dict[str, Entry]
    poses: dict[str, Entry]


def scan(source: Path, config: Config) -> DatasetIndex:
    """The scenes of each split, sorted by name.

    Raises:
        MissingError: no folder of a split has scenes.
        IntegrityError: an archive is damaged.
    """
    entries = _entries(source)
    scenes, used = _scenes(entries)
    if not any(scene.images for scene in scenes.values()):
        raise source_not_found(
            "srn-cars",
            source,
            "`cars_train/<id>/rgb/000000.png` beside `pose/000000.txt`",
            [(entry.name, entry.size) for entry in entries],
        )
    splits = {
        split: [Item(name, location=scene) for (of, name), scene in sorted(scenes.items()) if of == split]
        for split in ("train", "val", "test")
    }
    usual = max(Counter(len(scene.images) for scene in scenes.values()).items(), key=lambda pair: (pair[1], pair[0]))[0]
    views = max(_posed_views.LEAST_VIEWS, usual if config.views is None else min(usual, config.views))
    return _posed_views.plan(splits, config.resolution, views, used)


def read(item: Item, config: Config) -> Example:
    """The views of a scene and their cameras.

    Raises:
        UnreadableItemError: it has no intrinsics, a view without a pose or a pose without a view, fewer than two views,
            a pose without a rotation, views of several sizes or of another size than the intrinsics say, views
            that are not square or are smaller than `resolution`, a view that is all white, or a file that cannot be
            read.
    """
    scene: Scene = item.location
    names = _names(scene)
    if config.views is not None and len(names) > config.views:
        names = [names[index * len(names) // config.views] for index in range(config.views)]
    _posed_views.check_scene(len(names), config.resolution)
    if scene.intrinsics is None:
        raise UnreadableItemError("it has no `intrinsics.txt`")
    lens, side = _lens(scene.intrinsics.location.read())
    images = np.stack([_view(name, scene.images[name], side, config.resolution) for name in names])
    poses = np.stack([_camera(name, scene.poses[name], lens, config.up) for name in names])
    return _posed_views.example(item, images, poses, names)


def _entries(source: Path) -> list[Entry]:
    """The files of a source; of a tar that is compressed, those in it."""
    if not source.is_dir() and source.name.lower().endswith(PACKED):
        return _archives.packed_members(source)
    entries = _archives.listing(source)
    packed = [entry for entry in entries if entry.name.lower().endswith(PACKED)]
    if not packed or any(FILE.fullmatch(entry.name) for entry in entries):
        return entries
    return [member for entry in packed for member in _archives.packed_members(source / entry.name)]


def _scenes(entries: Sequence[Entry]) -> tuple[dict[tuple[str, str], Scene], list[tuple[str, int]]]:
    """The scenes below the topmost folder that has any, by split and name, and the names and sizes of their files."""
    files = [(match, entry) for entry in entries if (match := FILE.fullmatch(entry.name))]
    root = min(((match[1] or "") for match, _ in files), key=lambda name: (name.count("/"), name), default="")
    scenes: dict[tuple[str, str], Scene] = {}
    used: list[tuple[str, int]] = []
    for match, entry in files:
        if (match[1] or "") != root:
            continue
        key = match[3], f"{match[2]}/{match[4]}"
        scene = scenes.setdefault(key, Scene(None, {}, {}))
        if match[6] is None:
            scenes[key] = scene._replace(intrinsics=entry)
        elif match[6] == "rgb" and f".{match[8].lower()}" in SUFFIXES:
            scene.images[match[7]] = entry
        elif match[6] == "pose" and match[8] == "txt":
            scene.poses[match[7]] = entry
        used.append((entry.name[len(root) :], entry.size))
    return scenes, used


def _names(scene: Scene) -> list[str]:
    """The names of the views, in order; each has an image and a pose."""
    alone = sorted(scene.images.keys() ^ scene.poses.keys())
    if alone:
        lacks = "a pose" if alone[0] in scene.images else "an image"
        raise UnreadableItemError(f"{len(alone):,} of its views are incomplete: `{alone[0]}` has not {lacks}")
    return sorted(scene.images)


def _lens(content: bytes) -> tuple[Float64[np.ndarray, " 4"], int]:
    """The focal lengths and the center, x and y, in units of the image, and the pixels of its side."""
    lines = [_numbers(line) for line in content.split(b"\n") if line.strip()]
    sized = [number for number, line in enumerate(lines) if len(line) == 2]
    if not sized or len(lines[0]) not in (3, 4):
        raise UnreadableItemError("its `intrinsics.txt` does not have a focal length, a center and a size")
    (focal, *center), (rows, columns), after = lines[0][:3], lines[sized[-1]], lines[sized[-1] + 1 :]
    if after and any(after[0]):
        raise UnreadableItemError("its `intrinsics.txt` says that poses are world to camera, which are not read")
    if rows != columns:
        raise UnreadableItemError(f"its views are not square: {columns:g} x {rows:g} pixels")
    if not (rows >= 1 and rows == int(rows) and focal > 0 and all(0 < each < rows for each in center)):
        raise UnreadableItemError(
            f"its `intrinsics.txt` has a focal length of {focal:g} and a center at {center[0]:g}, {center[1]:g} "
            f"for {columns:g} x {rows:g} pixels"
        )
    lens = np.array([focal, focal, *center]) / rows
    if not 1 / FOCAL_RANGE <= lens[0] <= FOCAL_RANGE:
        raise UnreadableItemError(f"its focal length is {lens[0]:g} times the side of its views, beyond any camera's")
    return lens, int(rows)


def _numbers(content: bytes) -> list[float]:
    try:
        if b"_" in content:  # Python reads 3_2 as 32
            raise ValueError("an underscore in a number")
        numbers = [float(word) for word in content.split()]
    except ValueError as error:
        raise UnreadableItemError("its cameras are not written as numbers") from error
    if not np.isfinite(numbers).all():
        raise UnreadableItemError("its cameras have numbers that are not finite")
    return numbers


def _view(name: str, entry: Entry, side: int, resolution: int) -> UInt8[np.ndarray, "R R 3"]:
    try:
        image = decode_image(entry.location.read(), "RGB", is_upright=False)
    except UnreadableItemError as error:
        raise UnreadableItemError(f"its view `{name}` cannot be read: {error.reason}") from error
    if image.size != (side, side):
        raise UnreadableItemError(
            f"its view `{name}` has {image.width} x {image.height} pixels, and `intrinsics.txt` says {side} x {side}"
        )
    if side < resolution:
        raise UnreadableItemError(f"its views have {side} x {side} pixels, fewer than `resolution`, {resolution}")
    return np.asarray(image) if side == resolution else center_crop(image, resolution)


def _camera(
    name: str, entry: Entry, lens: Float64[np.ndarray, " 4"], up: Literal["z", "y"]
) -> Float32[np.ndarray, "4 4"]:
    numbers = _numbers(entry.location.read())
    try:
        pose = _rendered_views.pose_matrix(np.array(numbers).reshape(4, 4))
        if not np.allclose(pose[3], (0, 0, 0, 1)):
            raise ValueError("no camera matrix")
    except ValueError as error:
        raise UnreadableItemError(f"the pose of its view `{name}` is not a rotation and a position") from error
    camera = np.concatenate([pose[:3], lens[None]]).astype(np.float32)
    turn = _rendered_views.FROM_BLENDER if up == "z" else np.eye(3)
    return cameras.transformed(camera, np.zeros(3), 1.0, turn)
