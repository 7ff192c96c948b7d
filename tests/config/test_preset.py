"""Presets: every one resolves, builds and learns; sizes are the papers'; a slip of the pen is an error with a hint."""

from __future__ import annotations

import os
import re
import shlex
import shutil
from dataclasses import fields, replace
from pathlib import Path
from typing import Any

import pytest
import tomli
import torch

from inrflow_cli import app
from inrflow_core import models
from inrflow_core.config import toml
from inrflow_core.config.preset import Preset, load, names, resolve
from inrflow_core.config.preset import folder as preset_folder
from inrflow_core.config.typed import unset_by_name
from inrflow_core.errors import MissingError, UsageError
from inrflow_core.methods._contract import StepState
from inrflow_core.planning import plan
from inrflow_core.preparation import pipeline
from inrflow_core.preparation.job import PrepareJob
from inrflow_core.runtime import distributed
from inrflow_core.sets import TrainBatch
from tools import preset_table

ALONE = distributed.World(0, 1, 0, torch.device("cpu"), False)

SMALL = [
    "network.width=64",
    "network.heads=4",
    "network.depth=2",
    "network.decoder_width=none",
    "network.decoder_heads=none",
]
SMALL_GRIDS = {
    "image": ["domain.resolution=16", "network.latents=16", "method.num_queries=none"],
    "points": ["domain.num_points=32", "network.latents=8", "method.num_queries=none"],
    "protein": ["domain.residues=12", "network.latents=12", "method.num_queries=none"],
}

PARAMETERS = {
    "imagenet256-s": (36.93e6, "table 6 says 35M; its authors' network has 36.93M (reference: classes, one level)"),
    "imagenet256-b": (145.8e6, "table 6 says 138M, their network has 145.81M"),
    "imagenet256-l": (485.0e6, "table 6 says 458M, their network has 485.02M"),
    "imagenet256-xl": (733.0e6, "table 6: 733M"),
    "imagenet128-xl": (733.0e6, "table 6: 733M"),
    "ffhq256-b": (145.0e6, "without classes"),
    "ffhq256-l": (484.0e6, "without classes"),
    "church256-b": (145.0e6, "without classes"),
    "church256-l": (484.0e6, "without classes"),
    "cifar10-s": (36.25e6, "S with 10 classes: 0.4M of labels and 0.3M of latents less"),
    "mnist-s": (36.23e6, "S with 10 classes and fewer latents"),
    "shapenet-b": (107.0e6, "table 11 says 108M: two decoder levels are the nearest setting"),
    "shapenet-l": (203.9e6, "table 11: 204M, with a width of 640"),
    "church256-b-random2048": (145.83e6, "1024 more latents of width 768"),
    "church256-b-perceiver": (163.34e6, "a block that reads the context, and no patches"),
    "imagenet256-b-linear": (142.22e6, "one linear layer instead of attention: 3.6M less"),
    "objaverse-xl": (866_808_969, "table 11: 866.8M, with a width of 1024"),
    "swissprot-xl": (732.5e6, "XL of images without classes, with linear layers for 1280 features of a residue"),
    "shapenet-b-hash": (56.91e6, "the context is read once, not in each of the nine blocks"),
    "imagenet256-xl-fast": (690_783_043, "a decoder of width 384 instead of 1152, 768 latents less"),
    "imagenet128-xl-fast": (690_783_043, "the same"),
    "shapenet-l-fast": (196_281_347, "a decoder of width 256 instead of 640, 768 latents less"),
    "objaverse-xl-fast": (844_716_681, "a decoder of width 256 instead of 1024, 768 latents less"),
}
SAME_SIZE = {
    "imagenet256-b": ["imagenet256-b-4096", "imagenet256-b-16384", "imagenet256-b-rope"],
    "imagenet256-xl": ["imagenet256-xl-norope"],
    "church256-b": ["church256-b-grid", "church256-b-random", "church256-b-kmeans"],
    "shapenet-b": ["shapenet-airplane-b", "shapenet-car-b", "shapenet-chair-b"],
    "shapenet-l": ["shapenet-airplane-l", "shapenet-car-l", "shapenet-chair-l"],
}
COUNTED = {**PARAMETERS, **{name: PARAMETERS[of] for of, names in SAME_SIZE.items() for name in names}}

