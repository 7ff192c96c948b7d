"""Radiance fields behind basis fields: sizes are the release's, and a ray sees what is in the one cube."""

from __future__ import annotations

import dataclasses
import math
import re
from typing import Any

import pytest
import torch
from torch import Tensor

from inrflow_core.errors import UsageError
from inrflow_core.networks import basis_radiance, triplane_autoencoder
from inrflow_core.networks._planes import SPACE
from inrflow_core.networks.basis_radiance import BasisRadiance, Config
from inrflow_core.sets import Grid, Points, Queries, Rays, SetSpec
from tests import tiny

EXTENT = 0.5
SPEC = SetSpec(3, 3, Rays(1, 8, 8, EXTENT, 32))
SMALL = Config(width=16, num_frequencies=2, direction_frequencies=1, samples=5, eval_samples=9, fine_samples=4)
SEEDS = torch.tensor([11, 12])
KINDS = ["coarse-to-fine", "skips"]


def readout(**changes: Any) -> BasisRadiance:
    torch.manual_seed(0)
    built = basis_radiance.build_field_readout(dataclasses.replace(SMALL, **changes), SPEC, (6, 4))
    tiny.randomize(built)
    return built


def fields(count: int = 2, seed: int = 1) -> tuple[Tensor, ...]:
    generator = torch.Generator().manual_seed(seed)
    return torch.randn(count, 6, 4, 12, generator=generator), torch.randn(count, 4, 8, 24, generator=generator)


def rays(batch: int = 2, count: int = 13, seed: int = 2) -> Queries:
    generator = torch.Generator().manual_seed(seed)
    origins = 0.1 * torch.randn(batch, count, 3, generator=generator) - torch.tensor([0, 0, 1.3])
    directions = torch.cat([0.2 * torch.randn(batch, count, 2, generator=generator), torch.ones(batch, count, 1)], -1)
    return Queries(origins, torch.zeros(count, 2), directions=directions)


def test_the_papers_networks_of_scenes_have_the_parameters_that_were_counted_in_their_release() -> None:
    sizes = triplane_autoencoder.Config(exchange="channels", canvas="channels", fields=1, field_channels=32)
    with torch.device("meta"):
        built = triplane_autoencoder.build_autoencoder(sizes, SPEC)
        config = Config(mlp="skips", num_frequencies=10, direction_frequencies=4)
        function = basis_radiance.build_field_readout(config, SPEC, (32,))
    points, *planes, last = (
        sum(weight.numel() for weight in part.parameters())
        for part in (built.points, built.encoder, built.decoder, function)
    )
    assert (points, sum(planes), last) == (2_309_152, 124_067_296, 554_116)
    assert config.least_weights <= last
    assert built.latent_spec == SetSpec(2, 192, Grid((16, 16)))


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("axis", range(3), ids=("x", "y", "z"))
def test_fields_that_vary_along_one_axis_of_the_world_make_a_scene_that_does(axis: int, kind: Any) -> None:
    built = readout(mlp=kind, num_frequencies=0)
    mlp: Any = built.mlp
    readers = [mlp.point] if kind == "coarse-to-fine" else [each for each in mlp.layers if each.in_features != 16]
    with torch.no_grad():  # the point itself is read too
        for layer in readers:
            layer.weight[:, -3:] = 0
    canvases = []
    for channels, side in ((6, 4), (4, 8)):
        profile = torch.randn(1, channels, side, generator=torch.Generator().manual_seed(side))
        planes = torch.zeros(1, 3, channels, side, side)
        for number, (rows, columns) in enumerate(SPACE.axes):
            if rows == axis:
                planes[:, number] = profile[..., None]
            elif columns == axis:
                planes[:, number] = profile[..., None, :]
        canvases.append(SPACE.join(planes))
    line = torch.linspace(-0.49, 0.49, 9)
    at = torch.stack(torch.meshgrid(line, line, line, indexing="ij"), -1).flatten(0, 2)
    density, _ = built.density_and_color(tuple(canvases), at)
    changes = [density.reshape(9, 9, 9).diff(dim=other).abs().max() for other in range(3)]
    assert changes[axis] > 1e-3
    assert all(change < 1e-4 * changes[axis] for other, change in enumerate(changes) if other != axis)


