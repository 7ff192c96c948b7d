"""What the loss of structures may have beside the paper's: superposed targets, agreement of distances, copies."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import numpy as np
import pytest
import torch

from inrflow_core import models
from inrflow_core.config import preset
from inrflow_core.errors import UsageError
from inrflow_core.geometry import rigid_motion
from inrflow_core.models import Model
from inrflow_core.numerics import keyed_random, noise_field, paths
from inrflow_core.proteins import residues
from inrflow_core.sets import CoordValueSet, TrainBatch
from tests import tiny

PROTEIN: dict[str, dict[str, Any]] = {
    "domain": {"name": "protein", "residues": 6, "value_scale": 0.1},
    "network": {
        **{"width": 32, "depth": 2, "heads": 2, "latents": 6},
        **{"encoder": "spatial", "pseudo_coordinates": "residue"},
    },
}
CHAINS = ("MKTWAY", "GGSLIV", "ARNDCQ")
PATHS = ["linear", "trigonometric"]


def a_preset(**method: Any) -> preset.Preset:
    """A small preset of proteins, one-hot."""
    tables = tiny.tables(PROTEIN, method=method, condition=None)
    tables["condition"] = {"name": "sequence", "embedder": "one-hot", "width": 20}
    return preset.resolve("tiny", tables)


def a_model(**method: Any) -> Model:
    """A model of proteins whose every weight is random."""
    torch.manual_seed(0)
    built = models.build(a_preset(**method))
    tiny.randomize(built.method)
    built.method.eval().requires_grad_(False)
    return built


def structures(model: Model) -> CoordValueSet:
    """Three chains, of unequal size and with unknown atoms, 10 Angstrom wide."""
    rows = [residues.to_codes(chain) for chain in CHAINS]
    codes = torch.from_numpy(np.stack(rows).astype(np.int64))
    queries = model.domain.queries(condition={"residues": codes})
    generator = torch.Generator().manual_seed(3)
    values = torch.randn(3, len(queries), 3, generator=generator)
    assert queries.group_ids is not None
    known = (queries.group_ids >= 0) & (torch.rand(3, len(queries), generator=generator) < 0.9)
    return CoordValueSet(queries, values * known[..., None], torch.tensor([5, 6, 7]), {"residues": codes}, known)


def moved(sets: CoordValueSet) -> CoordValueSet:
    """The structures, each turned and shifted."""
    turns = rigid_motion.random_rotations(sets.seeds + 100)
    return replace(sets, values=sets.values @ turns.mT + torch.arange(9.0).view(3, 1, 3))


def by_hand(model: Model, sets: CoordValueSet) -> dict[str, torch.Tensor]:
    """What the loss is made of, one chain after the other: predicted and true data, noise, answer, in the chain's atoms."""
    flow, result = model.method, []
    for b in range(len(sets)):
        one = sets[b : b + 1]
        assert one.queries.group_ids is not None and one.mask is not None
        size = int((one.queries.group_ids >= 0).sum())
        queries, values, mask = one.queries[:size], one.values[:, :size], one.mask[:, :size]
        t = flow.sample_times(one.seeds).float()
        eps = noise_field.normal(one.seeds, queries.noise_keys, purpose="noise", channels=3)
        y, velocity = paths.interpolate(flow.path, values, eps, t)
        answer = flow.network(queries, y, t, flow.embed_condition(one.condition), queries, y, mask=mask)
        predicted, _ = paths.recover_data_and_noise(flow.path, answer, y, t)
        result.append({"t": t, "eps": eps, "velocity": velocity, "answer": answer, "predicted": predicted})
        result[-1] |= {"true": values, "mask": mask}
    return {name: [row[name] for row in result] for name in result[0]}  # pyright: ignore


