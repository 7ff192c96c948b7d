"""Parts of other packages: found by entry points, imported when used, named where they are broken or clash."""

from __future__ import annotations

import importlib
import os
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest

from inrflow_cli.app import run
from inrflow_core import registry
from inrflow_core.errors import UsageError
from tests import adding_a_method
from tests.test_docs import python_of

RK4 = "docs/adding-a-sampler.md"


def install(folder: Path, package: str, group: str, parts: dict[str, str]) -> Path:
    """A distribution in a folder, as pip leaves it: a module for each part, and the metadata."""
    module = package.replace("-", "_")
    (folder / module).mkdir(parents=True)
    (folder / module / "__init__.py").touch()
    for name, text in parts.items():
        (folder / module / f"{name.replace('-', '_')}.py").write_text(text)
    info = folder / f"{module}-1.5.dist-info"
    info.mkdir()
    (info / "METADATA").write_text(f"Metadata-Version: 2.1\nName: {package}\nVersion: 1.5\n")
    lines = [f"{name} = {module}.{name.replace('-', '_')}" for name in parts]
    (info / "entry_points.txt").write_text("\n".join([f"[inrflow.{group}]", *lines, ""]))
    return folder


@pytest.fixture
def path(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Path]:
    """A folder on the import path; what is imported from it is forgotten."""
    folder = tmp_path / "site-packages"
    before = set(sys.modules)
    monkeypatch.syspath_prepend(str(folder))
    yield folder
    for name in set(sys.modules) - before:
        if name.startswith("my_"):
            del sys.modules[name]
    registry._entry_points.cache_clear()


def test_a_sampler_of_another_package_is_used_by_its_name(
    path: Path, tmp_path: Path, checkout: Path, monkeypatch: pytest.MonkeyPatch
):
    (text,) = python_of(checkout / RK4)
    install(path, "my-samplers", "samplers", {"rk4-of-mine": text})
    assert "rk4-of-mine" in registry.names("samplers") and "my_samplers" not in sys.modules
    assert registry.find("samplers", "rk4_of_mine").ORDER == 4
    assert registry.path("samplers", "rk4-of-mine") == path / "my_samplers" / "rk4_of_mine.py"
    monkeypatch.chdir(tmp_path)
    for sampler, steps in (("rk4-of-mine", "10"), ("heun", "60")):
        words = ["--model", "solids", "--label", "torus", "--sampler", sampler, "--steps", steps]
        assert run(["sample", *words, f"{sampler}.npz"]) == 0
    mine, other = (np.load(tmp_path / f"{name}.npz")["points"] for name in ("rk4-of-mine", "heun"))
    assert np.abs(mine - other).mean() < 0.02  # two solvers of one equation


def test_a_broken_part_names_its_package_and_the_others_work(path: Path, capsys: pytest.CaptureFixture[str]):
    install(path, "my-metrics", "metrics", {"breaks": "import a_module_that_is_nowhere\n", "one": "1 / 0\n"})
    for name, problem in (("breaks", "ModuleNotFoundError: No module named 'a_module_"), ("one", "ZeroDivisionError")):
        with pytest.raises(UsageError, match=f"the part `{name}` of `metrics`.*{problem}") as caught:
            registry.find("metrics", name)
        assert f"of the package `my-metrics` 1.5 (`my_metrics.{name}`)" in caught.value.message
    with pytest.warns(registry.BrokenPartWarning, match="`my-metrics` 1.5.*it is left out"):
        found = registry.parts("metrics")
    assert "fid" in found and not {"breaks", "one"} & set(found) and {"breaks", "one"} < set(registry.names("metrics"))
    with pytest.warns(registry.BrokenPartWarning):
        assert run(["eval", "--list", "--json"]) == 0
    assert '"fid"' in capsys.readouterr().out


def test_an_entry_point_without_a_module_is_said(path: Path):
    install(path, "my-samplers", "samplers", {"gone": ""})
    (path / "my_samplers" / "gone.py").unlink()
    with pytest.raises(UsageError, match="`my-samplers` 1.5 .*cannot be used: there is no such module"):
        registry.path("samplers", "gone")