SIZES = {
    "s": (384, 12, 6, 1),
    "b": (768, 12, 12, 1),
    "l": (1024, 24, 16, 1),
    "xl": (1152, 28, 16, 2),
    "points b": (512, 9, 4, 2),
    "points l": (640, 12, 4, 1),
    "points xl": (1024, 28, 16, 1),
}
"""Width, depth, heads, decoder levels: table 6, and table 11 with what gives its counts."""
POINTS = ("shapenet", "objaverse")

SCHEDULES = {
    "imagenet128-xl": (1_700_000, 512, 4096),
    "imagenet256-xl": (1_700_000, 512, 8192),
    "imagenet256-": (1_000_000, 256, 8192),
    "imagenet256-b-4096": (1_000_000, 256, 4096),
    "imagenet256-b-16384": (1_000_000, 256, 16_384),
    "ffhq256-": (200_000, 256, 8192),
    "church256-": (200_000, 256, 8192),
    "church256-b-": (200_000, 128, 8192),
    "shapenet-": (800_000, 16, 2048),
    "objaverse-xl": (500_000, 384, 16_384),
    "swissprot-xl": (100_000, 256, None),
    "cifar10-s": (200_000, 256, None),
    "mnist-s": (100_000, 256, None),
}
"""Steps, batch, decoded pairs, by the longest beginning of a name: appendices A.1 to A.3, D and F; ASFT, section 4."""


SMALL_INRCT = [
    *(
        f"network.hypernetwork.{key}"
        for key in ("width=32", "heads=2", "encoder_depth=1", "decoder_depth=1", "mlp_width=64")
    ),
    *("network.readout.token_width=32", "network.readout.width=16"),
]
SMALL_FIELDS = {
    "image": ["domain.resolution=16", "network.readout.heads=2", "network.readout.tokens=8"],
    "radiance": ["domain.resolution=16", "network.readout.samples=8", "method.num_queries=20"],
}
INRCT_SCHEDULES = {
    "cifar10-inrct": (48_875, 625_600),
    "celebahq64-inrct": (26_375, 422_000),
    "srncars-inrct": (20_000, 100_000),
}
"""Steps of both stages: epochs of INRCT's appendices B.3 and C.2 at batches of 128."""


def by_method(method: str) -> list[str]:
    """The presets of a method."""
    return [name for name in names() if preset_table.load(name).method.name == method]


def small(name: str) -> Preset:
    """The preset with small networks over a small grid, all else as it is."""
    preset = preset_table.load(name)
    if preset.method.name == "consistency":
        return load(name, SMALL_INRCT + SMALL_FIELDS[preset.domain.name])
    return preset_table.load(name, SMALL + SMALL_GRIDS[preset.domain.name])


@pytest.mark.parametrize("name", by_method("consistency"))
def test_every_preset_of_a_consistency_model_builds_and_has_a_loss_in_each_stage(name: str):
    torch.manual_seed(0)
    model = models.build(small(name))
    batch = model.domain.train_batch(replace(model.domain.dummy_batch(2), seeds=torch.tensor([3, 4])))
    for stage in ("reconstruction", "full"):
        model.method.begin_stage(stage)
        loss = model.method.loss(batch, StepState(stage, 8, 9))
        assert loss.shape == (2,) and loss.isfinite().all() and (loss > 0).all()


@pytest.mark.parametrize("name", INRCT_SCHEDULES)
def test_presets_of_inrct_have_the_papers_sizes_and_settings(name: str):
    preset = load(name)
    with torch.device("meta"):
        method = models.build(preset).method
    count = sum(weight.numel() for weight in method.parameters())
    assert count == (144_570_748 if name == "srncars-inrct" else 145_490_691)
    stages = [preset.training.config.for_stage(stage) for stage in ("reconstruction", "full")]
    assert tuple(stage.steps for stage in stages) == INRCT_SCHEDULES[name]
    for stage in stages:
        assert (stage.optimizer, stage.learning_rate, stage.betas, stage.epsilon) == ("radam", 1e-4, (0.9, 0.999), 1e-8)
        assert (stage.batch, stage.weight_decay, stage.clip, stage.schedule) == (128, 0.0, None, "constant")
    assert [stage.ema for stage in stages] == [(), (0.9999,)]
    assert set(INRCT_SCHEDULES) == {other for other in by_method("consistency") if not other.endswith("-demo")}


