"""Functions that are computed again in the backward pass give the values and gradients of plain autograd."""

from __future__ import annotations

from collections.abc import Callable

import pytest
import torch
from torch import Tensor
from torch.nn import functional

from inrflow_core.layers import activations, recompute
from inrflow_core.layers.rope import apply_rope, normed_heads, rotary


def same_values_and_gradients(ours: Callable[..., Tensor], plain: Callable[..., Tensor], *inputs: Tensor) -> None:
    result = []
    for function in (ours, plain):
        leaves = [x.detach().clone().requires_grad_() for x in inputs]
        output = function(*leaves)
        result.append(
            (
                output,
                torch.autograd.grad((output * torch.linspace(-1, 2, output.numel()).view_as(output)).sum(), leaves),
            )
        )
    torch.testing.assert_close(result[0], result[1], atol=3e-5, rtol=1e-4)


@pytest.mark.parametrize("part_bytes", [1 << 30, 3 * 4 * 24, 10 * 4 * 24], ids=["whole", "rows", "sets"])
def test_a_modulated_linear_layer(part_bytes: int, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(recompute, "PART_BYTES", part_bytes)
    monkeypatch.setattr(recompute, "SPLIT_BYTES", part_bytes)
    torch.manual_seed(0)

    def ours(x: Tensor, shift: Tensor, scale: Tensor, weight: Tensor, bias: Tensor) -> Tensor:
        return recompute.linear_of(activations.MODULATE, x, shift, scale, weight=weight, bias=bias)

    def plain(x: Tensor, shift: Tensor, scale: Tensor, weight: Tensor, bias: Tensor) -> Tensor:
        return functional.linear(functional.layer_norm(x, (24,), eps=1e-6) * (1 + scale) + shift, weight, bias)

    for rows in (5, 1):
        inputs = (torch.randn(3, rows, 24), torch.randn(3, 1, 24), torch.randn(3, 1, 24))
        same_values_and_gradients(ours, plain, *inputs, torch.randn(10, 24), torch.randn(10))


@pytest.mark.parametrize("run_bytes", [1 << 19, 4 * 24 * 2], ids=["one run", "many runs"])
@pytest.mark.parametrize("part_bytes", [1 << 30, 3 * 4 * 24], ids=["whole", "rows"])
def test_a_linear_layer_behind_a_gelu(run_bytes: int, part_bytes: int, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(activations, "RUN_BYTES", run_bytes)
    monkeypatch.setattr(recompute, "PART_BYTES", part_bytes)
    monkeypatch.setattr(recompute, "SPLIT_BYTES", part_bytes)
    torch.manual_seed(0)

    def ours(x: Tensor, weight: Tensor, bias: Tensor) -> Tensor:
        return recompute.linear_of(activations.GELU, x, weight=weight, bias=bias)

    def plain(x: Tensor, weight: Tensor, bias: Tensor) -> Tensor:
        return functional.linear(functional.gelu(x, approximate="tanh"), weight, bias)

    same_values_and_gradients(ours, plain, 3 * torch.randn(2, 5, 24), torch.randn(10, 24), torch.randn(10))


def test_a_gelu_far_from_zero() -> None:
    x = torch.tensor([[[-1e4, -20.0, -6.0, 0.0, 6.0, 20.0, 1e4]]])
    weight = torch.eye(7)
    x.requires_grad_()
    result = recompute.linear_of(activations.GELU, x, weight=weight, bias=None)
    (slope,) = torch.autograd.grad(result.sum(), x)
    expected = functional.gelu(x, approximate="tanh")
    torch.testing.assert_close(result, expected, atol=1e-6, rtol=1e-6)
    torch.testing.assert_close(slope, torch.autograd.grad(expected.sum(), x)[0], atol=1e-6, rtol=1e-6)


@pytest.mark.parametrize("is_turned", [False, True])
def test_normed_heads(is_turned: bool) -> None:
    torch.manual_seed(0)
    turns = rotary(torch.rand(5, 2) * 4, 8) if is_turned else None

    def ours(qkv: Tensor, gains: Tensor) -> Tensor:
        return torch.stack(normed_heads(qkv, gains, turns), 2)

    def plain(qkv: Tensor, gains: Tensor) -> Tensor:
        q, k = (functional.rms_norm(qkv[:, :, i], (8,), gains[i], 1e-6) for i in range(2))
        if turns is not None:
            q, k = (apply_rope(x, turns[:, :, None]) for x in (q, k))
        return torch.stack([q, k, qkv[:, :, 2]], 2)

    same_values_and_gradients(ours, plain, torch.randn(2, 5, 3, 4, 8), torch.randn(2, 8))


def test_vectors_at_unit_size() -> None:
    torch.manual_seed(0)
    same_values_and_gradients(
        activations.rms_norm, lambda x: functional.rms_norm(x, (8,), None, 1e-6), torch.randn(2, 5, 4, 8)
    )


def test_a_silu_behind_a_norm() -> None:
    torch.manual_seed(0)

    def plain(x: Tensor, gain: Tensor, shift: Tensor) -> Tensor:
        return functional.silu(functional.layer_norm(x, (24,), gain, shift))

    same_values_and_gradients(activations.normed_silu, plain, torch.randn(3, 5, 24), torch.randn(24), torch.randn(24))


def test_what_is_kept_for_the_backward_pass_is_what_it_says() -> None:
    remaining: list[int] = []

    def pack(x: Tensor) -> Tensor:
        remaining.append(x.numel())
        return x

    x = torch.randn(2, 5, 24, requires_grad=True)
    weight = torch.randn(10, 24, requires_grad=True)
    with torch.autograd.graph.saved_tensors_hooks(pack, lambda x: x):
        recompute.linear_of(activations.GELU, x, weight=weight, bias=None)
    assert sorted(remaining) == sorted([x.numel(), weight.numel()])


def test_an_input_that_is_handed_over_lends_its_memory_to_its_gradient_unless_it_is_needed_again(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(recompute, "PART_BYTES", 3 * 4 * 24)
    monkeypatch.setattr(recompute, "SPLIT_BYTES", 3 * 4 * 24)
    torch.manual_seed(0)
    leaf, weight = torch.randn(2, 7, 24, requires_grad=True), torch.randn(10, 24, requires_grad=True)
    hidden = leaf * 2
    indices: list[int] = []
    hidden.register_hook(lambda gradient: indices.append(gradient.data_ptr()))
    output = recompute.linear_of(activations.GELU, hidden, weight=weight, bias=None, is_handed_over=True).sum()
    remaining = hidden.detach().clone()
    first = torch.autograd.grad(output, [leaf, weight], retain_graph=True)
    assert indices[0] != hidden.data_ptr() and torch.equal(hidden, remaining)
    second = torch.autograd.grad(output, [leaf, weight])
    assert indices[1] == hidden.data_ptr()
    torch.testing.assert_close(second, first, atol=0, rtol=0)
    expected = torch.autograd.grad(functional.linear(functional.gelu(2 * leaf, approximate="tanh"), weight).sum(), leaf)
    torch.testing.assert_close(first[0], expected[0], atol=3e-5, rtol=1e-4)


def test_an_input_that_was_handed_over_and_is_needed_elsewhere_is_an_error(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(recompute, "PART_BYTES", 3 * 4 * 24)
    monkeypatch.setattr(recompute, "SPLIT_BYTES", 3 * 4 * 24)
    leaf, weight = torch.randn(2, 7, 24, requires_grad=True), torch.randn(10, 24, requires_grad=True)
    hidden = leaf * 2
    other = hidden.square().sum()
    output = recompute.linear_of(activations.GELU, hidden, weight=weight, bias=None, is_handed_over=True).sum()
    with pytest.raises(RuntimeError, match="modified by an inplace operation"):
        (other + output).backward()
