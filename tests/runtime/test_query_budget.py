"""Out-of-memory errors and cached embeddings: neither changes a sample."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path
from unittest import mock

import numpy as np
import pytest
import torch

from inrflow_core.errors import OutOfMemory
from inrflow_core.runtime.memory import is_out_of_memory
from inrflow_core.runtime.query_budget import MIN_CHUNK, QueryBudget
from inrflow_core.sampling import options, sample
from inrflow_core.sampling.request import SampleRequest
from tests import tiny

FULL = "DefaultCPUAllocator: can't allocate memory: you tried to allocate 123 bytes"


@pytest.fixture(scope="module")
def model():
    return tiny.model(tiny.IMAGE)


def drawn(model, size=(24, 24), budget=None, **how) -> np.ndarray:
    field = sample.sample_fields(model, [3, 4], [0, 1], options.sampling_options(model, guidance=2.0, **how))
    return field.query(model.domain.queries(size), chunk=budget or QueryBudget(4096)).numpy()


def failing(function, calls: set[int], error: Exception):
    """The function, whose calls of those numbers fail after they did their work."""
    count = 0

    def call(*arguments, **named):
        nonlocal count
        count += 1
        result = function(*arguments, **named)
        if count in calls:
            raise error
        return result

    return call


ERRORS = [RuntimeError(FULL), MemoryError(), torch.OutOfMemoryError("CUDA out of memory")]
SAMPLERS = [("euler", {"steps": 4}), ("heun", {"steps": 3}), ("euler-maruyama", {"steps": 4}), ("dopri5", {})]


@pytest.mark.parametrize(
    ("sampler", "settings", "error"), [(*sampler, ERRORS[place % 3]) for place, sampler in enumerate(SAMPLERS)]
)
def test_a_chunk_that_does_not_fit_is_halved_and_no_pair_is_carried_twice(model, sampler, settings, error):
    settings = settings | {"sampler": sampler}
    expected = drawn(model, **settings)
    warnings: list[str] = []
    budget = QueryBudget(512, warn=warnings.append)
    with mock.patch.object(model.method.network, "decode", failing(model.method.network.decode, {9, 23, 24}, error)):
        result = drawn(model, budget=budget, **settings)
    np.testing.assert_allclose(result, expected, atol=2e-5)
    assert budget.chunk in (128, 256) and budget.max_cached == 0  # the cache is dropped first
    assert len(warnings) == 1 and "the samples do not change" in warnings[0]


def test_an_error_of_another_kind_comes_through(model):
    broken = failing(model.method.network.decode, {5}, RuntimeError("shapes cannot be multiplied"))
    with mock.patch.object(model.method.network, "decode", broken), pytest.raises(RuntimeError, match="multiplied"):
        drawn(model)


def test_where_the_least_chunk_does_not_fit_the_batch_is_halved_and_in_the_end_it_is_an_error(model):
    request = SampleRequest(range(8), list(range(3)) * 2 + [0, 1], (24, 24), batch=8)
    expected = np.concatenate([values for _, values in sample.iter_samples(model, request)])
    decode = model.method.network.decode

    def narrow(queries, values, *rest):
        if len(values) > 2:
            raise MemoryError
        return decode(queries, values, *rest)

    warnings: list[str] = []
    budget = QueryBudget(1024, warn=warnings.append)
    with mock.patch.object(model.method.network, "decode", narrow):
        result = list(sample.iter_samples(model, request, budget=budget))
    assert [part for part, _ in result] == [slice(start, start + 2) for start in (0, 2, 4, 6)]
    difference = np.concatenate([values for _, values in result]).astype(int) - expected
    assert np.abs(difference).max() <= 1 and budget.batch == 2 and len(warnings) == 1
    with (
        mock.patch.object(model.method.network, "decode", mock.Mock(side_effect=MemoryError)),
        pytest.raises(OutOfMemory, match="not enough memory to draw one sample"),
    ):
        list(sample.iter_samples(model, request, budget=QueryBudget(1024)))


def test_chunks_are_not_halved_below_the_least():
    budget, sizes = QueryBudget(1000), []

    def never(part: slice) -> None:
        sizes.append(part.stop - part.start)
        raise MemoryError

    with pytest.raises(OutOfMemory, match=f"not enough memory for {MIN_CHUNK} queries at once"):
        budget.run_in_chunks(3000, 1, never)
    assert sizes == [1000, 500, 250, 125, 64]
    sizes.clear()
    with pytest.raises(OutOfMemory, match=f"not enough memory for {MIN_CHUNK} queries at once"):
        QueryBudget(100).run_in_chunks(3000, 1, never, times=16)
    assert sizes == [1600, 800, 400, 200, 100, 64], "functions of little memory take smaller slices first"
    sizes.clear()
    with pytest.raises(OutOfMemory, match="not enough memory for 100 queries at once"):
        QueryBudget(1000).run_in_chunks(3000, 100, never)  # more sets than `MIN_CHUNK`: one query of each is the end
    assert sizes == [10, 5, 2, 1]


def test_every_way_to_say_that_memory_is_out_is_understood():
    for text in (
        "CUDA error: out of memory",
        "CUDA driver error: out of memory",
        "CUBLAS_STATUS_ALLOC_FAILED",
        "std::bad_alloc",
        FULL,
    ):
        assert is_out_of_memory(RuntimeError(text))
    assert not is_out_of_memory(RuntimeError("index out of range")) and not is_out_of_memory(ValueError(FULL))


def test_positions_are_embedded_once_for_all_steps_halves_and_samples(model):
    network, request = model.method.network, SampleRequest(range(4), [0] * 4, (24, 24), chunk=288, batch=2)
    how = options.sampling_options(model, guidance=2.0)
    with mock.patch.object(network.decoder, "embed", wraps=network.decoder.embed) as embed:
        once = np.concatenate([values for _, values in sample.iter_samples(model, request, how)])
    assert sum(len(call.args[0]) for call in embed.call_args_list) == 576 + 36  # the queries, and the context
    none = QueryBudget(288, max_cached=0)
    with mock.patch.object(network.decoder, "embed", wraps=network.decoder.embed) as embed:
        again = np.concatenate([values for _, values in sample.iter_samples(model, request, how, budget=none)])
    assert sum(len(call.args[0]) for call in embed.call_args_list) == 2 * 4 * (576 + 36)  # both halves share them
    np.testing.assert_array_equal(once, again)
    assert none.bytes_cached() == 0


def test_cached_embeddings_stay_within_their_limit_and_belong_to_the_grid_evaluated(model):
    row = 32 * 4  # a decoder of width 32
    budget = QueryBudget(64, max_cached=96 * row)
    for size in ((24, 24), (7, 9), (24, 24)):
        np.testing.assert_allclose(drawn(model, size, budget), drawn(model, size), atol=2e-5)
        assert budget.bytes_cached() == (36 + 32) * row  # the context, and one run of the queries


def test_guidance_encodes_once_and_makes_the_decoders_keys_once_for_each_evaluation(model):
    network = model.method.network
    with (
        mock.patch.object(network, "encode", wraps=network.encode) as encode,
        mock.patch.object(network, "latents", wraps=network.latents) as latents,
        mock.patch.object(network, "decoder_kv", wraps=network.decoder_kv) as decoder_kv,
    ):
        drawn(model, budget=QueryBudget(64), steps=5)
    assert (encode.call_count, latents.call_count, decoder_kv.call_count) == (5, 10, 10)


def test_moving_points_keep_nothing():
    clouds, budget = tiny.model(tiny.POINTS), QueryBudget(64)
    sample.sample_fields(clouds, [3], [0]).query(clouds.domain.queries(200), chunk=budget)
    assert budget.bytes_cached() == 0


LIMITED = """
import resource, sys
from pathlib import Path
import torch
from inrflow_core import models
from inrflow_core.runtime.query_budget import QueryBudget
from inrflow_core.sampling import options, sample
torch.set_num_threads(1)
model = models.load(Path(sys.argv[1]))
how = options.sampling_options(model, guidance=2.0)
def draw(chunk):
    budget = QueryBudget(chunk, warn=lambda text: print(text))
    field = sample.sample_fields(model, [3], [1], how)
    return field.query(model.domain.queries((512, 512)), chunk=budget), budget
wanted, _ = draw(1024)
used = int(open("/proc/self/statm").read().split()[0]) * 4096
resource.setrlimit(resource.RLIMIT_AS, (used + int(sys.argv[2]), -1))
found, budget = draw(1 << 18)
assert (found - wanted).abs().max() < 1e-4, (found - wanted).abs().max()
print(budget.chunk)
"""


@pytest.mark.slow
def test_a_real_limit_of_memory_is_met_by_smaller_chunks(tmp_path: Path):
    tiny.run_folder(tmp_path / "run", tiny.IMAGE, network={"width": 64}, sampler={"steps": 3})
    weights = tmp_path / "run/checkpoints/00000002/ema_0.999.safetensors"
    command = [sys.executable, "-c", LIMITED, str(weights), str(200 << 20)]
    done = subprocess.run(
        command,
        capture_output=True,
        text=True,
        cwd=Path(__file__).parents[2],
        env=os.environ | {"OMP_NUM_THREADS": "1"},
    )
    assert done.returncode == 0, done.stderr
    *warnings, chunk = done.stdout.splitlines()
    assert MIN_CHUNK < int(chunk) < 1 << 18 and len(warnings) == 1 and "out of memory" in warnings[0]
