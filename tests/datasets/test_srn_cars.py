"""SRN Cars: every view has its camera, in the project's axes; a scene that cannot be used is skipped with its reason."""

from __future__ import annotations

import io
import re
import tarfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image
from scipy import ndimage

from inrflow_core.datasets import srn_cars
from inrflow_core.datasets._contract import Example
from inrflow_core.errors import IntegrityError, MissingError, UnreadableItemError
from inrflow_core.geometry import cameras
from inrflow_core.preparation import pipeline
from inrflow_core.preparation.job import resolve_job
from inrflow_core.shards.shard_dataset import ShardDataset
from tests.datasets import raw

SIDE, FOCAL = 16, 16.40625
BALL = np.array([0.2, -0.1, 0.3])
"""Where a small ball is in the source's world, whose z points up."""
FROM_Z_UP = np.array([[1.0, 0, 0], [0, 0, 1], [0, -1, 0]])


def pose(azimuth: float) -> np.ndarray:
    """A camera at 1.3 units that looks at the origin of a world whose z points up."""
    turned = cameras.look_at((1.3 * np.cos(azimuth), 1.3 * np.sin(azimuth), 0.4), up=(0, 0, 1))
    return np.concatenate([turned[:3].astype(np.float64), [[0, 0, 0, 1]]])


def view(matrix: np.ndarray, side: int = SIDE) -> bytes:
    """A view of the ball: a dark pixel on white."""
    seen = matrix[:3, :3].T @ (BALL - matrix[:3, 3])
    column, row = (FOCAL * seen[:2] / seen[2] + SIDE / 2) * side / SIDE
    pixels = np.full((side, side, 3), 255, np.uint8)
    pixels[int(row), int(column)] = 0
    file = io.BytesIO()
    Image.fromarray(pixels).save(file, "PNG")
    return file.getvalue()


def scene(count: int, side: int = SIDE) -> dict[str, bytes]:
    """The files of one scene."""
    size = f"{FOCAL} {SIDE / 2} {SIDE / 2} 0.\n0. 0. 0.\n1.\n{SIDE} {SIDE}\n"
    files = {"intrinsics.txt": size.encode()}
    for number in range(count):
        matrix = pose(2 * number)
        files[f"rgb/{number:06d}.png"] = view(matrix, side)
        files[f"pose/{number:06d}.txt"] = " ".join(f"{each:.9f}" for each in matrix.ravel()).encode()
    return files


def source(root: Path, scenes: dict[str, dict[str, bytes]]) -> Path:
    for name, files in scenes.items():
        for file, content in files.items():
            path = root / name / file
            path.parent.mkdir(parents=True, exist_ok=True)
            path.write_bytes(content)
    return root


def read(root: Path, **settings: Any) -> Example:
    given: dict[str, Any] = {"resolution": SIDE} | settings
    config = srn_cars.Config(**given)
    (item,) = srn_cars.scan(root, config).splits["train"]
    return srn_cars.read(item, config)


def test_the_camera_of_every_view_sees_the_ball_where_its_image_shows_it(tmp_path: Path):
    example = read(source(tmp_path, {"cars_train/a": scene(5)}))
    poses = example.variable_length["camera"]
    assert example.values.shape == (5, SIDE, SIDE, 3) and poses.shape == (5, 4, 4)
    for image, camera in zip(example.values, poses, strict=True):
        (seen,), (depth,) = cameras.project(camera, (FROM_Z_UP @ BALL)[None])
        column, row = (seen * SIDE).astype(int)
        assert image[row, column].tolist() == [0, 0, 0] and 0.8 < depth < 1.8
    np.testing.assert_allclose(poses[:, 1, 3], 0.4, atol=1e-6)  # z of the source is y here
    np.testing.assert_allclose(poses[:, 3], [[FOCAL / SIDE, FOCAL / SIDE, 0.5, 0.5]] * 5)


def test_a_world_with_y_up_is_not_turned(tmp_path: Path):
    root = source(tmp_path, {"cars_train/a": scene(2)})
    np.testing.assert_allclose(read(root, up="y").variable_length["camera"][1, :3], pose(2.0)[:3], atol=1e-6)


