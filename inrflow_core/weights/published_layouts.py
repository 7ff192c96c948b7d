"""How published files name and lay out the tensors of our feature networks.

A layout gives for each of our tensors the names of those that it is made of, and how. Names were taken from public code
that loads these files (docs/feature-weights.md says which files were never seen).
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass

import torch
from torch import Tensor

Make = Callable[..., Tensor]


@dataclass(frozen=True)
class Recipe:
    """What one of our tensors is made of."""

    names: tuple[str, ...]
    """In the published file."""
    make: Make = lambda tensor: tensor


Layout = Callable[[str], Recipe]
"""From the name of one of our tensors to its recipe."""


def _turned(tensor: Tensor) -> Tensor:
    return tensor.T


# --- Inception-v3 ---------------------------------------------------------------------------------------------------

GRAPH_PARTS = {
    "gamma": "batchnorm/gamma",
    "beta": "batchnorm/beta",
    "mean": "batchnorm/moving_mean",
    "variance": "batchnorm/moving_variance",
}


def inception_graph(name: str) -> Recipe:
    """The TensorFlow graph: filters are (rows, columns, in, out)."""
    if name.startswith("classes."):
        return {
            "classes.weight": Recipe(("softmax/weights",), _turned),
            "classes.bias": Recipe(("softmax/biases",)),
        }[name]
    path, part = _convolution(name)
    if part == "weight":
        return Recipe((f"{path}/conv2d_params",), lambda filters: filters.permute(3, 2, 0, 1))
    return Recipe((f"{path}/{GRAPH_PARTS[part]}",))


def inception_nvidia(name: str) -> Recipe:
    """NVIDIA's TorchScript, without the graph's gammas, which are 1."""
    if name.startswith("classes."):
        return Recipe((name.replace("classes", "output"),))
    path, part = _convolution(name)
    block, _, rest = path.partition("/")
    inner = rest.replace("/", "_" if block in ("mixed_9", "mixed_10") else ".")
    prefix = ".".join(("layers", block, inner) if inner else ("layers", block))
    if part == "gamma":
        return Recipe((f"{prefix}.beta",), torch.ones_like)
    return Recipe((f"{prefix}.{'var' if part == 'variance' else part}",))


FIDELITY_BLOCKS = {
    **{"conv": "Conv2d_1a_3x3", "conv_1": "Conv2d_2a_3x3", "conv_2": "Conv2d_2b_3x3"},
    **{"conv_3": "Conv2d_3b_1x1", "conv_4": "Conv2d_4a_3x3"},
    **{"mixed": "Mixed_5b", "mixed_1": "Mixed_5c", "mixed_2": "Mixed_5d", "mixed_3": "Mixed_6a"},
    **{"mixed_4": "Mixed_6b", "mixed_5": "Mixed_6c", "mixed_6": "Mixed_6d", "mixed_7": "Mixed_6e"},
    **{"mixed_8": "Mixed_7a", "mixed_9": "Mixed_7b", "mixed_10": "Mixed_7c"},
}
FIDELITY_TOWERS = {
    "5": ("branch1x1", "branch5x5", "branch3x3dbl"),
    "6a": ("branch3x3", "branch3x3dbl", ""),
    "6": ("branch1x1", "branch7x7", "branch7x7dbl"),
    "7a": ("", "branch3x3", "branch7x7x3"),
    "7": ("branch1x1", "branch3x3", "branch3x3dbl"),
}
"""Of a block (by its torchvision name): the branch of `conv`, of `tower` and of `tower_1`."""
FIDELITY_PARTS = {
    "weight": "conv.weight",
    "gamma": "bn.weight",
    "beta": "bn.bias",
    "mean": "bn.running_mean",
    "variance": "bn.running_var",
}


def inception_fidelity(name: str) -> Recipe:
    """The state dict of pytorch-fid and torch-fidelity, under torchvision's names."""
    if name.startswith("classes."):
        return Recipe((name.replace("classes", "fc"),))
    path, part = _convolution(name)
    block, _, rest = path.partition("/")
    prefix = FIDELITY_BLOCKS[block]
    if rest:
        prefix = f"{prefix}.{_fidelity_branch(prefix.removeprefix('Mixed_'), rest)}"
    return Recipe((f"{prefix}.{FIDELITY_PARTS[part]}",))


