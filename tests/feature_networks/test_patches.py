"""Color patches: the token of a patch holds its colors, at any size of the image."""

from __future__ import annotations

import torch

from inrflow_core.feature_networks import patches


def test_a_token_is_the_colors_of_its_patch_row_by_row() -> None:
    images = torch.randint(0, 256, (2, 64, 64, 3), dtype=torch.uint8, generator=torch.Generator().manual_seed(0))
    tokens = patches.load(None)(images)
    assert tokens.shape == (2, 64, 192)
    for row, column in ((0, 0), (0, 7), (3, 5), (7, 1)):
        patch = images[:, 8 * row : 8 * row + 8, 8 * column : 8 * column + 8].flatten(1)
        torch.testing.assert_close(tokens[:, 8 * row + column], patch / 127.5 - 1)


def waves(rows: int, columns: int) -> torch.Tensor:
    """The same smooth image at any size."""
    y, x = torch.meshgrid((torch.arange(rows) + 0.5) / rows, (torch.arange(columns) + 0.5) / columns, indexing="ij")
    colors = torch.stack([torch.sin(5 * x), torch.cos(4 * y), torch.sin(3 * x + 4 * y)], dim=-1)
    return (127.5 + 120 * colors).round().to(torch.uint8)[None]


def test_the_size_of_the_image_does_not_matter() -> None:
    embedder = patches.load(None)
    assert embedder.grid(320, 200) == embedder.grid(64, 64) == (8, 8)
    for rows, columns in ((320, 320), (112, 112), (448, 200)):
        torch.testing.assert_close(embedder(waves(rows, columns)), embedder(waves(64, 64)), rtol=0, atol=0.03)
