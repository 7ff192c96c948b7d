"""The demo presets at full size: their samples depend on the seed alone, to what rounding allows.

The weights are random and large instead of trained, so that the samples are far from the noise that they begin with.
"""

from __future__ import annotations

import pytest
import torch

from inrflow_core import generate, models, noise, presets
from inrflow_core.models import Model
from inrflow_core.sets import Told
from tests import tiny

FINER = {"digits-demo": (24, 24), "solids-demo": 700}


@pytest.fixture(scope="module", params=list(FINER))
def model(request: pytest.FixtureRequest) -> Model:
    torch.manual_seed(0)
    model = models.build(presets.load(request.param))
    tiny.randomise(model.method, 1.0)
    model.method.eval().requires_grad_(False)
    return model


def test_a_whole_sample_is_the_same_in_any_batch_and_chunk_and_at_any_resolution(model: Model):
    queries = model.domain.queries()
    together = generate.draw(model, [3, 4, 5], [1, 2, 3]).query(queries)[1]
    finer = model.domain.queries(FINER[model.preset.name])
    alone = generate.draw(model, [4], [2]).query(finer, chunk=100)[0]
    held = alone.view(24, 24, 1)[1::3, 1::3].flatten(0, 1) if model.domain.NAME == "image" else alone[:256]
    torch.testing.assert_close(held, together, rtol=0, atol=1e-4)
    start = noise.normal(torch.tensor([4]), queries.places, purpose="start", channels=held.shape[-1])[0]
    assert (together - start).square().mean().sqrt() > 0.3


def test_one_velocity_is_the_same_in_any_batch_and_chunk_to_1e_5_of_its_rms(model: Model):
    queries, network = model.domain.queries(), model.method.network
    y = noise.normal(torch.arange(3), queries.places, purpose="start", channels=model.domain.shape.value_size)
    t = torch.tensor([0.9, 0.5, 0.1])
    told = model.method.told({"label": torch.tensor([1, 2, 3])})
    whole = network(queries, y, t, told, queries, y)
    for row in range(3):
        only = slice(row, row + 1)
        vector = None if told.vector is None else told.vector[only]
        found = network(queries, y[only], t[only], Told(vector), queries[10:31], y[only, 10:31])
        error = (found - whole[only, 10:31]).square().mean().sqrt()
        assert error < 1e-5 * whole.square().mean().sqrt()
