"""How times, coordinates and values enter."""

from __future__ import annotations

import math

import pytest
import torch
from torch.nn import functional

from inrflow_core.layers import embeddings
from inrflow_core.networks import set_transformer
from inrflow_core.networks._set_config import Config
from inrflow_core.sets import Grid, Points, SetSpec


@pytest.mark.parametrize("size", [1, 3, 16, 17, 60])
def test_the_folded_norm_is_the_norm(size: int) -> None:
    torch.manual_seed(0)
    projection = embeddings.Projection(size, 48)
    for weight in projection.parameters():
        weight.data += 0.5 * torch.randn_like(weight)
    x = torch.randn(4, 7, size)
    normed = functional.layer_norm(
        functional.linear(x, projection.weight, projection.bias), (48,), projection.gain, projection.shift
    )
    expected = functional.silu(normed)
    torch.testing.assert_close(projection(x), expected, atol=1e-5, rtol=1e-5)
    ours, theirs = (
        torch.autograd.grad(y.pow(3).sum(), list(projection.parameters())) for y in (projection(x), expected)
    )
    torch.testing.assert_close(ours, theirs, atol=1e-3, rtol=1e-4)


def test_the_folded_norm_holds_where_values_are_far_from_one() -> None:
    torch.manual_seed(0)
    projection = embeddings.Projection(3, 48)
    for scale in (0.0, 1e-4, 1e3):
        x = scale * torch.randn(5, 3)
        normed = functional.layer_norm(functional.linear(x, projection.weight), (48,))
        torch.testing.assert_close(projection(x), functional.silu(normed), atol=2e-5, rtol=1e-4)


def test_fourier_features_turn_at_their_frequencies() -> None:
    fourier = embeddings.Fourier(embeddings.geometric(math.pi, 8 * math.pi, 4), width=20)
    x = torch.tensor([[0.25, -0.5]])
    features = fourier(x)[0]
    for axis in range(2):
        for index in range(4):
            phase = math.pi * 2**index * x[0, axis].item()
            assert features[8 * axis + index].item() == pytest.approx(math.sin(phase), abs=1e-5)
            assert features[8 * axis + 4 + index].item() == pytest.approx(math.cos(phase), abs=1e-5)
    assert features[16:].abs().max() == 0


def test_frequencies_stay_below_what_the_training_grid_can_tell_apart() -> None:
    image = SetSpec(2, 3, Grid((32, 32)))
    for top, highest in ((None, 8 * math.pi), (16.0, 16 * math.pi)):
        config = Config(64, 1, 1, latents=16, max_frequency=top)
        tokens = set_transformer.build_decoder(config, image).tokens
        assert isinstance(tokens, embeddings.Tokens)
        result = tokens.fourier.frequencies
        assert result[0].item() == pytest.approx(math.pi) and result[-1].item() == pytest.approx(highest)
    low = set_transformer.build_decoder(Config(64, 1, 1, latents=16, max_frequency=7, min_frequency=0.5), image).tokens
    assert isinstance(low, embeddings.Tokens)
    assert low.fourier.frequencies[0].item() == pytest.approx(math.pi / 2)
    points = SetSpec(3, 3, Points(64))
    tokens = set_transformer.build_decoder(Config(64, 1, 1, encoder="perceiver"), points).tokens
    assert isinstance(tokens, embeddings.Tokens)
    result = tokens.fourier.frequencies
    torch.testing.assert_close(result, 2.0 ** torch.arange(10))


def test_neighboring_times_are_distinguished() -> None:
    torch.manual_seed(0)
    embedding = embeddings.TimeEmbedding(32)
    with torch.no_grad():
        result = embedding(torch.tensor([0.0, 0.01, 0.5, 1.0]))
    distance = torch.cdist(result, result) / result.norm(dim=1).mean()
    assert (distance + torch.eye(4)).min() > 0.1