@pytest.mark.parametrize("kind", KINDS)
def test_what_density_and_color_are_made_of_is_not_affine_in_the_fields(kind: Any) -> None:
    built, one, other = readout(mlp=kind), fields(1), fields(1, seed=5)
    middle = tuple((a + b) / 2 for a, b in zip(one, other, strict=True))
    at = torch.rand(40, 3, generator=torch.Generator().manual_seed(3)) - 0.5

    def outputs(state: tuple[Tensor, ...]) -> Tensor:
        density, color = built.density_and_color(state, at)
        return torch.cat([(density * EXTENT / basis_radiance.DENSITY).expm1().log()[..., None], color.logit()], -1)

    bend = outputs(middle) - (outputs(one) + outputs(other)) / 2
    assert (bend.abs().amax((0, 1)) > 1e-3).all(), "affine ones leave 1e-6"


def test_outside_the_cube_a_scene_is_empty_and_rays_that_miss_it_are_white() -> None:
    built, state = readout(), fields()
    inside = torch.rand(2, 50, 3, generator=torch.Generator().manual_seed(3)) - 0.5
    outside = inside + torch.tensor([1.01, 0, 0])
    assert (built.density_and_color(state, inside)[0] > 0).all()
    assert (built.density_and_color(state, outside)[0] == 0).all()
    queries = rays()
    assert queries.coordinates is not None
    missed = built.render(state, dataclasses.replace(queries, coordinates=queries.coordinates + 3))
    assert (missed.color == 1).all() and (missed.opacity == 0).all()
    seen = built.render(state, queries)
    assert (seen.opacity > 0.01).all() and (seen.color < 1).any()


@pytest.mark.parametrize("seeds", [None, SEEDS], ids=["evaluation", "training"])
@pytest.mark.parametrize("chunk_points", [1, 50])
def test_the_view_does_not_depend_on_the_chunks(chunk_points: int, seeds: Tensor | None) -> None:
    whole = readout()
    parts = readout(chunk_points=chunk_points)
    expected = whole.query(fields(), rays(), seeds=seeds)
    torch.testing.assert_close(parts.query(fields(), rays(), seeds=seeds), expected, atol=1e-5, rtol=0)
    assert expected.std() > 1e-3


def test_depths_are_a_function_of_the_sets_seed_and_without_seeds_nothing_is_random() -> None:
    built = readout()
    one = built.query(fields(), rays(), seeds=SEEDS)
    assert torch.equal(built.query(fields(), rays(), seeds=SEEDS), one)
    other = built.query(fields(), rays(), seeds=torch.tensor([11, 13]))
    torch.testing.assert_close(other[0], one[0], atol=1e-6, rtol=0)
    assert (other[1] - one[1]).abs().max() > 1e-4
    assert torch.equal(built.query(fields(), rays()), built.query(fields(), rays()))


def test_the_second_pass_finds_a_thin_surface_that_the_first_one_smears() -> None:
    """A slab of a tenth of the cube: its depth, by few points in two passes, is close to that by many points."""

    class Slab(torch.nn.Module):
        def forward(self, point: Tensor, fields: Any) -> Tensor:
            edge = 1 - (point[..., 2:3] - 0.25).abs() / 0.1
            return torch.cat([40 * edge.clamp(-1, 1), torch.zeros(*point.shape[:2], 15)], -1)

    errors = []
    for samples, fine in ((2000, 0), (24, 0), (14, 10)):
        built = readout(eval_samples=samples, fine_samples=fine, direction_frequencies=None)
        built.add_module("mlp", Slab())
        with torch.no_grad():
            built.density.weight.zero_()[0, 0] = 1
            built.density.bias.zero_()
        seen = built.render(fields(), rays())
        errors.append(seen.depth / seen.opacity)
    one, two = ((each - errors[0]).abs().mean() for each in errors[1:])
    assert two < 0.5 * one


def test_near_and_far_outside_the_cube_change_nothing() -> None:
    queries = rays()
    for limits in ({"near": 0.1}, {"far": 30.0}, {"near": 0.1, "far": 30.0}):
        for seeds in (None, SEEDS):
            expected = readout().query(fields(), queries, seeds=seeds)
            assert torch.equal(readout(**limits).query(fields(), queries, seeds=seeds), expected)
    inside = readout(near=1.1, far=1.5).query(fields(), queries)
    assert (inside - readout().query(fields(), queries)).abs().max() > 0.05


