"""Attention and its block against what the papers write."""

from __future__ import annotations

import torch
from torch import Tensor
from torch.nn import functional

from inrflow_core.layers.attention import Block, CrossAttention, SelfAttention

WIDTH, HEADS, SIZE = 24, 3, 8


def written_out(q: Tensor, k: Tensor, v: Tensor, gains: Tensor, out: torch.nn.Linear) -> Tensor:
    """softmax(q k / sqrt(d)) v of projected tokens, queries and keys at unit root mean square times their gain."""
    q, k, v = (x.unflatten(-1, (HEADS, SIZE)).transpose(1, 2) for x in (q, k, v))
    q, k = (functional.rms_norm(x, (SIZE,), gain, 1e-6) for x, gain in zip((q, k), gains, strict=True))
    weights = (q @ k.transpose(2, 3) / SIZE**0.5).softmax(-1)
    return out((weights @ v).transpose(1, 2).flatten(2))


def modulated(x: Tensor, shift: Tensor, scale: Tensor) -> Tensor:
    return functional.layer_norm(x, (WIDTH,), eps=1e-6) * (1 + scale) + shift


def test_self_attention_is_what_is_written() -> None:
    torch.manual_seed(0)
    attention = SelfAttention(WIDTH, HEADS)
    torch.nn.init.normal_(attention.gains)
    x, shift, scale = torch.randn(2, 7, WIDTH), torch.randn(2, 1, WIDTH), torch.randn(2, 1, WIDTH)
    q, k, v = functional.linear(modulated(x, shift, scale), attention.qkv.weight).chunk(3, -1)
    expected = written_out(q, k, v, attention.gains, attention.out)
    torch.testing.assert_close(attention(x, shift, scale, None), expected, atol=1e-5, rtol=1e-5)


def test_cross_attention_is_what_is_written() -> None:
    torch.manual_seed(0)
    attention = CrossAttention(WIDTH, HEADS, source_width=10)
    torch.nn.init.normal_(attention.gains)
    x, source = torch.randn(2, 7, WIDTH), torch.randn(2, 11, 10)
    shift, scale = torch.randn(2, 1, WIDTH), torch.randn(2, 1, WIDTH)
    q = functional.linear(modulated(x, shift, scale), attention.query.weight)
    expected = written_out(q, attention.key(source), attention.value(source), attention.gains, attention.out)
    result = attention(x, shift, scale, attention.project_kv(source))
    torch.testing.assert_close(result, expected, atol=1e-5, rtol=1e-5)
    (ours,), (theirs,) = (torch.autograd.grad(y.square().sum(), [attention.gains]) for y in (result, expected))
    torch.testing.assert_close(ours, theirs, atol=1e-3, rtol=1e-4)


def test_a_block_gates_its_attention_and_its_mlp() -> None:
    torch.manual_seed(0)
    block = Block(WIDTH, HEADS, 2.0, condition_width=WIDTH)
    x, modulation = torch.randn(2, 7, WIDTH), block.modulate(torch.randn(2, WIDTH))
    shift, scale, gate, shift_mlp, scale_mlp, gate_mlp = modulation
    middle = x + gate * block.attention(x, shift, scale, None)
    hidden = functional.linear(modulated(middle, shift_mlp, scale_mlp), block.inner.weight, block.inner.bias)
    outer = functional.linear(functional.gelu(hidden, approximate="tanh"), block.outer.weight, block.outer.bias)
    torch.testing.assert_close(block(x, modulation, None), middle + gate_mlp * outer, atol=1e-5, rtol=1e-5)
