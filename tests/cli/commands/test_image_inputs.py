"""Image files that users name: one reader, so that every command sees the same pixels and refuses with the same code."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

from inrflow_cli import console
from inrflow_cli.app import run
from inrflow_core.datasets import _image_decoding
from inrflow_core.sample_files import readers
from inrflow_core.sampling import invert
from inrflow_core.visualization import image_io
from tests import tiny

SIDE = 8
KIND: dict[str, dict[str, Any]] = {
    "domain": {"name": "image", "resolution": SIDE, "channels": 3},
    "network": {**tiny.IMAGE["network"], "latents": 16},
}
GENERATOR = np.random.default_rng(0)


@pytest.fixture(scope="module")
def folders(tmp_path_factory) -> Path:
    parent = tmp_path_factory.mktemp("runs")
    metadata = {"normalization": {"embedder": "patches", "embedder_digest": "patches-1"}}
    tiny.run_folder(parent / "objects", tiny.IMAGE_TO_POINTS, metadata=metadata)
    tiny.run_folder(parent / "images", KIND)
    return parent


@pytest.fixture(autouse=True)
def _working_folder(folders, tmp_path, monkeypatch):
    monkeypatch.setenv("INRFLOW_RUNS", str(folders))
    monkeypatch.chdir(tmp_path)
    for name in ("good", "bad"):
        Path(name).mkdir()
        for number in range(3):
            Image.fromarray(GENERATOR.integers(0, 256, (SIDE, SIDE, 3), dtype=np.uint8)).save(f"{name}/{number}.png")
    console.stderr.cache_clear()
    yield
    console.stderr.cache_clear()


def exif(orientation: int) -> Image.Exif:
    tags = Image.Exif()
    tags[0x0112] = orientation
    return tags


PIXELS = GENERATOR.integers(1, 255, (SIDE, SIDE, 3), dtype=np.uint8)
ALPHA = np.where(np.eye(SIDE, dtype=bool), 0, 255).astype(np.uint8)
DEEP = np.linspace(0, 65535, SIDE * SIDE).reshape(SIDE, SIDE)
FILES = {
    "turned.png": (Image.fromarray(PIXELS), {"exif": exif(6)}),
    "clear.png": (Image.fromarray(np.dstack([PIXELS, ALPHA])), {}),
    "palette.png": (Image.fromarray(PIXELS).quantize(8), {"transparency": 0}),
    "key.png": (Image.fromarray(PIXELS), {"transparency": tuple(PIXELS[0, 0].tolist())}),
    "deep.png": (Image.fromarray(DEEP.astype(np.uint16)), {}),
    "deep.tif": (Image.fromarray(DEEP.astype(np.int32)), {}),
    "print.tif": (Image.fromarray(PIXELS).convert("CMYK"), {}),
    "first.gif": (Image.fromarray(PIXELS).quantize(8), {"save_all": True, "append_images": [Image.new("P", (SIDE, SIDE))]}),
}  # fmt: skip


@pytest.mark.parametrize("name", FILES)
def test_every_command_sees_the_same_pixels(name: str):
    image, options = FILES[name]
    Path("one").mkdir()
    path = Path("one") / name
    image.save(path, **options)
    prepared = _image_decoding.pixels(path.read_bytes(), SIDE, upright=True)
    model = tiny.model(KIND)
    np.testing.assert_array_equal(invert.read_input(model, path).values, prepared)
    np.testing.assert_array_equal(image_io.read_square_image(path, SIDE), prepared)
    evaluated = readers.open_collection(Path("one")).read([0]).values[0]
    np.testing.assert_array_equal(np.broadcast_to(evaluated, prepared.shape), prepared)


COMMANDS = {
    "upsample": "upsample bad/1.png out.png --run {runs}/images --scale 2",
    "sample --image": "sample --image bad/1.png out.ply",
    "eval --samples": "eval --samples bad --reference good --metrics fid:random --out out",
    "eval --reference": "eval --samples good --reference bad --metrics fid:random --out out",
}
CONTENTS = {
    "empty": (b"", "it is empty"),
    "text": (b"no image", "its content is not JPEG"),
    "postscript": (b"%!PS-Adobe-3.0 EPSF-3.0\n%%BoundingBox: 0 0 9 9\n", "its content is not JPEG"),
    "half a file": (b"\x89PNG\r\n\x1a\n\0\0\0\rIHDR", "it cannot be decoded"),
}


@pytest.mark.parametrize("content", CONTENTS)
@pytest.mark.parametrize("command", COMMANDS)
def test_an_image_that_cannot_be_read_is_exit_code_4_in_every_command(command: str, content: str, folders, capsys):
    written, reason = CONTENTS[content]
    Path("bad/1.png").write_bytes(written)
    assert run(COMMANDS[command].format(runs=folders).split()) == 4
    said = " ".join(capsys.readouterr().err.split())
    assert "bad/1.png` cannot be read as an image:" in said and reason in said and "hint:" in said


@pytest.mark.parametrize("content", CONTENTS)
def test_prepare_skips_it_counts_it_and_records_its_name_and_reason(content: str, capsys):
    written, reason = CONTENTS[content]
    Path("bad/1.png").write_bytes(written)
    Path("bad/2.heic").write_bytes(b"\0\0\0\x18ftypheic" + bytes(100))
    assert (
        run(["prepare", "images", "--source", "bad", "--resolution", str(SIDE), "--workers", "1", "--out", "shards"])
        == 6
    )
    manifest = Path("shards/manifest.json").read_text()
    assert "1.png" in manifest and reason in manifest and "2.heic" in manifest


def test_a_divider_line_of_a_web_page_takes_no_gigabytes():
    line = np.zeros((2, 20_000, 3), np.uint8)
    line[:, 9_990:10_010] = 200
    made = image_io.center_crop(Image.fromarray(line), 64)
    assert made.shape == (64, 64, 3) and (made == 200).all()


def test_upsample_says_at_which_size_the_model_reads_an_image(capsys):
    Image.fromarray(GENERATOR.integers(0, 256, (60, 90, 3), dtype=np.uint8)).save("large.png")
    assert run(["upsample", "large.png", "out.png", "--run", "images"]) == 0
    assert f"`large.png`, read at {SIDE} x {SIDE} pixels, is reconstructed to" in capsys.readouterr().err
