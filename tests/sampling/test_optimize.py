"""Models made ready for many evaluations draw what they drew before."""

from __future__ import annotations

import subprocess
import sys
from dataclasses import replace
from pathlib import Path
from unittest import mock

import numpy as np
import pytest
import torch

from inrflow_core.sampling import optimize, options, sample
from inrflow_core.sampling.request import SampleRequest
from tests import tiny

KINDS = {
    "image": tiny.IMAGE,
    "points": tiny.POINTS,
    "linear": {**tiny.IMAGE, "network": {**tiny.IMAGE["network"], "encoder": "linear"}},
}


def values(model, how, size) -> np.ndarray:
    field = sample.sample_fields(model, [3, 4], [0, 1], how)
    return field.query(model.domain.queries(size)).numpy()


@pytest.mark.parametrize("kind", KINDS)
def test_weights_that_are_cast_once_draw_the_bits_that_autocast_draws(kind):
    model = tiny.model(KINDS[kind])
    size = 40 if kind == "points" else (9, 7)
    how = options.sampling_options(model, guidance=2.0, precision="bf16")
    expected, before = values(model, how, size), model.method.network.decoder.blocks[0].inner.weight
    ready, quick = optimize.optimize_for_inference(model, replace(how, guide=model.method.velocity_model()))
    assert quick.guide.network is not model.method.network
    ready, quick = optimize.optimize_for_inference(model, how)
    np.testing.assert_array_equal(values(ready, quick, size), expected)
    network = ready.method.network
    assert network.decoder.blocks[0].inner.weight.dtype == torch.bfloat16
    assert network.decoder.final.weight.dtype == torch.float32
    assert network.decoder.tokens.value.weight is model.method.network.decoder.tokens.value.weight
    assert model.method.network.decoder.blocks[0].inner.weight is before and before.dtype == torch.float32


def test_bf16_leaves_the_noise_and_the_state_in_fp32_and_errs_by_its_rounding():
    model = tiny.model(tiny.IMAGE)
    exact = values(model, options.sampling_options(model, guidance=2.0), (6, 6))
    half, how = optimize.optimize_for_inference(model, options.sampling_options(model, guidance=2.0, precision="bf16"))
    result = values(half, how, (6, 6))
    error = np.sqrt(np.square(result - exact).mean() / np.square(exact).mean())
    assert result.dtype == np.float32 and 1e-5 < error < 0.02


@pytest.mark.slow
@pytest.mark.parametrize("kind", ["image", "points"])
def test_compiled_parts_draw_the_same_samples_and_the_last_run_and_batch_compile_nothing_anew(kind):
    # In a process of its own: what the tests hang on every function to check shapes, does not compile.
    code = f"from tests.sampling import test_optimize; test_optimize.compare({kind!r})"
    subprocess.run([sys.executable, "-c", code], cwd=Path(__file__).parents[2], check=True)


def compare(kind: str) -> None:
    """Draw with compiled parts and without, and count what was compiled."""
    model = tiny.model(KINDS[kind], sampler={"name": "heun", "steps": 2})
    size = 100 if kind == "points" else (10, 10)
    how = options.sampling_options(model, guidance=2.0)
    request = SampleRequest(range(5), [0, 1, 2, 0, 1], size, chunk=2 * 64, batch=2)
    expected = np.concatenate([sampled for _, sampled in sample.iter_samples(model, request, how)])
    ready, quick = optimize.optimize_for_inference(model, how, compile=True)
    counted, result, graphs = torch._dynamo.utils.counters["stats"], [], []
    for _, sampled in sample.iter_samples(ready, request, quick):
        result.append(sampled)
        graphs.append(counted["unique_graphs"])
    # Encoder, trunk, keys and values, and the decoder: for the context, for 64 queries, which the last 36 are padded to.
    assert graphs == [5, 5, 5], graphs
    most = 1.0 if kind == "image" else 1e-4
    assert np.abs(np.concatenate(result).astype(float) - expected.astype(float)).max() <= most


def test_a_run_of_queries_is_padded_to_a_size_that_is_compiled_unless_it_is_half_of_it():
    model = tiny.model(tiny.IMAGE)
    with mock.patch.object(torch, "compile", lambda part, **_: part):
        network = optimize.CompiledNetwork(model.method.network)
    queries, reported = model.domain.queries((10, 10)), model.method.embed_condition({"label": torch.tensor([1])})
    y, t = torch.randn(1, 100, 1), torch.tensor([0.5])
    memory = network.decoder_kv(
        network.latents(network.encode(model.domain.queries(), y[:, :36], None, reported), t, reported)
    )
    whole = network.decode(queries, y, memory)
    for count, sizes in ((60, [100]), (50, [50, 100]), (30, [50, 100]), (20, [20, 50, 100])):
        part = slice(0, count)
        torch.testing.assert_close(network.decode(queries[part], y[:, part], memory), whole[:, part])
        assert network.sizes == sizes
