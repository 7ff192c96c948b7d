"""Objaverse: points, images and cameras of one object share their units, and tokens are those of the images."""

from __future__ import annotations

import io
import json
import os
import shutil
import struct
import tarfile
from collections.abc import Callable
from pathlib import Path
from typing import Any, Literal

import numpy as np
import pytest
import torch
from PIL import Image

from inrflow_core.conditioners import image
from inrflow_core.datasets import _rendered_views, objaverse
from inrflow_core.datasets._contract import Example
from inrflow_core.errors import MissingError, OutOfMemory, UnreadableItemError, UsageError
from inrflow_core.feature_networks import dinov2, patches
from inrflow_core.feature_networks._contract import posed_image_tokens
from inrflow_core.geometry import cameras
from inrflow_core.preparation import job as preparation_job
from inrflow_core.preparation import pipeline
from inrflow_core.preparation.job import plan_shards, resolve_job
from inrflow_core.shards import batch, manifest, shard_dataset
from tests.feature_networks import hf_folders

# A wedge, off the origin and of no symmetry: its front is red, its side green, the others blue.
WEDGE = (
    "mtllib a.mtl\nv 10 0 0\nv 16 0 0\nv 16 0 4\nv 10 0 4\nv 10 3 0\nv 10 3 4\n"
    "usemtl blue\nf 1 2 3 4\nf 1 5 2\nusemtl green\nf 2 5 6 3\nusemtl red\nf 4 3 6\nusemtl blue\nf 1 4 6 5\n"
)
COLORS = "newmtl red\nKd 1 0 0\nnewmtl green\nKd 0 1 0\nnewmtl blue\nKd 0 0 1\n"
SMALL: dict[str, Any] = {"points": 2000, "resolution": 64, "embedder": "patches", "val": 0.0}
TURN = np.array([[1.0, 0, 0], [0, 0, -1], [0, 1, 0]])
"""What Blender's importers do to a mesh of y up: z is up after."""


@pytest.fixture
def source(tmp_path: Path) -> Path:
    folder = tmp_path / "source" / "glbs" / "000-023"
    folder.mkdir(parents=True)
    (folder / "wedge.obj").write_text(WEDGE)
    (folder / "a.mtl").write_text(COLORS)
    return tmp_path / "source"


def read(source: Path, name: str = "glbs/000-023/wedge.obj", **settings) -> Example:
    config = objaverse.Config(**(SMALL | settings))
    items = {item.name: item for item in objaverse.scan(source, config).splits["train"]}
    return objaverse.read(items[name], config)


def share_on_the_object(example: Example, view: int) -> float:
    """How many of the points appear where the image is not white."""
    image = example.condition["image"][view]
    seen, _ = cameras.project(example.condition["camera"][view], example.values.astype(np.float64))
    column, row = np.floor(seen * len(image)).astype(int).T
    return float((image[row, column] != 255).any(-1).mean())


def test_points_fill_the_box_and_can_be_undone(source: Path) -> None:
    example = read(source)
    np.testing.assert_allclose(example.values.min(0), [-1, -0.5, -2 / 3], atol=0.02)
    np.testing.assert_allclose(example.values.max(0), [1, 0.5, 2 / 3], atol=0.02)
    undone = example.values * example.condition["scale"] + example.condition["offset"]
    np.testing.assert_allclose(undone.min(0), [10, 0, 0], atol=0.05)
    np.testing.assert_allclose(undone.max(0), [16, 3, 4], atol=0.05)


def test_every_point_appears_on_the_object_in_every_image(source: Path) -> None:
    example = read(source)
    assert example.condition["image"].shape == (4, 64, 64, 3)
    assert min(share_on_the_object(example, view) for view in range(4)) > 0.98
    wrong = Example(example.values[:, [2, 1, 0]], condition=example.condition)
    assert min(share_on_the_object(wrong, view) for view in range(4)) < 0.9


def test_each_side_shows_its_color(source: Path) -> None:
    images = read(source).condition["image"].astype(int)
    middle = images[:, 36, 32 - 8]
    assert [int(pixel.argmax()) for pixel in middle] == [0, 1, 2, 2]
    front = images[0]
    assert (front[:, :32] != 255).any(-1).sum() > 1.5 * (front[:, 32:] != 255).any(-1).sum(), "it is high at the left"


