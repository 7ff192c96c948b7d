"""Inception-v3 in its FID form: sizes, poolings, outputs. No real weights are here; see docs/feature-weights.md."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch
import torch.nn.functional as F

from inrflow_core.feature_networks import inception
from inrflow_core.feature_networks._image_features import Extractor
from tests.feature_networks import published

ALL = tuple(inception.OUTPUTS)


@pytest.fixture(scope="module")
def network() -> inception.Inception:
    network = inception.Inception()
    published.randomize(network)
    return network.eval().requires_grad_(False)


@pytest.fixture(scope="module")
def extractor(network: inception.Inception, tmp_path_factory: pytest.TempPathFactory) -> Extractor:
    path = tmp_path_factory.mktemp("weights") / "inception.safetensors"
    published.write(path, network.state_dict(), published.metadata(inception.WEIGHTS))
    return inception.load(path)


def some(count: int, side: int = 40, channels: int = 3) -> np.ndarray:
    return np.random.default_rng(0).integers(0, 256, (count, side, side, channels), dtype=np.uint8)


def test_parameters_are_as_many_as_published():
    """Torchvision's Inception-v3 without its auxiliary head has 23,834,568 for 1000 classes; 8 more take 8 x 2049."""
    with torch.device("meta"):
        network = inception.Inception()
    assert sum(p.numel() for p in network.parameters()) == 23_834_568 + 8 * 2049
    assert len(network.convolutions) == 94


def test_outputs_have_their_sizes_whatever_is_requested(extractor: Extractor):
    images = some(1)
    together = extractor(images, ALL, "clean")
    assert {name: tuple(rows.shape) for name, rows in together.items()} == {
        n: (1, c) for n, c in inception.OUTPUTS.items()
    }
    for name in ALL:
        alone = extractor(images, (name,), "clean")
        assert set(alone) == {name}
        torch.testing.assert_close(alone[name], together[name], rtol=1e-5, atol=1e-5)


def test_forms_differ_where_they_should_and_only_there(extractor: Extractor):
    pools = {form: extractor(some(1), ("pool",), form)["pool"] for form in inception.PREPROCESSING}
    assert torch.equal(pools["torch-fidelity"], pools["adm"])
    assert (pools["clean"] - pools["adm"]).abs().max() > 1e-2 * pools["adm"].abs().max()


def test_an_image_has_the_same_features_alone_and_among_five(extractor: Extractor):
    images = some(5)
    together, alone = extractor(images, ALL, "adm"), extractor(images[2:3], ALL, "adm")
    for name in ALL:
        torch.testing.assert_close(together[name][2:3], alone[name], rtol=1e-4, atol=1e-4)


def test_gray_is_its_repetition(extractor: Extractor):
    gray = some(1, channels=1)
    of_gray, repeated = (extractor(images, ("pool",), "clean")["pool"] for images in (gray, np.repeat(gray, 3, axis=3)))
    torch.testing.assert_close(of_gray, repeated, rtol=1e-4, atol=1e-4)


def test_averages_leave_the_padding_out_and_the_last_block_takes_the_maximum(network: inception.Inception):
    x = torch.rand(1, 4, 6, 6, generator=torch.Generator().manual_seed(0))
    ones, count = torch.ones(4, 1, 3, 3), torch.ones(1, 4, 6, 6)
    expected = F.conv2d(x, ones, padding=1, groups=4) / F.conv2d(count, ones, padding=1, groups=4)
    torch.testing.assert_close(network._follow("", (inception.AVERAGE,), x), expected)
    pools = [branches[-1][0] for branches in inception.BLOCKS.values()]
    average, halve, largest = inception.AVERAGE, inception.HALVE, inception.LARGEST
    assert pools == [average] * 3 + [halve] + [average] * 4 + [halve] + [average, largest]


def test_logits_have_no_bias(network: inception.Inception, extractor: Extractor):
    outputs = extractor(some(1), ("pool", "logits"), "adm")
    torch.testing.assert_close(outputs["logits"], outputs["pool"] @ network.classes.weight.T)


def test_spatial_features_are_rows_columns_and_the_first_seven_channels(network: inception.Inception):
    """By a hook on the graph's `mixed_6/conv`, whose input is `mixed_5`."""
    seen = {}
    hook = network.convolutions[inception.SPATIAL].register_forward_hook(lambda m, i, out: seen.update(out=out.clone()))
    with torch.inference_mode():
        spatial = network(torch.full((1, 3, 299, 299), 30.0), ("spatial",))["spatial"]
    hook.remove()
    assert seen["out"].shape == (1, 192, 17, 17) and (seen["out"] >= 0).all()
    torch.testing.assert_close(spatial.reshape(1, 17, 17, 7)[0, 3, 5], seen["out"][0, :7, 3, 5])


def test_pixels_are_centered_at_128(network: inception.Inception):
    """An image of 128 throughout is 0 to the network: the stem's first output is its normalization of 0."""
    first = network.convolutions["conv"]
    seen = {}
    hook = first.register_forward_hook(lambda m, i, out: seen.update(x=i[0].clone()))
    with torch.inference_mode():
        network(torch.tensor([0.0, 128.0, 255.0]).reshape(1, 3, 1, 1).expand(1, 3, 299, 299), ("spatial",))
    hook.remove()
    torch.testing.assert_close(seen["x"][0, :, 7, 7], torch.tensor([-1.0, 0.0, 127 / 128]))


def test_a_file_of_another_network_is_refused(tmp_path: Path):
    from inrflow_core.errors import IntegrityError

    path = tmp_path / "inception.safetensors"
    published.write(path, {"weight": torch.zeros(1)}, published.metadata(inception.WEIGHTS))
    with pytest.raises(IntegrityError, match="lacks the tensor `convolutions.conv.weight`"):
        inception.load(path)
