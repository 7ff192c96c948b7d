"""Commands on the images of the reported cases, where these are beside the checkout: every command sees the right pixels."""

from __future__ import annotations

import json
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

from inrflow_cli import console
from inrflow_cli.app import run
from inrflow_core.shards.shard_dataset import ShardDataset
from tests import tiny

pytestmark = pytest.mark.slow
SIDE = 64
KIND: dict[str, dict[str, Any]] = {
    "domain": {"name": "image", "resolution": SIDE, "channels": 3},
    "network": {**tiny.IMAGE["network"], "latents": 16},
}
Case = Callable[[str], Path]
RAMP = np.tile(np.linspace(0, 255, SIDE), (SIDE, 1))
SKIPPED = {
    "m_j2k.jpg": "not JPEG", "n_avif.png": "not JPEG", "r_html.jpg": "not JPEG", "zz_photo.heic": "not JPEG",
    "h_lab.tif": "mode LAB", "p_trunc.png": "truncated", "q_trunc.jpg": "truncated", "s_empty.jpg": "empty",
    "t_bomb.png": "exceeds limit", "v_bad_text_crc.png": "damaged PNG", "w_ztxt_bomb.png": "too large",
}  # fmt: skip
"""Images of case 05 that are named with a reason."""


def exact(case: str, name: str) -> np.ndarray:
    """What an image of case 01, 03 or 05 shows, from the comments of its script."""
    if case == "01_deep_grey":
        return np.stack([RAMP, RAMP / 2, RAMP * 0] if name == "h_ppm16_rgb.ppm" else [RAMP] * 3, -1)
    image = np.zeros((SIDE, SIDE, 3))
    if case == "03_palette_alpha":
        image[:, :32] = [255, 127, 127] if name == "c_pal_half.png" else [255, 255, 255]
        image[:, 32:] = {"i_la.png": [0, 0, 0], "j_l_trns.png": [100, 100, 100]}.get(name, [0, 255, 0])
        return image
    colors = [[200, 0, 0], [0, 200, 0], [0, 0, 200], [200, 200, 0]]
    for quarter, color in enumerate(colors):
        image[32 * (quarter // 2) :, 32 * (quarter % 2) :] = color
    return image


@pytest.fixture(scope="module")
def runs(tmp_path_factory: pytest.TempPathFactory) -> Path:
    parent = tmp_path_factory.mktemp("runs")
    tiny.run_folder(parent / "images", KIND)
    metadata = {"normalization": {"embedder": "patches", "embedder_digest": "patches-1"}}
    tiny.run_folder(parent / "objects", tiny.IMAGE_TO_POINTS, metadata=metadata)
    return parent


@pytest.fixture(autouse=True)
def _working_folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.chdir(tmp_path)
    console.stderr.cache_clear()
    yield
    console.stderr.cache_clear()


def prepared(source: Path, side: int = SIDE) -> tuple[int, dict[str, np.ndarray], dict[str, str]]:
    """The exit code, pixels by file, and reasons of what is skipped."""
    words = ["prepare", "image-folder", "--source", source, "--resolution", side, "--workers", 1, "--out", "shards"]
    code = run([str(word) for word in words])
    if not Path("shards/manifest.json").is_file():
        return code, {}, {}
    shards = ShardDataset("shards")
    batch = shards.read("train", range(shards.count("train")), with_names=True)
    skipped = {Path(item.name).name: item.reason for item in shards.manifest.skipped}
    return code, {Path(name).name: row for name, row in zip(batch.names, batch.values, strict=True)}, skipped


def plain_copies(source: Path, folder: str) -> list[Path]:
    """PNG files of 8 bits of what `prepare` stores of each image, in the order of their names."""
    Path(folder).mkdir()
    code, pixels, _ = prepared(source)
    assert code == 0
    for name, values in pixels.items():
        is_gray = (values == values[..., :1]).all()
        Image.fromarray(values[..., 0] if is_gray else values).save(Path(folder) / f"{Path(name).stem}.png")
    return sorted(Path(folder).iterdir())


@pytest.mark.parametrize("name", ["01_deep_grey", "03_palette_alpha"])
def test_prepare_stores_what_each_image_shows(case: Case, name: str) -> None:
    code, pixels, skipped = prepared(case(name))
    assert code == 0 and not skipped and set(pixels) == {file.name for file in case(name).iterdir()}
    for file, values in pixels.items():
        assert np.abs(values - exact(name, file)).max() <= 1.01, file


def test_prepare_of_odd_images_reads_or_names_each(case: Case) -> None:
    code, pixels, skipped = prepared(case("05_odd_images"))
    assert code == 6 and set(pixels) | set(skipped) == {file.name for file in case("05_odd_images").iterdir()}
    assert set(skipped) == set(SKIPPED) and all(SKIPPED[file] in reason for file, reason in skipped.items())
    for file, values in pixels.items():
        if file in ("j_bits.png", "k_fax.tif"):  # dithered to black and white
            assert set(np.unique(values)) <= {0, 255}
        else:
            tile = np.s_[[8, 8, 56, 56], [8, 56, 8, 56]]
            assert np.abs(values[tile] - exact("05_odd_images", file)[tile]).max() <= 3, file


@pytest.mark.parametrize("side", [64, 512])
def test_prepare_of_a_divider_line_is_one_color_in_seconds(case: Case, side: int) -> None:
    start = time.perf_counter()
    code, pixels, _ = prepared(case("08_thin"), side)
    assert code == 0 and time.perf_counter() - start < 10
    assert (pixels["line.png"] == [200, 30, 30]).all() and pixels["line.png"].shape == (side, side, 3)


@pytest.mark.parametrize("name", ["01_deep_grey", "03_palette_alpha"])
def test_upsample_inverts_the_same_pixels_as_of_plain_files(case: Case, runs: Path, name: str) -> None:
    sources = [sorted(case(name).iterdir()), plain_copies(case(name), "plain")]
    for out, files in zip(("a", "b"), sources, strict=True):
        Path(out).mkdir()
        words = ["upsample", *files, out, "--run", runs / "images", "--scale", 1]
        assert run([str(word) for word in words]) == 0
    made = {file.stem: np.asarray(Image.open(file)) for file in Path("a").iterdir()}
    assert len(made) == len(sources[0]) and len({image.tobytes() for image in made.values()}) > 1
    for stem, image in made.items():
        np.testing.assert_array_equal(image, np.asarray(Image.open(f"b/{stem}.png")), err_msg=stem)


@pytest.mark.parametrize("name", ["01_deep_grey", "03_palette_alpha"])
def test_sample_from_an_image_sees_the_same_pixels_as_of_plain_files(case: Case, runs: Path, name: str) -> None:
    plain = plain_copies(case(name), "plain")
    clouds = []
    for number, pair in enumerate(zip(sorted(case(name).iterdir()), plain, strict=True)):
        for kind, file in zip("ab", pair, strict=True):
            words = ["sample", "--image", file, f"{kind}{number}.npz", "--run", runs / "objects"]
            assert run([str(word) for word in words]) == 0
        one, other = (np.load(f"{kind}{number}.npz")["points"] for kind in "ab")
        np.testing.assert_array_equal(one, other, err_msg=pair[0].name)
        clouds.append(one)
    assert len({cloud.tobytes() for cloud in clouds}) > 1, "the output depends on the input"


def decibels(samples: Path | str, reference: Path | str) -> str:
    """PSNR between two folders as a number, with the note about pairs that are equal to the bit."""
    words = [
        "eval",
        "--samples",
        samples,
        "--reference",
        reference,
        "--metrics",
        "psnr",
        "--out",
        "scores",
        "--overwrite",
    ]
    assert run([str(word) for word in words]) == 0
    (score,) = json.loads(Path("scores/metrics.json").read_text())["results"][0]["scores"]
    return f"{score['value']}: {score['note']}"


@pytest.mark.parametrize("name", ["01_deep_grey", "03_palette_alpha"])
def test_eval_compares_the_same_pixels_as_of_plain_files(case: Case, name: str) -> None:
    for plain in plain_copies(case(name), "plain"):
        mode = Image.open(plain).mode
        for folder, source in ((mode, plain), (f"case-{mode}", next(case(name).glob(f"{plain.stem}.*")))):
            Path(folder).mkdir(exist_ok=True)
            for copy in "ab":  # twice, because the metric needs two pairs
                (Path(folder) / f"{copy}{source.name}").write_bytes(source.read_bytes())
    for mode in ("L", "RGB"):
        count = len(list(Path(mode).iterdir()))
        assert f"{count} of {count} pairs are equal to the bit" in decibels(f"case-{mode}", mode)


@pytest.mark.parametrize("command", ["prepare", "upsample", "sample --image", "eval"])
def test_floating_point_images_are_refused_by_name_in_every_command(
    case: Case, runs: Path, command: str, capsys: pytest.CaptureFixture[str]
) -> None:
    for file in sorted(case("02_float_tiff").iterdir()):
        Path(file.stem).mkdir()
        (Path(file.stem) / file.name).write_bytes(file.read_bytes())
        words = {
            "prepare": ["prepare", "image-folder", "--source", file.stem, "--resolution", 8, "--out", "shards"],
            "upsample": ["upsample", file, "out.png", "--run", runs / "images", "--scale", 2],
            "sample --image": ["sample", "--image", file, "out.ply", "--run", runs / "objects"],
            "eval": ["eval", "--samples", file.stem, "--reference", file.stem, "--metrics", "psnr", "--out", "scores"],
        }[command]
        assert run([str(word) for word in words]) in ((3, 4, 6) if command == "prepare" else (4,))
        said = " ".join(capsys.readouterr().err.split())
        assert file.name in said and "floating-point" in said, file.name


@pytest.mark.parametrize(
    ("kind", "reference"),
    [
        *(("exif", "rgb"), ("webp", "rgb"), ("gif", "rgb"), ("cmyk", "rgb")),
        *(("rgba", "white"), ("rgb_trns", "white"), ("pal_alpha", "white"), ("grey", "gray"), ("la", "white gray")),
    ],
)
def test_eval_of_a_container_scores_what_it_shows(
    case: Case, kind: str, reference: str, capsys: pytest.CaptureFixture[str]
) -> None:
    folder = case("07_eval_pictures")
    Path("shown").mkdir()
    for file in sorted((folder / "rgba").iterdir()):
        colors = np.asarray(Image.open(folder / "rgb" / file.name)).copy()
        colors[np.asarray(Image.open(file))[..., 3] == 0] = 255 if "white" in reference else colors[0, 0]
        if "white" not in reference:
            colors = np.asarray(Image.open(folder / "rgb" / file.name))
        Image.fromarray(colors[..., 0] if "gray" in reference else colors).save(Path("shown") / file.name)
    score = decibels(folder / kind, "shown")
    if kind in ("gif", "cmyk", "pal_alpha"):  # 256 colors or JPEG: similar, never equal
        assert float(score.partition(":")[0]) > 30
    else:
        assert "12 of 12 pairs are equal to the bit" in score
    assert "Warning" not in capsys.readouterr().err