def test_without_the_options_the_loss_is_the_papers():
    model, sets = a_model(), structures(a_model())
    parts = by_hand(model, sets)
    expected = [
        (answer - velocity).square().mean(-1)[mask].mean()
        for answer, velocity, mask in zip(parts["answer"], parts["velocity"], parts["mask"], strict=True)
    ]
    loss = model.method.loss(TrainBatch.from_sets(sets))
    torch.testing.assert_close(loss, torch.stack(expected))
    explicit = a_model(align="none", smooth_lddt=0.0, noise_draws_per_example=1)
    assert torch.equal(explicit.method.loss(TrainBatch.from_sets(sets)), loss)


@pytest.mark.parametrize("path", PATHS)
def test_the_target_is_superposed_on_the_prediction(path):
    model = a_model(align="prediction", path=path)
    sets = structures(model)
    parts, expected = by_hand(model, sets), []
    for b in range(3):
        true, predicted, mask, t = (parts[name][b] for name in ("true", "predicted", "mask", "t"))
        data = rigid_motion.kabsch_align(true, predicted, mask)
        _, velocity = paths.interpolate(model.method.path, data, parts["eps"][b], t)
        expected.append((parts["answer"][b] - velocity).square().mean(-1)[mask].mean())
    loss = model.method.loss(TrainBatch.from_sets(sets))
    torch.testing.assert_close(loss, torch.stack(expected), rtol=1e-4, atol=1e-5)
    assert (loss < a_model(path=path).method.loss(TrainBatch.from_sets(sets))).all()


@pytest.mark.parametrize("path", PATHS)
def test_superposed_on_the_noise_the_loss_does_not_see_a_motion_of_the_data(path):
    model = a_model(align="noise", path=path)
    sets = structures(model)
    torch.testing.assert_close(
        model.method.loss(TrainBatch.from_sets(moved(sets))),
        model.method.loss(TrainBatch.from_sets(sets)),
        rtol=1e-4,
        atol=1e-5,
    )
    plain = a_model(path=path).method
    assert (
        (plain.loss(TrainBatch.from_sets(moved(sets))) / plain.loss(TrainBatch.from_sets(sets)) - 1).abs() > 0.03
    ).all()


def test_data_superposed_on_the_noise_are_superposed_on_every_noisy_input():
    """Which is why one superposition, before the noise is mixed in, does for all t."""
    sets = structures(a_model())
    eps = noise_field.normal(sets.seeds, sets.queries.noise_keys, purpose="noise", channels=3)
    data = rigid_motion.kabsch_align(sets.values, eps, sets.mask)
    for t in (0.01, 0.3, 0.9, 1.0):
        y, _ = paths.interpolate(paths.LINEAR, data, eps, torch.full((3,), t))
        torch.testing.assert_close(rigid_motion.kabsch_align(data, y, sets.mask), data, rtol=0, atol=1e-5)


@pytest.mark.parametrize("path", PATHS)
@pytest.mark.parametrize("ramp", [0.0, 8.0])
def test_the_disagreement_of_the_predicted_structure_is_added_with_its_weight(path, ramp):
    model, plain = a_model(smooth_lddt=0.7, smooth_lddt_ramp=ramp, path=path), a_model(path=path)
    sets = structures(model)
    parts, expected = by_hand(model, sets), []
    for predicted, true, mask, t in zip(*(parts[n] for n in ("predicted", "true", "mask", "t")), strict=True):
        agreement = rigid_motion.smooth_lddt(10 * predicted, 10 * true, mask)  # in Angstrom
        expected.append(0.7 * (1 + ramp * max(0.0, 0.5 - float(t))) * (1 - agreement))
    added = model.method.loss(TrainBatch.from_sets(sets)) - plain.method.loss(TrainBatch.from_sets(sets))
    torch.testing.assert_close(added, torch.cat(expected), rtol=1e-4, atol=1e-5)
    assert {float(t) < 0.5 for t in parts["t"]} == {True, False}


