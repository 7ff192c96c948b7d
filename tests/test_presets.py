"""Presets: every one resolves, builds and learns; sizes are the papers'; a slip of the pen is an error with a hint."""

from __future__ import annotations

import shlex
from pathlib import Path

import pytest
import torch

from inrflow_cli import app
from inrflow_core import models, presets
from inrflow_core.errors import MissingError, UsageError
from inrflow_core.sets import CoordValueSet
from tools import preset_table

SMALL = [
    "network.width=64",
    "network.heads=4",
    "network.depth=2",
    "network.decoder_width=none",
    "network.decoder_heads=none",
]
SMALL_PLACES = {
    "image": ["domain.resolution=16", "network.latents=16", "method.num_queries=none"],
    "points": ["domain.num_points=32", "network.latents=8", "method.num_queries=none"],
}

PAPER = {
    "imagenet256-s": (36.93e6, "table 6 says 35M; its authors' network has 36.93M (reference: classes, one level)"),
    "imagenet256-b": (145.8e6, "table 6 says 138M, their network has 145.81M"),
    "imagenet256-l": (485.0e6, "table 6 says 458M, their network has 485.02M"),
    "imagenet256-xl": (733.0e6, "table 6: 733M"),
    "imagenet128-xl": (733.0e6, "table 6: 733M"),
    "ffhq256-b": (145.0e6, "without classes"),
    "ffhq256-l": (484.0e6, "without classes"),
    "shapenet-b": (107.0e6, "table 11 says 108M: two decoder levels are the nearest setting"),
    "shapenet-l": (203.9e6, "table 11: 204M, with a width of 640"),
}


def small(name: str) -> presets.Preset:
    """The preset with a small network over few places, all else as it is."""
    domain = presets.load(name).domain.name
    assert domain is not None
    return presets.load(name, SMALL + SMALL_PLACES[domain])


@pytest.mark.parametrize("name", presets.names())
def test_every_preset_builds_and_has_a_loss(name: str):
    torch.manual_seed(0)
    model = models.build(small(name))
    shape = model.domain.shape
    values = torch.rand(2, shape.num_pairs, shape.value_size) * 2 - 1
    condition = {} if model.preset.condition is None else {"label": torch.tensor([0, 1])}
    sets = CoordValueSet(model.domain.queries(), values, torch.tensor([3, 4]), condition)
    loss = model.method(sets)
    # The network answers 0 at first, so that the loss is the velocity's mean square: that of noise and of the data.
    torch.testing.assert_close(loss.mean(), torch.tensor(4 / 3), rtol=0.35, atol=0)


@pytest.mark.parametrize("name", PAPER)
def test_parameters_are_the_papers(name: str):
    count = preset_table.plan_of(name).total_parameters
    assert abs(count / PAPER[name][0] - 1) < 6e-4, PAPER[name][1]


@pytest.mark.parametrize("name", presets.names())
def test_training_settings_are_the_papers(name: str):
    if name.endswith("-demo"):
        return
    training = presets.load(name).training.config
    assert (training.learning_rate, training.betas, training.epsilon) == (1e-4, (0.9, 0.999), 1e-8)
    assert (training.weight_decay, training.clip, training.ema) == (0.0, 2.0, (0.999,))
    assert (training.schedule, training.warmup) == ("constant", 0)


@pytest.mark.parametrize("name", presets.names())
def test_a_preset_survives_being_written_and_read(name: str):
    preset = presets.load(name)
    again = presets.resolve(name, presets.tomli.loads(presets.to_toml(preset.table())))
    assert again == preset


@pytest.mark.parametrize("name", presets.names())
def test_the_command_that_a_preset_names_for_its_data_writes_where_it_reads(name: str):
    data = presets.load(name).data.config
    words = shlex.split(data.prepare)
    assert words[:2] == ["inrflow", "prepare"]
    assert words[1] in app.COMMANDS
    resolution = f"-{words[words.index('--resolution') + 1]}" if "--resolution" in words else ""
    assert data.path == f"shards/{words[2]}{resolution}"


def test_an_override_changes_one_setting_and_none_unsets():
    preset = presets.load("digits-demo", ["training.batch=7", "method.num_queries=none", "training.ema=[0.9, 0.99]"])
    assert preset.training.config.batch == 7
    assert preset.method.config.num_queries is None
    assert preset.training.config.ema == (0.9, 0.99)


SLIPS = {
    "unknown key": ("network.num_laters=3", "has no setting `num_laters`", "allowed: "),
    "misspelt key": ("network.widht=3", "has no setting `widht`", "did you mean `width`?"),
    "misspelt table": ("netwrok.width=3", "no table [netwrok]", "did you mean `network`?"),
    "misspelt part": ("sampler.name=hein", "no part of `samplers` is called `hein`", "did you mean `heun`?"),
    "misspelt choice": ("network.encoder=spacial", "`encoder` is 'spacial'", "did you mean `spatial`?"),
    "wrong type": ("training.batch=many", "`batch` is 'many'", "give a whole number"),
    "number for a truth": ("network.rope=1", "`rope` is 1", "give true or false"),
    "impossible value": ("network.heads=7", "`heads` is 7", "mend the preset"),
    "no override": ("batch", "`batch` is not an override", "--set table.key=value"),
    "missing": ("training.steps=none", "needs the setting `steps`", "add `steps`, a whole number"),
}


@pytest.mark.parametrize(("text", "message", "hint"), SLIPS.values(), ids=SLIPS)
def test_a_slip_in_a_setting_says_what_and_where(text: str, message: str, hint: str):
    with pytest.raises(UsageError) as caught:
        presets.load("digits-demo", [text])
    assert message in caught.value.message
    assert hint in (caught.value.hint or "")


def test_a_name_that_exists_nowhere_gets_the_nearest():
    with pytest.raises(UsageError, match="no preset is called `digit-demo`") as caught:
        presets.load("digit-demo")
    assert caught.value.hint == "did you mean `digits-demo`?"


def test_a_file_that_is_absent_or_no_toml_is_an_error(tmp_path: Path):
    with pytest.raises(MissingError, match=r"mine\.toml` does not exist"):
        presets.load(str(tmp_path / "mine.toml"))
    (tmp_path / "mine.toml").write_text("[data\n")
    with pytest.raises(UsageError, match="is not valid TOML"):
        presets.load(str(tmp_path / "mine.toml"))


@pytest.mark.slow
def test_the_table_in_the_docs_is_that_of_the_presets(checkout: Path):
    text = (checkout / "docs" / "presets.md").read_text(encoding="utf-8")
    assert preset_table.page(text) == text, "run `python tools/preset_table.py`"
