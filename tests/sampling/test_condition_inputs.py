"""What samples are drawn under, as a user gives it: photos of every kind, FASTA files, sets of shards."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

from inrflow_core.conditioners import image
from inrflow_core.errors import IntegrityError, MissingError, UsageError
from inrflow_core.feature_networks import _contract
from inrflow_core.feature_networks._contract import posed_image_tokens
from inrflow_core.geometry import cameras
from inrflow_core.proteins import fasta
from inrflow_core.sampling import condition_inputs
from inrflow_core.shards.shard_dataset import ShardDataset
from inrflow_core.visualization import image_io
from tests import tiny
from tests.feature_networks import hf_folders
from tests.training import conditioned_runs


def saved(image: Image.Image, path: Path, **options: object) -> Path:
    image.save(path, **options)  # type: ignore[arg-type]
    return path


def test_a_transparent_photo_lies_on_white(tmp_path):
    pixels = np.zeros((8, 8, 4), np.uint8)
    pixels[:4] = (10, 20, 30, 255)
    pixels[4:] = (200, 0, 0, 0)
    result = image_io.read_square_image(saved(Image.fromarray(pixels), tmp_path / "a.png"), 8)
    assert (result[:4] == (10, 20, 30)).all() and (result[4:] == 255).all()
    half = Image.new("RGBA", (4, 4), (0, 0, 0, 128))
    assert np.abs(image_io.read_square_image(saved(half, tmp_path / "b.png"), 4).astype(int) - 127).max() <= 1
    palette = Image.new("P", (4, 4), 1)
    palette.putpalette([9, 9, 9, 50, 60, 70])
    clear = saved(palette, tmp_path / "c.png", transparency=1)
    assert (image_io.read_square_image(clear, 4) == 255).all()


@pytest.mark.parametrize("size", [(8, 2), (2, 8), (9, 4)])
def test_a_long_photo_is_in_the_middle_with_white_beside_it(size, tmp_path):
    result = image_io.read_square_image(saved(Image.new("RGB", size, (0, 90, 0)), tmp_path / "a.png"), 24)
    rows, columns = (np.flatnonzero((result[..., 0] < 128).any(axis)) for axis in (1, 0))
    height, width = (24 * side / max(size) for side in (size[1], size[0]))
    assert abs(len(rows) - height) <= 1 and abs(len(columns) - width) <= 1
    assert abs(rows.mean() - 11.5) <= 0.5 and abs(columns.mean() - 11.5) <= 0.5
    assert (result[rows[0] : rows[-1], columns[0] : columns[-1]] == (0, 90, 0)).all()


def test_photos_of_16_bits_and_gray_ones_keep_their_brightness(tmp_path):
    ramp = np.tile(np.linspace(0, 65535, 8).round().astype(np.uint16), (8, 1))
    expected = (ramp / 257).round()
    for name in ("deep.png", "deep.tif"):
        result = image_io.read_square_image(saved(Image.fromarray(ramp), tmp_path / name), 8)
        assert np.abs(result[..., 1] - expected).max() <= 1
    gray = Image.fromarray(expected.astype(np.uint8))
    assert np.abs(image_io.read_square_image(saved(gray, tmp_path / "gray.png"), 8)[..., 2] - expected).max() == 0
    assert (image_io.read_square_image(saved(Image.new("1", (4, 4), 1), tmp_path / "bits.png"), 4) == 255).all()
    cmyk = saved(Image.new("CMYK", (8, 8), (0, 255, 255, 0)), tmp_path / "print.jpg", quality=95)
    assert np.abs(image_io.read_square_image(cmyk, 8).astype(int) - (255, 0, 0)).max() < 12


@pytest.mark.parametrize("orientation", range(1, 9))
def test_a_photo_is_turned_as_its_exif_says(orientation, tmp_path):
    upright = np.zeros((8, 8, 3), np.uint8)
    upright[:4, :4], upright[:4, 4:], upright[4:, :4] = 250, 170, 90
    # How the upright image lies in the file, for each of the eight orientations.
    stored = {
        1: upright, 2: upright[:, ::-1], 3: upright[::-1, ::-1], 4: upright[::-1],
        5: upright.transpose(1, 0, 2), 6: upright.transpose(1, 0, 2)[::-1],
        7: upright.transpose(1, 0, 2)[::-1, ::-1], 8: upright.transpose(1, 0, 2)[:, ::-1],
    }[orientation]  # fmt: skip
    exif = Image.Exif()
    exif[274] = orientation
    path = saved(Image.fromarray(np.ascontiguousarray(stored)), tmp_path / "a.png", exif=exif)
    np.testing.assert_array_equal(image_io.read_square_image(path, 8), upright)


def test_a_photos_tokens_are_those_of_its_embedder_and_camera(tmp_path):
    model, camera = tiny.model(tiny.IMAGE_TO_POINTS), cameras.orbit(30, 20)
    pixels = np.random.default_rng(0).integers(0, 256, (112, 112, 3), dtype=np.uint8)
    path = saved(Image.fromarray(pixels), tmp_path / "a.png")
    result = condition_inputs.condition_from_input(model, "image", image.ImageInput(path, camera))["tokens"]
    expected = posed_image_tokens(
        _contract.load("patches"), torch.from_numpy(pixels)[None], torch.from_numpy(camera)[None]
    )
    torch.testing.assert_close(result, expected, rtol=0, atol=0)


def test_other_weights_than_the_models_are_refused(tmp_path):
    folder = hf_folders.dinov2(tmp_path / "dinov2", image_size=28)
    path = saved(Image.new("RGB", (28, 28)), tmp_path / "a.png")
    condition = {"name": "picture", "embedder": "dinov2", "tokens": 4, "width": 32}
    model = tiny.model(tiny.IMAGE_TO_POINTS, condition=condition)
    digest = _contract.load("dinov2", folder).digest
    for reported, is_right in ((digest, True), ("0" * 64, False), (None, True)):
        normalization = {} if reported is None else {"embedder": "dinov2", "embedder_digest": reported}
        trained = type(model)(model.preset, model.domain, model.method, {"normalization": normalization})
        if is_right:
            assert condition_inputs.condition_from_input(
                trained, "image", image.ImageInput(path, cameras.orbit()), folder
            )["tokens"].shape == (
                1,
                4,
                38,
            )
        else:
            with pytest.raises(IntegrityError, match="was trained with 0000000000000000"):
                condition_inputs.condition_from_input(trained, "image", image.ImageInput(path, cameras.orbit()), folder)
    with pytest.raises(MissingError, match="there is no folder"):
        condition_inputs.condition_from_input(
            model, "image", image.ImageInput(path, cameras.orbit()), tmp_path / "none"
        )
    wide = tiny.model(tiny.IMAGE_TO_POINTS, condition={**condition, "width": 64})
    with pytest.raises(
        UsageError, match="makes 4 tokens of width 32, but the model `tiny` was trained with 4 of width 64"
    ):
        condition_inputs.condition_from_input(wide, "image", image.ImageInput(path, cameras.orbit()), folder)


@pytest.mark.parametrize("content", [b"", b"no picture", b"\x89PNG\r\n\x1a\n0000"], ids=["empty", "text", "cut"])
def test_what_is_not_an_image_is_refused(content, tmp_path):
    (tmp_path / "a.png").write_bytes(content)
    with pytest.raises(IntegrityError, match=r"a\.png` cannot be read as an image: it"):
        image_io.read_square_image(tmp_path / "a.png", 8)
    with pytest.raises(MissingError, match=r"the photo `.*none\.png` does not exist"):
        image_io.read_square_image(tmp_path / "none.png", 8)


def test_a_fasta_file_is_read_as_it_is_written_elsewhere(tmp_path):
    path = tmp_path / "a.fa"
    path.write_bytes(b"\n>sp|P1|ONE some words\r\nMK T\r\nway*\r\n\r\n>\nGG\n;\n>three\nAA\n".replace(b";\n", b""))
    assert fasta.read_fasta(path) == [("sp|P1|ONE", "MKTway"), ("sequence-2", "GG"), ("three", "AA")]


FASTA = {
    "nothing": (b"", "holds no sequence"),
    "white space": (b"\n \n", "holds no sequence"),
    "no name": (b"MKT\n>a\nMK\n", "begins without a name, line 1"),
    "twice": (b">a\nMK\n>b\nMK\n>a other\nGG\n", "has two sequences named `a`, line 5"),
    "empty": (b">a\n>b\nMK\n", "the sequence `a` in `.*` is empty"),
    "empty at the end": (b">a\nMK\n>b\n*\n", "the sequence `b` in `.*` is empty"),
    "letters": (b">a\nMK\n>b\nMKX\n", "`b` in `.*`: the sequence has letters that are no amino acid: `X` at 3"),
    "bytes": (b"\xff\xfe\x00>a", "is not text"),
}


@pytest.mark.parametrize("name", FASTA)
def test_a_fasta_file_that_cannot_be_folded_is_refused(name, tmp_path):
    content, message = FASTA[name]
    (tmp_path / "a.fa").write_bytes(content)
    with pytest.raises(UsageError, match=message) as caught:
        fasta.read_fasta(tmp_path / "a.fa")
    assert caught.value.hint


def test_the_conditions_of_shards_are_those_of_their_sets(tmp_path):
    shards = ShardDataset(conditioned_runs.pictured(tmp_path / "pictures", _contract.load("patches")))
    model = tiny.model(tiny.IMAGE_TO_POINTS)
    whole = shards.read("val", [2, 0]).condition["tokens"]
    for view in range(4):
        result = condition_inputs.conditions_from_shards(model, shards, "val", [2, 0], view)
        assert set(result) == {"tokens"}
        np.testing.assert_array_equal(result["tokens"].numpy(), whole[:, view])
    chains = ShardDataset(conditioned_runs.folded(tmp_path / "chains"))
    result = condition_inputs.conditions_from_shards(tiny.model(tiny.PROTEIN), chains, "test", [1, 3])
    assert set(result) == {"residues"} and (result["residues"] >= 0).sum(1).tolist() == [10, 6]