def test_larger_views_are_reduced_and_their_cameras_stay(tmp_path: Path):
    root = source(tmp_path, {"cars_train/a": scene(3)})
    whole, half = read(root), read(root, resolution=SIDE // 2)
    expected = whole.values.reshape(3, 8, 2, 8, 2, 3).astype(float).mean((2, 4)).round()
    assert np.abs(half.values - expected).max() <= 1
    np.testing.assert_array_equal(half.variable_length["camera"], whole.variable_length["camera"])


def test_some_views_are_evenly_spaced(tmp_path: Path):
    root = source(tmp_path, {"cars_train/a": scene(6)})
    few, whole = read(root, views=3), read(root)
    np.testing.assert_array_equal(few.values, whole.values[::2])
    np.testing.assert_array_equal(few.variable_length["camera"], whole.variable_length["camera"][::2])
    with pytest.raises(ValueError, match="`views` is 1: at least 2"):
        srn_cars.Config(views=1)


PACK: dict[str, Callable[[Path, dict[str, bytes]], Any]] = {
    "folder": lambda root, files: source(root, {".": files}),
    "tar": lambda root, files: raw.tarred(root / "cars.tar", files),
    "tar.gz": lambda root, files: raw.tarred(root / "srn_cars.tar.gz", files, "w:gz"),
    "zip": lambda root, files: raw.zipped(root / "cars_train.zip", files),
}


@pytest.mark.parametrize("kind", PACK)
def test_a_folder_and_its_archives_give_the_same_shards(tmp_path: Path, kind: str):
    scenes = {"cars_train/b": scene(3), "cars_train/a": scene(2), "cars_val/c": scene(2), "cars_test/d": scene(4)}
    files = {f"srn/{name}/{file}": content for name, one in scenes.items() for file, content in one.items()}
    (tmp_path / "source").mkdir()
    PACK[kind](tmp_path / "source", files)
    source(tmp_path / "folder", scenes)
    for name in ("source", "folder"):
        job = resolve_job("srn-cars", tmp_path / name, tmp_path / f"out-{name}", srn_cars.Config(resolution=SIDE))
        report = pipeline.prepare(job, workers=1)
        assert report.splits == {"train": 2, "val": 1, "test": 1} and not report.skipped
    for file in (tmp_path / "out-folder").iterdir():
        assert (tmp_path / "out-source" / file.name).read_bytes() == file.read_bytes(), file.name
    batch = ShardDataset(tmp_path / "out-source").read("train", [0, 1], with_names=True)
    assert batch.names == ["cars_train/a", "cars_train/b"] and batch.sizes is not None
    assert batch.sizes.tolist() == [2, 3] and batch.values.shape == (2, 3, SIDE, SIDE, 3)


def white() -> bytes:
    file = io.BytesIO()
    Image.new("RGB", (SIDE, SIDE), "white").save(file, "PNG")
    return file.getvalue()


def edited(change: Callable[[dict[str, bytes]], Any], count: int = 3) -> dict[str, bytes]:
    files = scene(count)
    change(files)
    return files


IDENTITY = b"1 0 0 0 0 1 0 0 0 0 1 0 0 0 0 1"
BAD: dict[str, tuple[dict[str, bytes], str]] = {
    "white": (
        edited(lambda f: f.update({"rgb/000001.png": white()})),
        "1 of its 3 views are all white, the first is `000001`",
    ),
    "no pose": (edited(lambda f: f.pop("pose/000001.txt")), "1 of its views are incomplete: `000001` has not a pose"),
    "no image": (edited(lambda f: f.pop("rgb/000002.png")), "incomplete: `000002` has not an image"),
    "a mirror": (
        edited(lambda f: f.update({"pose/000001.txt": b"-" + IDENTITY})),
        "the pose of its view `000001` is not a rotation and a position",
    ),
    "15 numbers": (edited(lambda f: f.update({"pose/000000.txt": IDENTITY[:-2]})), "`000000` is not a rotation"),
    "words": (edited(lambda f: f.update({"pose/000000.txt": b"one two"})), "its cameras are not written as numbers"),
    "nan": (edited(lambda f: f.update({"pose/000000.txt": b"nan" + IDENTITY[1:]})), "numbers that are not finite"),
    "beyond float32": (
        edited(lambda f: f.update({"pose/000000.txt": IDENTITY.replace(b"0 0 0 0 1", b"0 0 1e39 0 1", 1)})),
        "`000000` is not a rotation",
    ),
    "an underscore": (
        edited(lambda f: f.update({"pose/000000.txt": IDENTITY.replace(b"0", b"0_0", 1)})),
        "its cameras are not written as numbers",
    ),
    "another size": (
        edited(lambda f: f.update({"rgb/000001.png": view(pose(2), 8)})),
        "its view `000001` has 8 x 8 pixels, and `intrinsics.txt` says 16 x 16",
    ),
    "one view": (scene(1), "it has 1 view: at least 2 are needed"),
    "no intrinsics": (edited(lambda f: f.pop("intrinsics.txt")), "it has no `intrinsics.txt`"),
    "no focal length": (
        edited(lambda f: f.update({"intrinsics.txt": b"0. 8. 8. 0.\n16 16\n"})),
        "has a focal length of 0 and a center at 8, 8 for 16 x 16 pixels",
    ),
    "a focal length beyond single precision": (
        edited(lambda f: f.update({"intrinsics.txt": b"1e300 8. 8. 0.\n0. 0. 0.\n1.\n16 16\n"})),
        "its focal length is 6.25e+298 times the side of its views",
    ),
    "no size": (edited(lambda f: f.update({"intrinsics.txt": b"16. 8. 8. 0.\n"})), "a focal length, a center and a size"),
    "oblong": (edited(lambda f: f.update({"intrinsics.txt": b"16. 8. 8. 0.\n16 12\n"})), "not square: 12 x 16 pixels"),
    "world to camera": (
        edited(lambda f: f.update({"intrinsics.txt": b"16. 8. 8. 0.\n0 0 0\n1.\n16 16\n1\n"})),
        "says that poses are world to camera",
    ),
    "damaged": (
        edited(lambda f: f.update({"rgb/000000.png": f["rgb/000000.png"][:40]})),
        "its view `000000` cannot be read",
    ),
}  # fmt: skip


@pytest.mark.parametrize("kind", BAD)
def test_a_bad_scene_is_skipped_with_its_reason(tmp_path: Path, kind: str):
    files, reason = BAD[kind]
    root = source(tmp_path / "source", {"cars_train/bad": files, "cars_train/good": scene(2)})
    job = resolve_job("srn-cars", root, tmp_path / "out", srn_cars.Config(resolution=SIDE))
    report = pipeline.prepare(job, workers=1)
    assert report.splits == {"train": 1}
    (skipped,) = report.skipped
    assert skipped.name == "cars_train/bad" and reason in skipped.reason


def test_views_are_not_magnified(tmp_path: Path):
    root = source(tmp_path, {"cars_train/a": scene(2)})
    with pytest.raises(UnreadableItemError, match="16 x 16 pixels, fewer than `resolution`, 32"):
        read(root, resolution=32)


def test_another_layout_and_a_damaged_archive_are_errors(tmp_path: Path):
    raw.folder(tmp_path / "a", ["train/a.png"])
    with pytest.raises(MissingError, match="holds no `srn-cars` data: looked for `cars_train/<id>/rgb/000000.png`"):
        srn_cars.scan(tmp_path / "a", srn_cars.Config())
    packed = raw.tarred(tmp_path / "b.tar.gz", {"cars_train/a/rgb/000000.png": view(pose(0))}, "w:gz")
    packed.write_bytes(packed.read_bytes()[:-40])
    with pytest.raises(IntegrityError, match="is not a complete tar"):
        srn_cars.scan(packed, srn_cars.Config())


@pytest.mark.slow
def test_the_vertices_of_real_cars_fill_their_silhouettes(real_data: Callable[[str], Path]):
    """Every vertex is on the car or within a pixel of it, and the outermost ones are at the ends of the silhouette."""
    scenes = srn_cars.scan(real_data("derived/srn_cars_layout_cc0/srn_cars_layout.tar.gz"), srn_cars.Config())
    with tarfile.open(real_data("meshes/kaykit_cc0/City-Builder-Bits.tar.gz")) as tar:
        meshes = {name: tar.extractfile(name).read() for name in tar.getnames() if re.search(r"/car_\w+\.obj$", name)}  # pyright: ignore[reportOptionalMemberAccess]
    items = [item for split in scenes.splits.values() for item in split]
    assert len(items) == 5
    for item in items:
        car = item.name.partition("/")[2]
        text = b"\n".join(content for name, content in meshes.items() if f"/{car}" in name).decode()
        vertices = np.array(re.findall(r"^v (\S+) (\S+) (\S+)", text, re.MULTILINE), dtype=np.float64)
        low, high = vertices.min(0), vertices.max(0)
        vertices = (vertices - (low + high) / 2) / np.linalg.norm(high - low)
        vertices = vertices[:, [2, 1, 0]] * (1, 1, -1)  # SRN's cars look along another axis
        example = srn_cars.read(item, srn_cars.Config())
        for pixels, camera in zip(example.values[::10], example.variable_length["camera"][::10], strict=True):
            is_car = (pixels < 250).any(-1)
            places = cameras.project(camera, vertices)[0] * 128
            column, row = places.astype(int).T
            assert ndimage.binary_dilation(is_car, np.ones((3, 3)))[row, column].all(), car
            ends = np.argwhere(is_car)[:, ::-1]
            assert np.abs(places.min(0) - ends.min(0)).max() < 1 and np.abs(places.max(0) - ends.max(0) - 1).max() < 1