@pytest.mark.parametrize("name", by_method("flow"))
def test_every_preset_builds_and_has_a_loss(name: str):
    torch.manual_seed(0)
    model = models.build(small(name))
    blank = model.domain.dummy_batch(2)
    condition = {} if model.preset.condition is None else model.method.conditioner.dummy_batch(blank)
    condition = {**blank.condition, **condition}
    values = torch.rand(blank.values.shape) * 2 - 1
    sets = replace(blank, values=values, seeds=torch.tensor([3, 4]), condition=condition)
    loss = model.method.loss(TrainBatch.from_sets(sets))
    # The network answers 0 at first, so that the loss is the velocity's mean square: that of noise and of the data.
    torch.testing.assert_close(loss.mean(), torch.tensor(4 / 3), rtol=0.35, atol=0)


PAPERS = [name for name in by_method("flow") if not name.endswith(("-demo", "-own")) and name != "flowers"]
"""Presets of INRFlow's own models; `flowers` has its recipe at another size and schedule."""


@pytest.mark.parametrize("name", PAPERS)
def test_parameters_are_the_papers(name: str):
    with torch.device("meta"):
        method = models.build(load(name)).method
    count = sum(weight.numel() for weight in method.parameters())
    expected, why = COUNTED[name]
    assert count == expected if isinstance(expected, int) else abs(count / expected - 1) < 6e-4, why


@pytest.mark.parametrize("name", PAPERS)
def test_sizes_are_the_papers(name: str):
    size = next(part for part in reversed(name.split("-")) if part in SIZES)
    network = load(name).network.config
    expected = SIZES[f"points {size}" if name.startswith(POINTS) else size]
    assert (network.width, network.depth, network.heads, network.decoder_levels) == expected
    latents = {"church256-b-random2048": 2048, "cifar10-s": 256, "mnist-s": 196, "swissprot-xl": 350}
    assert network.latents == latents.get(name, 256 if name.endswith("-fast") else 1024)
    assert network.rope == (name.removesuffix("-fast") in ("imagenet128-xl", "imagenet256-xl", "imagenet256-b-rope"))


@pytest.mark.parametrize("name", PAPERS)
def test_training_settings_are_the_papers(name: str):
    preset = load(name)
    training = preset.training.config
    assert (training.learning_rate, training.betas, training.epsilon) == (1e-4, (0.9, 0.999), 1e-8)
    assert (training.weight_decay, training.clip, training.ema) == (0.0, 2.0, (0.999,))
    assert (training.schedule, training.warmup, training.precision) == ("constant", 0, "auto")
    head = max((head for head in SCHEDULES if name.startswith(head)), key=len)
    assert (training.steps, training.batch, preset.method.config.num_queries) == SCHEDULES[head]
    assert (preset.method.config.path, preset.method.config.time) == ("linear", "uniform")


@pytest.mark.parametrize("name", PAPERS)
def test_sampling_is_the_papers(name: str):
    preset = load(name)
    expected = {
        "shapenet": ("euler-maruyama", 1000),
        "objaverse": ("euler-maruyama", 500),
        "swissprot": ("euler-maruyama", 500),
    }
    of = name.partition("-")[0]
    assert preset.sampler is not None
    assert (preset.sampler.name, preset.sampler.config.steps) == expected.get(of, ("euler", 100))
    scale = 5.0 if of == "objaverse" else 1.5 if of.startswith("imagenet") else 1.0
    assert preset.method.config.guidance == scale


ABLATIONS = {
    "church256-b-random": ("church256-b-grid", {"network.pseudo_coordinates"}),
    "church256-b-kmeans": ("church256-b-grid", {"network.pseudo_coordinates"}),
    "church256-b-random2048": ("church256-b-random", {"network.latents"}),
    "church256-b-perceiver": ("church256-b-grid", {"network.encoder", "network.cross_attend_every"}),
    "church256-b-grid": ("church256-b", {"training.batch"}),
    "shapenet-b-hash": ("shapenet-b", {"network.encoder", "network.pseudo_coordinates"}),
    "imagenet256-b-linear": ("imagenet256-b", {"network.encoder"}),
    "imagenet256-b-rope": ("imagenet256-b", {"network.rope"}),
    "imagenet256-xl-norope": ("imagenet256-xl", {"network.rope"}),
    "imagenet256-b-4096": ("imagenet256-b", {"method.num_queries"}),
    "imagenet256-b-16384": ("imagenet256-b", {"method.num_queries"}),
    "shapenet-chair-l": ("shapenet-l", {"data.classes"}),
}
FAST = ("imagenet256-xl", "imagenet128-xl", "shapenet-l", "objaverse-xl")
ABLATIONS |= {
    f"{name}-fast": (name, {"network.latents", "network.decoder_width", "network.decoder_heads"}) for name in FAST
}


