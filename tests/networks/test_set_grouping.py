"""Groups of pairs: pseudo-coordinates, hash codes and tiles."""

from __future__ import annotations

import pytest
import torch

from inrflow_core.networks import _set_grouping
from inrflow_core.sets import Grid, Points, SetSpec

IMAGE = SetSpec(2, 3, Grid((28, 28)))


def sizes(kind: str) -> list[int]:
    generator = torch.Generator().manual_seed(0)
    if kind == "equal":
        return [7] * 9
    if kind == "one holds all":
        return [0, 0, 50, 0]
    if kind == "one more than latents":
        return [2, 1, 1, 1, 1, 1]
    if kind == "fewer than latents":
        return [1, 0, 2, 0, 0, 0, 0]
    return torch.randint(0, 40, (30,), generator=generator).tolist()


@pytest.mark.parametrize("kind", ["equal", "one holds all", "one more than latents", "fewer than latents", "random"])
def test_tiles_hold_every_pair_once_and_less_than_twice_the_slots(kind: str) -> None:
    counts = sizes(kind)
    groups = torch.repeat_interleave(torch.arange(len(counts)), torch.tensor(counts))
    groups = groups[torch.randperm(len(groups), generator=torch.Generator().manual_seed(1))]
    for cut in (_set_grouping.fixed_tiles(groups, len(counts)), _set_grouping.tile_groups(groups[None], len(counts))):
        pairs, is_real, latent = (x.flatten(0, -2) if x.ndim == 3 else x for x in cut)
        assert pairs[is_real].sort().values.tolist() == list(range(len(groups)))
        owners = latent.flatten()[:, None].expand_as(pairs)
        assert torch.equal(groups[pairs[is_real]], owners[is_real])
        assert pairs.numel() < 2 * len(groups) or len(groups) <= len(counts)
        assert pairs.numel() <= max(2 * len(groups), len(counts))


def test_each_set_of_a_batch_is_cut_as_if_alone() -> None:
    groups = torch.randint(0, 6, (3, 20), generator=torch.Generator().manual_seed(0))
    together = _set_grouping.tile_groups(groups, 6)
    for index in range(3):
        alone = _set_grouping.tile_groups(groups[index : index + 1], 6)
        assert all(torch.equal(a[index : index + 1], b) for a, b in zip(together, alone, strict=True))


def test_every_pixel_belongs_to_the_nearest_center_of_the_grid() -> None:
    for side in (7, 5):  # dividing the side evenly, and not
        positions = _set_grouping.pseudo_coordinates("grid", side * side, IMAGE)
        groups, offsets = _set_grouping.grid_groups("grid", positions, IMAGE, latents=side * side, cells=1)
        pixels = torch.from_numpy(_set_grouping.cell_centers((28, 28)))
        distance = torch.cdist(pixels, positions)
        own = distance.gather(1, groups[:, None])[:, 0]
        torch.testing.assert_close(own, distance.min(1).values, atol=1e-12, rtol=0)
        assert offsets.min() >= 0 and offsets.max() <= 1


@pytest.mark.parametrize("kind", ["random", "kmeans"])
def test_every_pixel_belongs_to_the_nearest_pseudo_coordinate(kind: str) -> None:
    positions = _set_grouping.pseudo_coordinates(kind, 20, IMAGE)
    groups, _ = _set_grouping.grid_groups(kind, positions, IMAGE, latents=20, cells=1)
    pixels = torch.from_numpy(_set_grouping.cell_centers((28, 28)))
    assert torch.equal(groups, torch.cdist(pixels, positions, compute_mode="donot_use_mm_for_euclid_dist").argmin(1))


def test_means_lie_closer_to_the_pixels_than_random_places_and_are_the_same_every_time() -> None:
    pixels = torch.from_numpy(_set_grouping.cell_centers((28, 28)))

    def spread(positions: torch.Tensor) -> float:
        return torch.cdist(pixels, positions).min(1).values.square().mean().item()

    means = _set_grouping.pseudo_coordinates("kmeans", 20, IMAGE)
    assert spread(means) < 0.6 * spread(_set_grouping.pseudo_coordinates("random", 20, IMAGE))
    assert spread(means) < 1.25 * spread(_set_grouping.pseudo_coordinates("grid", 20, IMAGE))
    assert torch.equal(means, _set_grouping.pseudo_coordinates("kmeans", 20, IMAGE))


def test_hash_codes_are_shared_within_a_cell_and_spread_over_all_latents() -> None:
    generator = torch.Generator().manual_seed(0)
    points = 2 * torch.rand(4096, 3, generator=generator) - 1
    codes = _set_grouping.hash_codes(points, 64, 8)
    assert len(codes.unique()) == 64
    center = torch.floor((points + 1) * 4) / 4 - 1 + 0.125
    assert torch.equal(codes, _set_grouping.hash_codes(center, 64, 8))
    assert (codes.bincount(minlength=64) < 4 * 4096 / 64).all()
    far = _set_grouping.hash_codes(points * 100, 64, 8)
    assert far.min() >= 0 and far.max() < 64


def test_a_grid_of_latents_follows_the_shape_of_the_training_grid() -> None:
    assert _set_grouping.grid_sides(1024, SetSpec(2, 3, Grid((256, 256)))) == (32, 32)
    assert _set_grouping.grid_sides(32, SetSpec(2, 3, Grid((64, 32)))) == (8, 4)
    assert _set_grouping.grid_sides(128, SetSpec(3, 3, Grid((16, 64, 64)))) == (2, 8, 8)
    assert _set_grouping.grid_sides(64, SetSpec(3, 3, Points(1, has_coordinates=True))) == (4, 4, 4)
