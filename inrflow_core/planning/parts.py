"""The parts of a method that a plan lists: each network's children, and the modules outside the networks."""

from __future__ import annotations

from collections.abc import Mapping

from torch import nn

from inrflow_core.networks._contract import NamedParts, RecomputingConfig, RecomputingNetwork


def networks(method: nn.Module) -> list[nn.Module]:
    """The networks that training updates."""
    return list(method.networks().values())  # pyright: ignore[reportCallIssue, reportAttributeAccessIssue]


def part_by_module(method: nn.Module) -> dict[nn.Module, str]:
    """The part that each module of a method belongs to.

    A network's children are parts by their names, or by the network's `PARTS` (child to part); other children of the
    method, such as its conditioner, are parts as they are.
    """
    part_of: dict[nn.Module, str] = {}
    for name, child in method.named_children():
        part_of |= dict.fromkeys(child.modules(), name)
    for network in networks(method):
        for name, child in network.named_children():
            part_of |= dict.fromkeys(child.modules(), _part(network, name))
    return part_of


def recomputable_blocks(method: nn.Module) -> set[nn.Module]:
    """Modules whose activations the method's networks would recompute if they were set to; empty if they are, or if a network that
    can does not say which."""
    blocks: set[nn.Module] = set()
    for network in networks(method):
        config = getattr(network, "config", None)
        if isinstance(config, RecomputingConfig):
            if config.checkpoint_activations or not isinstance(network, RecomputingNetwork):
                return set()
            named: RecomputingNetwork = network
            blocks.update(named.recomputed_blocks())
    return blocks


def count_parameters(method: nn.Module) -> dict[str, int]:
    """Parameters of a weights file by part, those of the networks first, in the order of `PARTS`."""
    split = set(networks(method))
    counts: dict[str, int] = {}
    for network in networks(method):
        counts |= dict.fromkeys(_named_parts(network).values(), 0)
    for name, child in method.named_children():
        if name in (*method.TRAINING_ONLY, *method.PRETRAINED):  # pyright: ignore[reportGeneralTypeIssues]
            continue
        for key, weight in child.named_parameters():
            inner, _, is_inside = key.partition(".")
            part = _part(child, inner) if child in split and (is_inside or inner in _named_parts(child)) else name
            counts[part] = counts.get(part, 0) + weight.numel()
    return counts


def count_pretrained(method: nn.Module) -> int:
    """Parameters of the frozen networks of files that training needs beside those of a weights file."""
    frozen = [getattr(method, name) for name in method.PRETRAINED]  # pyright: ignore[reportGeneralTypeIssues]
    return sum(weight.numel() for child in frozen if child is not None for weight in child.parameters())


def _part(network: nn.Module, child: str) -> str:
    return _named_parts(network).get(child, child)


def _named_parts(network: nn.Module) -> Mapping[str, str]:
    """Child to part, of the children whose part has another name; empty if the network declares none."""
    return network.PARTS if isinstance(network, NamedParts) else {}
