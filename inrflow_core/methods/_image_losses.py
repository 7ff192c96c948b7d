"""Losses of the autoencoder that need whole images: of an adversary, and a perceptual distance.

Source: latent diffusion (Rombach et al. 2022, arXiv:2112.10752) and VQGAN (Esser et al. 2021, arXiv:2012.09841): LPIPS beside the mean
error (`feature_networks/lpips.py`), and the hinge loss of a patch discriminator, weighted by a ratio of gradients. DDMI's release has
sums and no ratio, so that neither counts for much beside its sum of errors (docs/ddmi.md).
"""

from __future__ import annotations

import math
from typing import Any

import torch
from jaxtyping import Float
from torch import Tensor
from torch.nn import functional

from inrflow_core.errors import UsageError
from inrflow_core.sets import Grid, Queries, SetSpec

MOST_WEIGHT, SMALL = 1e4, 1e-4
"""The largest ratio of gradients, and what is added to its denominator."""
REMEDIES = {"adversarial": "take a lower `discriminator_depth`", "perceptual": "raise `domain.resolution`"}
"""What makes images large enough for a setting."""
COLORS = (1, 3)
"""Channels of the images that LPIPS compares; gray is three equal ones."""


def as_images(
    queries: Queries, values: Float[Tensor, "B M C"], least_side: int, setting: str = "adversarial"
) -> Float[Tensor, "B C R R"]:
    """Values at the pixels of square images, listed row by row, as these images.

    Raises:
        UsageError: the queries are no square grid, or it is smaller than `least_side`; names the setting that needs it.
    """
    side = math.isqrt(len(queries))
    if queries.cell_sizes is None or side * side != len(queries):
        raise UsageError(
            f"`{setting}` of [method] compares images, and {len(queries):,} queries of these sets are none",
            hint="leave it out",
        )
    if side < least_side:
        raise UsageError(
            f"`{setting}` of [method] needs images of {least_side} pixels along a side, and these have {side}",
            hint=f"leave it out, {REMEDIES[setting]}, or take larger crops by a higher lowest scale in `domain.scales`",
        )
    return values.mT.unflatten(2, (side, side))


def logits(
    discriminator: Any, spec: SetSpec, queries: Queries, values: Float[Tensor, "B M C"]
) -> Float[Tensor, "B h w"]:
    """The patches' logits of each image; beside the colors the discriminator sees the logarithm of the cell size in units of the
    training grid's."""
    images = as_images(queries, values, discriminator.least_side)
    assert isinstance(spec.layout, Grid) and queries.cell_sizes is not None
    return discriminator(images, (queries.cell_sizes * (min(spec.layout.shape) / 2)).log()).float()


def check_adversary(spec: SetSpec) -> None:
    """Raise UsageError unless the sets are images."""
    if not isinstance(spec.layout, Grid) or len(spec.layout.shape) != 2:
        raise UsageError(
            f"`adversarial` of [method] compares images, and these sets are {spec.layout}", hint="leave it out"
        )


def check_perceptual(spec: SetSpec, least_side: int) -> None:
    """Raise UsageError unless the sets are gray or RGB images of `least_side` pixels a side or more."""
    if not isinstance(spec.layout, Grid) or len(spec.layout.shape) != 2 or spec.brightest is None:
        raise UsageError(
            f"`perceptual` of [method] compares images, and these sets are {spec.layout}", hint="leave it out"
        )
    if spec.value_size not in COLORS:
        raise UsageError(
            f"`perceptual` of [method] compares gray or RGB images, and these have {spec.value_size} channels",
            hint="leave it out, or set `domain.channels` to 1 or 3",
        )
    if min(spec.layout.shape) < least_side:
        raise UsageError(
            f"`perceptual` of [method] needs images of {least_side} pixels along a side, and these have "
            f"{min(spec.layout.shape)}",
            hint=f"leave it out, or {REMEDIES['perceptual']}",
        )


def perceptual_distance(
    network: Any, spec: SetSpec, queries: Queries, made: Float[Tensor, "B M C"], values: Float[Tensor, "B M C"]
) -> Float[Tensor, " B"]:
    """LPIPS of each decoded image to the data's, in fp32 whatever the precision of the run.

    Raises:
        UsageError: see `as_images`; crops may be smaller than the training images.
    """
    assert spec.brightest is not None
    with torch.autocast(made.device.type, enabled=False):
        colors = [
            as_images(queries, each.float() / spec.brightest, network.least_side, "perceptual").expand(-1, 3, -1, -1)
            for each in (made, values)
        ]
        return network(*colors)


def hinge_loss(real: Float[Tensor, "B h w"], made: Float[Tensor, "B h w"]) -> Float[Tensor, " B"]:
    """The discriminator's loss of each image, from the logits of real and of decoded patches."""
    return (functional.relu(1 - real) + functional.relu(1 + made)).mean((1, 2)) / 2


def adaptive_weight(error: Float[Tensor, ""], adversarial: Float[Tensor, ""], last: Tensor) -> Float[Tensor, ""]:
    """The weight at which both losses have gradients of one length in the weights `last` (VQGAN, equation 7); a constant."""
    of_error, of_adversary = (torch.autograd.grad(loss, last, retain_graph=True)[0] for loss in (error, adversarial))
    return (of_error.norm() / (of_adversary.norm() + SMALL)).clamp(0, MOST_WEIGHT).detach()