def _fidelity_branch(block: str, rest: str) -> str:
    first, tower, tower_1 = FIDELITY_TOWERS.get(block) or FIDELITY_TOWERS[block[0]]
    if rest == "conv":
        return first
    head, *inner, convolution = rest.split("/")
    prefix = int(convolution.partition("_")[2] or 0)
    if head == "tower_2":
        return "branch_pool"
    branch = tower if head == "tower" else tower_1
    if inner:  # the two ways of a fork
        return f"{branch}_{2 if head == 'tower' else 3}{'ab'[prefix]}"
    return f"{branch}_{prefix + 1}"


def _convolution(name: str) -> tuple[str, str]:
    """`convolutions.mixed/tower/conv_1.weight` as the graph's path and our part."""
    path, _, part = name.removeprefix("convolutions.").rpartition(".")
    return path, part


# --- VGG16 ----------------------------------------------------------------------------------------------------------

TORCHVISION_LAYERS = (0, 2, 5, 7, 10, 12, 14, 17, 19, 21, 24, 26, 28)
TORCHVISION_LINEAR = {"fc1": "classifier.0", "fc2": "classifier.3"}


def vgg16_nvidia(name: str) -> Recipe:
    """NVIDIA's TorchScript: layers.conv1 to layers.conv13, layers.fc1, layers.fc2."""
    layer, _, part = name.rpartition(".")
    if layer.startswith("convolutions."):
        layer = f"conv{int(layer.removeprefix('convolutions.')) + 1}"
    return Recipe((f"layers.{layer}.{part}",))


def vgg16_torchvision(name: str) -> Recipe:
    """Torchvision's state dict, numbered with its ReLUs and poolings."""
    layer, _, part = name.rpartition(".")
    if layer.startswith("convolutions."):
        return Recipe((f"features.{TORCHVISION_LAYERS[int(layer.removeprefix('convolutions.'))]}.{part}",))
    return Recipe((f"{TORCHVISION_LINEAR[layer]}.{part}",))


def lpips(name: str) -> Recipe:
    """Torchvision's state dict of VGG16, and that of the linear layers of the package lpips, (1, in, 1, 1) each."""
    kind, _, number = name.partition(".")
    if kind == "channels":
        return Recipe((f"lin{number}.model.1.weight",), torch.flatten)
    return Recipe((f"features.{TORCHVISION_LAYERS[int(number)]}.{'bias' if kind == 'biases' else 'weight'}",))


# --- CLIP -----------------------------------------------------------------------------------------------------------

OPENAI_TOP = {
    "patches.weight": "visual.conv1.weight",
    "whole": "visual.class_embedding",
    "positions": "visual.positional_embedding",
    "norm_before": "visual.ln_pre",
    "norm_after": "visual.ln_post",
}
OPENAI_BLOCK = {
    "norm_1.": "ln_1.",
    "norm_2.": "ln_2.",
    "attention_in.": "attn.in_proj_",
    "attention_out.": "attn.out_proj.",
    "mlp_in.": "mlp.c_fc.",
    "mlp_out.": "mlp.c_proj.",
}
HUGGING_FACE_TOP = {
    "patches.weight": "vision_model.embeddings.patch_embedding.weight",
    "whole": "vision_model.embeddings.class_embedding",
    "positions": "vision_model.embeddings.position_embedding.weight",
    "norm_before": "vision_model.pre_layrnorm",  # so spelt there
    "norm_after": "vision_model.post_layernorm",
    "projection.weight": "visual_projection.weight",
}
HUGGING_FACE_BLOCK = {
    "norm_1.": "layer_norm1.",
    "norm_2.": "layer_norm2.",
    "attention_out.": "self_attn.out_proj.",
    "mlp_in.": "mlp.fc1.",
    "mlp_out.": "mlp.fc2.",
}


OPENAI_TEXT_TOP = {
    "tokens.weight": "token_embedding.weight",
    "positions": "positional_embedding",
    "norm_after": "ln_final",
}
HUGGING_FACE_TEXT_TOP = {
    "tokens.weight": "text_model.embeddings.token_embedding.weight",
    "positions": "text_model.embeddings.position_embedding.weight",
    "norm_after": "text_model.final_layer_norm",
    "projection.weight": "text_projection.weight",
}


