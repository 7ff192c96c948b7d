"""What Python callers pass is checked when it is given: seeds, labels, guidance."""

from __future__ import annotations

import dataclasses
from typing import Any

import numpy as np
import pytest
import torch

from inrflow_core.domains._contract import InputExample
from inrflow_core.errors import MissingError, UsageError
from inrflow_core.fields import Orbit
from inrflow_core.models import Model
from inrflow_core.sampling import invert, options, provenance, sample
from inrflow_core.sampling.labels import check_labels, resolve_labels
from inrflow_core.sampling.python_inputs import check_size
from inrflow_core.sampling.request import SampleRequest, check_seeds
from inrflow_core.sampling.sharded import SampleJob
from tests import tiny


@pytest.fixture(scope="module")
def model() -> Model:
    return tiny.model(tiny.IMAGE)


@pytest.fixture(scope="module")
def undropped() -> Model:
    return tiny.model(tiny.IMAGE, condition={"dropout": 0.0})


@pytest.mark.parametrize(
    ("seeds", "message"),
    [
        ([], "no seeds"),
        ([0.5], "seed 0.5"),
        ([1, "2"], "seed '2'"),
        ([-1], "seed -1"),
        ([2**63], "seed 9223372036854775808"),
        (range(2**63 - 1, 2**63 + 1), "seed 9223372036854775808"),
        ([True], "seed True"),
        (np.array([1.0]), "seed"),
    ],
)
def test_seeds_that_cannot_be_are_refused(seeds: Any, message: str):
    with pytest.raises(UsageError, match=message):
        check_seeds(seeds)


@pytest.mark.parametrize(
    ("labels", "message"),
    [
        (None, "has 3 classes, and no labels"),
        ([0], "1 labels for 2 seeds"),
        ([0, 1, 2], "3 labels for 2 seeds"),
        ([0, 3], "the label 3: the model has 3 classes"),
        ([-2, 0], "the label -2"),
        (["cat", "dog"], "the label 'cat' is not a whole number"),
        ([0.0, 1.0], "the label 0.0 is not"),
    ],
)
def test_labels_that_do_not_fit_are_refused(model: Model, labels: Any, message: str):
    with pytest.raises(UsageError, match=message):
        check_labels(model, labels, 2)


@pytest.fixture(scope="module")
def named(model: Model) -> Model:
    return dataclasses.replace(model, metadata={"classes": ["cat", "cow", "dog"]})


@pytest.mark.parametrize(
    ("labels", "numbers"),
    [
        ("cow", [1, 1, 1]),
        ("dog,cat", [2, 0, 2]),
        ("all", [0, 1, 2]),
        ("none", [-1, -1, -1]),
        (["dog", 0, "none"], [2, 0, -1]),
        (np.array([2, 1, 0]), [2, 1, 0]),
    ],
    ids=str,
)
def test_labels_are_numbers_or_names_or_the_text_of_a_command(named: Model, labels: Any, numbers: list[int]):
    assert sample.sample_fields(named, [0, 1, 2], labels).condition["label"].tolist() == numbers


@pytest.mark.parametrize(
    ("labels", "message", "hint"),
    [
        ("cot", "`--label cot`: the model has no class of that name", "did you mean"),
        (["cat", "horse"], "`--label horse`: the model has no class", "allowed: `cat`, `cow`, `dog`"),
        (["cat"], "1 labels for 2 seeds", "one label per seed"),
        (["cat,dog", 0], "'cat,dog' is not one class", "give one"),
        (["cat", "all"], "'all' is not one class", "give one"),
        (["uniform", "cat"], "'uniform' is not one class", "give one"),
        (None, "has 3 classes, and no labels are given", '"uniform"'),
    ],
    ids=str,
)
def test_a_class_that_the_model_lacks_is_refused_when_it_is_passed(named: Model, labels: Any, message: str, hint: str):
    with pytest.raises(UsageError, match=message) as caught:
        sample.sample_fields(named, [0, 1], labels)
    assert hint in (caught.value.hint or "")


def test_an_input_is_inverted_under_a_class_by_its_name(named: Model):
    assert invert.class_labels(named, "dog") == invert.class_labels(named, 2) == np.array([2])
    for several in ("cat,dog", "all", "uniform"):
        with pytest.raises(UsageError, match="is not one class"):
            invert.class_labels(named, several)


SIZES = {
    "one side": (tiny.IMAGE, (6,), "give rows and columns"),
    "text": (tiny.IMAGE, "48", "give rows and columns"),
    "half pixels": (tiny.IMAGE, (4.5, 4.5), "give rows and columns"),
    "sides of several rows": (tiny.IMAGE, np.array([[6, 6], [6, 6]]), "give rows and columns"),
    "half pixels of an array": (tiny.IMAGE, np.array([4.5, 4.5]), "give rows and columns"),
    "half a side": (tiny.IMAGE, np.array(4.5), "give rows and columns"),
    "one side of an array": (tiny.IMAGE, np.array([6]), "give rows and columns"),
    "rows of a cloud": (tiny.POINTS, (8, 8), "give a number of points"),
    "views of an image": (tiny.IMAGE, Orbit(8, 8, 4), "leave it out"),
}


