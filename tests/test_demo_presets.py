"""The demo presets at full size: their samples depend on the seed alone, to what rounding allows.

The weights are random and large instead of trained, so that the samples are far from the noise that they begin with.
"""

from __future__ import annotations

import shlex
from collections.abc import Sequence

import numpy as np
import pytest
import torch

from inrflow_cli import demo_images
from inrflow_core import models
from inrflow_core.config import preset
from inrflow_core.config.training import share_of_initial_weights
from inrflow_core.models import Model
from inrflow_core.numerics import noise_field
from inrflow_core.proteins import residues
from inrflow_core.sampling import options, sample
from tests import tiny

FINER = {
    "digits-demo": (24, 24),
    "glyphs-demo": (72, 72),
    "solids-demo": 700,
    "objects-demo": 600,
    "proteins-demo": None,
}
SLOW = {"objects-demo", "proteins-demo"}
CHAINS = ("MKTWAYIARNDCQEGHILKMFPSTWYV", "GSGLIVKE", "ARNDCQEGHILKMFPSTWYVAAGG")


@pytest.fixture(
    scope="module", params=[pytest.param(name, marks=pytest.mark.slow if name in SLOW else ()) for name in FINER]
)
def model(request: pytest.FixtureRequest) -> Model:
    torch.manual_seed(0)
    model = models.build(preset.load(request.param))
    tiny.randomize(model.method, 1.0)
    model.method.eval().requires_grad_(False)
    return model


def condition_of(model: Model, indices: Sequence[int]) -> dict[str, torch.Tensor]:
    """The conditions of some of three samples."""
    if model.preset.condition is None or model.preset.condition.name == "label":
        return {"label": torch.tensor([1, 2, 3])[list(indices)]}
    if model.preset.condition.name == "image":
        return {"tokens": torch.randn(3, 64, 198, generator=torch.Generator().manual_seed(1))[list(indices)]}
    rows = [torch.from_numpy(residues.to_codes(CHAINS[index]).astype(np.int64)) for index in indices]
    return {"residues": torch.nn.utils.rnn.pad_sequence(rows, batch_first=True, padding_value=-1)}


def test_a_whole_sample_is_the_same_in_any_batch_and_chunk_and_at_any_resolution(model: Model):
    steps = 20 if model.preset.name in SLOW else None
    how = options.sampling_options(model, steps=steps)
    whole, own = condition_of(model, range(3)), condition_of(model, [1])
    queries = model.domain.queries(condition=whole)
    together = sample.sample_fields(model, [3, 4, 5], None, how, whole).query(queries)[1]
    finer = model.domain.queries(FINER[model.preset.name], condition=own)
    alone = sample.sample_fields(model, [4], None, how, own).query(finer, chunk=100)[0]
    size = FINER[model.preset.name]
    coarse = alone.view(*size, 1)[1::3, 1::3].flatten(0, 1) if isinstance(size, tuple) else alone
    coarse = coarse[: len(together)]
    together = together[: len(coarse)]
    torch.testing.assert_close(coarse, together, rtol=0, atol=1e-4)
    start = noise_field.normal(torch.tensor([4]), queries.noise_keys, purpose="start", channels=coarse.shape[-1])[0]
    assert (together - start[: len(together)]).square().mean().sqrt() > 0.3


def test_one_velocity_is_the_same_in_any_batch_and_chunk_to_1e_5_of_its_rms(model: Model):
    network, condition = model.method.network, condition_of(model, range(3))
    queries = model.domain.queries(condition=condition)
    y = noise_field.normal(torch.arange(3), queries.noise_keys, purpose="start", channels=model.domain.shape.value_size)
    t = torch.tensor([0.9, 0.5, 0.1])
    whole = network(queries, y, t, model.method.embed_condition(condition), queries, y)
    for row in range(3):
        own = model.method.embed_condition(condition_of(model, [row]))
        context = model.domain.queries(condition=condition_of(model, [row]))
        size = len(context)
        only = slice(row, row + 1)
        velocity = network(context, y[only, :size], t[only], own, context[10:31], y[only, 10:31])
        error = (velocity - whole[only, 10:31]).square().mean().sqrt()
        assert error < 1e-5 * whole.square().mean().sqrt()


def test_the_demo_prepares_the_letters_that_its_preset_names():
    command = preset.load("glyphs-demo").data.config.prepare
    assert command is not None and shlex.split(command) == ["inrflow", *demo_images.prepare_letters()]


@pytest.mark.parametrize("name", FINER)
def test_the_average_of_a_demo_has_forgotten_the_initial_weights_after_ten_steps(name: str):
    settings = preset.load(name).training.config
    (decay,) = settings.ema
    assert share_of_initial_weights(decay, 10, settings.ema_warmup) < 2e-5
    assert share_of_initial_weights(decay, 10) > 0.9
