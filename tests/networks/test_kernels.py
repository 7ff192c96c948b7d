"""What attention hands to torch, so that a GPU can take its quickest kernel (flash attention) for it.

Its rules, from torch's documentation and source: bf16 or fp16 in all three, numbers of a head side by side in memory, at
most 256 of them and a multiple of 8, no mask. Which kernel is then taken was not seen on a GPU.
"""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import pytest
import torch
from torch.nn import functional

from inrflow_core import models
from inrflow_core.numerics import keyed_random
from inrflow_core.sets import TrainBatch
from tests import tiny
from tools import preset_table

ROOT = Path(__file__).resolve().parents[2]
WIDE = {"width": 32, "heads": 4}
KINDS = {
    "image": (tiny.IMAGE, WIDE),
    "points": (tiny.POINTS, WIDE),
    "picture": (tiny.IMAGE_TO_POINTS, WIDE),
    "protein": (tiny.PROTEIN, WIDE),
}


def calls_of_torch(name: str, monkeypatch: pytest.MonkeyPatch, *, count: int = 2) -> list[dict]:
    """The arguments of every attention in a training loss of a small model under bf16."""
    kind, network = KINDS[name]
    model = models.build(tiny.preset(kind, network=network))
    model.method.train()
    blank = model.domain.dummy_batch(count)
    seeds = keyed_random.derive_seeds(0, 0, torch.arange(count))
    condition = {"label": torch.zeros(count, dtype=torch.int64)} if name in ("image", "points") else {}
    condition = {
        **blank.condition,
        **condition,
        **(model.method.conditioner.dummy_batch(blank) if name == "picture" else {}),
    }
    values = torch.randn(blank.values.shape, generator=torch.Generator().manual_seed(0))
    result = []
    attention = functional.scaled_dot_product_attention

    def noted(q, k, v, attn_mask=None, **rest):
        result.append({"q": q, "k": k, "v": v, "mask": attn_mask})
        return attention(q, k, v, attn_mask=attn_mask, **rest)

    monkeypatch.setattr(functional, "scaled_dot_product_attention", noted)
    with torch.autocast("cpu", torch.bfloat16):
        model.method.loss(
            TrainBatch.from_sets(replace(blank, values=values, seeds=seeds, condition=condition))
        ).mean().backward()
    assert result
    return result


@pytest.mark.parametrize("name", KINDS)
def test_every_attention_without_padding_may_be_flash_attention(name, monkeypatch):
    for one in calls_of_torch(name, monkeypatch):
        assert one["mask"] is None
        for part in (one["q"], one["k"], one["v"]):
            assert part.dtype == torch.bfloat16 and part.stride(-1) == 1 and part.shape[-1] % 8 == 0


UNEVEN = {"objects-own-demo"}
"""Presets whose heads have another number of numbers, 28, as the weights that come with inrflow have: small models for a CPU."""


@pytest.mark.parametrize(
    "path",
    [path for path in sorted((ROOT / "presets").glob("*.toml")) if path.stem not in UNEVEN],
    ids=lambda path: path.stem,
)
def test_the_heads_of_every_preset_have_a_multiple_of_eight_numbers(path):
    for part in preset_table.load(path.stem).networks.values():
        config = part.config
        sizes = [config.width // config.heads] if hasattr(config, "heads") else []
        has_decoder_heads = hasattr(config, "query_heads") and config.decoder == "attention"
        sizes += [config.query_width // config.query_heads] if has_decoder_heads else []
        assert all(size % 8 == 0 and size <= 256 for size in sizes)
