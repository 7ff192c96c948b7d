"""`--set method.KEY=VALUE` of sample, upsample and eval: the sampling settings of `flow`, and of a method with others."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from types import ModuleType
from typing import Any

import numpy as np
import pytest
from PIL import Image

from inrflow_cli import console
from inrflow_cli.app import run
from inrflow_core import registry
from inrflow_core.config.typed import settings
from inrflow_core.methods import flow
from inrflow_core.models import Model
from inrflow_core.samplers import euler
from tests import tiny


@dataclass(frozen=True)
class JumpConfig:
    """Settings of sampling of the test's method."""

    jumps: int = 2
    """Solver steps."""

    def __post_init__(self) -> None:
        if self.jumps < 1:
            raise ValueError(f"`jumps` is {self.jumps}: 1 or more")


@dataclass(frozen=True)
class JumpOptions:
    """How the test's method samples: in a number of steps, without sampler and guidance."""

    jumps: int
    precision: str
    guide: Any = None

    @property
    def num_evaluations(self) -> int:
        return self.jumps

    def provenance(self, guide_digest: str | None = None) -> dict[str, str]:
        return {"jumps": str(self.jumps)}


class Jumping(flow.FlowMatching):
    """Flow matching that always samples by Euler's method."""

    def sample(self, context, seeds, condition, options):
        steps = flow.SamplingOptions(euler, euler.Config(steps=options.jumps))
        return super().sample(context, seeds, condition, steps)


def jump_options(
    model: Model, overrides: Mapping[str, Any], *, sampler: None, guide: Model | None, precision: str
) -> JumpOptions:
    assert sampler is None and guide is None
    return JumpOptions(settings(JumpConfig, dict(overrides), "method").jumps, precision)


def build(preset, shape):
    made = flow.build(preset, shape)
    return Jumping(made.config, made.network, made.conditioner, shape)


METHOD = ModuleType("inrflow_core.methods.jumps")
vars(METHOD).update(
    STAGES=flow.STAGES,
    NETWORKS=("network",),
    USES_SAMPLER=False,
    Config=flow.Config,
    SamplingConfig=JumpConfig,
    sampling_options=jump_options,
    build=build,
)


@pytest.fixture(scope="module")
def runs(tmp_path_factory):
    find, path = registry.find, registry.path

    def is_jumps(kind: str, name: str) -> bool:
        return (kind, name) == ("methods", "jumps")

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(registry, "find", lambda kind, name: METHOD if is_jumps(kind, name) else find(kind, name))
        patch.setattr(registry, "path", lambda kind, name: path(kind, "flow" if is_jumps(kind, name) else name))
        parent = tmp_path_factory.mktemp("runs")
        tiny.run_folder(parent / "flow", tiny.IMAGE)
        tiny.run_folder(parent / "jumps", tiny.IMAGE, method={"name": "jumps"}, sampler=None)
        yield parent


@pytest.fixture(autouse=True)
def _working_folder(runs, tmp_path, monkeypatch):
    for name in ("flow", "jumps"):
        (tmp_path / name).symlink_to(runs / name)
    monkeypatch.chdir(tmp_path)
    console.stderr.cache_clear()
    yield
    console.stderr.cache_clear()


def sampled(name: str, *words: str) -> tuple[np.ndarray, dict[str, Any]]:
    """The values of an image that a command writes, and its provenance."""
    assert run([*words, name]) == 0
    with Image.open(name) as image:
        return np.asarray(image), {str(key): value for key, value in image.info.items()}


@pytest.mark.parametrize("command", ["sample", "upsample"])
def test_a_setting_of_flow_samples_as_its_own_option_does(command: str):
    common = (command, "--run", "flow", "--label", "dog", "--resolution", "9")
    by_option = sampled("a.png", *common, "--guidance", "3", "--noise", "cubic")
    by_setting = sampled("b.png", *common, "--set", "method.guidance=3", "--set", "method.noise=cubic")
    np.testing.assert_array_equal(by_setting[0], by_option[0])
    assert by_setting[1] == by_option[1]
    assert (by_setting[1]["guidance"], by_setting[1]["noise"]) == ("3", "cubic")
    interval = ("--guidance", "3", "--set", "method.guidance_interval=[0.1, 0.9]")
    _, info = sampled("c.png", "sample", "--run", "flow", *interval)
    assert info["guidance_interval"] == "0.1,0.9"


