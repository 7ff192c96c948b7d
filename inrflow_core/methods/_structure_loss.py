"""Additions to the flow's loss for structures, by SimpleFold (arXiv:2509.18480); they are not in the paper of INRFlow.

Facts are from its authors' release, where t = 1 is data. Positions are in the network's scale.
"""

from __future__ import annotations

from dataclasses import replace

import torch
from jaxtyping import Bool, Float
from torch import Tensor

from inrflow_core.errors import UsageError
from inrflow_core.geometry import rigid_motion
from inrflow_core.methods._flow_config import Config
from inrflow_core.numerics import keyed_random, paths
from inrflow_core.numerics.paths import Path
from inrflow_core.sets import CoordValueSet, SetSpec

COPY_KEY = 0x636F7079
"""Derives the seeds of copies from the set's own seed."""
RAMP_TIME = 0.5
"""The time below which `smooth_lddt_ramp` raises the weight."""


def check(config: Config, shape: SetSpec) -> None:
    """Raise UsageError if settings for structures are used with values that are not positions in space.

    Raises:
        UsageError: `align` or `smooth_lddt` is set, and the domain's values are not positions.
    """
    is_used = {"align": config.align != "none", "smooth_lddt": config.smooth_lddt > 0}
    names = [f"`{name}`" for name, is_set in is_used.items() if is_set]
    if names and shape.unit is None:
        raise UsageError(
            f"[method] {' and '.join(names)}: the values of this domain are not positions in space",
            hint="leave it out, or choose `domain.name=protein`",
        )


def repeat_with_new_noise(sets: CoordValueSet, copies: int) -> CoordValueSet:
    """Each set `copies` times in a row; the first with its own seed, the others with seeds derived from it."""
    index = torch.arange(len(sets), device=sets.seeds.device).repeat_interleave(copies)
    derived = [keyed_random.derive_seeds(COPY_KEY, copy, sets.seeds) for copy in range(1, copies)]
    repeated, sizes = sets[index], sets.queries.valid_sizes
    if sizes is not None:
        sizes = tuple(size for size in sizes for _ in range(copies))
    queries = replace(repeated.queries, valid_sizes=sizes)
    return replace(repeated, queries=queries, seeds=torch.stack([sets.seeds, *derived], 1).flatten())


def aligned_velocity_target(
    path: Path,
    output: Float[Tensor, "B M 3"],
    target: Float[Tensor, "B M 3"],
    y: Float[Tensor, "B M 3"],
    t: Float[Tensor, " B"],
    mask: Bool[Tensor, "B M"] | None,
) -> Float[Tensor, "B M 3"]:
    """The velocity from the same noise to the data, which are superposed on the predicted data.

    `output` and `target` are the predicted and the true velocity at (y, t). The superposition has no gradient.
    """
    data, eps = paths.recover_data_and_noise(path, target, y, t)
    predicted, _ = paths.recover_data_and_noise(path, output, y, t)
    return paths.interpolate(path, rigid_motion.kabsch_align(data, predicted, mask), eps, t)[1]


def smooth_lddt_loss(
    path: Path,
    output: Float[Tensor, "B M 3"],
    target: Float[Tensor, "B M 3"],
    y: Float[Tensor, "B M 3"],
    t: Float[Tensor, " B"],
    mask: Bool[Tensor, "B M"] | None,
    unit: float,
) -> Float[Tensor, " B"]:
    """1 - smooth lDDT of the data that `output` predicts: 0.196 if all distances are right, at most 1."""
    data, predicted = (paths.recover_data_and_noise(path, velocity, y, t)[0] for velocity in (target, output))
    return 1 - rigid_motion.smooth_lddt(predicted, data, mask, unit=unit)


def smooth_lddt_weight(config: Config, t: Float[Tensor, " B"]) -> Float[Tensor, " B"]:
    """The weight of `smooth_lddt_loss` at time t."""
    return config.smooth_lddt * (1 + config.smooth_lddt_ramp * (RAMP_TIME - t).clamp(min=0))
