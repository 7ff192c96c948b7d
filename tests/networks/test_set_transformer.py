"""Laws of the whole network, for every encoder and domain."""

from __future__ import annotations

import pytest
import torch

from inrflow_core.errors import UsageError
from inrflow_core.networks import set_transformer
from inrflow_core.networks._set_config import Config
from inrflow_core.sets import ConditionEmbedding, Grid, Points, Queries, SetSpec
from tests.networks.small import CASES, IMAGE, POINTS, SCATTERED, answer, network, pairs

every_case = pytest.mark.parametrize("name", CASES)


@every_case
def test_the_first_answers_are_exactly_zero(name: str) -> None:
    assert answer(network(name, scale=0), *pairs(name)).abs().max() == 0


@every_case
def test_the_first_blocks_leave_the_latents_as_they_are(name: str) -> None:
    module = network(name, scale=0)
    encoded = module.encode(*pairs(name))
    for level in module.latents(
        encoded, torch.tensor([0.2, 0.7]), ConditionEmbedding(torch.ones(2, module.vector_width))
    ).levels:
        torch.testing.assert_close(level, encoded.latents, rtol=0, atol=0)


@every_case
def test_every_weight_learns(name: str) -> None:
    module = network(name)
    answer(module, *pairs(name)).square().mean().backward()
    still = [n for n, weight in module.named_parameters() if weight.grad is None or weight.grad.abs().max() == 0]
    assert still == []


@every_case
def test_one_set_never_influences_another(name: str) -> None:
    module = network(name)
    context, values = pairs(name)
    shown, requested = values.clone().requires_grad_(), values.clone().requires_grad_()
    answer(module, context, shown, query_values=requested)[0].square().sum().backward()
    assert shown.grad is not None and requested.grad is not None
    assert shown.grad[0].abs().max() > 0
    assert shown.grad[1].abs().max() == 0 and requested.grad[1].abs().max() == 0


@every_case
def test_a_set_gets_the_same_answers_alone(name: str) -> None:
    module = network(name)
    context, values = pairs(name)
    torch.testing.assert_close(
        answer(module, context, values[:1]), answer(module, context, values)[:1], atol=1e-5, rtol=1e-5
    )


@every_case
def test_fewer_queries_in_another_order_change_no_answer(name: str) -> None:
    module = network(name).requires_grad_(False)
    context, values = pairs(name)
    whole = answer(module, context, values)
    selected = torch.randperm(values.shape[1], generator=torch.Generator().manual_seed(3))[:11]
    coordinates = None if context.coordinates is None else context.coordinates[selected]
    requested = {"queries": Queries(coordinates, context.noise_keys[selected]), "query_values": values[:, selected]}
    torch.testing.assert_close(answer(module, context, values, **requested), whole[:, selected], atol=1e-5, rtol=1e-5)


@every_case
def test_queries_of_each_set_may_have_their_own_coordinates(name: str) -> None:
    module = network(name).requires_grad_(False)
    context, values = pairs(name)
    if context.coordinates is None:
        pytest.skip("moving points have no coordinates")
    own = Queries(context.coordinates.expand(2, -1, -1), context.noise_keys)
    torch.testing.assert_close(
        answer(module, context, values, queries=own), answer(module, context, values), atol=1e-6, rtol=1e-6
    )


@pytest.mark.parametrize("name", SCATTERED)
def test_the_order_of_the_context_changes_no_answer(name: str) -> None:
    module = network(name).requires_grad_(False)
    context, values = pairs(name)
    order = torch.randperm(values.shape[1], generator=torch.Generator().manual_seed(3))
    coordinates = None if context.coordinates is None else context.coordinates[order]
    shuffled = Queries(coordinates, context.noise_keys[order])
    result = answer(module, shuffled, values[:, order], queries=context, query_values=values)
    torch.testing.assert_close(result, answer(module, context, values), atol=2e-5, rtol=1e-5)


