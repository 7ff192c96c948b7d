"""`inrflow sample --sheet`: one image of all samples with captions, beside any output whose samples are drawn together."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from inrflow_cli import console
from inrflow_cli.app import run
from tests import tiny


@pytest.fixture(autouse=True)
def _working_folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    tiny.run_folder(tmp_path / "runs" / "clouds", tiny.POINTS)
    tiny.run_folder(tmp_path / "runs" / "images", tiny.IMAGE)
    monkeypatch.chdir(tmp_path)
    console.stderr.cache_clear()
    yield
    console.stderr.cache_clear()


def test_a_sheet_has_every_image_magnified_by_a_whole_number_below_its_caption(capsys: pytest.CaptureFixture[str]):
    assert run(["sample", "a.npz", "--num", "4", "--label", "dog", "--sheet", "sheet.png", "--json"]) == 0
    answer = json.loads(capsys.readouterr().out)
    assert answer["sheet"] == "sheet.png"
    with np.load("a.npz") as arrays:
        images = arrays["images"]
    sheet = np.asarray(Image.open("sheet.png").convert("RGB"))
    height, width = images.shape[1:3]
    scale = -(-96 // height)
    head = sheet.shape[0] // 2 - 4 - scale * height
    assert head > 10, "room for a caption above each row"
    for index, image in enumerate(images):
        top = 4 + head + (index // 2) * (scale * height + head + 4)
        left = 4 + (index % 2) * (scale * width + 4)
        shown = sheet[top : top + scale * height : scale, left : left + scale * width : scale]
        np.testing.assert_array_equal(shown, np.broadcast_to(image, shown.shape))
        assert sheet[top - head + 1 : top - 1, left : left + scale * width].min() < 128, "the caption"


def test_a_sheet_is_beside_every_file_of_clouds_and_has_their_origin():
    assert run(["sample", "a.ply", "--run", "clouds", "--num", "2", "--sheet", "sheet.png"]) == 0
    assert {path.name for path in Path().glob("*.p*")} == {"a-000.ply", "a-001.ply", "sheet.png"}
    sheet = Image.open("sheet.png")
    assert sheet.size == (512, 283) and sheet.info["seeds"] == "0-1"


@pytest.mark.parametrize(
    ("arguments", "error"),
    [
        (["a.npz", "--sheet", "sheet.jpg"], "a sheet is a .png file beside OUT"),
        (["a.png", "--sheet", "a.png"], "a sheet is a .png file beside OUT"),
        (["a.png", "--sheet", "./x/../a.png"], "a sheet is a .png file beside OUT"),
        (["folder", "--run", "images", "--sheet", "sheet.png"], "OUT is of shards or of folded sequences"),
        (["a.npz", "--sheet", "there.png"], "exists"),
    ],
)
def test_a_sheet_that_cannot_be_is_refused_before_sampling(
    arguments: list[str], error: str, capsys: pytest.CaptureFixture[str]
):
    Path("there.png").touch()
    assert run(["sample", *arguments]) == 2
    assert error in " ".join(capsys.readouterr().err.split())
    assert not list(Path().glob("a.*")) and not Path("folder").exists()
