"""The weights that each optimizer of a stage updates; all others are frozen, such as a teacher's or another stage's.

Training builds optimizers and averages from them, and planning counts their memory.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from torch import nn

from inrflow_core.errors import UsageError
from inrflow_core.methods._contract import Stage

MIN_SIDE = 32
"""Rows and columns of a hidden matrix, at least."""
CONDITION_LAYERS = ("modulation", "embedding")
"""The names in blocks of layers that read one vector per set, such as the embedded time: the gradient of a batch has no higher
rank than it has sets, and an orthogonal update raises what is noise in it."""


def weights_by_optimizer(method: Any, stage: Stage) -> dict[str, dict[str, nn.Parameter]]:
    """The weights that each optimizer of a stage updates, by name, in the method's order.

    Weights that were frozen when the method was built stay frozen (see `mark_trainable`).
    """
    networks = method.networks()
    inside = {id(p) for network in networks.values() for p in network.parameters()}
    by_optimizer: dict[str, dict[str, nn.Parameter]] = {}
    for optimizer, names in stage.optimizers.items():
        absent = set(names) - set(networks)
        assert not absent, f"the stage `{stage.name}` trains {sorted(absent)}, which `networks()` lacks"
        updated = {id(p) for name in names for p in networks[name].parameters()}
        is_first = not by_optimizer
        by_optimizer[optimizer] = {
            name: p
            for name, p in method.named_parameters()
            if getattr(p, "is_trainable", p.requires_grad) and (id(p) in updated or (is_first and id(p) not in inside))
        }
        assert by_optimizer[optimizer], f"the optimizer `{optimizer}` of the stage `{stage.name}` has nothing to update"
    names = [name for weights in by_optimizer.values() for name in weights]
    assert len(names) == len(set(names)), f"two optimizers of the stage `{stage.name}` update the same weights"
    return by_optimizer


def hidden_matrices(method: nn.Module, weights: Mapping[str, nn.Parameter]) -> list[str]:
    """The names of those weights that Muon updates by orthogonal matrices: layers of repeated blocks that read tokens or cells.

    They are the weights of `nn.Linear` layers inside the modules of an `nn.ModuleList`, such as a transformer's blocks, whose smaller
    side is at least `MIN_SIDE`, without `CONDITION_LAYERS`; layers that are such a list themselves are no blocks. AdamW updates all others: biases, gains, tables, learned tokens, convolution
    kernels, and the layers before and after the blocks. docs/training.md has losses with other rules.
    """
    linear = {
        id(layer.weight)
        for block in method.modules()
        if isinstance(block, nn.ModuleList)
        for name, layer in block.named_modules()
        if isinstance(layer, nn.Linear) and "." in name and name.rpartition(".")[2] not in CONDITION_LAYERS
    }
    return [name for name, weight in weights.items() if id(weight) in linear and min(weight.shape) >= MIN_SIDE]


def why_weights_stay_whole(method: Any, stage: Stage) -> str | None:
    """Why ZeRO stage 3, which shares out the weights, cannot train a stage of a method; None if it can."""
    if len(method.STAGES) > 1 or len(stage.optimizers) > 1:
        return "ZeRO stage 3 trains methods of one stage and one optimizer alone"
    if not method.CAN_SHARD_WEIGHTS:
        return "ZeRO stage 3 shares out the weights, and this method needs them whole inside its gradient"
    return None


def check_zero_stage(method: Any, stage: Stage, zero_stage: int) -> None:
    """Refuse a ZeRO stage that cannot train a stage of a method.

    Raises:
        UsageError: ZeRO stage 3 with several optimizers or stages, or with a loss that needs whole weights.
    """
    reason = why_weights_stay_whole(method, stage) if zero_stage == 3 else None
    if reason is not None:
        raise UsageError(reason, hint="take stage 2: `--set training.zero_stage=2`")


def mark_trainable(method: nn.Module) -> None:
    """Mark each weight that a stage may train; call it before a stage freezes the weights of others."""
    for weight in method.parameters():
        setattr(weight, "is_trainable", weight.requires_grad)  # noqa: B010, pyright knows no such attribute