def test_tokens_are_those_of_the_stored_images_and_cameras(source: Path) -> None:
    condition = read(source).condition
    images, poses = torch.from_numpy(condition["image"]), torch.from_numpy(condition["camera"])
    assert condition["tokens"].shape == (4, 64, 192 + 6) and condition["tokens"].dtype == np.float16
    expected = posed_image_tokens(patches.load(None), images, poses)
    np.testing.assert_array_equal(condition["tokens"], expected.numpy())
    online = read(source, features="online").condition
    assert "tokens" not in online
    np.testing.assert_array_equal(online["image"], condition["image"])


def test_an_image_has_the_same_embedding_whether_its_tokens_are_stored_or_made_in_training(
    source: Path, tmp_path: Path
) -> None:
    embeddings = []
    torch.manual_seed(0)
    part = image.build(image.Config(embedder="patches", tokens=64, width=192), 16)
    kinds: tuple[Literal["stored", "online"], ...] = ("stored", "online")
    for features in kinds:
        settings: dict[str, Any] = SMALL | {"features": features}
        config = objaverse.Config(**settings)
        pipeline.prepare(resolve_job("objaverse", source, tmp_path / features, config), workers=1)
        names = image.required_conditions(image.Config(embedder="patches", features=features))
        selection = batch.ConditionSelection(names, np.array([0.5]))
        condition = shard_dataset.ShardDataset(tmp_path / features).read("train", [0], conditions=selection).condition
        assert set(condition) == set(names)
        embeddings.append(part({name: torch.from_numpy(array) for name, array in condition.items()}).tokens)
    torch.testing.assert_close(embeddings[0], embeddings[1], atol=0, rtol=0)


def test_raised_cameras_have_the_requested_height_and_distance(source: Path) -> None:
    poses = read(source, elevation=30.0, distance=4.0, views=3).condition["camera"]
    np.testing.assert_allclose(poses[:, 1, 3], 2, atol=1e-6)
    np.testing.assert_allclose(np.linalg.norm(poses[:, :3, 3], axis=1), 4, atol=1e-6)


def test_a_name_that_is_not_text_is_a_name_too(source: Path) -> None:
    name = os.fsdecode(b"\xff.obj")
    shutil.copy(source / "glbs/000-023/wedge.obj", source / name)
    shutil.copy(source / "glbs/000-023/a.mtl", source)
    assert read(source, name, views=1).values.shape == (2000, 3)


def test_a_mesh_without_colors_is_gray(source: Path) -> None:
    (source / "plain.stl").write_text(
        "solid s\nfacet normal 0 0 1\nouter loop\nvertex 0 0 0\nvertex 1 0 0\nvertex 0 1 0\nendloop\nendfacet\nendsolid"
    )
    image = read(source, "plain.stl").condition["image"][0]
    assert (image[..., 0] == image[..., 1]).all() and 150 < image[40, 24, 0] < 200


def write_views(source: Path, example: Example, *, world: str, kind: str) -> None:
    """The example's images beside its mesh, as others would have written them."""
    folder = source / "views" / "wedge"
    folder.mkdir(parents=True, exist_ok=True)
    scale, offset = float(example.condition["scale"][0]), example.condition["offset"].astype(np.float64)
    frames = []
    for number, (pixels, camera) in enumerate(
        zip(example.condition["image"], example.condition["camera"].astype(np.float64), strict=True)
    ):
        alpha = 255 * (pixels != 255).any(-1).astype(np.uint8)
        Image.fromarray(np.dstack([pixels, alpha])).save(folder / f"{number:03d}.png")
        pose = np.eye(4)
        pose[:3, :3] = camera[:3, :3] @ np.diag([1, -1, -1])
        pose[:3, 3] = camera[:3, 3] / 2 if world == "zero123" else camera[:3, 3] * scale + offset
        if world != "mesh":
            pose[:3] = TURN @ pose[:3]
        if kind == "npy":
            np.save(folder / f"{number:03d}.npy", np.linalg.inv(pose)[:3])
        frames.append({"file_path": f"./{number:03d}", "transform_matrix": pose.tolist()})
    if kind == "json":
        transforms = {"camera_angle_x": np.radians(40.0), "frames": frames[::-1]}
        (folder / "transforms.json").write_text(json.dumps(transforms))


