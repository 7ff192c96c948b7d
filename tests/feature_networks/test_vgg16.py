"""VGG16's features, on a network whose two fully connected layers are narrow: 0.06 GB instead of 0.5."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from torch import nn

from inrflow_core.feature_networks import vgg16
from inrflow_core.feature_networks._image_features import Extractor
from tests.feature_networks import published

NARROW = 32


@pytest.fixture(scope="module")
def extractor(tmp_path_factory: pytest.TempPathFactory):
    path = tmp_path_factory.mktemp("weights") / "vgg16.safetensors"
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(vgg16, "HIDDEN", NARROW)
        patch.setitem(vgg16.OUTPUTS, "fc2", NARROW)
        network = vgg16.VGG16()
        published.randomize(network)
        published.write(path, network.state_dict(), published.metadata(vgg16.WEIGHTS))
        yield vgg16.load(path)


def some(count: int, channels: int = 3) -> np.ndarray:
    return np.random.default_rng(0).integers(0, 256, (count, 50, 50, channels), dtype=np.uint8)


def test_parameters_are_as_many_as_published():
    """138,357,544, of which the layer of classes, left out here, has 1000 x 4097."""
    with torch.device("meta"):
        network = vgg16.VGG16()
    assert sum(p.numel() for p in network.parameters()) == 138_357_544 - 1000 * 4097


def test_features_are_those_of_the_plain_chain_of_layers(extractor: Extractor):
    """The layers one after another as torchvision lists them, on pixels normalised by its rule."""
    network = extractor.network
    assert isinstance(network, vgg16.VGG16)
    layers: list[nn.Module] = []
    for number, layer in enumerate(network.convolutions, start=1):
        layers += [layer, nn.ReLU()] + [nn.MaxPool2d(2, 2)] * (number in (2, 4, 7, 10, 13))
    layers += [nn.AdaptiveAvgPool2d(7), nn.Flatten(), network.fc1, nn.ReLU(), network.fc2, nn.ReLU()]
    image = some(1)
    pixels = extractor.preprocessors["stylegan"](image) / 255
    normal = torch.stack([(pixels[:, c] - vgg16.MEAN[c]) / vgg16.DEVIATION[c] for c in range(3)], dim=1)
    with torch.inference_mode():
        expected = nn.Sequential(*layers)(normal)
    features = extractor(image, ("fc2",), "stylegan")["fc2"]
    torch.testing.assert_close(features, expected, rtol=1e-4, atol=1e-5)
    assert (features >= 0).all() and (features > 0).any()


def test_company_and_gray_change_nothing(extractor: Extractor):
    images = some(3)
    together = extractor(images, ("fc2",), "stylegan")["fc2"]
    torch.testing.assert_close(together[1:2], extractor(images[1:2], ("fc2",), "stylegan")["fc2"], rtol=1e-4, atol=1e-5)
    gray = some(1, 1)
    of_gray, repeated = (extractor(g, ("fc2",), "stylegan")["fc2"] for g in (gray, np.repeat(gray, 3, axis=3)))
    torch.testing.assert_close(of_gray, repeated, rtol=1e-4, atol=1e-5)
