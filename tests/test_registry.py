"""The registry: a part is a file, and its name is the file's."""

from __future__ import annotations

import subprocess
import sys

import pytest

from inrflow_core import registry
from inrflow_core.errors import UsageError


def test_a_part_has_the_name_of_its_file_with_hyphens_or_underscores():
    assert registry.find("samplers", "euler-maruyama") is registry.find("samplers", "euler_maruyama")
    assert "euler-maruyama" in registry.names("samplers")


def test_files_that_begin_with_an_underscore_are_no_parts():
    assert not [name for name in registry.names("networks") if name.startswith(("_", "-"))]


def test_a_misspelt_part_gets_the_nearest_name():
    with pytest.raises(UsageError, match="no sampler is called `hein`") as caught:
        registry.find("samplers", "hein")
    assert caught.value.hint == "did you mean `heun`?"


@pytest.mark.parametrize("name", ["../errors", "", "__init__", "samplers.heun", "heun.py"])
def test_a_name_never_leaves_the_folder_of_its_kind(name: str):
    with pytest.raises(UsageError, match="no sampler is called"):
        registry.find("samplers", name)


def test_names_are_known_without_importing_any_part():
    code = (
        "import sys; from inrflow_core import registry; registry.names('samplers'); registry.names('datasets');"
        "sys.exit(any(name.startswith('inrflow_core.samplers') or name == 'torch' for name in sys.modules))"
    )
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 0


RENAMED = [(kind, earlier, present) for kind, table in registry.ALIASES.items() for earlier, present in table.items()]


@pytest.mark.parametrize(("kind", "earlier", "present"), RENAMED)
def test_an_earlier_name_finds_the_part_and_is_not_listed(kind: str, earlier: str, present: str):
    hyphened = earlier.replace("_", "-")
    assert registry.find(kind, earlier) is registry.find(kind, hyphened) is registry.find(kind, present)
    assert registry.canonical(kind, hyphened) == present.replace("_", "-")
    assert registry.path(kind, earlier).stem == present
    assert present.replace("_", "-") in registry.names(kind) and hyphened not in registry.names(kind)
