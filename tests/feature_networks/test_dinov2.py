"""DINOv2 with random weights in the published layout: its inputs, and the order of its tokens."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch

from inrflow_core.feature_networks import dinov2
from inrflow_core.feature_networks.dinov2 import Dinov2
from tests.feature_networks import hf_folders


@pytest.fixture(scope="module")
def embedder(tmp_path_factory: pytest.TempPathFactory) -> Dinov2:
    return dinov2.load(hf_folders.dinov2(tmp_path_factory.mktemp("weights") / "dinov2"))


def noise(count: int, rows: int, columns: int) -> torch.Tensor:
    generator = torch.Generator().manual_seed(1)
    return torch.randint(0, 256, (count, rows, columns, 3), dtype=torch.uint8, generator=generator)


@torch.no_grad()
def test_the_network_sees_imagenets_normalization_and_its_class_token_is_cut_off(embedder: Dinov2) -> None:
    images = noise(2, 42, 56)
    pixels = images.permute(0, 3, 1, 2) / 255
    pixels = (pixels - torch.tensor([0.485, 0.456, 0.406])[:, None, None]) / torch.tensor([0.229, 0.224, 0.225])[
        :, None, None
    ]
    expected = embedder.network(pixel_values=pixels).last_hidden_state[:, 1:]
    assert expected.shape == (2, 12, 32)
    torch.testing.assert_close(embedder(images), expected)


def test_a_bright_patch_changes_most_the_token_at_its_position_row_by_row(embedder: Dinov2) -> None:
    rows, columns = embedder.grid(42, 70)
    assert (rows, columns) == (3, 5)
    dark = torch.full((1, 42, 70, 3), 20, dtype=torch.uint8)
    before = embedder(dark)
    for row, column in ((0, 0), (0, 4), (1, 2), (2, 1)):
        lit = dark.clone()
        lit[:, 14 * row : 14 * row + 14, 14 * column : 14 * column + 14] = 250
        change = (embedder(lit) - before).norm(dim=-1)[0]
        assert int(change.argmax()) == row * columns + column
        assert change.max() > 3 * change.median()


def test_an_image_has_its_tokens_whatever_others_are_requested_with_it(embedder: Dinov2) -> None:
    images = noise(2 * dinov2.CHUNK + 3, 28, 28)
    together = embedder(images)
    alone = torch.cat([embedder(image[None]) for image in images])
    torch.testing.assert_close(together, alone, rtol=1e-5, atol=1e-5)


def test_an_image_of_broken_patches_is_resized_to_the_nearest_number_of_whole_ones(embedder: Dinov2) -> None:
    assert [embedder.grid(side, side)[0] for side in (448, 112, 64, 20, 3)] == [32, 8, 5, 1, 1]
    images = torch.full((1, 64, 64, 3), 77, dtype=torch.uint8)
    torch.testing.assert_close(embedder(images), embedder(images.new_full((1, 70, 70, 3), 77)))


def test_the_frozen_network_learns_nothing_and_its_tokens_may_be_learned_from(embedder: Dinov2) -> None:
    assert not embedder.network.training
    assert not any(parameter.requires_grad for parameter in embedder.network.parameters())
    layer = torch.nn.Linear(embedder.width, 1)
    layer(embedder(noise(1, 28, 28))).sum().backward()
    assert layer.weight.grad is not None


def test_giant_networks_of_another_feed_forward_layer_load_too(tmp_path: Path) -> None:
    folder = hf_folders.dinov2(tmp_path / "w", use_swiglu_ffn=True)
    assert dinov2.load(folder)(noise(1, 28, 28)).shape == (1, 4, 32)


@pytest.mark.slow
def test_vit_b_14_gives_1024_tokens_of_768_numbers_at_448_pixels(tmp_path: Path) -> None:
    """The architecture as published; its position embeddings are learned at 518 pixels and interpolated."""
    sizes = {"hidden_size": 768, "num_hidden_layers": 12, "num_attention_heads": 12, "mlp_ratio": 4}
    embedder = dinov2.load(hf_folders.dinov2(tmp_path / "w", **sizes))
    parameters = sum(parameter.numel() for parameter in embedder.network.parameters())
    assert parameters == 86_580_480
    assert embedder.width == 768
    tokens = embedder(noise(1, 448, 448))
    assert tokens.shape == (1, 1024, 768)
    assert bool(torch.isfinite(tokens).all())
    assert tokens.half().isfinite().all(), "they fit into half precision"


@pytest.mark.skipif(not torch.cuda.is_available(), reason="no GPU")
def test_a_gpu_gives_the_tokens_of_the_processor(tmp_path: Path) -> None:
    folder = hf_folders.dinov2(tmp_path / "w")
    images = noise(3, 112, 112)
    here, there = dinov2.load(folder)(images), dinov2.load(folder, "cuda")(images.cuda())
    torch.testing.assert_close(there.cpu(), here, rtol=2e-3, atol=2e-3)
