"""A model made ready for many evaluations: its weights cast once, its parts compiled.

Neither changes what is drawn beyond rounding, and the model that it is made of stays as it is.
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
"""Methods of a network that are compiled one by one, where it has them all."""


def cast_to_bf16(method: Any) -> Any:
    """The method with the weights of its networks' matrix products in bf16: once, and not in every evaluation.

    Under autocast, which stays on, they are what autocast would make of them, so that the answers are the same to the
    bit. Norms, softmax and embedded values compute in fp32 as before, and so do a network's `fp32_layers()`; other weights
    are shared.
    """
    return _with_networks(method, {name: _cast(network) for name, network in method.networks().items()})


def _cast(network: nn.Module) -> nn.Module:
    kept = {id(tensor): tensor for tensor in (*network.parameters(), *network.buffers())}
    mine: Any = copy.deepcopy(network, kept)
    exact = list(mine.fp32_layers()) if hasattr(mine, "fp32_layers") else []
    for module in mine.modules():
        if isinstance(module, nn.Linear) and not any(module is layer for layer in exact):
            for name, weight in list(module.named_parameters(recurse=False)):
                setattr(module, name, nn.Parameter(weight.detach().bfloat16(), requires_grad=False))
    return mine


def compile_network(method: Any) -> Any:
    """The method with its networks compiled by torch.compile for the shapes that come first; see `PARTS`.

    Smaller runs of queries are padded, so that the last one costs no compilation of its own. CUDA graphs are not used:
    they write an evaluation's latents over those of the one before, which a step's queries still need.
    """
    return _with_networks(method, {name: _compiled(network) for name, network in method.networks().items()})


def _compiled(network: nn.Module) -> nn.Module:
    if all(hasattr(network, part) for part in PARTS):
        return CompiledNetwork(network)
    compiled: Any = torch.compile(network, dynamic=False)
    return compiled


def is_compiled(method: Any) -> bool:
    """Whether a network of the method was compiled, for one number of sets."""
    return any(isinstance(n, CompiledNetwork) or hasattr(n, "_orig_mod") for n in method.networks().values())


def optimize_for_inference(
    model: Model, options: SamplingOptions, *, compile: bool = False
) -> tuple[Model, SamplingOptions]:
    """Model and drawing for as many evaluations as drawing takes; the guide likewise.

    Raises:
        UsageError: parts of a protein model are to be compiled: each chain would cost its own compilation.
    """
    if compile and model.domain.MAKES_STRUCTURES:
        raise UsageError("`--compile` is for sets of one size, and every protein has its own", hint="leave it out")

    def quick(method: Any) -> Any:
        method = cast_to_bf16(method) if options.precision == "bf16" else method
        return compile_network(method) if compile else method

    guide = None if options.guide is None else quick(options.guide)
    return replace(model, method=quick(model.method)), replace(options, guide=guide)


class CompiledNetwork(nn.Module):
    """A network with its heavy parts compiled, each for a few fixed shapes."""

    def __init__(self, network: Any) -> None:
        super().__init__()
        self.network = network
        self.sizes: list[int] = []
        """Runs of queries that the decoder was compiled for."""
        self._encode, self._latents, self.decoder_kv, self._decode = (
            torch.compile(part, dynamic=False)
            for part in (network.encode, network.latents, network.decoder_kv, network.decode)
        )

    def __getattr__(self, name: str) -> Any:
        """What is not compiled is the network's own."""
        try:
            return super().__getattr__(name)
        except AttributeError:
            return getattr(super().__getattr__("network"), name)

    def encode(
        self, context: Queries, values: Float[Tensor, "B N C"], mask: Tensor | None, embedding: ConditionEmbedding
    ) -> Any:
        """What the context says."""
        return self._encode(context, _plain(values), mask, embedding)

    def latents(self, encoded: Any, t: Float[Tensor, " B"], embedding: ConditionEmbedding) -> Any:
        """The trunk."""
        vector = None if embedding.vector is None else _plain(embedding.vector)
        return self._latents(encoded, _plain(t), embedding._replace(vector=vector))

    def decode(
        self, queries: Queries, values: Float[Tensor, "B M C"], decoder_kv: Any, embedded: Tensor | None = None
    ) -> Float[Tensor, "B M C"]:
        """The velocity of each query, padded to a size that is compiled already where that is not twice as large."""
        count = len(queries)
        size = min((size for size in self.sizes if count <= size < 2 * count), default=count)
        if size == count:
            self.sizes = sorted({*self.sizes, count})
            return self._decode(queries, _plain(values), decoder_kv, embedded)
        index = torch.arange(size, device=values.device).clamp(max=count - 1)
        embedded = None if embedded is None else embedded[..., index, :]
        return self._decode(queries[index], values[:, index], decoder_kv, embedded)[:, :count]


def _plain(x: Tensor) -> Tensor:
    """The same numbers in order: a tensor that lies otherwise in memory costs a compilation of its own."""
    return x.clone(memory_format=torch.contiguous_format)


def _with_networks(method: Any, networks: dict[str, nn.Module]) -> Any:
    """The method, or the model that guides, with other networks, by the names of `networks()`; all else is shared."""
    own: dict[str, nn.Module] = method.networks()
    if not isinstance(method, nn.Module):
        return replace(method, **networks)
    replaced = {id(old): networks[name] for name, old in own.items()}
    assert set(replaced) <= {id(child) for child in method.children()}, "a network is a direct child of its method"
    mine: Any = copy.copy(method)
    mine._modules = {name: replaced.get(id(child), child) for name, child in method._modules.items()}
    return mine
