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
from inrflow_core.models import Model
from inrflow_core.sets import ConditionEmbedding, Queries


def cast_to_bf16(method: Any) -> Any:
    """The method with the weights of its matrix products in bf16: once, and not in every evaluation.

    Under autocast, which stays on, they are what autocast would make of them, so that the answers are the same to the
    bit. Norms, softmax, embedded values and the final layer compute in fp32 as before; other weights are shared.
    """
    network = method.network
    kept = {id(tensor): tensor for tensor in (*network.parameters(), *network.buffers())}
    mine = copy.deepcopy(network, kept)
    for module in mine.modules():
        if isinstance(module, nn.Linear) and module is not mine.decoder.final:
            for name, weight in list(module.named_parameters(recurse=False)):
                setattr(module, name, nn.Parameter(weight.detach().bfloat16(), requires_grad=False))
    return _with(method, mine)


def compile_network(method: Any) -> Any:
    """The method with encoder, trunk and decoder compiled by torch.compile for the shapes that come first.

    Smaller runs of queries are padded, so that the last one costs no compilation of its own. CUDA graphs are not used:
    they write an evaluation's latents over those of the one before, which a step's queries still need.
    """
    return _with(method, CompiledNetwork(method.network))


def optimize_for_inference(model: Model, how: Any, *, compile: bool = False) -> tuple[Model, Any]:
    """Model and drawing for as many evaluations as drawing takes; the guide likewise.

    Raises:
        UsageError: parts of a protein model are to be compiled: each chain would cost its own compilation.
    """
    if compile and model.domain.MAKES_STRUCTURES:
        raise UsageError("`--compile` is for sets of one size, and every protein has its own", hint="leave it out")

    def quick(method: Any) -> Any:
        method = cast_to_bf16(method) if how.precision == "bf16" else method
        return compile_network(method) if compile else method

    guide = None if how.guide is None else quick(how.guide)
    return replace(model, method=quick(model.method)), replace(how, guide=guide)


class CompiledNetwork(nn.Module):
    """A network with its heavy parts compiled, each for a few fixed shapes."""

    is_compiled = True

    def __init__(self, network: Any) -> None:
        super().__init__()
        self.network = network
        self.sizes: list[int] = []
        """Runs of queries that the decoder was compiled for."""
        self._encode, self._latents, self.memory, self._decode = (
            torch.compile(part, dynamic=False)
            for part in (network.encode, network.latents, network.memory, network.decode)
        )

    def __getattr__(self, name: str) -> Any:
        """What is not compiled is the network's own."""
        try:
            return super().__getattr__(name)
        except AttributeError:
            return getattr(super().__getattr__("network"), name)

    def encode(
        self, context: Queries, values: Float[Tensor, "B N C"], mask: Tensor | None, told: ConditionEmbedding
    ) -> Any:
        """What the context says."""
        return self._encode(context, _plain(values), mask, told)

    def latents(self, encoded: Any, t: Float[Tensor, " B"], told: ConditionEmbedding) -> Any:
        """The trunk."""
        vector = None if told.vector is None else _plain(told.vector)
        return self._latents(encoded, _plain(t), told._replace(vector=vector))

    def decode(
        self, queries: Queries, values: Float[Tensor, "B M C"], memory: Any, embedded: Tensor | None = None
    ) -> Float[Tensor, "B M C"]:
        """The velocity of each query, padded to a size that is compiled already where that is not twice as large."""
        count = len(queries)
        size = min((size for size in self.sizes if count <= size < 2 * count), default=count)
        if size == count:
            self.sizes = sorted({*self.sizes, count})
            return self._decode(queries, _plain(values), memory, embedded)
        index = torch.arange(size, device=values.device).clamp(max=count - 1)
        coordinates, groups = queries.coordinates, queries.group_ids
        padded = Queries(
            None if coordinates is None else coordinates[..., index, :],
            queries.noise_keys[index],
            None if groups is None else groups[:, index],
        )
        embedded = None if embedded is None else embedded[..., index, :]
        return self._decode(padded, values[:, index], memory, embedded)[:, :count]


def _plain(x: Tensor) -> Tensor:
    """The same numbers in order: a tensor that lies otherwise in memory costs a compilation of its own."""
    return x.clone(memory_format=torch.contiguous_format)


def _with(method: Any, network: nn.Module) -> Any:
    """The method with another network; all else is shared."""
    mine = copy.copy(method)
    mine._modules = {**method._modules, "network": network}
    return mine