@pytest.mark.parametrize("name", SCATTERED)
def test_padding_changes_nothing_whatever_it_holds(name: str) -> None:
    module = network(name)
    context, values = pairs(name)
    counts = (30, 35)
    real = torch.arange(values.shape[1]) < torch.tensor(counts)[:, None]
    padded = values.masked_fill(~real[..., None], torch.nan)
    result = answer(module, context, padded, query_values=values, mask=real)
    for index, count in enumerate(counts):
        shown, requested = values[:, :count], values
        alone = answer(module, context[:count], shown, queries=context, query_values=requested)
        torch.testing.assert_close(result[index], alone[index], atol=2e-5, rtol=1e-5)
    result.square().mean().backward()
    assert all(torch.isfinite(weight.grad).all() for weight in module.parameters() if weight.grad is not None)


@every_case
def test_keeping_less_for_the_backward_pass_changes_no_gradient(name: str) -> None:
    result = []
    for checkpoint_activations in (False, True):
        module = network(name, checkpoint_activations=checkpoint_activations)
        answer(module, *pairs(name)).square().mean().backward()
        result.append([weight.grad for weight in module.parameters()])
    torch.testing.assert_close(result[0], result[1], atol=1e-6, rtol=1e-5)


@every_case
def test_training_and_drawing_compute_the_same(name: str) -> None:
    module = network(name)
    context, values = pairs(name)
    with torch.no_grad():
        sampled = answer(module, context, values)
    torch.testing.assert_close(answer(module, context, values), sampled, atol=1e-5, rtol=1e-5)


@every_case
def test_bf16_stays_near_fp32_and_gives_finite_gradients(name: str) -> None:
    module = network(name)
    context, values = pairs(name)
    with torch.autocast("cpu", torch.bfloat16):
        result = answer(module, context, values)
        result.square().mean().backward()
    exact = answer(module, context, values)
    assert result.dtype == torch.float32
    assert (result - exact).square().mean().sqrt() < 0.03 * exact.square().mean().sqrt()
    assert all(torch.isfinite(weight.grad).all() for weight in module.parameters() if weight.grad is not None)


@every_case
def test_the_decoder_answers_alone_from_its_own_weights(name: str) -> None:
    module = network(name).requires_grad_(False)
    context, values = pairs(name)
    latents = module.latents(module.encode(context, values), torch.tensor([0.2, 0.7]), ConditionEmbedding())
    alone = set_transformer.build_decoder(*CASES[name])
    alone.load_state_dict(module.decoder.state_dict())
    answered = module.decode(context, values, module.decoder_kv(latents))
    torch.testing.assert_close(alone(context, values, alone.decoder_kv(latents)), answered, rtol=0, atol=0)


@every_case
def test_nothing_that_can_be_computed_again_is_in_the_weights(name: str) -> None:
    module = network(name)
    assert set(module.state_dict()) == {n for n, _ in module.named_parameters()}


def test_the_encoder_is_shared_by_both_halves_of_guidance() -> None:
    module = network("points").requires_grad_(False)
    context, values = pairs("points")
    t, vector = torch.tensor([0.3, 0.6]), ConditionEmbedding(torch.ones(2, 32))
    encoded = module.encode(context, values)
    for condition in (ConditionEmbedding(), vector):
        result = module.decode(context, values, module.decoder_kv(module.latents(encoded, t, condition)))
        torch.testing.assert_close(result, module(context, values, t, condition, context, values), atol=1e-6, rtol=1e-6)


def test_later_blocks_read_the_context_as_often_as_the_setting_says() -> None:
    for reread, reading in ((0, []), (1, [0, 1, 2]), (2, [0, 2])):
        module = set_transformer.build(
            Config(16, 3, 2, latents=4, encoder="perceiver", cross_attend_every=reread), POINTS
        )
        assert [index for index, layer in enumerate(module.trunk) if layer.read is not None] == reading


def test_the_decoder_reads_its_levels_earliest_first() -> None:
    assert Config(16, 28, 2, decoder_levels=2).level_blocks == [13, 27]
    assert Config(16, 9, 2, decoder_levels=3).level_blocks == [2, 5, 8]
    module = network("narrow decoder").requires_grad_(False)
    latents = module.latents(module.encode(*pairs("narrow decoder")), torch.tensor([0.2, 0.7]), ConditionEmbedding())
    assert len(latents.levels) == 2
    assert not torch.equal(latents.levels[0], latents.levels[1])


