"""I3D: padding, sizes, preprocessing and the distance of clips. No real weights are here; see docs/feature-weights.md."""

from __future__ import annotations

import itertools
import math
from pathlib import Path

import numpy as np
import pytest
import torch
from torch import Tensor

from inrflow_core.errors import UsageError
from inrflow_core.feature_networks import i3d
from inrflow_core.feature_networks._video_features import ClipExtractor
from inrflow_core.metrics import fvd
from inrflow_core.metrics._inputs import Features
from tests.feature_networks import i3d_published, published


@pytest.fixture
def extractor(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> ClipExtractor:
    """A narrow network with random numbers."""
    monkeypatch.setattr(i3d, "STEM", i3d_published.NARROW_STEM)
    monkeypatch.setattr(i3d, "BLOCKS", i3d_published.NARROW_BLOCKS)
    network = i3d.I3D()
    published.randomize(network)
    published.write(tmp_path / "i3d.safetensors", network.state_dict(), published.metadata(i3d.WEIGHTS))
    return i3d.load(tmp_path / "i3d.safetensors")


def moving(count: int, frames: int = 16, side: tuple[int, int] = (20, 24), seed: int = 0) -> np.ndarray:
    """Smooth clips in which a wave moves to the right."""
    generator = np.random.default_rng(seed)
    t, y, x = np.mgrid[:frames, : side[0], : side[1]].astype(float)
    waves = [np.sin((x - 2 * t + a * y) / b) for a, b in zip(*generator.uniform(1, 4, (2, count)), strict=True)]
    colors = generator.uniform(0.2, 1, (count, 1, 1, 1, 3))
    return (127.5 * (1 + np.stack(waves)[..., None] * colors)).round().astype(np.uint8)


def test_parameters_are_as_many_as_published():
    """OpenVINO counts 12.69 million, without the scales of batch normalization, which are 1; and the file has room for the rest."""
    with torch.device("meta"):
        network = i3d.I3D()
    scales = sum(tensor.numel() for name, tensor in network.named_parameters() if name.endswith("gamma"))
    assert sum(tensor.numel() for tensor in network.parameters()) - scales == 12_689_984
    size = 4 * sum(tensor.numel() for tensor in network.state_dict().values())
    published_size = i3d.WEIGHTS.published[0].bytes
    assert published_size is not None and 0.99 < size / published_size < 1
    assert len(network.state_dict()) == 57 * 5 + 2


@pytest.mark.parametrize("shape", [(5, 6, 7), (8, 9, 4), (16, 3, 10)], ids=str)
@pytest.mark.parametrize(("side", "stride"), [(7, 2), (3, 1), (1, 1)])
def test_a_convolution_is_that_of_tensorflow_at_even_and_odd_sizes(shape: tuple[int, int, int], side: int, stride: int):
    """Output o reads from o * stride - before on; before is half the padding, rounded down, of ceil(size / stride) outputs."""
    layer = i3d.Convolution(2, 3, side, stride)
    published.randomize(layer)
    x = torch.randn(1, 2, *shape, generator=torch.Generator().manual_seed(1))
    outputs = [math.ceil(size / stride) for size in shape]
    before = [max((o - 1) * stride + side - size, 0) // 2 for o, size in zip(outputs, shape, strict=True)]
    result = layer(x, 1e-3)[0]
    assert result.shape == (3, *outputs)
    for place in itertools.product(*({0, o // 2, o - 1} for o in outputs)):
        total = torch.zeros(3, dtype=torch.float64)
        for step in itertools.product(range(side), repeat=3):
            at = [p * stride - b + s for p, b, s in zip(place, before, step, strict=True)]
            if all(0 <= a < size for a, size in zip(at, shape, strict=True)):
                total += layer.weight[(slice(None), slice(None), *step)].double() @ x[(0, slice(None), *at)].double()
        normalized = (total - layer.mean) / (layer.variance.double() + 1e-3).sqrt() * layer.gamma + layer.beta
        torch.testing.assert_close(
            result[(slice(None), *place)].double(), normalized.clamp(min=0), rtol=1e-4, atol=1e-5
        )


@pytest.mark.parametrize("shape", [(5, 6, 7), (8, 9, 4), (1, 2, 3)], ids=str)
@pytest.mark.parametrize(("kernel", "stride"), [*i3d.POOLINGS.values(), ((3, 3, 3), (1, 1, 1))], ids=str)
def test_a_maximum_does_not_see_the_padding(shape: tuple[int, ...], kernel: i3d.Sides, stride: i3d.Sides):
    x = torch.rand(2, 3, *shape, generator=torch.Generator().manual_seed(1))
    expected = torch.nn.functional.max_pool3d(i3d_published.padded(x, kernel, stride, -torch.inf), kernel, stride)
    assert torch.equal(i3d.largest(x, kernel, stride), expected)
    assert expected.shape[2:] == tuple(math.ceil(size / step) for size, step in zip(shape, stride, strict=True))


def half_pixel(row: Tensor, size: int) -> Tensor:
    """Linear interpolation of pixel centers by plain loops; ends repeat."""
    at = [min(max((i + 0.5) * len(row) / size - 0.5, 0), len(row) - 1) for i in range(size)]
    low = [int(a) for a in at]
    return torch.stack(
        [row[k] + (row[min(k + 1, len(row) - 1)] - row[k]) * (a - k) for a, k in zip(at, low, strict=True)]
    )


@pytest.mark.parametrize(
    ("shape", "resized"),
    [((20, 30), (224, 336)), ((31, 20), (348, 224)), ((9, 9), (224, 224)), ((100, 100), (225, 224))],
)
def test_frames_are_resized_as_each_program_does(shape: tuple[int, int], resized: tuple[int, int]):
    """By rows, then by columns; of 31 x 20 pixels 31 * 224 / 20 = 347.2 rows become 348, and PVDM's product makes 225 of 100."""
    clips = torch.rand(1, 3, 2, *shape, generator=torch.Generator().manual_seed(0))
    for result, size in ((i3d.stretch(clips), (224, 224)), (i3d.crop_center(clips), resized)):
        assert result.shape == (1, 3, 2, 224, 224)
        whole = half_pixel(clips[0, 1, 1], size[0])
        whole = half_pixel(whole.T, size[1]).T
        top, left = (size[0] - 224) // 2, (size[1] - 224) // 2
        torch.testing.assert_close(result[0, 1, 1], whole[top : top + 224, left : left + 224], rtol=0, atol=1e-5)


def test_features_do_not_depend_on_the_batch_and_gray_is_three_equal_channels(extractor: ClipExtractor):
    clips = moving(5)
    together = extractor(clips, ("logits",), "pvdm")["logits"]
    assert together.shape == (5, 400) and bool(torch.isfinite(together).all())
    assert together.std(0).mean() > 1e-2
    torch.testing.assert_close(together[4:], extractor(clips[4:], ("logits",), "pvdm")["logits"], rtol=1e-4, atol=1e-5)
    gray = clips[:1, ..., :1]
    color = extractor(gray.repeat(3, -1), ("logits",), "pvdm")["logits"]
    assert torch.equal(extractor(gray, ("logits",), "pvdm")["logits"], color)


def test_the_distance_is_0_for_the_same_clips_and_not_for_those_with_shuffled_frames(extractor: ClipExtractor):
    clips = moving(4)
    shuffled = clips[:, np.random.default_rng(1).permutation(16)]
    rows, others = (extractor(some, ("logits",), "pvdm")["logits"].numpy() for some in (clips, shuffled))
    distance = fvd.compute(Features(others, rows), "pvdm")
    assert fvd.compute(Features(rows, rows), "pvdm") < 1e-6 * distance
    assert distance > 0.1 * np.square(rows - rows.mean(0)).sum(1).mean(), "beside the spread of the clips"


def test_both_protocols_are_one_network_but_for_the_constant_of_its_normalization(extractor: ClipExtractor):
    """Square frames of 28 pixels are resized alike; variances here are at least 0.5, so that 1e-3 changes little."""
    rows = [extractor(moving(2, side=(28, 28)), ("logits",), name)["logits"] for name in ("stylegan-v", "pvdm")]
    assert 0 < (rows[0] - rows[1]).abs().max() < 0.05 * rows[0].abs().max()


def test_the_number_of_clips_is_noted_where_it_is_not_that_of_the_programs():
    few = Features(np.zeros((3, 400), np.float32), np.zeros((1500, 400), np.float32))
    note = fvd.remark(few, "stylegan-v") or ""
    assert note.startswith(
        "3 samples and 1,500 references, while `stylegan-v` compares 2,048 of each; 3 samples for 400"
    )
    many = Features(np.zeros((2048, 400), np.float32), np.zeros((2048, 400), np.float32))
    assert fvd.remark(many, "pvdm") is None
    assert fvd.remark(Features(many.samples[:2000], many.samples), "random") is None


def test_clips_of_another_length_and_unknown_names_are_refused(extractor: ClipExtractor):
    for frames in (8, 17):
        with pytest.raises(UsageError, match=f"clips have {frames} frames, and features of I3D are of 16") as caught:
            extractor(moving(1, frames=frames), ("logits",), "pvdm")
        assert "--frames 16" in (caught.value.hint or "")
    with pytest.raises(UsageError, match="there is no preprocessing `pvmd`"):
        extractor(moving(1), ("logits",), "pvmd")
    with pytest.raises(UsageError, match="there is no output `pool`"):
        extractor(moving(1), ("pool",), "pvdm")
