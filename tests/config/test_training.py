"""The settings of [training]."""

from __future__ import annotations

import pytest
import tomli

from inrflow_cli import app
from inrflow_core.config import toml
from inrflow_core.config.preset import load, resolve
from inrflow_core.config.training import Config
from inrflow_core.errors import UsageError


def test_the_rate_rises_in_a_straight_line_and_stays():
    config = Config(steps=10, batch=1, learning_rate=2.0, warmup=4)
    assert [config.rate(step) for step in range(6)] == [0.5, 1.0, 1.5, 2.0, 2.0, 2.0]


def test_a_cosine_falls_from_the_rate_to_its_final_share_and_is_half_way_in_the_middle():
    config = Config(steps=12, batch=1, learning_rate=1.0, warmup=2, schedule="cosine", final_rate=0.2)
    assert config.rate(2) == pytest.approx(1.0)
    assert config.rate(7) == pytest.approx(0.6)
    assert config.rate(12) == pytest.approx(0.2)
    assert config.rate(100) == pytest.approx(0.2)


@pytest.mark.parametrize(
    ("setting", "value", "says"),
    [
        ("batch", 0, "`batch` is 0: it must be at least 1"),
        ("learning_rate", -1.0, "`learning_rate` is -1.0: it must be above 0"),
        ("learning_rate", float("nan"), "`learning_rate` is nan"),
        ("clip", 0.0, "`clip` is 0.0"),
        ("betas", (0.9,), "two numbers in"),
        ("ema", (0.9, 0.9), "different decays"),
        ("zero_stage", 4, "0, 1, 2 or 3"),
        ("precision", "fp16", "needs loss scaling"),
        ("keep", 0, "`keep` is 0"),
        ("weight_decay", float("nan"), "`weight_decay` is nan"),
    ],
)
def test_an_impossible_value_is_named_with_what_is_allowed(setting, value, says):
    with pytest.raises(ValueError, match=says):
        Config(**{"steps": 10, "batch": 4, setting: value})


@pytest.mark.parametrize(
    ("settings", "says"),
    [
        ({"offload_optimizer": "cpu", "zero_stage": 0}, "`zero_stage` is 0: only stages 1, 2 and 3"),
        ({"offload_weights": "cpu", "zero_stage": 2}, "`zero_stage` is 2: only stage 3"),
        (
            {"optimizer": "adam", "matrix_rate": 2.0},
            "`matrix_rate` is 2.0 and `optimizer` is adam: only muon has a rate",
        ),
        ({"optimizer": "muon", "zero_stage": 3}, "`optimizer` is muon and `zero_stage` is 3: only stages 0, 1 and 2"),
        ({"optimizer": "muon", "offload_optimizer": "cpu"}, "`offload_optimizer` is cpu: only adamw, adam and radam"),
    ],
)
def test_what_a_stage_cannot_offload_or_an_optimizer_cannot_train_is_refused(settings, says):
    with pytest.raises(ValueError, match=says):
        Config(steps=10, batch=4, **settings)


def test_the_command_refuses_what_a_stage_cannot_offload_with_2(capsys):
    settings = ["--set", "training.zero_stage=0", "--set", "training.offload_optimizer=cpu"]
    assert app.run(["train", "--preset", "digits-demo", *settings]) == 2
    assert "error: [training] `offload_optimizer` is cpu and `zero_stage` is 0" in capsys.readouterr().err


def test_none_turns_averages_off_and_restores_other_defaults():
    off = load("digits-demo", ["training.ema=none"])
    assert off.training.config.ema == ()
    assert resolve("again", tomli.loads(toml.to_toml(off.table()))).training.config.ema == ()
    assert load("digits-demo", ["training.betas=none", "training.keep=none"]).training.config.betas == (0.9, 0.999)
    with pytest.raises(UsageError) as caught:
        load("digits-demo", ["training.clip=off"])
    assert caught.value.hint == "give a number or `none`"
