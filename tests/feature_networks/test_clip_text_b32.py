"""CLIP's text encoder of ViT-B/32, on one of its twelve blocks and few tokens."""

from __future__ import annotations

from pathlib import Path

import pytest
import safetensors.torch
import torch

from inrflow_core.errors import IntegrityError, MissingError
from inrflow_core.feature_networks import clip_text_b32
from inrflow_core.feature_networks.clip_text_b32 import TextExtractor
from inrflow_core.weights import conversion, published_layouts
from tests.feature_networks import hf_folders, published

TEXTS = ["a tall cone", "cone", "", "a tall cone " * 40]


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder as Hugging Face distributes CLIP, for its tokenizer."""
    return hf_folders.clip(tmp_path_factory.mktemp("whole"))


@pytest.fixture(scope="module")
def extractor(folder: Path, tmp_path_factory: pytest.TempPathFactory):
    with pytest.MonkeyPatch.context() as patch:
        yield published.clip_text_file(patch, tmp_path_factory.mktemp("weights"), folder / "tokenizer.json")


def embedded(extractor: TextExtractor, texts: list[str]) -> torch.Tensor:
    return extractor(texts, ("embedding",), "openai")["embedding"]


def test_parameters_are_as_many_as_published():
    """Those of the whole network, 151,277,313, without the images' 87,849,216 and the temperature."""
    with torch.device("meta"):
        network = clip_text_b32.TextEncoder()
    assert sum(p.numel() for p in network.parameters()) == 151_277_313 - 87_849_216 - 1


def test_the_embedding_is_that_of_transformers(extractor: TextExtractor):
    transformers = pytest.importorskip("transformers")
    config = transformers.CLIPTextConfig(
        vocab_size=50, hidden_size=512, intermediate_size=2048, num_hidden_layers=1, num_attention_heads=8,
        projection_dim=512, max_position_embeddings=77, eos_token_id=2, bos_token_id=1, pad_token_id=0,
    )  # fmt: skip
    model = transformers.CLIPTextModelWithProjection(config).eval()
    model.load_state_dict(published.clip_text_by_hugging_face(extractor.network.state_dict()), strict=False)
    for text in TEXTS[:2]:
        ids = torch.tensor([extractor.tokenizer.encode(text).ids])
        with torch.inference_mode():
            mark = model.text_model(input_ids=ids).last_hidden_state[:, -1]
            expected = model.text_projection(mark)
        torch.testing.assert_close(embedded(extractor, [text]), expected, rtol=1e-4, atol=1e-4)


def test_a_text_depends_on_itself_alone_and_on_the_order_of_its_words(extractor: TextExtractor):
    together = embedded(extractor, TEXTS)
    assert together.shape == (4, 512) and bool(together.isfinite().all())
    for row, text in enumerate(TEXTS):
        torch.testing.assert_close(together[row], embedded(extractor, [text])[0], rtol=1e-5, atol=1e-5)
    turned = embedded(extractor, ["cone tall a"])[0]
    assert float((turned - together[0]).abs().max()) > 1e-4


def test_a_missing_or_other_tokenizer_is_an_error(extractor: TextExtractor, folder: Path, tmp_path: Path):
    file = tmp_path / "clip-text-b32.safetensors"
    about = published.metadata(clip_text_b32.WEIGHTS)
    published.write(file, extractor.network.state_dict(), about)
    with pytest.raises(MissingError, match="holds no `clip-text-b32-tokenizer.json`"):
        clip_text_b32.load(file)
    large = hf_folders.clip(tmp_path / "large", words=tuple(f"word{n}" for n in range(100)), vocabulary=200)
    (tmp_path / "clip-text-b32-tokenizer.json").write_bytes((large / "tokenizer.json").read_bytes())
    with pytest.raises(IntegrityError, match="has 103 tokens, and the network beside it has 50"):
        clip_text_b32.load(file)


def test_both_published_layouts_are_one_network(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr(clip_text_b32, "LAYERS", 1)
    monkeypatch.setattr(clip_text_b32, "TOKENS", 50)
    network = clip_text_b32.TextEncoder()
    published.randomize(network)
    own = network.state_dict()
    for stored in (published.clip_text_by_hugging_face(own), published.clip_text_by_openai(own)):
        layout = published_layouts.nearest("clip-text-b32", own, stored)
        for name, tensor in own.items():
            recipe = layout(name)
            torch.testing.assert_close(recipe.make(*(stored[part] for part in recipe.names)), tensor, rtol=0, atol=0)
    file, target = tmp_path / "pytorch_model.bin", tmp_path / "clip-text-b32.safetensors"
    torch.save(published.clip_text_by_hugging_face(own), file)
    conversion.convert("clip-text-b32", file, target, any_digest=True)
    converted = safetensors.torch.load_file(target)
    assert converted.keys() == own.keys() and all(torch.equal(converted[name], own[name]) for name in own)
