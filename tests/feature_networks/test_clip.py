"""CLIP's image encoder, on two of its twelve blocks."""

from __future__ import annotations

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from torch import nn

from inrflow_core.feature_networks import _clip_vit, clip
from inrflow_core.feature_networks._image_features import Extractor
from tests.feature_networks import published

FEW = 2


@pytest.fixture(scope="module")
def extractor(tmp_path_factory: pytest.TempPathFactory):
    path = tmp_path_factory.mktemp("weights") / "clip.safetensors"
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(clip, "LAYERS", FEW)
        network = clip.ImageEncoder()
        published.randomize(network)
        published.write(path, network.state_dict(), published.metadata(clip.WEIGHTS))
        yield clip.load(path)


def some(count: int, channels: int = 3, shape: tuple[int, int] = (60, 60)) -> np.ndarray:
    return np.random.default_rng(0).integers(0, 256, (count, *shape, channels), dtype=np.uint8)


def test_parameters_are_as_many_as_published():
    """OpenAI's `visual` has 87,849,216."""
    with torch.device("meta"):
        network = clip.ImageEncoder()
    assert sum(p.numel() for p in network.parameters()) == 87_849_216


def test_a_block_is_torchs_attention_and_an_mlp(extractor: Extractor):
    """Against nn.MultiheadAttention, in whose layout the published weights are."""
    block = extractor.network.get_submodule("blocks.1")
    assert isinstance(block, _clip_vit.Block)
    attention = nn.MultiheadAttention(clip.WIDTH, clip.HEADS, batch_first=True)
    assert attention.in_proj_weight is not None and attention.in_proj_bias is not None
    attention.load_state_dict(
        {
            "in_proj_weight": block.attention_in.weight,
            "in_proj_bias": block.attention_in.bias,
            "out_proj.weight": block.attention_out.weight,
            "out_proj.bias": block.attention_out.bias,
        }
    )
    x = torch.randn(2, 50, clip.WIDTH, generator=torch.Generator().manual_seed(0))
    with torch.inference_mode():
        y = F.layer_norm(x, (clip.WIDTH,), block.norm_1.weight, block.norm_1.bias, 1e-5)
        y = x + attention(y, y, y, need_weights=False)[0]
        z = block.mlp_in(F.layer_norm(y, (clip.WIDTH,), block.norm_2.weight, block.norm_2.bias, 1e-5))
        expected = y + block.mlp_out(z / (1 + torch.exp(-1.702 * z)))
        torch.testing.assert_close(block(x), expected, rtol=1e-4, atol=1e-4)


def test_the_embedding_is_not_normalized_and_depends_on_where_things_are(extractor: Extractor):
    image = some(1, shape=(224, 224))
    turned = np.ascontiguousarray(image[:, ::-1])
    embeddings = extractor(np.concatenate([image, turned]), ("embedding",), "openai")["embedding"]
    assert embeddings.shape == (2, 512) and not torch.allclose(embeddings[0], embeddings[1], rtol=1e-2, atol=1e-2)
    assert abs(float(embeddings[0].norm()) - 1) > 0.1


def test_preprocessings_agree_on_an_image_of_the_networks_size_and_not_on_a_long_one(extractor: Extractor):
    for shape, is_same in (((224, 224), True), ((224, 320), False)):
        images = some(1, shape=shape)
        openai, inrflow = (extractor(images, ("embedding",), form)["embedding"] for form in clip.PREPROCESSING)
        assert torch.allclose(openai, inrflow, rtol=1e-3, atol=1e-3) == is_same


def test_company_and_gray_change_nothing(extractor: Extractor):
    images = some(5)
    together = extractor(images, ("embedding",), "openai")["embedding"]
    alone = extractor(images[3:4], ("embedding",), "openai")["embedding"]
    torch.testing.assert_close(together[3:4], alone, rtol=1e-4, atol=1e-4)
    gray = some(1, 1)
    of_gray, repeated = (
        extractor(g, ("embedding",), "openai")["embedding"] for g in (gray, np.repeat(gray, 3, axis=3))
    )
    torch.testing.assert_close(of_gray, repeated, rtol=1e-4, atol=1e-4)