@pytest.mark.parametrize(("kind", "size", "hint"), SIZES.values(), ids=SIZES)
def test_a_size_that_samples_do_not_have_is_refused_by_what_they_are(kind: Any, size: Any, hint: str):
    with pytest.raises(UsageError, match="size") as caught:
        check_size(tiny.model(kind).domain, size)
    assert hint in (caught.value.hint or "")


def test_lists_arrays_and_integers_of_numpy_are_sizes(model: Model):
    for size in ([12, 9], (np.int32(12), 9), np.array([12, 9]), torch.tensor([12, 9])):
        assert check_size(model.domain, size) == (12, 9)
    for size, same in ((np.int64(12), 12), (np.array(12), 12), (torch.tensor(12), 12), (None, None)):
        assert check_size(model.domain, size) == same


def test_a_model_and_its_fields_say_what_they_are(named: Model, tmp_path):
    weights = sum(each.numel() for each in named.method.parameters())
    one = dataclasses.replace(named, metadata={**named.metadata, "step": 1200, "decay": 0.99})
    assert repr(one).splitlines() == [
        "Model `tiny`",
        "  samples: images, 6 x 6 pixels each",
        "  condition: 3 classes, cat, cow, dog",
        "  method: flow of set-transformer, sampler euler",
        f"  weights: {weights:,} parameters, step 1,200, EMA 0.99, on cpu",
    ]
    field = sample.sample_fields(one, range(10), "cow")
    assert repr(field).splitlines() == [
        "FlowField of 10 functions of 2 coordinates with values of 1 number, trained at 6 x 6 positions",
        "  seeds: 0, 1, 2, 3, 4, 5, 6, ... 9",
        "  label: 1, 1, 1, 1, 1, 1, 1, ... 1",
        "  sampler euler spacing=equal steps=4, guidance 1, noise linear, precision fp32",
        "  not yet evaluated, on cpu",
    ]
    sample.save_field(one, field, tmp_path / "field.safetensors")
    assert "context cached, on cpu" in repr(field)
    loaded, same = sample.load_field(tmp_path / "field.safetensors", "cpu")
    assert "weights: of a saved field" in repr(loaded) and "10 functions" in repr(same)


@pytest.mark.parametrize(
    "kind",
    [tiny.INR, tiny.LATENT, tiny.SCENES, tiny.VIDEO, tiny.PROTEIN],
    ids=["inr", "latent", "scenes", "video", "protein"],
)
def test_every_model_has_a_short_repr(kind: Any):
    assert 3 <= len(repr(tiny.model(kind)).splitlines()) <= 5


def test_the_device_is_that_of_the_command_line(tmp_path, monkeypatch: pytest.MonkeyPatch):
    tiny.run_folder(tmp_path / "run", tiny.IMAGE)
    monkeypatch.setattr(sample, "process_device", lambda name: {None: "meta", "cuda": "cpu"}[name])
    assert "on meta" in repr(sample.load(tmp_path / "run"))
    assert "on cpu" in repr(sample.load(tmp_path / "run", device="cuda"))


def test_the_name_of_a_model_that_comes_with_inrflow_is_not_a_path():
    with pytest.raises(MissingError, match="does not exist") as caught:
        sample.load("glyphs")
    assert 'inrflow.load(inrflow.shipped_weights("glyphs"))' in (caught.value.hint or "")


@pytest.mark.parametrize("array", [np.array, torch.tensor, list])
def test_integers_of_numpy_and_torch_are_seeds_and_labels(model: Model, array: Any):
    check_seeds(array([3, 2**63 - 1]))
    check_labels(model, array([0, -1]), 2)


def test_sampling_checks_seeds_and_labels(model: Model):
    for seeds, labels in (([], []), ([1], None), ([1], [3])):
        with pytest.raises(UsageError):
            sample.sample_fields(model, seeds, labels)


def test_a_model_without_classes_takes_no_labels():
    with pytest.raises(UsageError, match="was trained without classes"):
        sample.sample_fields(tiny.model(tiny.IMAGE, condition=None), [1], [0])


def test_a_model_that_never_dropped_its_labels_is_not_sampled_without_one(undropped: Model):
    for draw in (
        lambda: sample.sample_fields(undropped, [1], [-1]),
        lambda: resolve_labels(undropped, [1], "none"),
    ):
        with pytest.raises(UsageError, match="never learned to sample without a class"):
            draw()


