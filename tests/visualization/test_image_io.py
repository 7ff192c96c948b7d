"""One reader of images: each kind of file gives the same pixels in every command, or a reason."""

from __future__ import annotations

import io
import os
import struct
import subprocess
import zlib
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from inrflow_core.errors import Exit, IntegrityError, MissingError, UnreadableItemError
from inrflow_core.visualization import image_io

RAMP = np.tile(np.linspace(0, 65535, 64).astype(np.uint16), (64, 1))
GRAY = ((RAMP.astype(np.uint32) * 255 + 32767) // 65535).astype(np.uint8)
"""What the ramp must become."""
LEFT = np.arange(64) < 32
"""Columns that are transparent in the files below; the hidden color there is red or black."""


def encoded(image: Image.Image, kind: str, **options) -> bytes:
    file = io.BytesIO()
    image.save(file, kind, **options)
    return file.getvalue()


def decoded(content: bytes, mode: image_io.Mode | None = "RGB") -> np.ndarray:
    return np.asarray(image_io.decode_image(content, mode)).astype(int)


def chunk(kind: bytes, content: bytes) -> bytes:
    return struct.pack(">I", len(content)) + kind + content + struct.pack(">I", zlib.crc32(kind + content))


def png(depth: int, color: int, rows: np.ndarray, *chunks: bytes, width: int) -> bytes:
    """A PNG of rows of bytes without filters."""
    header = struct.pack(">2I5B", width, len(rows), depth, color, 0, 0, 0)
    body = zlib.compress(b"".join(b"\0" + row.tobytes() for row in rows))
    parts = [chunk(b"IHDR", header), *chunks, chunk(b"IDAT", body), chunk(b"IEND", b"")]
    return b"\x89PNG\r\n\x1a\n" + b"".join(parts)


DEEP = {
    "png": encoded(Image.fromarray(RAMP), "PNG"),
    "pgm": b"P5\n64 64\n65535\n" + RAMP.astype(">u2").tobytes(),
    "pgm as text": ("P2\n64 64\n65535\n" + "\n".join(" ".join(map(str, row)) for row in RAMP) + "\n").encode(),
    "tiff": encoded(Image.fromarray(RAMP), "TIFF"),
    "tiff, big endian": encoded(Image.frombytes("I;16B", (64, 64), RAMP.astype(">u2").tobytes()), "TIFF"),
    "tiff, int32": encoded(Image.fromarray(RAMP.astype(np.int32)), "TIFF"),
}


def tiff(bits: int, white: int, body: bytes, sample_format: int = 1) -> bytes:
    """A gray TIFF of 64 x 64 values; `white` is its photometric interpretation: 0 where the value 0 is white."""
    tags = {
        256: 64,
        257: 64,
        258: bits,
        259: 1,
        262: white,
        273: 8,
        277: 1,
        278: 64,
        279: len(body),
        339: sample_format,
    }
    table = b"".join(struct.pack("<HHII", tag, 4 if tag == 279 else 3, 1, value) for tag, value in tags.items())
    return b"II*\0" + struct.pack("<I", 8 + len(body)) + body + struct.pack("<H", len(tags)) + table + bytes(4)


def packed_12_bits(values: np.ndarray) -> bytes:
    pairs = values.reshape(-1, 2).astype(np.uint32)
    return (
        np.stack([pairs[:, 0] >> 4, (pairs[:, 0] & 15) << 4 | pairs[:, 1] >> 8, pairs[:, 1] & 255], 1)
        .astype("u1")
        .tobytes()
    )


DEEP["tiff, 0 is white"] = tiff(16, 0, (65535 - RAMP).astype("<u2").tobytes())


@pytest.mark.parametrize("mode", ["L", "RGB", None])
@pytest.mark.parametrize("content", DEEP.values(), ids=DEEP)
def test_gray_of_16_bits_is_scaled_alike_in_every_container(content: bytes, mode: image_io.Mode | None):
    got = decoded(content, mode)
    np.testing.assert_array_equal(got if mode != "RGB" else got[..., 0], GRAY)


def test_a_tiff_of_12_bits_reaches_white():
    twelve = RAMP >> 4
    expected = (twelve.astype(np.uint32) * 255 + 2047) // 4095
    np.testing.assert_array_equal(decoded(tiff(12, 1, packed_12_bits(twelve)), "L"), expected)


def test_signed_gray_of_8_bits_is_refused_and_not_read_as_unsigned():
    with pytest.raises(UnreadableItemError, match="signed"):
        image_io.decode_image(tiff(8, 1, bytes(64 * 64), sample_format=2))


def test_a_tiff_of_a_layout_that_is_not_read_is_not_only_said_to_be_damaged():
    with pytest.raises(UnreadableItemError, match=r"damaged TIFF file, or its layout .* is not one that is read"):
        image_io.decode_image(tiff(64, 1, bytes(8 * 64 * 64), sample_format=3))


def test_a_pgm_of_10_bits_reaches_white():
    got = decoded(b"P5\n64 64\n1023\n" + (RAMP // 64).astype(">u2").tobytes(), "L")
    assert (got[0, 0], got[0, -1]) == (0, 255) and np.abs(got - GRAY).max() <= 1


def test_of_color_of_16_bits_the_upper_8_are_read():
    rows = np.stack([RAMP, RAMP // 2, RAMP * 0], -1).astype(">u2").reshape(64, -1)
    got = decoded(png(16, 2, rows, width=64))
    np.testing.assert_array_equal(got, np.stack([RAMP >> 8, RAMP // 2 >> 8, RAMP * 0], -1))
    ppm = decoded(b"P6\n64 64\n65535\n" + rows.tobytes())
    assert np.abs(ppm - got).max() <= 1


@pytest.mark.parametrize("values", [np.array([[-1, 5]]), np.array([[0, 65536]])], ids=["negative", "more than 16 bits"])
def test_integers_that_do_not_fit_into_16_bits_are_refused_by_their_range(values: np.ndarray):
    with pytest.raises(UnreadableItemError, match=rf"values are from {values.min():,} to {values.max():,}, not from 0"):
        decoded(encoded(Image.fromarray(values.astype(np.int32)), "TIFF"))


@pytest.mark.parametrize("top", [1, 255, 65535])
def test_floating_point_tiffs_are_refused_by_name_whatever_their_range(top: int):
    with pytest.raises(UnreadableItemError, match="floating-point values, whose range no file states"):
        decoded(encoded(Image.fromarray(np.linspace(0, top, 64, dtype=np.float32)[None]), "TIFF"))


def palette(transparency: int | bytes, kind: str = "PNG") -> bytes:
    image = Image.fromarray(np.tile(~LEFT, (64, 1)).astype(np.uint8)).convert("P")
    image.putdata(np.tile(~LEFT, 64).astype(int).tolist())
    image.putpalette([255, 0, 0, 0, 255, 0] + [0] * 762)
    return encoded(image, kind, transparency=transparency)


COLORS = np.where(LEFT[:, None], (255, 0, 0), (0, 255, 0)).astype(np.uint8)[None].repeat(64, 0)
ALPHA = np.where(LEFT, 0, 255).astype(np.uint8)[None].repeat(64, 0)
RGBA = Image.fromarray(np.dstack([COLORS, ALPHA]))
CLEAR = {
    "palette with one clear index": palette(0),
    "palette with alpha": palette(bytes([0, 255])),
    "gif": palette(0, "GIF"),
    "rgb with a clear color": encoded(Image.fromarray(COLORS), "PNG", transparency=(255, 0, 0)),
    "rgba": encoded(RGBA, "PNG"),
    "rgba webp": encoded(RGBA, "WEBP", lossless=True, exact=True),
    "rgba tiff": encoded(RGBA, "TIFF"),
    "16-bit rgb with a clear color": png(
        16, 2, (COLORS.astype(np.uint16) * 257).astype(">u2").reshape(64, -1),
        chunk(b"tRNS", struct.pack(">3H", 65535, 0, 0)), width=64,
    ),
}  # fmt: skip


@pytest.mark.parametrize("content", CLEAR.values(), ids=CLEAR)
def test_what_is_transparent_shows_white_and_never_the_hidden_color(content: bytes):
    expected = np.where(LEFT[:, None], 255, (0, 255, 0))[None].repeat(64, 0)
    np.testing.assert_array_equal(decoded(content), expected)
    np.testing.assert_array_equal(decoded(content, None), expected)
    np.testing.assert_array_equal(decoded(content, "RGBA")[..., 3], ALPHA)


def test_half_transparent_is_half_white():
    np.testing.assert_allclose(decoded(palette(bytes([128, 255])))[0, 0], (255, 127, 127), atol=1)


CLEAR_GRAY = {
    "la": encoded(Image.fromarray(np.dstack([ALPHA // 255 * 100, ALPHA])), "PNG"),
    "l with a clear gray": encoded(Image.fromarray(ALPHA // 255 * 100), "PNG", transparency=0),
    "16 bits with a clear gray": png(
        16, 0, (ALPHA.astype(np.uint16) // 255 * 25700).astype(">u2"), chunk(b"tRNS", b"\0\0"), width=64
    ),
}


@pytest.mark.parametrize("content", CLEAR_GRAY.values(), ids=CLEAR_GRAY)
def test_gray_stays_gray_and_is_white_where_it_is_transparent(content: bytes):
    expected = np.where(LEFT, 255, 100)[None].repeat(64, 0)
    np.testing.assert_array_equal(decoded(content, None), expected)
    np.testing.assert_array_equal(decoded(content, "L"), expected)


@pytest.mark.parametrize(("depth", "key"), [(1, 1), (2, 3), (4, 15)])
def test_the_clear_gray_of_a_few_bits_is_scaled_with_its_pixels(depth: int, key: int):
    """All pixels have the highest value, which is white already: alpha shows that the key was found."""
    rows = np.full((8, depth), 255, np.uint8)
    content = png(depth, 0, rows, chunk(b"tRNS", struct.pack(">H", key)), width=8)
    assert set(decoded(content, "RGBA")[..., 3].ravel()) == {0}
    other = png(depth, 0, rows, chunk(b"tRNS", b"\0\0"), width=8)
    assert set(decoded(other, "RGBA")[..., 3].ravel()) == {255}


@pytest.mark.parametrize("orientation", range(1, 9))
def test_photographs_are_rotated_as_their_exif_says(orientation: int):
    pixels = np.arange(6 * 4 * 3, dtype=np.uint8).reshape(6, 4, 3)
    exif = Image.Exif()
    exif[0x0112] = orientation
    content = encoded(Image.fromarray(pixels), "PNG", exif=exif)
    turned = {
        1: pixels, 2: pixels[:, ::-1], 3: pixels[::-1, ::-1], 4: pixels[::-1], 5: pixels.swapaxes(0, 1),
        6: np.rot90(pixels, -1), 7: pixels[::-1, ::-1].swapaxes(0, 1), 8: np.rot90(pixels),
    }  # fmt: skip
    np.testing.assert_array_equal(decoded(content), turned[orientation])
    np.testing.assert_array_equal(np.asarray(image_io.decode_image(content, is_upright=False)), pixels)


PLAIN = Image.fromarray(np.kron(np.array([[[200, 0, 0], [0, 200, 0]], [[0, 0, 200], [200, 200, 0]]]), np.ones((32, 32, 1))).astype(np.uint8))  # fmt: skip
WHITE = Image.new("RGB", (64, 64), "white")
KINDS = {
    "bmp": encoded(PLAIN, "BMP"),
    "ppm": encoded(PLAIN, "PPM"),
    "cmyk jpeg": encoded(PLAIN.convert("CMYK"), "JPEG", quality=100),
    "cmyk tiff": encoded(PLAIN.convert("CMYK"), "TIFF"),
    "palette": encoded(PLAIN.quantize(4), "PNG", bits=2),
    "the first frame of a gif": encoded(PLAIN, "GIF", save_all=True, append_images=[WHITE]),
    "the first frame of a webp": encoded(PLAIN, "WEBP", save_all=True, append_images=[WHITE], lossless=True),
    "the first frame of a png": encoded(PLAIN, "PNG", save_all=True, append_images=[WHITE]),
    "the first page of a tiff": encoded(PLAIN, "TIFF", save_all=True, append_images=[WHITE]),
    "the photograph of an mpo": encoded(PLAIN, "MPO", save_all=True, append_images=[WHITE], quality=100, subsampling=0),
    "bytes behind the end": encoded(PLAIN, "PNG") + b"junk" * 100,
}


@pytest.mark.parametrize("content", KINDS.values(), ids=KINDS)
def test_every_kind_becomes_the_same_rgb(content: bytes):
    assert np.abs(decoded(content) - np.asarray(PLAIN).astype(int)).max() <= 6


NOISE = np.random.default_rng(0).integers(0, 256, (64, 64, 3), dtype=np.uint8)
PNG = encoded(PLAIN, "PNG")
DATA = PNG.index(b"IDAT") - 4
EPS = b"%!PS-Adobe-3.0 EPSF-3.0\n%%BoundingBox: 0 0 9 9\n%%EndComments\n(%pipe%touch started) (w) file closefile\n"
HEIC = b"\0\0\0\x18ftypheic" + bytes(100)
REFUSED = {
    "empty": (b"", "it is empty"),
    "web page": (b"<!DOCTYPE html>", "its content is no"),
    "eps": (EPS, "its content is no"),
    "heic": (HEIC, "its content is no"),
    "jpeg 2000": (encoded(PLAIN, "JPEG2000"), "its content is no"),
    "half a png": (PNG[: len(PNG) // 2], "it cannot be decoded"),
    "half a jpeg": (encoded(Image.fromarray(NOISE), "JPEG")[:-300], "it cannot be decoded: image file is truncated"),
    "a comment with a wrong checksum": (
        PNG[:DATA] + struct.pack(">I", 8) + b"tEXtk\0value!" + bytes(4) + PNG[DATA:],
        "it is a damaged PNG file",
    ),
    "a comment that unpacks to 80 MB": (
        PNG[:DATA] + chunk(b"zTXt", b"k\0\0" + zlib.compress(bytes(80 << 20), 9)) + PNG[DATA:],
        "Decompressed data too large|it is a damaged PNG file",
    ),
    "a bomb": (png(1, 0, np.zeros((1, 8), np.uint8), width=8).replace(
        chunk(b"IHDR", struct.pack(">2I5B", 8, 1, 1, 0, 0, 0, 0)),
        chunk(b"IHDR", struct.pack(">2I5B", 30_000, 30_000, 1, 0, 0, 0, 0)),
    ), "Image size .* exceeds limit"),
    "a mode that is not read": (encoded(Image.new("LAB", (8, 8)), "TIFF"), "its mode LAB is not read"),
}  # fmt: skip


@pytest.mark.parametrize(("content", "reason"), REFUSED.values(), ids=REFUSED)
def test_what_is_not_read_is_an_error_that_names_file_and_reason(content: bytes, reason: str, tmp_path: Path):
    with pytest.raises(UnreadableItemError, match=reason):
        image_io.decode_image(content)
    path = tmp_path / "photo.png"
    path.write_bytes(content)
    with pytest.raises(IntegrityError, match=rf"photo.png` cannot be read as an image: .*({reason})") as caught:
        image_io.read_image(path)
    assert caught.value.code == Exit.INTEGRITY and caught.value.hint is not None


def test_an_image_of_too_many_pixels_is_refused_before_they_are_decoded():
    assert image_io.decode_image(PNG, most_pixels=64 * 64).size == (64, 64)
    for content in (PNG, PNG[: DATA + 12]):  # the second has no pixels: decoding it would say so
        with pytest.raises(UnreadableItemError, match=r"it has 64 x 64 pixels, more than 0.004095 megapixels"):
            image_io.decode_image(content, most_pixels=64 * 64 - 1)


def test_no_image_starts_another_program(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    def started(*arguments, **options):
        raise AssertionError(f"started {arguments}")

    monkeypatch.setattr(subprocess, "Popen", started)
    monkeypatch.setattr(os, "system", started)
    path = tmp_path / "photo.png"
    path.write_bytes(EPS)
    with pytest.raises(IntegrityError, match="its content is no"):
        image_io.read_image(path)


def test_an_absent_file_a_folder_and_a_pipe_are_distinguished(tmp_path: Path):
    with pytest.raises(MissingError, match=r"none.png` does not exist"):
        image_io.read_image(tmp_path / "none.png")
    (tmp_path / "folder.png").mkdir()
    with pytest.raises(IntegrityError, match=r"folder.png` is a folder, not a file"):
        image_io.read_image(tmp_path / "folder.png")
    os.mkfifo(tmp_path / "pipe.png")
    with pytest.raises(IntegrityError, match=r"pipe.png` is a pipe or a device, not a file"):
        image_io.read_image(tmp_path / "pipe.png")
    (tmp_path / "loop.png").symlink_to(tmp_path / "loop.png")
    with pytest.raises(IntegrityError, match=r"loop.png` cannot be opened"):
        image_io.read_image(tmp_path / "loop.png")


@pytest.mark.parametrize("name", ["a.jfif", "b.JPG", "c.tiff", "d.pgm", "e.heic", "f.gif", "g.NEF", "h.tga", "i.apng"])
def test_names_of_images(name: str):
    assert image_io.is_image_name(name)


@pytest.mark.parametrize("name", ["a.txt", "b.eps", "c.npz", "d.svg", "png"])
def test_names_of_other_files(name: str):
    assert not image_io.is_image_name(name)


def test_a_square_has_white_beside_a_long_image(tmp_path: Path):
    Image.new("RGB", (40, 10), (9, 8, 7)).save(tmp_path / "a.png")
    got = image_io.read_square_image(tmp_path / "a.png", 40)
    assert (got[15:25] == (9, 8, 7)).all() and (got[:15] == 255).all() and (got[25:] == 255).all()
