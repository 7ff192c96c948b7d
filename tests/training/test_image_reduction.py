"""Input files are reduced as the training images of a run were, from `prepare` to `upsample`."""

from __future__ import annotations

import struct
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

from inrflow_core.datasets import celeba_hq, mnist
from inrflow_core.errors import UsageError
from inrflow_core.preparation import job, pipeline
from inrflow_core.sampling import invert, sample
from inrflow_core.shards.shard_dataset import ShardDataset
from inrflow_core.training import setup
from tests import tiny

DOMAIN: dict[str, Any] = {"name": "image", "resolution": 12, "channels": 3}


@pytest.mark.parametrize("reduction", ["adm", "bilinear"])
def test_a_file_is_encoded_from_the_pixels_that_its_training_example_has(tmp_path: Path, reduction: Any):
    photos = tmp_path / "photos"
    photos.mkdir()
    for number in range(4):
        pixels = np.random.default_rng(number).integers(0, 256, (150, 170, 3), dtype=np.uint8)
        Image.fromarray(pixels).save(photos / f"{number}.png")
    config = celeba_hq.Config(resolution=12, reduction=reduction)
    shards = tmp_path / "shards"
    pipeline.prepare(job.resolve_job("celeba-hq", source=photos, out=shards, config=config), workers=1)
    preset = tiny.preset(tiny.INR, domain=DOMAIN, data={"path": str(shards)}, training={"steps": 1})
    setup.train(setup.TrainJob(preset, tmp_path / "run", device="cpu", threads=1))
    model = sample.load(tmp_path / "run", device="cpu")
    stored = ShardDataset(shards).read("train", [1]).values[0]
    np.testing.assert_array_equal(invert.read_input(model, photos / "1.png").values, stored)


def test_both_reductions_differ_and_one_of_another_inrflow_is_refused(tmp_path: Path):
    pixels = np.random.default_rng(0).integers(0, 256, (128, 128, 3), dtype=np.uint8)
    Image.fromarray(pixels).save(tmp_path / "photo.png")
    domain = tiny.model(tiny.INR, domain=DOMAIN).domain
    adm, bilinear = (
        domain.read_input(tmp_path / "photo.png", {"reduction": name}).values.astype(int)
        for name in ("adm", "bilinear")
    )
    assert np.abs(adm - bilinear).mean() > 10
    with pytest.raises(UsageError, match="images reduced by `lanczos`, which this inrflow does not know"):
        domain.read_input(tmp_path / "photo.png", {"reduction": "lanczos"})


@pytest.mark.parametrize("resolution", [12, 28, 32])
def test_a_digit_of_mnist_is_encoded_from_the_pixels_that_its_training_example_has(tmp_path: Path, resolution: int):
    digits = np.random.default_rng(0).integers(0, 256, (3, 28, 28), dtype=np.uint8)
    folder = tmp_path / "mnist"
    folder.mkdir()
    header = struct.pack(">4I", 0x803, *digits.shape)
    (folder / "train-images-idx3-ubyte").write_bytes(header + digits.tobytes())
    (folder / "train-labels-idx1-ubyte").write_bytes(struct.pack(">2I", 0x801, 3) + bytes(3))
    Image.fromarray(digits[1]).save(tmp_path / "digit.png")
    config = mnist.Config(resolution=resolution)
    pipeline.prepare(job.resolve_job("mnist", source=folder, out=tmp_path / "shards", config=config), workers=1)
    shards = ShardDataset(tmp_path / "shards")
    domain = tiny.model(tiny.INR, domain={**DOMAIN, "resolution": resolution, "channels": 1}).domain
    read = domain.read_input(tmp_path / "digit.png", shards.manifest.normalization).values
    np.testing.assert_array_equal(read, shards.read("train", [1]).values[0])
