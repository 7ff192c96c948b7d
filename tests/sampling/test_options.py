"""Sampling options: the preset's sampler and the method's own settings, each changed by name or refused by name."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import pytest

from inrflow_core.errors import UsageError
from inrflow_core.methods import flow
from inrflow_core.models import Model
from inrflow_core.sampling import invert
from inrflow_core.sampling.options import sampling_options
from tests import tiny


@dataclass(frozen=True)
class Steps:
    """Options of a method that samples in a fixed number of steps, without sampler and guidance."""

    count: int
    precision: str
    guide: Any = None

    @property
    def num_evaluations(self) -> int:
        return self.count

    def provenance(self, guide_digest: str | None = None) -> dict[str, str]:
        return {"steps": str(self.count)}


@dataclass(frozen=True)
class StepsConfig:
    count: int = 2


def steps_options(
    model: Model, overrides: dict[str, Any], *, sampler: None, guide: Model | None, precision: str
) -> Steps:
    assert sampler is None and guide is None
    return Steps(StepsConfig(**overrides).count, precision)


@pytest.fixture
def without_sampler(monkeypatch: pytest.MonkeyPatch) -> Model:
    for name, value in {
        "USES_SAMPLER": False,
        "SamplingConfig": StepsConfig,
        "sampling_options": steps_options,
    }.items():
        monkeypatch.setattr(flow, name, value)
    return tiny.model(tiny.IMAGE, sampler=None)


def test_the_options_of_a_preset_are_its_own_unless_they_are_changed():
    model = tiny.model(tiny.IMAGE, method={"guidance": 2.5, "noise": "cubic"})
    assert sampling_options(model).provenance() == {
        "sampler": "euler spacing=equal steps=4",
        "guidance": "2.5",
        "noise": "cubic",
        "precision": "fp32",
    }
    changed = sampling_options(
        model, sampler="heun", steps=7, guidance=1.5, guidance_interval=(0.1, 0.9), precision="bf16"
    )
    assert changed.num_evaluations == 14
    assert changed.provenance("abc") == {
        "sampler": "heun spacing=equal steps=7",
        "guidance": "1.5",
        "noise": "cubic",
        "precision": "bf16",
        "guide": "abc",
        "guidance_interval": "0.1,0.9",
    }


HINTS = {
    "setting of the sampler": ({"spacing": "log"}, "setting of the sampler `euler`: `sampler_settings={\"spacing\": ...}`"),
    "setting of another sampler": ({"temperature": 0.1}, "setting of `euler-maruyama`, and the sampler is `euler`"),
    "slip of the method": ({"guidence": 2.0}, "did you mean `guidance`?"),
    "slip of the sampler": ({"spacin": "log"}, "did you mean `spacing`?"),
    "neither": ({"zzz": 1}, "allowed: `guidance`, `guidance_interval`, `noise`; settings of the sampler `euler`: `steps`, "),
}  # fmt: skip


@pytest.mark.parametrize(("options", "hint"), HINTS.values(), ids=HINTS)
def test_the_hint_names_what_the_sampler_and_the_method_have(options: dict[str, Any], hint: str):
    with pytest.raises(UsageError) as caught:
        sampling_options(tiny.model(tiny.IMAGE), **options)
    assert hint in (caught.value.hint or "")


SLIPS = {
    "unknown option": ({"temperature_scale": 1.0}, "the method `flow` of `tiny` has no sampling option `temperature_scale`"),
    "out of range": ({"guidance": -1.0}, "`guidance` is -1.0: 0 or more"),
    "interval": ({"guidance_interval": (0.9, 0.1)}, "`guidance_interval` is [0.9, 0.1]: two times"),
    "no steps": ({"sampler": "dopri5", "steps": 3}, "the sampler `dopri5` chooses its own steps"),
    "no sampler": ({"sampler": "hein"}, "no sampler is called `hein`"),
    "no precision": ({"precision": "fp64"}, "`fp64`"),
    "setting of the sampler": ({"sampler_settings": {"stepz": 3}}, "[sampler] has no setting `stepz`"),
}  # fmt: skip


@pytest.mark.parametrize(("options", "message"), SLIPS.values(), ids=SLIPS)
def test_an_option_that_cannot_act_is_named(options: dict[str, Any], message: str):
    with pytest.raises(UsageError) as caught:
        sampling_options(tiny.model(tiny.IMAGE), **options)
    assert message in caught.value.message


def test_a_method_without_sampler_has_its_own_options_alone(without_sampler: Model):
    assert sampling_options(without_sampler, count=5, precision="bf16").provenance() == {"steps": "5"}
    with pytest.raises(UsageError, match="has no sampling option `guidance`") as caught:
        sampling_options(without_sampler, guidance=2.0)
    assert "allowed: `count`" in (caught.value.hint or "")
    for option, value in {"sampler": "heun", "steps": 3}.items():
        with pytest.raises(UsageError, match=f"`--{option}`: the method `flow` of `tiny` samples without a sampler"):
            sampling_options(without_sampler, **{option: value})


def test_inversion_takes_the_options_that_the_method_has(without_sampler: Model):
    assert invert.inversion_options(without_sampler).provenance() == {"steps": "2"}
    with pytest.raises(UsageError, match="`--steps`: the method `flow` of `tiny` samples without a sampler"):
        invert.inversion_options(without_sampler, steps=5)
    with pytest.raises(UsageError, match="has no sampling option `noise`"):
        invert.inversion_options(without_sampler, noise="cubic")


def test_inversion_with_a_sampler_is_heun_without_guidance():
    model = tiny.model(tiny.IMAGE, method={"guidance": 2.5})
    assert invert.inversion_options(model, noise="cubic").provenance() == {
        "sampler": "heun spacing=equal steps=50",
        "guidance": "1",
        "noise": "cubic",
        "precision": "fp32",
    }


def test_guidance_between_times_at_which_the_solver_has_no_step_is_refused_or_left_out():
    model = tiny.model(tiny.IMAGE)
    for sampler in ("euler", "heun", "midpoint", "euler-maruyama"):
        steps: dict[str, Any] = {"sampler": sampler, "steps": 4, "guidance": 2.0}
        with pytest.raises(UsageError, match=f"between the times 0.6 and 0.61 never acts: `{sampler}` has no step"):
            sampling_options(model, **steps, guidance_interval=(0.6, 0.61))
        assert (
            sampling_options(model, **steps, guidance_interval=(0.6, 0.8)).provenance()["guidance"] == "2"
        )  # 0.75, or 0.625
    adaptive = sampling_options(model, sampler="dopri5", guidance=2.0, guidance_interval=(0.6, 0.61))
    assert adaptive.provenance()["guidance"] == "2"
    preset = tiny.model(tiny.IMAGE, method={"guidance": 2.0, "guidance_interval": (0.1, 0.9)})
    assert "guidance_interval" in sampling_options(preset, steps=2).provenance()
    recorded = sampling_options(preset, steps=1).provenance()
    assert recorded["guidance"] == "1" and "guidance_interval" not in recorded
