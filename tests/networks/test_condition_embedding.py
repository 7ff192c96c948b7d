"""What the set transformer makes of a condition's tokens, and of pairs in groups such as the atoms of amino acids."""

from __future__ import annotations

import dataclasses

import numpy as np
import pytest
import torch
from torch import Tensor

from inrflow_core.domains import protein
from inrflow_core.errors import UsageError
from inrflow_core.networks import set_transformer
from inrflow_core.networks._set_config import Config
from inrflow_core.networks.set_transformer import SetTransformer
from inrflow_core.proteins import residues
from inrflow_core.sets import ConditionEmbedding, ConditionSpec, Queries
from tests.networks import small
from tests.networks.small import IMAGE, POINTS

PERCEIVER = Config(32, 4, 2, latents=8, encoder="perceiver", num_frequencies=4, cross_attend_every=2)
IMAGE_CONDITIONED = {
    "perceiver": (PERCEIVER, POINTS),
    "layers that read apart": (dataclasses.replace(PERCEIVER, separate_cross_attention=True), POINTS),
    "two levels": (
        dataclasses.replace(PERCEIVER, separate_cross_attention=True, cross_attend_every=3, decoder_levels=2),
        POINTS,
    ),
    "a picture of a picture": (Config(32, 2, 2, latents=16), IMAGE),
}
GROUPED = Config(32, 3, 2, latents=6, pseudo_coordinates="residue")
FOLDED = {
    "attention": GROUPED,
    "linear": dataclasses.replace(GROUPED, encoder="linear"),
    "rope": dataclasses.replace(GROUPED, rope=True),
    "skip": dataclasses.replace(GROUPED, residue_skip=True),
    "linear, rope, skip, two levels": dataclasses.replace(
        GROUPED, encoder="linear", rope=True, residue_skip=True, decoder_levels=2, decoder_width=48, decoder_heads=3
    ),
}
PROTEINS = protein.Domain(protein.Config(residues=6))
CHAINS = ("MKTWAY", "GG", "ARNDCQEG")
every_image_condition = pytest.mark.parametrize("name", IMAGE_CONDITIONED)
every_fold = pytest.mark.parametrize("name", FOLDED)


def image_conditioned(name: str, scale: float = 0.3) -> SetTransformer:
    """A network that attends to 5 tokens."""
    torch.manual_seed(0)
    return small.randomize(set_transformer.build(*IMAGE_CONDITIONED[name], ConditionSpec(tokens=5)), scale)


def pairs(name: str, batch: int = 2) -> tuple[Queries, Tensor, Tensor]:
    """A context with values, and tokens."""
    case = next(key for key, (_, shape) in small.CASES.items() if shape == IMAGE_CONDITIONED[name][1])
    generator = torch.Generator().manual_seed(5)
    return *small.pairs(case, batch), torch.randn(batch, 5, 32, generator=generator)


def answer(module: SetTransformer, context: Queries, values: Tensor, embedding: ConditionEmbedding) -> Tensor:
    t = 0.3 * torch.arange(1, 1 + values.shape[0])
    return module(context, values, t, embedding, context, values)


def folding(name: str, scale: float = 0.3) -> SetTransformer:
    """A network for proteins whose residues have 4 features."""
    torch.manual_seed(0)
    return small.randomize(set_transformer.build(FOLDED[name], PROTEINS.shape, ConditionSpec(features=4)), scale)


def chains(*sequences: str, seed: int = 3) -> tuple[Queries, Tensor, ConditionEmbedding]:
    """Atoms of chains, padded to the longest, with values and features that are the same whatever is beside them."""
    codes = [torch.from_numpy(residues.to_codes(sequence).astype(np.int64)) for sequence in sequences]
    padded = torch.nn.utils.rnn.pad_sequence(codes, batch_first=True, padding_value=-1)
    queries = PROTEINS.queries(condition={"residues": padded})
    whole = torch.randn(200, 3, generator=torch.Generator().manual_seed(seed))
    features = torch.randn(20, 4, generator=torch.Generator().manual_seed(seed + 1))[padded.clamp(min=0)]
    is_group = padded >= 0
    embedding = ConditionEmbedding(features=features * is_group[..., None], is_group=is_group)
    return queries, whole[: len(queries)].expand(len(sequences), -1, -1), embedding


@every_image_condition
def test_the_first_answers_are_exactly_zero_under_tokens(name: str) -> None:
    context, values, tokens = pairs(name)
    assert answer(image_conditioned(name, scale=0), context, values, ConditionEmbedding(tokens=tokens)).abs().max() == 0


@every_image_condition
def test_every_weight_learns_under_tokens(name: str) -> None:
    module = image_conditioned(name)
    context, values, tokens = pairs(name)
    answer(module, context, values, ConditionEmbedding(tokens=tokens)).square().mean().backward()
    assert [n for n, w in module.named_parameters() if w.grad is None or w.grad.abs().max() == 0] == []


