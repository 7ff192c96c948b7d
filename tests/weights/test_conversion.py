"""Published files made of random numbers, converted by the script, loaded by the code that reads real ones."""

from __future__ import annotations

import dataclasses
import pickle
import re
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import safetensors
import safetensors.torch
import torch
from torch import Tensor, nn

from inrflow_cli import app
from inrflow_core.errors import Exit, IntegrityError, MissingError, UsageError
from inrflow_core.feature_networks import _clip_vit, clip, inception, vgg16
from inrflow_core.storage import plain_file
from inrflow_core.weights import conversion, graph_def, published_files, published_layouts
from tests.feature_networks import published
from tests.weights.published import Torchvisions, graph, torchscript

Save = Callable[[Path, dict[str, Tensor]], Path]


def old_pickle(path: Path, tensors: dict[str, Tensor]) -> Path:
    """The form of torch before 1.6, in which the older published files are."""
    torch.save(tensors, path, _use_new_zipfile_serialization=False)
    return path


def new_pickle(path: Path, tensors: dict[str, Tensor]) -> Path:
    torch.save(tensors, path)
    return path


def safe(path: Path, tensors: dict[str, Tensor]) -> Path:
    safetensors.torch.save_file({name: tensor.contiguous() for name, tensor in tensors.items()}, path)
    return path


def images(count: int = 1) -> np.ndarray:
    return np.random.default_rng(0).integers(0, 256, (count, 40, 40, 3), dtype=np.uint8)


# What public code that loads these files calls the same convolution: NVIDIA's TorchScript, torchvision.
SAME_IN_INCEPTION = {
    "conv": ("layers.conv.weight", "Conv2d_1a_3x3.conv.weight"),
    "conv_4": ("layers.conv_4.weight", "Conv2d_4a_3x3.conv.weight"),
    "mixed/conv": ("layers.mixed.conv.weight", "Mixed_5b.branch1x1.conv.weight"),
    "mixed_2/tower/conv_1": ("layers.mixed_2.tower.conv_1.weight", "Mixed_5d.branch5x5_2.conv.weight"),
    "mixed_3/conv": ("layers.mixed_3.conv.weight", "Mixed_6a.branch3x3.conv.weight"),
    "mixed_3/tower/conv_2": ("layers.mixed_3.tower.conv_2.weight", "Mixed_6a.branch3x3dbl_3.conv.weight"),
    "mixed_5/tower_1/conv_4": ("layers.mixed_5.tower_1.conv_4.weight", "Mixed_6c.branch7x7dbl_5.conv.weight"),
    "mixed_6/conv": ("layers.mixed_6.conv.weight", "Mixed_6d.branch1x1.conv.weight"),
    "mixed_7/tower_2/conv": ("layers.mixed_7.tower_2.conv.weight", "Mixed_6e.branch_pool.conv.weight"),
    "mixed_8/tower/conv": ("layers.mixed_8.tower.conv.weight", "Mixed_7a.branch3x3_1.conv.weight"),
    "mixed_8/tower_1/conv_3": ("layers.mixed_8.tower_1.conv_3.weight", "Mixed_7a.branch7x7x3_4.conv.weight"),
    "mixed_9/tower/conv": ("layers.mixed_9.tower_conv.weight", "Mixed_7b.branch3x3_1.conv.weight"),
    "mixed_9/tower_1/conv_1": ("layers.mixed_9.tower_1_conv_1.weight", "Mixed_7b.branch3x3dbl_2.conv.weight"),
    "mixed_10/tower/mixed/conv_1": ("layers.mixed_10.tower_mixed_conv_1.weight", "Mixed_7c.branch3x3_2b.conv.weight"),
    "mixed_10/tower_1/mixed/conv": (
        "layers.mixed_10.tower_1_mixed_conv.weight",
        "Mixed_7c.branch3x3dbl_3a.conv.weight",
    ),
}