@pytest.mark.parametrize("kind", ["npy", "json"])
@pytest.mark.parametrize("world", ["mesh", "blender", "zero123"])
def test_images_that_others_made_are_read_with_their_cameras(source: Path, world: str, kind: str) -> None:
    made = read(source)
    write_views(source, made, world=world, kind=kind)
    again = read(source, renders="found", world=world)
    np.testing.assert_array_equal(again.condition["image"], made.condition["image"])
    np.testing.assert_allclose(again.condition["camera"], made.condition["camera"], atol=1e-5)
    np.testing.assert_allclose(again.condition["tokens"], made.condition["tokens"], atol=2e-3)


def test_cameras_of_another_world_are_noticed(source: Path) -> None:
    write_views(source, read(source), world="zero123", kind="npy")
    with pytest.raises(
        UnreadableItemError, match=r"\d+ % of its points appear on the object in view 0: .* another world"
    ):
        read(source, renders="found", world="mesh")


def test_images_of_another_size_are_resized(source: Path) -> None:
    write_views(source, read(source, resolution=128), world="mesh", kind="npy")
    halved = read(source, renders="found").condition["image"].astype(int)
    assert np.abs(halved - read(source).condition["image"].astype(int)).mean() < 4


def test_images_that_cannot_be_used_are_named(source: Path) -> None:
    with pytest.raises(UnreadableItemError, match="it has 0 views with cameras, fewer than 4"):
        read(source, renders="found")
    write_views(source, read(source), world="mesh", kind="npy")
    with pytest.raises(UnreadableItemError, match="it has 4 views with cameras, fewer than 5"):
        read(source, renders="found", views=5)
    folder = source / "views" / "wedge"
    np.save(folder / "000.npy", np.array([[object()]]), allow_pickle=True)
    with pytest.raises(UnreadableItemError, match="the cameras of its views cannot be read"):
        read(source, renders="found")
    np.save(folder / "000.npy", np.zeros((3, 4)))
    with pytest.raises(UnreadableItemError, match="the cameras of its views cannot be read"):
        read(source, renders="found")
    write_views(source, read(source), world="mesh", kind="npy")
    Image.new("RGB", (64, 32)).save(folder / "000.png")
    with pytest.raises(UnreadableItemError, match="not square: 64 x 32"):
        read(source, renders="found")
    (folder / "000.png").write_bytes(b"junk")
    with pytest.raises(UnreadableItemError, match="one of its views cannot be read"):
        read(source, renders="found")


def test_a_file_outside_the_source_is_not_a_view(source: Path) -> None:
    write_views(source, read(source), world="mesh", kind="json")
    path = source / "views" / "wedge" / "transforms.json"
    Image.new("RGB", (8, 8)).save(source.parent / "secret.png")
    path.write_text(path.read_text().replace("./000", "../../../secret"))
    with pytest.raises(UnreadableItemError, match="the cameras of its views cannot be read"):
        read(source, renders="found")


FRAME = {"file_path": "000.png", "transform_matrix": np.eye(4).tolist()}
BROKEN: dict[str, bytes] = {
    "frames that are texts": b'{"frames": ["000"]}',
    "an angle of nothing": json.dumps({"frames": [FRAME | {"camera_angle_x": 0}]}).encode(),
    "an angle that is not a number": json.dumps({"frames": [FRAME | {"camera_angle_x": float("nan")}]}).encode(),
    "a mirror": json.dumps({"frames": [FRAME | {"transform_matrix": np.diag([1.0, 1, -1, 1]).tolist()}]}).encode(),
    "brackets without end": b"[" * 100_000,
    "an empty .npy": b"",
    "a .npy that claims 32 TB": b"\x93NUMPY\x01\x00v\x00"
    + b"{'descr': '<f8', 'fortran_order': False, 'shape': (1000000000000, 4), }".ljust(117) + b"\n",
}  # fmt: skip