@every_image_condition
def test_the_order_of_the_tokens_changes_no_answer_and_each_token_does(name: str) -> None:
    module = image_conditioned(name).requires_grad_(False)
    context, values, tokens = pairs(name)
    result = answer(module, context, values, ConditionEmbedding(tokens=tokens))
    turned = answer(module, context, values, ConditionEmbedding(tokens=tokens[:, [3, 0, 4, 1, 2]]))
    torch.testing.assert_close(turned, result, atol=1e-6, rtol=1e-6)
    for index in range(5):
        other = tokens.clone()
        other[:, index] += 1
        assert (answer(module, context, values, ConditionEmbedding(tokens=other)) - result).abs().max() > 1e-4


@every_image_condition
def test_keys_and_values_made_once_are_those_made_each_time(name: str) -> None:
    module = image_conditioned(name).requires_grad_(False)
    context, values, tokens = pairs(name)
    read = module.project_kv(ConditionEmbedding(torch.ones(2, 32), tokens=tokens))
    assert read.tokens is None and read.vector is not None
    result = answer(module, context, values, read)
    torch.testing.assert_close(
        result, answer(module, context, values, ConditionEmbedding(torch.ones(2, 32), tokens)), atol=1e-6, rtol=1e-6
    )
    assert module.project_kv(ConditionEmbedding()) == ConditionEmbedding()


@every_image_condition
def test_many_equal_tokens_are_as_good_as_one(name: str) -> None:
    module = image_conditioned(name).requires_grad_(False)
    context, values, tokens = pairs(name)
    one = tokens[:, :1]
    many = answer(module, context, values, ConditionEmbedding(tokens=one.expand(-1, 700, -1)))
    torch.testing.assert_close(
        answer(module, context, values, ConditionEmbedding(tokens=one)), many, atol=1e-6, rtol=1e-6
    )


@every_image_condition
def test_the_tokens_of_one_set_never_influence_another(name: str) -> None:
    module = image_conditioned(name)
    context, values, tokens = pairs(name)
    tokens.requires_grad_()
    answer(module, context, values, ConditionEmbedding(tokens=tokens))[0].square().sum().backward()
    assert tokens.grad is not None and tokens.grad[0].abs().max() > 0 and tokens.grad[1].abs().max() == 0


@every_image_condition
def test_keeping_less_for_the_backward_pass_changes_no_gradient_of_the_tokens(name: str) -> None:
    result = []
    for less in (False, True):
        config, shape = IMAGE_CONDITIONED[name]
        torch.manual_seed(0)
        config = dataclasses.replace(config, checkpoint_activations=less)
        module = small.randomize(set_transformer.build(config, shape, ConditionSpec(tokens=5)), 0.3)
        context, values, tokens = pairs(name)
        answer(module, context, values, ConditionEmbedding(tokens=tokens.requires_grad_())).square().mean().backward()
        result.append([tokens.grad, *(weight.grad for weight in module.parameters())])
    torch.testing.assert_close(result[0], result[1], atol=1e-6, rtol=1e-5)


def test_reading_again_apart_is_a_layer_with_self_attention_before_the_block() -> None:
    module = image_conditioned("layers that read apart")
    layers = module.all_layers()
    assert [layer.read is not None for layer in layers] == [True, True, False, False, True, False, False]
    assert [layer.own.told is not None for layer in layers] == [False, False, True, True, False, True, True]


@every_fold
def test_the_first_answers_are_exactly_zero_for_groups(name: str) -> None:
    assert answer(folding(name, scale=0), *chains(*CHAINS)).abs().max() == 0


@every_fold
def test_every_weight_learns_from_groups(name: str) -> None:
    module = folding(name)
    answer(module, *chains(*CHAINS)).square().mean().backward()
    assert [n for n, w in module.named_parameters() if w.grad is None or w.grad.abs().max() == 0] == []


@every_fold
def test_a_chain_padded_beside_larger_ones_gets_the_answers_that_it_gets_alone(name: str) -> None:
    module = folding(name).requires_grad_(False)
    queries, values, embedding = chains(*CHAINS)
    assert queries.group_ids is not None
    real = queries.group_ids >= 0
    for garbage in (0.0, 100.0, torch.nan):
        result = answer(module, queries, values.masked_fill(~real[..., None], garbage), embedding)
        for row, sequence in enumerate(CHAINS):
            own, shown, alone_embedding = chains(sequence)
            t = torch.tensor([0.3 * (row + 1)])
            alone = module(own, shown, t, alone_embedding, own, shown)
            torch.testing.assert_close(result[row : row + 1, : len(own)], alone, atol=1e-5, rtol=1e-5)


