"""Files in the layouts that others publish, with random numbers; and Inception-v3 as torchvision's names have it."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

import torch
import torch.nn.functional as F
from torch import Tensor, nn


class Node(nn.Module):
    """A place in a tree of modules; its forward is there to be scripted."""

    def forward(self, x: Tensor) -> Tensor:
        return x


def tree(tensors: Mapping[str, Tensor]) -> Node:
    """Modules whose state dict is these tensors."""
    root = Node()
    for name, tensor in tensors.items():
        *folders, leaf = name.split(".")
        index: nn.Module = root
        for folder in folders:
            if folder not in dict(index.named_children()):
                index.add_module(folder, Node())
            index = index.get_submodule(folder)
        index.register_buffer(leaf, tensor)
    return root


def torchscript(path: Path, tensors: Mapping[str, Tensor]) -> Path:
    torch.jit.script(tree(tensors)).save(str(path))
    return path


def graph(path: Path, tensors: Mapping[str, Tensor]) -> Path:
    """A GraphDef as TensorFlow writes it, other nodes among the constants, and numbers in each of its three forms."""
    from tensorboard.compat.proto.graph_pb2 import GraphDef
    from tensorboard.compat.proto.types_pb2 import DT_FLOAT, DT_INT32

    result = GraphDef()
    result.node.add(name="DecodeJpeg/contents", op="Placeholder")
    size = result.node.add(name="ResizeBilinear/size", op="Const")
    size.attr["dtype"].type = DT_INT32
    size.attr["value"].tensor.dtype = DT_INT32
    size.attr["value"].tensor.int_val.extend([299, 299])
    for name, tensor in tensors.items():
        node = result.node.add(name=name, op="Const")
        node.attr["dtype"].type = DT_FLOAT
        value = node.attr["value"].tensor
        value.dtype = DT_FLOAT
        for side in tensor.shape:
            value.tensor_shape.dim.add(size=side)
        flat = tensor.flatten()
        if (flat == flat[0]).all():
            value.float_val.append(float(flat[0]))
        elif name.endswith("beta"):
            value.float_val.extend(flat.tolist())
        else:
            value.tensor_content = flat.contiguous().numpy().tobytes()
        result.node.add(name=f"{name}/read", op="Identity", input=[name])
    path.write_bytes(result.SerializeToString())
    return path


class Basic(nn.Module):
    def __init__(self, inputs: int, channels: int, kernel=1, stride: int = 1, padding=0) -> None:
        super().__init__()
        self.conv = nn.Conv2d(inputs, channels, kernel, stride, padding, bias=False)
        self.bn = nn.BatchNorm2d(channels, eps=1e-3)

    def forward(self, x: Tensor) -> Tensor:
        return F.relu(self.bn(self.conv(x)))


ROW = {"kernel": (1, 7), "padding": (0, 3)}
COLUMN = {"kernel": (7, 1), "padding": (3, 0)}
THREE = {"kernel": 3, "padding": 1}
HALF = {"kernel": 3, "stride": 2}


class Mixed(nn.Module):
    """A block of named branches: each a list of layers, the last of which may be a pair side by side."""

    def __init__(self, inputs: int, pool: str, branches: list[list[tuple]]) -> None:
        super().__init__()
        self.pool, self.chains = pool, []
        for branch in branches:
            width, chain = inputs, []
            for layer in branch:
                pair = layer if isinstance(layer[0], tuple) else (layer,)
                for name, channels, options in pair:
                    self.add_module(name, Basic(width, channels, **options))
                chain.append([name for name, _, _ in pair])
                width = sum(channels for _, channels, _ in pair)
            self.chains.append(chain)

    def forward(self, x: Tensor) -> Tensor:
        out = []
        for chain in self.chains:
            y = self._pooled(x) if chain[0] == ["branch_pool"] else x
            for names in chain:
                y = torch.cat([self.get_submodule(name)(y) for name in names], 1)
            out.append(y)
        return torch.cat([*out, F.max_pool2d(x, 3, 2)] if self.pool == "halve" else out, 1)

    def _pooled(self, x: Tensor) -> Tensor:
        if self.pool == "max":
            return F.max_pool2d(x, 3, 1, 1)
        return F.avg_pool2d(x, 3, 1, 1, count_include_pad=False)


def _a(inputs: int, pooled: int) -> Mixed:
    return Mixed(
        inputs,
        "average",
        [
            [("branch1x1", 64, {})],
            [("branch5x5_1", 48, {}), ("branch5x5_2", 64, {"kernel": 5, "padding": 2})],
            [("branch3x3dbl_1", 64, {}), ("branch3x3dbl_2", 96, THREE), ("branch3x3dbl_3", 96, THREE)],
            [("branch_pool", pooled, {})],
        ],
    )


def _c(inner: int) -> Mixed:
    double = [("branch7x7dbl_1", inner, {}), ("branch7x7dbl_2", inner, COLUMN), ("branch7x7dbl_3", inner, ROW)]
    return Mixed(
        768,
        "average",
        [
            [("branch1x1", 192, {})],
            [("branch7x7_1", inner, {}), ("branch7x7_2", inner, ROW), ("branch7x7_3", 192, COLUMN)],
            [*double, ("branch7x7dbl_4", inner, COLUMN), ("branch7x7dbl_5", 192, ROW)],
            [("branch_pool", 192, {})],
        ],
    )


def _e(inputs: int, pool: str) -> Mixed:
    flat, tall = {"kernel": (1, 3), "padding": (0, 1)}, {"kernel": (3, 1), "padding": (1, 0)}

    def pair(name: str) -> tuple:
        return ((f"{name}a", 384, flat), (f"{name}b", 384, tall))

    return Mixed(
        inputs,
        pool,
        [
            [("branch1x1", 320, {})],
            [("branch3x3_1", 384, {}), pair("branch3x3_2")],
            [("branch3x3dbl_1", 448, {}), ("branch3x3dbl_2", 384, THREE), pair("branch3x3dbl_3")],
            [("branch_pool", 192, {})],
        ],
    )


class Torchvisions(nn.Module):
    """Inception-v3 in its FID form under torchvision's names, written apart from ours."""

    def __init__(self) -> None:
        super().__init__()
        self.Conv2d_1a_3x3 = Basic(3, 32, **HALF)
        self.Conv2d_2a_3x3 = Basic(32, 32, 3)
        self.Conv2d_2b_3x3 = Basic(32, 64, **THREE)
        self.Conv2d_3b_1x1 = Basic(64, 80)
        self.Conv2d_4a_3x3 = Basic(80, 192, 3)
        self.Mixed_5b, self.Mixed_5c, self.Mixed_5d = _a(192, 32), _a(256, 64), _a(288, 64)
        double = [("branch3x3dbl_1", 64, {}), ("branch3x3dbl_2", 96, THREE), ("branch3x3dbl_3", 96, HALF)]
        self.Mixed_6a = Mixed(288, "halve", [[("branch3x3", 384, HALF)], double])
        self.Mixed_6b, self.Mixed_6c, self.Mixed_6d, self.Mixed_6e = _c(128), _c(160), _c(160), _c(192)
        long = [("branch7x7x3_1", 192, {}), ("branch7x7x3_2", 192, ROW), ("branch7x7x3_3", 192, COLUMN)]
        self.Mixed_7a = Mixed(
            768,
            "halve",
            [[("branch3x3_1", 192, {}), ("branch3x3_2", 320, HALF)], [*long, ("branch7x7x3_4", 192, HALF)]],
        )
        self.Mixed_7b, self.Mixed_7c = _e(1280, "average"), _e(2048, "max")
        self.fc = nn.Linear(2048, 1008)

    def forward(self, x: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """Spatial and pooled features and logits (with the bias) of pixels in [0, 255], 299 x 299."""
        x = (x - 128) / 128
        x = F.max_pool2d(self.Conv2d_2b_3x3(self.Conv2d_2a_3x3(self.Conv2d_1a_3x3(x))), 3, 2)
        x = F.max_pool2d(self.Conv2d_4a_3x3(self.Conv2d_3b_1x1(x)), 3, 2)
        x = self.Mixed_6a(self.Mixed_5d(self.Mixed_5c(self.Mixed_5b(x))))
        x = self.Mixed_6c(self.Mixed_6b(x))
        spatial = self.Mixed_6d.get_submodule("branch1x1")(x)[:, :7].permute(0, 2, 3, 1).flatten(1)
        x = self.Mixed_6e(self.Mixed_6d(x))
        x = F.adaptive_avg_pool2d(self.Mixed_7c(self.Mixed_7b(self.Mixed_7a(x))), 1).flatten(1)
        return spatial, x, self.fc(x)