def clip_openai(name: str) -> Recipe:
    """The image encoder of OpenAI's TorchScript."""
    return _openai(name, OPENAI_TOP, "visual.transformer", "visual.proj")


def clip_text_openai(name: str) -> Recipe:
    """The text encoder of OpenAI's TorchScript."""
    return _openai(name, OPENAI_TEXT_TOP, "transformer", "text_projection")


def clip_hugging_face(name: str) -> Recipe:
    """The image encoder of the transformers library's state dict."""
    return _hugging_face(name, HUGGING_FACE_TOP, "vision_model")


def clip_text_hugging_face(name: str) -> Recipe:
    """The text encoder of the transformers library's state dict."""
    return _hugging_face(name, HUGGING_FACE_TEXT_TOP, "text_model")


def _openai(name: str, top: Mapping[str, str], blocks: str, projection: str) -> Recipe:
    """The projection is (in, out)."""
    if name == "projection.weight":
        return Recipe((projection,), _turned)
    if not name.startswith("blocks."):
        return Recipe((_replaced(name, top),))
    _, prefix, rest = name.split(".", 2)
    return Recipe((f"{blocks}.resblocks.{prefix}.{_replaced(rest, OPENAI_BLOCK)}",))


def _hugging_face(name: str, top: Mapping[str, str], model: str) -> Recipe:
    """Queries, keys and values are layers of their own."""
    if not name.startswith("blocks."):
        return Recipe((_replaced(name, top),))
    _, prefix, rest = name.split(".", 2)
    layer = f"{model}.encoder.layers.{prefix}."
    if rest.startswith("attention_in."):
        part = rest.partition(".")[2]
        names = tuple(f"{layer}self_attn.{letter}_proj.{part}" for letter in "qkv")
        return Recipe(names, lambda *tensors: torch.cat(tensors))
    return Recipe((layer + _replaced(rest, HUGGING_FACE_BLOCK),))


def _replaced(name: str, starts: Mapping[str, str]) -> str:
    """A name with its beginning changed as the table says."""
    ours = next(start for start in starts if name.startswith(start))
    return starts[ours] + name.removeprefix(ours)


# --- Networks of clouds ---------------------------------------------------------------------------------------------

NORM_PARTS = {"gamma": "weight", "beta": "bias", "mean": "running_mean", "variance": "running_var"}


def _flat(tensor: Tensor) -> Tensor:
    """The weight of a convolution over single points as that of a linear layer; any other as it is."""
    return tensor.flatten(1) if tensor.dim() > 1 else tensor


def _layer(rest: str, linear: str, norm: str) -> Recipe:
    """Of `linear.weight` or `gamma`: the layer's, or the normalisation's behind it."""
    if rest in NORM_PARTS:
        return Recipe((f"{norm}.{NORM_PARTS[rest]}",))
    return Recipe((f"{linear}.{rest.removeprefix('linear.')}",), _flat)


def pointnet2_point_e(name: str) -> Recipe:
    """Point-E's classifier: sa1 to sa3 of three convolutions each, then fc1 to fc3."""
    first, _, rest = name.partition(".")
    if first == "levels":
        level, prefix, rest = rest.split(".", 2)
        group = f"sa{int(level) + 1}"
        return _layer(rest, f"{group}.mlp_convs.{prefix}", f"{group}.mlp_bns.{prefix}")
    number = {"hidden": 1, "features": 2, "classes": 3}[first]
    return _layer(rest, f"fc{number}", f"bn{number}")


ULIP2_GROUPS = {
    "first": ("first_conv.0", "first_conv.1"),
    "second": ("first_conv.3", ""),
    "third": ("second_conv.0", "second_conv.1"),
    "last": ("second_conv.3", ""),
}
ULIP2_TOP = {
    "widen": "reduce_dim",
    "position_in": "pos_embed.0",
    "position_out": "pos_embed.2",
    "norm": "norm",
}
ULIP2_BLOCK = {
    "norm_1.": "norm1.",
    "norm_2.": "norm2.",
    "attention_in.": "attn.qkv.",
    "attention_out.": "attn.proj.",
    "mlp_in.": "mlp.fc1.",
    "mlp_out.": "mlp.fc2.",
}


