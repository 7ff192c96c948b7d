"""Optimize a model for many evaluations: cast its weights once, compile its networks.

Neither changes samples beyond rounding; the original model is left as it is.
"""

from __future__ import annotations

import copy
from dataclasses import replace
from typing import Any

import torch
from jaxtyping import Float
from torch import Tensor, nn

from inrflow_core.errors import UsageError
from inrflow_core.models import Model, SamplingOptions
from inrflow_core.sets import ConditionEmbedding, Queries

PARTS = ("encode", "latents", "decoder_kv", "decode")
"""Methods of a network that are compiled separately, if it has all of them."""


def cast_to_bf16(method: Any) -> Any:
    """The method with the weights of its networks' matrix products in bf16: once, not in every evaluation.

    Autocast, which stays on, would cast them to the same values, so that results are bit-equal. Norms, softmax, embedded
    values and a network's `fp32_layers()` compute in fp32 as before; other weights are shared.
    """
    return _with_networks(method, {name: _cast(network) for name, network in method.networks().items()})


def _cast(network: nn.Module) -> nn.Module:
    shared = {id(tensor): tensor for tensor in (*network.parameters(), *network.buffers())}
    clone: Any = copy.deepcopy(network, shared)
    exact = list(clone.fp32_layers()) if hasattr(clone, "fp32_layers") else []
    for module in clone.modules():
        if isinstance(module, nn.Linear) and not any(module is layer for layer in exact):
            for name, weight in list(module.named_parameters(recurse=False)):
                setattr(module, name, nn.Parameter(weight.detach().bfloat16(), requires_grad=False))
    return clone


def compile_network(method: Any) -> Any:
    """The method with its networks compiled by torch.compile for the first shapes they see; see `PARTS`.

    Smaller chunks of queries are padded, so that the last chunk needs no compilation of its own. CUDA graphs are not used:
    they overwrite the latents of the previous evaluation, which a step's queries still need.
    """
    return _with_networks(method, {name: _compiled(network) for name, network in method.networks().items()})


def _compiled(network: nn.Module) -> nn.Module:
    if all(hasattr(network, part) for part in PARTS):
        return CompiledNetwork(network)
    compiled: Any = torch.compile(network, dynamic=False)
    return compiled


def is_compiled(method: Any) -> bool:
    """Whether a network of the method is compiled, for one number of sets."""
    return any(isinstance(n, CompiledNetwork) or hasattr(n, "_orig_mod") for n in method.networks().values())


def optimize_for_inference(
    model: Model, options: SamplingOptions, *, compile: bool = False
) -> tuple[Model, SamplingOptions]:
    """The model and the options with optimized networks, the guide's included.

    Raises:
        UsageError: `compile` with a protein model: each chain length would need its own compilation.
    """
    if compile and model.domain.MAKES_STRUCTURES:
        raise UsageError("`--compile` is for sets of one size, and every protein has its own", hint="leave it out")

    def optimize(method: Any) -> Any:
        method = cast_to_bf16(method) if options.precision == "bf16" else method
        return compile_network(method) if compile else method

    guide = None if options.guide is None else optimize(options.guide)
    return replace(model, method=optimize(model.method)), replace(options, guide=guide)


class CompiledNetwork(nn.Module):
    """A network with its expensive parts compiled, each for a few fixed shapes."""

    def __init__(self, network: Any) -> None:
        super().__init__()
        self.network = network
        self.sizes: list[int] = []
        """Numbers of queries for which the decoder is compiled."""
        self._encode, self._latents, self.decoder_kv, self._decode = (
            torch.compile(part, dynamic=False)
            for part in (network.encode, network.latents, network.decoder_kv, network.decode)
        )

    def __getattr__(self, name: str) -> Any:
        """Everything else is the network's own."""
        try:
            return super().__getattr__(name)
        except AttributeError:
            return getattr(super().__getattr__("network"), name)

    def encode(
        self, context: Queries, values: Float[Tensor, "B N C"], mask: Tensor | None, embedding: ConditionEmbedding
    ) -> Any:
        """The encoding of the context."""
        return self._encode(context, _contiguous(values), mask, embedding)

    def latents(self, encoded: Any, t: Float[Tensor, " B"], embedding: ConditionEmbedding) -> Any:
        """The trunk."""
        vector = None if embedding.vector is None else _contiguous(embedding.vector)
        return self._latents(encoded, _contiguous(t), embedding._replace(vector=vector))

    def decode(
        self, queries: Queries, values: Float[Tensor, "B M C"], decoder_kv: Any, embedded: Tensor | None = None
    ) -> Float[Tensor, "B M C"]:
        """The velocity of each query, padded to a compiled size if one is less than twice as large."""
        count = len(queries)
        size = min((size for size in self.sizes if count <= size < 2 * count), default=count)
        if size == count:
            self.sizes = sorted({*self.sizes, count})
            return self._decode(queries, _contiguous(values), decoder_kv, embedded)
        index = torch.arange(size, device=values.device).clamp(max=count - 1)
        embedded = None if embedded is None else embedded[..., index, :]
        return self._decode(queries[index], values[:, index], decoder_kv, embedded)[:, :count]


def _contiguous(x: Tensor) -> Tensor:
    """A contiguous copy: another memory layout would need its own compilation."""
    return x.clone(memory_format=torch.contiguous_format)


def _with_networks(method: Any, networks: dict[str, nn.Module]) -> Any:
    """The method, or the model that guides, with other networks, by the names of `networks()`; everything else is shared."""
    own: dict[str, nn.Module] = method.networks()
    if not isinstance(method, nn.Module):
        return replace(method, **networks)
    replaced = {id(old): networks[name] for name, old in own.items()}
    assert set(replaced) <= {id(child) for child in method.children()}, "a network is a direct child of its method"
    mine: Any = copy.copy(method)
    mine._modules = {name: replaced.get(id(child), child) for name, child in method._modules.items()}
    return mine