@pytest.mark.parametrize("name", ABLATIONS)
def test_an_ablation_changes_one_thing(name: str):
    other, expected = ABLATIONS[name]
    one, two = load(name).table(), load(other).table()
    assert one.keys() == two.keys()
    changed = {
        f"{table}.{key}"
        for table in one
        for key in {*one[table], *two[table]}
        if one[table].get(key) != two[table].get(key)
    }
    assert changed == expected


@pytest.mark.parametrize("name", names())
def test_a_preset_survives_being_written_and_read(name: str):
    preset = preset_table.load(name)
    again = resolve(name, tomli.loads(toml.to_toml(preset.table())))
    assert again == preset


@pytest.mark.parametrize("name", names())
def test_the_command_that_a_preset_names_for_its_data_writes_where_it_reads(name: str, monkeypatch: pytest.MonkeyPatch):
    data, written = preset_table.load(name).data.config, []

    def stop(job: PrepareJob, **_: Any) -> None:
        written.append(job.out)
        raise UsageError("stopped", hint="here")

    monkeypatch.setattr(pipeline, "prepare", stop)
    monkeypatch.delenv("INRFLOW_DATA", raising=False)
    program, *arguments = shlex.split(data.prepare)
    assert (program, arguments[0]) == ("inrflow", "prepare")
    assert app.run(arguments) == 2
    assert written == [Path(data.path)]


@pytest.mark.parametrize(("name", "least"), zip(FAST, (7, 5, 3, 2.5), strict=True))
def test_a_fast_preset_is_cheaper_to_sample_by_its_stated_factor(name: str, least: float):
    slow, fast = (
        plan.Planner(load(preset, ["method.num_queries=none"]), ALONE, "fp32").sizes()[1]
        for preset in (name, f"{name}-fast")
    )
    assert sum(slow.values()) / sum(fast.values()) > least
    assert slow["decoder"] / fast["decoder"] > 6  # nearly all of it is for the queries


@pytest.mark.parametrize(
    ("change", "problem"),
    [
        ("network.latents=2000000000", "[network] `latents` is 2,000,000,000: at most 1,048,576"),
        ("network.depth=2000000000", "[network] `depth` is 2,000,000,000: at most 1,048,576"),
        ("condition.classes=2000000000", "[condition] `classes` is 2,000,000,000: at most 1,048,576"),
        ("network.width=1000000", "the network of [network] has at least "),
    ],
)
def test_a_network_larger_than_any_is_refused_before_anything_is_allocated(change: str, problem: str):
    with pytest.raises(UsageError, match=re.escape(problem)):
        load("digits-demo", [change])


def test_an_override_changes_one_setting_and_none_unsets():
    preset = load("digits-demo", ["training.batch=7", "method.num_queries=none", "training.ema=[0.9, 0.99]"])
    assert preset.training.config.batch == 7
    assert preset.method.config.num_queries is None
    assert preset.training.config.ema == (0.9, 0.99)


SLIPS = {
    "unknown key": ("network.num_laters=3", "has no setting `num_laters`", "allowed: "),
    "misspelt key": ("network.widht=3", "has no setting `widht`", "did you mean `width`?"),
    "misspelt table": ("netwrok.width=3", "no table [netwrok]", "did you mean `network`?"),
    "misspelt part": ("sampler.name=hein", "no sampler is called `hein`", "did you mean `heun`?"),
    "misspelt choice": ("network.encoder=spacial", "`encoder` is 'spacial'", "did you mean `spatial`?"),
    "wrong type": ("training.batch=many", "`batch` is 'many'", "give a whole number"),
    "number for a truth": ("network.rope=1", "`rope` is 1", "give true or false"),
    "impossible value": ("network.heads=7", "`heads` is 7", "fix the preset"),
    "no override": ("batch", "`batch` is not an override", "--set table.key=value"),
    "missing": ("training.steps=none", "needs the setting `steps`", "add `steps`, a whole number"),
}


@pytest.mark.parametrize(("text", "message", "hint"), SLIPS.values(), ids=SLIPS)
def test_a_slip_in_a_setting_says_what_and_where(text: str, message: str, hint: str):
    with pytest.raises(UsageError) as caught:
        load("digits-demo", [text])
    assert message in caught.value.message
    assert hint in (caught.value.hint or "")


def test_a_name_that_exists_nowhere_gets_the_nearest():
    with pytest.raises(UsageError, match="no preset is called `digit-demo`") as caught:
        load("digit-demo")
    assert caught.value.hint == (
        "did you mean `digits-demo`, `digits-ddmi-demo` or `digits-inrct-demo`? `inrflow presets` lists all"
    )


