"""Losses of the first stage of latent diffusion: of decoded values, and of the Gaussians of latents.

Source: DDMI, arXiv:2401.12517, equation 9.
"""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from typing import NamedTuple

from jaxtyping import Float
from torch import Tensor
from torch.nn import functional

from inrflow_core.errors import UsageError
from inrflow_core.methods._latent_config import Config
from inrflow_core.methods._training_queries import random_subset, select_pairs
from inrflow_core.sets import CoordValueSet, Queries, SetSpec


class Latents(NamedTuple):
    """The Gaussians of the latents of B sets."""

    mean: Float[Tensor, "B K E"]
    std: Float[Tensor, "B K E"]


def training_pairs(config: Config, sets: CoordValueSet) -> tuple[Queries, Float[Tensor, "B M C"]]:
    """The queries that the decoder learns, and their values: all of a set, or `num_queries` drawn by its seed."""
    if config.num_queries is None or config.num_queries >= len(sets.queries):
        return sets.queries, sets.values
    return select_pairs(sets.queries, random_subset(sets, config.num_queries), sets.values)


def error_of_values(config: Config, spec: SetSpec) -> Callable[[Tensor, Tensor], Tensor]:
    """The error of each decoded value against the data's.

    Raises:
        UsageError: one that these values do not have.
    """
    name = config.reconstruction
    if spec.is_probability != (name == "cross-entropy") and name is not None:
        values = "occupancies" if spec.is_probability else "no occupancies"
        raise UsageError(
            f'`method.reconstruction = "{name}"`, and the values of the sets are {values}', hint="leave the setting out"
        )
    if spec.is_probability:
        return partial(functional.binary_cross_entropy_with_logits, reduction="none")
    return partial(functional.mse_loss if name == "l2" else functional.l1_loss, reduction="none")


def total(
    config: Config, error: Float[Tensor, " B"], latents: Latents, weight: float, num_values: int
) -> Float[Tensor, " B"]:
    """The loss of each set, of its mean error and the divergence of its latents with a weight.

    With `reduction = "sum"` it is `num_values` times that error and `weight` times the sum of the divergence: `num_values` times
    the loss by means whose weight is (latents of a set) / (values of a set) times this one.
    """
    spread = divergence(latents.mean, latents.std)
    if config.reduction == "sum":
        return num_values * error + weight * spread.sum((1, 2))
    return error + weight * spread.mean((1, 2))


def divergence(mean: Float[Tensor, "B K E"], std: Float[Tensor, "B K E"]) -> Float[Tensor, "B K E"]:
    """Kullback-Leibler divergence of each latent's Gaussian from the standard normal, in nats."""
    return (mean.square() + std.square() - 1) / 2 - std.log()
