"""ESM-2: a folder as it is published is read, and a residue's token depends on its own sequence alone."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
import torch

from inrflow_core.errors import IntegrityError, MissingError, UsageError
from inrflow_core.feature_networks import esm2
from inrflow_core.proteins.residues import LETTERS

CONFIG = {
    "vocab_size": 33, "mask_token_id": 32, "pad_token_id": 1, "hidden_size": 32, "num_hidden_layers": 3,
    "num_attention_heads": 4, "intermediate_size": 64, "max_position_embeddings": 1026, "token_dropout": True,
    "position_embedding_type": "rotary", "emb_layer_norm_before": False, "layer_norm_eps": 1e-5,
    "hidden_dropout_prob": 0.0, "attention_probs_dropout_prob": 0.0,
}  # fmt: skip
"""Of the published models but for its width, depth and heads."""


def published(folder: Path, **settings: int) -> Path:
    """A folder of random weights with the names that Hugging Face distributes: a masked language model around the
    network, its rotary frequencies in every layer, position embeddings that are not used."""
    transformers = pytest.importorskip("transformers")
    from safetensors.torch import load_file, save_file

    torch.manual_seed(0)
    model = transformers.EsmForMaskedLM(transformers.EsmConfig(**(CONFIG | settings)))
    for tensor in model.parameters():
        if tensor.dim() == 1:  # norms and biases begin alike; real ones are not
            torch.nn.init.normal_(tensor, mean=float(tensor.detach().mean()), std=0.2)
    model.save_pretrained(folder)
    tensors = load_file(folder / "model.safetensors")
    shared = tensors.pop("esm.rotary_embeddings.inv_freq", model.esm.rotary_embeddings.inv_freq)
    for layer in range(model.config.num_hidden_layers):
        tensors[f"esm.encoder.layer.{layer}.attention.self.rotary_embeddings.inv_freq"] = shared.clone()
    tensors["esm.embeddings.position_embeddings.weight"] = torch.randn(1026, model.config.hidden_size)
    save_file(tensors, folder / "model.safetensors", metadata={"format": "pt"})
    (folder / "vocab.txt").write_text("\n".join(esm2.VOCABULARY), encoding="utf-8")
    return folder


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return published(tmp_path_factory.mktemp("weights") / "esm2")


def sequences(*lengths: int) -> list[str]:
    generator = np.random.default_rng(0)
    return ["".join(generator.choice(list(LETTERS), length)) for length in lengths]


def test_tokens_are_those_of_transformers_with_its_own_tokeniser(folder: Path) -> None:
    transformers = pytest.importorskip("transformers")
    tokeniser = transformers.EsmTokenizer(str(folder / "vocab.txt"))
    model = transformers.EsmForMaskedLM.from_pretrained(folder).eval()
    embedder = esm2.load(folder)
    assert embedder.width == 32
    for text in [LETTERS, *sequences(5, 60)]:
        with torch.no_grad():
            theirs = model.esm(**tokeniser(text, return_tensors="pt")).last_hidden_state[0, 1:-1]
        [ours] = embedder([text])
        np.testing.assert_allclose(ours, theirs.numpy(), atol=2e-6)
        assert ours.dtype == np.float32 and ours.std() > 0.1


def test_a_padded_batch_gives_what_each_gets_alone(folder: Path) -> None:
    embedder = esm2.load(folder)
    texts = sequences(7, 300, 41, 1, 300)
    for text, together in zip(texts, embedder(texts), strict=True):
        [alone] = embedder([text])
        assert together.shape == (len(text), 32)
        np.testing.assert_allclose(together, alone, atol=1e-5)


def test_a_token_depends_on_its_neighbors(folder: Path) -> None:
    embedder = esm2.load(folder)
    one, other = embedder(["GAGAG", "GAWAG"])
    assert np.abs(one[0] - other[0]).max() > 1e-3


def test_long_sequences_are_read_in_windows_that_share_them_without_gap_or_overlap() -> None:
    for length in (1, 1022, 1023, 1500, 2044, 2045, 5000):
        starts = esm2.window_starts(length)
        shares = [esm2.window_core(length, start) for start in starts]
        assert [start for share in shares for start in range(*share)] == list(range(length))
        for start, (first, last) in zip(starts, shares, strict=True):
            assert start <= first and last <= start + esm2.MAX_RESIDUES
            if length > esm2.MAX_RESIDUES:  # inside a long sequence a residue sees at least a quarter window either way
                assert first == 0 or first - start >= 255
                assert last == length or start + esm2.MAX_RESIDUES - last >= 255
    assert esm2.window_starts(1022) == [0] and esm2.window_starts(1023) == [0, 1]


def test_the_tokens_of_a_window_are_those_of_its_part_of_the_sequence(folder: Path) -> None:
    embedder = esm2.load(folder)
    [text] = sequences(1600)
    [whole] = embedder([text])
    for start in esm2.window_starts(1600):
        first, last = esm2.window_core(1600, start)
        [part] = embedder([text[start : start + 1022]])
        np.testing.assert_allclose(whole[first:last], part[first - start : last - start], atol=1e-5)


def test_other_vocabularies_networks_and_letters_are_refused(folder: Path, tmp_path: Path) -> None:
    with pytest.raises(UsageError, match="no amino acid: `X` at 2"):
        esm2.load(folder)(["GXG"])
    with pytest.raises(MissingError, match="weights of `esm2` are absent") as caught:
        esm2.load(tmp_path / "none")
    assert "facebook/esm2_t33_650M_UR50D" in str(caught.value.hint)
    other = published(tmp_path / "other")
    (other / "vocab.txt").write_text("\n".join(sorted(esm2.VOCABULARY)), encoding="utf-8")
    with pytest.raises(IntegrityError, match=r"is not an ESM-2: it has 33 tokens, or its `vocab.txt`"):
        esm2.load(other)
    config = json.loads((folder / "config.json").read_text())
    (other / "config.json").write_text(json.dumps(config | {"hidden_size": 64}))
    with pytest.raises(IntegrityError, match=r"the tensor `.*` is \[.*32.*\], not \[.*64.*\]"):
        esm2.load(other)
    larger = published(tmp_path / "larger", vocab_size=40)
    with pytest.raises(IntegrityError, match="has 40 tokens"):
        esm2.load(larger)


@pytest.mark.slow
def test_the_published_shape_of_650_million_loads_and_gives_width_1280(tmp_path: Path) -> None:
    import psutil

    if psutil.virtual_memory().available < 10 << 30:
        pytest.skip("less than 10 GB of memory are free")
    shape = {"hidden_size": 1280, "num_hidden_layers": 33, "num_attention_heads": 20, "intermediate_size": 5120}
    embedder = esm2.load(published(tmp_path / "esm2", **shape))
    count = sum(tensor.numel() for name, tensor in embedder.network.named_parameters() if "contact_head" not in name)
    assert count == 649_400_320  # as the model card of esm2_t33_650M_UR50D rounds it
    [tokens] = embedder(["GAGAG"])
    assert tokens.shape == (5, 1280) and np.isfinite(tokens).all()
