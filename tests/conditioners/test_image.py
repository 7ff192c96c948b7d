"""Images as tokens, stored or made in training."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

from inrflow_core.conditioners import image
from inrflow_core.conditioners.image import Config
from inrflow_core.errors import MissingError
from inrflow_core.feature_networks import patches
from inrflow_core.feature_networks._contract import posed_image_tokens
from inrflow_core.geometry import cameras
from inrflow_core.numerics import noise_field
from inrflow_core.sampling import options, sample
from inrflow_core.sets import ConditionEmbedding
from tests import camera_rings, tiny

PATCHES = Config(embedder="patches", tokens=64, width=192)


def views(count: int = 3) -> dict[str, torch.Tensor]:
    """Images and their cameras."""
    generator = torch.Generator().manual_seed(0)
    images = torch.randint(0, 256, (count, 64, 64, 3), dtype=torch.uint8, generator=generator)
    return {"image": images, "camera": torch.from_numpy(camera_rings.orbit_ring(count))}


def stored(count: int = 3) -> dict[str, torch.Tensor]:
    batch = views(count)
    return {"tokens": posed_image_tokens(patches.load(None), batch["image"], batch["camera"])}


def module(**settings: float) -> image.ImageConditioner:
    torch.manual_seed(0)
    return image.build(Config("patches", 64, 192, **settings), width=16)  # type: ignore[arg-type]


def test_tokens_made_in_training_are_those_that_shards_store() -> None:
    expected = stored()
    torch.testing.assert_close(module()(views()).tokens, module()(expected).tokens, rtol=0, atol=0)
    with torch.autocast("cpu", torch.bfloat16):
        torch.testing.assert_close(module()(views()).tokens, module()(expected).tokens, rtol=0, atol=0)


def test_a_dropped_images_tokens_are_all_the_one_of_nothing() -> None:
    built = module()
    some_dropped = built(stored(), torch.tensor([True, False, True])).tokens
    nothing = built.null_condition(2).tokens
    assert some_dropped is not None and nothing is not None and nothing.shape == (2, 1, 16)
    torch.testing.assert_close(some_dropped[::2], nothing.expand(-1, 64, -1), atol=1e-6, rtol=0)
    none_dropped = built(stored()).tokens
    assert none_dropped is not None
    torch.testing.assert_close(some_dropped[1], none_dropped[1], rtol=0, atol=0)


def test_a_model_predicts_the_same_under_a_dropped_image_as_under_nothing() -> None:
    model = tiny.model(tiny.IMAGE_TO_POINTS)
    flow, queries = model.method, model.domain.queries()
    y = torch.randn(3, 24, 3, generator=torch.Generator().manual_seed(1))
    t = torch.tensor([0.2, 0.5, 0.9])
    dropped = flow.embed_condition(stored(), dropped=torch.ones(3, dtype=torch.bool))
    velocity, expected = (
        flow.network(queries, y, t, embedding, queries, y)
        for embedding in (dropped, flow.conditioner.null_condition(3))
    )
    torch.testing.assert_close(velocity, expected, atol=1e-6, rtol=1e-5)
    shown = flow.network(queries, y, t, flow.embed_condition(stored()), queries, y)
    assert (shown - velocity).abs().max() > 1e-3


@pytest.mark.parametrize("guidance", [0.0, 1.0, 3.0])
def test_a_field_is_the_plain_solution_of_the_guided_velocity(guidance: float) -> None:
    model = tiny.model(tiny.IMAGE_TO_POINTS)
    flow, context, seeds = model.method, model.domain.queries(), [5, 6, 7]
    drawing = options.sampling_options(model, guidance=guidance)
    values = sample.sample_fields(model, seeds, None, drawing, stored()).query(context)
    y = noise_field.normal(torch.tensor(seeds), context.noise_keys, purpose="start", channels=3)
    times = drawing.sampler.time_grid(drawing.config)
    for t, t_next in zip(times[:-1], times[1:], strict=True):
        halves = [
            flow.network(context, y, t.float().expand(3), embedding, context, y)
            for embedding in (flow.embed_condition(stored()), flow.conditioner.null_condition(3))
        ]
        y = y + float(t_next - t) * (halves[1] + guidance * (halves[0] - halves[1]))
    torch.testing.assert_close(values, y, atol=1e-5, rtol=0)


def test_a_sample_depends_on_its_seed_and_image_and_not_on_its_batch() -> None:
    model, condition = tiny.model(tiny.IMAGE_TO_POINTS), stored()
    how = options.sampling_options(model, guidance=2.0)
    together = sample.sample_fields(model, [5, 6, 7], None, how, condition).query(model.domain.queries(40))
    for row, seed in enumerate((5, 6, 7)):
        own = {"tokens": condition["tokens"][row : row + 1]}
        alone = sample.sample_fields(model, [seed], None, how, own).query(model.domain.queries(40), chunk=7)
        torch.testing.assert_close(alone[0], together[row], atol=1e-5, rtol=0)


def test_a_blank_condition_has_the_shapes_of_a_real_one() -> None:
    built = module()
    blank = built.dummy_batch(tiny.model(tiny.IMAGE_TO_POINTS).domain.dummy_batch(3))
    assert blank["tokens"].shape == stored()["tokens"].shape
    embedding = built(blank)
    assert (
        isinstance(embedding, ConditionEmbedding)
        and embedding.tokens is not None
        and embedding.tokens.shape == (3, 64, 16)
    )


def test_the_frozen_network_is_not_a_part_of_the_model() -> None:
    built = module()
    before = list(built.state_dict())
    built(views())
    assert list(built.state_dict()) == before == ["none", "inner.weight", "inner.bias", "outer.weight", "outer.bias"]


def test_every_weight_learns_where_some_are_dropped() -> None:
    built = module()
    tokens = built(stored(), torch.tensor([True, False, False])).tokens
    assert tokens is not None
    tokens.square().sum().backward()
    assert all(weight.grad is not None and weight.grad.abs().max() > 0 for weight in built.parameters())


def test_weights_that_are_absent_are_named(tmp_path: Path) -> None:
    built = image.build(Config(weights=str(tmp_path / "none")), width=16)
    with pytest.raises(MissingError, match="there is no folder"):
        built(views())


def test_what_is_read_from_the_shards_follows_the_setting() -> None:
    assert image.required_conditions(Config()) == ("tokens",)
    assert image.required_conditions(Config(features="online")) == ("image", "camera")


@pytest.mark.parametrize(
    ("settings", "message"),
    [({"tokens": 0}, "`tokens` is 0"), ({"width": 0}, "`width` is 0"), ({"dropout": 1.0}, "`dropout` is 1.0")],
)
def test_settings_that_cannot_be_are_refused(settings: dict, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        Config(**settings)


@pytest.mark.parametrize(
    ("side", "background", "is_noted"),
    [
        (0, "white", True),
        (0, "#5a0a1e", True),
        (9, "white", True),
        (12, "white", False),
        (12, "black", False),
        (220, "white", False),
    ],
)
def test_an_image_without_an_object_is_noted(side: int, background: str, is_noted: bool, tmp_path: Path) -> None:
    photo = Image.new("RGB", (224, 224), background)
    photo.paste((200, 120, 30), (2, 2, 2 + side, 2 + side))
    photo.save(tmp_path / "a.png")
    notes = image.input_notes(image.ImageInput(tmp_path / "a.png", cameras.orbit()))
    share = side**2 / 224**2
    assert [f"a.png` shows no object: {share:.2%} of it differs" in note for note in notes] == [True] * is_noted


def test_noise_of_a_compressed_background_shows_no_object(tmp_path: Path) -> None:
    noise = np.random.default_rng(0).integers(235, 246, (224, 224, 3), dtype=np.uint8)
    Image.fromarray(noise).save(tmp_path / "a.png")
    [note] = image.input_notes(image.ImageInput(tmp_path / "a.png", cameras.orbit()))
    assert "0.00% of it differs" in note
