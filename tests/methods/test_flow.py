"""Laws of the flow method: what a sample may depend on, and that a field is one function."""

from __future__ import annotations

import dataclasses

import pytest
import torch

from inrflow_core import errors, models, registry
from inrflow_core.methods._training_queries import interpolate_grid
from inrflow_core.numerics import keyed_random, noise_field, paths
from inrflow_core.sampling import options, sample
from inrflow_core.sets import TrainBatch
from tests import tiny

SAMPLERS = ["euler", "heun", "midpoint", "dopri5", "euler-maruyama", "ddim", "ddpm"]
KINDS = {"image": tiny.IMAGE, "local image": tiny.LOCAL_IMAGE, "points": tiny.POINTS}


def how(model, sampler: str, **settings):
    steps = None if sampler == "dopri5" else 4
    drawing = options.sampling_options(model, sampler=sampler, steps=steps, **{"guidance": 2.0, **settings})
    if sampler == "dopri5":
        return dataclasses.replace(drawing, config=drawing.sampler.Config(rtol=1e-2, atol=1e-2, max_nfe=56))
    return drawing


def finer(model):
    """Three times as many positions each way, or three times as many points."""
    return (18, 18) if model.domain.NAME == "image" else 72


@pytest.fixture(scope="module", params=list(KINDS))
def model(request):
    return tiny.model(KINDS[request.param])


@pytest.mark.parametrize("sampler", SAMPLERS)
def test_a_sample_does_not_depend_on_its_batch_or_chunk(model, sampler):
    drawing, queries = how(model, sampler), model.domain.queries(finer(model))
    together = sample.sample_fields(model, [3, 4, 5], [0, 1, 2], drawing).query(queries)
    for i, (seed, label) in enumerate([(3, 0), (4, 1), (5, 2)]):
        alone = sample.sample_fields(model, [seed], [label], drawing).query(queries, chunk=50)
        torch.testing.assert_close(alone[0], together[i], atol=1e-4, rtol=0)


@pytest.mark.parametrize("sampler", SAMPLERS)
def test_a_finer_grid_holds_the_training_sample_and_a_larger_cloud_begins_with_it(model, sampler):
    field = sample.sample_fields(model, [7, 8], [0, 2], how(model, sampler))
    coarse = field.query(model.domain.queries())
    fine = field.query(model.domain.queries(finer(model)))
    assert coarse.std() > 0.2
    if model.domain.NAME == "image":
        stored = fine.unflatten(1, (18, 18))[:, 1::3, 1::3].flatten(1, 2)
    else:
        stored = fine[:, :24]
    torch.testing.assert_close(stored, coarse, atol=1e-4, rtol=0)


@pytest.mark.parametrize("sampler", SAMPLERS)
def test_a_recorded_and_saved_field_agrees_with_one_that_is_sampled_again(model, sampler, tmp_path):
    queries = model.domain.queries(finer(model))
    field = sample.sample_fields(model, [1, 2], [1, -1], how(model, sampler))
    sampled = field.query(queries)
    recorded = sample.sample_fields(model, [1, 2], [1, -1], how(model, sampler)).cache_context()
    torch.testing.assert_close(recorded.query(queries), sampled, atol=1e-5, rtol=0)
    sample.save_field(model, recorded, tmp_path / "field.safetensors")
    size = (tmp_path / "field.safetensors").stat().st_size
    assert size == pytest.approx(recorded.size(), rel=0.2)
    _, saved = sample.load_field(tmp_path / "field.safetensors", "cpu")
    torch.testing.assert_close(saved.query(queries), sampled, atol=1e-5, rtol=0)


@pytest.mark.parametrize("kind", ["guide of another size", "bf16", "encoded"])
def test_a_saved_field_remembers_how_it_was_drawn(model, kind, tmp_path):
    queries, drawing = model.domain.queries(finer(model)), how(model, "heun")
    if kind == "guide of another size":
        weak = tiny.model(KINDS[model.domain.NAME], network={"width": 16, "depth": 1, "decoder_levels": 1})
        drawing = options.sampling_options(model, sampler="heun", steps=4, guidance=2.0, guide=weak)
    elif kind == "bf16":
        drawing = dataclasses.replace(drawing, precision="bf16")
    if kind == "encoded":
        values = sample.sample_fields(model, [4], [1], drawing).query(model.domain.queries())
        sets = dataclasses.replace(training_sets(model, values), seeds=torch.tensor([77]))
        field = model.method.invert(sets, how(model, "heun", guidance=1.0))
    else:
        field = sample.sample_fields(model, [1, 2], [1, -1], drawing).cache_context()
    sampled = field.query(queries)
    sample.save_field(model, field, tmp_path / "field.safetensors")
    torch.testing.assert_close(
        sample.load_field(tmp_path / "field.safetensors", "cpu")[1].query(queries), sampled, atol=1e-5, rtol=0
    )