@pytest.mark.parametrize("fine_samples", [0, 4])
@pytest.mark.parametrize("seeds", [None, SEEDS], ids=["evaluation", "training"])
def test_what_is_before_near_or_beyond_far_is_never_seen(
    seeds: Tensor | None, fine_samples: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A black fog outside two depths leaves white, one between them black."""
    built, queries = readout(near=1.0, far=1.4, fine_samples=fine_samples), rays()
    assert queries.coordinates is not None
    origins = queries.coordinates * torch.tensor([1.0, 1.0, 0.0]) - torch.tensor([0, 0, 1.3])
    for is_outside, expected in ((True, 1.0), (False, -1.0)):

        def fog(_state: Any, points: Tensor, _along: Tensor, is_outside: bool = is_outside) -> tuple[Tensor, Tensor]:
            from_middle = (points[..., 2] + 1.3 - 1.2).abs()
            is_foggy = (from_middle > 0.2 + 1e-6) == is_outside
            return 1e6 * is_foggy.float(), torch.zeros_like(points)

        monkeypatch.setattr(built, "_medium", fog)
        color = built.query(fields(), dataclasses.replace(queries, coordinates=origins), seeds=seeds)
        assert (color == expected).all()


@pytest.mark.parametrize("seeds", [None, SEEDS], ids=["evaluation", "training"])
def test_rays_that_are_nowhere_between_near_and_far_are_white_with_finite_gradients(seeds: Tensor | None) -> None:
    """They leave the cube before `near`, as from inside it, enter it beyond `far`, or miss it."""
    queries = rays()
    assert queries.coordinates is not None
    inside = queries.coordinates + torch.tensor([0, 0, 1.3])
    for limits, origins in (
        ({"near": 3.0, "far": 4.0}, inside),
        ({"near": 2.6}, queries.coordinates),
        ({"far": 0.3}, queries.coordinates),
        ({"near": 0.1, "far": 4.0}, queries.coordinates + 3),
    ):
        built, state = readout(**limits), tuple(field.requires_grad_() for field in fields())
        seen = built.render(state, dataclasses.replace(queries, coordinates=origins), seeds=seeds)
        assert (seen.color == 1).all() and (seen.opacity == 0).all()
        seen.color.sum().backward()
        assert all(field.grad is not None and field.grad.isfinite().all() for field in state)


def test_recomputed_activations_give_the_same_gradients() -> None:
    results = []
    for checkpoint_activations in (False, True):
        built = readout(chunk_points=40, checkpoint_activations=checkpoint_activations)
        state = tuple(field.requires_grad_() for field in fields())
        color = built.query(state, rays(), seeds=SEEDS)
        (color * torch.linspace(-1, 1, color.numel()).view_as(color)).sum().backward()
        results.append([*(field.grad for field in state), *(weight.grad for weight in built.parameters())])
    assert all(each is not None and each.abs().max() > 0 for each in results[0])
    torch.testing.assert_close(*results, atol=1e-6, rtol=1e-5)


def test_the_color_depends_on_the_direction_only_where_it_is_read() -> None:
    queries = rays()
    assert queries.coordinates is not None and queries.directions is not None
    point = queries.coordinates + 1.3 * queries.directions
    for count, differs in ((None, False), (1, True)):
        built = readout(direction_frequencies=count, fine_samples=0)
        _, one = built._medium(fields(), point, queries.directions)
        _, other = built._medium(fields(), point, -queries.directions)
        assert ((one - other).abs().max() > 1e-3) == differs


def test_what_does_not_fit_is_refused() -> None:
    for spec in (SetSpec(2, 3, Grid((8, 8))), SetSpec(3, 1, Points(64, has_coordinates=True))):
        with pytest.raises(UsageError, match="`basis-radiance` answers rays with colors"):
            basis_radiance.build_field_readout(SMALL, spec, (6,))
    with pytest.raises(UsageError, match="reads points of shapes or of the surfaces of scenes"):
        triplane_autoencoder.build_autoencoder(triplane_autoencoder.Config(), SetSpec(3, 3, Rays(1, 8, 8)))
    for changes, message in (
        ({"fine_samples": -1}, "`fine_samples` is -1: from 0 to 16,384"),
        ({"num_frequencies": 21}, "`num_frequencies` is 21: from 0 to 20"),
        ({"near": 1.8, "far": 0.8}, "`near` and `far` are 1.8 and 0.8: from 0, `near` below `far`"),
        ({"near": -0.1}, "`near` and `far` are -0.1 and None: from 0"),
        ({"far": 0.0}, "`near` and `far` are None and 0.0: from 0"),
        ({"far": math.inf}, "`near` and `far` are None and inf: from 0"),
        ({"near": math.nan}, "`near` and `far` are nan and None: from 0"),
        ({"mlp": "skips", "extra_depth": 2}, "`extra_depth` is set, and `mlp` is skips"),
    ):
        with pytest.raises(ValueError, match=re.escape(message)):
            dataclasses.replace(SMALL, **changes)
