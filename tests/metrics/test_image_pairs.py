"""PSNR and SSIM: closed forms, torchmetrics on the same images, equal and small ones."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from inrflow_core.errors import UsageError
from inrflow_core.evaluation import intervals, metric_specs
from inrflow_core.metrics import psnr, ssim
from inrflow_core.metrics._image_pairs import ImagePairSpec, Pairs


def images(count: int = 5, height: int = 21, width: int = 34, channels: int = 3, *, seed: int = 0) -> np.ndarray:
    """Smooth images with some noise."""
    draw = np.random.default_rng(seed)
    ramp = np.linspace(20, 200, width)[:, None] + np.linspace(0, 30, height)[:, None, None]
    return np.clip(ramp + draw.normal(0, 12, (count, height, width, channels)), 0, 255).astype(np.uint8)


def disturbed(batch: np.ndarray, size: int = 9) -> np.ndarray:
    noise = np.random.default_rng(9).integers(-size, size + 1, batch.shape)
    return np.clip(batch.astype(np.int64) + noise, 0, 255).astype(np.uint8)


def as_torch(batch: np.ndarray) -> torch.Tensor:
    return torch.from_numpy(batch).movedim(-1, 1).double()


@pytest.mark.parametrize("offset", [1, 16, 255])
def test_a_constant_offset_has_its_closed_form(offset: int):
    black = np.zeros((3, 8, 8, 3), np.uint8)
    gray = np.full_like(black, offset)
    # Either way round: levels must not wrap.
    for pairs in (Pairs(gray, black), Pairs(black, gray)):
        assert psnr.compute(pairs, "rgb") == pytest.approx(20 * np.log10(255 / offset), abs=1e-12)


def test_psnr_agrees_with_torchmetrics():
    from torchmetrics.image import PeakSignalNoiseRatio

    reference = images()
    samples = disturbed(reference)
    other = PeakSignalNoiseRatio(data_range=255.0, reduction="elementwise_mean", dim=(1, 2, 3))
    expected = float(other(as_torch(samples), as_torch(reference)))
    assert psnr.compute(Pairs(samples, reference), "rgb") == pytest.approx(expected, rel=1e-6)


def test_equal_images_count_as_one_number_off_by_one():
    equal = images(3, 16, 16)
    expected = 20 * np.log10(255) + 10 * np.log10(16 * 16 * 3)
    assert psnr.compute(Pairs(equal, equal.copy()), "rgb") == pytest.approx(expected, rel=1e-13)
    bound = psnr.remark(Pairs(equal, equal.copy()), "rgb")
    assert bound == f"3 of 3 pairs are equal to the bit: counted as {expected:.1f} dB, one number off by one level"
    off = equal.copy()
    off[:, 3, 4, 1] += 1
    assert psnr.compute(Pairs(off, equal), "rgb") == psnr.compute(Pairs(equal, equal), "rgb")
    (metric,) = metric_specs.parse_metrics(["psnr"], "image")
    many = Pairs(*(np.tile(equal, (8, 1, 1, 1)) for _ in range(2)))
    assert intervals.metric_interval(metric, many, metric.compute(many)) is None


@pytest.mark.parametrize("channels", [1, 3])
def test_ssim_agrees_with_torchmetrics_mirrored_and_with_its_inner_part_inside(channels: int):
    from torchmetrics.image import StructuralSimilarityIndexMeasure

    reference = images(channels=channels)
    samples = disturbed(reference, 25)
    other = StructuralSimilarityIndexMeasure(data_range=255.0, return_full_image=True)
    value, indices = other(as_torch(samples), as_torch(reference))
    pairs = Pairs(samples, reference)
    assert ssim.compute(pairs, "mirrored") == pytest.approx(float(value), rel=1e-5)
    assert ssim.compute(pairs, "inside") == pytest.approx(float(indices[..., 5:-5, 5:-5].mean()), rel=1e-5)
    assert ssim.compute(pairs, "inside") != pytest.approx(float(value), rel=1e-3)


def test_ssim_of_flat_images_has_its_closed_form_and_of_equal_ones_is_1():
    dark, light = (np.full((2, 11, 11, 1), level, np.uint8) for level in (40, 100))
    expected = (2 * 40 * 100 + 2.55**2) / (40**2 + 100**2 + 2.55**2)
    assert ssim.compute(Pairs(dark, light), "inside") == pytest.approx(expected, rel=1e-10)
    equal = images()
    assert ssim.compute(Pairs(equal, equal), "inside") == pytest.approx(1, abs=1e-12)
    inverse = 255 - images(height=40)
    assert ssim.compute(Pairs(inverse, images(height=40)), "inside") < 0


@pytest.mark.parametrize("metric", [psnr, ssim])
def test_leaving_out_a_part_equals_the_mean_of_the_others(metric):
    reference = images(24, 12, 12)
    evidence = Pairs(disturbed(reference), reference)
    expected = [metric.compute(evidence.leave_out(part, 10), metric.PROTOCOLS[0]) for part in range(10)]
    np.testing.assert_allclose(metric.jackknife_values(evidence, metric.PROTOCOLS[0], 10), expected, rtol=1e-12)


@pytest.mark.parametrize("metric", [psnr, ssim])
def test_each_image_has_its_own_value_and_their_mean_is_the_score(metric):
    reference = images(3, 12, 12)
    names = ["a.png", "b.png", "c.png"]
    pairs = Pairs(disturbed(reference), reference, names=names)
    items = metric.item_values(pairs, metric.PROTOCOLS[0])
    alone = [Pairs(pairs.samples[[row]], reference[[row]]) for row in range(3)]
    assert (
        items == {name: metric.compute(one, metric.PROTOCOLS[0]) for name, one in zip(names, alone, strict=True)}
        and len({*items.values()}) == 3
    )
    assert metric.compute(pairs, metric.PROTOCOLS[0]) == pytest.approx(np.mean([*items.values()]), rel=1e-12)
    same = Pairs(pairs.samples, reference, names=["a.png"] * 3)
    assert [*metric.item_values(same, metric.PROTOCOLS[0])] == ["0", "1", "2"]


def test_small_images_have_psnr_and_no_ssim():
    small = images(4, 10, 30)
    with pytest.raises(UsageError, match="images of 10 x 30 are smaller than the window of SSIM"):
        ssim.compute(Pairs(disturbed(small), small), "inside")
    assert psnr.compute(Pairs(disturbed(small), small), "rgb") > 20


@pytest.mark.parametrize("metric", [psnr, ssim])
def test_one_pair_has_a_value_and_none_is_refused(metric):
    pair = Pairs(images(1, 12, 12), images(2, 12, 12)[1:])
    both = Pairs(*(np.concatenate([side, side]) for side in (pair.samples, pair.reference)))
    values = [metric.compute(pairs, metric.PROTOCOLS[0]) for pairs in (pair, both)]
    assert values[0] == pytest.approx(values[1], rel=1e-12)
    with pytest.raises(UsageError, match="there are no pairs"):
        metric.compute(Pairs(images(1)[:0], images(1)[:0]), metric.PROTOCOLS[0])
    assert metric.inputs(metric.PROTOCOLS[0]) == ImagePairSpec()