def test_a_file_that_is_absent_or_no_toml_is_an_error(tmp_path: Path):
    with pytest.raises(MissingError, match=r"mine\.toml` does not exist"):
        load(str(tmp_path / "mine.toml"))
    (tmp_path / "mine.toml").write_text("[data\n")
    with pytest.raises(UsageError, match="is not valid TOML"):
        load(str(tmp_path / "mine.toml"))


def test_a_file_that_begins_with_a_name_has_it_as_the_preset_of_a_run_does(tmp_path: Path):
    loaded = load("digits-demo", ["training.seed=7"])
    file = tmp_path / "preset.toml"
    file.write_text('name = "digits-demo"\n\n' + toml.to_toml(loaded.table()))
    assert load(str(file)) == loaded


@pytest.mark.parametrize("name", ['"../elsewhere"', '"a\\\\b"', '""', '".."', "3"])
def test_a_name_that_cannot_be_a_folders_is_refused(tmp_path: Path, name: str):
    (tmp_path / "mine.toml").write_text(f"name = {name}\n\n" + toml.to_toml(load("digits-demo").table()))
    with pytest.raises(UsageError, match="`name` in") as caught:
        load(str(tmp_path / "mine.toml"))
    assert "name of a folder" in (caught.value.hint or "")


def test_a_setting_can_be_unset_although_its_default_is_a_value(tmp_path):
    unclipped = load("digits-demo", ["training.clip=none"])
    assert unclipped.training.config.clip is None
    assert resolve("again", tomli.loads(toml.to_toml(unclipped.table()))).training.config.clip is None
    stages = resolve("stage", {**unclipped.table(), "training": {"batch": 2, "steps": 2, "train": {"clip": "none"}}})
    assert stages.training.config.for_stage("train").clip is None
    assert resolve("x", tomli.loads(toml.to_toml(stages.table()))).training.config.for_stage("train").clip is None


def test_only_settings_of_training_are_a_value_by_default_and_can_be_unset():
    for name in names():
        preset = preset_table.load(name)
        for part in (preset.domain, preset.method, *preset.networks.values(), preset.condition, preset.sampler):
            if part is not None:
                assert not [f.name for f in fields(part.config) if unset_by_name(type(part.config), f.name)], part.name


@pytest.mark.parametrize("value", ["nan", "inf", "-inf"])
@pytest.mark.parametrize("setting", ["training.learning_rate", "training.weight_decay", "method.time_mean"])
def test_settings_are_finite_numbers(setting, value):
    with pytest.raises(UsageError, match="is -?(nan|inf)"):
        load("digits-demo", [f"{setting}={value}"])


def test_a_preset_with_a_byte_order_mark_is_read(tmp_path):
    file = tmp_path / "marked.toml"
    file.write_bytes(b"\xef\xbb\xbf" + (preset_folder() / "digits-demo.toml").read_bytes())
    assert load(str(file)).table() == load("digits-demo").table()


@pytest.mark.parametrize("text", ['a"b', "a\\b", "a\nb", "a\tb\x01\x7f", "\u00e9\u4e2d", "'''"])
def test_every_text_is_read_as_it_was_written(text):
    assert tomli.loads(toml.to_toml({"table": {"key": text}})) == {"table": {"key": text}}


def test_the_largest_seed_of_a_run_is_two_to_the_63_minus_1():
    assert load("digits-demo", [f"training.seed={2**63 - 1}"]).training.config.seed == 2**63 - 1
    with pytest.raises(UsageError, match="2\\^63"):
        load("digits-demo", [f"training.seed={2**63}"])


def test_bytes_of_a_file_name_that_are_no_text_are_replaced_in_the_name_of_the_preset(tmp_path):
    file = tmp_path / os.fsdecode(b"a\xffb.toml")
    shutil.copy(preset_folder() / "digits-demo.toml", file)
    assert load(str(file)).name == "a\ufffdb"


def test_the_papers_images_have_the_frequencies_of_the_release():
    """From pi/2 to 7/32 of the grid's side in units of pi on [-1, 1], where it has pi to 112 pi on [0, 1] at 256 pixels."""
    found = []
    for preset in map(preset_table.load, names()):
        for part in preset.networks.values():
            if preset.domain.name == "image" and getattr(part.config, "min_frequency", None) == 0.5:
                found.append(part.config.max_frequency / preset.domain.config.resolution)
    assert found == [7 / 32] * 21
