"""I3D as others have it: a second reading from tensors named as in pytorch-i3d, and those names in kinetics_i3d_pytorch's form."""

from __future__ import annotations

from collections.abc import Mapping

import torch
import torch.nn.functional as F
from torch import Tensor

from inrflow_core.feature_networks import i3d
from inrflow_core.weights import published_layouts
from tests.feature_networks import published

NARROW_STEM = {"1a": (3, 7, 2), "2b": (4, 1, 1), "2c": (5, 3, 1)}
NARROW_BLOCKS = {name: tuple(2 + (number + place) % 3 for place in range(6)) for number, name in enumerate(i3d.BLOCKS)}
"""Channels of a network that takes a twentieth of the time; no two neighbors alike."""


def tensors(seed: int = 0) -> dict[str, Tensor]:
    """Random numbers under the names of pytorch-i3d, with what VideoGPT's file has: scales of 1."""
    network = i3d.I3D()
    published.randomize(network, seed)
    found = {}
    for name, tensor in network.state_dict().items():
        (theirs,) = published_layouts.i3d_videogpt(name).names
        tensor = tensor[:, :, None, None, None] if name == "classes.weight" else tensor
        found[theirs] = torch.ones_like(tensor) if name.endswith("gamma") else tensor
    return found


def as_torchscript(theirs: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """The same tensors under the names of StyleGAN-V's file, with the counts of batches that torch adds."""
    with torch.device("meta"):
        ours = i3d.I3D().state_dict()
    layouts = published_layouts.i3d_videogpt, published_layouts.i3d_stylegan_v
    renamed = {layouts[1](name).names[0]: theirs[layouts[0](name).names[0]] for name in ours}
    counts = {name.replace("running_var", "num_batches_tracked"): torch.tensor(0) for name in renamed if "_var" in name}
    return renamed | counts


def logits(theirs: Mapping[str, Tensor], clips: Tensor, epsilon: float) -> Tensor:
    """Of clips in [-1, 1], (B 3 T 224 224), from tensors under the names of pytorch-i3d."""

    def unit(x: Tensor, name: str, stride: int = 1) -> Tensor:
        weight = theirs[f"{name}.conv3d.weight"]
        x = F.conv3d(padded(x, weight.shape[2:], (stride,) * 3), weight, stride=stride)
        scale = theirs[f"{name}.bn.weight"] / (theirs[f"{name}.bn.running_var"] + epsilon).sqrt()
        shift = theirs[f"{name}.bn.bias"] - theirs[f"{name}.bn.running_mean"] * scale
        return (x * scale.view(-1, 1, 1, 1) + shift.view(-1, 1, 1, 1)).clamp(min=0)

    def pool(x: Tensor, kernel: tuple[int, int, int], stride: tuple[int, int, int]) -> Tensor:
        return F.max_pool3d(padded(x, kernel, stride, -torch.inf), kernel, stride)

    def mixed(x: Tensor, name: str) -> Tensor:
        three = unit(unit(x, f"{name}.b1a"), f"{name}.b1b"), unit(unit(x, f"{name}.b2a"), f"{name}.b2b")
        last = unit(pool(x, (3, 3, 3), (1, 1, 1)), f"{name}.b3b")
        return torch.cat([unit(x, f"{name}.b0"), *three, last], 1)

    x = pool(unit(clips, "Conv3d_1a_7x7", 2), (1, 3, 3), (1, 2, 2))
    x = pool(unit(unit(x, "Conv3d_2b_1x1"), "Conv3d_2c_3x3"), (1, 3, 3), (1, 2, 2))
    x = pool(mixed(mixed(x, "Mixed_3b"), "Mixed_3c"), (3, 3, 3), (2, 2, 2))
    for letter in "bcdef":
        x = mixed(x, f"Mixed_4{letter}")
    x = mixed(mixed(pool(x, (2, 2, 2), (2, 2, 2)), "Mixed_5b"), "Mixed_5c")
    x = F.conv3d(F.avg_pool3d(x, (2, 7, 7), 1), theirs["logits.conv3d.weight"], theirs["logits.conv3d.bias"])
    return x.squeeze(4).squeeze(3).mean(2)


def padded(x: Tensor, kernel: tuple[int, ...], stride: tuple[int, ...], value: float = 0) -> Tensor:
    """By the remainder of each side, as PyTorch programs write TensorFlow's `SAME`; more at the end than at the beginning."""
    for axis, (extent, step) in enumerate(zip(kernel, stride, strict=True), start=2):
        side = x.shape[axis]
        total = max(extent - (side % step or step), 0)
        for count, at_end in ((total // 2, False), (total - total // 2, True)):
            edge = x.new_full((*x.shape[:axis], count, *x.shape[axis + 1 :]), value)
            x = torch.cat([x, edge] if at_end else [edge, x], axis)
    return x