@pytest.mark.parametrize("kind", BROKEN)
def test_broken_cameras_are_a_bad_item(tmp_path: Path, kind: str) -> None:
    folder = tmp_path / "views" / "a"
    folder.mkdir(parents=True)
    Image.new("RGB", (8, 8)).save(folder / "000.png")
    (folder / ("000.npy" if "npy" in kind else "transforms.json")).write_bytes(BROKEN[kind])
    with pytest.raises(UnreadableItemError, match="the cameras of its views cannot be read"):
        _rendered_views.read(tmp_path, "a.glb", 1, 8, 40.0)


def glb(path: Path, *, corners: int = 4, uvs: int = 4, shift: float = 0.0) -> None:
    """A tetrahedron with a texture; its faces name `corners` corners, of which `uvs` have a position in the texture."""
    texture = io.BytesIO()
    Image.new("RGB", (8, 8), "red").save(texture, "PNG")
    faces = np.array([0, 1, 2, 0, 1, corners - 1], "<u2")
    parts = [np.eye(4, 3, dtype="<f4"), faces, np.zeros((uvs, 2), "<f4"), texture.getvalue()]
    blobs = [part if isinstance(part, bytes) else part.tobytes() for part in parts]
    document: dict[str, Any] = {
        "asset": {"version": "2.0"}, "scene": 0, "scenes": [{"nodes": [0]}],
        "nodes": [{"mesh": 0, "translation": [shift, 0, 0]}],
        "meshes": [{"primitives": [{"attributes": {"POSITION": 0, "TEXCOORD_0": 2}, "indices": 1, "material": 0}]}],
        "materials": [{"pbrMetallicRoughness": {"baseColorTexture": {"index": 0}}}],
        "textures": [{"source": 0}], "images": [{"bufferView": 3, "mimeType": "image/png"}],
        "accessors": [
            {"bufferView": 0, "componentType": 5126, "count": 4, "type": "VEC3"},
            {"bufferView": 1, "componentType": 5123, "count": 6, "type": "SCALAR"},
            {"bufferView": 2, "componentType": 5126, "count": uvs, "type": "VEC2"},
        ],
        "bufferViews": [
            {"buffer": 0, "byteOffset": sum(map(len, blobs[:index])), "byteLength": len(blob)}
            for index, blob in enumerate(blobs)
        ],
        "buffers": [{"byteLength": sum(map(len, blobs))}],
    }  # fmt: skip
    chunks = [(b"JSON", json.dumps(document).encode(), b" "), (b"BIN\0", b"".join(blobs), b"\0")]
    body = b""
    for kind, content, filler in chunks:
        content += filler * (-len(content) % 4)
        body += struct.pack("<I", len(content)) + kind + content
    path.write_bytes(b"glTF" + struct.pack("<II", 2, 12 + len(body)) + body)


@pytest.mark.parametrize(
    ("fault", "reason"),
    [
        ({"corners": 1000}, "its faces refer to vertices that do not exist"),
        ({"uvs": 2}, "it has attributes that do not fit its vertices"),
        ({"shift": 1e39}, "its size or position is beyond single precision"),
    ],
)
def test_a_mesh_with_one_fault_is_a_bad_item(tmp_path: Path, fault: dict[str, Any], reason: str) -> None:
    glb(tmp_path / "whole.glb")
    glb(tmp_path / "broken.glb", **fault)
    assert read(tmp_path, "whole.glb", views=1).condition["image"].shape == (1, 64, 64, 3)
    with pytest.raises(UnreadableItemError, match=reason):
        read(tmp_path, "broken.glb", views=1)


def test_meshes_that_cannot_be_used_are_left_out_by_name(source: Path, tmp_path: Path) -> None:
    (source / "points.obj").write_text("v 0 0 0\nv 1 0 0\nv 0 1 0\n")
    job = preparation_job.resolve_job("objaverse", source, tmp_path / "out", objaverse.Config(**SMALL))
    report = pipeline.prepare(job, workers=1)
    assert [(bad.name, bad.reason) for bad in report.skipped] == [("points.obj", "it is a mesh without faces")]
    batch = shard_dataset.ShardDataset(tmp_path / "out").read("train", [0])
    assert batch.condition["tokens"].shape == (1, 4, 64, 198)
    assert manifest.load(tmp_path / "out").normalization["embedder_digest"] == "patches-1"