@pytest.mark.parametrize("ours", SAME_IN_INCEPTION)
def test_inceptions_layouts_agree_on_what_is_the_same(ours: str):
    name = f"convolutions.{ours}.weight"
    layouts = published_layouts.inception_nvidia, published_layouts.inception_fidelity
    assert tuple(layout(name).names[0] for layout in layouts) == SAME_IN_INCEPTION[ours]
    assert published_layouts.inception_graph(name).names == (f"{ours}/conv2d_params",)


@pytest.fixture(scope="module")
def reference() -> Torchvisions:
    """Random numbers, its scales 1, as the graph's are."""
    result = Torchvisions().eval().requires_grad_(False)
    published.randomize(result)
    for name, tensor in result.state_dict().items():
        if name.endswith("bn.weight"):
            tensor.fill_(1)
        if name.endswith("running_var"):
            tensor.abs_().add_(0.5)
    return result


def as_graph(state: dict[str, Tensor], ours: dict[str, Tensor]) -> dict[str, Tensor]:
    """The numbers of torchvision's layout as the graph has them: filters (rows, columns, in, out)."""
    out = {}
    for name in ours:
        (theirs,), (expected,) = (
            layout(name).names for layout in (published_layouts.inception_fidelity, published_layouts.inception_graph)
        )
        tensor = state[theirs]
        out[expected] = tensor.permute(2, 3, 1, 0) if tensor.dim() == 4 else tensor.T if tensor.dim() == 2 else tensor
    return out


def as_nvidia(state: dict[str, Tensor], ours: dict[str, Tensor]) -> dict[str, Tensor]:
    return {
        published_layouts.inception_nvidia(name).names[0]: state[published_layouts.inception_fidelity(name).names[0]]
        for name in ours
        if not name.endswith("gamma")
    }


@pytest.mark.slow
def test_three_published_layouts_of_inception_are_one_network(reference: Torchvisions, tmp_path: Path):
    """The numbers of a network written apart from ours, through each layout and the loading code: its own answers."""
    with torch.device("meta"):
        ours = inception.Inception().state_dict()
    state = reference.state_dict()
    files = (
        old_pickle(tmp_path / inception.FIDELITY, state),
        torchscript(tmp_path / inception.NVIDIA, as_nvidia(state, ours)),
        graph(tmp_path / inception.GRAPH, as_graph(state, ours)),
    )
    pixels = inception.RESIZERS["adm"](images())
    with torch.inference_mode():
        spatial, pool, logits = reference(pixels)
    for file in files:
        target = tmp_path / "out" / f"{file.stem}.safetensors"
        digest = conversion.convert("inception", file, target, trust=True, any_digest=True)
        extractor = inception.load(target)
        assert extractor.loaded is not None and extractor.loaded.digest == digest == plain_file.file_digest(
            target, from_disk=True
        )
        assert extractor.loaded.published == file.name and not extractor.loaded.is_verified
        result = extractor(images(), tuple(inception.OUTPUTS), "adm")
        torch.testing.assert_close(result["spatial"], spatial, rtol=1e-4, atol=1e-4)
        torch.testing.assert_close(result["pool"], pool, rtol=1e-4, atol=1e-4)
        torch.testing.assert_close(result["logits"], logits - reference.fc.bias, rtol=1e-4, atol=1e-4)
    written = [safetensors.torch.load_file(path) for path in (tmp_path / "out").iterdir()]
    for name, tensor in written[0].items():
        assert all(torch.equal(tensor, other[name]) for other in written[1:]), name


@pytest.fixture
def small(monkeypatch: pytest.MonkeyPatch) -> None:
    """VGG16 with 8 hidden units and CLIP with one block: files of 60 and 50 MB instead of 540 and 350."""
    monkeypatch.setattr(vgg16, "HIDDEN", 8)
    monkeypatch.setitem(vgg16.OUTPUTS, "fc2", 8)
    monkeypatch.setattr(clip, "LAYERS", 1)


