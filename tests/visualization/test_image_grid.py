"""Images: sheets keep pixels, clouds are drawn where their points are."""

from __future__ import annotations

import numpy as np
import pytest
from PIL import Image

from inrflow_core.proteins import structure
from inrflow_core.visualization import image_grid, point_rendering, protein_rendering


def noise_images(count: int, side: int, channels: int) -> np.ndarray:
    return np.random.default_rng(0).integers(0, 256, (count, side, side, channels), dtype=np.uint8)


@pytest.mark.parametrize("channels", [1, 3, 4])
def test_one_image_alone_is_itself_pixel_for_pixel(channels: int) -> None:
    images = noise_images(1, 8, channels)
    back = np.asarray(image_grid.image_grid(images)).reshape(8, 8, channels)
    np.testing.assert_array_equal(back, images[0])


def test_a_sheet_holds_every_image_with_white_between() -> None:
    images = noise_images(6, 32, 3)
    page = np.asarray(image_grid.image_grid(images, columns=3))
    assert page.shape == (2 * 68 + 4, 3 * 68 + 4, 3)
    for index, image in enumerate(images):
        row, column = divmod(index, 3)
        tile = page[4 + row * 68 : 68 + row * 68, 4 + column * 68 : 68 + column * 68]
        np.testing.assert_array_equal(tile, image.repeat(2, 0).repeat(2, 1))
    assert (page[:4] == 255).all()
    assert (page[:, 68:72] == 255).all()


def test_rows_of_different_resolution_stand_under_one_another() -> None:
    coarse, fine = noise_images(3, 8, 1), noise_images(3, 24, 1)
    page = np.asarray(image_grid.labeled_rows({"coarse": coarse, "fine": fine}, tile=48))
    right = page[:, -(3 * 52) :]
    np.testing.assert_array_equal(right[4:52, :48, 0], coarse[0, :, :, 0].repeat(6, 0).repeat(6, 1))
    np.testing.assert_array_equal(right[56:104, 104:152, 0], fine[2, :, :, 0].repeat(2, 0).repeat(2, 1))
    assert (page[:, : -(3 * 52)] < 128).any(), "the rows have names"


@pytest.mark.parametrize(("count", "columns"), [(1, 1), (4, 2), (7, 3), (8, 4), (10, 5), (16, 4), (64, 8)])
def test_sheets_are_near_square_and_come_out_even_where_they_can(count: int, columns: int) -> None:
    assert image_grid.grid_columns(count) == columns


def ink(drawn: Image.Image) -> np.ndarray:
    return np.asarray(drawn).min(-1) < 250


def test_up_is_up_and_right_is_right_in_a_drawn_cloud() -> None:
    box = np.stack(np.meshgrid([-1, 1], [-1, 1], [-1, 1]), -1).reshape(-1, 3).astype(np.float32)
    blob = np.random.default_rng(0).normal(size=(500, 3)).astype(np.float32) * 0.05
    for shift, half in [((0, 0.8, 0), np.s_[:64]), ((0.8, 0, 0), np.s_[:, 64:])]:
        sampled = ink(
            point_rendering.cloud(np.concatenate([box, blob + np.float32(shift)]), size=128, azimuth=0, elevation=0)
        )
        bare = ink(point_rendering.cloud(np.concatenate([box, blob]), size=128, azimuth=0, elevation=0))
        extra = sampled & ~bare
        assert extra[half].sum() > 0.9 * extra.sum()


def test_the_nearer_of_two_points_hides_the_farther() -> None:
    sheet = np.stack(np.meshgrid(np.linspace(-1, 1, 60), np.linspace(-1, 1, 60)), -1).reshape(-1, 2)
    red, blue = [1.0, -1.0, -1.0], [-1.0, -1.0, 1.0]
    front = np.concatenate([sheet, np.full((3600, 1), 0.5), np.tile(red, (3600, 1))], axis=1)
    back = np.concatenate([sheet, np.full((3600, 1), -0.5), np.tile(blue, (3600, 1))], axis=1)
    for points in (np.concatenate([front, back]), np.concatenate([back, front])):
        sampled = np.asarray(point_rendering.cloud(points.astype(np.float32), size=64, azimuth=0, elevation=0)).astype(
            int
        )
        middle = sampled[20:44, 20:44]
        assert (middle[..., 0] > middle[..., 2] + 60).all()


def test_a_stray_point_does_not_shrink_the_view() -> None:
    ball = np.random.default_rng(0).normal(size=(2000, 3)).astype(np.float32)
    ball /= np.linalg.norm(ball, axis=1, keepdims=True)
    stray = np.concatenate([ball, np.array([[50, 0, 0]], dtype=np.float32)])
    assert ink(point_rendering.cloud(stray, size=64)).sum() > 0.9 * ink(point_rendering.cloud(ball, size=64)).sum()