def test_asking_fewer_or_permuted_queries_changes_no_answer(model):
    field = sample.sample_fields(model, [5], [0], how(model, "euler"))
    queries = model.domain.queries(finer(model))
    every = field.query(queries)
    torch.testing.assert_close(field.query(queries[10:31]), every[:, 10:31], atol=1e-5, rtol=0)
    order = torch.randperm(len(queries), generator=torch.Generator().manual_seed(0))
    coordinates = None if queries.coordinates is None else queries.coordinates[order]
    permuted = dataclasses.replace(queries, coordinates=coordinates, noise_keys=queries.noise_keys[order])
    torch.testing.assert_close(field.query(permuted), every[:, order], atol=1e-5, rtol=0)


def test_the_sde_of_the_field_takes_fresh_noise_in_each_step():
    """With the velocity 0 of a fresh network, whose expected noise is y itself, each step can be written out."""
    built = models.build(tiny.preset(tiny.IMAGE))
    drawing = options.sampling_options(built, sampler="euler-maruyama", steps=5, guidance=1.0)
    context, seeds = built.domain.queries(), torch.tensor([9, 10])
    y = noise_field.normal(seeds, context.noise_keys, purpose="start", channels=1)
    times = drawing.sampler.time_grid(drawing.config)
    for index, (t, t_next) in enumerate(zip(times[:-1], times[1:], strict=True)):
        share = float(drawing.sampler.noise_exchange_rate(built.method.path, drawing.config, t[None], t_next[None]))
        fresh = noise_field.normal(seeds, context.noise_keys, purpose="increment", step=index, channels=1)
        y = y - share * float(t) * y + (2 * share) ** 0.5 * float(t) * fresh
    values = sample.sample_fields(built, [9, 10], [0, 1], drawing).query(context)
    torch.testing.assert_close(values, y, atol=1e-5, rtol=0)
    first, last = (
        noise_field.normal(seeds, context.noise_keys, purpose="increment", step=step, channels=1)
        for step in (0, len(times) - 2)
    )
    assert (last - first).abs().max() > 1


@pytest.mark.parametrize("guidance", [0.0, 1.0, 3.0])
def test_the_field_is_the_plain_euler_solution_of_the_guided_velocity(model, guidance):
    """The recorded, chunked way against five lines that solve the same equation on the training set."""
    drawing = how(model, "euler", guidance=guidance)
    context, seeds = model.domain.queries(), torch.tensor([9])
    flow, network = model.method, model.method.network
    y = noise_field.normal(seeds, context.noise_keys, purpose="start", channels=flow.shape.value_size)
    times = drawing.sampler.time_grid(drawing.config)
    for t, t_next in zip(times[:-1], times[1:], strict=True):
        halves = []
        for label in (1, -1):
            vector = flow.embed_condition({"label": torch.tensor([label])})
            halves.append(network(context, y, t[None].float(), vector, context, y))
        y = y + float(t_next - t) * (halves[1] + guidance * (halves[0] - halves[1]))
    values = sample.sample_fields(model, [9], [1], drawing).query(context)
    torch.testing.assert_close(values, y, atol=1e-5, rtol=0)


def test_guidance_outside_its_interval_is_without_effect(model):
    context = model.domain.queries()
    plain = sample.sample_fields(model, [2], [1], how(model, "euler", guidance=1.0)).query(context)
    never = dataclasses.replace(how(model, "euler", guidance=3.0), interval=(0.001, 0.002))
    torch.testing.assert_close(sample.sample_fields(model, [2], [1], never).query(context), plain, atol=1e-6, rtol=0)
    always = sample.sample_fields(model, [2], [1], how(model, "euler", guidance=3.0)).query(context)
    assert (always - plain).abs().max() > 1e-3


def test_autoguidance_by_the_model_itself_is_without_effect(model):
    context = model.domain.queries()
    plain = sample.sample_fields(model, [2], [1], how(model, "euler", guidance=1.0)).query(context)
    own = dataclasses.replace(how(model, "euler", guidance=3.0), guide=model.method.velocity_model())
    torch.testing.assert_close(sample.sample_fields(model, [2], [1], own).query(context), plain, atol=1e-5, rtol=0)
    other = dataclasses.replace(own, guide=tiny.model(KINDS[model.domain.NAME], scale=0.4).method.velocity_model())
    assert (sample.sample_fields(model, [2], [1], other).query(context) - plain).abs().max() > 0.01