def torchvisions_vgg() -> nn.ModuleDict:
    """VGG16 as torchvision lists its layers."""
    layers: list[nn.Module] = []
    inputs = 3
    for width in (64, 64, 0, 128, 128, 0, 256, 256, 256, 0, 512, 512, 512, 0, 512, 512, 512, 0):
        layers += [nn.Conv2d(inputs, width, 3, padding=1), nn.ReLU()] if width else [nn.MaxPool2d(2)]
        inputs = width or inputs
    linear = [nn.Linear(25088, 8), nn.ReLU(), nn.Dropout(), nn.Linear(8, 8), nn.ReLU(), nn.Dropout(), nn.Linear(8, 10)]
    return nn.ModuleDict({"features": nn.Sequential(*layers), "classifier": nn.Sequential(*linear)})


@pytest.mark.usefixtures("small")
def test_two_published_layouts_of_vgg16_are_one_network(tmp_path: Path):
    reference = torchvisions_vgg().eval().requires_grad_(False)
    published.randomize(reference)
    state = reference.state_dict()
    convolutions = [name.removesuffix(".weight") for name in state if name.startswith("f") and name.endswith("weight")]
    nvidia = {
        f"layers.conv{n}.{p}": state[f"{c}.{p}"] for n, c in enumerate(convolutions, 1) for p in ("weight", "bias")
    }
    nvidia |= {
        f"layers.fc{n}.{p}": state[f"classifier.{c}.{p}"] for n, c in ((1, 0), (2, 3)) for p in ("weight", "bias")
    }
    nvidia["lpips0"] = torch.ones(64)
    files = torchscript(tmp_path / "vgg16.pt", nvidia), old_pickle(tmp_path / "vgg16.pth", state)
    pixels = vgg16.RESIZERS["stylegan"](images()) / 255
    pixels = (pixels - torch.tensor(vgg16.MEAN).reshape(3, 1, 1)) / torch.tensor(vgg16.DEVIATION).reshape(3, 1, 1)
    with torch.inference_mode():
        expected = nn.Sequential(*list(reference["classifier"].children())[:5])(
            reference["features"](pixels).flatten(1)
        )
    for file in files:
        target = tmp_path / f"{file.suffix[1:]}.safetensors"
        conversion.convert("vgg16", file, target, trust=True, any_digest=True)
        result = vgg16.load(target)(images(), ("fc2",), "stylegan")["fc2"]
        torch.testing.assert_close(result, expected, rtol=1e-4, atol=1e-4)


def hugging_face(state: dict[str, Tensor]) -> dict[str, Tensor]:
    """OpenAI's layout as the transformers library has it."""
    out = {
        "vision_model.embeddings.class_embedding": state["visual.class_embedding"],
        "vision_model.embeddings.patch_embedding.weight": state["visual.conv1.weight"],
        "vision_model.embeddings.position_embedding.weight": state["visual.positional_embedding"],
        "visual_projection.weight": state["visual.proj"].T,
        "text_model.final_layer_norm.weight": torch.ones(512),
    }
    layer, block = "vision_model.encoder.layers.0", "visual.transformer.resblocks.0"
    for part in ("weight", "bias"):
        out[f"vision_model.pre_layrnorm.{part}"] = state[f"visual.ln_pre.{part}"]
        out[f"vision_model.post_layernorm.{part}"] = state[f"visual.ln_post.{part}"]
        for theirs, ours in (("layer_norm1", "ln_1"), ("layer_norm2", "ln_2"), ("mlp.fc1", "mlp.c_fc")):
            out[f"{layer}.{theirs}.{part}"] = state[f"{block}.{ours}.{part}"]
        out[f"{layer}.mlp.fc2.{part}"] = state[f"{block}.mlp.c_proj.{part}"]
        out[f"{layer}.self_attn.out_proj.{part}"] = state[f"{block}.attn.out_proj.{part}"]
        for letter, rows in zip("qkv", state[f"{block}.attn.in_proj_{part}"].chunk(3), strict=True):
            out[f"{layer}.self_attn.{letter}_proj.{part}"] = rows
    return out