def test_without_weights_nothing_is_read_and_it_is_said_what_to_do(
    source: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("INRFLOW_WEIGHTS", str(tmp_path))
    with pytest.raises(MissingError, match="the weights of `dinov2` are absent") as caught:
        objaverse.scan(source, objaverse.Config())
    assert "facebook/dinov2-base" in str(caught.value.hint) and "embedder=patches" in str(caught.value.hint)
    assert objaverse.scan(source, objaverse.Config(features="online")).normalization.keys() == {"kind", "undo"}


def test_an_embedder_of_something_else_is_refused(source: Path) -> None:
    with pytest.raises(UsageError, match="no feature network is called `dino`"):
        objaverse.scan(source, objaverse.Config(embedder="dino"))


def test_dinov2s_tokens_are_stored_with_the_digest_of_its_weights(source: Path, tmp_path: Path) -> None:
    folder = hf_folders.dinov2(tmp_path / "dinov2")
    config = objaverse.Config(**(SMALL | {"embedder": "dinov2", "weights": str(folder), "views": 2}))
    report = pipeline.prepare(resolve_job("objaverse", source, tmp_path / "out", config), workers=1)
    assert report.splits == {"train": 1}
    written = manifest.load(tmp_path / "out")
    embedder = dinov2.load(folder)
    assert written.normalization["embedder"] == "dinov2"
    assert written.normalization["embedder_digest"] == embedder.digest
    assert str(tmp_path) not in (tmp_path / "out" / "manifest.json").read_text(), "a path is not recorded as a setting"
    batch = shard_dataset.ShardDataset(tmp_path / "out").read("train", [0])
    images, poses = (torch.from_numpy(batch.condition[name][0]) for name in ("image", "camera"))
    assert batch.condition["tokens"].shape == (1, 2, 25, 32 + 6)
    expected = posed_image_tokens(embedder, images, poses).numpy()
    np.testing.assert_allclose(batch.condition["tokens"][0], expected, atol=2e-3)


def test_settings_that_cannot_be_are_refused() -> None:
    wrong: dict[str, Any] = {"views": 0, "resolution": 4, "points": 0, "val": 1.0, "field_of_view": 180.0}
    for name, value in wrong.items():
        with pytest.raises(ValueError, match=f"`{name}` is {value}"):
            objaverse.Config(**{name: value})


def test_views_lie_by_the_whole_name_or_its_last_part(tmp_path: Path) -> None:
    for folder in ("views/a/b", "views_release/c", "a/views/d"):
        (tmp_path / folder).mkdir(parents=True)
    for mesh, folder in (("a/b.glb", "views/a/b"), ("glbs/c.glb", "views_release/c"), ("a/d.obj", "a/views/d")):
        assert _rendered_views._folder(tmp_path, mesh) == tmp_path / folder


def test_textured_meshes_show_what_they_are(real_data: Callable[[str], Path], tmp_path: Path) -> None:
    with tarfile.open(real_data("meshes/kaykit_cc0/Furniture-Bits.tar.gz")) as tar:
        tar.extractall(tmp_path / "source", filter="data")
    names = sorted((tmp_path / "source").rglob("chair_*.obj"))
    assert len(names) >= 3
    for path in names[:3]:
        example = read(tmp_path / "source", str(path.relative_to(tmp_path / "source")))
        assert min(share_on_the_object(example, view) for view in range(4)) > 0.95
        pixels = example.condition["image"].reshape(-1, 3)
        colored = pixels[(pixels != 255).any(1)].astype(int)
        assert (np.ptp(colored, axis=1) > 30).mean() > 0.2, "it has the colors of its texture"


@pytest.mark.parametrize("settings", [{}, {"features": "online", "views": 2}])
def test_images_and_tokens_count_for_the_size_of_shards_and_for_the_disk(
    source: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, settings: dict[str, Any]
) -> None:
    for number in range(9):
        shutil.copy(source / "glbs/000-023/wedge.obj", source / f"{number}.obj")
    shutil.copy(source / "glbs/000-023/a.mtl", source)
    config = objaverse.Config(**(SMALL | settings))
    plan = objaverse.scan(source, config)
    example = objaverse.read(plan.splits["train"][0], config)
    assert plan.condition_bytes == sum(array.nbytes for array in example.condition.values())
    whole = example.values.nbytes + plan.condition_bytes
    monkeypatch.setattr(preparation_job, "MAX_SHARD_BYTES", 3 * whole)
    job = preparation_job.resolve_job("objaverse", source, tmp_path / "out", config)
    assert [len(part.items) for part in plan_shards(job, plan)] == [2, 3, 2, 3]
    monkeypatch.setattr(shutil, "disk_usage", lambda path: shutil._ntuple_diskusage(10**9, 10**9, 10 * whole - 1))
    with pytest.raises(OutOfMemory, match="the shards need"):
        pipeline.prepare(job, workers=1)


@pytest.mark.slow
def test_workers_change_no_byte(source: Path, tmp_path: Path) -> None:
    shutil.copy(source / "glbs/000-023/a.mtl", source)
    for number in range(259):
        shutil.copy(source / "glbs/000-023/wedge.obj", source / f"{number}.obj")  # 260 make two shards
    for workers in (1, 2):
        settings: dict[str, Any] = SMALL | {"points": 50, "resolution": 8, "views": 1}
        job = preparation_job.resolve_job("objaverse", source, tmp_path / f"{workers}", objaverse.Config(**settings))
        pipeline.prepare(job, workers=workers)
    files = sorted((tmp_path / "1").iterdir())
    assert [file.name for file in files] == ["manifest.json", "train-00000.h5", "train-00001.h5"]
    for file in files:
        assert file.read_bytes() == (tmp_path / "2" / file.name).read_bytes()


POSE = np.diag([1.0, 1, 1, 1]).tolist()


@pytest.mark.parametrize("is_for_all", [True, False])
def test_cameras_of_nerfstudio_have_their_focal_length(tmp_path: Path, is_for_all: bool) -> None:
    folder = tmp_path / "views" / "a"
    folder.mkdir(parents=True)
    Image.new("RGB", (64, 64)).save(folder / "000.png")
    camera = {"fl_x": 55.4256, "fl_y": 55.4256, "cx": 32, "cy": 32, "w": 64, "h": 64}
    frame = {"file_path": "./000.png", "transform_matrix": POSE}
    table = {**camera, "camera_model": "OPENCV", "frames": [frame]} if is_for_all else {"frames": [frame | camera]}
    (folder / "transforms.json").write_text(json.dumps(table))
    views = _rendered_views.read(tmp_path, "a.glb", 1, 8, 40.0)
    np.testing.assert_allclose(views.cameras[0, 3, :2], 0.8660, atol=1e-4)


@pytest.mark.parametrize(
    ("camera", "reason"),
    [
        ({"k1": 0.1, "fl_x": 50, "w": 64}, "not pinhole cameras"),
        ({"camera_model": "OPENCV_FISHEYE", "fl_x": 50, "w": 64}, "not pinhole cameras"),
        ({"cx": 20, "fl_x": 50, "w": 64}, "beside the middle"),
        ({"camera_type": "ORTHO", "camera_angle_x": 1.0}, "not pinhole cameras"),
        ({"focal_length": 50}, "in an unknown way"),
        ({"fov": 60}, "in an unknown way"),
        ({"camera_angle_x": 1.5, "fl_x": 50, "w": 64}, "two focal lengths"),
    ],
)
def test_cameras_that_are_not_known_are_refused(tmp_path: Path, camera: dict[str, Any], reason: str) -> None:
    folder = tmp_path / "views" / "a"
    folder.mkdir(parents=True)
    Image.new("RGB", (64, 64)).save(folder / "000.png")
    frame = {"file_path": "./000.png", "transform_matrix": POSE}
    (folder / "transforms.json").write_text(json.dumps(camera | {"frames": [frame]}))
    with pytest.raises(UnreadableItemError, match=reason):
        _rendered_views.read(tmp_path, "a.glb", 1, 8, 40.0)