def test_a_set_that_is_inverted_and_evaluated_comes_back(model):
    drawing = options.sampling_options(model, sampler="heun", steps=40, guidance=1.0)
    values = sample.sample_fields(model, [4], [-1], drawing).query(model.domain.queries())
    # Another seed than the sample's: its own noise would bring it back without any encoding.
    sets = dataclasses.replace(training_sets(model, values), seeds=torch.tensor([77]))
    field = model.method.invert(sets, drawing)
    torch.testing.assert_close(field.query(model.domain.queries()), values, atol=0.02, rtol=0)
    fine = field.query(model.domain.queries(finer(model)))
    coarse = fine.unflatten(1, (18, 18))[:, 1::3, 1::3].flatten(1, 2) if model.domain.NAME == "image" else fine[:, :24]
    torch.testing.assert_close(coarse, values, atol=0.02, rtol=0)


def test_the_loss_of_a_set_depends_on_its_seed_alone(model):
    values = torch.randn(
        3, len(model.domain.queries()), model.domain.shape.value_size, generator=torch.Generator().manual_seed(1)
    )
    sets = training_sets(model, values, seeds=[11, 12, 13])
    model.method.train()
    together = model.method.loss(TrainBatch.from_sets(sets))
    alone = torch.cat([model.method.loss(TrainBatch.from_sets(sets[i : i + 1])) for i in range(3)])
    model.method.eval()
    torch.testing.assert_close(alone, together, atol=1e-5, rtol=1e-5)
    assert together.std() > 1e-3


def test_labels_are_dropped_in_training_alone_and_as_often_as_the_setting_says():
    model = tiny.model(tiny.IMAGE, condition={"dropout": 0.3})
    dropped: list[torch.Tensor | None] = []
    model.method.conditioner.register_forward_pre_hook(lambda _, given: dropped.append(given[1]))
    sets = training_sets(model, torch.zeros(1000, 36, 1), seeds=range(1000))
    with torch.no_grad():
        model.method.loss(TrainBatch.from_sets(sets))
        model.method.train().loss(TrainBatch.from_sets(sets))
    looked, learned = dropped
    assert looked is None and learned is not None
    assert float(learned.double().mean()) == pytest.approx(0.3, abs=0.045)  # three standard errors


def test_an_untrained_network_has_the_loss_of_the_zero_velocity():
    built = models.build(tiny.preset(tiny.IMAGE))
    values = torch.zeros(64, 36, 1)
    # With data 0 the target is the noise itself, whose mean square is 1.
    assert built.method.loss(
        TrainBatch.from_sets(training_sets(built, values, seeds=range(64)))
    ).mean().item() == pytest.approx(1.0, abs=0.05)


@pytest.mark.parametrize("num_queries", [5, 36])
def test_the_loss_over_random_queries_is_the_mean_over_all_of_them(num_queries):
    model = tiny.model(tiny.IMAGE, method={"num_queries": num_queries}, condition={"dropout": 0.0})
    every = tiny.model(tiny.IMAGE, condition={"dropout": 0.0})
    values = torch.randn(1024, 36, 1, generator=torch.Generator().manual_seed(1))
    some = model.method.loss(TrainBatch.from_sets(training_sets(model, values, seeds=range(1024))))
    whole = every.method.loss(TrainBatch.from_sets(training_sets(every, values, seeds=range(1024))))
    assert some.mean() == pytest.approx(float(whole.mean()), rel=0.05 if num_queries == 5 else 1e-5)


@pytest.mark.parametrize("kind", KINDS)
def test_the_loss_over_random_queries_is_that_of_the_pairs_chosen(kind):
    flow = tiny.model(KINDS[kind], method={"num_queries": 5}).method
    total, channels = flow.shape.num_queries, flow.shape.value_size
    values = torch.randn(3, total, channels, generator=torch.Generator().manual_seed(1))
    sets = training_sets(tiny.model(KINDS[kind]), values, seeds=[11, 12, 13])
    t = flow.sample_times(sets.seeds).float()
    eps = noise_field.normal(sets.seeds, sets.queries.noise_keys, purpose="noise", channels=channels)
    y, velocity = paths.interpolate(flow.path, values, eps, t)
    answer = flow.network(sets.queries, y, t, flow.embed_condition(sets.condition), sets.queries, y)
    errors = (answer - velocity).square().mean(-1)
    selected = keyed_random.subset(sets.seeds, total, 5, purpose="subset")
    torch.testing.assert_close(
        flow.loss(TrainBatch.from_sets(sets)), errors.gather(1, selected).mean(1), atol=1e-5, rtol=1e-5
    )