def test_one_point_and_a_million_are_drawn() -> None:
    assert ink(point_rendering.cloud(np.zeros((1, 3), dtype=np.float32), size=32)).any()
    many = np.random.default_rng(0).normal(size=(1_000_000, 3)).astype(np.float32)
    assert ink(point_rendering.cloud(many, size=32)).any()


def test_the_same_cloud_gives_the_same_image() -> None:
    points = np.random.default_rng(0).normal(size=(2, 300, 3)).astype(np.float32)
    first, again = (point_rendering.render_clouds(points, size=64, captions=["a", "b"]).tobytes() for _ in range(2))
    assert first == again


def test_curves_go_down_where_the_numbers_do() -> None:
    sampled = np.asarray(image_grid.curves({"loss": (range(100), np.linspace(1, 0, 100).tolist())})).astype(int)
    blue = (sampled[..., 2] > sampled[..., 0] + 60).nonzero()
    assert np.corrcoef(blue[0], blue[1])[0, 1] > 0.9


def helix(count: int = 40) -> np.ndarray:
    turn = np.radians(100) * np.arange(count)
    return np.stack([2.3 * np.cos(turn), 2.3 * np.sin(turn), 1.5 * np.arange(count)], axis=1).astype(np.float32)


def test_a_protein_is_blue_where_it_begins_and_red_where_it_ends() -> None:
    trace = helix()
    pixels = np.asarray(protein_rendering.protein(trace, size=128)).astype(int)
    assert pixels.shape == (128, 128, 3)
    ink = pixels.min(2) < 200
    assert 0.03 < ink.mean() < 0.6
    columns = np.flatnonzero(ink.any(0))
    ends = [pixels[:, index : index + 8][ink[:, index : index + 8]].mean(0) for index in (columns[0], columns[-1] - 7)]
    blue = ends[0] if ends[0][2] > ends[1][2] else ends[1]
    red = ends[1] if blue is ends[0] else ends[0]
    assert blue[2] > blue[0] + 40 and red[0] > red[2] + 40
    other_way = np.asarray(protein_rendering.protein(trace[::-1].copy(), size=128)).astype(int)
    assert np.abs(other_way - pixels).max() > 100


def test_a_protein_looks_the_same_wherever_it_lies() -> None:
    trace = np.random.default_rng(0).normal(size=(40, 3)).cumsum(0).astype(np.float32)
    turn, _ = np.linalg.qr(np.random.default_rng(1).normal(size=(3, 3)))
    turn *= np.sign(np.linalg.det(turn))
    moved = (trace @ turn + 30).astype(np.float32)
    one, other = (np.asarray(protein_rendering.protein(each, size=128)).astype(int) for each in (trace, moved))
    assert (np.abs(one - other).max(-1) > 60).mean() < 0.02
    mirrored = trace * [1, 1, -1]
    assert (
        np.abs(one - np.asarray(protein_rendering.protein(mirrored, size=128)).astype(int)).max(-1) > 60
    ).mean() > 0.02
    for each in (trace, mirrored):  # a turn and no mirror: what is near hides what is far
        assert np.linalg.det(structure.principal_axes(each)) == pytest.approx(1)


def test_proteins_of_any_length_stand_side_by_side() -> None:
    traces = [helix(40), helix(9), helix(1), helix(2)]
    page = protein_rendering.render_proteins(traces, size=64, columns=2, captions=["a", "b", "c", "d"])
    assert page.width == 128 and page.height > 128
    own, shared = (np.asarray(protein_rendering.render_proteins([helix(), helix() @ np.diag([1, -1, -1])], is_one_view=flag)) for flag in (False, True))  # fmt: skip
    assert np.abs(own[:, :256].astype(int) - own[:, 256:]).max() < 60
    assert np.abs(shared[:, :256].astype(int) - shared[:, 256:]).max() > 100


def test_images_of_a_sheet_are_from_96_to_384_pixels_high_and_views_of_a_scene_in_a_row() -> None:
    for side, shown in ((24, 96), (96, 96), (100, 100), (1000, 384)):
        sheet = image_grid.sheet(noise_images(2, side, 3)[:, None], ["one", "two"])
        assert sheet.width == 2 * (shown + 4) + 4, side
    rows = image_grid.sheet(noise_images(6, 96, 3).reshape(2, 3, 96, 96, 3), ["cat, seed 0", "seed 1"])
    assert rows.height == 2 * 100 + 4 and rows.width > 3 * 100 + 4 + 50