def test_a_package_that_fails_around_its_module_is_said(path: Path):
    install(path, "my-samplers", "samplers", {"leapfrog": "ORDER = 2"})
    (path / "my_samplers" / "__init__.py").write_text("1 / 0\n")
    with pytest.raises(UsageError, match="`my-samplers` 1.5 .*cannot be used: ZeroDivisionError"):
        registry.path("samplers", "leapfrog")


def test_an_entry_point_names_a_module_and_nothing_in_it(path: Path):
    install(path, "my-samplers", "samplers", {"leapfrog": "ORDER = 2"})
    file = path / "my_samplers-1.5.dist-info" / "entry_points.txt"
    for value in ("my_samplers.leapfrog:ORDER", "my samplers", "my_samplers.leapfrog [extra]"):
        file.write_text(f"[inrflow.samplers]\nleapfrog = {value}\n")
        registry._entry_points.cache_clear()
        with pytest.raises(UsageError, match="`my-samplers` 1.5 .*an entry point here names a module"):
            registry.find("samplers", "leapfrog")


LACKING = {
    "feature_networks": ("DOMAIN = 'image'", "`KIND`", ["weights", "list"], '"inception"'),
    "datasets": ("DESCRIPTION = 'a -> b'", "`DOMAIN`", ["prepare", "--list"], '"digits"'),
    "metrics": ("TITLE = 'mine'\nDOMAIN = 'image'", "`PROTOCOLS`, `HIGHER_IS_BETTER`", ["eval", "--list"], '"fid"'),
}


@pytest.mark.parametrize("kind", LACKING)
def test_lists_name_the_package_of_a_part_that_lacks_a_member_and_go_on(
    kind: str, path: Path, capsys: pytest.CaptureFixture[str]
):
    text, member, words, other = LACKING[kind]
    install(path, "my-parts", kind, {"lacks": text})
    commands = [words, ["doctor", "--no-test"]] if kind == "feature_networks" else [words]
    for command in commands:
        with pytest.warns(registry.BrokenPartWarning, match=f"the package `my-parts` 1.5 .*it lacks {member}"):
            assert run([*command, "--json"]) == 0
        out = capsys.readouterr().out
        assert other in out and '"lacks"' not in out


NETWORKS = {
    "extractor": "it lacks `OUTPUTS`, `PREPROCESSING`, `WEIGHTS`",
    "embedder": "it lacks `IS_PLACEHOLDER`",
    "distance": "it lacks `WEIGHTS`",
    "nowhere": "its `KIND` is 'nowhere', not one of distance, embedder, extractor",
}


@pytest.mark.parametrize(("kind", "problem"), NETWORKS.items(), ids=NETWORKS)
def test_a_feature_network_has_the_members_of_its_kind(kind: str, problem: str, path: Path):
    install(path, "my-parts", "feature_networks", {"one": f"KIND = '{kind}'; DOMAIN = 'image'"})
    with pytest.raises(UsageError, match=f"`my-parts` 1.5 .*{problem}"):
        registry.find("feature_networks", "one")


@pytest.mark.parametrize("kind", registry.REQUIRED)
def test_every_part_of_ours_has_the_members_that_another_package_needs(kind: str):
    for name, part in registry.parts(kind).items():
        more = registry.REQUIRED_OF_NETWORKS[part.KIND] if kind == "feature_networks" else ()
        assert all(hasattr(part, member) for member in registry.REQUIRED[kind] + more), name


def test_a_part_has_the_name_of_its_module(path: Path):
    install(path, "my-samplers", "samplers", {"leapfrog": ""})
    file = path / "my_samplers-1.5.dist-info" / "entry_points.txt"
    file.write_text("[inrflow.samplers]\nother = my_samplers.leapfrog\n")
    with pytest.raises(UsageError, match="its module is called `leapfrog`, not `other`"):
        registry.find("samplers", "other")