def test_a_method_has_settings_of_its_own():
    few, info = sampled("few.png", "sample", "--run", "jumps")
    assert info["jumps"] == "2" and "sampler" not in info
    many, info = sampled("many.png", "sample", "--run", "jumps", "--set", "method.jumps=5")
    assert info["jumps"] == "5"
    assert (few != many).any()
    again, info = sampled("again.png", "upsample", "--run", "jumps", "--set", "method.jumps=5")
    np.testing.assert_array_equal(again, many)
    assert info["jumps"] == "5"


def test_settings_reach_the_worker_processes_and_the_header_of_a_shard(tmp_path):
    words = ["sample", "--run", "jumps", "--num", "2", "--set", "method.jumps=5"]
    assert run([*words, "a.h5"]) == 0
    assert run([*words, "a.npz"]) == 0
    assert json.loads(str(np.load(tmp_path / "a.npz")["origin"]))["jumps"] == "5"
    assert run(["export", "a.h5", "a.npz", "--overwrite"]) == 0
    assert json.loads(str(np.load(tmp_path / "a.npz")["origin"]))["jumps"] == "5"


@pytest.mark.parametrize(("run_name", "setting"), [("flow", "noise=cubic"), ("jumps", "jumps=3")])
def test_an_evaluation_records_the_settings_and_reuses_no_samples_of_others(
    run_name: str, setting: str, tmp_path: Path
):
    rng = np.random.default_rng(0)
    np.save(tmp_path / "reference.npy", rng.integers(0, 256, (4, 8, 8, 1), dtype=np.uint8))
    words = ["eval", "--run", run_name, "--reference", "reference.npy", "--metrics", "fid:random", "--num", "4"]
    words += ["--resolution", "8"]
    assert run([*words, "--set", f"method.{setting}", "--dry-run", "--out", "out"]) == 0
    assert run([*words, "--set", f"method.{setting}", "--out", "out"]) == 0
    metrics = json.loads((tmp_path / "out" / "metrics.json").read_text())
    key, _, value = setting.partition("=")
    assert metrics["results"][0]["facts"][key] == value
    assert run([*words, "--out", "out"]) == 2  # the folder holds samples of other options


@pytest.mark.parametrize(
    ("run_name", "words", "message", "hint"),
    [
        ("flow", "method.guidanse=2", "the method `flow` of `tiny` has no sampling option `guidanse`", "`guidance`"),
        ("flow", "method.path=linear", "the method `flow` of `tiny` has no sampling option `path`", "allowed: "),
        ("flow", "method.steps=3", "the method `flow` of `tiny` has no sampling option `steps`", "--set sampler.steps"),
        ("flow", "method.noise=cubik", "[method] `noise` is 'cubik'", "`cubic`"),
        ("flow", "method.guidance=-1", "`guidance` is -1.0: 0 or more", ""),
        ("jumps", "method.jump=3", "the method `jumps` of `tiny` has no sampling option `jump`", "`jumps`"),
        ("jumps", "method.jumps=0", "`jumps` is 0: 1 or more", ""),
        ("jumps", "method.guidance=2", "the method `jumps` of `tiny` has no sampling option `guidance`", "`jumps`"),
    ],
)
@pytest.mark.parametrize("command", ["sample", "upsample"])
def test_a_setting_that_the_method_lacks_or_cannot_have_is_named(command, run_name, words, message, hint, capsys):
    assert run([command, "--run", run_name, "--set", words, "out.png"]) == 2
    error = capsys.readouterr().err
    assert message in error and hint in error.partition("hint:")[2]


def test_two_values_of_one_setting_are_refused(capsys):
    words = ["--run", "flow", "--set", "method.guidance=2", "--guidance", "3"]
    assert run(["sample", *words, "out.png"]) == run(["upsample", *words, "out.png"]) == 2
    assert run(["eval", *words, "--out", "out"]) == 2
    assert capsys.readouterr().err.count("`--guidance` and `--set method.guidance` exclude each other") == 3