def test_only_guidance_that_acts_is_recorded(model: Model, undropped: Model, tmp_path):
    weights = tmp_path / "weights"
    weights.write_bytes(b"weights")

    def recorded(one: Model) -> str:
        request = SampleRequest([1], [0])
        return provenance.provenance(one, weights, request, options.sampling_options(one))["guidance"]

    guided: dict[str, Any] = {"guidance": 1.5}
    assert recorded(tiny.model(tiny.IMAGE, method=guided)) == "1.5"
    assert recorded(tiny.model(tiny.IMAGE, method=guided, condition={"dropout": 0.0})) == "1"
    assert recorded(tiny.model(tiny.IMAGE, method=guided, condition=None)) == "1"
    with pytest.raises(UsageError, match="interval without guidance"):
        options.sampling_options(model, guidance_interval=(0.1, 0.9))


def test_samples_without_a_class_are_computed_and_recorded_without_guidance(tmp_path):
    model = tiny.model(tiny.IMAGE, method={"guidance": 1.5, "guidance_interval": (0.1, 0.9)})
    (tmp_path / "weights").write_bytes(b"weights")
    request = SampleRequest([1, 2], [-1, -1])
    source = SampleJob(tmp_path / "weights", tmp_path / "out.h5", request).open_source(model=model)
    origin = provenance.provenance(model, tmp_path / "weights", request, source.options)
    assert origin["guidance"] == "1" and "guidance_interval" not in origin
    plain = sample.sample_fields(model, [1, 2], [-1, -1], options.sampling_options(model, guidance=1.0))
    for how in (None, source.options):
        field = sample.sample_fields(model, [1, 2], [-1, -1], how)
        assert field.options.guidance == 1.0
        np.testing.assert_array_equal(sample.evaluate(model, field), sample.evaluate(model, plain))
    assert options.options_for_labels(model, [-1, 3]).guidance == 1.5
    assert options.options_for_labels(model, [-1], guide=tiny.model(tiny.IMAGE)).guidance == 1.5
    for asks in ({"guidance": 2.0}, {"method_settings": {"guidance": 2}}):
        with pytest.raises(UsageError, match="guidance 2 of samples without a class"):
            options.options_for_labels(model, [-1, -1], **asks)
    with pytest.raises(UsageError, match="interval without guidance"):
        options.options_for_labels(model, [-1], guidance_interval=(0.1, 0.9))


def test_superscript_digits_are_no_class_number(model: Model):
    with pytest.raises(UsageError, match="no class of that name"):
        resolve_labels(model, [1], "²")


WRONG_REQUESTS = {
    "too few labels": ([1, 2], [1], "1 labels for 2 seeds"),
    "no such class": ([1], [3], "the label 3: the model has 3 classes"),
    "no labels": ([1], None, "has 3 classes, and no labels are given"),
    "a seed too large": ([2**63], [1], "the seed 9223372036854775808 is not a whole number"),
}


@pytest.mark.parametrize(("seeds", "labels", "message"), WRONG_REQUESTS.values(), ids=WRONG_REQUESTS)
def test_a_wrong_request_is_an_error_at_the_call(model: Model, seeds: Any, labels: Any, message: str):
    with pytest.raises(UsageError, match=message):
        sample.iter_samples(model, SampleRequest(seeds, labels))
    with pytest.raises(UsageError, match=message):
        sample.sample_fields(model, seeds, labels)


def test_seeds_and_labels_that_are_no_lists_are_named(model: Model):
    one: Any = 3
    with pytest.raises(UsageError, match="the seeds 3 are not a list of numbers"):
        check_seeds(one)
    with pytest.raises(UsageError, match="the labels 3 are not a list of numbers"):
        check_labels(model, one, 1)
    for seed in (-1, 2**63):
        with pytest.raises(UsageError, match=f"the seed {seed} is not a whole number"):
            resolve_labels(model, [seed])


def test_a_file_is_inverted_under_a_class_of_the_model(model: Model, undropped: Model):
    example = InputExample(np.full((6, 6, 1), 90, np.uint8))
    for label, message in {3: "the model has 3 classes", -2: "the label -2"}.items():
        with pytest.raises(UsageError, match=message):
            invert.invert(model, example, label=label, steps=1)
    with pytest.raises(UsageError, match="never learned to sample without a class"):
        invert.invert(undropped, example, steps=1)
    assert invert.invert(undropped, example, label=1, steps=1).condition["label"].tolist() == [1]
    assert invert.invert(model, example, steps=1).condition["label"].tolist() == [-1]
    with pytest.raises(UsageError, match="`steps` is 0"):
        invert.invert(model, example, label=1, steps=0)


def test_a_field_of_another_model_is_refused_with_both_kinds_of_sets(model: Model):
    clouds, functions = tiny.model(tiny.POINTS), tiny.model(tiny.INR)
    own_field, cloud = (sample.sample_fields(one, [0], [1]) for one in (model, clouds))
    pairs = ((model, cloud), (clouds, own_field), (model, sample.sample_fields(functions, [0])))
    for own, field in pairs:
        with pytest.raises(
            UsageError, match="the field is of another model: its functions are of .* positions, those of `"
        ) as refused:
            sample.evaluate(own, field)
        assert "`sample.load_field` returns a saved field with its model" in (refused.value.hint or "")
    assert sample.evaluate(model, own_field).dtype == np.uint8
