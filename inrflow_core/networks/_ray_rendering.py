"""What read-outs that render radiance fields share: the points of rays, chunks of rays, and one or two passes along them."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import torch
from jaxtyping import Float, Int64
from torch import Tensor
from torch.utils.checkpoint import checkpoint

from inrflow_core.geometry import volume_rendering
from inrflow_core.geometry.volume_rendering import Rendered
from inrflow_core.layers.activations import to_fp32
from inrflow_core.networks._contract import ReadoutState
from inrflow_core.numerics import keyed_random
from inrflow_core.sets import Queries

MOST_SAMPLES = 16_384
"""Points of a ray; 128 are usual."""
Medium = Callable[[Tensor, Tensor], tuple[Tensor, Tensor]]
"""Density (B P) and color (B P 3) at points (B P 3), seen along directions (B P 3)."""
Depths = Callable[[Tensor, Tensor, Tensor], Tensor]
"""Ascending depths (B M S) of rays, from their origins and directions (B M 3), each moved on by a share of its step in [0, 1)
(B M S). A ray whose depths are equal is white."""


@dataclass(frozen=True)
class RaySettings:
    """How rays are rendered."""

    samples: int = 64
    """Points of a ray in training, at random depths."""
    eval_samples: int = 128
    """Points of a ray where nothing is random."""
    chunk_points: int = 1 << 18
    """Points that are evaluated at once, over all sets: 256 MiB for a hidden layer of width 256. The values do not depend
    on it, but for rounding."""
    checkpoint_activations: bool = False
    """Recompute the activations of each chunk of rays in the backward pass instead of saving them."""

    def __post_init__(self) -> None:
        if self.chunk_points < 1:
            raise ValueError(f"`chunk_points` is {self.chunk_points}: at least 1")
        for name in ("samples", "eval_samples"):
            if not 2 <= getattr(self, name) <= MOST_SAMPLES:
                limit = "at least 2" if getattr(self, name) < 2 else f"at most {MOST_SAMPLES:,}"
                raise ValueError(f"`{name}` is {getattr(self, name):,}: {limit}")


def render(
    settings: RaySettings,
    medium: Medium,
    depths: Depths,
    queries: Queries,
    state: ReadoutState,
    seeds: Int64[Tensor, " B"] | None,
    *,
    fine_samples: int = 0,
) -> Rendered:
    """What the rays of B sets see, chunk by chunk, in fp32.

    With seeds, `samples` depths of each ray are drawn, keyed by the set's seed, the ray's position among the queries and the
    sample; without, there are `eval_samples` at equal steps.

    Args:
        state: of the sets, whose number is taken.
        fine_samples: further depths of each ray, drawn alike by what the first ones absorb; all are rendered together. 0: one pass.
    """
    assert queries.coordinates is not None and queries.directions is not None, "rays have an origin and a direction"
    samples = settings.eval_samples if seeds is None else settings.samples
    num_sets = state[0].shape[0]
    origins, directions = (
        to_fp32(vectors).expand(num_sets, -1, -1) for vectors in (queries.coordinates, queries.directions)
    )
    inputs = [origins, directions, _jitter(origins, samples, seeds, "depths")]
    if fine_samples:
        inputs.append(_jitter(origins, fine_samples, seeds, "fine depths", at_rest=0.5))

    def passes(*parts: Tensor) -> Rendered:
        with torch.autocast(origins.device.type, enabled=False):
            return _render(medium, depths, *parts)

    if torch.compiler.is_exporting():  # a graph takes any number of rays at once: whoever runs it chooses the chunks
        return passes(*inputs)
    chunks: list[Rendered] = []
    rays = max(1, settings.chunk_points // (num_sets * (samples + fine_samples)))
    for start in range(0, max(1, origins.shape[1]), rays):
        parts = [one[:, start : start + rays] for one in inputs]
        if settings.checkpoint_activations and torch.is_grad_enabled():
            chunks.append(checkpoint(passes, *parts, use_reentrant=False, preserve_rng_state=False))
        else:
            chunks.append(passes(*parts))
    return Rendered(*(torch.cat(parts, dim=1) for parts in zip(*chunks, strict=True)))


def _render(
    medium: Medium,
    depths: Depths,
    origins: Float[Tensor, "B M 3"],
    directions: Float[Tensor, "B M 3"],
    jitter: Float[Tensor, "B M S"],
    fine_jitter: Float[Tensor, "B M F"] | None = None,
) -> Rendered:
    """A chunk of rays, in one pass or two."""
    at = depths(origins, directions, jitter)
    density, color = _look(medium, origins, directions, at)
    if fine_jitter is not None:
        weights = volume_rendering.absorbed(density.detach(), at, directions)
        count = fine_jitter.shape[-1]
        u = (torch.arange(count, dtype=at.dtype, device=at.device) + fine_jitter) / count
        fine = volume_rendering.depths_of_absorption(at, weights, u)
        fine_density, fine_color = _look(medium, origins, directions, fine)
        at, order = torch.cat([at, fine], -1).sort(-1)
        density = torch.cat([density, fine_density], -1).gather(-1, order)
        color = torch.cat([color, fine_color], -2).gather(-2, order[..., None].expand(*order.shape, 3))
    return volume_rendering.composite(density, color, at, directions)


def _look(
    medium: Medium, origins: Float[Tensor, "B M 3"], directions: Float[Tensor, "B M 3"], at: Float[Tensor, "B M S"]
) -> tuple[Float[Tensor, "B M S"], Float[Tensor, "B M S 3"]]:
    """Density and color at depths of rays."""
    points = volume_rendering.points_on_rays(origins, directions, at)
    along = directions[:, :, None].expand_as(points)
    density, color = medium(points.flatten(1, 2), along.flatten(1, 2))
    return density.reshape(at.shape), color.reshape(points.shape)


def _jitter(
    origins: Float[Tensor, "B M 3"],
    samples: int,
    seeds: Int64[Tensor, " B"] | None,
    purpose: str,
    at_rest: float = 0.0,
) -> Float[Tensor, "B M {samples}"]:
    """Uniform numbers in [0, 1), or without seeds `at_rest`."""
    sets, rays, _ = origins.shape
    if seeds is None:
        return origins.new_full((), at_rest).expand(sets, rays, samples)
    drawn = keyed_random.uniform(seeds, purpose=purpose, count=rays * samples)
    return drawn.to(origins.dtype).reshape(sets, rays, samples)