def test_queries_of_their_own_have_the_loss_of_those_pairs_of_the_context(model):
    """Query sets that are a part of the context, as sets of their own: the context's time and noise at their keys."""
    flow, part = model.method, slice(3, 14)
    values = torch.randn(3, model.domain.shape.num_queries, model.domain.shape.value_size)
    sets = training_sets(model, values, seeds=[11, 12, 13])
    own = dataclasses.replace(sets, queries=sets.queries[part], values=values[:, part])
    t = flow.sample_times(sets.seeds).float()
    eps = noise_field.normal(sets.seeds, sets.queries.noise_keys, purpose="noise", channels=values.shape[-1])
    y, velocity = paths.interpolate(flow.path, values, eps, t)
    answer = flow.network(sets.queries, y, t, flow.embed_condition(sets.condition), sets.queries, y)
    expected = (answer - velocity).square().mean(-1)[:, part].mean(1)
    torch.testing.assert_close(flow.loss(TrainBatch(sets, own)), expected, atol=1e-5, rtol=1e-5)


def test_a_context_superposed_on_its_noise_takes_no_queries_of_their_own():
    model = tiny.model(tiny.POINTS)
    flow = type(model.method)(
        dataclasses.replace(model.method.config, align="noise"),
        model.method.network,
        model.method.conditioner,
        model.domain.shape,
    )
    sets = training_sets(model, torch.randn(2, 24, 3), seeds=[11, 12])
    with pytest.raises(errors.UsageError, match="the queries are not the context's"):
        flow.loss(TrainBatch(sets, sets[:]))


def test_the_loss_anywhere_is_that_of_the_noise_field_between_the_pixels():
    flow = models.build(tiny.preset(tiny.IMAGE, method={"query_positions": "anywhere", "num_queries": 9})).method
    sets = training_sets(tiny.model(tiny.IMAGE), torch.ones(2, 36, 1), seeds=[11, 12])
    indices = 5 * keyed_random.uniform(sets.seeds, purpose="subset", count=18).unflatten(1, (9, 2))
    eps = torch.cat(
        [noise_field.normal(sets.seeds[i : i + 1], indices[i], purpose="noise", channels=1) for i in range(2)]
    )
    # A fresh network answers 0, and the data are 1 everywhere.
    torch.testing.assert_close(
        flow.loss(TrainBatch.from_sets(sets)), (eps - 1).square().mean((1, 2)), atol=1e-5, rtol=1e-5
    )


def test_training_anywhere_asks_between_the_pixels_and_agrees_on_them():
    values = torch.randn(2, 5, 7, 3, generator=torch.Generator().manual_seed(0))
    rows, columns = torch.meshgrid(torch.arange(5.0), torch.arange(7.0), indexing="ij")
    indices = torch.stack([rows, columns], -1).flatten(0, 1).double().expand(2, -1, -1)
    torch.testing.assert_close(interpolate_grid(values, indices), values.flatten(1, 2))
    halfway = (indices + torch.tensor([0.5, 0.0]))[:, :7]
    torch.testing.assert_close(interpolate_grid(values, halfway), (values[:, 0] + values[:, 1]) / 2)
    model = tiny.model(tiny.IMAGE, method={"query_positions": "anywhere", "num_queries": 9})
    assert torch.isfinite(model.method.loss(TrainBatch.from_sets(training_sets(model, torch.zeros(2, 36, 1))))).all()


@pytest.mark.parametrize(
    ("key", "value", "reason"),
    [
        ("num_queries", 0, "at least 1"),
        ("guidance", -1.0, "0 or more"),
        ("guidance_interval", [0.5, 0.2], "two times"),
        ("time_std", 0.0, "above 0"),
        ("path", "lineal", "did you mean `linear`"),
    ],
)
def test_an_impossible_setting_is_refused_with_a_reason(key, value, reason):
    with pytest.raises(errors.UsageError) as error:
        tiny.preset(tiny.IMAGE, method={key: value})
    assert reason in f"{error.value.message} {error.value.hint}"


def test_times_of_training_follow_their_density():
    uniform = tiny.model(tiny.IMAGE).method.sample_times(torch.arange(4000))
    assert float(uniform.mean()) == pytest.approx(0.5, abs=0.02)
    assert float(uniform.std()) == pytest.approx(12**-0.5, abs=0.01)
    shifted = tiny.model(tiny.IMAGE, method={"time": "logit-normal", "time_shift": 3.0}).method
    t = shifted.sample_times(torch.arange(4000))
    assert float(t.median()) == pytest.approx(0.75, abs=0.02)


def training_sets(model, values, seeds=(4,)):
    """Sets at the model's training positions, with class 1."""
    from inrflow_core.sets import CoordValueSet

    keys = torch.tensor(list(seeds)) if len(list(seeds)) == len(values) else torch.arange(len(values))
    return CoordValueSet(model.domain.queries(), values, keys, {"label": torch.full((len(values),), 1)})


def test_every_path_and_sampler_is_reachable_by_name():
    assert set(paths.PATHS) == {"linear", "trigonometric", "scaled-linear"}
    assert set(registry.names("samplers")) >= set(SAMPLERS)