def test_a_gradient_comes_through_the_answer_alone():
    model, sets = a_model(align="prediction", smooth_lddt=1.0), structures(a_model())
    model.method.requires_grad_(True)
    model.method.loss(TrainBatch.from_sets(sets)).sum().backward()
    gradients = [p.grad for p in model.method.parameters() if p.grad is not None]
    assert gradients
    assert all(gradient.isfinite().all() for gradient in gradients)


@pytest.mark.parametrize("options", [{}, {"align": "prediction", "smooth_lddt": 1.0}])
def test_the_loss_of_copies_is_the_mean_of_single_losses_with_their_own_times_and_noises(options):
    several, single = a_model(noise_draws_per_example=3, **options), a_model(**options)
    sets = structures(several)
    losses = [single.method.loss(TrainBatch.from_sets(sets))]
    for copy in (1, 2):
        seeds = keyed_random.derive_seeds(0x636F7079, copy, sets.seeds)
        losses.append(single.method.loss(TrainBatch.from_sets(replace(sets, seeds=seeds))))
    torch.testing.assert_close(
        several.method.loss(TrainBatch.from_sets(sets)), torch.stack(losses).mean(0), rtol=1e-5, atol=1e-6
    )
    assert torch.stack(losses).std(0).min() > 1e-3


@pytest.mark.parametrize(
    "options", [{}, {"align": "prediction", "smooth_lddt": 1.0, "noise_draws_per_example": 2}], ids=["paper", "all"]
)
def test_the_loss_never_asks_the_device_for_a_number(options, monkeypatch):
    model = a_model(**options)
    sets = structures(model)
    expected = model.method.loss(TrainBatch.from_sets(replace(sets, queries=replace(sets.queries, valid_sizes=None))))
    requested: list[str] = []
    for name in ("item", "tolist", "cpu", "numpy", "nonzero", "__bool__", "__int__", "__float__", "__index__"):
        answer = getattr(torch.Tensor, name)
        monkeypatch.setattr(
            torch.Tensor, name, lambda *given, name=name, answer=answer: requested.append(name) or answer(*given)
        )
    result = model.method.loss(TrainBatch.from_sets(sets))
    monkeypatch.undo()
    assert not requested
    torch.testing.assert_close(result, expected, atol=0, rtol=0)


def test_images_are_repeated_too():
    sets = CoordValueSet(
        tiny.model(tiny.IMAGE).domain.queries(),
        torch.zeros(2, 36, 1),
        torch.tensor([1, 2]),
        {"label": torch.ones(2).long()},
    )
    single, several = (
        tiny.model(tiny.IMAGE, method={"noise_draws_per_example": n}).method.loss(TrainBatch.from_sets(sets))
        for n in (1, 2)
    )
    other = replace(sets, seeds=keyed_random.derive_seeds(0x636F7079, 1, sets.seeds))
    torch.testing.assert_close(several, (single + tiny.model(tiny.IMAGE).method.loss(TrainBatch.from_sets(other))) / 2)


@pytest.mark.parametrize("kind", [tiny.IMAGE, tiny.POINTS], ids=["image", "points"])
@pytest.mark.parametrize(("key", "value"), [("align", "noise"), ("align", "prediction"), ("smooth_lddt", 1.0)])
def test_other_domains_refuse_what_only_structures_have(kind, key, value):
    with pytest.raises(UsageError, match=f"\\[method\\] `{key}`: the values of this domain are not positions in space"):
        models.build(tiny.preset(kind, method={key: value}))


@pytest.mark.parametrize(
    ("key", "value", "reason"),
    [
        ("smooth_lddt", -1.0, "`smooth_lddt` is -1.0: 0 or more"),
        ("smooth_lddt_ramp", 8.0, "`smooth_lddt`, which it raises, is 0"),
        ("noise_draws_per_example", 0, "`noise_draws_per_example` is 0: at least 1"),
        ("align", "input", "none"),
    ],
)
def test_an_impossible_setting_is_refused(key, value, reason):
    with pytest.raises(UsageError) as caught:
        a_preset(**{key: value})
    assert reason in f"{caught.value} {caught.value.hint}"
