"""The checkpoints of Point-E's classifier, of ULIP-2 and of its CLIP, made of random numbers and converted.

The reference networks are written apart from ours: under the published names, on torch's own convolutions, norms and
attention, with grouping by plain loops.
"""

from __future__ import annotations

import argparse
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import safetensors.torch
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from inrflow_core.errors import IntegrityError
from inrflow_core.feature_networks import clip_bigg, pointnet2, ulip2
from inrflow_core.weights import conversion
from tests.feature_networks import published


def points(count: int, channels: int) -> Tensor:
    result = torch.rand(1, count, channels, generator=torch.Generator().manual_seed(1))
    result[..., :3] = 2 * result[..., :3] - 1
    return result / 3**0.5


def randomize(network: nn.Module) -> None:
    """Random numbers; those of batch normalisation positive where they must be."""
    published.randomize(network)
    for module in network.modules():
        if isinstance(module, nn.BatchNorm1d | nn.BatchNorm2d):
            assert module.running_var is not None and module.running_mean is not None
            generator = torch.Generator().manual_seed(len(module.weight))
            module.running_var.uniform_(0.5, 1.5, generator=generator)
            module.weight.data.uniform_(0.5, 1.5, generator=generator)


def spread(cloud: Tensor, count: int, least: float = -1) -> list[int]:
    """The farthest points of one cloud, by a plain loop."""
    selected = [0]
    barred = cloud.double().square().sum(1) <= least
    while len(selected) < count:
        squares = ((cloud[:, None].double() - cloud[selected].double()) ** 2).sum(2).amin(1)
        selected.append(int(torch.where(barred, -1, squares).argmax()))
    return selected


class Abstraction(nn.Module):
    """One level of PointNet++."""

    def __init__(self, inputs: int, widths: tuple[int, ...]) -> None:
        super().__init__()
        self.mlp_convs, self.mlp_bns = nn.ModuleList(), nn.ModuleList()
        for width in widths:
            self.mlp_convs.append(nn.Conv2d(inputs, width, 1))
            self.mlp_bns.append(nn.BatchNorm2d(width))
            inputs = width

    def forward(self, groups: Tensor) -> Tensor:
        x = groups.permute(0, 3, 2, 1)
        for convolution, norm in zip(self.mlp_convs, self.mlp_bns, strict=True):
            x = F.relu(norm(convolution(x)))
        return x.amax(2).mT


class PointEs(nn.Module):
    """Point-E's classifier under its own names."""

    def __init__(self) -> None:
        super().__init__()
        self.sa1 = Abstraction(3, (128, 128, 256))
        self.sa2 = Abstraction(259, (256, 256, 512))
        self.sa3 = Abstraction(515, (512, 1024, 2048))
        self.fc1, self.bn1 = nn.Linear(2048, 1024), nn.BatchNorm1d(1024)
        self.fc2, self.bn2 = nn.Linear(1024, 512), nn.BatchNorm1d(512)
        self.fc3 = nn.Linear(512, 40)

    def forward(self, cloud: Tensor) -> tuple[Tensor, Tensor]:
        """Features and logits of one cloud (P 3)."""
        values = cloud[:, :0]
        for level, count, radius, most in ((self.sa1, 512, 0.2, 32), (self.sa2, 128, 0.4, 64)):
            selected = spread(cloud, count)
            groups = []
            for center in cloud[selected]:
                inside = ((cloud - center).square().sum(1) <= radius**2).nonzero()[:, 0].tolist()
                inside = (inside[:most] + [inside[0]] * most)[:most]
                groups.append(torch.cat([cloud[inside] - center, values[inside]], dim=1))
            values, cloud = level(torch.stack(groups)[None])[0], cloud[selected]
        x = self.sa3(torch.cat([cloud, values], dim=1)[None, None])[:, 0]
        features = self.bn2(self.fc2(F.relu(self.bn1(self.fc1(x)))))
        return features, self.fc3(F.relu(features))