def ulip2(name: str) -> Recipe:
    """ULIP-2's checkpoint: the projection is (in, out), the tokens (1, 1, width)."""
    if name == "projection.weight":
        return Recipe(("pc_projection",), _turned)
    if name in ("whole", "whole_position"):
        return Recipe((f"point_encoder.{'cls_token' if name == 'whole' else 'cls_pos'}",), torch.flatten)
    first, _, rest = name.partition(".")
    if first == "groups":
        layer, _, rest = rest.partition(".")
        linear, norm = (f"point_encoder.encoder.{prefix}" for prefix in ULIP2_GROUPS[layer])
        return _layer(rest, linear, norm)
    if first == "blocks":
        prefix, _, rest = rest.partition(".")
        return Recipe((f"point_encoder.blocks.blocks.{prefix}.{_replaced(rest, ULIP2_BLOCK)}",))
    return Recipe((f"point_encoder.{ULIP2_TOP[first]}.{rest}",))


# --- I3D ------------------------------------------------------------------------------------------------------------

I3D_STEM = {"1a": "1a_7x7", "2b": "2b_1x1", "2c": "2c_3x3"}
I3DPT_BRANCHES = {
    **{"b0": "branch_0", "b1a": "branch_1.0", "b1b": "branch_1.1"},
    **{"b2a": "branch_2.0", "b2b": "branch_2.1", "b3": "branch_3.1"},
}


def i3d_stylegan_v(name: str) -> Recipe:
    """StyleGAN-V's TorchScript, whose class is I3D of a file `i3dpt_jit.py`: the names of kinetics_i3d_pytorch's `i3dpt.py`."""
    layer, part = _i3d_layer(name, "conv3d_", "mixed_", "conv3d_0c_1x1", I3DPT_BRANCHES)
    return _i3d_part(layer, part, "batch3d")


def i3d_videogpt(name: str) -> Recipe:
    """VideoGPT's state dict: the names of pytorch-i3d."""
    layer, part = _i3d_layer(name, "Conv3d_", "Mixed_", "logits", {"b3": "b3b"})
    return _i3d_part(layer, part, "bn")


def _i3d_layer(name: str, stem: str, block: str, classes: str, branches: Mapping[str, str]) -> tuple[str, str]:
    """A layer in a published file, and our part of it."""
    first, *middle, part = name.split(".")
    if first == "classes":
        return classes, f"classes.{part}"
    if first == "stem":
        return stem + I3D_STEM[middle[0]], part
    number, branch = middle
    return f"{block}{number}.{branches.get(branch, branch)}", part


def _i3d_part(layer: str, part: str, norm: str) -> Recipe:
    if part in NORM_PARTS:
        return Recipe((f"{layer}.{norm}.{NORM_PARTS[part]}",))
    if part.startswith("classes."):
        return Recipe((f"{layer}.conv3d.{part.removeprefix('classes.')}",), _flat)
    return Recipe((f"{layer}.conv3d.{part}",))


LAYOUTS: dict[str, tuple[Layout, ...]] = {
    "inception": (inception_nvidia, inception_fidelity, inception_graph),
    "vgg16": (vgg16_nvidia, vgg16_torchvision),
    "lpips": (lpips,),
    "clip": (clip_openai, clip_hugging_face),
    "clip-text-b32": (clip_text_openai, clip_text_hugging_face),
    "clip-bigg": (clip_openai, clip_hugging_face),  # OpenCLIP names its tensors as OpenAI does
    "pointnet2": (pointnet2_point_e,),
    "ulip2": (ulip2,),
    "i3d": (i3d_stylegan_v, i3d_videogpt),
}


def nearest(network: str, ours: Iterable[str], stored: Iterable[str]) -> Layout:
    """That layout of a network of which a file has the most tensors."""
    expected, there = list(ours), set(stored)
    return max(LAYOUTS[network], key=lambda layout: sum(there.issuperset(layout(name).names) for name in expected))