def openai() -> dict[str, Tensor]:
    """Random numbers in OpenAI's layout: attention and layers as torch's own modules name theirs, in half precision."""
    attention, generator = nn.MultiheadAttention(768, 12), torch.Generator().manual_seed(0)
    block = "visual.transformer.resblocks.0"
    shapes = {
        "visual.class_embedding": (768,),
        "visual.positional_embedding": (50, 768),
        "visual.proj": (768, 512),
        "visual.conv1.weight": (768, 3, 32, 32),
        "text_projection": (512, 512),
        **{f"{block}.attn.{name}": tuple(tensor.shape) for name, tensor in attention.state_dict().items()},
        **{f"{block}.mlp.c_fc.weight": (3072, 768), f"{block}.mlp.c_fc.bias": (3072,)},
        **{f"{block}.mlp.c_proj.weight": (768, 3072), f"{block}.mlp.c_proj.bias": (768,)},
    }
    for norm in ("visual.ln_pre", "visual.ln_post", f"{block}.ln_1", f"{block}.ln_2"):
        shapes |= {f"{norm}.weight": (768,), f"{norm}.bias": (768,)}
    return {name: torch.randn(shape, generator=generator).mul(0.05).half() for name, shape in shapes.items()}


@pytest.mark.usefixtures("small")
def test_three_published_layouts_of_clip_are_one_network(tmp_path: Path):
    state = openai()
    files = (
        torchscript(tmp_path / clip.OPENAI, state),
        new_pickle(tmp_path / clip.HUGGING_FACE, hugging_face(state)),
        safe(tmp_path / "model.safetensors", hugging_face(state)),
    )
    result = []
    for file in files:
        target = tmp_path / f"{file.name}.safetensors"
        conversion.convert("clip", file, target, trust=True, any_digest=True)
        result.append(clip.load(target)(images(2), ("embedding",), "openai")["embedding"])
    assert torch.equal(result[0], result[1]) and torch.equal(result[0], result[2])
    # Against the layers that these weights were published for.
    x = clip_by_torch(state, _clip_vit.RESIZERS["openai"](images(2)))
    torch.testing.assert_close(result[0], x, rtol=1e-4, atol=1e-4)


@torch.inference_mode()
def clip_by_torch(state: dict[str, Tensor], pixels: Tensor) -> Tensor:
    """One block of CLIP by torch's own attention, from OpenAI's tensors."""
    t = {name.removeprefix("visual.").replace("transformer.resblocks.0", "b"): v.float() for name, v in state.items()}
    mean, deviation = (torch.tensor(numbers).reshape(3, 1, 1) for numbers in (_clip_vit.MEAN, _clip_vit.DEVIATION))

    def norm(x: Tensor, name: str) -> Tensor:
        return nn.functional.layer_norm(x, (768,), t[f"{name}.weight"], t[f"{name}.bias"])

    x = (
        nn.functional.conv2d((pixels / 255 - mean) / deviation, t["conv1.weight"], stride=32)
        .flatten(2)
        .permute(2, 0, 1)
    )
    x = torch.cat([t["class_embedding"].expand(1, len(pixels), 768), x]) + t["positional_embedding"][:, None]
    x = norm(x, "ln_pre")
    attention = nn.MultiheadAttention(768, 12).eval()
    attention.load_state_dict({name.removeprefix("b.attn."): v for name, v in t.items() if name.startswith("b.attn.")})
    y = norm(x, "b.ln_1")
    x = x + attention(y, y, y)[0]
    y = norm(x, "b.ln_2") @ t["b.mlp.c_fc.weight"].T + t["b.mlp.c_fc.bias"]
    x = x + (y * torch.sigmoid(1.702 * y)) @ t["b.mlp.c_proj.weight"].T + t["b.mlp.c_proj.bias"]
    return norm(x[0], "ln_post") @ t["proj"]