def test_point_es_checkpoint_becomes_its_classifier(tmp_path: Path):
    """With what its training kept beside the weights: numbers of NumPy, and the optimiser's state."""
    reference = PointEs().eval().requires_grad_(False)
    randomize(reference)
    training = {"epoch": 180, "instance_acc": np.mean([0.5, 0.9]), "class_acc": np.float64(0.9)}
    training["optimizer_state_dict"] = {"state": {0: {"step": 7, "exp_avg": torch.ones(3)}}, "param_groups": [{}]}
    torch.save({**training, "model_state_dict": reference.state_dict()}, tmp_path / pointnet2.POINT_E)
    target = tmp_path / "pointnet2.safetensors"
    conversion.convert("pointnet2", tmp_path / pointnet2.POINT_E, target)
    extractor = pointnet2.load(target)
    assert extractor.loaded.published == pointnet2.POINT_E and not extractor.loaded.is_verified
    assert "with an unknown digest" in (extractor.note("point-e") or "")
    cloud = points(600, 3)
    with torch.inference_mode():
        result, expected = extractor.network(cloud, ("features", "logits")), reference(cloud[0])
    for name, rows in zip(("features", "logits"), expected, strict=True):
        torch.testing.assert_close(result[name], rows, rtol=1e-4, atol=1e-4)