def test_a_name_of_two_parts_is_an_error_that_says_both(path: Path):
    install(path, "my-samplers", "samplers", {"heun": "", "alone": "ORDER = 1", "both": ""})
    install(path, "my-others", "samplers", {"both": ""})
    with pytest.raises(UsageError, match="are called `heun`: of inrflow itself and of the package `my-samplers` 1.5"):
        registry.find("samplers", "heun")
    with pytest.raises(
        UsageError, match="`my-samplers` 1.5 .*and of the package `my-others` 1.5|`my-others` 1.5 .*and of"
    ):
        registry.path("samplers", "both")
    assert registry.find("samplers", "alone").ORDER == 1 and registry.find("samplers", "euler").ORDER == 1
    assert registry.names("samplers").count("heun") == 1


def test_an_earlier_name_of_a_part_of_ours_is_not_free(path: Path):
    install(path, "my-data", "datasets", {"images": ""})
    with pytest.raises(UsageError, match="inrflow itself and of the package `my-data` 1.5"):
        registry.find("datasets", "images")


def test_a_misspelt_name_gets_that_of_another_package(path: Path):
    install(path, "my-samplers", "samplers", {"leapfrog": ""})
    with pytest.raises(UsageError, match="no sampler is called `leapfrgo`") as caught:
        registry.find("samplers", "leapfrgo")
    assert caught.value.hint == "did you mean `leapfrog`?"


def test_help_and_completion_import_nothing_of_other_packages(path: Path):
    install(path, "my-formats", "formats", {"xyz": "raise SystemExit('imported')\n"})
    install(path, "my-samplers", "samplers", {"leapfrog": "raise SystemExit('imported')\n"})
    environment = os.environ | {"PYTHONPATH": os.pathsep.join([str(path), *sys.path])}

    def program(*words: str, **more: str) -> subprocess.CompletedProcess[str]:
        command = [sys.executable, "-m", "inrflow_cli", *words]
        return subprocess.run(command, capture_output=True, text=True, env=environment | more, check=False)

    shown = program("sample", "--help", COLUMNS="200")
    assert (shown.returncode, shown.stderr) == (0, "") and ".xyz" in shown.stdout
    line = "inrflow sample --sampler leap"
    words = {"_INRFLOW_COMPLETE": "complete_bash", "COMP_WORDS": line, "COMP_CWORD": "3"}
    assert program(**words).stdout.split() == ["leapfrog"]
    install(path, "my-metrics", "metrics", {"breaks": "import a_module_that_is_nowhere\n"})
    listed = program("eval", "--list")
    assert listed.returncode == 0 and "fid" in listed.stdout
    notes = [line for line in listed.stderr.splitlines() if "loading torch" not in line]  # said on a busy machine
    assert len(notes) == 1 and notes[0].startswith("note: the part `breaks` of `metrics`")


def test_the_example_of_the_docs_is_an_entry_point_that_is_read(checkout: Path):
    tomllib = importlib.import_module("tomli")
    text = (checkout / "docs" / "parts-in-packages.md").read_text(encoding="utf-8")
    groups = tomllib.loads(text.partition("```toml\n")[2].partition("```")[0])["project"]["entry-points"]
    kinds = {group.removeprefix(registry.GROUP) for group in groups}
    assert kinds == {"samplers"} and all((registry.HERE / kind).is_dir() for kind in kinds)


@pytest.mark.slow
def test_a_method_of_another_package_is_trained_and_sampled(
    path: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
):
    """The method of docs/adding-a-method.md."""
    sources = adding_a_method.files()
    install(path, "my-methods", "methods", {"denoise": sources[adding_a_method.METHOD]})
    monkeypatch.chdir(tmp_path)
    (tmp_path / "denoise.toml").write_text(sources["presets/denoise-digits.toml"])
    assert run(["prepare", "digits", "--limit", "64"]) == 0
    small = ["training.steps=2", "training.distill.steps=2", "training.batch=8", "network.width=32"]
    words = [word for setting in small for word in ("--set", setting)]
    assert run(["train", "--preset", "denoise.toml", "--out", "runs/denoise", *words]) == 0
    assert run(["sample", "--run", "runs/denoise", "--num", "2", "two.npz"]) == 0
    assert np.load(tmp_path / "two.npz")["images"].shape == (2, 8, 8, 1)