# Errors, with a network of two tensors in the place of VGG16.


class Two(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.fc1, self.fc2 = nn.Linear(3, 2), nn.Linear(2, 2)


@pytest.fixture
def two(monkeypatch: pytest.MonkeyPatch) -> dict[str, Tensor]:
    monkeypatch.setattr(vgg16, "VGG16", Two)
    return {
        f"classifier.{c}.{p}": getattr(getattr(Two(), f), p).detach()
        for c, f in ((0, "fc1"), (3, "fc2"))
        for p in ("weight", "bias")
    }


def convert(
    source: Path, target: Path, *, trust: bool = False, any_digest: bool = True, overwrite: bool = False
) -> str:
    return conversion.convert("vgg16", source, target, trust=trust, any_digest=any_digest, overwrite=overwrite)


def test_torchscript_is_not_run_without_trust(two: dict[str, Tensor], tmp_path: Path):
    file = torchscript(tmp_path / "vgg16.pt", {"layers.fc1.weight": torch.zeros(2, 3)})
    with pytest.raises(UsageError, match="is TorchScript: loading it runs code") as caught:
        convert(file, tmp_path / "vgg16.safetensors")
    assert "--trust" in (caught.value.hint or "") and not (tmp_path / "vgg16.safetensors").exists()


def test_a_pickle_with_more_than_tensors_runs_nothing(two: dict[str, Tensor], tmp_path: Path):
    class Bomb:
        def __reduce__(self):
            return (Path.touch, (tmp_path / "ran",))

    for name, save in (("a.pth", torch.save), ("b.pth", lambda what, path: path.write_bytes(pickle.dumps(what)))):
        save({"classifier.0.weight": Bomb()}, tmp_path / name)
        with pytest.raises(IntegrityError, match="cannot be read"):
            convert(tmp_path / name, tmp_path / "vgg16.safetensors")
    assert not (tmp_path / "ran").exists() and not (tmp_path / "vgg16.safetensors").exists()


def test_a_tensor_that_is_absent_or_of_another_shape_is_named_and_nothing_is_written(
    two: dict[str, Tensor], tmp_path: Path
):
    target = tmp_path / "vgg16.safetensors"
    lacking = {name: tensor for name, tensor in two.items() if name != "classifier.3.bias"}
    with pytest.raises(IntegrityError, match="lacks `classifier.3.bias`: it is not vgg16"):
        convert(new_pickle(tmp_path / "a.pth", lacking), target)
    wrong = two | {"classifier.3.bias": torch.zeros(5)}
    with pytest.raises(IntegrityError, match=r"`classifier.3.bias` that make \(5,\), while vgg16 has \(2,\)"):
        convert(new_pickle(tmp_path / "b.pth", wrong), target)
    assert not list(tmp_path.glob("*safetensors*")) and not list(tmp_path.glob("*partial*"))


@pytest.mark.parametrize("name", ["vgg16.pth", "vgg16.pt", "vgg16.safetensors", "vgg16.pb"])
def test_a_truncated_file_cannot_be_read(name: str, two: dict[str, Tensor], tmp_path: Path):
    whole = tmp_path / f"whole-{name}"
    save: Save = {".pt": torchscript, ".safetensors": safe, ".pb": graph}.get(whole.suffix, old_pickle)
    data = save(whole, two).read_bytes()
    (tmp_path / name).write_bytes(data[: len(data) * 2 // 3])
    with pytest.raises(IntegrityError, match=r"cannot be read|no whole GraphDef|not a whole safetensors file"):
        convert(tmp_path / name, tmp_path / "out.safetensors", trust=True)


@pytest.mark.parametrize("save", [old_pickle, new_pickle, safe, graph])
def test_a_damaged_file_is_said_to_be_so_and_never_a_traceback(save: Save, two: dict[str, Tensor], tmp_path: Path):
    suffix = {safe: ".safetensors", graph: ".pb"}.get(save, ".pth")
    data, generator = save(tmp_path / f"whole{suffix}", two).read_bytes(), np.random.default_rng(0)
    file, refused = tmp_path / f"damaged{suffix}", 0
    for _ in range(60):
        damaged = np.frombuffer(data, np.uint8).copy()
        damaged[generator.integers(0, len(data), 4)] = generator.integers(0, 256, 4)
        file.write_bytes(damaged.tobytes())
        try:
            published_files.read(file, trust=False)
        except (IntegrityError, UsageError):
            refused += 1
    assert refused > 5


def test_a_file_is_known_by_its_digest_whatever_it_is_called(
    two: dict[str, Tensor], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
):
    file, target = new_pickle(tmp_path / "renamed.pth", two), tmp_path / "vgg16.safetensors"
    with pytest.raises(IntegrityError, match="is no known file of `vgg16`: its sha256 is") as caught:
        convert(file, target, any_digest=False)
    assert "--any-digest" in (caught.value.hint or "")
    assert app.run(["weights", "convert", "vgg16", str(file), "--out", str(target)]) == Exit.INTEGRITY
    first = vgg16.WEIGHTS.published[0]._replace(sha256=plain_file.file_digest(file, from_disk=True))
    monkeypatch.setattr(vgg16, "WEIGHTS", dataclasses.replace(vgg16.WEIGHTS, published=(first,)))
    assert app.run(["weights", "convert", "vgg16", str(file), "--out", str(target)]) == Exit.DONE
    loaded = vgg16.load(target).loaded
    assert loaded is not None and loaded.is_verified and loaded.published == first.file
    assert loaded.published_digest == plain_file.file_digest(file, from_disk=True)


def test_a_file_of_unknown_digest_is_known_by_name_and_size_and_stays_unverified(
    two: dict[str, Tensor], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
):
    file, target = new_pickle(tmp_path / "some.pth", two), tmp_path / "vgg16.safetensors"
    known = vgg16.WEIGHTS.published[0]._replace(file="some.pth", sha256=None, bytes=file.stat().st_size)
    monkeypatch.setattr(vgg16, "WEIGHTS", dataclasses.replace(vgg16.WEIGHTS, published=(known,)))
    convert(file, target, any_digest=False)
    loaded = vgg16.load(target).loaded
    assert loaded is not None and loaded.published == "some.pth" and not loaded.is_verified
    monkeypatch.setattr(vgg16, "WEIGHTS", dataclasses.replace(vgg16.WEIGHTS, published=(known._replace(bytes=7),)))
    with pytest.raises(IntegrityError, match="is no known file"):
        convert(file, target, any_digest=False, overwrite=True)


def test_the_command_says_what_is_wrong_and_leaves_with_its_code(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
):
    monkeypatch.chdir(tmp_path)
    assert app.run(["weights", "convert", "clip", "ViT-B-32.pt"]) == Exit.MISSING
    out, said = capsys.readouterr()
    assert out == "" and "error: `ViT-B-32.pt` does not exist" in said and "`inrflow weights list clip` lists" in said
    assert "`inrflow weights convert clip ViT-B-32.pt --trust`" in said


def test_an_existing_target_stays(two: dict[str, Tensor], tmp_path: Path):
    file, target = new_pickle(tmp_path / "a.pth", two), tmp_path / "deep" / "vgg16.safetensors"
    first = convert(file, target)
    with pytest.raises(UsageError, match="exists already"):
        convert(file, target)
    assert convert(file, target, overwrite=True) == first
    with pytest.raises(MissingError, match="does not exist"):
        convert(tmp_path / "absent.pth", target)
    with pytest.raises(UsageError, match=r"must end in .safetensors"):
        convert(file, tmp_path / "vgg16.pt")


def test_one_file_alone_loads_torchscript_and_one_command_alone_reads_it(checkout: Path):
    sources = {
        path.relative_to(checkout).as_posix(): path.read_text(encoding="utf-8")
        for folder in ("inrflow_core", "inrflow_cli")
        for path in (checkout / folder).rglob("*.py")
    }
    assert [path for path, text in sources.items() if "torch.jit" in text] == [
        "inrflow_core/weights/published_files.py"
    ]
    assert [path for path, text in sources.items() if "published_files" in text] == [
        "inrflow_core/weights/conversion.py"
    ]
    assert [path for path, text in sources.items() if re.search(r"import .*\bconversion\b", text)] == [
        "inrflow_cli/commands/weights.py"
    ]


def test_constants_of_every_form_are_read_and_damage_is_said(tmp_path: Path):
    tensors = {
        "a/conv2d_params": torch.arange(24.0).reshape(1, 2, 3, 4),
        "a/batchnorm/gamma": torch.full((5,), 1.5),
        "a/batchnorm/beta": torch.tensor([0.1, -2.0]),
        "empty": torch.tensor([3.0]),
    }
    data = graph(tmp_path / "a.pb", tensors).read_bytes()
    result = graph_def.constants(data)
    assert set(result) == set(tensors)
    for name, tensor in tensors.items():
        assert np.array_equal(result[name], tensor.numpy()), name
    for end in (len(data) - 1, len(data) // 2):
        with pytest.raises(IntegrityError, match="no whole GraphDef"):
            graph_def.constants(data[:end])
    with pytest.raises(IntegrityError, match="no whole GraphDef"):
        graph_def.constants(b"\x80\x02}q\x00.")


def field(number: int, wire: int, value: int | bytes) -> bytes:
    """A field on protobuf's wire: a whole number, or bytes with their length."""
    number = number << 3 | wire
    if isinstance(value, int):
        return varint(number) + varint(value)
    return varint(number) + varint(len(value)) + value


def varint(value: int) -> bytes:
    low, rest = value & 0x7F, value >> 7
    return bytes([low | 0x80]) + varint(rest) if rest else bytes([low])


def constant(shape: tuple[int, ...], floats: bytes) -> bytes:
    """A GraphDef with one constant of float32."""
    sides = b"".join(field(2, graph_def.BYTES, field(1, graph_def.VARINT, side)) for side in shape)
    tensor = field(1, graph_def.VARINT, graph_def.FLOAT) + field(2, graph_def.BYTES, sides) + floats
    value = field(1, graph_def.BYTES, b"value") + field(2, graph_def.BYTES, field(8, graph_def.BYTES, tensor))
    node = [field(number, graph_def.BYTES, part) for number, part in ((1, b"a"), (2, b"Const"), (5, value))]
    return field(1, graph_def.BYTES, b"".join(node))


ONE = field(5, graph_def.BYTES, np.float32(1).tobytes())
TOO_LARGE = {
    "a whole number among floats": (constant((1,), field(5, graph_def.VARINT, 2**40)), "a field of kind 0"),
    "2^69": (constant((2**69,), ONE), "larger than the file can hold"),
    "2^38, a tebibyte": (constant((2**38,), ONE), "larger than the file can hold"),
    "2^20 by 2^20": (constant((2**20, 2**20), ONE), "larger than the file can hold"),
    "a thousand dimensions": (constant((2,) * 1000, ONE), "a constant of 1000 dimensions"),
    "0 by 2^69": (constant((0, 2**69), b""), "larger than the file can hold"),
    "many of the size of the file": (
        constant((40,), ONE) * 50 + constant((4000,), ONE),
        "larger than the file can hold",
    ),
}


@pytest.mark.parametrize(("data", "message"), TOO_LARGE.values(), ids=TOO_LARGE)
def test_sizes_that_a_graph_cannot_hold_are_damage(data: bytes, message: str):
    with pytest.raises(IntegrityError, match=f"no whole GraphDef: .*{message}"):
        graph_def.constants(data)


def test_one_number_fills_a_whole_constant():
    assert np.array_equal(graph_def.constants(constant((3, 4), ONE))["a"], np.ones((3, 4)))
