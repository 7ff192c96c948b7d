"""FLOPs of what torch runs: matrix products, convolutions and attention; a multiply-add is two.

The formulas are those of `torch.utils.flop_counter`, which lacks the attention of a CPU.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

import torch
from torch.utils.flop_counter import (
    FlopCounterMode,
    flop_registry,
    sdpa_backward_flop_count,
    sdpa_flop_count,
    shape_wrapper,
)

aten = torch.ops.aten


def _attention(q: Any, k: Any, v: Any, *_: Any, **__: Any) -> int:
    return sdpa_flop_count(q, k, v)


def _attention_backward(gradient: Any, q: Any, k: Any, v: Any, *_: Any, **__: Any) -> int:
    return sdpa_backward_flop_count(gradient, q, k, v)


CPU_ATTENTION: Mapping[Any, Callable[..., int]] = {
    aten._scaled_dot_product_flash_attention_for_cpu: _attention,
    aten._scaled_dot_product_flash_attention_for_cpu_backward: _attention_backward,
}
"""Formulas from the shapes of the arguments."""
FORMULAS: Mapping[Any, Callable[..., int]] = {
    **{packet: shape_wrapper(formula) for packet, formula in CPU_ATTENTION.items()},
    **flop_registry,
}
"""Formulas from the arguments and, as `out_val`, the result."""


def of_operation(function: Any, args: Any, kwargs: Mapping[str, Any], result: Any) -> float:
    """FLOPs of one call of an aten function; 0 for a function without a formula."""
    formula = FORMULAS.get(function._overloadpacket)
    return 0.0 if formula is None else float(formula(*args, **kwargs, out_val=result))


def counter() -> FlopCounterMode:
    """Torch's own counter with the attention of a CPU added; `get_total_flops()` gives the sum after its block."""
    missing = {packet: formula for packet, formula in CPU_ATTENTION.items() if packet not in flop_registry}
    return FlopCounterMode(display=False, custom_mapping=missing)