@every_fold
def test_an_unknown_atom_influences_no_other(name: str) -> None:
    module = folding(name).requires_grad_(False)
    queries, values, embedding = chains(*CHAINS)
    assert queries.group_ids is not None
    known = queries.group_ids >= 0
    known[0, [1, 5, 9]] = False
    t, result = torch.tensor([0.3, 0.6, 0.9]), []
    for garbage in (0.0, 50.0, torch.nan):
        shown = values.masked_fill(~known[..., None], garbage)
        result.append(module(queries, shown, t, embedding, queries, values, mask=known))
    torch.testing.assert_close(result[1], result[0], rtol=0, atol=0)
    torch.testing.assert_close(result[2], result[0], rtol=0, atol=0)
    whole = module(queries, values, t, embedding, queries, values)
    assert (whole[0] - result[0][0]).abs().max() > 1e-4


@every_fold
def test_an_atom_has_the_same_velocity_whatever_else_is_queried(name: str) -> None:
    module = folding(name).requires_grad_(False)
    queries, values, embedding = chains(*CHAINS)
    whole = answer(module, queries, values, embedding)
    t = torch.tensor([0.3, 0.6, 0.9])
    part = slice(3, 11)
    some = module(queries, values, t, embedding, queries[part], values[:, part])
    torch.testing.assert_close(some, whole[:, part], atol=1e-6, rtol=1e-6)


@every_fold
def test_the_order_of_the_residues_is_seen(name: str) -> None:
    """In a chain of one kind of residue nothing but its number tells a residue from another."""
    module = folding(name).requires_grad_(False)
    queries, _, embedding = chains("GGGG")
    values = torch.ones(1, 16, 3)
    result = answer(module, queries, values, embedding).unflatten(1, (4, 4))
    assert (result[:, 1:] - result[:, :-1]).abs().amax((0, 2, 3)).min() > 1e-4
    moved = torch.ones(1, 4, 4, 3)
    moved[:, 0] = 2
    first = answer(module, queries, moved.flatten(1, 2), embedding)
    last = answer(module, queries, moved.flip(1).flatten(1, 2), embedding)
    assert (first.unflatten(1, (4, 4)).flip(1) - last.unflatten(1, (4, 4))).abs().max() > 1e-3


@every_fold
def test_one_chain_never_influences_another(name: str) -> None:
    module = folding(name)
    queries, values, embedding = chains(*CHAINS)
    assert embedding.features is not None
    shown, features = values.clone().requires_grad_(), embedding.features.clone().requires_grad_()
    answer(module, queries, shown, embedding._replace(features=features))[0].square().sum().backward()
    for gradient in (shown.grad, features.grad):
        assert gradient is not None and gradient[0].abs().max() > 0 and gradient[1:].abs().max() == 0


@every_fold
def test_training_and_drawing_compute_the_same_of_groups(name: str) -> None:
    module = folding(name)
    with torch.no_grad():
        sampled = answer(module, *chains(*CHAINS))
    torch.testing.assert_close(answer(module, *chains(*CHAINS)), sampled, atol=1e-5, rtol=1e-5)


@every_fold
def test_bf16_stays_near_fp32_for_groups(name: str) -> None:
    module = folding(name)
    with torch.autocast("cpu", torch.bfloat16):
        result = answer(module, *chains(*CHAINS))
        result.square().mean().backward()
    exact = answer(module, *chains(*CHAINS))
    assert result.dtype == torch.float32
    assert (result - exact).square().mean().sqrt() < 0.03 * exact.square().mean().sqrt()


MISFITS = {
    "a grid of atoms": ({"pseudo_coordinates": "grid"}, PROTEINS.shape, ConditionSpec(features=4), "is `grid`"),
    "residues of pixels": ({}, IMAGE, ConditionSpec(), "the sets have no groups"),
    "residues without features": ({}, PROTEINS.shape, ConditionSpec(), "need `residue`"),
    "a perceiver": ({"encoder": "perceiver"}, PROTEINS.shape, ConditionSpec(features=4), "the encoder `perceiver`"),
    "odd heads": ({"width": 6, "heads": 2, "rope": True}, PROTEINS.shape, ConditionSpec(features=4), "a head has 3"),
}


@pytest.mark.parametrize("name", MISFITS)
def test_settings_that_do_not_fit_are_refused(name: str) -> None:
    changes, shape, condition, message = MISFITS[name]
    with pytest.raises(UsageError) as caught:
        set_transformer.build(dataclasses.replace(GROUPED, **changes), shape, condition)
    assert message in f"{caught.value.message} {caught.value.hint}"


def test_a_skip_without_residues_is_refused() -> None:
    with pytest.raises(ValueError, match="`residue_skip` is for proteins"):
        Config(32, 2, 2, residue_skip=True)