WRONG = {
    "heads": ({"heads": 5}, "`heads` is 5 and does not divide `width`, 32"),
    "decoder heads": ({"decoder_width": 20, "decoder_heads": 3}, "`decoder_heads` is 3 and does not divide"),
    "levels": ({"decoder_levels": 3}, "`decoder_levels` is 3: at most `depth`, 2"),
    "reread": ({"cross_attend_every": -1}, "`cross_attend_every` is -1: 1 or more"),
    "latents": ({"latents": 0}, "`latents` is 0: at least 1"),
    "frequency": ({"max_frequency": 0.5}, "`max_frequency` is 0.5: at least 1"),
    "lowest frequency": ({"min_frequency": 2.0}, "`min_frequency` is 2.0: above 0 and at most 1"),
    "rope without places": ({"encoder": "perceiver", "rope": True}, "`rope` rotates latents by their position"),
    "local perceiver": ({"encoder": "perceiver", "decoder": "local"}, "have no grid"),
    "local k-means": ({"pseudo_coordinates": "kmeans", "decoder": "local"}, "`pseudo_coordinates` kmeans have no grid"),
    "local levels": ({"decoder_levels": 2, "decoder": "local"}, "one level and no heads"),
    "local heads": ({"decoder_heads": 2, "decoder": "local"}, "one level and no heads"),
    "linear hash": ({"encoder": "linear", "pseudo_coordinates": "hash"}, "`encoder = linear` takes a grid's patches"),
}


@pytest.mark.parametrize("name", WRONG)
def test_settings_that_cannot_be_are_refused(name: str) -> None:
    changes, message = WRONG[name]
    with pytest.raises(ValueError, match=message):
        Config(**({"width": 32, "depth": 2, "heads": 2} | changes))


MISFITS = {
    "linear without grid": ({"encoder": "linear"}, POINTS, "needs the patches of a grid"),
    "linear, uneven": ({"encoder": "linear", "latents": 9}, IMAGE, "do not cut the grid"),
    "long cells": ({"latents": 14}, IMAGE, "its cells would be long and thin"),
    "cells below a pixel": ({"latents": 256}, IMAGE, "finer than the training grid"),
    "too many frequencies": ({"num_frequencies": 9}, IMAGE, "has room for 8 frequencies"),
    "rope on small heads": ({"heads": 16, "latents": 16, "rope": True}, IMAGE, "a head has 2 numbers"),
    "more means than pixels": (
        {"latents": 65, "pseudo_coordinates": "kmeans"},
        IMAGE,
        "at most as many centers as the 64",
    ),
}


@pytest.mark.parametrize("name", MISFITS)
def test_settings_that_do_not_fit_the_sets_are_refused(name: str) -> None:
    changes, shape, message = MISFITS[name]
    with pytest.raises(UsageError, match=message):
        set_transformer.build(Config(**({"width": 32, "depth": 2, "heads": 2} | changes)), shape)


PAPER = {
    "image S": (Config(384, 12, 6), "image", 0, (36.5, 36.9)),
    "image S, classes": (Config(384, 12, 6), "image", 1000, (36.5, 36.95)),
    "image B": (Config(768, 12, 12), "image", 0, (145.0, 145.8)),
    "image L": (Config(1024, 24, 16), "image", 0, (483.95, 485.05)),
    "image XL": (Config(1152, 28, 16, decoder_levels=2, rope=True), "image", 1000, (732.95, 733.05)),
    "points B": (Config(512, 9, 4, decoder_levels=2, encoder="perceiver"), "points", 0, (107.0, 108.0)),
    "points L": (Config(640, 12, 4, encoder="perceiver"), "points", 0, (203.85, 203.95)),
}
SHAPES = {"image": SetSpec(2, 3, Grid((256, 256))), "points": SetSpec(3, 3, Points(2048))}


@pytest.mark.parametrize("name", PAPER)
def test_the_papers_sizes_have_the_papers_numbers_of_parameters(name: str) -> None:
    config, domain, classes, (least, most) = PAPER[name]
    with torch.device("meta"):
        module = set_transformer.build(config, SHAPES[domain])
    count = sum(weight.numel() for weight in module.parameters())
    labels = (classes + 1) * config.width if classes else 0
    assert least <= (count + labels) / 1e6 < most
