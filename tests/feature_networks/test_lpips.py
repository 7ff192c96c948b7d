"""LPIPS against the paper's equation on torch's own layers, on a network that is narrower than the published one."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from torch import Tensor, nn

from inrflow_core.errors import IntegrityError
from inrflow_core.feature_networks import lpips
from tests.feature_networks import published

WIDTHS = (4, 6, 8, 10, 12)


@pytest.fixture
def network(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> lpips.LPIPS:
    monkeypatch.setattr(lpips, "WIDTHS", WIDTHS)
    published.lpips_file(tmp_path / "lpips.safetensors")
    return lpips.load(tmp_path / "lpips.safetensors")


def images(count: int, side: int = 32, seed: int = 0) -> Tensor:
    return torch.rand(count, 3, side, side, generator=torch.Generator().manual_seed(seed)) * 2 - 1


def by_the_paper(network: lpips.LPIPS, one: Tensor, other: Tensor) -> Tensor:
    """Equation 1 with torchvision's list of layers and loops over positions."""
    layers: list[nn.Module] = []
    for number, (weight, bias) in enumerate(zip(network.weights, network.biases, strict=True), 1):
        layer = nn.Conv2d(weight.shape[1], weight.shape[0], 3, padding=1)
        layer.load_state_dict({"weight": weight, "bias": bias})
        layers += [layer, nn.ReLU()] + [nn.MaxPool2d(2, 2)] * (number in (2, 4, 7, 10))
    mean, deviation = torch.tensor([-0.030, -0.088, -0.188]), torch.tensor([0.458, 0.448, 0.450])
    taps, total = iter(network.channels), torch.zeros(len(one))
    x, y = ((each - mean[:, None, None]) / deviation[:, None, None] for each in (one, other))
    for number, layer in enumerate(layers):
        x, y = layer(x), layer(y)
        if number not in (3, 8, 15, 22, 29):  # the ReLUs of conv1_2, 2_2, 3_3, 4_3 and 5_3
            continue
        weights = next(taps)
        for image in range(len(one)):
            distances = []
            for row in range(x.shape[2]):
                for column in range(x.shape[3]):
                    a, b = x[image, :, row, column], y[image, :, row, column]
                    a, b = a / (a.square().sum().sqrt() + 1e-10), b / (b.square().sum().sqrt() + 1e-10)
                    distances.append((weights * (a - b) ** 2).sum())
            total[image] += torch.stack(distances).mean()
    return total


def test_it_is_the_papers_equation(network: lpips.LPIPS):
    one, other = images(2), images(2, seed=1)
    with torch.no_grad():
        result, expected = network(one, other), by_the_paper(network, one, other)
    torch.testing.assert_close(result, expected, rtol=1e-5, atol=1e-7)
    assert (result > 0.1).all()


def test_it_is_symmetric_zero_of_equal_images_and_of_each_pair_alone(network: lpips.LPIPS):
    one, other = images(3, 16), images(3, 16, seed=1)
    assert network(one, one).tolist() == [0.0] * 3
    torch.testing.assert_close(network(one, other), network(other, one))
    torch.testing.assert_close(network(one[1:2], other[1:2]), network(one, other)[1:2])


def test_the_gradient_reaches_the_first_image_alone_and_is_that_of_the_distance(network: lpips.LPIPS):
    one, other = images(1, 16).requires_grad_(True), images(1, 16, seed=1).requires_grad_(True)
    network.double()
    one, other = one.detach().double().requires_grad_(True), other.detach().double().requires_grad_(True)
    network(one, other).sum().backward()
    assert other.grad is None and all(weight.grad is None for weight in network.parameters())
    assert one.grad is not None
    step = 1e-6 * torch.randn(one.shape, dtype=torch.float64, generator=torch.Generator().manual_seed(2))
    with torch.no_grad():
        change = (network(one + step, other) - network(one - step, other)) / 2
    torch.testing.assert_close((one.grad * step).sum(), change[0], rtol=1e-4, atol=0)


def test_features_without_any_activation_have_a_finite_gradient(network: lpips.LPIPS):
    for bias in network.biases:
        bias.fill_(-100)
    image = images(1, 16).requires_grad_(True)
    network(image, images(1, 16, seed=1)).sum().backward()
    assert image.grad is not None and not image.grad.any()


def test_sixteen_pixels_are_the_least(network: lpips.LPIPS):
    assert network.least_side == 16
    assert [tuple(each.shape[2:]) for each in network.features(images(1, 16))] == [(16 // 2**n,) * 2 for n in range(5)]
    with pytest.raises(RuntimeError, match="too small"):
        network(images(1, 15), images(1, 15))


def test_parameters_are_as_many_as_published():
    """The convolutions of VGG16, 14,714,688, and a weight for each of the channels of five layers."""
    with torch.device("meta"):
        network = lpips.LPIPS()
    assert sum(weight.numel() for weight in network.parameters()) == 14_714_688 + 1472
    assert not any(weight.requires_grad for weight in network.parameters())


def test_negative_weights_of_channels_are_refused(network: lpips.LPIPS, tmp_path: Path):
    state = network.state_dict()
    state["channels.3"][2] = -1e-3
    published.write(tmp_path / "bad.safetensors", state, published.metadata(lpips.WEIGHTS))
    with pytest.raises(IntegrityError, match=r"bad.safetensors` has negative weights of channels") as caught:
        lpips.load(tmp_path / "bad.safetensors")
    assert "lpips vgg16-397923af.pth" in (caught.value.hint or "") and "--second vgg.pth" in (caught.value.hint or "")


def test_it_answers_as_the_package_lpips_with_the_same_weights(tmp_path: Path):
    """Skipped where that is absent."""
    package = pytest.importorskip("lpips")
    published.lpips_file(tmp_path / "lpips.safetensors")
    ours = lpips.load(tmp_path / "lpips.safetensors")
    theirs = package.LPIPS(net="vgg", pretrained=False, pnet_rand=True, verbose=False)
    convolutions = [layer for layer in theirs.net.modules() if isinstance(layer, nn.Conv2d)]
    for layer, weight, bias in zip(convolutions, ours.weights, ours.biases, strict=True):
        layer.load_state_dict({"weight": weight, "bias": bias})
    for layer, weights in zip(theirs.lins, ours.channels, strict=True):
        layer.model[-1].weight.data.copy_(weights.view(1, -1, 1, 1))
    one, other = images(2), images(2, seed=1)
    with torch.no_grad():
        torch.testing.assert_close(ours(one, other), theirs(one, other).flatten(), rtol=1e-5, atol=1e-6)
