"""Rows and columns mean the same in encoder, latents and decoder: an image model's answer moves with the image.

The network is set by hand so that a query reads the latent of its own place and nothing else: every position is
embedded in one half of the width, what the encoder read in the other, and the decoder matches positions. If rows and
columns were exchanged in one of the three places, a query would read the patch across the diagonal.
"""

from __future__ import annotations

from typing import Literal

import pytest
import torch
from torch import Tensor

from inrflow_core.layers.attention import CrossAttention
from inrflow_core.networks import _set_grouping, set_transformer
from inrflow_core.networks._set_config import Config
from inrflow_core.networks._set_decoder import Decoder
from inrflow_core.networks._set_encoders import PatchEncoder, SpatialEncoder
from inrflow_core.networks.set_transformer import SetTransformer
from inrflow_core.sets import ConditionEmbedding, Grid, Queries, SetSpec

SIDE, PATCH = 24, 4
WIDTH, HALF = 64, 32
SHAPE = SetSpec(2, 3, Grid((SIDE, SIDE)))


def reading_its_own_place(encoder: Literal["spatial", "linear"]) -> SetTransformer:
    config = Config(
        WIDTH, 1, 1, latents=(SIDE // PATCH) ** 2, encoder=encoder, num_frequencies=HALF // 4, max_frequency=6
    )
    torch.manual_seed(0)
    network = set_transformer.build(config, SHAPE).requires_grad_(False)
    position, content = torch.zeros(WIDTH, WIDTH), torch.zeros(WIDTH, WIDTH)
    position[:HALF, :HALF], content[HALF:, HALF:] = torch.eye(HALF), torch.eye(HALF)
    if isinstance(network.encoder, SpatialEncoder):
        network.encoder.latent.zero_()
        network.encoder.outer.weight[:HALF] = 0
    else:
        assert isinstance(network.encoder, PatchEncoder)
        network.encoder.norm.weight[:HALF], network.encoder.norm.bias[:HALF] = 0, 0
    assert isinstance(network.decoder, Decoder)
    block = network.decoder.levels()[0]
    assert isinstance(block.attention, CrossAttention)
    block.attention.query.weight.copy_(position)
    block.attention.key.weight.copy_(position)
    block.attention.value.weight.copy_(content)
    block.attention.out.weight.copy_(torch.eye(WIDTH))
    block.attention.gains.fill_(12.0)  # so sharp that one latent is read
    block.modulation.bias[2 * WIDTH : 3 * WIDTH] = 1  # the attention's gate
    network.decoder.tokens.value.gain.zero_()
    readout = torch.randn(3, HALF)
    network.decoder.final.weight[:, HALF:WIDTH] = readout - readout.mean(1, keepdim=True)
    return network


def ask(network: SetTransformer, image: Tensor) -> Tensor:
    """Answers on the training grid, as an image."""
    context = Queries(torch.from_numpy(_set_grouping.cell_centers((SIDE, SIDE))).float(), torch.arange(SIDE * SIDE))
    values = image.reshape(1, SIDE * SIDE, 3)
    return network(context, values, torch.tensor([0.5]), ConditionEmbedding(), context, values).view(SIDE, SIDE, 3)


@pytest.mark.parametrize("encoder", ["spatial", "linear"])
def test_a_query_reads_the_patch_that_it_lies_in(encoder: Literal["spatial", "linear"]) -> None:
    network = reading_its_own_place(encoder)
    image = torch.randn(SIDE, SIDE, 3, requires_grad=True)
    for row, column in ((2, 17), (9, 6), (21, 1), (13, 22)):
        (gradient,) = torch.autograd.grad(ask(network, image)[row, column].square().sum(), image)
        by_patch = gradient.abs().sum(-1).unfold(0, PATCH, PATCH).unfold(1, PATCH, PATCH).sum((-1, -2))
        assert by_patch[row // PATCH, column // PATCH] > 0.95 * by_patch.sum()


@pytest.mark.parametrize("encoder", ["spatial", "linear"])
def test_the_answer_moves_with_the_image(encoder: Literal["spatial", "linear"]) -> None:
    network = reading_its_own_place(encoder)
    image = torch.randn(SIDE, SIDE, 3)
    still = ask(network, image)
    for move in ((PATCH, 0), (0, 2 * PATCH), (3 * PATCH, PATCH)):
        moved = ask(network, image.roll(move, (0, 1)))
        size = still.square().mean().sqrt()
        assert (moved - still.roll(move, (0, 1))).square().mean().sqrt() < 0.1 * size
        assert (moved - still.roll(move, (1, 0))).square().mean().sqrt() > 0.5 * size


def test_a_pixel_is_embedded_by_its_own_row_and_column_in_its_patch() -> None:
    """Only the rows' features enter: mirroring a patch's columns then changes no latent, mirroring its rows does."""
    network = reading_its_own_place("spatial")
    encoder = network.encoder
    assert isinstance(encoder, SpatialEncoder)
    encoder.key.zero_()
    encoder.key[: HALF // 2, : HALF // 2] = 3 * torch.eye(HALF // 2)  # a coordinate's first number fills the first half
    encoder.query.bias.copy_(torch.randn(WIDTH))
    encoder.value[:, : HALF // 2], encoder.tokens.value.gain[: HALF // 2] = 0, 0
    encoder.value[:, HALF // 2 : HALF] = 0
    context = Queries(torch.from_numpy(_set_grouping.cell_centers((SIDE, SIDE))).float(), torch.arange(SIDE * SIDE))

    def latents(image: Tensor) -> Tensor:
        return encoder(context, image.reshape(1, SIDE * SIDE, 3), None)

    image = torch.randn(SIDE, SIDE, 3)
    patches = image.view(SIDE // PATCH, PATCH, SIDE // PATCH, PATCH, 3)
    torch.testing.assert_close(latents(patches.flip(3)), latents(image), atol=1e-5, rtol=1e-5)
    assert (latents(patches.flip(1)) - latents(image)).abs().max() > 1e-2
