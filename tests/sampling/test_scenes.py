"""Scenes: a field is rendered at cameras of any number, and a view does not depend on the others."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from inrflow_core.fields import Orbit
from inrflow_core.models import Model
from inrflow_core.sampling import sample
from tests import tiny


@pytest.fixture(scope="module")
def model() -> Model:
    return tiny.model(tiny.RADIANCE)


def test_a_turntable_is_rendered_view_by_view(model: Model):
    field = sample.sample_fields(model, [3, 4])
    views = sample.evaluate(model, field, Orbit(6, 10, 3))
    assert views.shape == (2, 3, 6, 10, 3) and len(np.unique(views)) > 30
    queries = model.domain.queries(Orbit(6, 10, 3))
    last = model.domain.decode_values(field.query(queries[torch.arange(120, 180)]), (6, 10))
    np.testing.assert_array_equal(last[:, 0], views[:, 2])
