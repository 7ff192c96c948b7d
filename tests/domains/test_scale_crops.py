"""Multi-scale training of images: where crops lie, what they hold, and that the seed alone decides."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image

from inrflow_core.domains._contract import batch_of
from inrflow_core.domains._scale_crops import ScaleCrops, reduced
from inrflow_core.domains.image import Config, Domain
from inrflow_core.errors import UsageError
from inrflow_core.methods._contract import StepState
from inrflow_core.sets import TrainBatch
from inrflow_core.training import setup
from inrflow_core.visualization import image_io
from tests import tiny
from tests.training import small

SEEDS = torch.arange(40)
FIRST = StepState("autoencoder", 1, 2)


def photos(count: int, side: int, channels: int = 1) -> np.ndarray:
    return np.random.default_rng(0).integers(0, 256, (count, side, side, channels), dtype=np.uint8)


def split(domain: Domain, pixels: np.ndarray, seeds: torch.Tensor) -> TrainBatch:
    return domain.train_batch(domain.to_set(batch_of(pixels), seeds, augment=True))


def job(data: Path, out: Path, until: int | None = None, kind: Any = tiny.LATENT) -> setup.TrainJob:
    """A run of images at 12 x 12 pixels with crops of up to 24 x 24."""
    training = {**small.TRAINING, "steps": 3}
    preset = tiny.preset(kind, domain={"resolution": 12, "scales": [1.0, 2.0]}, training=training)
    return setup.TrainJob(preset, out, data=data, device="cpu", threads=1, until=until)


def test_at_scale_1_with_images_of_the_training_size_it_is_the_plain_batch_to_the_bit():
    pixels, built = photos(4, 12), tiny.model(tiny.LATENT, method={"num_queries": 50})
    scaled, plain = (split(Domain(Config(12, 1, scales=scales)), pixels, SEEDS[:4]) for scales in ((1.0, 1.0), None))
    assert plain.is_shared and not scaled.is_shared and scaled.context.condition == {}
    assert torch.equal(scaled.context.values, plain.context.values)
    assert torch.equal(scaled.queries.values, plain.queries.values)
    at, own = scaled.queries.queries, plain.queries.queries
    assert at.coordinates is not None and own.coordinates is not None and at.cell_sizes is not None
    assert torch.equal(at.coordinates, own.coordinates.expand(4, -1, -1))
    assert all(step == own.cell_sizes for step in at.cell_sizes)
    assert torch.equal(built.method.loss(scaled, FIRST), built.method.loss(plain, FIRST))


def test_at_scale_1_of_larger_images_the_crop_is_what_the_encoder_sees():
    both = split(Domain(Config(12, 1, scales=(1.0, 1.0))), photos(4, 30), SEEDS[:4])
    assert both.context.values.shape == (4, 144, 1) and torch.equal(both.context.values, both.queries.values)


@pytest.mark.parametrize("slope", [(0.0, 90.0), (60.0, -30.0)])
def test_a_crop_of_a_linear_ramp_has_the_ramps_values_at_its_coordinates(slope: tuple[float, float]):
    crops, axis = ScaleCrops(16, 0.5, 3.0), (2 * torch.arange(48.0) + 1) / 48 - 1
    ramp = (127 + slope[0] * axis[:, None] + slope[1] * axis)[..., None]
    at = crops.draw(SEEDS)
    assert len(at[:, 0].unique()) > 15 and (at[:, 0] < 16).any() and (at[:, 0] > 32).any()
    queries = crops.queries(at)
    assert queries.coordinates is not None and queries.cell_sizes is not None
    for row, where, step in zip(at, queries.coordinates, queries.cell_sizes, strict=True):
        values, expected = crops.cut(ramp, row).flatten(), 127 + where @ torch.tensor(slope)
        difference = (values - expected).abs() / (abs(slope[0]) + abs(slope[1])) / step  # in cells
        is_inside = (where.abs() < 1 - 2 * step).all(-1)  # the filter is cut off at the edge
        assert is_inside.any() and difference[is_inside].max() < 0.05 and difference.max() < 0.5


@pytest.mark.parametrize("scales", [(1.0, 2.0), (0.5, 4.0), (0.7, 0.7)])
def test_crops_are_parts_of_the_grids_that_samples_are_evaluated_on(scales: tuple[float, float]):
    domain = Domain(Config(10, 1, scales=scales))
    crops = domain.crops
    assert crops is not None
    at = crops.draw(torch.arange(300))
    queries = crops.queries(at)
    assert queries.coordinates is not None and queries.cell_sizes is not None
    low, high = round(10 * scales[0]), round(10 * scales[1])
    assert (int(at[:, 0].min()), int(at[:, 0].max())) == (low, high) and crops.side == min(10, low)
    for (grid, top, left), own, step in zip(at.tolist(), queries.coordinates, queries.cell_sizes, strict=True):
        whole = domain.queries((grid, grid))
        assert whole.coordinates is not None and whole.cell_sizes == step
        rows, columns = slice(top, top + crops.side), slice(left, left + crops.side)
        assert torch.equal(own, whole.coordinates.unflatten(0, (grid, grid))[rows, columns].flatten(0, 1))


def test_every_octave_of_scales_is_as_frequent_and_every_corner_possible():
    at = ScaleCrops(64, 0.5, 4.0).draw(torch.arange(6000))
    shares = [float(((at[:, 0] >= low) & (at[:, 0] < 2 * low)).double().mean()) for low in (32, 64, 128)]
    assert shares == pytest.approx([1 / 3] * 3, abs=0.025)
    room = at[:, 0] - 32
    corners = at[:, 1:][room == 1]
    assert {(0, 0), (0, 1), (1, 0), (1, 1)} == {tuple(corner) for corner in corners.tolist()}


def test_scale_crop_and_flip_depend_on_the_seed_alone():
    domain, pixels = Domain(Config(12, 3, flip=True, scales=(0.5, 2.0))), photos(8, 24, 3)
    whole = split(domain, pixels, SEEDS[:8])
    for rows in (slice(5, 6), slice(2, 8)):
        part, expected = split(domain, pixels[rows], SEEDS[:8][rows]), whole[rows]
        for ours, theirs in ((part.context, expected.context), (part.queries, expected.queries)):
            assert torch.equal(ours.values, theirs.values)
        assert part.queries.queries.coordinates is not None and expected.queries.queries.coordinates is not None
        assert torch.equal(part.queries.queries.coordinates, expected.queries.queries.coordinates)
    assert (whole.queries.queries.cell_sizes != split(domain, pixels, SEEDS[8:16]).queries.queries.cell_sizes).any()


def test_without_augmentation_larger_images_are_reduced_and_there_is_no_crop():
    domain, pixels = Domain(Config(12, 1, scales=(1.0, 2.0))), photos(3, 24)
    sets = domain.to_set(batch_of(pixels), SEEDS[:3])
    assert sets.values.shape == (3, 144, 1) and sets.condition == {} and domain.train_batch(sets).is_shared
    means = pixels.reshape(3, 12, 2, 12, 2, 1).mean((2, 4))
    assert np.corrcoef(domain.decode_values(sets.values).ravel(), means.ravel())[0, 1] > 0.9
    assert not reduced(torch.zeros(24, 24, 1), 12).any()


def test_images_that_are_too_small_for_the_largest_scale_are_refused_by_the_name_of_the_setting(tmp_path: Path):
    data = small.images(tmp_path / "shards", side=18)
    with pytest.raises(
        UsageError, match=r"`domain.scales` ends at 2, which takes images of 24 pixels .* have 18"
    ) as caught:
        setup.check_job(job(data, tmp_path / "run"), {})
    assert caught.value.hint == "prepare them with `--resolution 24`, or set `domain.scales=[1, 1.5]`"


@pytest.mark.slow
def test_a_resumed_run_with_crops_equals_an_unbroken_one(tmp_path: Path):
    data = small.images(tmp_path / "shards", side=24)
    setup.train(job(data, tmp_path / "resumed", until=2))
    runs = [setup.train(job(data, tmp_path / name)) for name in ("resumed", "whole")]
    small.assert_equal(*map(small.state, runs))
    assert small.losses(tmp_path / "resumed") == small.losses(tmp_path / "whole")


def test_flow_matching_which_has_noise_on_one_grid_alone_refuses_crops(tmp_path: Path):
    data = small.images(tmp_path / "shards", side=24)
    with pytest.raises(UsageError, match=r"`scales` gives every image a grid of its own"):
        setup.check_job(job(data, tmp_path / "run", kind=tiny.IMAGE), {})


@pytest.mark.parametrize(
    ("settings", "problem"),
    [
        ({"scales": (1.0,)}, "the lowest and the highest one"),
        ({"scales": (2.0, 1.0)}, "the lowest and the highest one"),
        ({"scales": (0.0, 1.0)}, "the lowest and the highest one"),
        ({"scales": (1.0, 1e9)}, "at most 8,192"),
    ],
)
def test_scales_out_of_range_are_refused(settings: dict[str, Any], problem: str):
    with pytest.raises(ValueError, match=problem):
        Config(12, **settings)


def test_an_input_file_is_reduced_by_way_of_the_stored_size_as_in_training(tmp_path: Path):
    pixels = photos(1, 70, 3)[0]
    Image.fromarray(pixels).save(tmp_path / "a.png")
    domain = Domain(Config(12, scales=(1.0, 2.0)))
    example = domain.read_input(tmp_path / "a.png", {})
    stored = image_io.reduce(Image.fromarray(pixels), 24)
    seen = domain.to_set(batch_of(stored[None]), SEEDS[:1]).values.unflatten(1, (12, 12))[0]
    trained = (seen + 1) * 127.5
    assert example.values.shape == (12, 12, 3)
    assert float((torch.from_numpy(example.values) - trained).abs().max()) <= 0.5 + 1e-4
    straight = Domain(Config(12)).read_input(tmp_path / "a.png", {}).values
    assert np.abs(straight.astype(int) - example.values).max() > 1


def test_an_input_file_smaller_than_the_stored_size_is_not_enlarged_first(tmp_path: Path):
    pixels = (np.indices((12, 12)).sum(0) % 2 * 255).astype(np.uint8)[:, :, None].repeat(3, 2)
    Image.fromarray(pixels).save(tmp_path / "a.png")
    read = Domain(Config(12, scales=(1.0, 2.0))).read_input(tmp_path / "a.png", {}).values
    np.testing.assert_array_equal(read, pixels)