class Attention(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.qkv, self.proj = nn.Linear(384, 3 * 384, bias=False), nn.Linear(384, 384)

    def forward(self, x: Tensor) -> Tensor:
        heads = self.qkv(x).reshape(*x.shape[:2], 3, 6, 64)
        query, key, value = (heads[:, :, index].transpose(1, 2) for index in range(3))
        weights = (query @ key.mT / 8).softmax(-1)
        return self.proj((weights @ value).transpose(1, 2).flatten(2))


class Block(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.norm1, self.norm2, self.attn = nn.LayerNorm(384), nn.LayerNorm(384), Attention()
        self.mlp = nn.ModuleDict({"fc1": nn.Linear(384, 1536), "fc2": nn.Linear(1536, 384)})

    def forward(self, x: Tensor) -> Tensor:
        x = x + self.attn(self.norm1(x))
        return x + self.mlp["fc2"](F.gelu(self.mlp["fc1"](self.norm2(x))))


class Bert(nn.Module):
    """ULIP-2's encoder of colored points under its own names, with some of its blocks."""

    def __init__(self, blocks: int) -> None:
        super().__init__()
        first = (nn.Conv1d(6, 128, 1), nn.BatchNorm1d(128), nn.ReLU(), nn.Conv1d(128, 256, 1))
        second = (nn.Conv1d(512, 512, 1), nn.BatchNorm1d(512), nn.ReLU(), nn.Conv1d(512, 256, 1))
        self.encoder = nn.ModuleDict({"first_conv": nn.Sequential(*first), "second_conv": nn.Sequential(*second)})
        self.reduce_dim = nn.Linear(256, 384)
        self.cls_token, self.cls_pos = (nn.Parameter(torch.zeros(1, 1, 384)) for _ in range(2))
        self.pos_embed = nn.Sequential(nn.Linear(3, 128), nn.GELU(), nn.Linear(128, 384))
        self.blocks = nn.ModuleDict({"blocks": nn.ModuleList(Block() for _ in range(blocks))})
        self.norm = nn.LayerNorm(384)

    def forward(self, cloud: Tensor) -> Tensor:
        """Of one cloud (P 6): the first token and the largest of the others."""
        centers = cloud[spread(cloud[:, :3], 512, 1e-3), :3]
        groups = []
        for center in centers:
            near = (cloud[:, :3] - center).square().sum(1).argsort()[:32]
            groups.append(torch.cat([cloud[near, :3] - center, cloud[near, 3:]], dim=1))
        x = self.encoder["first_conv"](torch.stack(groups).mT)
        x = torch.cat([x.amax(2, keepdim=True).expand(-1, -1, 32), x], dim=1)
        tokens = self.reduce_dim(self.encoder["second_conv"](x).amax(2))[None]
        x = torch.cat([self.cls_token, tokens], dim=1)
        where = torch.cat([self.cls_pos, self.pos_embed(centers)[None]], dim=1)
        blocks = self.blocks["blocks"]
        assert isinstance(blocks, nn.ModuleList)
        for block in blocks:
            x = block(x + where)
        x = self.norm(x)[0]
        return torch.cat([x[0], x[1:].amax(0)])


def test_ulip_2s_checkpoint_becomes_its_encoder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    """As training on several devices writes it: `module.` before each name, and the words of the command line."""
    monkeypatch.setattr(ulip2, "LAYERS", 2)
    reference = Bert(2).eval().requires_grad_(False)
    randomize(reference)
    projection = torch.randn(768, 1280, generator=torch.Generator().manual_seed(0)) / 30
    state = {f"module.point_encoder.{name}": tensor for name, tensor in reference.state_dict().items()}
    state |= {"module.pc_projection": projection, "module.logit_scale": torch.tensor(4.6)}
    assert len(state) == 226 - 16 * 11 + 2  # the published file has 18 blocks of 11 tensors
    reported = {"epoch": 7, "args": argparse.Namespace(model="ULIP2_PointBERT_Colored", lr=3e-3), "best_acc1": 50.6}
    torch.save({"state_dict": state, **reported}, tmp_path / ulip2.ULIP2)
    target = tmp_path / "ulip2.safetensors"
    with pytest.raises(IntegrityError, match="is no known file of `ulip2`"):
        conversion.convert("ulip2", tmp_path / ulip2.ULIP2, target)
    conversion.convert("ulip2", tmp_path / ulip2.ULIP2, target, any_digest=True)
    network = ulip2.load(target).network
    cloud = points(700, 6)
    cloud[0, 50:60, :3] *= 0.01
    with torch.inference_mode():
        result, expected = network(cloud, ("embedding",))["embedding"][0], reference(cloud[0]) @ projection
    torch.testing.assert_close(result, expected, rtol=1e-4, atol=1e-4)


def test_a_checkpoint_that_holds_anything_else_is_not_unpickled(tmp_path: Path):
    class Bomb:
        def __reduce__(self):
            return (Path.touch, (tmp_path / "ran",))

    for index in ("best_acc1", "state_dict"):
        torch.save({"state_dict": {"pc_projection": torch.zeros(2)}, index: Bomb()}, tmp_path / "a.pt")
        with pytest.raises(IntegrityError, match="cannot be read"):
            conversion.convert("ulip2", tmp_path / "a.pt", tmp_path / "ulip2.safetensors", any_digest=True)
    torch.save({"state_dict": {"epoch": 7}}, tmp_path / "a.pt")
    with pytest.raises(IntegrityError, match="it holds more than named tensors"):
        conversion.convert("ulip2", tmp_path / "a.pt", tmp_path / "ulip2.safetensors", any_digest=True)
    assert not (tmp_path / "ran").exists() and not (tmp_path / "ulip2.safetensors").exists()


def test_parameters_of_bigg_fill_the_published_file():
    """In half precision, and a little for the names; OpenCLIP's own table says 1844.91 million."""
    with torch.device("meta"):
        count = sum(p.numel() for p in clip_bigg.ImageEncoder().parameters())
    size = clip_bigg.WEIGHTS.published[1].bytes
    assert size is not None and 0 < size - 2 * count < 100_000
    assert round(count / 1e4) == 184491


SMALL = {"WIDTH": 48, "LAYERS": 2, "HEADS": 4, "HIDDEN": 80}


def bigg() -> dict[str, Tensor]:
    """Random numbers in OpenCLIP's layout, small."""
    width, hidden, generator = SMALL["WIDTH"], SMALL["HIDDEN"], torch.Generator().manual_seed(0)
    attention = nn.MultiheadAttention(width, SMALL["HEADS"])
    shapes: dict[str, tuple[int, ...]] = {
        "visual.class_embedding": (width,),
        "visual.positional_embedding": (257, width),
        "visual.proj": (width, 1280),
        "visual.conv1.weight": (width, 3, 14, 14),
        "logit_scale": (),
    }
    norms = ["visual.ln_pre", "visual.ln_post"]
    for index in range(SMALL["LAYERS"]):
        block = f"visual.transformer.resblocks.{index}"
        shapes |= {f"{block}.attn.{name}": tuple(tensor.shape) for name, tensor in attention.state_dict().items()}
        shapes |= {f"{block}.mlp.c_fc.weight": (hidden, width), f"{block}.mlp.c_fc.bias": (hidden,)}
        shapes |= {f"{block}.mlp.c_proj.weight": (width, hidden), f"{block}.mlp.c_proj.bias": (width,)}
        norms += [f"{block}.ln_1", f"{block}.ln_2"]
    for norm in norms:
        shapes |= {f"{norm}.weight": (width,), f"{norm}.bias": (width,)}
    return {name: torch.randn(shape, generator=generator).mul(0.2).half() for name, shape in shapes.items()}


def in_transformers(state: dict[str, Tensor]) -> dict[str, Tensor]:
    """The same as the transformers library names it."""
    words = [
        *(("visual.class_embedding", "vision_model.embeddings.class_embedding"), ("ln_1", "layer_norm1")),
        *(("visual.conv1", "vision_model.embeddings.patch_embedding"), ("ln_2", "layer_norm2")),
        *(("visual.positional_embedding", "vision_model.embeddings.position_embedding.weight"), ("c_fc", "fc1")),
        *(("visual.transformer.resblocks", "vision_model.encoder.layers"), ("attn.out", "self_attn.out")),
        *(("visual.ln_pre", "vision_model.pre_layrnorm"), ("visual.ln_post", "vision_model.post_layernorm")),
        ("c_proj", "fc2"),
    ]
    out = {}
    for name, tensor in state.items():
        for theirs, other in words:
            name = name.replace(theirs, other)
        head, is_mixed, part = name.partition("attn.in_proj_")
        if is_mixed:
            rows = zip("qkv", tensor.chunk(3), strict=True)
            out |= {f"{head}self_attn.{letter}_proj.{part}": some for letter, some in rows}
        elif name == "visual.proj":
            out["visual_projection.weight"] = tensor.T
        elif name != "logit_scale":
            out[name] = tensor
    return {name: tensor.contiguous() for name, tensor in out.items()}


@torch.inference_mode()
def by_torch(state: dict[str, Tensor], pixels: Tensor) -> Tensor:
    """The encoder on torch's own attention, with GELU itself."""
    t = {name.removeprefix("visual."): tensor.float() for name, tensor in state.items()}
    width = (SMALL["WIDTH"],)

    def norm(x: Tensor, name: str) -> Tensor:
        return F.layer_norm(x, width, t[f"{name}.weight"], t[f"{name}.bias"])

    mean, deviation = ([0.48145466, 0.4578275, 0.40821073], [0.26862954, 0.26130258, 0.27577711])
    pixels = (pixels / 255 - torch.tensor(mean).reshape(3, 1, 1)) / torch.tensor(deviation).reshape(3, 1, 1)
    x = F.conv2d(pixels, t["conv1.weight"], stride=14).flatten(2).permute(2, 0, 1)
    x = torch.cat([t["class_embedding"].expand(1, len(pixels), -1), x]) + t["positional_embedding"][:, None]
    x = norm(x, "ln_pre")
    for index in range(SMALL["LAYERS"]):
        block = f"transformer.resblocks.{index}"
        attention = nn.MultiheadAttention(*width, SMALL["HEADS"]).eval()
        start = f"{block}.attn."
        attention.load_state_dict({name.removeprefix(start): v for name, v in t.items() if name.startswith(start)})
        y = norm(x, f"{block}.ln_1")
        x = x + attention(y, y, y)[0]
        y = F.linear(norm(x, f"{block}.ln_2"), t[f"{block}.mlp.c_fc.weight"], t[f"{block}.mlp.c_fc.bias"])
        x = x + F.linear(F.gelu(y), t[f"{block}.mlp.c_proj.weight"], t[f"{block}.mlp.c_proj.bias"])
    return norm(x[0], "ln_post") @ t["proj"]


def in_pickle(path: Path, state: dict[str, Tensor]) -> None:
    torch.save(state, path)


def in_safetensors(path: Path, state: dict[str, Tensor]) -> None:
    safetensors.torch.save_file(in_transformers(state), path)


@pytest.mark.parametrize(
    ("file", "save"), [(clip_bigg.OPEN_CLIP, in_pickle), (clip_bigg.IMAGE_ENCODER, in_safetensors)]
)
def test_two_published_layouts_of_bigg_are_one_network(
    file: str, save: Callable[[Path, dict[str, Tensor]], None], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
):
    for name, value in SMALL.items():
        monkeypatch.setattr(clip_bigg, name, value)
    state, images = bigg(), np.random.default_rng(0).integers(0, 256, (2, 40, 60, 3), dtype=np.uint8)
    save(tmp_path / file, state)
    target = tmp_path / "out" / "clip-bigg.safetensors"
    conversion.convert("clip-bigg", tmp_path / file, target, any_digest=True)
    result = clip_bigg.load(target)(images, ("embedding",), "openai")["embedding"]
    expected = by_torch(state, clip_bigg.RESIZERS["openai"](images))
    torch.testing.assert_close(result, expected, rtol=1e-4, atol=1e-4)
