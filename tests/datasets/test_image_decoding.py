"""Images are decoded by content and cut as ADM cuts them; what is broken is a reason, never a crash."""

from __future__ import annotations

import io
import struct
import zlib

import numpy as np
import pytest
from PIL import Image

from inrflow_core.datasets._image_decoding import pixel_centers, pixels
from inrflow_core.errors import UnreadableItemError
from inrflow_core.visualization.image_io import center_crop
from tests.datasets import raw


def saved(image: Image.Image, kind: str, **options) -> bytes:
    file = io.BytesIO()
    image.save(file, kind, **options)
    return file.getvalue()


def flat(mode: str, color, size: tuple[int, int] = (16, 16)) -> Image.Image:
    return Image.new(mode, size, color)


def test_an_image_of_the_right_size_is_left_as_it_is():
    image = raw.image(0, (16, 16))
    np.testing.assert_array_equal(center_crop(image, 16), np.asarray(image))


def test_the_middle_is_cut_out_of_a_wide_and_of_a_high_image():
    wide = np.asarray(raw.image(0, (48, 16)))
    np.testing.assert_array_equal(center_crop(Image.fromarray(wide), 16), wide[:, 16:32])
    np.testing.assert_array_equal(
        center_crop(Image.fromarray(wide.transpose(1, 0, 2)), 16), wide[:, 16:32].transpose(1, 0, 2)
    )


@pytest.mark.parametrize("halvings", [1, 2, 3])
def test_powers_of_two_are_means_of_blocks(halvings: int):
    side = 8 << halvings
    blocks = np.repeat(np.repeat(np.asarray(raw.image(1, (8, 8))), 1 << halvings, 0), 1 << halvings, 1)
    assert blocks.shape == (side, side, 3)
    np.testing.assert_array_equal(center_crop(Image.fromarray(blocks), 8), np.asarray(raw.image(1, (8, 8))))


def test_other_sizes_are_halved_by_box_and_then_brought_to_size_by_bicubic():
    image = raw.image(2, (75, 50))  # 50 >= 2 * 16, twice not: one halving, then 25 -> 16 rows and 37 -> 24 columns
    halved = image.resize((37, 25), Image.Resampling.BOX)
    sized = halved.resize((round(37 * 16 / 25), 16), Image.Resampling.BICUBIC)
    np.testing.assert_array_equal(center_crop(image, 16), np.asarray(sized)[:, 4:20])


def test_a_small_image_is_enlarged():
    assert center_crop(raw.image(3, (5, 7)), 16).shape == (16, 16, 3)


@pytest.mark.parametrize(
    ("content", "color"),
    [
        (saved(flat("L", 77), "JPEG"), (77, 77, 77)),
        (saved(flat("RGB", (200, 40, 90)), "PNG"), (200, 40, 90)),
        (saved(flat("CMYK", (0, 255, 255, 0)), "JPEG", quality=100), (255, 0, 0)),
        (saved(flat("I;16", 40_000), "PNG"), (156, 156, 156)),
        (saved(flat("RGBA", (200, 0, 0, 0)), "PNG"), (255, 255, 255)),
        (saved(flat("RGBA", (200, 0, 0, 255)), "WEBP", lossless=True), (200, 0, 0)),
        (saved(flat("LA", (100, 255)), "PNG"), (100, 100, 100)),
        (saved(flat("RGB", (1, 200, 3)).quantize(4), "GIF"), (1, 200, 3)),
        (saved(flat("1", 1), "PNG"), (255, 255, 255)),
        (saved(flat("RGB", (9, 8, 7)), "BMP"), (9, 8, 7)),
    ],
    ids=["gray jpeg", "rgb", "cmyk", "16 bit", "clear", "opaque webp", "gray alpha", "palette", "1 bit", "bmp"],
)
def test_every_kind_of_image_becomes_rgb(content: bytes, color: tuple[int, int, int]):
    decoded = pixels(content, 16)
    assert (decoded.shape, decoded.dtype) == ((16, 16, 3), np.uint8)
    assert np.abs(decoded.astype(int) - color).max() <= 2


def test_one_channel_is_gray():
    decoded = pixels(saved(flat("RGB", (255, 0, 0)), "PNG"), 8, channels=1)
    assert decoded.shape == (8, 8, 1) and set(decoded.ravel().tolist()) == {76}


def test_a_photograph_is_turned_only_on_request():
    image = raw.image(4, (16, 16))
    exif = Image.Exif()
    exif[0x0112] = 6  # the camera was held a quarter turn to the left
    content = saved(image, "PNG", exif=exif)
    np.testing.assert_array_equal(pixels(content, 16), np.asarray(image))
    np.testing.assert_array_equal(pixels(content, 16, upright=True), np.rot90(np.asarray(image), -1))


def bomb() -> bytes:
    """A PNG that says it is 65,535 pixels square."""
    header = b"IHDR" + struct.pack(">2I5B", 65_535, 65_535, 8, 2, 0, 0, 0)
    return PNG[:12] + header + struct.pack(">I", zlib.crc32(header)) + PNG[33:]


JPEG = raw.encoded(5, "JPEG", size=(64, 64))
PNG = raw.encoded(5, "PNG", size=(64, 64))


@pytest.mark.parametrize(
    ("content", "reason"),
    [
        (b"", "it is empty"),
        (b"<html>not found</html>", "its content is not JPEG, PNG, WEBP, BMP, GIF, TIFF or PPM"),
        (b"%!PS-Adobe-3.0 EPSF-3.0\n%%BoundingBox: 0 0 9 9\n", "its content is not JPEG"),
        (JPEG[:-100], "it cannot be decoded: image file is truncated"),
        (PNG[: len(PNG) // 2], "it cannot be decoded"),
        (PNG[:40], "it cannot be decoded|its content is no"),
        (PNG[:100] + bytes(50) + PNG[150:], "it cannot be decoded"),
        (bomb(), "it cannot be decoded: Image size .* exceeds limit"),
    ],
    ids=["empty", "web page", "postscript", "half a jpeg", "half a png", "a header", "holed", "a bomb"],
)
def test_broken_content_is_a_reason_without_path_or_address(content: bytes, reason: str):
    with pytest.raises(UnreadableItemError, match=reason) as caught:
        pixels(content, 16)
    assert "0x" not in caught.value.reason and "/" not in caught.value.reason and "\n" not in caught.value.reason


def test_coordinates_are_pixel_centers_rows_first():
    centers = pixel_centers(4)
    np.testing.assert_array_equal(centers[:, 0, 0], np.array([-0.75, -0.25, 0.25, 0.75], np.float32))
    np.testing.assert_array_equal(centers[0, :, 1], centers[:, 0, 0])
    assert centers[3, 0].tolist() == [0.75, -0.75]
